"""Keeps promises: applies the changes to them, and reads them. A part of the `Applier`, and of the readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stepwell.model.acts import ActKind
from stepwell.model.lifecycle import ENDED
from stepwell.model.promise import PromiseFacts, PromiseRecord
from stepwell.store.acts import ActRecorded
from stepwell.store.promises import Answered, PromiseAnswered, PromiseMade, PromiseTimedOut
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.schedules import ScheduleReader

if TYPE_CHECKING:  # the reader below is imported by commands that never write
    from stepwell.store.sql.messages import Wake
    from stepwell.store.sql.pauses import Record


class Promises(Part):
    """Applies the changes about promises; see the module."""

    def __init__(
        self, connection: SqlConnection, sql: Statements, after: Aftermath, wake: Wake, record: Record
    ) -> None:
        super().__init__(connection, sql, after)
        self._wake = wake
        self._record = record
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {
            PromiseMade: self._made,
            PromiseAnswered: self._answered,
            PromiseTimedOut: self._timed_out,
        }

    def _made(self, change: PromiseMade) -> None:
        parameters = (change.token, change.run, change.op, change.at, change.deadline_at, change.form)
        self._execute(self._sql["promise_made"], parameters)

    def _answered(self, change: PromiseAnswered) -> Answered:
        row = self._row("promise", change.token)
        if row is None:
            return Answered(is_done=False, before=None)
        before = PromiseRecord(*row)
        if before.status in ENDED:
            return Answered(is_done=False, before=before)
        parameters = (change.token, change.state, change.at, change.by, change.answer)
        self._execute(self._sql["promise_answered"], parameters)
        if not self._connection.changes():
            return Answered(is_done=False, before=before)
        act: ActKind = "resolve" if change.state == "resolved" else "reject"
        self._record(ActRecorded(act, change.at, change.by, change.reason, run_id=before.run_id))
        self._wake(before.run, before.status, before.owner, change.at)
        return Answered(is_done=True, before=before)

    def _timed_out(self, change: PromiseTimedOut) -> None:
        self._execute(self._sql["promise_timed_out"], (change.token, change.at))

    def withdraw(self, run: int, at: int) -> None:
        """End those that a run goes on without: another chapter of it has begun, and it is written what it keeps."""
        if self._row("has_promises", run)[0]:
            self._execute(self._sql["promises_withdrawn"], (run, at))

    def reopen(self, run: int, at: int) -> None:
        """Have those answered again that a run did not survive, and is to be told of no more."""
        if self._row("has_promises", run)[0]:
            self._execute(self._sql["promises_withdrawn"], (run, at))
            self._execute(self._sql["promises_reopened"], (run, at))


class PromiseReader(ScheduleReader):
    """A `stepwell.store.promises.PromiseReads`."""

    def promise(self, token: str) -> PromiseRecord | None:
        """Return the promise with this token, or None."""
        return next((PromiseRecord(*row) for row in self._rows("promise", token)), None)

    def promises_of(self, run: int, ops: Sequence[int]) -> list[PromiseFacts]:
        """Return those of a run's operations that are promises, as they are now."""
        return [PromiseFacts(*row) for row in self._rows("promises_of_run", run, to_json(ops))]

    def promises_open(self, after: int, limit: int, run: int | None = None) -> list[PromiseRecord]:
        """Return the open promises of runs that have not ended, the oldest first."""
        return [PromiseRecord(*row) for row in self._rows("promises_open", after, limit, run)]
