"""Applies the changes about messages, published values, summaries of steps and watches. A part of the `Applier`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from stepwell.errors import ClaimLost, RunEnded, RunNotFound, StoreError
from stepwell.model.lifecycle import ENDED, Status
from stepwell.model.updates import called
from stepwell.store.changes import (
    MessageSent,
    MessageTaken,
    Sent,
    StepSummarized,
    UpdateAnswered,
    UpdateTakenOn,
    ValuePublished,
    WatchAdded,
)
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part

#: See `stepwell.store.sql.ownership.Ownership.wake_known`.
Wake: TypeAlias = Callable[[int, Status, int | None, int], None]


class Messages(Part):
    """Sends and takes messages, publishes values, adds watches; see the module."""

    def __init__(self, connection: SqlConnection, sql: Statements, after: Aftermath, wake: Wake) -> None:
        super().__init__(connection, sql, after)
        self._wake = wake
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {
            MessageSent: self._message_sent,
            MessageTaken: self._message_taken,
            StepSummarized: self._step_summarized,
            UpdateTakenOn: self._update_taken_on,
            UpdateAnswered: self._update_answered,
            ValuePublished: self._value_published,
            WatchAdded: self._watch_added,
        }

    def _message_sent(self, change: MessageSent) -> Sent:
        state = self._row("run_state_by_id", change.run_id)
        if state is None:
            raise RunNotFound(f"no run has the id {change.run_id!r}; start it first, or send in the same transaction")
        run, status, owner = state
        if change.with_start and (status in ENDED or self._after.refused_id == change.run_id):
            return Sent(run, status, 0, owner)
        if status in ENDED:
            if change.key is not None and self._row("message_key_seen", run, change.key):
                return Sent(run, status, 0)
            raise RunEnded(
                f"run {change.run_id!r} has ended ({status}); {called(change.name)} cannot be received any more"
            )
        self._execute(
            self._sql["message_sent"], (run, change.name, change.value, change.key, change.at, self._after.epoch)
        )
        if not self._connection.changes():
            return Sent(run, status, 0, owner)
        position = self._connection.last_insert_rowid()
        if self._after.evidence is None:
            self._after.evidence = self._sql["evidence_of_message"], (position, run, change.at)
        self._wake(run, status, owner, change.at)
        return Sent(run, status, position, owner)

    def _message_taken(self, change: MessageTaken) -> None:
        self.forget_evidence()
        self._execute(self._sql["message_taken"], (change.run, change.position))
        if self._connection.changes():
            return
        self._execute(self._sql["keyed_message_taken"], (change.run, change.position, change.at, change.op))
        if not self._connection.changes():
            raise StoreError(f"run {change.run} has no unreceived message at position {change.position}")

    def _step_summarized(self, change: StepSummarized) -> None:
        self._execute(self._sql["step_summarized"], (change.run, change.op, change.summary))

    def _update_taken_on(self, change: UpdateTakenOn) -> None:
        self._execute(
            self._sql["update_taken_on"], (change.run, change.name, change.key, change.at, self._after.epoch, change.op)
        )
        if not self._connection.changes():
            raise ClaimLost(
                f"the run with the key {change.run} has got an {called(change.name)} with the same key meanwhile"
            )

    def _update_answered(self, change: UpdateAnswered) -> str | None:
        self.forget_evidence()
        parameters = (change.run, change.at, change.payload, int(change.failed), change.op, change.position)
        row = self._row("update_answered", *parameters)
        self._after.ended.append(change.run)
        return None if row is None else str(row[0])

    def _value_published(self, change: ValuePublished) -> None:
        self._execute(self._sql["value_published"], (change.run, change.key, change.value, change.at, change.owner))
        if change.owner is not None and not self._connection.changes():
            raise ClaimLost(f"the run with the key {change.run} is not worker {change.owner}'s any more")
        self._after.ended.append(change.run)

    def _watch_added(self, change: WatchAdded) -> Status:
        state = self._row("run_state", change.run)
        if state is None:
            raise RunNotFound(f"no run has the key {change.run}: it was never started, or has been purged")
        status: Status = state[1]
        if status not in ENDED:
            self._execute(self._sql["watch_added"], (change.run, change.watcher))
        return status

    def forget_evidence(self) -> None:
        """Drop a message as the proof of the commit."""
        # The message may be deleted again in the same transaction, and then proves nothing.
        if self._after.evidence is not None and self._after.evidence[0] is self._sql["evidence_of_message"]:
            self._after.evidence = None
