"""Real SQLite, real schema, no disk: the database that all workers of a simulated world share.

It is one database in memory (SQLite's ``memdb``) with a connection for each worker's writer and one for all readers.
`SimDatabase` stands in for `stepwell.store.sqlite.file.opening.Database`, so that the store above it is the real one,
with its SQL, its transactions and its savepoints. What is left out is files: opening, locking, the log, checkpoints.

Connections live as long as the process, one world after another: preparing statements costs more than most worlds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

import apsw

from stepwell.store.sqlite.file import migrate
from stepwell.store.sqlite.statements import SQL
from stepwell.values.payload import Packer

_numbers: Final = itertools.count()
_packer: Final = Packer()
_READ_FRAME: Final = frozenset({SQL["read_begun"], SQL["read_ended"]})

#: The table of the user's that transactional steps write to.
EFFECTS: Final = "CREATE TABLE effects (run TEXT NOT NULL, op INTEGER NOT NULL, number INTEGER NOT NULL)"


class _Connection(apsw.Connection):
    """A connection that outlives its users."""

    def close(self, force: bool = False) -> None:
        """Stay open."""


class Arena:
    """The databases of one process: emptied, not closed, between two worlds."""

    def __init__(self) -> None:
        self._uri = f"file:/stepwell-sim-{next(_numbers)}?vfs=memdb"
        self._free: list[apsw.Connection] = []
        self._writers: list[apsw.Connection] = []
        first = self.writer()
        migrate.migrate(first, "the simulated file", migrate.load_migrations())
        first.execute(EFFECTS)
        self._clearing = self._statements(first)
        self.reader = self._connect()
        self._free.append(first)

    def _connect(self) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        connection = _Connection(self._uri, flags=flags, statementcachesize=300)
        for name, value in (("journal_mode", "memory"), ("synchronous", 0), ("foreign_keys", 1), ("trusted_schema", 0)):
            connection.pragma(name, value)
        return connection

    @staticmethod
    def _statements(connection: apsw.Connection) -> list[str]:
        tables: list[Any] = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        # Those that have rows from the beginning hold the closed sets of the schema.
        is_empty = {name: connection.execute(f'SELECT 1 FROM "{name}"').fetchone() is None for (name,) in tables}
        return [f'DELETE FROM "{name}"' for name, empty in is_empty.items() if empty]

    def writer(self) -> apsw.Connection:
        """Lend a connection that may write."""
        connection = self._free.pop() if self._free else self._connect()
        self._writers.append(connection)
        return connection

    def clear(self) -> None:
        """Empty the database, and take all connections back."""
        for connection in self._writers:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self._free += self._writers
        self._writers = []
        connection = self._free[-1]
        connection.authorizer = None
        connection.pragma("foreign_keys", 0)
        with connection:
            for statement in self._clearing:
                connection.execute(statement)
        connection.pragma("foreign_keys", 1)


class _Cursor:
    """A reader's connection, and its cursor, to a reading worker.

    Inside a write transaction of the same worker (a transactional step is called there) memdb would not let another
    connection read, so it reads on the writer's.
    """

    def __init__(self, reader: apsw.Connection, writer: apsw.Connection, point: Callable[[], None]) -> None:
        self._reader = reader
        self._writer = writer
        self._point = point

    def cursor(self) -> _Cursor:
        """Return a cursor: itself."""
        return self

    def execute(self, sql: str, parameters: Any = ()) -> apsw.Cursor:
        """Execute a statement where reading is possible now."""
        if self._writer.in_transaction:
            return self._writer.execute("SELECT 1" if sql in _READ_FRAME else sql, parameters)
        if sql not in _READ_FRAME:
            if not self._reader.in_transaction:
                self._point()
            return self._reader.execute(sql, parameters)
        if not self._reader.in_transaction:
            self._point()
        return self._reader.execute(sql)

    def close(self, force: bool = False) -> None:
        """Stay open."""


class SimDatabase:
    """Stands in for `opening.Database`. `point` is called before each read: there others may have their turn."""

    path = "the simulated file"

    def __init__(self, arena: Arena, writers: Any, membership: Any, point: Callable[[], None]) -> None:
        self.writer = arena.writer()
        self.writers = writers
        self.membership = membership
        self.log_room = self
        self._reader = _Cursor(arena.reader, self.writer, point)

    def connect_reader(self) -> Any:
        """Return what reads."""
        return self._reader

    def check_process(self) -> None:
        """Nobody forks here."""

    def check_identity(self) -> None:
        """Nobody replaces the file."""

    def check_in_place(self) -> None:
        """Nobody replaces the file."""

    def truncate_wal(self) -> None:
        """There is no log."""

    def make(self, _needed_bytes: int, _limit_bytes: int) -> int:
        """There is no log, so no room is wanted in it."""
        return 0

    def close(self) -> None:
        """Leave."""
        self.membership.leave()


def text_of(payload: Any) -> str:
    """Return the JSON of a payload as it stands in the file."""
    return _packer.text_of(payload, "a payload", "null")
