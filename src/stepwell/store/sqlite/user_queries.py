"""Queries of the user's on connections of their own, which cannot write: they hold up no writer.

As with the engine's own reads no cursor outlives a call, because an open one keeps the write-ahead log growing.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import threading
from typing import Final

import apsw

from stepwell.errors import EngineClosed, InvalidArgument, StepwellError, TransactionError
from stepwell.shown import shown
from stepwell.store.sqlite.faults import concerns_all, translate_read
from stepwell.store.sqlite.read_pool import Readable
from stepwell.store.sqlite.user_connection import ReadGate, rows_of
from stepwell.values.own_tables import Parameters, Rows

#: Idle connections that are kept.
_MAX_IDLE: Final = 2


class UserQueries:
    """Executes the queries of user code; from any thread."""

    def __init__(self, database: Readable) -> None:
        self._database = database
        self._mutex = threading.Lock()
        self._idle: list[tuple[apsw.Connection, ReadGate]] = []
        self._closed = False

    def execute(self, sql: str, parameters: Parameters) -> Rows:
        """Return all rows of what only reads; see `stepwell.Engine.query`."""
        self._database.check_process()
        connection, gate = self._take()
        gate.refused = ""
        try:
            self._database.check_identity()
            rows = rows_of(connection, sql, parameters)
        except StepwellError:
            self._give_back(connection, gate)
            raise
        except (apsw.Error, LookupError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, apsw.Error) and concerns_all(error) and not gate.refused:
                connection.close(force=True)
                raise translate_read(error, self._database.path) from error
            self._give_back(connection, gate)
            if gate.refused:
                raise TransactionError(f"a query may not use {gate.refused}") from error
            raise _wrong(error, sql) from error
        except BaseException:
            connection.close(force=True)
            raise
        self._give_back(connection, gate)
        return rows

    def close(self) -> None:
        """Close the idle connections; those in use follow when their call ends."""
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _take(self) -> tuple[apsw.Connection, ReadGate]:
        with self._mutex:
            if self._closed:
                raise EngineClosed(f"{self._database.path}: the store is closed; open the engine again to read")
            if self._idle:
                return self._idle.pop()
        connection = self._database.connect_reader()
        return connection, ReadGate(connection)

    def _give_back(self, connection: apsw.Connection, gate: ReadGate) -> None:
        with self._mutex:
            if not self._closed and len(self._idle) < _MAX_IDLE:
                self._idle.append((connection, gate))
                return
        connection.close()


def _wrong(error: Exception, sql: str) -> InvalidArgument:
    """Return the error of ours for a query that SQLite, or the module that speaks to it, does not take."""
    match error:
        case KeyError():
            said = f"it has no parameter {error}. Give a mapping with each `:name`, or a sequence for `?`"
        case apsw.BindingsError():
            said = f"{error}. Give one parameter for each `?`, in a sequence, or a mapping with each `:name`"
        case apsw.Error():
            said = f"SQLite says: {error}. Correct the statement"
        case _:
            said = (
                f"{error}. SQL is text without null characters; parameters are None, numbers of 64 bits, text and bytes"
            )
    return InvalidArgument(f"the query {shown(sql)} was not answered: {said}")
