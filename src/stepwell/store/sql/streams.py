"""Keeps streams: applies the changes to them, and reads them. A part of the `Applier`, and of the readers.

What a retry or a rewind undoes is not deleted, for somebody may have read it: it is marked as superseded, and a reader
that asks for what counts leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from stepwell.errors import RunNotFound
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.named_sql import Ladder, ladder
from stepwell.store.sql.part import Part
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.reading import Reader
from stepwell.store.streams import (
    StreamFacts,
    StreamItemRow,
    StreamSummary,
    StreamSuperseded,
    StreamTruncated,
    StreamWritten,
    adds_only,
)


class Streams(Part):
    """Applies the changes about streams; see the module. `refusal` says why a run is not this worker's."""

    def __init__(
        self, connection: SqlConnection, sql: Statements, after: Aftermath, refusal: Callable[[int], Exception]
    ) -> None:
        super().__init__(connection, sql, after)
        self._refusal = refusal
        #: Writes to streams that do nothing but add items, until `flush`: of those in one commit, which may be hundreds
        #: that steps await one by one, each stream takes one row and a statement for many items.
        self.gathered: dict[tuple[int, str], list[StreamWritten]] = {}
        self._append: Ladder = ladder(sql["stream_item_appended"], (256, 32, 4, 1))
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {
            StreamWritten: self._written,
            StreamSuperseded: self._superseded,
            StreamTruncated: self._truncated,
        }

    def flush(self) -> None:
        """Write what was gathered; call it before anything else is done to streams, or to runs that may have some."""
        if self.gathered:
            gathered, self.gathered = self.gathered, {}
            for changes in gathered.values():
                self._write(changes)

    def drop(self) -> None:
        """Forget what was gathered: it is refused."""
        self.gathered = {}

    def _written(self, change: StreamWritten) -> None:
        if adds_only(change):
            self.gathered.setdefault((change.run, change.name), []).append(change)
            return
        self.flush()
        if change.begins:
            self._begin(change)
        self._write([change])

    def _write(self, changes: list[StreamWritten]) -> None:
        """Write what adds to one stream, in order; of several none does more than that."""
        last = changes[-1]
        rows = [(each.op, each.attempt, each.at, item) for each in changes for item in each.items]
        op = last.op if len(changes) == 1 else max(each.op for each in changes)
        found = self._row("stream_extended", last.run, last.name, len(rows), self._after.epoch, op)
        if found is None:
            raise self._refusal(last.run)
        stream, following, first = found
        if rows:
            self._append_items(stream, following - len(rows), rows)
        if last.closes:
            self._execute(self._sql["stream_closed"], (stream, last.op, last.at))
        if last.keep is not None and following - first >= last.keep + max(1, last.keep // 8):
            # An eighth too many are deleted together: one by one, each write would cost another one.
            self._shorten(stream, following - last.keep)
        self._after.ended.append(last.run)

    def _begin(self, change: StreamWritten) -> None:
        found = self._row("stream_of_run", change.run, change.name)
        if found is not None and change.op <= found[1]:
            self._execute(self._sql["stream_op_superseded"], (found[0], change.op))
            self._execute(self._sql["stream_op_reopened"], (found[0], change.op))

    def _append_items(self, stream: int, number: int, items: list[tuple[Any, ...]]) -> None:
        rows = [(stream, offset, *item) for offset, item in enumerate(items, number)]
        start, end = 0, len(rows)
        for size, statement in self._append:
            while end - start >= size:
                self._execute(statement, list(chain.from_iterable(rows[start : start + size])))
                start += size
        if self._after.evidence is None:
            position = self._connection.last_insert_rowid()
            self._after.evidence = self._sql["evidence_of_item"], (position, stream, rows[-1][1])

    def _superseded(self, change: StreamSuperseded) -> None:
        self.flush()
        self._supersede(change.run, to_json([change.op]))

    def _supersede(self, run: int, ops: str) -> None:
        self._execute(self._sql["streams_of_ops_superseded"], (run, ops))
        self._execute(self._sql["streams_of_ops_reopened"], (run, ops))

    def undo(self, run: int, undone: Sequence[int]) -> None:
        """Mark what operations wrote whose entries, at these positions, are about to be deleted."""
        if undone and self._row("has_streams", run)[0]:
            self._supersede(run, self._row("ops_at", run, to_json(undone))[0])

    def rewind(self, run: int, kept: Sequence[int]) -> None:
        """Mark what the present chapter wrote, which is about to end, but for what the entries at `kept` stand for."""
        if self._row("has_streams", run)[0]:
            self._execute(self._sql["streams_undone"], (run, to_json(kept)))
            self._execute(self._sql["streams_reopened"], (run, to_json(kept)))

    def _truncated(self, change: StreamTruncated) -> int:
        found = self._row("stream", change.run_id, change.name)
        if found is None:
            raise RunNotFound(f"no run has the id {change.run_id!r}: it was never started, or has been purged")
        facts = StreamFacts(*found)
        before = min(change.before, facts.next)
        if facts.key and before > facts.first:
            self._shorten(facts.key, before)
        return max(0, before - facts.first)

    def _shorten(self, stream: int, before: int) -> None:
        self._execute(self._sql["stream_items_deleted"], (stream, before))
        self._execute(self._sql["stream_shortened"], (stream, before))
        if self._after.evidence is not None and self._after.evidence[0] is self._sql["evidence_of_item"]:
            self._after.evidence = None  # it may be among those


class StreamReader(Reader):
    """A `stepwell.store.streams.StreamReads`."""

    def stream(self, run_id: str, name: str) -> StreamFacts | None:
        """Return how a stream of the run with this id stands, or None where there is no such run."""
        return next((StreamFacts(*row) for row in self._rows("stream", run_id, name)), None)

    def stream_items(self, run: int, name: str, start: int, limit: int, *, last_attempt: bool) -> list[StreamItemRow]:
        """Return items from an offset on, in order; with `last_attempt` those that are not superseded."""
        return [StreamItemRow(*row) for row in self._rows("stream_items", run, name, start, limit, int(last_attempt))]

    def stream_attempt(self, stream: int, op: int) -> int:
        """Return the highest attempt of an operation that has items in a stream, or 0."""
        return next(int(number) for (number,) in self._rows("stream_attempt", stream, op))

    def streams(self, run: int) -> list[StreamSummary]:
        """Return the streams of a run, by name."""
        return [
            StreamSummary(name, first, following, closed != 0)
            for name, first, following, closed in self._rows("streams", run)
        ]
