"""What the parts of the applier have in common: a connection, the dialect's statements, the aftermath."""

from __future__ import annotations

from typing import Any

import msgspec

from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements


class Part:
    """Applies some of the changes on the writer's connection."""

    def __init__(self, connection: SqlConnection, sql: Statements, after: Aftermath) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute
        self._sql = sql
        self._after = after

    def _row(self, name: str, *parameters: Any) -> Any:
        return next(iter(self._execute(self._sql[name], parameters).fetchall()), None)

    def _keys(self, name: str, *parameters: Any) -> Any:
        """Return what a query that yields one JSON array found."""
        return msgspec.json.decode(self._row(name, *parameters)[0])
