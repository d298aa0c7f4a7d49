"""Keeps schedules: applies the changes to them, and reads them. A part of the `Applier`, and of the readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from stepwell.model.schedule import ScheduleDefinition, ScheduleRecord, ScheduleState
from stepwell.store.schedules import ScheduleAdvanced, ScheduleDeleted, ScheduleSaved
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.queue_reads import QueueReader

_definition: Final = partial(msgspec.json.decode, type=ScheduleDefinition)
_state: Final = partial(msgspec.json.decode, type=ScheduleState)


def schedule_of(row: Sequence[Any]) -> ScheduleRecord:
    """Return the schedule for a row of schedule_by_id."""
    name, workflow, due_at, paused, note, created_at, changed_at, definition, state, payload = row
    found = _definition(definition), _state(state)
    return ScheduleRecord(name, workflow, due_at, paused != 0, note, created_at, changed_at, *found, payload)


class Schedules(Part):
    """Applies the changes about schedules; see the module."""

    def __init__(self, connection: SqlConnection, sql: Statements, after: Aftermath) -> None:
        super().__init__(connection, sql, after)
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {
            ScheduleSaved: self._saved,
            ScheduleAdvanced: self._advanced,
            ScheduleDeleted: self._deleted,
        }

    def _saved(self, change: ScheduleSaved) -> None:
        record = change.record
        self._execute(
            self._sql["schedule_saved"],
            (
                *(record.id, record.workflow, record.due_at, int(record.paused), record.note),
                *(record.created_at, record.changed_at, to_json(record.definition), to_json(record.state)),
                record.input,
            ),
        )
        self._after.made_work = True  # whoever knows of an earlier one looks at that time, and then finds this one

    def _advanced(self, change: ScheduleAdvanced) -> None:
        record = change.record
        parameters = (record.id, record.due_at, int(record.paused), record.note, to_json(record.state))
        self._execute(self._sql["schedule_advanced"], parameters)
        if change.awaited:
            self._execute(self._sql["schedule_awaits"], (record.id, to_json(list(change.awaited))))

    def _deleted(self, change: ScheduleDeleted) -> None:
        self._execute(self._sql["schedule_waits_deleted"], (change.id,))
        self._execute(self._sql["schedule_deleted"], (change.id,))

    def run_over(self, run: int) -> None:
        """Make the schedules due that wait for the end of a run."""
        self._execute(self._sql["schedules_made_due"], (run,))
        self._execute(self._sql["run_awaited_no_more"], (run,))
        self._after.made_work = True


class ScheduleReader(QueueReader):
    """A `stepwell.store.schedules.ScheduleReads`."""

    def schedule(self, id: str) -> ScheduleRecord | None:
        """Return the schedule with this id, or None."""
        return next(map(schedule_of, self._rows("schedule_by_id", id)), None)

    def schedules(self, after: str = "", limit: int = 1000) -> list[ScheduleRecord]:
        """Return schedules by id, those after `after`, without their inputs."""
        return [schedule_of(row) for row in self._rows("schedules_listed", after, limit)]

    def schedules_due(self, now: int, limit: int) -> list[str]:
        """Return the ids of the schedules that are due, the longest due first."""
        return self._firsts("schedules_due", now, limit)

    def next_schedule(self) -> int | None:
        """Return when the first schedule is due, or None."""
        due_at: int | None = self._first("next_schedule")
        return due_at
