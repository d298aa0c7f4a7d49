"""Random programs leave tasks, generators and coroutines about while the collector is forced at random moments.

Several such runs share an engine, in memory, out of it whenever they wait, or with crashes in between. Each comes to
what it comes to alone, where nothing is collected; the journals hold the same steps, each its own run's; and nothing is
said.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stepwell
from stepwell import receive, step, sync, workflow
from stepwell.testing import TestEngine

Program = list[Any]
#: Whether programs may force the collector.
may_collect = True


@step(name="tell")
async def tell(what: str) -> str:
    return what


@step(name="tell plainly")
def tell_plainly(what: str) -> str:
    return what


@step(name="collect in a step")
async def collect_in_a_step(what: str) -> str:
    collect()
    return what


def collect() -> None:
    if may_collect:
        gc.collect()


def mine(what: object) -> str:
    return f"{stepwell.current().run_id}: {what}"


# --- what programs do -------------------------------------------------------------------------------------------------

ACTIONS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {}


def action(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    ACTIONS[function.__name__] = function
    return function


async def perform(program: Program) -> Any:
    name, *rest = program
    return await ACTIONS[name](*rest)


@action
async def telling(value: int) -> Any:
    return await tell(mine(value))


@action
async def telling_plainly(value: int) -> Any:
    return tell_plainly(mine(value))


@action
async def sleeping(seconds: int) -> Any:
    return await asyncio.sleep(seconds, seconds)


@action
async def collecting(value: int) -> Any:
    collect()
    return await collect_in_a_step(mine(value))


@action
async def in_order(programs: list[Program]) -> Any:
    return [await perform(program) for program in programs]


@action
async def gathered(programs: list[Program]) -> Any:
    return await asyncio.gather(*map(perform, programs))


@action
async def in_plain_tasks(programs: list[Program]) -> Any:
    return [await task for task in [asyncio.Task(perform(program)) for program in programs]]


@action
async def in_eager_tasks(programs: list[Program]) -> Any:
    kind: Any = asyncio.Task
    options = {"eager_start": True} if sys.version_info >= (3, 12) else {}
    loop = asyncio.get_running_loop()
    return [await task for task in [kind(perform(program), loop=loop, **options) for program in programs]]


@action
async def called_back(program: Program) -> Any:
    found: list[str] = []
    task = asyncio.create_task(perform(program))
    task.add_done_callback(lambda _: found.append(tell_plainly(mine("called back"))))
    result = await task
    await asyncio.sleep(1)
    return [result, found]


@action
async def one_at_a_time(programs: list[Program]) -> Any:
    lock, queue, event = asyncio.Lock(), asyncio.Queue[Any](), asyncio.Event()

    async def member(program: Program) -> None:
        async with lock:
            await queue.put(await perform(program))
        event.set()

    async with asyncio.TaskGroup() as group:
        for program in programs:
            group.create_task(member(program))
        await event.wait()
    return [queue.get_nowait() for _ in programs]


async def source(programs: list[Program]) -> AsyncGenerator[Any, None]:
    try:
        for program in programs:
            yield await perform(program)
    finally:
        await tell(mine("closing"))
        await asyncio.sleep(1)
        await tell(mine("closed"))


@action
async def broken_off(programs: list[Program]) -> Any:
    async for found in source(programs):
        return found
    return None


@action
async def broken_off_in_a_cycle(programs: list[Program]) -> Any:
    generator = source(programs)
    in_a_cycle(generator)
    return await anext(generator)


@action
async def never_gone_on_with(value: int) -> Any:
    async def guarded() -> None:
        try:
            await receive("never")
        finally:
            await tell(mine(f"by hand {value}"))

    coroutine = guarded()
    coroutine.send(None)
    in_a_cycle(coroutine, asyncio.create_task(guarded()), asyncio.Task(guarded()))


def in_a_cycle(*things: Any) -> None:
    cycle: list[Any] = [*things]
    cycle.append(cycle)


SMALL = st.integers(0, 3)
LEAVES = st.tuples(
    st.sampled_from(["telling", "telling_plainly", "sleeping", "collecting", "never_gone_on_with"]), SMALL
).map(list)


def _branches(programs: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    several = st.lists(programs, min_size=1, max_size=3)
    of_several = [
        *("in_order", "gathered", "in_plain_tasks", "in_eager_tasks", "one_at_a_time"),
        *("broken_off", "broken_off_in_a_cycle"),
    ]
    return st.one_of(st.tuples(st.sampled_from(of_several), several), st.tuples(st.just("called_back"), programs)).map(
        list
    )


PROGRAMS = st.recursive(LEAVES, _branches, max_leaves=6)


@workflow
async def executes(program: Program) -> Any:
    result = await perform(program)
    await asyncio.sleep(60)  # so that what is abandoned is closed by then, or when the run ends
    return result


@workflow
def executes_plainly(program: Program) -> Any:
    task = asyncio.get_running_loop().create_task(perform(program))
    while not task.done():
        sync.sleep(5)
    sync.sleep(60)
    return task.result()


# --- alone and together -----------------------------------------------------------------------------------------------


@contextmanager
def without_collector() -> Iterator[None]:
    global may_collect  # noqa: PLW0603 - the programs look at it
    gc.disable()
    may_collect = False
    try:
        yield
    finally:
        may_collect = True
        gc.enable()


def told(run: Any) -> Counter[str]:
    steps = Counter(line.value for line in run.journal() if line.kind == "step")
    assert all(value.startswith(f"{run.id}: ") for value in steps), (run.id, steps)
    return steps


def alone(folder: Path, name: str, flow: Any, program: Program) -> tuple[Any, Counter[str]]:
    with without_collector(), TestEngine(folder / f"{name}.db", durability="normal") as engine:
        run = engine.start(flow, program, id=name)
        engine.advance(500)
        return run.result(timeout=60), told(run)


def together(folder: Path, runs: dict[str, tuple[Any, Program]], how: str, at: list[int]) -> dict[str, Any]:
    waiting = 0 if how == "evicted" else 100
    path = folder / "together.db"
    with TestEngine(path, durability="normal", max_waiting_in_memory=waiting) as engine:
        for name, (flow, program) in runs.items():
            engine.start(flow, program, id=name)
        for second in range(100):
            engine.advance(5 if second > 20 else 1)
            if second in at:
                if how == "crashed":
                    engine.crash()
                    engine.reopen()
                gc.collect()
            if all(engine.get(name).status == "completed" for name in runs):
                break
        return {name: (engine.get(name).result(timeout=60), told(engine.get(name))) for name in runs}


@pytest.mark.filterwarnings("error")
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    programs=st.lists(
        st.tuples(st.sampled_from([executes, executes, executes_plainly]), PROGRAMS), min_size=2, max_size=4
    ),
    how=st.sampled_from(["live", "evicted", "crashed"]),
    at=st.lists(st.integers(0, 30), max_size=5),
)
def test_each_run_comes_to_what_it_comes_to_alone(
    tmp_path_factory: pytest.TempPathFactory,
    capfd: pytest.CaptureFixture[str],
    programs: list[tuple[Any, Program]],
    how: str,
    at: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("random")
    runs = {f"run {number}": program for number, program in enumerate(programs)}
    expected = {name: alone(folder, name, *program) for name, program in runs.items()}
    gc.collect()
    assert together(folder, runs, how, at) == expected
    gc.collect()
    assert "".join(capfd.readouterr()) == ""
