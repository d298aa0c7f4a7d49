"""Has runs go on with another chapter: applies `RunContinued`. A part of the `Applier`.

`flush` writes the gathered entries of the journal: the new chapter begins behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepwell.store.changes import RunContinued
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part


class Chapters(Part):
    """Begins chapters on the writer's connection; see the module. `refuse` raises why a run is not this worker's."""

    def __init__(
        self,
        connection: SqlConnection,
        sql: Statements,
        after: Aftermath,
        flush: Callable[[], None],
        refuse: Callable[[int], None],
    ) -> None:
        super().__init__(connection, sql, after)
        self._flush = flush
        self._refuse = refuse
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {RunContinued: self._continued}

    def _continued(self, change: RunContinued) -> None:
        journal_from = self._begin(change.run, "continued", change.at, change.at, change.ops_before)
        self._execute(
            self._sql["run_continued"],
            (change.run, change.at, change.input, journal_from, int(change.heard_cancel), self._after.epoch),
        )
        if not self._connection.changes():
            self._refuse(change.run)

    def _begin(self, run: int, how: str, at: int, clock_from: int | None, ops_before: int) -> int:
        """Note that the present chapter is over and another one begins; return where that is in the journal."""
        self._flush()
        self._execute(self._sql["chapter_marked"], (run, how, at))
        position = self._connection.last_insert_rowid()
        self._after.evidence = self._sql["evidence_of_entry"], (position, run, 0, "chapter", at)
        self._execute(self._sql["first_chapter_noted"], (run,))
        self._execute(self._sql["chapter_over"], (run, at))
        self._execute(self._sql["chapter_begun"], (run, how, at, position + 1, clock_from, ops_before))
        return position + 1
