"""Queues and limits over four processes that are killed: no bound is ever passed.

- *one at a time*: 1,000 jobs in a queue with concurrency 1. Each notes its begin and end outside of the database; no
  two may overlap, where the end of a job that was killed is the death of its worker. The workers are killed meanwhile.
- *rate*: jobs in a queue with a rate, and steps with a limit that has one. No window may hold more starts than the
  rate allows, wherever it begins, though workers are killed, and once all of them at the same time.

A job of a queue starts when it is taken, which the file says exactly. An attempt of a step starts when its code is
called; what the code notes of that comes a little later, by as long as the machine keeps it waiting.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from proof import orders
from proof.crew import Crew
from proof.pool import scratch
from proof.result import Result, judged
from proof.verdict import Evidence, judge, most_at_once, tightest
from stepwell import AsyncEngine, AsyncRun

FAULT: Final = "4 processes on one queue, and SIGKILL: concurrency 1, rates"
#: Jobs of the first kind; of the others there are a tenth.
CI_CASES: Final = 1_000
SOAK: Final = "make proof NAME=queues CASES=100000"

WORKERS: Final = 4
_OPTIONS: Final[Mapping[str, Any]] = {"max_crashes": 1000}
#: How long all jobs may take, in seconds: so much, and so much for each.
_PATIENCE_SECONDS: Final = 60.0
_JOB_SECONDS: Final = 0.2
#: Between two kills, in seconds.
_PAUSE_SECONDS: Final = 0.3
#: How much later than its start an attempt may be seen to start, in microseconds; on a machine that is busy.
_LATE_US: Final = 100_000
_FAILURES_TOLD: Final = 20
_CONTROL: Final = "a queue limit counted outside the transaction"
_TOO_MANY: Final = "jobs of a queue with concurrency 1 were under way at once"
_CONTROL_CASES: Final = 300
#: Two workers must decide at the same moment for the broken engine to be noticed, which they need not do.
_CONTROL_ATTEMPTS: Final = 4


@dataclass
class Found:
    """What became of one file."""

    failures: list[str] = field(default_factory=list)
    kills: int = 0
    most: int = 0
    tightest_queue_ms: float = 0.0
    tightest_limit_ms: float = 0.0
    most_calls: int = 0


def run(cases: int, jobs: int, seed: int) -> Result:
    """Start `cases` jobs of the first kind, and a tenth as many of the others."""
    del jobs  # one file, whose bound is one at a time
    with scratch() as folder:
        one = _one_at_a_time(folder, seed, cases, "")
        _keep(folder, one, f"{seed}-one")
    with scratch() as folder:
        rate = _rates(folder, seed, max(60, cases // 10))
        _keep(folder, rate, f"{seed}-rate")
    broken = Found()
    for attempt in range(_CONTROL_ATTEMPTS):
        if not any(_TOO_MANY in failure for failure in broken.failures):
            with scratch() as folder:
                broken = _one_at_a_time(folder, seed + attempt, _CONTROL_CASES, _CONTROL)
    failures = [*one.failures, *rate.failures]
    per_ms = orders.RATE.per_microseconds / 1000
    return Result(
        name="queues",
        fault=FAULT,
        cases=cases,
        failures=len(failures),
        details={
            "workers killed": one.kills + rate.kills,
            "jobs at once, with a bound of 1": one.most,
            "attempts at once, with a bound of 2": rate.most_calls,
            f"tightest {orders.RATE.limit + 1} starts of a queue, ms (bound {per_ms:g})": rate.tightest_queue_ms,
            f"tightest {orders.RATE.limit + 1} attempts as seen, ms (bound {per_ms:g})": rate.tightest_limit_ms,
            "failed": failures[:_FAILURES_TOLD],
        },
        controls=[judged(_CONTROL, broken.failures, _TOO_MANY)],
        seconds=0.0,
        command="",
    )


def _keep(folder: Path, found: Found, name: str) -> None:
    if found.failures:
        kept = Path(__file__).with_name("results") / "failed-queues" / name
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*-peers"))


def _one_at_a_time(folder: Path, seed: int, cases: int, control: str) -> Found:
    found = Found()
    with Crew(folder, _OPTIONS, control=control) as crew:
        world = _World(crew, found, seed)
        starts = [(orders.job, orders.NARROW, f"job-{number}") for number in range(cases)]
        evidence = asyncio.run(world.live(starts, kill=not control))
    found.most = most_at_once(world.intervals(evidence, "job-"))
    if found.most > 1:
        found.failures.insert(0, f"{found.most} {_TOO_MANY}")
    return found


def _rates(folder: Path, seed: int, cases: int) -> Found:
    found = Found()
    with Crew(folder, _OPTIONS) as crew:
        world = _World(crew, found, seed)
        starts: list[Any] = []
        for number in range(cases):
            starts += [(orders.job, orders.BRISK, f"brisk-{number}"), (orders.caller, None, f"call-{number}")]
        evidence = asyncio.run(world.live(starts, kill=True))
    limit, per = orders.RATE.limit, orders.RATE.per_microseconds
    queue = tightest((at for run, at in evidence.started.items() if run.startswith("brisk-")), limit)
    calls = [execution for execution in evidence.executions if execution.run.startswith("call-")]
    seen = tightest((execution.began_at for execution in calls), limit)
    found.most_calls = most_at_once(world.intervals(evidence, "call-"))
    found.tightest_queue_ms, found.tightest_limit_ms = queue / 1000, seen / 1000
    if queue < per:
        found.failures.append(f"{limit + 1} runs of a queue were started within {queue} us, not {per}")
    if seen < per - _LATE_US:
        found.failures.append(f"{limit + 1} attempts of a step with a limit were started within {seen} us, not {per}")
    if found.most_calls > 2:
        found.failures.append(f"{found.most_calls} attempts of a step with a limit of 2 were under way at once")
    return found


class _World:
    """The life of one file."""

    def __init__(self, crew: Crew, found: Found, seed: int) -> None:
        self._crew = crew
        self._found = found
        self._chance = Random(seed)
        self._pids: dict[str, int] = {}
        self._killed: dict[str, int] = {}
        self._offset = 0

    async def live(self, starts: list[Any], *, kill: bool) -> Evidence:
        """Start what there is, wait for its end, and return what is known then."""
        logging.getLogger("stepwell").setLevel(logging.CRITICAL)
        for _ in range(WORKERS):
            self._hire()
        async with AsyncEngine(self._crew.database, workflows=[]) as engine:
            async with engine.transaction() as tx:
                for table in orders.TABLES:
                    await tx.execute(table)
            self._offset = engine._opened().clock.now() - orders.steady()
            runs = await asyncio.gather(
                *(engine.start(workflow, name, id=name, queue=queue) for workflow, queue, name in starts)
            )
            killing = asyncio.ensure_future(self._kill()) if kill else None
            patience = _PATIENCE_SECONDS + _JOB_SECONDS * len(runs)
            await asyncio.gather(*(self._check(run, patience) for run in runs))
            if killing is not None:
                killing.cancel()
        self._found.failures += [f"worker {name} does not end when it is told to" for name in self._crew.drain()]
        evidence = Evidence.gather(self._crew.database, [self._crew.log], self._offset)
        self._found.failures += judge(evidence, pids=self._pids)
        return evidence

    async def _check(self, run: AsyncRun[Any], patience: float) -> None:
        try:
            result = await run.result(patience)
        except Exception as error:
            self._found.failures.append(f"run {run.id}: {type(error).__name__}: {error}")
        else:
            if result != run.id:
                self._found.failures.append(f"run {run.id}: the result is {result!r}")

    async def _kill(self) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(0, 2 * _PAUSE_SECONDS))
            # Now and then all at once: nobody is left who could remember a start.
            victims = (
                list(self._crew.present) if self._chance.random() < 0.1 else [self._chance.choice(self._crew.present)]
            )
            for victim in victims:
                self._crew.remove(victim)
                assert victim.killed_at is not None
                self._killed[victim.name] = victim.killed_at
                self._found.kills += 1
            for _ in victims:
                self._hire()

    def _hire(self) -> None:
        member = self._crew.hire()
        self._pids[member.name] = member.pid

    def intervals(self, evidence: Evidence, prefix: str) -> list[tuple[int, int]]:
        """Return from when to when steps of these runs were executed."""
        return [
            (execution.began_at, evidence.ended.get(execution.token, self._death_of(execution.worker)))
            for execution in evidence.executions
            if execution.run.startswith(prefix)
        ]

    def _death_of(self, worker: str) -> int:
        return self._killed[worker] + self._offset if worker in self._killed else 2**62
