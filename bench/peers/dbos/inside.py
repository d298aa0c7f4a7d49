"""The phases of `bench.inside`, with DBOS. ``python -m bench.peers.dbos.inside PHASE '{"option": …}'``."""

# mypy: ignore-errors
# DBOS is installed only where it is measured: here it has no types to check.

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter

from dbos import DBOS, SetWorkflowID

from bench import baseline
from bench.measure import Facts, in_async_turns, in_turns, p50, serve, stay

_began: list[float] = []
_executed: list[int] = []
_hold: asyncio.Event | None = None


@contextmanager
def launched(directory: str) -> Iterator[None]:
    """Have DBOS run on the file that the phases of one workload share."""
    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{directory}/runs.db",
            "log_level": "ERROR",
            "application_version": "bench",
        }
    )
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()


def _p50_between_steps() -> float:
    seconds = [after - before for before, after in pairwise(_began)]
    _began.clear()
    return p50(seconds)


@DBOS.step()
async def tick(number: int) -> int:
    """Do nothing, and note when."""
    _began.append(perf_counter())
    return number


@DBOS.step()
def plain_tick(number: int) -> int:
    """Do nothing, and note when."""
    _began.append(perf_counter())
    return number


@DBOS.workflow()
async def sequence_of_async_steps(steps: int) -> int:
    """Call steps one after another."""
    for number in range(steps):
        await tick(number)
    return steps


@DBOS.workflow()
def sequence_of_def_steps(steps: int) -> int:
    """Call steps one after another."""
    for number in range(steps):
        plain_tick(number)
    return steps


def sequence(directory: str, steps: int, rounds: int) -> Facts:
    """Measure the seconds from the start of one step to the start of the next, in turns with a raw commit."""
    path = Path(directory) / "raw.db"
    raw = baseline.against(path, lambda connection: baseline.single_commit_p50(connection, steps))

    def one_def() -> float:
        DBOS.start_workflow(sequence_of_def_steps, steps).get_result()
        return _p50_between_steps()

    async def one_async() -> float:
        await (await DBOS.start_workflow_async(sequence_of_async_steps, steps)).get_result()
        return _p50_between_steps()

    with launched(directory):
        with_def = in_turns(rounds, raw=raw, subject=one_def)
        with_async = asyncio.run(in_async_turns(rounds, raw=raw, subject=one_async))
    return {"async": with_async, "def": with_def}


@DBOS.step()
async def noop(number: int) -> int:
    """Do nothing."""
    return number


@DBOS.workflow()
async def several_steps(steps: int) -> int:
    """Call steps that do nothing, one after another."""
    number = 0
    for number in range(steps):
        await noop(number)
    return number


async def _all_runs(runs: int, steps: int) -> float:
    async def one_run() -> int:
        return await (await DBOS.start_workflow_async(several_steps, steps)).get_result()

    began = perf_counter()
    await asyncio.gather(*(one_run() for _ in range(runs)))
    return runs * steps / (perf_counter() - began)


def burst(directory: str, runs: int, steps: int, rounds: int) -> Facts:
    """Measure the steps a second of many runs at once, in turns with the bare prototype."""
    path = Path(directory) / "raw.db"
    raw = baseline.against(path, lambda connection: baseline.prototype(connection, runs, steps))
    with launched(directory):
        return {"asyncio": asyncio.run(in_async_turns(rounds, raw=raw, subject=lambda: _all_runs(runs, steps)))}


def grow(directory: str, runs: int, steps: int) -> Facts:
    """Run runs to their end and close the file."""
    with launched(directory):
        asyncio.run(_all_runs(runs, steps))
    return {}


@DBOS.step()
async def counted(number: int, middle: int) -> int:
    """Note that it was executed; where the process is to be killed, hold it up in the middle."""
    _executed.append(number)
    if number == middle and _hold is not None:
        await _hold.wait()
    return number


@DBOS.workflow()
async def half_way(steps: int) -> int:
    """Call steps, of which one may be held up."""
    for number in range(steps):
        await counted(number, steps // 2)
    return steps


def midway(directory: str, runs: int, steps: int) -> Facts:
    """Bring runs to their middle and wait to be killed."""

    async def start() -> None:
        global _hold  # noqa: PLW0603 - what a step of this process finds
        _hold = asyncio.Event()
        for number in range(runs):
            with SetWorkflowID(f"run-{number}"):
                await DBOS.start_workflow_async(half_way, steps)
        while _executed.count(steps // 2) < runs:
            await asyncio.sleep(0.001)
        stay()

    with launched(directory):
        asyncio.run(start())
    return {}


def finish(directory: str, runs: int, steps: int) -> Facts:
    """Open the file after the kill; tell the seconds until all was done, and how many recorded steps were repeated."""
    connection = baseline.connect(Path(directory) / "raw.db")
    rest = steps - steps // 2
    raw = runs * rest / baseline.prototype(connection, runs, rest)
    began = perf_counter()
    with launched(directory):
        opened = perf_counter() - began
        results = [DBOS.retrieve_workflow(f"run-{number}").get_result() for number in range(runs)]
        done = perf_counter() - began
    assert results == [steps] * runs, "a run ended with another result"
    repeated = sum(number < steps // 2 for number in _executed)
    return {"raw": raw, "opened": opened, "done": done, "repeated": repeated, "executed": len(_executed)}


@DBOS.workflow()
def answer_once() -> int:
    """Take a question, and end with the answer."""
    return DBOS.recv("question") + 1


@DBOS.workflow()
def answer_always(count: int) -> None:
    """Take questions and publish answers."""
    for number in range(count):
        DBOS.set_event(f"answer-{number}", DBOS.recv("question") + 1)


def answers(directory: str, count: int, rounds: int) -> Facts:
    """Measure the seconds from sending a message to having the answer, in turns with a raw commit."""
    path = Path(directory) / "raw.db"
    raw = baseline.against(path, lambda connection: baseline.single_commit_p50(connection, count))

    def by_result() -> float:
        return p50([_seconds(DBOS.start_workflow(answer_once)) for _ in range(count)])

    with launched(directory):
        results = in_turns(rounds, raw=raw, subject=by_result)
        speaker = DBOS.start_workflow(answer_always, count * (rounds + 1)).workflow_id
        asked = iter(range(10**9))
        values = in_turns(rounds, raw=raw, subject=lambda: p50([_ask(speaker, next(asked)) for _ in range(count)]))
    return {"result": results, "value": values}


def _seconds(handle: object) -> float:
    began = perf_counter()
    DBOS.send(handle.workflow_id, 1, "question")
    assert handle.get_result() == 2
    return perf_counter() - began


def _ask(run: str, number: int) -> float:
    began = perf_counter()
    DBOS.send(run, number, "question")
    assert DBOS.get_event(run, f"answer-{number}") == number + 1
    return perf_counter() - began


PHASES: dict[str, Callable[..., Facts]] = {
    phase.__name__: phase for phase in (sequence, burst, grow, midway, finish, answers)
}

if __name__ == "__main__":
    serve(PHASES)
