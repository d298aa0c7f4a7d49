"""Applies `RunDescribed`: attributes, tags and notes of runs. A part of the `Applier`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stepwell.errors import RunNotFound
from stepwell.model.attributes import Description
from stepwell.store.acts import KEPT_ACTS
from stepwell.store.changes import RunDescribed
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part

#: Who wrote a note, where it was the run itself.
ITS_CODE: Final = "its code"


class Descriptions(Part):
    """Writes what is said of runs; see the module."""

    def __init__(self, connection: SqlConnection, sql: Statements, after: Aftermath) -> None:
        super().__init__(connection, sql, after)
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {RunDescribed: self._described}

    def _described(self, change: RunDescribed) -> None:
        if self._row("run_state", change.run) is None:
            raise RunNotFound(f"no run has the key {change.run}: it was never started, or has been purged")
        said, actor = change.description, change.actor
        self.write(change.run, said, change.at, ITS_CODE if actor is None else actor.by)
        if actor is not None and (changed := said.without_note.summary):
            self._record(change.run, change.at, "describe", actor.by, changed)

    def write(self, run: int, said: Description, at: int, by: str) -> None:
        """Write what is said of a run, with a note `by` whom."""
        for each in said.attributes:
            self._execute(self._sql["attribute_set"], (run, each.name, each.kind, each.value))
        for name in said.removed:
            self._execute(self._sql["attribute_removed"], (run, name))
        for tag in said.tags:
            self._execute(self._sql["tag_added"], (run, tag))
        for tag in said.untagged:
            self._execute(self._sql["tag_removed"], (run, tag))
        if said.note is not None:
            self._record(run, at, "note", by, said.note)

    def _record(self, run: int, at: int, act: str, by: str, text: str) -> None:
        self._execute(self._sql["note_recorded"], (run, at, act, by, text))
        self._execute(self._sql["run_acts_forgotten"], (self._connection.last_insert_rowid(), KEPT_ACTS))
