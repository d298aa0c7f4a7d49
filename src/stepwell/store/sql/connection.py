"""What the shared part asks of a connection to a database: so little that any driver has it, or a short adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias

#: The statements of one dialect, by name; see `stepwell.store.sql.named_sql`.
Statements: TypeAlias = Mapping[str, str]


class Cursor(Protocol):
    """The rows that a statement returned."""

    def fetchall(self) -> list[Any]:
        """Return all that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Execute(Protocol):
    """Executes a statement with its parameters, in order."""

    def __call__(self, statement: str, parameters: Any = ..., /) -> Cursor:
        """Return the cursor on the rows."""
        ...


class _Opened(Protocol):
    @property
    def execute(self) -> Execute: ...


class SqlConnection(Protocol):
    """A connection inside a transaction."""

    def cursor(self) -> _Opened:
        """Return what executes statements."""
        ...

    def changes(self) -> int:
        """Return how many rows the last statement wrote."""
        ...

    def last_insert_rowid(self) -> int:
        """Return the key of the row that was inserted last."""
        ...
