"""Brings ended runs back: applies `RunRetried`, and keeps what that needs when a run ends.

A part of the `Applier`. What is undone is decided by `stepwell.worker.repair.undoing`; here it is deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from stepwell.errors import RunNotEnded, RunNotFound
from stepwell.model.journal import Payload
from stepwell.model.lifecycle import RETRIABLE
from stepwell.model.updates import is_marked
from stepwell.store.changes import RunRetried
from stepwell.store.queues import Entered
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.progress import ProgressChanges
from stepwell.store.sql.promises import Promises
from stepwell.store.sql.queue_changes import Entries
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.streams import Streams

_decode_place: Final = msgspec.json.Decoder(tuple[str, int]).decode


class Retries:
    """Applies retries on the writer's connection; see the module."""

    def __init__(
        self,
        connection: SqlConnection,
        sql: Statements,
        entries: Entries,
        streams: Streams,
        promises: Promises,
        progress: ProgressChanges,
    ) -> None:
        self._execute = connection.cursor().execute
        self._sql = sql
        self._entries = entries
        self._streams = streams
        self._promises = promises
        self._progress = progress

    def keep_place(self, run: int) -> None:
        """Note where a run that ends without a result stands in its queue."""
        self._entries.flush()
        self._execute(self._sql["queue_place_kept"], (run,))

    def bring_back(self, change: RunRetried) -> None:
        """Make an ended run pending, as of before what is undone; what was gathered of the journal is written."""
        found = self._rows("ended_run", change.run)
        if not found:
            raise RunNotFound(f"no run has the key {change.run}: it was never started, or has been purged")
        run_id, status, ended_at, workflow, queue, place, has_more = found[0]
        if status not in RETRIABLE or ended_at != change.ended_at:
            raise RunNotEnded(f"run {run_id!r} is {status} now: somebody else was faster. Look at it before you go on")
        if has_more:  # most runs have not, and are many in an act
            self._execute(self._sql["settlements_dropped"], (change.run,))
            self._streams.undo(change.run, change.undone)
            self._progress.undo(change.run, change.undone)
        if change.undone:
            self._execute(self._sql["entries_undone"], (change.run, to_json(change.undone)))
        self.put_back(change.run, change.returned)
        if has_more:
            self._promises.reopen(change.run, change.at)
        in_queue = queue is not None
        parameters = (change.run, change.at, change.deadline_at, int(change.stays_cancelled), int(in_queue))
        self._execute(self._sql["run_retried"], parameters)
        if in_queue:
            self.enter_again(change.run, workflow, queue, place, change.at)
        self.uncancel(change.uncancelled)

    def enter_again(self, run: int, workflow: str, queue: str, place: str | None, at: int) -> None:
        """Have a run that is back wait in its queue, where it stood there."""
        partition, priority = ("", 0) if place is None else _decode_place(place)
        self._entries.enter(run, workflow, Entered(queue, partition, priority), at)

    def uncancel(self, runs: Sequence[int]) -> None:
        """Forget the requests to cancel these runs, which nobody has in memory."""
        if runs:
            self._execute(self._sql["runs_uncancelled"], (to_json(runs),))

    def leave(self, run: int, at: int) -> None:
        """Take the permits of a run, and notes for its owner, away: it leaves the memory of its worker."""
        self._execute(self._sql["wake_deleted"], (run,))
        self._entries.drop_permits(run, at)

    def put_back(self, run: int, returned: Sequence[tuple[str, Payload, int]]) -> None:
        """Have messages received again, before those that nobody received, which move behind them."""
        if not returned:
            return
        left = self._rows("unreceived_messages", run)
        self._execute(self._sql["unreceived_messages_lifted"], (run,))
        for name, value, taken_at in returned:
            found = self._rows("key_of_taken_message", run, name, taken_at)
            if not found and is_marked(name):
                continue  # an update that was answered stays so
            key = found[0][1] if found else None
            if found:
                self._execute(self._sql["message_deleted"], (found[0][0],))
            self._execute(self._sql["message_put_back"], (run, name, value, key, taken_at, None))
        for name, value, key, sent_at, sender in left:
            self._execute(self._sql["message_put_back"], (run, name, value, key, sent_at, sender))

    def _rows(self, name: str, *parameters: Any) -> list[Any]:
        return self._execute(self._sql[name], parameters).fetchall()
