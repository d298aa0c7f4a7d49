"""Keeps what people say of steps until the run's worker takes it. A part of the `Applier`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepwell.errors import InvalidArgument, RunEnded, RunNotFound
from stepwell.model.lifecycle import ENDED
from stepwell.store.settlements import SettlementTaken, StepSettled
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part


class Settlements(Part):
    """Keeps settlements on the writer's connection; see the module."""

    def __init__(self, connection: SqlConnection, sql: Statements, after: Aftermath) -> None:
        super().__init__(connection, sql, after)
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {
            StepSettled: self._settled,
            SettlementTaken: self._taken,
        }

    def _settled(self, change: StepSettled) -> None:
        found = self._row("settled_run", change.run, change.op)
        if found is None:
            raise RunNotFound(f"no run has the key {change.run}: it was never started, or has been purged")
        run_id, status, has_outcome = found
        if has_outcome:
            raise InvalidArgument(
                f"operation {change.op} of run {run_id!r} has an outcome by now, which its code was told. To have the "
                f"run go on from there with another one, rewind it: rewind({change.op}, results={{{change.op}: …}})"
            )
        if status in ENDED:
            raise RunEnded(f"run {run_id!r} has ended ({status}) by now, so nothing waits for a step of it")
        self._execute(self._sql["step_settled"], (change.run, change.op, change.kind, change.value, change.at))

    def _taken(self, change: SettlementTaken) -> None:
        self._execute(self._sql["settlement_taken"], (change.run, change.op))
