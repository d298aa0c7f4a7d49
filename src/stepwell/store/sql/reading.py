"""What the read sides of SQL stores ask for: short reads, each on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from stepwell.store.sql.connection import Execute, Statements

_T = TypeVar("_T")


class Reads(Protocol):
    """Lends connections that cannot write. No cursor outlives a call, for an open one holds a snapshot."""

    def read(self, action: Callable[[Execute], _T]) -> _T:
        """Return what `action` reads. It may be called more than once."""
        ...

    def lend(self) -> AbstractContextManager[Execute]:
        """Lend a connection for one short look."""
        ...


class Reader:
    """Reads by the names of statements; safe from any thread."""

    def __init__(self, reads: Reads, sql: Statements) -> None:
        self._reads = reads
        self._sql = sql

    def _rows(self, name: str, *parameters: Any) -> list[Any]:
        statement = self._sql[name]
        return self._reads.read(lambda execute: execute(statement, parameters).fetchall())

    def _firsts(self, name: str, *parameters: Any) -> list[Any]:
        return firsts(self._rows(name, *parameters))

    def _first(self, name: str, *parameters: Any) -> Any:
        """Return the only value of the only row, None where there is no row."""
        return next(iter(self._firsts(name, *parameters)), None)


def firsts(rows: Sequence[Any]) -> list[Any]:
    """Return the first column."""
    return [row[0] for row in rows]
