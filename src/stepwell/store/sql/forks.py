"""Creates runs that begin with a part of another one's journal: applies `RunForked`. A part of the `Applier`.

What is kept is decided by `stepwell.worker.repair.rewinding`; here it is copied, and nothing of the other run is
changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepwell.errors import RunConflict, RunNotEnded, RunNotFound
from stepwell.store.forks import RunForked
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.retries import Retries


class Forks(Part):
    """Creates forks on the writer's connection; see the module. `flush` writes the gathered entries of the journal."""

    def __init__(
        self,
        connection: SqlConnection,
        sql: Statements,
        after: Aftermath,
        flush: Callable[[], None],
        retries: Retries,
    ) -> None:
        super().__init__(connection, sql, after)
        self._flush = flush
        self._retries = retries
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {RunForked: self._forked}

    def _forked(self, change: RunForked) -> int:
        self._flush()
        source, origin = change.source, change.origin
        found = self._row("fork_source", source)
        if found is None:
            raise RunNotFound(f"no run has the key {source}: it was never started, or has been purged")
        source_id, workflow, queue, place = found
        row = (source, change.id, change.input, change.fingerprint, change.at, change.deadline_at)
        self._execute(
            self._sql["run_forked"], (*row, int(change.stays_cancelled), int(queue is not None), change.reason)
        )
        if not self._connection.changes():
            raise RunConflict(f"there is a run {change.id!r} already, so no fork gets this id; choose another one")
        run = self._connection.last_insert_rowid()
        self._execute(self._sql["chapter_marked"], (run, "forked", change.at))
        journal_from = self._connection.last_insert_rowid() + 1
        self._execute(self._sql["journal_of_fork_begins"], (run, journal_from))
        place_of_origin = (origin.run_id, origin.op, origin.checksum)
        self._execute(self._sql["chapter_forked"], (run, source, change.at, journal_from, *place_of_origin))
        self._execute(self._sql["entries_forked"], (run, source, to_json(change.kept)))
        if self._connection.changes() != len(change.kept):
            what = "somebody brought it back, or rewound it. Look at it before you go on"
            raise RunNotEnded(f"run {source_id!r} has moved on: {what}")
        for one in change.replaced:
            self._execute(self._sql["result_replaced"], (run, journal_from, one.op, one.kind, one.was, one.value))
        self._execute(self._sql["messages_forked"], (run, source))
        self._retries.put_back(run, change.returned)
        self._execute(self._sql["values_forked"], (run, source, to_json(change.published)))
        for name in ("summaries_forked", "attributes_forked", "tags_forked"):
            self._execute(self._sql[name], (run, source))
        if queue is not None:
            self._retries.enter_again(run, workflow, queue, place, change.at)
        self._after.evidence = self._sql["evidence_of_run"], (run, change.id)
        self._after.made_work = True
        return run
