"""Steps and runs leave nothing for the garbage collector: reference counts free them when they are over."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import stepwell
from stepwell import Engine, Retry, Workflow, publish, receive, step, sync, workflow

_RUNS = 20


@step(name="cycles.number")
async def number(value: int) -> int:
    return value


@step(name="cycles.plain_number")
def plain_number(value: int) -> int:
    return value


@step(name="cycles.failing", retry=Retry(attempts=2, delay=0))
async def failing(value: int) -> int:
    raise ValueError(value)


@workflow(name="cycles.steps")
async def steps(count: int) -> None:
    for value in range(count):
        await number(value)


@workflow(name="cycles.plain_steps")
def plain_steps(count: int) -> None:
    for value in range(count):
        plain_number(value)


@workflow(name="cycles.gathered")
async def gathered(count: int) -> None:
    await asyncio.gather(*(number(value) for value in range(count)))


@workflow(name="cycles.group")
async def group(count: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for value in range(count):
            tasks.create_task(number(value))


@workflow(name="cycles.threads")
async def threads(count: int) -> None:
    for value in range(count):
        await asyncio.to_thread(plain_number, value)


@workflow(name="cycles.timers")
async def timers(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0.0001)


@workflow(name="cycles.timeout")
async def timeout(_count: int) -> None:
    try:
        async with asyncio.timeout(0.0001):
            await receive("never")
    except TimeoutError:
        pass


@workflow(name="cycles.values")
async def values(count: int) -> None:
    for value in range(count):
        await publish(f"value {value}", value)


@workflow(name="cycles.children")
async def children(count: int) -> None:
    for _ in range(count):
        child = await stepwell.start(steps, 1)
        await child.result()


@workflow(name="cycles.messages")
async def messages(_count: int) -> None:
    await receive("go")


@workflow(name="cycles.plain_messages")
def plain_messages(_count: int) -> None:
    sync.receive("go")


@workflow(name="cycles.caught")
async def caught(count: int) -> None:
    for value in range(count):
        with contextlib.suppress(ValueError):
            await failing(value)


@workflow(name="cycles.failed")
async def failed(count: int) -> None:
    await failing(count)


WORKFLOWS: list[Workflow[[int], Any]] = [
    *(steps, plain_steps, gathered, group, threads, timers, timeout, values, children, messages, plain_messages),
    # Python 3.12 and later let the frames of a traceback keep those that called them, ours with their locals included:
    # there an error that was raised is in a cycle whatever the engine does.
    *((caught, failed) if sys.version_info < (3, 12) else ()),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("cycles") / "runs.db") as engine:
        yield engine


def carry(engine: Engine, subject: Workflow[[int], Any], steps_each: int) -> None:
    runs = [engine.start(subject, steps_each) for _ in range(_RUNS)]
    for run in runs:
        if subject in (messages, plain_messages):
            engine.send(run.id, "go")
        try:
            run.result(timeout=60)
        except ValueError:
            assert subject is failed


def cycles(engine: Engine, subject: Workflow[[int], Any], steps_each: int) -> Counter[str]:
    """Return what reference counts alone do not free, by type."""
    gc.collect()
    gc.disable()
    try:
        carry(engine, subject, steps_each)
        # One more run after them: what the engine's thread did for the last of them is over when this one has ended.
        engine.start(steps, 1).result(timeout=60)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found: list[Any] = [*gc.garbage]
        return Counter(type(each).__name__ for each in found)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("subject", WORKFLOWS, ids=lambda subject: subject.name)
def test_runs_leave_no_reference_cycles(subject: Workflow[[int], Any], engine: Engine) -> None:
    carry(engine, subject, 5)  # what is made once and kept
    left = cycles(engine, subject, 5)
    # Ten objects in all may be of the machinery around (a log handler, a future of a caller's); one a run would be 20.
    assert left.total() < _RUNS // 2, left
