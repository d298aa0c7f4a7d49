"""The measured processes that share a file with others. ``python -m bench.together PHASE '{"option": …}'``.

`bench.several` starts them, tells them when to do what, and turns what they say into figures.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from itertools import count as numbers
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from bench import baseline
from bench.inside import answer_always, answer_once, ask_by_value, several_steps, time_of_answer
from bench.measure import Facts, in_turns, obey, p50, say, serve, stay
from stepwell import Engine, step, workflow

# --- W6x -------------------------------------------------------------------------------------------------------------


def answering(directory: str, in_memory: int) -> Facts:
    """Be the worker in which runs wait for messages; `in_memory` is how many of them may stay in memory."""
    with Engine(Path(directory) / "runs.db", workflows=[answer_once, answer_always], max_waiting_in_memory=in_memory):
        stay()
    return {}


def asking(directory: str, count: int, rounds: int, kinds: Sequence[str]) -> Facts:
    """Measure, as a mere client, the seconds from sending a message to having the answer, in turns with a raw commit.

    `kinds` are those of answers: the run's ``result``, a published ``value``.
    """
    folder = Path(directory)
    raw = baseline.against(folder / "raw.db", lambda connection: baseline.single_commit_p50(connection, count))
    with Engine(folder / "runs.db", workflows=[]) as engine:

        def by_result() -> float:
            runs = [engine.start(answer_once) for _ in range(count)]
            while engine.list(status=("pending", "running"), limit=1):
                time.sleep(0.001)
            return p50([time_of_answer(run, number) for number, run in enumerate(runs)])

        speaker = engine.start(answer_always)
        asked = numbers()
        subjects = {"result": by_result, "value": lambda: ask_by_value(speaker, asked, count)}
        return {kind: in_turns(rounds, raw=raw, subject=subjects[kind]) for kind in kinds}


# --- takeover --------------------------------------------------------------------------------------------------------

#: How many steps of `labour` were begun in this process.
_begun: list[int] = []


@step
async def toil(number: int, seconds: float) -> int:
    """Take a while."""
    _begun.append(number)
    await asyncio.sleep(seconds)
    return number


@workflow
async def labour(steps: int, seconds: float) -> int:
    """Call steps that take a while, one after another."""
    for number in range(steps):
        await toil(number, seconds)
    return steps


def labouring(directory: str, runs: int, steps: int, seconds: float) -> Facts:
    """Start runs and have them under way; tell the worker's epoch and their ids; wait to be killed."""
    with Engine(Path(directory) / "runs.db") as engine:
        with engine.transaction() as tx:
            ids = [tx.start(labour, steps, seconds).id for _ in range(runs)]
        while len(_begun) < 2 * runs:
            time.sleep(0.001)
        epochs = [worker.epoch for worker in engine.workers() if worker.pid == os.getpid()]
        say({"epoch": epochs[-1], "runs": ids})
        stay()
    return {}


# --- scaling ---------------------------------------------------------------------------------------------------------


def crew(directory: str) -> Facts:
    """Be one of several workers, each of which carries on the runs that it starts."""
    with Engine(Path(directory) / "runs.db") as engine:

        def burst(runs: int, steps: int) -> Facts:
            with engine.transaction() as tx:
                started = [tx.start(several_steps, steps) for _ in range(runs)]
            started[-1].result()
            return {}

        obey({"burst": burst})
    return {}


# --- isolated --------------------------------------------------------------------------------------------------------


@step(isolate="process")
def far_step(number: int) -> int:
    """Tell when it began, by a clock that all processes share."""
    del number
    return time.monotonic_ns()


@step
def near_step(number: int) -> int:
    """Tell when it began."""
    del number
    return time.monotonic_ns()


@step(isolate="process")
def far_spin(number: int, seconds: float) -> int:
    """Compute."""
    return _spin(number, seconds)


@step
def near_spin(number: int, seconds: float) -> int:
    """Compute."""
    return _spin(number, seconds)


def _spin(number: int, seconds: float) -> int:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        number += 1
    return number


@workflow
def sequence_of_far_steps(steps: int) -> list[int]:
    """Call isolated steps one after another; return when they began."""
    return [far_step(number) for number in range(steps)]


@workflow
def sequence_of_near_steps(steps: int) -> list[int]:
    """Call steps in threads one after another; return when they began."""
    return [near_step(number) for number in range(steps)]


@workflow
async def far_spins(count: int, seconds: float) -> None:
    """Compute in several processes at once."""
    await asyncio.gather(*(asyncio.to_thread(far_spin, number, seconds) for number in range(count)))


@workflow
async def near_spins(count: int, seconds: float) -> None:
    """Compute in several threads at once."""
    await asyncio.gather(*(asyncio.to_thread(near_spin, number, seconds) for number in range(count)))


def isolating(directory: str, steps: int, spin_seconds: float, rounds: int, spin_rounds: int) -> Facts:
    """Measure what a process of its own costs a step, and what it gains one that computes."""
    with Engine(Path(directory) / "runs.db", step_processes=2) as engine:

        def between(flow: Callable[[int], Any]) -> float:
            began = engine.start(flow, steps).result()
            return p50([(after - before) / 1e9 for before, after in pairwise(began)])

        def together(flow: Callable[[int, float], Any], count: int) -> float:
            began = perf_counter()
            engine.start(flow, count, spin_seconds).result()
            return perf_counter() - began

        calls = in_turns(
            rounds, near=lambda: between(sequence_of_near_steps), far=lambda: between(sequence_of_far_steps)
        )
        spins = in_turns(
            spin_rounds,
            one=lambda: together(far_spins, 1),
            two=lambda: together(far_spins, 2),
            threads=lambda: together(near_spins, 2),
        )
    return {"calls": calls, "spins": spins}


PHASES: dict[str, Callable[..., Facts]] = {
    phase.__name__: phase for phase in (answering, asking, labouring, crew, isolating)
}

if __name__ == "__main__":
    serve(PHASES)
