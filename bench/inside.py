"""The measured processes: what executes with Stepwell. ``python -m bench.inside PHASE '{"option": …}'``.

`bench.workloads` says what each phase is for and turns what it tells into figures; `bench.peers` have the same phases.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from bench import baseline
from bench.measure import Facts, in_async_turns, in_turns, p50, resident_bytes, say, serve, stay
from stepwell import AsyncEngine, Engine, Run, publish, receive, step, workflow
from stepwell.sync import receive as sync_receive

#: When steps of `sequence` began, by `perf_counter`.
_began: list[float] = []


def _p50_between_steps() -> float:
    seconds = [after - before for before, after in pairwise(_began)]
    _began.clear()
    return p50(seconds)


# --- W1 --------------------------------------------------------------------------------------------------------------


@step
async def tick(number: int) -> int:
    """Do nothing, and note when."""
    _began.append(perf_counter())
    return number


@step
def plain_tick(number: int) -> int:
    """Do nothing, and note when."""
    _began.append(perf_counter())
    return number


@workflow
async def sequence_of_async_steps(steps: int) -> int:
    """Call steps one after another."""
    for number in range(steps):
        await tick(number)
    return steps


@workflow
def sequence_of_def_steps(steps: int) -> int:
    """Call steps one after another."""
    for number in range(steps):
        plain_tick(number)
    return steps


def sequence(directory: str, steps: int, rounds: int) -> Facts:
    """Measure the seconds from the start of one step to the start of the next, each kind in turns with a raw commit."""
    folder = Path(directory)
    raw = baseline.against(folder / "raw.db", lambda connection: baseline.single_commit_p50(connection, steps))
    with Engine(folder / "runs.db") as engine:

        def run_with(flow: Callable[[int], Any]) -> float:
            engine.start(flow, steps).result()
            return _p50_between_steps()

        with_async = in_turns(rounds, raw=raw, subject=lambda: run_with(sequence_of_async_steps))
        with_def = in_turns(rounds, raw=raw, subject=lambda: run_with(sequence_of_def_steps))
    in_asyncio = asyncio.run(_sequence_in_asyncio(folder / "runs-asyncio.db", steps, rounds, raw))
    return {"async": with_async, "def": with_def, "asyncio": in_asyncio}


async def _sequence_in_asyncio(path: Path, steps: int, rounds: int, raw: Callable[[], float]) -> Facts:
    async with AsyncEngine(path) as engine:

        async def one_run() -> float:
            await (await engine.start(sequence_of_async_steps, steps)).result()
            return _p50_between_steps()

        return await in_async_turns(rounds, raw=raw, subject=one_run)


# --- W2, W7 ----------------------------------------------------------------------------------------------------------


@step
async def noop(number: int) -> int:
    """Do nothing."""
    return number


@workflow
async def several_steps(steps: int) -> int:
    """Call steps that do nothing, one after another."""
    number = 0
    for number in range(steps):
        await noop(number)
    return number


def burst(directory: str, runs: int, steps: int, rounds: int) -> Facts:
    """Measure the steps a second of many runs at once, in turns with the bare prototype, for each way to start them."""
    folder = Path(directory)
    raw = baseline.against(folder / "raw.db", lambda connection: baseline.prototype(connection, runs, steps))
    with Engine(folder / "runs.db") as engine:
        in_one = in_turns(rounds, raw=raw, subject=lambda: _burst_in_one_transaction(engine, runs, steps))
    in_asyncio = asyncio.run(_burst_in_asyncio(folder / "runs-asyncio.db", runs, steps, rounds, raw))
    return {"transaction": in_one, "asyncio": in_asyncio}


def _burst_in_one_transaction(engine: Engine, runs: int, steps: int) -> float:
    began = perf_counter()
    with engine.transaction() as tx:
        started = [tx.start(several_steps, steps) for _ in range(runs)]
    # One wait and one look into the file see the last end; a wait for each run would measure waits.
    started[-1].result()
    while engine.list(status=("pending", "running", "waiting"), limit=1):
        time.sleep(0.0005)
    rate = runs * steps / (perf_counter() - began)
    assert {run.result() for run in started} == {steps - 1}
    return rate


async def _burst_in_asyncio(path: Path, runs: int, steps: int, rounds: int, raw: Callable[[], float]) -> Facts:
    async with AsyncEngine(path) as engine:

        async def one_run() -> int:
            return await (await engine.start(several_steps, steps)).result()

        async def all_runs() -> float:
            began = perf_counter()
            await asyncio.gather(*(one_run() for _ in range(runs)))
            return runs * steps / (perf_counter() - began)

        return await in_async_turns(rounds, raw=raw, subject=all_runs)


def grow(directory: str, runs: int, steps: int) -> Facts:
    """Run runs to their end and close the file."""
    with Engine(Path(directory) / "runs.db") as engine:
        _burst_in_one_transaction(engine, runs, steps)
    return {}


# --- W4 --------------------------------------------------------------------------------------------------------------

_DAY_SECONDS = 24 * 3600.0


@workflow
async def sleep_for_a_day() -> int:
    """Park with a due time."""
    await asyncio.sleep(_DAY_SECONDS)
    return 1


@workflow
async def wait_for_a_word() -> int:
    """Park without one."""
    return await receive("word", int)


def park(directory: str, first: int, parked: int, beyond: int) -> Facts:
    """Park `parked` runs and `beyond` more; tell by how much memory grew for each; wait for the kill.

    Up to `first` it is a warm-up. Up to `parked`, SQLite's page cache fills to its bound; `beyond` shows what is left.
    """
    with Engine(Path(directory) / "runs.db") as engine:
        _park(engine, first)
        before = resident_bytes()
        began = perf_counter()
        _park(engine, parked - first)
        seconds = perf_counter() - began
        filled = resident_bytes()
        _park(engine, beyond)
        say(
            {
                "resident_bytes": filled,
                "bytes_per_run": (filled - before) / (parked - first),
                "bytes_per_run_beyond": (resident_bytes() - filled) / beyond,
                "runs_per_second": (parked - first) / seconds,
            }
        )
        stay()
    return {}


def _park(engine: Engine, count: int) -> None:
    """Park `count` more runs, every other one with a due time."""
    for at in range(0, count, 1_000):
        with engine.transaction() as tx:
            for number in range(min(1_000, count - at)):
                tx.start(sleep_for_a_day if number % 2 else wait_for_a_word)
        while engine.list(status="running", limit=1):
            time.sleep(0.001)


def unpark(directory: str) -> Facts:
    """Open a file of parked runs and tell after how many seconds what happened."""
    folder = Path(directory)
    raw = baseline.open_and_commit(folder / "raw.db")
    began = perf_counter()
    with Engine(folder / "runs.db") as engine:
        opened = perf_counter() - began
        engine.start(several_steps, 1).result()
        fresh = perf_counter() - began
        run: Run[int] = engine.list(workflow=wait_for_a_word, status="waiting", limit=1)[0]
        asked = perf_counter()
        run.send("word", 1)
        run.result()
        woken = perf_counter()
    return {"raw": raw, "opened": opened, "new_run": fresh, "parked_run": woken - began, "wake": woken - asked}


# --- W5 --------------------------------------------------------------------------------------------------------------

#: The steps of `half_way` that were executed in this process.
_executed: list[int] = []
_hold: asyncio.Event | None = None


@step
async def counted(number: int, middle: int) -> int:
    """Note that it was executed; where the process is to be killed, hold it up in the middle."""
    _executed.append(number)
    if number == middle and _hold is not None:
        await _hold.wait()
    return number


@workflow
async def half_way(steps: int) -> int:
    """Call steps, of which one may be held up."""
    for number in range(steps):
        await counted(number, steps // 2)
    return steps


def midway(directory: str, runs: int, steps: int) -> Facts:
    """Bring runs to their middle and wait to be killed. A step starts only when what led to it is durable."""
    global _hold  # noqa: PLW0603 - what a step of this process finds
    _hold = asyncio.Event()
    with Engine(Path(directory) / "runs.db") as engine:
        with engine.transaction() as tx:
            for number in range(runs):
                tx.start(half_way, steps, id=f"run-{number}")
        while _executed.count(steps // 2) < runs:
            time.sleep(0.001)
        stay()
    return {}


def finish(directory: str, runs: int, steps: int) -> Facts:
    """Open the file after the kill; tell the seconds until all was done, and how many recorded steps were repeated."""
    folder = Path(directory)
    connection = baseline.connect(folder / "raw.db")
    rest = steps - steps // 2
    raw = runs * rest / baseline.prototype(connection, runs, rest)
    connection.close()

    async def recover() -> tuple[float, float]:
        began = perf_counter()
        async with AsyncEngine(folder / "runs.db") as engine:
            opened = perf_counter() - began
            handles = [await engine.get(f"run-{number}") for number in range(runs)]
            results = await asyncio.gather(*(run.result() for run in handles))
            done = perf_counter() - began
        assert results == [steps] * runs, "a run ended with another result"
        return opened, done

    opened, done = asyncio.run(recover())
    return {
        "raw": raw,
        "opened": opened,
        "done": done,
        "repeated": sum(number < steps // 2 for number in _executed),
        "executed": len(_executed),
    }


# --- W6 --------------------------------------------------------------------------------------------------------------


@workflow
async def answer_once() -> int:
    """Take a question, and end with the answer."""
    return await receive("question", int) + 1


@workflow
def answer_once_in_def() -> int:
    """Take a question, and end with the answer."""
    return sync_receive("question", int) + 1


@workflow
async def answer_always() -> None:
    """Take questions and publish answers, until cancelled."""
    number = 0
    while True:
        question = await receive("question", int)
        await publish(f"answer-{number}", question + 1)
        number += 1


def answers(directory: str, count: int, rounds: int) -> Facts:
    """Measure the seconds from sending a message to having the answer, in turns with a raw commit."""
    folder = Path(directory)
    raw = baseline.against(folder / "raw.db", lambda connection: baseline.single_commit_p50(connection, count))
    with Engine(folder / "runs.db") as engine:
        by_result = in_turns(rounds, raw=raw, subject=lambda: _ask_by_result(engine, answer_once, count))
        in_def = in_turns(rounds, raw=raw, subject=lambda: _ask_by_result(engine, answer_once_in_def, count))
        speaker = engine.start(answer_always)
        asked = iter(range(10**9))
        by_value = in_turns(rounds, raw=raw, subject=lambda: ask_by_value(speaker, asked, count))
    with Engine(folder / "parked.db", max_waiting_in_memory=0) as engine:
        parked = in_turns(rounds, raw=raw, subject=lambda: _ask_by_result(engine, answer_once, count))
    in_asyncio = asyncio.run(_answers_in_asyncio(folder / "asyncio.db", count, rounds, raw))
    return {"result": by_result, "def": in_def, "value": by_value, "parked": parked, "asyncio": in_asyncio}


def _ask_by_result(engine: Engine, flow: Callable[[], Any], count: int) -> float:
    runs = [engine.start(flow) for _ in range(count)]
    while engine.list(status="running", limit=1):
        time.sleep(0.001)
    return p50([time_of_answer(run, number) for number, run in enumerate(runs)])


def time_of_answer(run: Run[int], number: int) -> float:
    """Return the seconds from asking a run to having its result."""
    began = perf_counter()
    run.send("question", number)
    answer = run.result()
    seconds = perf_counter() - began
    assert answer == number + 1
    return seconds


def ask_by_value(run: Run[None], asked: Iterator[int], count: int) -> float:
    """Return the median of the seconds from asking a run to having the answer that it publishes."""
    seconds = []
    for _ in range(count):
        number = next(asked)
        began = perf_counter()
        run.send("question", number)
        answer = run.value(f"answer-{number}")
        seconds.append(perf_counter() - began)
        assert answer == number + 1
    return p50(seconds)


async def _answers_in_asyncio(path: Path, count: int, rounds: int, raw: Callable[[], float]) -> Facts:
    async with AsyncEngine(path) as engine:

        async def ask() -> float:
            runs = [await engine.start(answer_once) for _ in range(count)]
            while await engine.list(status="running", limit=1):  # noqa: ASYNC110 - what others would see is asked
                await asyncio.sleep(0.001)
            seconds = []
            for number, run in enumerate(runs):
                began = perf_counter()
                await run.send("question", number)
                answer = await run.result()
                seconds.append(perf_counter() - began)
                assert answer == number + 1
            return p50(seconds)

        return await in_async_turns(rounds, raw=raw, subject=ask)


PHASES: dict[str, Callable[..., Facts]] = {
    phase.__name__: phase for phase in (sequence, burst, grow, park, unpark, midway, finish, answers)
}

if __name__ == "__main__":
    serve(PHASES)
