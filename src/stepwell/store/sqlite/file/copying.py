"""Copying a database, beside whoever writes to it, into one file that needs no other: backups are made so.

SQLite's backup API copies page by page (`VACUUM INTO` would renumber rowids of the user's tables). The connection that
reads holds one snapshot from the first page to the last, so what is copied is one commit, and no writer makes the copy
begin anew; writers go on, and the log keeps what they write until the copy is whole.
"""

# ruff: noqa: PTH105, PTH108, PTH120 -- SQLite's paths are strings
# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final

import apsw

from stepwell.store.sqlite.file import paths
from stepwell.store.sqlite.file.connecting import mode_of_looking

#: What is told how many pages of how many are copied.
Progress = Callable[[int, int], None]

#: How many pages are copied at a time, and written to the disk before the next ones: 256 KiB of 4 KiB each. More of
#: them would stand before the commits of others; fewer make the copy slow.
_PAGES: Final = 64
#: Flags of sync_file_range(2): wait for what is being written, begin to write, wait for that.
_WRITE_AND_WAIT: Final = 1 | 2 | 4
_PATIENCE_MILLISECONDS: Final = 5000
_ENDINGS: Final = ("", paths.JOURNAL_SUFFIX, paths.WAL_SUFFIX, paths.SHM_SUFFIX)


def _silent(_copied: int, _all: int) -> None:
    pass


def copy_database(path: str, target: str, progress: Progress = _silent) -> None:
    """Copy the last commit of the database at `path` to the new file `target`; raises `apsw.Error`, `OSError`.

    The copy is not synced yet, see `publish`. Half of one is left where it fails, see `discard`.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    source = open_plain(path, mode_of_looking(path))
    try:
        source.pragma("query_only", 1)
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # the snapshot begins with the first read
        copy = open_plain(target, "rw")
        try:
            # Half a copy is thrown away, and a whole one is synced as a file.
            copy.pragma("journal_mode", "OFF")
            copy.pragma("synchronous", "OFF")
            with copy.backup("main", source, "main") as backup, _descriptor(target) as written:
                write_out = writing_out(written)
                while not backup.done:
                    backup.step(_PAGES)
                    write_out()
                    progress(backup.page_count - backup.remaining, backup.page_count)
        finally:
            copy.close()
        source.execute("COMMIT")
    finally:
        # The checkpoint of the last connection would be ours otherwise, and swallow its errors.
        source.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        source.close()


def writing_out(descriptor: int) -> Callable[[], None]:
    """Return what has the disk write what a file has got since the last call, and waits for that.

    Else all of it would stand before somebody's commit at once. Not fsync, where the system has something less: that
    commits to the file system's own journal, for which the commits of others wait as well. It keeps nothing safe by
    itself, see `publish`.
    """
    import ctypes  # noqa: PLC0415 - some milliseconds, which engines need not spend that make no copy

    found = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
    if found is None:
        return lambda: os.fsync(descriptor)
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

    def write_out() -> None:
        # The whole file: SQLite writes pages in an order of its own, and what is on the disk already is passed over.
        if found(descriptor, 0, 0, _WRITE_AND_WAIT):
            os.fsync(descriptor)  # a file system that cannot

    return write_out


@contextmanager
def _descriptor(path: str) -> Generator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_plain(path: str, mode: str) -> apsw.Connection:
    """Return a connection without any of the settings of an engine's, to a file that no engine has."""
    flag = apsw.SQLITE_OPEN_READWRITE if mode == "rw" else apsw.SQLITE_OPEN_READONLY
    return apsw.Connection(paths.uri(path, mode), flags=flag | apsw.SQLITE_OPEN_URI)


def standing_alone(copy: apsw.Connection) -> bool:
    """Make a copy one file that needs no other: its header says WAL, as the original's does. Tell if that worked."""
    return bool(copy.pragma("journal_mode", "DELETE") == "delete")


def settle(path: str) -> None:
    """Fold the log of a file that nobody has open into it, so that it needs no other; raises `apsw.Error`."""
    connection = open_plain(path, "rw")
    try:
        connection.set_busy_timeout(_PATIENCE_MILLISECONDS)
        connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
        if not standing_alone(connection):
            raise apsw.BusyError("another program reads it")
    finally:
        connection.close()


def publish(partial: str, target: str) -> None:
    """Give a finished file its name, once it is on the disk; what had the name before is replaced."""
    descriptor = os.open(partial, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(partial, target)
    paths.sync_folder(os.path.dirname(target))


def discard(partial: str) -> None:
    """Remove a file that was not finished, and what SQLite made beside it."""
    for ending in _ENDINGS:
        with suppress(FileNotFoundError):
            os.unlink(partial + ending)
