"""Runs do not share what asyncio keeps in memory: whoever touches what is not his is told so, at the line.

Everywhere the run that touches gets the error, nothing foreign stands in any journal, and nobody waits without saying.
"""

# ruff: noqa: PLW0108 - methods are looked up when they are used, as in the code of workflows

from __future__ import annotations

import asyncio
import re
import threading
from asyncio import events
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from stepwell import RunHalted, WorkflowIOError, receive, step, workflow
from stepwell.replay.loop_thread import LoopThread
from stepwell.testing import TestEngine

#: What the runs of a test pass to each other behind the engine's back.
SHARED: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _forget() -> None:
    SHARED.clear()


@step
async def echo(value: Any) -> Any:
    return value


async def told(touch: Callable[[], Any]) -> str:
    """Touch a foreign object; return the error of it."""
    try:
        found = touch()
        if isinstance(found, Awaitable):
            found = await asyncio.wait_for(found, 3600)
    except WorkflowIOError as error:
        return str(error)
    return f"nothing was said, and {found!r} came of it"


async def enter(manager: Any) -> None:
    async with manager:
        await echo("inside")


LOCK, EVENT, CONDITION, SEMAPHORE = asyncio.Lock(), asyncio.Event(), asyncio.Condition(), asyncio.Semaphore(2)
BOUNDED, BARRIER, QUEUE = asyncio.BoundedSemaphore(2), asyncio.Barrier(2), asyncio.Queue[int]()
PRIORITY, LAST_IN = asyncio.PriorityQueue[int](1), asyncio.LifoQueue[int]()


def module_level() -> list[tuple[str, Callable[[], Any]]]:
    return [
        ("Lock 'LOCK'", lambda: LOCK.acquire()),
        ("Lock 'LOCK'", lambda: LOCK.release()),
        ("Lock 'LOCK'", lambda: LOCK.locked()),
        ("Lock 'LOCK'", lambda: enter(LOCK)),
        ("Event 'EVENT'", lambda: EVENT.wait()),
        ("Event 'EVENT'", lambda: EVENT.set()),
        ("Event 'EVENT'", lambda: EVENT.clear()),
        ("Event 'EVENT'", lambda: EVENT.is_set()),
        ("Condition 'CONDITION'", lambda: enter(CONDITION)),
        ("Condition 'CONDITION'", lambda: CONDITION.notify_all()),
        ("Semaphore 'SEMAPHORE'", lambda: enter(SEMAPHORE)),
        ("Semaphore 'SEMAPHORE'", lambda: SEMAPHORE.release()),
        ("BoundedSemaphore 'BOUNDED'", lambda: BOUNDED.acquire()),
        ("Barrier 'BARRIER'", lambda: BARRIER.wait()),
        ("Barrier 'BARRIER'", lambda: enter(BARRIER)),
        ("Queue 'QUEUE'", lambda: QUEUE.put(1)),
        ("Queue 'QUEUE'", lambda: QUEUE.put_nowait(1)),
        ("Queue 'QUEUE'", lambda: QUEUE.get()),
        ("Queue 'QUEUE'", lambda: QUEUE.get_nowait()),
        ("Queue 'QUEUE'", lambda: QUEUE.qsize()),
        ("Queue 'QUEUE'", lambda: QUEUE.join()),
        ("PriorityQueue 'PRIORITY'", lambda: PRIORITY.put(1)),
        ("LifoQueue 'LAST_IN'", lambda: LAST_IN.empty()),
    ]


@pytest.mark.parametrize("number", range(len(module_level())), ids=lambda n: f"{n}-{module_level()[n][0].split()[0]}")
def test_an_object_that_was_made_outside_of_any_run_is_refused_where_it_is_used(
    engine: TestEngine, number: int
) -> None:
    name, touch = module_level()[number]

    @workflow(name="toucher")
    async def toucher() -> str:
        return await told(touch)

    error = engine.start(toucher, id="r1").result(timeout=60)
    assert re.search(rf"run 'r1'.*{name}.*made outside of the run.*test_isolation.py:\d+ in ", error), error


async def by_local_name(everything: list[Any]) -> None:
    mine = everything[0]
    await mine.acquire()


async def by_attribute(everything: list[Any]) -> None:
    box = SimpleNamespace(other=None, lock=everything[0])
    await box.lock.acquire()


async def without_a_name(everything: list[Any]) -> None:
    await everything[0].acquire()


