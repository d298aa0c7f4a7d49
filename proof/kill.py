"""SIGKILL of one of four workers under load, again and again: nothing is lost, nothing that was recorded is repeated.

Four processes serve a file; a client starts runs all the time. Every few milliseconds one of the four is killed,
wherever it is, opening the file or in the midst of a commit, and another one comes in its place. In the end every run
that was acknowledged must have ended with its right result; `proof.verdict` compares the log of executions with the
journal. Half of the crews leave forked children behind, which outlive their killed workers.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from proof.crew import Crew
from proof.load import CUSTOMERS, HANG_SECONDS, Load
from proof.pool import scratch, spread
from proof.result import Control, Result, judged
from proof.verdict import Evidence, judge, left_behind, quantile, repetitions, takeovers

FAULT: Final = "SIGKILL of one of 4 workers under load, every few to 100 ms"
CI_CASES: Final = 300
SOAK: Final = "make proof NAME=kill CASES=10000"

WORKERS: Final = 4
#: The longest time between two kills, in seconds.
LONGEST_PAUSE_SECONDS: Final = 0.1
#: How many kills one file sees.
_ROUND: Final = 75
_OPTIONS: Final[Mapping[str, Any]] = {
    # Killing is what this harness does; the engine must not put it down to the runs.
    "max_crashes": 1000,
    # So few that runs leave memory, and are taken up again by others, all the time.
    "max_waiting_in_memory": 8,
}
_FAILURES_TOLD: Final = 20
#: After how many runs a control that nobody has noticed goes unnoticed.
_CONTROL_RUNS: Final = 500
#: On how many files, one after the other, a control may go unnoticed.
_CONTROL_FILES: Final = 5
#: After how long a run of a control hangs, in seconds.
_CONTROL_HANG_SECONDS: Final = 4.0
#: Names of the controls, how many kills each sees, and how many runs are under way at once: workers that have much to
#: do find by the way what nobody told them.
_CONTROLS: Final = {
    "recovery that skips a child": (12, CUSTOMERS),
    "wake-up lost without the fallback": (2, 2),
    "lock inherited by a child": (3, CUSTOMERS),
}
#: What must be seen of each in the file: anything else that goes wrong proves nothing.
_REASONS: Final = {
    "recovery that skips a child": ("a child, is left to a worker that has ended",),
    "wake-up lost without the fallback": ("has no owner, and nobody takes it up",),
    "lock inherited by a child": ("is left to a worker whose process is gone",),
}


@dataclass
class Round:
    """What became of one file."""

    seed: int
    kills: int
    failures: list[str] = field(default_factory=list)
    runs: int = 0
    steps: int = 0
    repeated: int = 0
    messages: int = 0
    slowest_seconds: float = 0.0
    takeovers: list[float] = field(default_factory=list)


def run(cases: int, jobs: int, seed: int) -> Result:
    """Kill `cases` workers, on files one after the other."""
    rounds = [(seed * 1_000 + number, min(_ROUND, cases - at)) for number, at in enumerate(range(0, cases, _ROUND))]
    done = spread(_round, rounds, jobs // WORKERS)
    latencies = sorted(latency for one in done for latency in one.takeovers)
    failures = [f"seed {one.seed}: {failure}" for one in done for failure in one.failures]
    return Result(
        name="kill",
        fault=FAULT,
        cases=sum(one.kills for one in done),
        failures=len(failures),
        details={
            "runs ended": sum(one.runs for one in done),
            "executions of steps": sum(one.steps for one in done),
            "of these repeated, because not recorded": sum(one.repeated for one in done),
            "messages": sum(one.messages for one in done),
            "slowest run, seconds": round(max(one.slowest_seconds for one in done), 2),
            "takeovers seen": len(latencies),
            "takeover p50, ms": quantile(latencies, 0.5),
            "takeover p90, ms": quantile(latencies, 0.9),
            "failed": failures[:_FAILURES_TOLD],
        },
        controls=[_control(name, seed) for name in _CONTROLS],
        seconds=0.0,
        command="",
    )


def _round(case: tuple[int, int]) -> Round:
    seed, kills = case
    with scratch() as folder:
        found = _kill(folder, seed, kills, "", CUSTOMERS)
        if found.failures:
            kept = Path(__file__).with_name("results") / "failed-kill" / str(seed)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*-peers"))
        return found


def _control(name: str, seed: int) -> Control:
    kills, customers = _CONTROLS[name]
    control = Control(name, caught=False, how="not tried")
    for number in range(_CONTROL_FILES):  # whether a kill finds a child under way is chance
        with scratch() as folder:
            found = _kill(folder, seed + number, kills, name, customers)
        control = judged(name, found.failures, *_REASONS[name])
        if control.caught:
            break
    return control


def _kill(folder: Path, seed: int, kills: int, control: str, customers: int) -> Round:
    found = Round(seed, kills)
    forks = control == "lock inherited by a child" or (not control and seed % 2 == 1)
    killed: dict[str, int] = {}
    pids: dict[str, int] = {}
    with Crew(folder, _OPTIONS, forks=forks, control=control) as crew:
        hang_seconds = _CONTROL_HANG_SECONDS if control else HANG_SECONDS
        load = Load(crew.database, seed, customers=customers, hang_seconds=hang_seconds)
        load.on_hang = crew.tell_where
        asyncio.run(_under_load(crew, load, found, killed, pids, control=bool(control)))
        if found.failures:
            return found
        found.failures += [f"worker {name} does not end when it is told to" for name in crew.drain()]
        evidence = Evidence.gather(crew.database, [crew.log], load.offset)
    found.failures += [*judge(evidence, pids=pids), *load.missing(evidence.ledger)]
    found.steps = len(evidence.executions)
    found.repeated = repetitions(evidence)
    found.takeovers = takeovers(evidence, {name: at + load.offset for name, at in killed.items()})
    return found


async def _under_load(
    crew: Crew, load: Load, found: Round, killed: dict[str, int], pids: dict[str, int], *, control: bool
) -> None:

    await load.open()

    def hire() -> None:
        member = crew.hire()
        pids[member.name] = member.pid

    for _ in range(WORKERS):
        hire()
    working = asyncio.ensure_future(load.run())
    chance = Random(found.seed)
    try:
        if control:
            await load.has_begun.wait()
        for _ in range(found.kills):
            await asyncio.sleep(chance.uniform(0.002, LONGEST_PAUSE_SECONDS))
            if load.failures:
                break
            for member in crew.fallen():
                found.failures.append(f"worker {member.name} ended by itself: {_last_words(crew)}")
                crew.remove(member)
                hire()
            victim = chance.choice(crew.present)
            await asyncio.to_thread(crew.remove, victim)
            assert victim.killed_at is not None
            killed[victim.name] = victim.killed_at
            hire()
        if control:
            # What is broken need not show at once.
            await load.until(_CONTROL_RUNS)
    except Exception as error:  # of the harness itself: the client has to be closed all the same
        found.failures.append(f"the harness failed: {type(error).__name__}: {error}")
    load.over = True
    await working
    found.failures += load.failures
    found.runs, found.messages, found.slowest_seconds = load.finished, load.messages, load.slowest_seconds
    if control:
        found.failures += left_behind(crew.database)  # as long as what was broken still has its effect
        crew.end_orphans()
    await load.engine.close()


def _last_words(crew: Crew) -> str:
    return crew.words.read_text()[-2000:] if crew.words.exists() else ""
