"""asyncio in workflows, as it is: each construct works, and resolves the same way whenever it is replayed.

Every case is a workflow whose result tells in which order things happened. It is executed undisturbed, then with a
crash after every stretch of time, then with every waiting run out of memory; all three must come out as asyncio says.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stepwell import Retry, receive, step, workflow
from stepwell.testing import TestEngine

executed: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step
async def work(name: str) -> str:
    executed.append(name)
    return f"<{name}>"


@step
def plain(name: str) -> str:
    executed.append(name)
    return f"<{name}>"


@step(retry=Retry(attempts=1))
async def fail(name: str) -> str:
    executed.append(name)
    raise LookupError(name)


async def branch(name: str, *delays: float) -> str:
    """Alternate sleeps and steps, of both kinds."""
    for number, delay in enumerate(delays):
        await asyncio.sleep(delay)
        call = f"{name}{number}"
        if number % 2:
            plain(call)
        else:
            await work(call)
    return name


async def fails_after(delay: float, name: str) -> str:
    await asyncio.sleep(delay)
    return await fail(name)


# --- the cases --------------------------------------------------------------------------------------------------------


async def nested_gather() -> Any:
    async def pair(name: str, delay: float) -> Any:
        return await asyncio.gather(branch(name + "x", delay, 1), branch(name + "y", 1, delay))

    return await asyncio.gather(pair("a", 3), pair("b", 2), branch("c", 1, 1, 1), pair("d", 1))


async def gather_with_failures() -> Any:
    found = await asyncio.gather(branch("a", 2), fails_after(1, "b"), branch("c", 3), return_exceptions=True)
    return [repr(each) for each in found]


async def gather_that_raises() -> Any:
    others = [asyncio.create_task(branch("a", 1, 3)), asyncio.create_task(branch("b", 1, 1))]
    try:
        await asyncio.gather(*others, fails_after(2, "c"))
    except LookupError as error:
        return [repr(error), *(await asyncio.gather(*others))]
    return "not raised"


async def task_group() -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(branch(name, delay, 1)) for name, delay in (("a", 3), ("b", 1), ("c", 2))]
    return [task.result() for task in tasks]


async def task_group_that_fails() -> Any:
    cancelled: list[str] = []
    raised: list[str] = []

    async def waits(name: str) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled.append(name)
            if name == "d":
                await fail(name)
            await work(f"clean {name}")
            raise

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits("a"))
            group.create_task(fails_after(1, "b"))
            group.create_task(fails_after(2, "c"))
            group.create_task(waits("d"))
    except* LookupError as errors:
        raised += sorted(repr(error) for error in errors.exceptions)
    return [raised, cancelled]


async def wait_for_the_first() -> Any:
    tasks = {asyncio.create_task(branch(name, delay), name=name) for name, delay in (("a", 3), ("b", 1), ("c", 2))}
    found = []
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        found.append(sorted(task.get_name() for task in done))
    return found


async def wait_for_ties() -> Any:
    tasks = [asyncio.create_task(branch(name, 1), name=name) for name in "abcdefgh"]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    first = [task.get_name() for task in done]
    done, _ = await asyncio.wait(tasks)
    return [first, [task.get_name() for task in done]]


async def wait_for_all_or_a_failure() -> Any:
    tasks = [asyncio.create_task(branch("a", 3)), asyncio.create_task(fails_after(1, "b"))]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    return [len(done), len(pending), repr(done.pop().exception()), await pending.pop()]


async def wait_with_timeout() -> Any:
    tasks = [asyncio.create_task(branch("a", 1)), asyncio.create_task(branch("b", 5))]
    done, pending = await asyncio.wait(tasks, timeout=3)
    return [[task.result() for task in done], [await task for task in pending]]


async def as_completed() -> Any:
    delays = [("a", 3), ("b", 1), ("c", 2), ("d", 1), ("e", 3)]
    return [await each for each in asyncio.as_completed([branch(name, delay) for name, delay in delays])]


async def as_completed_with_ties() -> Any:
    return [await each for each in asyncio.as_completed([branch(name, 1, 1) for name in "abcdefghij"])]


async def timeout() -> Any:
    found = []
    for limit in (1, 5):
        try:
            async with asyncio.timeout(limit):
                found.append(await branch(f"t{limit}", 2, 1))
        except TimeoutError:
            found.append(f"timeout {limit}")
    return found


async def timeout_rescheduled() -> Any:
    limit = asyncio.timeout(1)
    try:
        async with limit:
            limit.reschedule(asyncio.get_running_loop().time() + 5)
            await branch("a", 3)
            await branch("b", 3)
    except TimeoutError:
        return ["timeout", limit.expired()]
    return "in time"


async def wait_for() -> Any:
    found = [await asyncio.wait_for(branch("a", 1), 5)]
    try:
        await asyncio.wait_for(branch("b", 5, 1), 2)
    except TimeoutError:
        found.append("timeout")
    return found


async def shield() -> Any:
    inner = asyncio.create_task(branch("a", 2, 2))
    try:
        async with asyncio.timeout(1):
            await asyncio.shield(inner)
    except TimeoutError:
        return ["timeout", await inner]
    return "in time"


async def queue() -> Any:
    jobs: asyncio.Queue[str | None] = asyncio.Queue(maxsize=2)
    taken = []

    async def consume(name: str) -> None:
        while (job := await jobs.get()) is not None:
            await asyncio.sleep(1)
            taken.append(name + await work(job))
            jobs.task_done()

    async with asyncio.TaskGroup() as group:
        for name in ("x", "y"):
            group.create_task(consume(name))
        for number in range(7):
            await jobs.put(str(number))
        await jobs.join()
        for _ in range(2):
            await jobs.put(None)
    return taken


async def priority_queue() -> Any:
    jobs: asyncio.PriorityQueue[int] = asyncio.PriorityQueue()
    for number in (3, 1, 2):
        jobs.put_nowait(number)
    return [await work(str(await jobs.get())) for _ in range(3)]


async def event() -> Any:
    begin = asyncio.Event()
    order = []

    async def runner(name: str) -> None:
        await begin.wait()
        order.append(await work(name))

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(runner(name))
        await asyncio.sleep(5)
        begin.set()
    return order


async def lock() -> Any:
    mutex = asyncio.Lock()
    order = []

    async def enter(name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        async with mutex:
            order.append(f"{name} in")
            await branch(name, 2)
            order.append(f"{name} out")

    await asyncio.gather(enter("a", 1), enter("b", 0), enter("c", 2))
    return order


async def semaphore() -> Any:
    room = asyncio.Semaphore(2)
    inside: list[str] = []
    most = 0

    async def enter(name: str) -> None:
        nonlocal most
        async with room:
            inside.append(name)
            most = max(most, len(inside))
            await branch(name, 1)
            inside.remove(name)

    await asyncio.gather(*(enter(name) for name in "abcde"))
    return most


async def condition() -> Any:
    changed = asyncio.Condition()
    total = 0
    found = []

    async def wait_until(amount: int) -> None:
        async with changed:
            await changed.wait_for(lambda: total >= amount)
            found.append([amount, total])

    async def add(delay: float) -> None:
        nonlocal total
        await asyncio.sleep(delay)
        async with changed:
            total += 1
            changed.notify_all()

    await asyncio.gather(wait_until(3), wait_until(1), wait_until(2), add(1), add(2), add(3))
    return found


async def barrier() -> Any:
    gate = asyncio.Barrier(3)
    order = []

    async def arrive(name: str, delay: float) -> None:
        await branch(name, delay)
        await gate.wait()
        order.append(name)

    await asyncio.gather(arrive("a", 3), arrive("b", 1), arrive("c", 2))
    return order


async def to_thread() -> Any:
    return await asyncio.gather(*(asyncio.to_thread(plain, name) for name in "abc"), work("d"))


async def steps_directly() -> Any:
    async def both(name: str) -> list[str]:
        return [plain(name + "1"), await work(name + "2"), plain(name + "3")]

    return await asyncio.gather(both("a"), both("b"), both("c"))


async def cancelled_tasks() -> Any:
    order: list[str] = []

    async def waits(name: str) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError as error:
            order.append(f"{name} {error}")
            await work(name)
            raise
        finally:
            order.append(f"{name} ended")

    tasks = [asyncio.create_task(waits(name)) for name in "ab"]
    await asyncio.sleep(1)
    tasks[0].cancel("by hand")
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [order, [type(each).__name__ for each in found]]


async def callbacks() -> Any:
    order: list[Any] = []
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    task = asyncio.create_task(branch("a", 1))
    task.add_done_callback(lambda ended: order.append(ended.result()))
    loop.call_soon(order.append, "soon")
    loop.call_later(2, order.append, "later")
    loop.call_at(loop.time() + 3, done.set_result, "at")
    cancelled = loop.call_later(1, order.append, "never")
    cancelled.cancel()
    order.append(await done)
    return order


async def names_and_introspection() -> Any:
    seen: list[Any] = []

    async def inner() -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.append(task.get_name())
        await asyncio.sleep(1)

    tasks = [asyncio.create_task(inner()) for _ in range(2)] + [asyncio.create_task(inner(), name="mine")]
    await asyncio.gather(*tasks)
    return seen


async def race_of_messages_and_time() -> Any:
    found = []
    for limit in (2, 2):
        message = asyncio.create_task(receive("never"))
        timer = asyncio.create_task(asyncio.sleep(limit, "time"))
        done, pending = await asyncio.wait({message, timer}, return_when=asyncio.FIRST_COMPLETED)
        found += [task.result() for task in done]
        for task in pending:
            task.cancel()
    return found


async def async_generators_and_contexts() -> Any:
    async def numbers() -> Any:
        for number in range(3):
            await asyncio.sleep(1)
            yield number

    return [await work(str(number)) async for number in numbers()]


async def nested_timeouts_of_one_instant() -> Any:
    deadline = asyncio.get_running_loop().time() + 2
    expired = list[Any]()
    outer = asyncio.timeout_at(deadline)
    try:
        async with outer:
            try:
                async with asyncio.timeout_at(deadline) as inner:
                    await work("before")
                    await asyncio.sleep(10)
            finally:
                expired += [inner.expired(), outer.expired()]
    except TimeoutError:
        expired.append("timeout")
    return [*expired, outer.expired()]


async def timers_of_one_instant() -> Any:
    loop, order = asyncio.get_running_loop(), list[str]()
    when = loop.time() + 1
    sleeper = asyncio.create_task(branch("sleeper", 1))  # goes on after all of them
    sleeper.add_done_callback(lambda _: order.append("slept"))
    loop.call_at(when, order.append, "first")
    handles: list[asyncio.TimerHandle] = []
    loop.call_at(when, lambda: handles[0].cancel())  # noqa: PLW0108 - there is no handle yet
    handles.append(loop.call_at(when, order.append, "cancelled by the second"))
    loop.call_at(when, order.append, "fourth")
    await asyncio.sleep(3)
    return order


async def a_timer_that_completes_what_times_out_in_the_same_instant() -> Any:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_at(loop.time() + 1, future.set_result, "completed")
    try:
        async with asyncio.timeout_at(loop.time() + 1):
            return await future
    except TimeoutError:
        return f"timeout, {future.result()}"


async def futures_of_other_threads() -> Any:
    done, failed, later = (concurrent.futures.Future[str]() for _ in range(3))
    done.set_result("done")
    failed.set_exception(LookupError("failed"))
    ends = [await asyncio.wrap_future(done)]
    ends += map(repr, await asyncio.gather(asyncio.wrap_future(failed), return_exceptions=True))
    asyncio.get_running_loop().call_later(1, later.set_result, await work("later"))
    return [*ends, await asyncio.wrap_future(later)]


async def many_tasks() -> Any:
    return await asyncio.gather(*(branch(str(number), number % 7, number % 3) for number in range(60)))


#: What each case returns; a function judges the result where asyncio leaves the order of ties open.
CASES: dict[Callable[[], Coroutine[Any, Any, Any]], Any] = {
    nested_gather: [["ax", "ay"], ["bx", "by"], "c", ["dx", "dy"]],
    gather_with_failures: ["'a'", "LookupError('b')", "'c'"],
    gather_that_raises: ["LookupError('c')", "a", "b"],
    task_group: ["a", "b", "c"],
    task_group_that_fails: [["LookupError('b')", "LookupError('d')"], ["a", "d"]],
    wait_for_the_first: [["b"], ["c"], ["a"]],
    wait_for_ties: lambda found: found[0] and sorted(found[1]) == list("abcdefgh"),
    wait_for_all_or_a_failure: [1, 1, "LookupError('b')", "a"],
    wait_with_timeout: [["a"], ["b"]],
    as_completed: lambda found: [sorted(found[:2]), found[2], sorted(found[3:])] == [["b", "d"], "c", ["a", "e"]],
    as_completed_with_ties: lambda found: sorted(found) == list("abcdefghij"),
    timeout: ["timeout 1", "t5"],
    timeout_rescheduled: ["timeout", True],
    wait_for: ["a", "timeout"],
    shield: ["timeout", "a"],
    queue: lambda found: sorted(each[1:] for each in found) == [f"<{number}>" for number in range(7)],
    priority_queue: ["<1>", "<2>", "<3>"],
    event: ["<a>", "<b>", "<c>"],
    lock: ["b in", "b out", "a in", "a out", "c in", "c out"],
    semaphore: 2,
    condition: [[1, 1], [2, 2], [3, 3]],
    barrier: lambda found: sorted(found) == ["a", "b", "c"],
    to_thread: ["<a>", "<b>", "<c>", "<d>"],
    steps_directly: [[f"<{name}{number}>" for number in (1, 2, 3)] for name in "abc"],
    cancelled_tasks: [["a by hand", "a ended", "b ended"], ["CancelledError", "NoneType"]],
    callbacks: ["soon", "a", "later", "at"],
    names_and_introspection: ["task-2", "task-3", "mine"],
    race_of_messages_and_time: ["time", "time"],
    async_generators_and_contexts: ["<0>", "<1>", "<2>"],
    nested_timeouts_of_one_instant: [True, True, "timeout", True],
    timers_of_one_instant: ["first", "fourth", "slept"],
    a_timer_that_completes_what_times_out_in_the_same_instant: "timeout, completed",
    futures_of_other_threads: ["done", "LookupError('failed')", "<later>"],
    many_tasks: [str(number) for number in range(60)],
}


def check(case: Callable[[], Coroutine[Any, Any, Any]], found: Any) -> None:
    expected = CASES[case]
    assert expected(found) if callable(expected) else found == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_each_construct_works_and_resolves_the_same_after_any_crash(
    engine: TestEngine, case: Callable[[], Coroutine[Any, Any, Any]]
) -> None:
    @workflow
    async def undisturbed() -> Any:
        return await case()

    run = engine.start(undisturbed, id="undisturbed")
    engine.advance(60)
    check(case, run.result(60))
    calls = sorted(executed)

    executed.clear()
    crashed = engine.start(undisturbed, id="crashed")
    for _ in range(24):
        engine.advance(0.5)
        engine.crash()
        engine.reopen()
    engine.advance(60)
    check(case, crashed.result(60))
    assert sorted(executed) == calls

    executed.clear()
    engine.reopen(max_waiting_in_memory=0)
    parked = engine.start(undisturbed, id="parked")
    engine.advance(60)
    check(case, parked.result(60))
    assert sorted(executed) == calls


RACES = [wait_for_ties, as_completed, as_completed_with_ties, queue, barrier, nested_gather]


@pytest.mark.parametrize("case", RACES, ids=lambda case: case.__name__)
def test_a_replay_resolves_a_race_as_it_was_resolved(
    engine: TestEngine, case: Callable[[], Coroutine[Any, Any, Any]]
) -> None:
    seen: list[Any] = []

    @workflow
    async def races() -> Any:
        found = await case()
        seen.append(found)
        await receive("go on")
        return found

    run = engine.start(races)
    engine.advance(60)
    for number in range(4):
        engine.crash()
        engine.reopen()
        run.send("poke", number)
        engine.idle()
    run.send("go on")
    result = run.result(60)
    assert len(seen) == 5
    assert all(found == result for found in seen)


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_context_variables_belong_to_their_task_and_come_back_in_a_replay(engine: TestEngine) -> None:
    @workflow
    async def uses() -> list[str]:
        async def child(name: str) -> str:
            before = variable.get()
            variable.set(name)
            await asyncio.sleep(1)
            plain(name)
            return f"{before} {variable.get()}"

        variable.set("main")
        found = list(await asyncio.gather(child("a"), child("b")))
        await asyncio.sleep(1)
        return [*found, variable.get()]

    run = engine.start(uses)
    for _ in range(4):
        engine.advance(0.5)
        engine.crash()
        engine.reopen()
    engine.idle()
    assert run.result(60) == ["main a", "main b", "main"]
    assert variable.get() == "unset"


def test_context_variables_of_the_caller_do_not_leak_into_runs(engine: TestEngine) -> None:
    @workflow
    async def looks() -> str:
        return variable.get()

    token = variable.set("of the caller")
    try:
        assert engine.start(looks).result(60) == "unset"
    finally:
        variable.reset(token)


def test_a_workflow_that_never_yields_to_others_still_lets_them_go_on_between_operations(engine: TestEngine) -> None:
    @workflow
    async def busy() -> int:
        for number in range(300):
            await work(str(number))
        return len(executed)

    @workflow
    async def quick() -> str:
        return await work("quick")

    first, second = engine.start(busy), engine.start(quick)
    assert second.result(60) == "<quick>"
    assert first.result(60) == 301
    assert executed.index("quick") < 300


def test_a_workflow_loop_that_only_yields_is_cancellable_from_a_task(engine: TestEngine) -> None:
    @workflow
    async def spins() -> int:
        turns = 0

        async def spin() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(spin())
        for _ in range(50):
            await asyncio.sleep(0)
        task.cancel()
        return turns

    assert engine.start(spins).result(60) in range(45, 55)