@pytest.mark.parametrize(
    ("use", "called"),
    [(by_local_name, "Lock 'mine', "), (by_attribute, "Lock 'box.lock', "), (without_a_name, "Lock, ")],
)
def test_an_object_that_is_refused_is_called_as_the_code_calls_it(
    engine: TestEngine, use: Callable[[list[Any]], Any], called: str
) -> None:
    everything = [asyncio.Lock()]

    @workflow(name="namer")
    async def namer() -> str:
        return await told(lambda: use(everything))

    assert called in engine.start(namer).result(timeout=60)


def test_the_state_of_an_object_that_was_refused_is_what_it_was(engine: TestEngine) -> None:
    @workflow(name="toucher")
    async def toucher() -> list[str]:
        return [await told(touch) for _, touch in module_level()]

    engine.start(toucher).result(timeout=60)
    assert not LOCK.locked()
    assert not EVENT.is_set()
    assert QUEUE.empty()
    assert asyncio.run(asyncio.wait_for(LOCK.acquire(), 1))  # and asyncio can still use it
    LOCK.release()


# --- what one run made and another one touches ------------------------------------------------------------------------


async def owns_lock() -> str:
    lock = SHARED["it"] = asyncio.Lock()
    async with lock:
        return await receive("go", str)


async def owns_event() -> str:
    event = SHARED["it"] = asyncio.Event()
    waiter = asyncio.create_task(event.wait())
    found = await receive("go", str)
    waiter.cancel()
    return found


async def owns_queue() -> str:
    queue = SHARED["it"] = asyncio.Queue[int]()
    getter = asyncio.create_task(queue.get())
    found = await receive("go", str)
    getter.cancel()
    return found


async def owns_condition() -> str:
    condition = SHARED["it"] = asyncio.Condition()

    async def wait() -> None:
        async with condition:
            await condition.wait()

    waiter = asyncio.create_task(wait())
    found = await receive("go", str)
    waiter.cancel()
    return found


async def owns_future() -> str:
    SHARED["it"] = asyncio.get_running_loop().create_future()
    waiter = asyncio.create_task(wait_for_it())
    found = await receive("go", str)
    waiter.cancel()
    return found


async def wait_for_it() -> Any:
    return await SHARED["it"]


async def owns_task() -> str:
    SHARED["it"] = asyncio.create_task(asyncio.sleep(3600))
    found = await receive("go", str)
    SHARED["it"].cancel()
    return found


async def owns_loop() -> str:
    SHARED["it"] = asyncio.get_running_loop()
    return await receive("go", str)


def hand_over(loop: asyncio.AbstractEventLoop) -> None:
    coroutine = owns_task()
    try:
        asyncio.run_coroutine_threadsafe(coroutine, loop)
    finally:
        coroutine.close()


Owner = Callable[[], Coroutine[Any, Any, str]]
TOUCHES: list[tuple[Owner, Callable[[Any], Any]]] = [
    (owns_lock, lambda it: it.acquire()),
    (owns_lock, lambda it: it.release()),
    (owns_lock, enter),
    (owns_event, lambda it: it.set()),
    (owns_event, lambda it: it.wait()),
    (owns_queue, lambda it: it.put(1)),
    (owns_queue, lambda it: it.put_nowait(1)),
    (owns_queue, lambda it: it.get()),
    (owns_condition, enter),
    (owns_condition, lambda it: it.notify()),
    (owns_future, lambda it: it.set_result(1)),
    (owns_future, lambda it: it.set_exception(LookupError())),
    (owns_future, lambda it: it.cancel()),
    (owns_future, lambda it: it.add_done_callback(print)),
    (owns_future, lambda it: it),
    (owns_future, lambda it: asyncio.wait([it])),
    (owns_future, lambda it: it.done()),
    (owns_task, lambda it: it.cancel()),
    (owns_task, lambda it: it),
    (owns_task, lambda it: asyncio.gather(it)),
    (owns_task, lambda it: asyncio.shield(it)),
    (owns_task, lambda it: it.add_done_callback(print)),
    (owns_task, lambda it: it.result()),
    (owns_loop, lambda it: it.call_soon(print)),
    (owns_loop, lambda it: it.call_later(1, print)),
    (owns_loop, lambda it: it.call_soon_threadsafe(print)),
    (owns_loop, lambda it: it.create_task(asyncio.sleep(1))),
    (owns_loop, hand_over),
]


