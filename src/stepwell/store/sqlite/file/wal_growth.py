"""How far the write-ahead log grows: when the next commit needs room in it, and when it is copied into the file.

A log that is copied starts afresh, unless a reader still needs it. See `stepwell.store.sqlite.file.wal_room` for what
room is.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import apsw

from stepwell.store.sqlite.file import paths
from stepwell.store.sqlite.file.wal_room import FRAME_HEADER_BYTES, LogRoom
from stepwell.store.sqlite.statements import SQL

#: How many pages the next commits shall find room for in the log; what most of them write is a few.
_ROOM_PAGES: Final = 16
#: How many times the limit the log may reach before the writer insists that it starts afresh.
_STUCK_FACTOR: Final = 16


class LogGrowth:
    """The log of one connection that writes; SQLite tells it of each commit.

    The next transaction needs `make_room` where `pages` have reached `roomy_until`, and after a commit the log needs
    `checkpoint` where they have reached `checkpoint_at`.
    """

    def __init__(self, connection: apsw.Connection, path: str, room: LogRoom, *, limit_bytes: int) -> None:
        self._connection = connection
        self._path = Path(path + paths.WAL_SUFFIX)
        self._room = room
        page_bytes: Any = connection.execute(SQL["page_size"]).fetchall()[0][0]
        self._frame_bytes = page_bytes + FRAME_HEADER_BYTES
        self._limit_pages: int = max(1, limit_bytes // self._frame_bytes)
        self.pages: int = 0
        self.roomy_until = 0
        self.checkpoint_at: int = self._limit_pages
        connection.set_wal_hook(self.on_commit)

    @property
    def size_bytes(self) -> int:
        """The size of the log on the disk."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def is_nearly_full(self) -> bool:
        """Whether the next commits may bring the log to where it is copied into the file."""
        return self.pages + 2 * _ROOM_PAGES >= self.checkpoint_at

    def on_commit(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """Take note of how many pages the log has after a commit; SQLite's hook."""
        if pages < self.pages:  # the log started afresh, and may have been cut
            self.checkpoint_at = self._limit_pages
            self.roomy_until = 0
        self.pages = pages
        return apsw.SQLITE_OK

    def make_room(self) -> None:
        """Look how many more pages the log can take without growing, and see to it that they are some."""
        margin_bytes = _ROOM_PAGES * self._frame_bytes
        used_bytes = self.pages * self._frame_bytes
        limit_bytes = self._limit_pages * self._frame_bytes + margin_bytes
        length = self._room.make(used_bytes + margin_bytes, limit_bytes)
        self.roomy_until = max((length - margin_bytes) // self._frame_bytes, self.pages + _ROOM_PAGES)

    def checkpoint(self) -> apsw.Error | None:
        """Copy the log into the file, so that the next commit can start it afresh; return an error of the disk.

        The transaction before it is durable already: nothing that goes wrong here is its failure, so this never raises.
        """
        # Where a reader keeps the log from starting afresh, try again only after it has grown by the limit once more.
        self.checkpoint_at = self.pages + self._limit_pages
        stuck = self.pages > _STUCK_FACTOR * self._limit_pages
        try:
            if stuck:
                self._restart()
            else:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.BusyError, apsw.FullError):
            return None
        except apsw.Error as error:
            return error
        return None

    def _restart(self) -> None:
        # A checkpoint that insists waits for readers as long as the busy timeout says; writers must not wait with it.
        timeout_milliseconds: Any
        (timeout_milliseconds,) = self._connection.execute(SQL["busy_timeout"]).fetchall()[0]
        self._connection.set_busy_timeout(0)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._connection.set_busy_timeout(timeout_milliseconds)
