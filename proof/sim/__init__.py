"""Simulation: the real engine in a world of virtual time, where everything that can go wrong does so by seed.

A world (`proof.sim.world`) has up to four worker processes, each a real `stepwell.runtime.turn.TurnLoop` over a real
store on one SQLite database in memory; callers (`proof.sim.callers`) that start, send, wait and cancel, collect
batches, pause queues, and commit transactions of their own; and faults (`proof.sim.plan`): crashes between any two
reads and commits, commits whose outcome stays unknown, a full disk, stalls and take-overs, letters that are late, lost
or doubled, clocks that jump. What the runs do is a program at random (`proof.sim.grammar`). After every event, and in
the end, the judge (`proof.sim.judge`) compares what happened with what was promised, and with a model that knows no
engine (`proof.sim.model`).

One seed is one case, and lives the same life wherever it is lived.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from proof.pool import spread
from proof.result import Control, Result
from proof.sim.controls import CONTROLS, broken_engine, world_for
from proof.sim.database import Arena
from proof.sim.faults import Violation
from proof.sim.making import make
from proof.sim.plan import Plan
from proof.sim.shrink import shrink
from proof.sim.world import World, live
from stepwell.values.codec import Codec

FAULT: Final = (
    "simulated worlds: crashes at any read and commit, unknown commits, full disk, stalls, take-overs, letters lost, "
    "late and doubled, clock jumps"
)
CI_CASES: Final = 1_500
SOAK: Final = "make sim SEEDS=1000000"

#: How many seeds one process is given at a time.
_SHARE: Final = 250
#: How many worlds a control may need.
_CONTROL_WORLDS: Final = 600
_SHRINK_SECONDS: Final = 20.0
_FAILURES_TOLD: Final = 5
#: How much of a history is told: one that goes round in circles is long.
_NOTES_TOLD: Final = 200


@dataclass
class Tally:
    """What was seen of some worlds."""

    worlds: int = 0
    events: int = 0
    commits: int = 0
    lost_workers: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    failures: list[tuple[int, str, str]] = field(default_factory=list)  # seed, invariant, detail

    def saw(self, world: World) -> None:
        """Add a world."""
        self.worlds += 1
        self.events += world.events
        self.commits += world.commits
        self.lost_workers += world.losses
        self.steps += world.judge.executions.total()
        self.ends.update(world.judge.ends())

    def add(self, other: Tally) -> None:
        """Add what was seen elsewhere."""
        for name in ("worlds", "events", "commits", "lost_workers", "steps"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.ends += other.ends
        self.failures += other.failures


class Simulator:
    """Lives worlds, one after another, on one database."""

    def __init__(self) -> None:
        logging.getLogger("stepwell").setLevel(logging.CRITICAL + 1)
        self._arena = Arena()
        self._codec = Codec()

    def live(self, plan: Plan, *, telling: bool = False) -> tuple[World, Violation | None]:
        """Live a plan; see `proof.sim.world.live`."""
        return live(plan, self._arena, self._codec, telling=telling)

    def broken(self, plan: Plan) -> Violation | None:
        """Live a plan and return what broke in it."""
        return self.live(plan)[1]


def run(cases: int, jobs: int, seed: int) -> Result:
    """Live the worlds of `cases` seeds, from `seed` on; see `proof.result`."""
    shares = [(start, min(_SHARE, seed + cases - start)) for start in range(seed, seed + cases, _SHARE)]
    total = Tally()
    for tally in spread(_live_share, shares, jobs):
        total.add(tally)
    for failed, invariant, _ in total.failures[:_FAILURES_TOLD]:
        tell(failed, invariant)
    controls = spread(_run_control, [(name, seed) for name in CONTROLS], jobs) if cases > 1 else []
    details: dict[str, Any] = {
        "events": total.events,
        "commits": total.commits,
        "steps executed": total.steps,
        "workers that crashed, failed, left or were fenced": total.lost_workers,
        **{f"runs {status}": count for status, count in sorted(total.ends.items())},
        "failed": [f"seed {failed}: {what}: {detail}"[:500] for failed, what, detail in total.failures[:20]],
    }
    return Result(
        name="sim",
        fault=FAULT,
        cases=total.worlds,
        failures=len(total.failures),
        details=details,
        controls=controls,
        seconds=0.0,
        command="",
        is_one_case=cases == 1,
    )


def _live_share(share: tuple[int, int]) -> Tally:
    first, count = share
    simulator, tally = Simulator(), Tally()
    for seed in range(first, first + count):
        world, violation = simulator.live(make(seed))
        tally.saw(world)
        if violation is not None:
            tally.failures.append((seed, violation.invariant, violation.detail))
    return tally


def _run_control(wanted: tuple[str, int]) -> Control:
    name, first = wanted
    simulator, others = Simulator(), Counter[str]()
    with broken_engine(name):
        for seed in range(first, first + _CONTROL_WORLDS):
            violation = simulator.broken(world_for(name, make(seed)))
            if violation is not None and violation.invariant in CONTROLS[name].reasons:
                return Control(name, caught=True, how=f"seed {seed}: {violation.invariant}")
            if violation is not None:
                others[violation.invariant] += 1
    seen = f"for other reasons only: {dict(others)}" if others else "nothing was seen"
    return Control(name, caught=False, how=f"{seen} in {_CONTROL_WORLDS} worlds")


def tell(seed: int, invariant: str, seconds: float = _SHRINK_SECONDS) -> None:
    """Print how to repeat a failure, and the shortest history found in which the same promise is broken."""
    simulator = Simulator()
    began = time.monotonic()
    plan = shrink(make(seed), invariant, simulator.broken, seconds)
    world, violation = simulator.live(plan, telling=True)
    print(f"\nseed {seed}: {invariant}\n  again: python -m proof sim --seed {seed} --cases 1")
    print(f"  the shortest history found in {time.monotonic() - began:.0f} s; times in microseconds:")
    for line in describe(plan):
        print(f"    {line}")
    for note in world.history[:_NOTES_TOLD]:
        print(f"    {note.at:>9,}  {note.who:<8} {note.what}")
    print(f"  {violation or 'it did not happen again'}", flush=True)


def describe(plan: Plan) -> list[str]:
    """Return a plan in words."""
    lines = [f"worker place {index}: {worker}" for index, worker in enumerate(plan.workers)]
    lines += [f"run {run_id} ({flavour}): {program}" for run_id, flavour, program in plan.runs]
    lines += [f"at {action.at:,}: {action}" for action in plan.actions]
    lines += [f"run {run_id} stands in a queue: {place}" for run_id, place in plan.places]
    lines += [f"run {run_id} shall end within {wait:,}" for run_id, wait in plan.deadlines]
    return [*lines, f"{plan.weather}, faults end at {plan.horizon:,}"]
