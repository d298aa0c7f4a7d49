"""The writer's connection in the hands of user code, for the length of one call.

SQLite asks an authorizer about everything that a statement would do while it compiles the statement. `Gate` is that
authorizer: installed once (installing one makes SQLite recompile every statement), it lets everything pass except while
user code's SQL is being executed. That SQL never comes from, nor goes into, the connection's statement cache: a cached
statement is not compiled again, so the authorizer would not be asked.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from threading import get_ident
from types import TracebackType
from typing import Any, Final, NoReturn, Protocol

import apsw

from stepwell.errors import EngineClosed, InvalidArgument, TransactionError
from stepwell.model.names import check_text
from stepwell.shown import shown
from stepwell.store.changes import Change
from stepwell.store.sqlite.faults import TransactionGone, concerns_all
from stepwell.store.store import Lent
from stepwell.values.own_tables import Parameters, Rows

_PREFIX: Final = "stepwell_"

_REFUSED_ACTIONS: Final[dict[int, tuple[str, str]]] = {
    apsw.SQLITE_TRANSACTION: ("BEGIN, COMMIT and ROLLBACK", "the engine commits; raise an exception to roll back"),
    apsw.SQLITE_SAVEPOINT: ("SAVEPOINT", "raise an exception to undo everything"),
    apsw.SQLITE_ATTACH: ("ATTACH", "a transaction over two files is not atomic; keep the tables in this file"),
    apsw.SQLITE_DETACH: ("DETACH", "the engine's file stays attached"),
    apsw.SQLITE_PRAGMA: ("PRAGMA", "the engine's guarantees rest on its settings"),
    apsw.SQLITE_ANALYZE: ("ANALYZE", "it would change the plans of the engine's queries"),
    apsw.SQLITE_CREATE_TEMP_TABLE: ("TEMP tables", "the connection outlives the call; use an ordinary table"),
    apsw.SQLITE_CREATE_TEMP_INDEX: ("TEMP indexes", "the connection outlives the call; use an ordinary table"),
    apsw.SQLITE_CREATE_TEMP_VIEW: ("TEMP views", "the connection outlives the call; use an ordinary view"),
    apsw.SQLITE_CREATE_TEMP_TRIGGER: ("TEMP triggers", "the connection outlives the call; use an ordinary trigger"),
}

_READS: Final = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE})

#: Actions whose second name is a table; for the others it is a column, a module or nothing.
_SECOND_IS_TABLE: Final = frozenset(
    {
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TRIGGER,
        apsw.SQLITE_ALTER_TABLE,
    }
)


class Gate:
    """The authorizer of one connection; a context manager around the execution of user code's SQL."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._closed_to_users = False
        #: What was refused last, for the error's message.
        self.refused = ""
        #: Whether user code's SQL did more than read, since this was last set to False.
        self.has_written = False
        connection.authorizer = self._authorize

    def __enter__(self) -> None:
        self._closed_to_users = True
        self.refused = ""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed_to_users = False

    def _authorize(
        self, action: int, first: str | None, second: str | None, _database: str | None, _source: str | None
    ) -> int:
        if not self._closed_to_users:
            return apsw.SQLITE_OK
        if action not in _READS:
            self.has_written = True
        if action in _REFUSED_ACTIONS:
            what, advice = _REFUSED_ACTIONS[action]
            self.refused = f"{what}: {advice}"
            return apsw.SQLITE_DENY
        if action == apsw.SQLITE_FUNCTION:
            if (second or "").lower() != "load_extension":
                return apsw.SQLITE_OK
            self.refused = "load_extension(): it would run foreign code on the engine's connection"
            return apsw.SQLITE_DENY
        for name in (first, second if action in _SECOND_IS_TABLE else None):
            if name is not None and _is_ours(name):
                self.refused = f"{name}: it is the engine's; use the engine's calls, or tables of your own"
                return apsw.SQLITE_DENY
        return apsw.SQLITE_OK


def _is_ours(name: str) -> bool:
    # A UNIQUE constraint's index is named sqlite_autoindex_<table>_<n>.
    return name.lower().removeprefix("sqlite_autoindex_").startswith(_PREFIX)


class ReadGate(Gate):
    """The authorizer of a connection for the user's queries, closed for good: nothing but reading passes."""

    def __init__(self, connection: apsw.Connection) -> None:
        super().__init__(connection)
        self.__enter__()

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, source: str | None
    ) -> int:
        if action in _REFUSED_ACTIONS or action == apsw.SQLITE_FUNCTION:
            return super()._authorize(action, first, second, database, source)
        if action in _READS:  # the engine's tables as well: any other program may read them
            return apsw.SQLITE_OK
        self.refused = "anything but reading: it has a connection that cannot write; use engine.transaction()"
        return apsw.SQLITE_DENY


