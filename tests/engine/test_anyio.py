"""anyio in workflows, as it is: task groups, scopes, synchronisation, streams and threads; the same in each replay."""

from __future__ import annotations

import asyncio
import functools
import math
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

import stepwell
from stepwell import Retry, publish, receive, step, sync, workflow
from stepwell.replay.stable_order import OrderedSet
from stepwell.testing import TestEngine

threads: list[str] = []


@step
async def work(name: Any) -> str:
    return f"<{name}>"


@step
def plain(name: str, suffix: str = "") -> str:
    threads.append(threading.current_thread().name)
    return f"<{name}{suffix}>"


@step(retry=Retry(attempts=1))
async def fail(name: str) -> str:
    raise LookupError(name)


async def cancelled_in_order(count: int, order: list[int]) -> None:
    """Have many tasks note when they are cancelled; the order is that of the scopes they are in."""

    async def wait(number: int) -> None:
        with anyio.CancelScope():
            try:
                await anyio.sleep(100)
            finally:
                order.append(number)

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(wait, number)


# --- the cases --------------------------------------------------------------------------------------------------------


async def group_of_steps() -> Any:
    found: list[str] = []

    async def branch(name: str, *delays: float) -> None:
        for number, delay in enumerate(delays):
            await anyio.sleep(delay)
            found.append(await work(f"{name}{number}"))

    async with anyio.create_task_group() as group:
        group.start_soon(branch, "a", 1.6, 1)
        group.start_soon(branch, "b", 1, 1, 1)
    return found


