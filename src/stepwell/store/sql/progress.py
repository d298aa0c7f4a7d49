"""Keeps how far operations are: applies `ProgressNoted`, and reads. A part of the `Applier`, and of the readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stepwell.model.progress import ProgressRow
from stepwell.store.progress import ProgressNoted
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.reading import Reader


class ProgressChanges(Part):
    """Writes it; see the module."""

    def __init__(self, connection: SqlConnection, sql: Statements, after: Aftermath) -> None:
        super().__init__(connection, sql, after)
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {ProgressNoted: self._noted}

    def _noted(self, change: ProgressNoted) -> None:
        for run, row in change.rows:
            fields = (row.op, row.kind, row.name, row.attempt, row.done, row.total, row.failed, row.note)
            times = (row.began_at, row.at, row.next_at, int(row.ended))
            self._execute(self._sql["progress_noted"], (run, self._after.epoch, *fields, *times))

    def undo(self, run: int, undone: Sequence[int]) -> None:
        """Forget how far polls are whose entries, at these positions, are about to be deleted: they begin anew.

        What steps said stays, for their next attempts.
        """
        self._execute(self._sql["polls_undone"], (run, to_json(undone)))
        self._execute(self._sql["progress_reopened"], (run, to_json(undone)))

    def rewind(self, run: int, kept: Sequence[int]) -> None:
        """Forget what is known of operations of the present chapter, but for those whose entries, at `kept`, stay."""
        self._execute(self._sql["progress_undone"], (run, to_json(kept)))


class ProgressReader(Reader):
    """A `stepwell.store.progress.ProgressReads`."""

    def progress(self, runs: Sequence[int], *, ended: bool) -> dict[int, list[ProgressRow]]:
        """Return how far the operations of these runs are, in order; with `ended` those that are over as well."""
        found: dict[int, list[ProgressRow]] = {}
        for run, *fields in self._rows("progress", to_json(runs), int(ended)):
            found.setdefault(run, []).append(progress_row(fields))
        return found


def progress_row(fields: Sequence[Any]) -> ProgressRow:
    """Make it from the columns of `progress` but the first."""
    values: list[Any] = [*fields[:-1], fields[-1] != 0]
    return ProgressRow(*values)
