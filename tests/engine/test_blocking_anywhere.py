"""A `def` step may be called wherever code of a run executes: in callbacks, in tasks of any class, eager ones too.

Every case is executed undisturbed, with a crash after every stretch of time, and with the run out of memory whenever it
waits. Its steps are executed once, and what comes out is what asyncio gives where the step is the plain function.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stepwell import RunCancelled, step, sync, workflow
from stepwell.testing import TestEngine

executed: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step(name="note")
def note(text: str) -> str:
    executed.append(text)
    return f"<{text}>"


@step(name="refuse")
def refuse(text: str) -> str:
    executed.append(text)
    raise LookupError(text)


def noting(out: list[str], *texts: str) -> Callable[..., None]:
    return lambda *_: out.extend([note(text) for text in texts])


async def in_a_done_callback() -> Any:
    out: list[str] = []
    task = asyncio.create_task(asyncio.sleep(1, "x"))
    task.add_done_callback(lambda ended: out.append(note(ended.result())))
    await task
    await asyncio.sleep(1)
    return out


async def in_callbacks_of_the_loop() -> Any:
    loop, out = asyncio.get_running_loop(), list[str]()
    loop.call_soon(noting(out, "soon 1", "soon 2"))
    loop.call_later(0.01, noting(out, "later 1", "later 2"))
    loop.call_at(loop.time() + 0.02, noting(out, "at"))
    await asyncio.sleep(3)
    return out


async def in_a_callback_that_fails() -> Any:
    out: list[str] = []

    def fail() -> None:
        try:
            refuse("refused")
        except LookupError as error:
            out.append(repr(error))

    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(1)
    return out


async def in_a_task_of_asyncios_own_class() -> Any:
    async def work(name: str) -> str:
        first = note(f"{name} 1")
        await asyncio.sleep(1)
        return first + note(f"{name} 2")

    return await asyncio.gather(*(asyncio.Task(work(name)) for name in "ab"))


async def in_tasks_of_both_classes() -> Any:
    out: list[str] = []

    async def work(name: str) -> None:
        for number in range(3):
            out.append(note(f"{name}{number}"))
            await asyncio.sleep(1)

    await asyncio.gather(asyncio.Task(work("a")), work("b"))
    return sorted(out)


async def in_a_callback_of_a_task_that_was_blocked() -> Any:
    out: list[str] = []
    itself = asyncio.current_task()

    async def work() -> str:
        return note("task")

    task = asyncio.Task(work())
    task.add_done_callback(lambda ended: out.append(note(ended.result())))
    await asyncio.sleep(1)
    return [*out, asyncio.current_task() is itself]


async def eager() -> Any:
    async def inner() -> str:
        return note("inner 1") + note("inner 2")

    async def work() -> str:
        found = await eagerly(inner())
        return note("work") + found

    found = note("before") + await eagerly(work())
    await asyncio.sleep(1)
    return found + note("after") + str(asyncio.current_task() in asyncio.all_tasks())


async def eager_by_the_factory() -> Any:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    order: list[str] = []

    async def work(name: str) -> str:
        order.append(note(name))
        await asyncio.sleep(1)
        return note(f"{name} again")

    async with asyncio.TaskGroup() as group:
        tasks = []
        for name in "ab":
            tasks.append(group.create_task(work(name)))
            order.append(f"made {name}")
    return [order, [task.result() for task in tasks]]


async def eager_that_fails() -> Any:
    async def work() -> str:
        return refuse("refused")

    try:
        await eagerly(work())
    except LookupError as error:
        return [repr(error), note("after")]
    return "nothing raised"


def eagerly(coroutine: Coroutine[Any, Any, str]) -> asyncio.Task[str]:
    factory: Any = asyncio.eager_task_factory  # type: ignore[attr-defined, unused-ignore]
    task: asyncio.Task[str] = factory(asyncio.get_running_loop(), coroutine)
    return task


CASES = [
    in_a_done_callback,
    in_callbacks_of_the_loop,
    in_a_callback_that_fails,
    in_a_task_of_asyncios_own_class,
    in_tasks_of_both_classes,
    in_a_callback_of_a_task_that_was_blocked,
    *([eager, eager_by_the_factory, eager_that_fails] if sys.version_info >= (3, 12) else []),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_step_is_just_called_whatever_calls_it(
    engine: TestEngine, case: Callable[[], Coroutine[Any, Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = workflow(name=case.__name__)(case)
    undisturbed = engine.start(flow, id="undisturbed")
    engine.advance(10)
    found = undisturbed.result(60)
    calls = executed.copy()

    executed.clear()
    crashed = engine.start(flow, id="crashed")
    for _ in range(9):
        engine.advance(0.5)
        engine.crash()
        engine.reopen()
    engine.advance(10)
    assert crashed.result(60) == found
    assert sorted(executed) == sorted(calls)

    executed.clear()
    engine.reopen(max_waiting_in_memory=0)
    parked = engine.start(flow, id="parked")
    engine.advance(10)
    assert parked.result(60) == found
    assert sorted(executed) == sorted(calls)

    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda delay, result=None: sleep(delay / 100, result))
    executed.clear()
    assert asyncio.run(case()) == found
    assert sorted(executed) == sorted(calls)


def test_what_waits_in_a_callback_is_closed_with_its_run(engine: TestEngine) -> None:
    left: list[str] = []

    def wait() -> None:
        try:
            sync.receive("never")
        finally:
            left.append("callback")
            note("left")

    @workflow(name="waits")
    async def waits() -> None:
        asyncio.get_running_loop().call_soon(wait)
        await asyncio.Event().wait()

    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(waits)
    engine.idle()
    assert left == ["callback"]
    assert executed == []
    assert run.journal() == []
    run.cancel("enough")
    with pytest.raises(RunCancelled):
        run.result(timeout=60)
    assert executed == []


def test_a_step_in_an_exception_handler_is_refused_once_with_the_line(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[int] = []

    def handler(_loop: Any, context: dict[str, Any]) -> None:
        note(context["message"])

    @workflow(name="handles")
    async def handles() -> str:
        begun.append(1)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handler)
        loop.call_soon(dict[int, int]().__getitem__, 0)
        await asyncio.sleep(1)
        return note("goes on")

    run = engine.start(handles)
    engine.advance(1)
    assert run.result(timeout=60) == "<goes on>"
    assert executed == ["goes on"]
    assert len(begun) <= 2
    refusals = [record for record in caplog.records if record.exc_info and "cannot wait" in str(record.exc_info[1])]
    assert len(refusals) == 1
    assert f"{__name__.rpartition('.')[2]}.py:" in str(refusals[0].exc_info[1])  # type: ignore[index]
