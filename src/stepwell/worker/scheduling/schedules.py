"""Which schedules are due, for one worker: it has them decided on, and brings the runs to life that come of it.

All workers of a file do so at the same time, whatever workflows they have. The decision is made inside the transaction
(`stepwell.worker.rules.schedule_policy`), where the second one finds nothing to decide any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from stepwell.errors import StepwellError
from stepwell.model.clock import MICROSECONDS
from stepwell.model.schedule import LAST_FAILURE, LAST_RESULT, ScheduleRecord
from stepwell.store.bulk_acts import RunTerminated
from stepwell.store.changes import CancelRequested, Change, MessageSent, RunCreated
from stepwell.store.queues import Entered
from stepwell.store.schedules import ScheduleAdvanced
from stepwell.worker.running.starting import planned
from stepwell.worker.state.facts import CancelArrived, RunsTaken, RunStarted, TerminationArrived
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from stepwell.store.store import UnitFacts
    from stepwell.worker.rules.schedule_policy import Advance, ScheduledStart

_log: Final = logging.getLogger("stepwell")

#: How many schedules are decided on in one turn.
_AT_ONCE: Final = 100
#: After how many microseconds a schedule is looked at again whose decision was refused: a second.
_AGAIN: Final = MICROSECONDS


class Schedules:
    """Has schedules decided on for one worker, whose batch it fills."""

    def __init__(self, runs: Runs, *, takes_work: bool) -> None:
        self._runs = runs
        self._reads = runs.reads
        self._takes_work = takes_work
        self._next: int | None = None  # when the first one is due, by the wall clock
        self._deciding: set[str] = set()  # decisions that are not committed yet

    def due_at(self) -> int | None:
        """Return when the first schedule is due, in engine time."""
        return None if self._next is None else self._next + self._runs.ahead

    def advance(self, now: int) -> None:
        """Have those decided on that are due; `now` is the time of the worker."""
        assert now == self._runs.now
        self.look()

    def touched(self) -> None:
        """Note that a schedule may be due that was not, because a run ended."""
        if not self._deciding:  # else another look follows what is being decided
            self.look()

    def look(self) -> None:
        """Find out which schedules are due, and have them decided on; an event."""
        self._next = None
        if self._runs.draining or not self._takes_work:
            return
        first = self._reads.next_schedule()
        if first is None:
            return
        wall = self._runs.now - self._runs.ahead
        if first > wall:
            self._next = first
            return
        # What is being decided on already is found due again until that is committed; then another look follows.
        for name in self._reads.schedules_due(wall, _AT_ONCE):
            if name not in self._deciding:
                self._decide(name, wall)

    def _decide(self, name: str, wall: int) -> None:
        # The calendar comes with the first schedule that is due: an engine without schedules does without it.
        from stepwell.worker.rules.schedule_policy import advance  # noqa: PLC0415

        def choose(facts: UnitFacts) -> Advance | None:
            record = facts.schedule(name)
            due = record is not None and record.due_at is not None and record.due_at <= wall
            return advance(record, facts, wall) if record is not None and due else None

        self._deciding.add(name)
        work = self._runs.batch.lone_work()
        self.add(work, choose)
        work.afterwards(partial(self._decided, name), partial(self._refused, name))

    def _decided(self, name: str) -> None:
        self._deciding.discard(name)
        if not self._deciding:
            self.look()

    def _refused(self, name: str, error: StepwellError) -> None:
        self._deciding.discard(name)
        _log.error("schedule %r: what it has to do now could not be written, and is tried again: %s", name, error)
        self._next = self._runs.now - self._runs.ahead + _AGAIN

    # --- decisions ---------------------------------------------------------------------------------------------------

    def add(self, work: UnitOfWork, choose: Callable[[UnitFacts], Advance | None]) -> None:
        """Have a unit of work decide about a schedule, and bring to life what comes of it."""
        made: list[tuple[Advance, list[Change]]] = []

        def decide(facts: UnitFacts) -> list[Change]:
            made.clear()
            decision = choose(facts)
            if decision is None:
                return []
            made.append((decision, self._changes(decision)))
            return made[0][1]

        def decided(results: list[Any]) -> None:
            for decision, changes in made:
                for level, line in decision.said:
                    _log.log(level, "%s", line)
                self._release(changes, results)

        work.decide = decide
        work.extra.decided = decided

    def _release(self, changes: list[Change], results: list[Any]) -> None:
        started: list[int] = []
        for change, result in zip(changes, results, strict=True):
            if isinstance(change, RunCreated) and change.status == "running" and result.existing is None:
                started.append(result.key)
            elif isinstance(change, RunCreated):
                self._runs.later(RunStarted(change, result))
            elif isinstance(change, CancelRequested):
                self._runs.later(CancelArrived(result))
            elif isinstance(change, RunTerminated):
                self._runs.later(TerminationArrived(change, result))
        if started:  # they are read from the store, with what they were sent
            self._runs.claiming.update(started)
            self._runs.later(RunsTaken(started))

    def _changes(self, decision: Advance) -> list[Change]:
        now = self._runs.now
        by = f"schedule {decision.record.id!r}"
        changes: list[Change] = [
            RunTerminated(run_id, now, by, "its next run starts") for run_id in decision.terminates
        ]
        for start in decision.starts:
            changes += self._start(decision.record, start)
        changes += [
            CancelRequested(run_id, now, f"schedule {decision.record.id!r} starts its next run")
            for run_id in decision.cancels
        ]
        changes.append(ScheduleAdvanced(decision.record, decision.awaited))
        return changes

    def _start(self, record: ScheduleRecord, start: ScheduledStart) -> list[Change]:
        runs, definition = self._runs, record.definition
        place, deadline = definition.place, definition.deadline
        entry = None if place is None else Entered(place.queue, place.partition, place.priority)
        run = RunCreated(
            start.run_id,
            definition.workflow,
            record.input,
            definition.fingerprint,
            "running",
            runs.now,
            deadline_at=None if deadline is None else runs.now + deadline,
            entry=entry,
            ahead=runs.ahead,
        )
        changes: list[Change] = [planned(runs, run, admitted=runs.admits(definition.workflow))]
        if start.result is not None:
            changes.append(MessageSent(start.run_id, LAST_RESULT, start.result, runs.now))
        if start.error is not None:
            text = runs.codec.show_failure(start.error).summary
            failure = runs.codec.encode_untyped(text, "the failure of the run before")
            changes.append(MessageSent(start.run_id, LAST_FAILURE, failure, runs.now))
        return changes
