"""Whose a file is: looked at before anything is written, so that a strange file is refused untouched.

The process never closes a descriptor of the database that SQLite did not open itself while a connection to it may
exist: that would drop SQLite's locks (see `guard`). So even the header of a strange file is read through SQLite.
"""

# ruff: noqa: PTH208 -- SQLite's paths are strings
# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os

import apsw
import msgspec

from stepwell.errors import FileNotUsable, SecondSqliteError
from stepwell.store.sqlite.file import migrate, paths
from stepwell.store.sqlite.file.locking import Identity


class Contents(msgspec.Struct, frozen=True):
    """What tells a file of ours from others."""

    application_id: int
    version: int
    tables: int
    tables_of_ours: int

    @property
    def is_empty(self) -> bool:
        """Whether nobody has put anything into the file."""
        return self == Contents(0, 0, 0, 0)


def look_before_writing(path: str, newest: int) -> None:
    """Refuse a file that cannot be ours without touching it, or leaving a lock file beside it."""
    if not paths.size_bytes(path):
        if paths.size_bytes(path + paths.WAL_SUFFIX):
            raise FileNotUsable(
                f"{path!r} is missing or empty, but its write-ahead log {path + paths.WAL_SUFFIX!r} is not: the "
                "database was deleted or moved without it. Put the two back together; if the data is not wanted, "
                "delete the log as well."
            )
        return
    # Immutable: no lock is taken, no log is read or made. What a log or journal would add is unknown then, so an
    # unsound page means nothing while there is one; what makes a file somebody else's does not change through them.
    logs = [path + suffix for suffix in (paths.WAL_SUFFIX, paths.JOURNAL_SUFFIX)]
    unfinished = any(paths.size_bytes(log) is not None for log in logs)
    connection = apsw.Connection(paths.uri(path, "immutable"), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        contents = read_contents(connection)
    except apsw.Error:
        if not unfinished:
            raise
    else:
        judge(contents, path, newest)
    finally:
        connection.close()


def read_contents(connection: apsw.Connection) -> Contents:
    """Return what tells whose the file is that is open on `connection`."""
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE name LIKE 'stepwell\\_%' ESCAPE '\\') FROM sqlite_schema"
    ).fetchone()
    assert row is not None
    return Contents(int(connection.pragma("application_id")), migrate.version_of(connection), *row)


def judge(contents: Contents, path: str, newest: int) -> None:
    """Raise where a file with these contents is not ours, or newer than the schema version `newest`."""
    if contents.is_empty:
        return
    if contents.application_id != migrate.APPLICATION_ID:
        if contents.tables_of_ours:
            raise FileNotUsable(
                f"{path!r} holds Stepwell's tables but not its mark: application_id is {contents.application_id:#x}, "
                f"not {migrate.APPLICATION_ID:#x}. A text dump loses the mark and the schema version. Use a copy made "
                "with `VACUUM INTO` or SQLite's backup."
            )
        raise FileNotUsable(
            f"{path!r} is an SQLite database, but not Stepwell's (application_id {contents.application_id:#x}, "
            f"{contents.tables} tables and indexes). It was not touched. Give the engine a file of its own; tables "
            "that shall commit together with workflows are created in that file, through `engine.transaction()`."
        )
    if contents.version == 0:
        raise FileNotUsable(
            f"{path!r} is marked as Stepwell's but has no schema version (user_version is 0): something overwrote it. "
            "Restore a backup."
        )
    migrate.check_version(contents.version, newest, path)


def refuse_open_descriptors(path: str) -> None:
    """Refuse a file that this process has open already, other than through `apsw`: the guard sees only later calls."""
    ours = {
        identity for suffix in ("", paths.SHM_SUFFIX, paths.LOCK_SUFFIX) if (identity := Identity.of(path + suffix))
    }
    for name in os.listdir("/dev/fd"):
        try:
            found = os.fstat(int(name))
        except (OSError, ValueError):
            continue
        if (found.st_dev, found.st_ino) in ours and not _opened_by_apsw(path):
            raise SecondSqliteError(
                f"This process has {path!r} open already (descriptor {name}), through `open` or Python's `sqlite3`. "
                "Closing that later would drop the engine's file locks and lose writes. Close it before the engine "
                "opens the file."
            )


def _opened_by_apsw(path: str) -> bool:
    wanted = Identity.of(path)
    for connection in apsw.connections():
        try:
            if Identity.of(connection.filename) == wanted:
                return True
        except (apsw.Error, OSError, ValueError):
            continue
    return False
