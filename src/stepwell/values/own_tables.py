"""What user code meets when it uses its own tables in the file: a connection, and the rows that a statement gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = tuple[Any, ...]
#: The values of a statement's ``?``, in order, or of its ``:name``.
Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]


class Rows(list[Row]):
    """All rows that a statement returned: a list of tuples, which can also be fetched like those of a cursor.

    `columns` are the names of the columns, even if there are no rows. For several statements, it has the rows of all
    and the columns of the last one that returns any.
    """

    __slots__ = ("_taken", "columns")

    def __init__(self, rows: Iterable[Row] = (), columns: Sequence[str] = ()) -> None:
        super().__init__(rows)
        self.columns = tuple(columns)
        self._taken = 0

    def fetchone(self) -> Row | None:
        """Return the next row that was not fetched yet, or None."""
        if self._taken >= len(self):
            return None
        self._taken += 1
        return self[self._taken - 1]

    def fetchmany(self, size: int = 1) -> list[Row]:
        """Return the next `size` rows that were not fetched yet, or fewer where there are fewer."""
        begin = self._taken
        self._taken = min(len(self), begin + size)
        return self[begin : self._taken]

    def fetchall(self) -> list[Row]:
        """Return all rows that were not fetched yet."""
        return self.fetchmany(len(self))

    def fetchval(self) -> Any:
        """Return the first value of the next row that was not fetched yet, or None: for ``SELECT count(*) …``."""
        row = self.fetchone()
        return None if row is None else row[0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it with its columns, as not fetched yet."""
        return Rows, (list(self), self.columns)


class Connection(Protocol):
    """What a ``@transaction`` gets first, and what ``engine.transaction()`` returns: the user's tables in the file.

    It reaches the user's own tables only. Stepwell's tables, transaction control, ATTACH and PRAGMA are refused with
    `TransactionError`, and so is any use after the transaction has ended or from another thread.
    """

    def execute(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Execute one or more statements and return all their rows.

        Raises `TransactionError` for what is refused; SQLite's own errors (a violated constraint, say) come through as
        apsw raises them.
        """
        ...

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        """Execute a statement once for each of `rows`; raises as `execute` does."""
        ...
