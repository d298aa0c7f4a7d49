"""A small pool of connections that cannot write, for short reads from any thread.

No cursor outlives a call: an open one holds a snapshot, and a held snapshot keeps the write-ahead log growing.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

import apsw

from stepwell.errors import EngineClosed, StoreError
from stepwell.store.sql.connection import Execute
from stepwell.store.sqlite.faults import damaged, translate_read

#: How often a read is tried that meets an error of the disk.
_ATTEMPTS: Final = 3

_T = TypeVar("_T")


class Readable(Protocol):
    """An open file, as far as reading needs it: that of an engine (`opening.Database`), or one open for reading only.

    The checks raise where the file must not be read any more.
    """

    @property
    def path(self) -> str:
        """The real path, for messages."""
        ...

    def check_process(self) -> None:
        """Raise `EngineClosed` in a forked child."""
        ...

    def check_identity(self) -> None:
        """Raise `FileNotUsable` where the file is not the one that was opened."""
        ...

    def connect_reader(self) -> apsw.Connection:
        """Return a further connection that cannot write."""
        ...


class ReadPool:
    """A `stepwell.store.sql.reading.Reads` on a SQLite file. Up to `max_idle` connections are kept open."""

    def __init__(self, database: Readable, *, max_idle: int = 4) -> None:
        self._database = database
        self._max_idle = max_idle
        self._mutex = threading.Lock()
        self._idle: list[apsw.Connection] = []
        self._closed = False

    def close(self) -> None:
        """Close the idle connections; those in use follow when their call ends."""
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def read(self, action: Callable[[Execute], _T]) -> _T:
        """Return what `action` reads; where the disk reports an error, try with another connection."""
        for _ in range(_ATTEMPTS - 1):
            try:
                with self.lend() as execute:
                    return action(execute)
            except StoreError as error:
                if not isinstance(error.__cause__, apsw.IOError):
                    raise
        with self.lend() as execute:
            return action(execute)

    @contextmanager
    def lend(self) -> Generator[Execute, None, None]:
        """Lend a connection for one short look. One that met an error is not used again."""
        self._database.check_process()
        connection = self._take()
        try:
            self._database.check_identity()
            yield connection.cursor().execute
        except apsw.Error as error:
            connection.close(force=True)
            raise translate_read(error, self._database.path) from error
        except UnicodeDecodeError as error:
            connection.close(force=True)
            raise damaged(f"it holds text that is not UTF-8: {error}", self._database.path) from error
        except BaseException:
            connection.close(force=True)
            raise
        with self._mutex:
            if not self._closed and len(self._idle) < self._max_idle:
                self._idle.append(connection)
                return
        connection.close()

    def _take(self) -> apsw.Connection:
        with self._mutex:
            if self._closed:
                raise EngineClosed(f"{self._database.path}: the store is closed; open the engine again to read")
            if self._idle:
                return self._idle.pop()  # the last one used has the warmest cache
        return self._database.connect_reader()
