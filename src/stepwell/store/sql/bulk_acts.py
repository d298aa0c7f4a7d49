"""Applies acts that pass by a run's code: terminations, deletions, and the books of acts on many runs.

A part of the `Applier`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stepwell.errors import RunNotEnded, RunNotFound
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import RunRecord
from stepwell.store.acts import ActRecorded
from stepwell.store.bulk_acts import BulkAdvanced, BulkBegun, BulksTaken, RunDeleted, RunTerminated, Terminated
from stepwell.store.changes import ChildrenCancelled, RunFinished
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.records import record_of

#: The deletions of runs; children of the foreign keys first.
PURGE: Final = (
    "journals_purged",
    "messages_purged",
    "values_purged",
    "summaries_purged",
    "progress_purged",
    "stream_items_purged",
    "streams_purged",
    "watches_purged",
    "watchings_purged",
    "batch_items_purged",
    "acts_purged",
    "attributes_purged",
    "tags_purged",
    "chapters_purged",
    "settlements_purged",
    "promises_purged",
    "replacements_purged",
    "runs_purged",
)


class BulkActs(Part):
    """Ends and deletes runs; see the module. `apply` applies other changes, `flush` writes what was gathered."""

    def __init__(
        self,
        connection: SqlConnection,
        sql: Statements,
        after: Aftermath,
        apply: Callable[[Any], Any],
        flush: Callable[[], None],
    ) -> None:
        super().__init__(connection, sql, after)
        self._apply = apply
        self._flush = flush
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {
            RunTerminated: self._terminated,
            RunDeleted: self._deleted,
            BulkBegun: self._begun,
            BulkAdvanced: self._advanced,
            BulksTaken: self._taken,
        }

    def _found(self, run_id: str) -> RunRecord:
        row = self._row("run_facts", run_id)
        if row is None:
            raise RunNotFound(f"no run has the id {run_id!r}: it was never started, or has been purged")
        return record_of(row)

    def _terminated(self, change: RunTerminated) -> Terminated:
        run = self._found(change.run_id)
        if run.status in ENDED:
            return Terminated(run)
        self._apply(ActRecorded("terminate", change.at, change.by, change.reason, run_id=run.id))
        return self._end(run, change)

    def _end(self, run: RunRecord, change: RunTerminated | RunDeleted) -> Terminated:
        if run.owner is not None and run.owner != self._after.epoch:
            self._execute(self._sql["run_taken_away"], (run.key, self._after.epoch))
            self._execute(self._sql["wake_deleted"], (run.key,))
        self._execute(self._sql["replacement_dropped"], (run.key,))  # the id as a whole is meant
        watchers = self._apply(RunFinished(run.key, "cancelled", change.at, reason=change.told))
        told = f"its parent, run {run.id!r}, has ended"
        return Terminated(run, watchers, self._apply(ChildrenCancelled(run.key, change.at, told)))

    def _deleted(self, change: RunDeleted) -> Terminated:
        self._flush()
        run = self._found(change.run_id)
        has_ended = run.status in ENDED
        if not has_ended and (run.status not in ("pending", "paused") or run.started_at is not None):
            raise RunNotEnded(
                f"run {run.id!r} has begun and not ended ({run.status}), so it cannot be deleted; cancel or terminate "
                "it first"
            )
        parent = self._row("parent_lives", run.key)
        if parent is not None:
            raise RunNotEnded(
                f"run {run.id!r} cannot be deleted yet: its parent, run {parent[0]!r}, has not ended, and may ask for "
                "its result"
            )
        waits = None if has_ended else self._row("waits_for_run", run.key)
        if waits is not None:
            raise RunNotEnded(
                f"run {run.id!r} cannot be deleted while run {waits[0]!r} waits for its end; cancel it, and it is told"
            )
        done = Terminated(run)
        if not has_ended:
            done = self._end(run, change)
            self._flush()  # its place in a queue goes first
        for name in PURGE:
            self._execute(self._sql[name], (to_json([run.key]),))
        self._after.evidence = None
        return done

    def _begun(self, change: BulkBegun) -> int:
        values = change.act, change.filter, change.bounds, change.by, change.reason, change.at, change.total
        number: int = self._row("bulk_begun", *values, self._after.epoch)[0]
        return number

    def _advanced(self, change: BulkAdvanced) -> bool:
        whose, now_at = (change.bulk, self._after.epoch, change.was_at), (change.before_key, change.seen)
        return self._row("bulk_advanced", *whose, *now_at, change.refused, change.ended_at) is not None

    def _taken(self, _change: BulksTaken) -> list[int]:
        rows: list[Any] = self._execute(self._sql["bulks_taken"], (self._after.epoch,)).fetchall()
        return sorted(number for (number,) in rows)