async def group_with_start() -> Any:
    async def serve(name: str, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        await anyio.sleep(1)
        task_status.started(await work(name))
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        started = await group.start(serve, "a"), await group.start(serve, "b")
        group.cancel_scope.cancel()
    return started


async def group_that_fails() -> Any:
    trail: list[str] = []

    async def other() -> None:
        try:
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                trail.append(await work("tidied"))

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            await anyio.sleep(1)
            group.start_soon(fail, "no")
    except* LookupError as errors:
        trail += [repr(error) for error in errors.exceptions]
    return trail


async def scopes_in_sets() -> Any:
    order: list[int] = []
    with anyio.move_on_after(1):
        await cancelled_in_order(8, order)
    await publish("order", order)  # it is compared with the journal in a replay
    return len(order)


async def nested_scopes() -> Any:
    order: list[int] = []
    with anyio.move_on_after(2) as outer:
        with anyio.move_on_after(1) as inner:
            await cancelled_in_order(3, order)
        await cancelled_in_order(3, order)
    await work(order)
    return inner.cancelled_caught, outer.cancelled_caught, len(order)


async def timeouts() -> Any:
    trail = []
    try:
        with anyio.fail_after(1.1):
            await anyio.sleep(5)
    except TimeoutError:
        trail.append("late")
    with anyio.fail_after(5) as scope:
        await work("in time")
        trail.append(str(anyio.current_effective_deadline() > anyio.current_time()))
        scope.deadline = anyio.current_time() + 2
        await anyio.sleep(1.5)
    return trail


async def shield() -> Any:
    with anyio.move_on_after(1) as scope, anyio.CancelScope(shield=True):
        await anyio.sleep(2)
        return await work("shielded"), scope.cancel_called


async def levels() -> Any:
    rounds = 0
    with anyio.CancelScope() as scope:
        scope.cancel()
        for _ in range(3):  # cancelled again at each wait
            try:
                await anyio.sleep(1)
            except asyncio.CancelledError:
                rounds += 1
    return await work(rounds)


async def events_and_locks() -> Any:
    trail: list[Any] = []
    event, lock, semaphore, condition = anyio.Event(), anyio.Lock(), anyio.Semaphore(2), anyio.Condition()
    limiter = anyio.CapacityLimiter(1)

    async def guarded(number: int) -> None:
        async with semaphore, lock:
            trail.append(await work(number))
        async with limiter:
            await anyio.sleep(0.5)
            trail.append(limiter.statistics().tasks_waiting)
        async with condition:
            trail.append("heard" if event.is_set() else "early")
            condition.notify(1)

    async def waits() -> None:
        await event.wait()
        trail.append("event")
        async with condition:
            await condition.wait()
            trail.append("condition")

    async with anyio.create_task_group() as group:
        group.start_soon(waits)
        for number in range(4):
            group.start_soon(guarded, number)
        await anyio.sleep(0.7)
        event.set()
    return trail


async def streams() -> Any:
    send, receive_stream = anyio.create_memory_object_stream[str](1)
    found: list[str] = []

    async def produce(name: str, out: MemoryObjectSendStream[str]) -> None:
        async with out:
            for number in range(3):
                item = f"{name}{number}"
                await out.send(await work(item) if name == "a" else item)  # one step at a time: their order is chance

    async def consume(incoming: MemoryObjectReceiveStream[str]) -> None:
        async with incoming:
            async for item in incoming:
                found.append(item)
                await anyio.sleep(0.1)

    async with anyio.create_task_group() as group, send, receive_stream:
        for name in "ab":
            group.start_soon(produce, name, send.clone())
            group.start_soon(consume, receive_stream.clone())
    return found


async def steps_in_threads() -> Any:
    async def call(name: str, found: dict[str, str]) -> None:
        found[name] = await to_thread.run_sync(plain, name)

    found: dict[str, str] = {}
    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(call, name, found)
    return [
        [found[name] for name in "abc"],
        await to_thread.run_sync(functools.partial(plain, "d", suffix="!")),
        await to_thread.run_sync(plain, "e", limiter=anyio.CapacityLimiter(1)),
        await to_thread.run_sync(plain, "f", abandon_on_cancel=True),
    ]


async def messages() -> Any:
    async with anyio.create_task_group() as group:
        with anyio.move_on_after(50):
            return await receive("go", str)
        group.cancel_scope.cancel()
    return "nothing came"


async def mixed_with_asyncio() -> Any:
    trail: list[str] = []

    async def child(name: str) -> None:
        async with asyncio.timeout(1):
            try:
                await anyio.sleep(5)
            except asyncio.CancelledError:
                trail.append(name)
                raise

    async with anyio.create_task_group() as group:
        for name in "ab":
            task = asyncio.create_task(child(name))
            group.start_soon(asyncio.wait, {task})
    await anyio.lowlevel.checkpoint()
    await asyncio.sleep(math.inf if not trail else 0)
    return trail


CASES: list[tuple[Callable[[], Coroutine[Any, Any, Any]], Any]] = [
    (group_of_steps, ["<b0>", "<a0>", "<b1>", "<a1>", "<b2>"]),
    (group_with_start, ("<a>", "<b>")),
    (group_that_fails, ["<tidied>", "LookupError('no')"]),
    (scopes_in_sets, 8),
    (nested_scopes, (True, True, 6)),
    (timeouts, ["late", "True"]),
    (shield, ("<shielded>", True)),
    (levels, "<3>"),
    (
        events_and_locks,
        ["<0>", "<1>", "<2>", "<3>", 3, "early", "event", 2, "heard", "condition", 1, "heard", 0, "heard"],
    ),
    (streams, ["b0", "b1", "b2", "<a0>", "<a1>", "<a2>"]),
    (steps_in_threads, [["<a>", "<b>", "<c>"], "<d!>", "<e>", "<f>"]),
    (messages, "gone"),
    (mixed_with_asyncio, ["a", "b"]),
]


@workflow
async def case(name: str) -> str:
    return repr(await globals()[name]())


@workflow
async def case_that_may_block(name: str) -> str:
    """Do the same on greenlets, because of what is never called here."""
    if name == "":
        sync.sleep(1)
    return repr(await globals()[name]())


def result_of(engine: TestEngine, flow: Any, name: str, *, crash_after: float | None) -> str:
    run = engine.start(flow, name)
    engine.advance(0.3)
    with suppress(stepwell.RunEnded):
        run.send("go", "gone")
    for _ in range(12):
        engine.advance(crash_after or 1)
        if crash_after is not None:
            engine.crash()
            engine.reopen()
    engine.advance(100)
    return str(run.result(timeout=30))


@pytest.mark.parametrize("flow", [case, case_that_may_block])
@pytest.mark.parametrize(("function", "expected"), CASES)
def test_anyio_works_live_evicted_and_crashed(engine: TestEngine, flow: Any, function: Any, expected: Any) -> None:
    name = function.__name__
    live = result_of(engine, flow, name, crash_after=None)
    assert live == repr(expected)
    assert result_of(engine, flow, name, crash_after=0.4) == live
    engine.reopen(max_waiting_in_memory=0)
    assert result_of(engine, flow, name, crash_after=None) == live


def test_steps_in_threads_execute_as_steps_do(engine: TestEngine) -> None:
    threads.clear()
    result_of(engine, case, "steps_in_threads", crash_after=None)
    assert len(threads) == 6
    assert all("anyio" not in name.lower() for name in threads)


# --- what is refused --------------------------------------------------------------------------------------------------


def ordinary_function(value: int) -> int:
    return value


async def read_file() -> Any:
    return await anyio.Path(__file__).read_text()


async def run_program() -> Any:
    return await anyio.run_process([sys.executable, "--version"])


async def connect() -> Any:
    return await anyio.connect_tcp("localhost", 1)


async def call_in_thread() -> Any:
    return await to_thread.run_sync(ordinary_function, 1)


@pytest.mark.parametrize("function", [read_file, run_program, connect, call_in_thread])
def test_what_reaches_outside_is_refused_with_its_line(engine: TestEngine, function: Any) -> None:
    run = engine.start(case, function.__name__)
    engine.idle()
    info = run.info()
    assert info.status in {"failed", "halted"}
    text = f"{info.error} {info.reason}"
    assert "step" in text
    assert f"{__file__}:" in text


def test_a_step_in_a_thread_that_is_cancelled_is_withdrawn(engine: TestEngine) -> None:
    @workflow
    async def abandons() -> list[str]:
        with anyio.move_on_after(1):
            await to_thread.run_sync(hangs, abandon_on_cancel=True)
        return ["moved on"]

    release = threading.Event()

    @step
    def hangs() -> None:
        release.wait()

    run = engine.start(abandons)
    with pytest.raises(TimeoutError):
        engine.idle(timeout=0.2)
    engine.clock.advance(2)
    assert run.result(timeout=30) == ["moved on"]
    release.set()


def test_a_cancelled_run_unwinds_its_groups(engine: TestEngine) -> None:
    @workflow
    async def unwinds() -> None:
        order: list[int] = []
        try:
            await cancelled_in_order(5, order)
        finally:
            with anyio.CancelScope(shield=True):
                await publish("order", order)

    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(unwinds)
    engine.idle()
    run.cancel()
    with pytest.raises(stepwell.RunCancelled):
        run.result(timeout=30)
    assert sorted(run.value("order", timeout=1)) == list(range(5))


# --- outside of workflows, and before anyio is imported ---------------------------------------------------------------


def test_anyio_outside_of_workflow_code_is_as_before(engine: TestEngine) -> None:
    engine.idle()

    async def main() -> tuple[int, type]:
        return await to_thread.run_sync(ordinary_function, 7), type(anyio.CancelScope()._child_scopes)  # type: ignore[attr-defined]

    assert anyio.run(main) == (7, set)


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(body), encoding="utf-8")
    result = subprocess.run([sys.executable, path, tmp_path], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_engine_does_not_import_anyio(tmp_path: Path) -> None:
    said = script(
        tmp_path,
        """
        import asyncio, sys
        from stepwell import Engine, workflow

        @workflow
        async def flow() -> int:
            await asyncio.sleep(0)
            return 1

        with Engine(sys.argv[1] + "/a.db") as engine:
            engine.start(flow).result(timeout=60)
        print([name for name in sys.modules if name.startswith("anyio")])
        """,
    )
    assert said == "[]\n"


def test_the_order_is_kept_although_workflow_code_is_the_first_to_import_anyio(tmp_path: Path) -> None:
    said = script(
        tmp_path,
        """
        import sys
        from stepwell import publish, receive, workflow
        from stepwell.testing import TestEngine

        @workflow
        async def flow() -> int:
            import anyio

            order: list[int] = []

            async def wait(number: int) -> None:
                try:
                    await anyio.sleep(100)
                finally:
                    order.append(number)

            with anyio.move_on_after(1):
                async with anyio.create_task_group() as group:
                    for number in range(20):
                        group.start_soon(wait, number)
            await publish("order", order)
            await receive("end")
            return len(order)

        with TestEngine(sys.argv[1] + "/a.db", max_waiting_in_memory=0) as engine:
            run = engine.start(flow)
            engine.advance(5)
            run.send("end")
            engine.idle()
            print(run.result(timeout=60))
        """,
    )
    assert said == "20\n"


# --- the sets ---------------------------------------------------------------------------------------------------------


class Thing:
    """Has an address for a hash."""


def test_an_ordered_set_is_a_set_that_keeps_the_order() -> None:
    things = [Thing() for _ in range(50)]
    ordered = OrderedSet(things[:40])
    for thing in things[40:]:
        ordered.add(thing)
    ordered.add(things[0])
    ordered.discard(things[1])
    ordered.remove(things[2])
    assert list(ordered) == [things[0], *things[3:]]
    assert things[0] in ordered
    assert things[1] not in ordered
    assert len(ordered) == 48
    assert set(ordered) == {*things[3:], things[0]}
    assert list(ordered.copy()) == list(ordered)
    ordered.update([things[1]], [things[0]])
    assert list(ordered)[-1] is things[1]
    with pytest.raises(KeyError):
        ordered.remove(Thing())
    assert not OrderedSet()
    assert repr(OrderedSet([1])) == "OrderedSet([1])"