def rows_of(connection: apsw.Connection, sql: str, parameters: Parameters) -> Rows:
    """Execute SQL and return all its rows, with the names of the columns."""
    if check_text(sql, "SQL") is None:
        raise InvalidArgument("SQL must be text, not None")
    if isinstance(parameters, (str, bytes)) or not isinstance(parameters, (Mapping, Sequence)):
        raise InvalidArgument(
            f"parameters of SQL are a sequence, for `?`, or a mapping, for `:name`, not {shown(parameters)}"
        )
    columns: list[str] = []

    def note_columns(cursor: apsw.Cursor, _sql: str, _bindings: object) -> bool:
        # Asked before each statement is executed: afterwards, one without rows has no columns any more.
        found = cursor.get_description()
        if found:
            columns[:] = [each[0] for each in found]
        return True

    cursor = connection.cursor()
    cursor.exec_trace = note_columns
    values = dict(parameters) if isinstance(parameters, Mapping) else parameters
    return Rows(cursor.execute(sql, values, can_cache=False).fetchall(), columns)


class SqliteLent:
    """A `stepwell.store.store.Lent` on the writer's connection."""

    def __init__(
        self, connection: apsw.Connection, gate: Gate, savepoint: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._connection = connection
        self._gate = gate
        self._savepoint = savepoint
        self._thread = get_ident()
        self._ended = False
        #: The error, if any, that ended the whole transaction while user code had the connection.
        self.fault: Exception | None = None

    def execute(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Execute SQL; see `Connection.execute`."""
        self.check()
        try:
            with self._gate:
                return rows_of(self._connection, sql, parameters)
        except apsw.Error as error:
            self._raise(error)

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        """Execute a statement once for each of `rows`; see `Connection.executemany`."""
        self.check()
        # A generator is user code too; it must not run with the gate closed.
        materialised = [dict(row) if isinstance(row, Mapping) else row for row in rows]
        try:
            with self._gate:
                self._connection.executemany(sql, materialised, can_cache=False).fetchall()
        except apsw.Error as error:
            self._raise(error)

    def savepoint(self) -> AbstractContextManager[None]:
        """For the engine: undo what user code wrote inside the block when the block raises, and go on."""
        self.check()
        return self._savepoint()

    def end(self) -> None:
        """Take the connection back."""
        self._ended = True

    def check(self) -> None:
        """Raise `TransactionError` where the connection may not be used, or not any more."""
        if self._ended:
            raise TransactionError(
                "the transaction is over, so its connection cannot be used any more; do all SQL before the "
                "function returns"
            )
        if get_ident() != self._thread:
            raise TransactionError(
                "the connection of a transaction belongs to the thread that it was lent to; run the SQL there"
            )
        if self.fault is not None:
            raise TransactionError(f"the transaction was ended by an earlier error: {self.fault}") from self.fault

    def _raise(self, error: apsw.Error) -> NoReturn:
        if isinstance(error, apsw.ConnectionClosedError):
            raise EngineClosed("the engine was closed within this transaction; nothing of it was written") from error
        if concerns_all(error):
            self.fault = error
        elif not self._connection.in_transaction:
            self.fault = TransactionGone(f"the transaction was rolled back by {error}")
        if self._gate.refused:
            raise TransactionError(f"a transaction may not use {self._gate.refused}") from error
        raise error


class Apply(Protocol):
    """What applies changes in the transaction that is lent, if `accept` accepts their results."""

    def __call__(
        self, changes: Sequence[Change], lent: SqliteLent, accept: Callable[[list[Any]], None] | None, /
    ) -> list[Any]:
        """Return their results."""
        ...


class SqliteTransaction:
    """A `stepwell.store.store.StoreTransaction`; `apply` is what applies changes in the transaction that is lent."""

    def __init__(self, apply: Apply, lent: SqliteLent) -> None:
        self._apply = apply
        self._lent = lent
        self.lent: Lent = lent

    def apply(self, changes: Sequence[Change], accept: Callable[[list[Any]], None] | None = None) -> list[Any]:
        """Apply all of `changes`, or raise and apply none; the transaction stays open either way."""
        return self._apply(changes, self._lent, accept)

    def check(self) -> None:
        """Raise `TransactionError` where the transaction may not be used, or not any more."""
        self._lent.check()