@pytest.mark.parametrize("number", range(len(TOUCHES)), ids=lambda n: f"{n}-{TOUCHES[n][0].__name__}")
def test_what_belongs_to_one_run_is_refused_in_another_which_leaves_the_owner_as_it_was(
    engine: TestEngine, number: int
) -> None:
    owner, touch = TOUCHES[number]
    own = workflow(name="owner")(owner)

    @workflow(name="toucher")
    async def toucher() -> str:
        return await told(lambda: touch(SHARED["it"]))

    first = engine.start(own, id="first")
    engine.idle()
    error = engine.start(toucher, id="second").result(timeout=60)
    assert "'second'" in error, error
    assert "belongs to run 'first'" in error
    assert re.search(r"test_isolation.py:\d+ in ", error)
    engine.send("first", "go", "undisturbed")
    assert first.result(timeout=60) == "undisturbed"
    assert {entry.kind for entry in first.journal()} <= {"message", "timer"}


def test_steps_and_threads_are_refused_as_runs_are(engine: TestEngine) -> None:
    errors: list[str] = []

    @step(name="touch")
    async def touch() -> None:
        uses: list[Callable[[], Any]] = [
            lambda: SHARED["it"].set_result(1),
            lambda: SHARED["it"].get_loop().call_soon(print),
        ]
        for use in uses:
            with pytest.raises(WorkflowIOError, match="belongs to run 'first'") as raised:
                use()
            errors.append(str(raised.value))

    @workflow(name="owner")
    async def own() -> str:
        SHARED["it"] = asyncio.get_running_loop().create_future()
        await touch()
        return "undisturbed"

    assert engine.start(own, id="first").result(timeout=60) == "undisturbed"
    assert all(error.startswith("code outside of that run used ") for error in errors)
    assert all(re.search(r"test_isolation.py:\d+ in .*touch", error) for error in errors)


def test_a_run_whose_plain_future_is_completed_by_another_is_halted_and_goes_on_from_its_journal(
    engine: TestEngine,
) -> None:
    @workflow(name="owner")
    async def own() -> str:
        future = asyncio.Future[int]()  # of asyncio's own class, which asks nobody
        SHARED.setdefault("it", future)
        if SHARED["it"] is not future:
            return "began anew"
        await future
        return "was disturbed"

    @workflow(name="toucher")
    async def toucher() -> str:
        return await told(lambda: SHARED["it"].set_result(1))

    first = engine.start(own, id="first")
    engine.idle()
    assert "belongs to run 'first'" in engine.start(toucher, id="second").result(timeout=60)
    with pytest.raises(RunHalted, match=r"second.*at .*test_isolation\.py"):
        first.result(timeout=60)
    first.resume()
    assert first.result(timeout=60) == "began anew"


def test_all_tasks_shows_the_tasks_of_the_run_only(engine: TestEngine) -> None:
    @workflow(name="many")
    async def many(count: int) -> list[str]:
        sleepers = [asyncio.create_task(asyncio.sleep(3600), name=f"sleeper {number}") for number in range(count)]
        await asyncio.sleep(1)
        assert asyncio.all_tasks() == {asyncio.current_task(), *sleepers}
        return sorted(task.get_name() for task in asyncio.all_tasks())

    runs = [engine.start(many, count) for count in (0, 1, 2)]
    engine.advance(1)
    sleepers = ["sleeper 0", "sleeper 1"]
    assert [run.result(timeout=60) for run in runs] == [["main"], ["main", *sleepers[:1]], ["main", *sleepers]]


def test_asyncio_of_plain_programs_is_as_it_was(engine: TestEngine) -> None:
    async def program() -> list[Any]:
        queue = asyncio.Queue[int]()
        async with asyncio.Lock(), asyncio.Semaphore(), asyncio.Condition():
            await queue.put(1)
        return [await queue.get(), asyncio.iscoroutinefunction(asyncio.Lock.acquire), QUEUE.empty()]

    assert engine.start(workflow(name="one")(echo_one)).result(timeout=60) == 1
    assert asyncio.run(program()) == [1, True, True]
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(program())))
    thread.start()
    thread.join()
    assert found == [[1, True, True]]


async def echo_one() -> Any:
    return await echo(1)


def test_entering_a_threads_loops_within_entering_them_gives_back_what_ran_before() -> None:
    thread = LoopThread()
    with thread.entered():
        events._set_running_loop(a_loop := asyncio.new_event_loop())
        with thread.entered():
            pass
        with thread.left():
            assert events._get_running_loop() is None
    assert events._get_running_loop() is None
    a_loop.close()
