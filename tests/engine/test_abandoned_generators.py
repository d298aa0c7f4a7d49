"""An async generator that code leaves in the middle is closed as asyncio closes it: once, and in every replay there."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

import pytest

from stepwell import receive, step, sync, workflow
from stepwell.model.journal import ABANDONED
from stepwell.testing import TestEngine

executed: list[Any] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step(name="note")
async def note(what: Any) -> Any:
    executed.append(what)
    return what


@step(name="note plainly")
def note_plainly(what: Any) -> Any:
    executed.append(what)
    return what


async def numbers(out: list[Any], name: str = "numbers", pause: float = 0.7) -> AsyncGenerator[int, None]:
    """Count; clean up with a pause, a step and a `def` step."""
    try:
        for number in range(5):
            await asyncio.sleep(1)
            yield number
    finally:
        out.append(f"closing {name}")
        await asyncio.sleep(pause)
        out.append(await note(f"closed {name}"))
        note_plainly(f"plainly closed {name}")


async def first_of(source: AsyncIterator[int]) -> int:
    async for number in source:
        return number
    raise AssertionError


async def breaks() -> list[Any]:
    out: list[Any] = []
    async for number in numbers(out):
        if number:
            break
    out.append("broke")
    await asyncio.sleep(10)
    return out


async def returns_from_the_loop() -> list[Any]:
    out: list[Any] = []
    async for number in numbers(out):
        if number:
            return out
    raise AssertionError


async def raises_in_the_loop() -> list[Any]:
    out: list[Any] = []
    with suppress(LookupError):
        async for number in numbers(out):
            raise LookupError(number)
    await asyncio.sleep(10)
    return out


async def takes_the_first_of_several() -> list[Any]:
    out: list[Any] = []
    found = await asyncio.gather(*(first_of(numbers(out, name, 1 / len(name))) for name in ("a", "bb", "ccc")))
    await asyncio.sleep(10)
    return [found, out]


async def is_cancelled_in_the_middle() -> list[Any]:
    out: list[Any] = []
    task = asyncio.create_task(first_of(numbers(out)))
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])
    return out


async def closes_itself() -> list[Any]:
    out: list[Any] = []
    async with aclosing(numbers(out)) as source:
        await first_of(source)
    return out


async def exhausts() -> list[Any]:
    out: list[Any] = []
    out += [number async for number in numbers(out)]
    return out


async def keeps_it_to_the_end() -> list[Any]:
    out: list[Any] = []
    source = numbers(out)
    await first_of(source)
    await asyncio.sleep(3)
    return out


async def returns_while_it_is_closed() -> list[Any]:
    out: list[Any] = []
    async for _ in numbers(out):
        break
    await asyncio.sleep(0.1)
    return out


async def one_inside_another() -> list[Any]:
    out: list[Any] = []

    async def doubled() -> AsyncGenerator[int, None]:
        try:
            async for number in numbers(out):
                yield 2 * number
        finally:
            out.append("outer")

    async for number in doubled():
        if number:
            break
    await asyncio.sleep(10)
    return sorted(map(str, out))  # asyncio closes the inner one when the outer one's frame is gone, not before


async def never_begins() -> list[Any]:
    out: list[Any] = []
    numbers(out)
    await asyncio.sleep(1)
    return out


async def fails_while_it_is_closed() -> list[Any]:
    async def fails() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            raise LookupError("of the clean-up")

    await first_of(fails())
    await asyncio.sleep(1)
    return ["went on"]


async def many() -> list[Any]:
    out: list[Any] = []
    for name in range(20):
        await first_of(numbers(out, str(name)))
    await asyncio.sleep(10)
    return out


CASES: list[Callable[[], Coroutine[Any, Any, list[Any]]]] = [
    breaks,
    returns_from_the_loop,
    raises_in_the_loop,
    takes_the_first_of_several,
    is_cancelled_in_the_middle,
    closes_itself,
    exhausts,
    keeps_it_to_the_end,
    returns_while_it_is_closed,
    one_inside_another,
    never_begins,
    fails_while_it_is_closed,
    many,
]
BY_NAME = {case.__name__: case for case in CASES}
#: asyncio begins to close these, and ends before that is done. Here a run ends when it is done.
LEFT_AT_THE_END = [returns_from_the_loop, keeps_it_to_the_end, returns_while_it_is_closed]


@workflow
async def executes(case: str) -> list[Any]:
    return await BY_NAME[case]()


async def without_waiting(case: Callable[[], Coroutine[Any, Any, list[Any]]]) -> list[Any]:
    """Execute a case as asyncio does, on a clock that jumps to the next timer."""
    loop: Any = asyncio.get_running_loop()
    elapsed = 0.0
    select, loop.time = loop._selector.select, lambda: elapsed

    def jump(timeout: float | None = None) -> Any:
        nonlocal elapsed
        elapsed += timeout or 0.0
        return select(0)

    loop._selector.select = jump
    return await case()


def as_asyncio_does(case: Callable[[], Coroutine[Any, Any, list[Any]]]) -> tuple[list[Any], list[Any]]:
    found = asyncio.run(without_waiting(case))  # what it returns may still change while the program ends
    result = [*executed]
    executed.clear()
    return found, result


@pytest.mark.parametrize("how", ["live", "evicted", "crashed"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("error")
def test_it_is_closed_as_asyncio_closes_it(
    engine: TestEngine, case: Any, how: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    expected = as_asyncio_does(case)
    if case in LEFT_AT_THE_END:
        expected = ["closing numbers", "closed numbers"], ["closed numbers", "plainly closed numbers"]
    gc.collect()
    capfd.readouterr()
    caplog.clear()
    if how == "evicted":
        engine.reopen(max_waiting_in_memory=0)
    run = engine.start(executes, case.__name__)
    for second in range(60):
        engine.advance(1)
        if second % 4 == 0:
            gc.collect()
        if how == "crashed" and run.info().status == "waiting":
            engine.crash()
            engine.reopen().idle()
        if run.info().status == "completed":
            break
    found = run.result(timeout=60)
    assert (found, executed) == expected
    assert "".join(capfd.readouterr()) == ""
    said = [record.getMessage() for record in caplog.records if record.levelname not in ("INFO", "DEBUG")]
    assert len(said) == (case is fails_while_it_is_closed), said


def test_the_moment_at_which_the_collector_finds_one_is_in_the_journal(engine: TestEngine) -> None:
    @workflow
    async def in_a_cycle() -> list[Any]:
        out: list[Any] = []
        holder: list[Any] = []
        holder += [holder, numbers(out)]
        await first_of(holder[1])
        del holder
        out.append(await receive("go"))
        await asyncio.sleep(10)
        return out

    gc.collect()
    gc.disable()
    try:
        run = engine.start(in_a_cycle)
        engine.advance(1)
        gc.collect()
        run.send("go", "went")
        engine.idle()
        assert [line.name for line in run.journal() if not line.operation] == [f"{ABANDONED}1"]
        engine.crash()
        engine.reopen(max_waiting_in_memory=0)  # where the collector has not found it, when the journal says it had
        engine.advance(20)
    finally:
        gc.enable()
    assert run.result(timeout=60) == ["went", "closing numbers", "closed numbers"] or run.result() == [
        "closing numbers",
        "went",
        "closed numbers",
    ]
    assert executed == ["closed numbers", "plainly closed numbers"]


def test_code_that_has_changed_and_leaves_no_generator_goes_on(engine: TestEngine) -> None:
    @workflow(name="changes")
    async def leaves_one() -> str:
        async def quiet() -> AsyncGenerator[int, None]:
            yield 1

        await first_of(quiet())
        return await receive("go", str)

    run = engine.start(leaves_one)
    engine.idle()
    engine.crash()

    @workflow(name="changes")
    async def leaves_none() -> str:
        return await receive("go", str)

    engine.reopen(workflows=[leaves_none])
    run.send("go", "mended")
    assert run.result(timeout=60) == "mended"


def test_code_that_leaves_one_in_each_round_of_polling_holds_up_nobody(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.replay.loop.MAX_TURNS", 20)
    closed: list[int] = []

    @workflow
    async def polls() -> int:
        async def one() -> AsyncGenerator[int, None]:
            try:
                yield 1
            finally:
                closed.append(1)

        over = asyncio.create_task(asyncio.sleep(5))
        rounds = 0
        while not over.done():
            rounds += await first_of(one())
            await asyncio.sleep(0)
        await asyncio.sleep(1)
        return rounds

    run = engine.start(polls)
    engine.advance(7)
    assert run.result(timeout=60) == len(closed)


def test_a_def_workflow_closes_them_as_well(engine: TestEngine) -> None:
    @workflow
    def plain() -> list[Any]:
        out: list[Any] = []
        task = asyncio.get_running_loop().create_task(first_of(numbers(out)))
        sync.sleep(10)
        out.append(task.result())
        return out

    run = engine.start(plain)
    engine.advance(20)
    assert run.result(timeout=60) == ["closing numbers", "closed numbers", 0]


def test_generators_of_programs_of_plain_asyncio_are_not_touched(engine: TestEngine) -> None:
    hooks = sys.get_asyncgen_hooks()
    engine.start(executes, "breaks")
    engine.advance(20)
    assert sys.get_asyncgen_hooks() == hooks
    assert as_asyncio_does(breaks)[0][-1] == "closed numbers"
