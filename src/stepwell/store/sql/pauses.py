"""Applies the changes that pause runs, let them go on, and move when they begin to wait. A part of the `Applier`.

A run that is in no memory is paused at once: no worker takes it up any more. One that is in a worker's memory is told
to pause (`paused` is set), and its worker moves it when the steps under way have ended. So the state of a run that is
``paused`` is final in the sense of claims, and nothing that arrives for it wakes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from stepwell.errors import RunNotFound
from stepwell.model.run import RunRecord
from stepwell.store.acts import ActRecorded
from stepwell.store.changes import Paused, PauseEnded, PauseRequested
from stepwell.store.queues import Rescheduled, RunRescheduled
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.ownership import Ownership
from stepwell.store.sql.part import Part
from stepwell.store.sql.queue_changes import Entries
from stepwell.store.sql.records import record_of

#: Notes who acted on a run.
Record = Callable[[ActRecorded], None]


class Pauses(Part):
    """Pauses runs, see the module; `record` notes who did."""

    def __init__(
        self,
        connection: SqlConnection,
        sql: Statements,
        after: Aftermath,
        ownership: Ownership,
        entries: Entries,
        record: Record,
    ) -> None:
        super().__init__(connection, sql, after)
        self._ownership = ownership
        self._entries = entries
        self._record = record
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {
            PauseRequested: self._pause_requested,
            PauseEnded: self._pause_ended,
            RunRescheduled: self._rescheduled,
        }

    def _pause_requested(self, change: PauseRequested) -> Paused:
        first, family = self._family(change)
        fit = [run for run in family if run.status in ("pending", "running", "waiting") and not run.paused]
        if first.ended_at is not None or first.status == "halted":
            fit = []
        for run in fit:
            self._execute(self._sql["run_paused"], (run.key, change.at))
            if run.queued:
                self._entries.pause(run.key)
            self._ownership.tell_owner(run.key, run.status, run.owner)
            self._record(ActRecorded("pause", change.at, change.by, change.reason, run_id=run.id))
        return Paused(first, [run.key for run in fit])

    def _pause_ended(self, change: PauseEnded) -> Paused:
        first, family = self._family(change)
        fit = [run for run in family if run.paused]
        for run in fit:
            self._unpause(run, change.at)
            self._record(ActRecorded("unpause", change.at, change.by, change.reason, run_id=run.id))
        return Paused(first, [run.key for run in fit])

    def _rescheduled(self, change: RunRescheduled) -> Rescheduled:
        row = self._row("run_facts", change.run_id)
        if row is None:
            raise _unknown(change.run_id)
        run = record_of(row)
        moved = run.queued and self._entries.reschedule(run.key, change.ready_at, change.at)
        if moved:
            self._record(ActRecorded("reschedule", change.at, change.by, change.reason, run_id=run.id))
        return Rescheduled(run, moved)

    def _family(self, change: PauseRequested | PauseEnded) -> tuple[RunRecord, list[RunRecord]]:
        rows = self._execute(self._sql["family"], (change.run_id, int(change.children))).fetchall()
        if not rows:
            raise _unknown(change.run_id)
        family = [record_of(row) for row in rows]
        return family[0], family

    def unpause_children(self, parent: int, at: int) -> None:
        """Let the children go on that are about to be cancelled with their parent."""
        self.unpause(map(record_of, self._execute(self._sql["paused_children"], (parent,)).fetchall()), at)

    def unpause(self, runs: Iterable[RunRecord], at: int) -> None:
        """Let those of these runs go on that are paused, because they are cancelled."""
        for run in runs:
            if run.paused:
                self._unpause(run, at)

    def _unpause(self, run: RunRecord, at: int) -> None:
        self._execute(self._sql["run_unpaused"], (run.key, at))
        if run.queued:
            self._entries.unpause(run.key, at)
        if run.owner is None:
            self._after.made_work = True
        else:
            self._ownership.tell_owner(run.key, run.status, run.owner)


def _unknown(run_id: str) -> RunNotFound:
    return RunNotFound(f"no run has the id {run_id!r}: it was never started, or has been purged")
