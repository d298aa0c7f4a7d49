"""Keeps what people say of steps until the run's worker takes it. A part of the `Applier`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
        self._execute(self._sql["step_settled"], (change.run, change.op, change.kind, change.value, change.at))

    def _taken(self, change: SettlementTaken) -> None:
        self._execute(self._sql["settlement_taken"], (change.run, change.op))
