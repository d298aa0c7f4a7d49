"""What a unit decides from, inside its transaction: of queues, of schedules, and of runs."""

from __future__ import annotations

from collections.abc import Callable

from stepwell.model.run import RunRecord
from stepwell.model.schedule import ScheduleRecord
from stepwell.store.sql.connection import Execute, Statements
from stepwell.store.sql.queue_facts import SqlFacts
from stepwell.store.sql.records import record_of
from stepwell.store.sql.schedules import schedule_of


class SqlUnitFacts(SqlFacts):
    """A `stepwell.store.store.UnitFacts`. `flush` writes what was gathered."""

    def __init__(self, execute: Execute, sql: Statements, flush: Callable[[], None]) -> None:
        super().__init__(execute, sql, flush)

    def schedule(self, id: str) -> ScheduleRecord | None:
        """Return the schedule with this id, or None."""
        return next(map(schedule_of, self._rows(self._sql["schedule_by_id"], (id,))), None)

    def run(self, id: str) -> RunRecord | None:
        """Return the run with this id, or None."""
        return next(map(record_of, self._rows(self._sql["run_by_id"], (id,))), None)
