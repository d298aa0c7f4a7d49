"""Connections with the settings that the promises rest on, each read back after it was set.

SQLite ignores a pragma that it does not know or whose value it does not understand, without an error; so a setting
counts only when SQLite, asked, says the same.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import array
from typing import Final, Literal

import apsw

from stepwell.errors import FileInUse, FileNotUsable, StorageFull, StoreError, StoreFailed
from stepwell.store.sqlite.file import paths

Durability = Literal["full", "normal"]

#: How long a statement waits for a lock of another program (a `sqlite3` shell, a backup) before it fails.
BUSY_TIMEOUT_SECONDS: Final = 5.0
PAGE_SIZE_BYTES: Final = 4096
#: What stays of the write-ahead log when SQLite resets it; the writer's checkpoints truncate it to nothing anyway.
WAL_KEPT_BYTES: Final = 16 * 1024 * 1024
#: Parked runs are rows, and rows that were written stay in this cache: with 16 MiB, 100,000 parked runs took 200 bytes
#: of memory each, with 4 MiB 10, and neither the throughput nor the start-up changed beyond the noise.
WRITER_CACHE_KIBIBYTES: Final = 4 * 1024
READER_CACHE_KIBIBYTES: Final = 4 * 1024

SYNCHRONOUS: Final[dict[Durability, int]] = {"full": 2, "normal": 1}


def check_library(version: str) -> None:
    """Raise `FileNotUsable` unless SQLite `version` has the fix of the WAL-reset bug (3.7.0 to 3.51.2)."""
    parts = tuple(int(part) for part in version.split(".")[:3])
    if parts < (3, 51, 3) or parts[:2] == (3, 52):
        raise FileNotUsable(
            f"The SQLite library that apsw uses here is {version}. Releases before 3.51.3 can damage a file when its "
            "log is reset (the WAL-reset bug), and 3.52.0 was withdrawn. Install a current one: pip install --upgrade "
            '"apsw>=3.51.3,!=3.52.*"'
        )


def _has_no_room(error: apsw.Error) -> bool:
    """Tell whether the disk is full, also for SQLite's index of the log: that is called an error of the disk."""
    return isinstance(error, apsw.FullError) or getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE


def translate(error: apsw.Error, path: str) -> StoreError:
    """Return the error of ours for an `error` of SQLite while the file was being opened."""
    match error:
        case apsw.NotADBError():
            return FileNotUsable(f"{path!r} is not an SQLite database. Give another path; the file was not touched.")
        case apsw.CorruptError():
            return FileNotUsable(
                f"{path!r} is damaged ({error}). Stop everything that uses it, keep a copy of it together with its "
                "-wal file, and restore the newest backup; without one, SQLite's `.recover` saves what is readable."
            )
        case apsw.BusyError() | apsw.LockedError():
            return FileInUse(
                f"{path!r} is locked by another program ({error}): a `sqlite3` shell or a database browser with an "
                "open transaction, most likely. Close it and try again."
            )
        case _ if _has_no_room(error):
            return StorageFull(f"The disk of {path!r} is full. Free some space and try again; nothing was lost.")
        case apsw.IOError():
            return StoreFailed(
                f"The disk reported an error while {path!r} was opened ({error}). Look at the system's log; nothing is "
                "written until the disk is well."
            )
        case _:
            return FileNotUsable(f"{path!r} cannot be opened: {type(error).__name__}: {error}.")


def mode_of_looking(path: str) -> Literal["ro", "rw", "immutable"]:
    """Return how whoever only looks opens the file at the real `path`.

    As a rule ``rw``: a connection that is opened "ro", when it is the last, cannot remove the empty log that it made.
    Where this user may not write, SQLite can make no log beside the file: without one nobody works on the file, and it
    is read as it stands.
    """
    if paths.may_write(path):
        return "rw"
    return "ro" if paths.size_bytes(path + paths.WAL_SUFFIX) else "immutable"


def connect(path: str, mode: Literal["ro", "rw", "immutable"]) -> apsw.Connection:
    """Return a connection to the existing file at the real `path`, guarded against hostile schemas; no pragmas yet.

    Raises `FileNotUsable` where SQLite does not accept a setting, `apsw.Error` where the file cannot be opened.
    """
    flag = apsw.SQLITE_OPEN_READWRITE if mode == "rw" else apsw.SQLITE_OPEN_READONLY
    connection = apsw.Connection(paths.uri(path, mode), flags=flag | apsw.SQLITE_OPEN_URI)
    connection.set_busy_timeout(round(BUSY_TIMEOUT_SECONDS * 1000))
    for name, value in (
        # SQL cannot write the schema table, the shadow tables of extensions, or turn the journal off.
        ("SQLITE_DBCONFIG_DEFENSIVE", 1),
        # Views and triggers of a strange file cannot call functions with side effects.
        ("SQLITE_DBCONFIG_TRUSTED_SCHEMA", 0),
        # The checkpoint of the last close would swallow its errors.
        ("SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE", 1),
    ):
        got = connection.config(getattr(apsw, name), value)
        _require(path, name, value, got)
    # The address of a C int: asks SQLite what the URI's option became.
    answer = array.array("i", [-1])
    connection.file_control("main", apsw.SQLITE_FCNTL_POWERSAFE_OVERWRITE, answer.buffer_info()[0])
    _require(path, "psow", 0, answer[0])
    return connection


def writer_pragmas(durability: Durability) -> dict[str, int | str]:
    """Return what the writer's connection is set to, by the name of the pragma."""
    # locking_mode, encoding and busy_timeout are as wanted already; setting them again lets them be checked alike.
    return {
        "encoding": "UTF-8",
        "journal_mode": "wal",
        "synchronous": SYNCHRONOUS[durability],
        "wal_autocheckpoint": 0,
        "journal_size_limit": WAL_KEPT_BYTES,
        "cache_size": -WRITER_CACHE_KIBIBYTES,
        "foreign_keys": 1,
        **_common_pragmas(),
    }


def reader_pragmas() -> dict[str, int | str]:
    """Return what a reader's connection is set to, by the name of the pragma."""
    return {"query_only": 1, "cache_size": -READER_CACHE_KIBIBYTES, "wal_autocheckpoint": 0, **_common_pragmas()}


def _common_pragmas() -> dict[str, int | str]:
    return {
        "locking_mode": "normal",
        # A memory-mapped page would not see a read error but kill the process.
        "mmap_size": 0,
        "trusted_schema": 0,
        # A damaged page is reported instead of misread.
        "cell_size_check": 1,
        # Sorting must not leave the user's data in a folder of temporary files.
        "temp_store": 2,
        # macOS only: fsync there does not reach the disk, F_FULLFSYNC does.
        "fullfsync": 1,
        "checkpoint_fullfsync": 1,
        "busy_timeout": round(BUSY_TIMEOUT_SECONDS * 1000),
    }


def set_pragmas(connection: apsw.Connection, path: str, pragmas: dict[str, int | str]) -> None:
    """Set each of `pragmas` and read it back; raise `FileNotUsable`, naming it, where SQLite says something else."""
    for name, wanted in pragmas.items():
        connection.pragma(name, wanted)
        _require(path, name, wanted, connection.pragma(name))


def _require(path: str, name: str, wanted: object, got: object) -> None:
    if got != wanted:
        raise FileNotUsable(
            f"{path!r}: SQLite did not accept the setting {name} = {wanted!r}, it says {got!r}. Without it the engine "
            "cannot keep its promises. Look for connection hooks of apsw, or compile-time options of the library, "
            "that forbid it."
        )
