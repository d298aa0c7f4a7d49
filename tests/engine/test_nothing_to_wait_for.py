"""Code that waits for what nothing can bring about says so, with a name and a line; a forgotten step is named."""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stepwell import RunCancelled, step, workflow
from stepwell.testing import TestEngine


@step(name="charge")
async def charge(amount: int) -> int:
    return amount


async def hold(event: asyncio.Event) -> None:
    await event.wait()


async def an_event() -> None:
    await asyncio.Event().wait()


async def a_lock_of_its_own() -> None:
    lock = asyncio.Lock()
    async with lock:
        await lock.acquire()


async def an_empty_queue() -> None:
    await asyncio.Queue[int]().get()


async def a_future() -> None:
    await asyncio.get_running_loop().create_future()


async def a_plain_future() -> None:
    await asyncio.Future[int]()


async def a_future_of_another_thread() -> None:
    await asyncio.wrap_future(concurrent.futures.Future[int]())


async def in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(charge(1))
        group.create_task(hold(asyncio.Event()))


async def gathered() -> None:
    await asyncio.gather(charge(1), hold(asyncio.Event()))


async def in_a_task_that_is_waited_for() -> None:
    await asyncio.wait([asyncio.create_task(hold(asyncio.Event()))])


async def after_a_step() -> None:
    await charge(1)
    await hold(asyncio.Event())


#: What waits for ever, and what it is said to wait for: a name, and the function whose line is shown.
STUCK: list[tuple[Callable[[], Coroutine[Any, Any, None]], str, str]] = [
    (an_event, "Event.wait()", "an_event"),
    (a_lock_of_its_own, "Lock.acquire()", "a_lock_of_its_own"),
    (an_empty_queue, "Queue.get()", "an_empty_queue"),
    (a_future, "a future", "a_future"),
    (a_plain_future, "a future", "a_plain_future"),
    (a_future_of_another_thread, "a future", "a_future_of_another_thread"),
    (in_a_task_group, "Event.wait()", "hold"),
    (gathered, "Event.wait()", "hold"),
    (in_a_task_that_is_waited_for, "Event.wait()", "hold"),
    (after_a_step, "Event.wait()", "hold"),
]


@pytest.mark.parametrize(("code", "name", "function"), STUCK, ids=[code.__name__ for code, _, _ in STUCK])
def test_the_reason_names_what_is_waited_for_and_the_line_in_memory_and_outside(
    engine: TestEngine, code: Callable[[], Coroutine[Any, Any, None]], name: str, function: str
) -> None:
    run = engine.start(workflow(name="stuck")(code), id="stuck")
    expected = (
        r"it waits for something that nothing can bring about, "
        rf"{re.escape(name)} \(\S+{re.escape(__name__.rpartition('.')[2])}\.py:\d+ in {function}\)"
    )
    engine.idle()
    assert re.match(expected, str(run.info().reason)), run.info().reason
    engine.reopen(max_waiting_in_memory=0).idle()
    assert re.match(expected, str(run.info().reason))
    run.cancel("given up")
    with pytest.raises(RunCancelled):
        run.result(timeout=60)


def test_a_run_that_a_timer_or_a_message_can_wake_does_not_say_so(engine: TestEngine) -> None:
    @workflow(name="in time")
    async def in_time() -> str:
        try:
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        except TimeoutError:
            return "in time"
        return "never"

    run = engine.start(in_time)
    engine.idle()
    assert "nothing can bring about" not in str(run.info().reason)
    engine.advance(60)
    assert run.result(timeout=60) == "in time"


@pytest.mark.parametrize("kind", ["step", "workflow"])
def test_a_call_that_nobody_awaits_is_a_warning_that_names_it(engine: TestEngine, kind: str) -> None:
    @workflow(name="helper")
    async def helper() -> None: ...

    @workflow(name="forgetful")
    async def forgetful() -> str:
        if kind == "step":
            charge(1)  # type: ignore[unused-coroutine]
        else:
            helper()  # type: ignore[unused-coroutine]
        return "done"

    name = "step charge" if kind == "step" else "workflow helper"
    with pytest.warns(RuntimeWarning, match=f"'{name}' was never awaited") as warned:
        assert engine.start(forgetful).result(timeout=60) == "done"
    assert warned[0].filename == __file__
