"""SIGSTOP of a worker, its runs taken over, SIGCONT: what it writes late is refused, and it recovers by itself.

Four processes serve a file under load. One is stopped wherever it is; its runs are taken over, by command or by a
worker with `take_over_stalled_after`; after a while it is continued. Its late results must not be in the journal,
everything must end rightly elsewhere, and it must come back as a new worker and do work.

A worker that is stopped in the midst of a write keeps everybody from writing. Taking over must then say so, and name
its process; such cases are counted, and tried again once the worker was continued.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

from proof.crew import PATIENCE_SECONDS, Crew, Member
from proof.load import HANG_SECONDS, Load
from proof.patience import Patience
from proof.pool import scratch, spread
from proof.result import Control, Result, judged
from proof.verdict import Evidence, in_ignorance, judge
from stepwell.errors import InvalidArgument, StoreError
from stepwell.runtime import engine_thread

FAULT: Final = "SIGSTOP of one of 4 workers under load, takeover, SIGCONT"
CI_CASES: Final = 50
SOAK: Final = "make proof NAME=stop CASES=2000"

WORKERS: Final = 4
#: How many workers are stopped, one after the other, on one file.
_ROUND: Final = 25
#: Of how many stopped workers one is left to a worker that takes over by itself.
_ONE_OF: Final = 10
#: How long taking over waits for the writers' lock here, in seconds: a stopped worker has it now and then.
_WRITER_SECONDS: Final = 0.3
#: How many runs are under way at once: not so many that most workers are stopped while they write.
_CUSTOMERS: Final = 8
_OPTIONS: Final[Mapping[str, Any]] = {"max_waiting_in_memory": 8, "max_crashes": 1000}
_FAILURES_TOLD: Final = 20
#: After how long a worker that does not answer is taken over, where nobody says so.
_STALL_SECONDS: Final = 1.0
_CONTROL: Final = "no epoch in writes"
_CONTROL_CASES: Final = 15
#: In one file of some dozens another fault shows first, and no write of a fenced worker has an effect before that.
_CONTROL_FILES: Final = 5


@dataclass
class Round:
    """What became of one file."""

    seed: int
    cases: int
    failures: list[str] = field(default_factory=list)
    runs: int = 0
    taken_runs: int = 0
    by_itself: int = 0
    writing: int = 0
    undone: int = 0
    ignorant: int = 0
    recovery_seconds: list[float] = field(default_factory=list)


def run(cases: int, jobs: int, seed: int) -> Result:
    """Stop `cases` workers, on files one after the other."""
    rounds = [(seed * 1_000 + number, min(_ROUND, cases - at)) for number, at in enumerate(range(0, cases, _ROUND))]
    done = spread(_round, rounds, jobs // WORKERS)
    failures = [f"seed {one.seed}: {failure}" for one in done for failure in one.failures]
    return Result(
        name="stop",
        fault=FAULT,
        cases=sum(one.cases for one in done),
        failures=len(failures),
        details={
            "runs ended": sum(one.runs for one in done),
            "runs taken over": sum(one.taken_runs for one in done),
            "taken over by an engine's own decision": sum(one.by_itself for one in done),
            "stopped in the midst of a write, named and continued": sum(one.writing for one in done),
            "stops undone by somebody else, and repeated": sum(one.undone for one in done),
            "executions begun before the worker could know": sum(one.ignorant for one in done),
            "slowest recovery, seconds": round(max(max(one.recovery_seconds, default=0.0) for one in done), 2),
            "failed": failures[:_FAILURES_TOLD],
        },
        controls=[_control(seed)],
        seconds=0.0,
        command="",
    )


def _round(case: tuple[int, int]) -> Round:
    seed, cases = case
    with scratch() as folder:
        found = _stop(folder, Round(seed, cases), "", HANG_SECONDS)
        if found.failures:
            kept = Path(__file__).with_name("results") / "failed-stop" / str(seed)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*-peers"))
        return found


def _control(seed: int) -> Control:
    """Stop workers on one file after the other until the broken engine is noticed for its own reason."""
    number = 0
    while True:
        with scratch() as folder:
            found = _stop(folder, Round(seed + number, _CONTROL_CASES), _CONTROL, 10.0)
        control = judged(_CONTROL, found.failures, "after that one was fenced")
        number += 1
        if control.caught or number == _CONTROL_FILES:
            return control


def _stop(folder: Path, found: Round, control: str, hang_seconds: float) -> Round:
    with (
        Crew(folder, _OPTIONS, control=control) as crew,
        patch.object(engine_thread, "_TAKE_OVER_PATIENCE_SECONDS", _WRITER_SECONDS),
    ):
        load = Load(crew.database, found.seed, customers=_CUSTOMERS, hang_seconds=hang_seconds)
        load.on_hang = crew.tell_where
        pids = asyncio.run(_Stops(crew, load, found).under_load())
        if not found.failures:
            found.failures += [f"worker {name} does not end when it is told to" for name in crew.drain()]
        if found.failures and not control:
            return found
        for member in list(crew.present):
            crew.remove(member)
        evidence = Evidence.gather(crew.database, [crew.log], load.offset)
    # What the journal says comes first: that is how a control should be caught.
    found.failures[:0] = [*judge(evidence, pids=pids), *load.missing(evidence.ledger)]
    found.ignorant = in_ignorance(evidence, pids)
    return found


class _Stops:
    """The stops on one file."""

    def __init__(self, crew: Crew, load: Load, found: Round) -> None:
        self._crew = crew
        self._load = load
        self._found = found
        self._chance = Random(found.seed)

    async def under_load(self) -> dict[str, int]:
        """Stop and continue workers while a client starts runs; return the processes by name."""
        load, crew = self._load, self._crew
        await load.open()
        members = [crew.hire() for _ in range(WORKERS)]
        # A mere client, which nobody stops.
        crew.hire({"take_over_stalled_after": _STALL_SECONDS}, serves=[])
        working = asyncio.ensure_future(load.run())
        await load.has_begun.wait()
        for number in range(self._found.cases):
            if load.failures or self._found.failures:
                break
            try:
                await self._case(number, self._chance.choice(members))
            except Exception as error:
                self._crew.tell_where()
                self._found.failures.append(f"case {number}: {type(error).__name__}: {error}")
        load.over = True
        await working
        self._found.failures += load.failures
        self._found.runs = load.finished
        await load.engine.close()
        return {member.name: member.pid for member in crew.present}

    async def _case(self, number: int, victim: Member) -> None:
        by_command = number % _ONE_OF != 0
        while True:
            epoch = await self._epoch_of(victim)
            await asyncio.sleep(self._chance.uniform(0, 0.05))
            await asyncio.to_thread(victim.stop)
            try:
                if number == 1:
                    await self._check_shown(victim)
                taken = await (self._take(victim, epoch) if by_command else self._wait_until_taken(epoch))
            finally:
                undone = not victim.is_stopped()
                if not by_command or self._chance.random() < 0.5:
                    # Others have time to carry its runs on.
                    await asyncio.sleep(self._chance.uniform(0, 0.2))
                victim.go_on()
            # Where the whole machine was paused, say, and continued with all that had been stopped, it was no stop.
            self._found.undone += undone
            if taken and not undone:
                break
        self._found.by_itself += not by_command
        began = time.monotonic()
        await self._wait_until_back(victim, epoch)
        self._found.recovery_seconds.append(time.monotonic() - began)

    async def _take(self, victim: Member, epoch: int) -> bool:
        """Take the runs of a stopped worker; return False where it was stopped in the midst of a write."""
        try:
            self._found.taken_runs += await self._load.engine.take_over(epoch)
        except InvalidArgument:  # the client that takes over by itself was faster
            return True
        except StoreError as error:
            self._found.writing += 1
            if f"process {victim.pid} " not in str(error):
                raise
            return False
        return True

    async def _wait_until_taken(self, epoch: int) -> bool:
        """Wait until nobody has this epoch any more; return False where no one can write."""
        give_up_at = time.monotonic() + 3 * _STALL_SECONDS
        while epoch in self._epochs():
            if time.monotonic() > give_up_at:
                self._found.writing += 1
                return False
            await asyncio.sleep(0.02)
        return True

    async def _check_shown(self, victim: Member) -> None:
        shown = {worker.pid: worker.state for worker in await self._load.engine.workers()}
        if shown[victim.pid] != "stalled":
            self._found.failures.append(f"worker {victim.name} is stopped and shows as {shown[victim.pid]}")

    async def _wait_until_back(self, victim: Member, epoch: int) -> None:
        """Wait until the worker has come back under another epoch, and has executed a step since."""
        patience = Patience(PATIENCE_SECONDS)
        while await self._epoch_of(victim) == epoch:
            if patience.is_over():
                raise TimeoutError(f"worker {victim.name} was continued and has not come back")
            await asyncio.sleep(0.005)
        seen = self._crew.log.stat().st_size
        while f" {victim.name}." not in self._crew.log.read_text()[seen:]:
            if patience.is_over():
                raise TimeoutError(f"worker {victim.name} came back and does no work")
            await asyncio.sleep(0.02)

    async def _epoch_of(self, member: Member) -> int:
        """Return the present epoch of a worker, once it has one."""
        patience = Patience(PATIENCE_SECONDS)
        while member.pid not in (pids := {pid: epoch for epoch, pid in self._epochs().items()}):
            if patience.is_over():
                raise TimeoutError(f"worker {member.name} is not among the workers")
            await asyncio.sleep(0.01)
        return pids[member.pid]

    def _epochs(self) -> dict[int, int]:
        members = self._load.engine._opened().store.membership.members()
        return {member.epoch: member.pid for member in members if member.state != "dead"}
