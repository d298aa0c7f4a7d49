"""Open the database file so that nothing acknowledged can be lost, or refuse and say why.

The order matters. First everything that can be seen without writing: the library, the platform, the path, the file
system, whether the file is ours. Then the lock file, so that one engine has the file. Only then the file itself: made
if need be (mode 0600), its settings set and read back, what an unclean exit left in the write-ahead log folded into the
file, the schema brought up to date. From then on `guard` keeps the rest of the process away from the file.

The process never closes a descriptor of the database that SQLite did not open itself while a connection to it may
exist: that would drop SQLite's locks (see `guard`). So even the header of a strange file is read through SQLite.
"""

# ruff: noqa: PTH116, PTH120, PTH208 -- SQLite's paths are strings
# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import apsw

from stepwell.errors import (
    EngineClosed,
    FileNotUsable,
    InvalidArgument,
    SecondSqliteError,
    StoreFailed,
)
from stepwell.store.sqlite import guard, locking, migrate, mounts, paths
from stepwell.store.sqlite.connecting import (
    PAGE_SIZE_BYTES,
    SYNCHRONOUS,
    Durability,
    check_library,
    connect,
    reader_pragmas,
    set_pragmas,
    translate,
    writer_pragmas,
)
from stepwell.store.sqlite.locking import Identity

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

#: How long `close` waits for a statement of another thread, which it interrupts.
_CLOSE_PATIENCE_SECONDS: Final = 5.0

#: The databases that are open in this process, for the handler that runs in a forked child.
_open: set[Database] = set()
#: Connections of the parent, in a forked child: kept here and never touched, for closing one would run SQLite's
#: clean-up on the parent's files.
_inherited: list[apsw.Connection] = []
#: Opening is one at a time in a process: half-open files of another thread would look like a stranger's.
_opening_lock = threading.Lock()
_fork_handler_installed = False


class Database:
    """An open database file: the writer's connection, further readers, and the watch over both.

    `path` is the real path; `writer` is in autocommit mode, with no authorizer. Its users serialise themselves.
    """

    def __init__(self, path: str, writer: apsw.Connection, lock: locking.FileLock) -> None:
        self.path = path
        self.writer = writer
        self._lock = lock
        self._process_id = os.getpid()
        self._readers: list[apsw.Connection] = []
        self._readers_lock = threading.Lock()
        self._closed = False
        files = (path, path + paths.WAL_SUFFIX, path + paths.SHM_SUFFIX, lock.path)
        #: What must stay where it is: a second file under one of these names is what other processes would use.
        self._identity, *beside = [(name, _identity(name)) for name in files]
        self._beside = itertools.cycle(beside)
        self._watch = guard.Watch(path)

    def connect_reader(self) -> apsw.Connection:
        """Return a further connection that cannot write; `close` closes it.

        Raises `EngineClosed` after `close` or in a forked child, `StoreError` where the file cannot be read.
        """
        self.check_process()
        with self._readers_lock:
            if self._closed:
                raise EngineClosed(f"The engine on {self.path!r} is closed. Open a new one.")
            try:
                reader = connect(self.path, "ro")
                set_pragmas(reader, self.path, reader_pragmas())
            except apsw.Error as error:
                raise translate(error, self.path) from error
            self._readers.append(reader)
            return reader

    def check_identity(self) -> None:
        """Raise `FileNotUsable` where the file, its log or its lock file was deleted or replaced under us.

        Each call looks at the database and at one of the three files beside it in turn: two `stat` calls, about 3 µs.
        """
        for name, identity in (self._identity, next(self._beside)):
            try:
                found = os.stat(name)
            except FileNotFoundError:
                what = "was deleted or renamed"
            else:
                if (found.st_dev, found.st_ino) == identity:
                    continue
                what = "was replaced by another file"
            raise FileNotUsable(
                f"{name!r} {what} while the engine had it open. What is written now would go to a file that no one "
                f"else can see, so the engine stops. Find out what did that, put the files of {self.path!r} back "
                "together (or restore a backup), and start the engine again; never replace the file of a running "
                "engine."
            )

    def check_process(self) -> None:
        """Raise `EngineClosed` in a process that was forked from the one that opened the file."""
        if os.getpid() != self._process_id:
            raise EngineClosed(
                f"The engine on {self.path!r} belongs to process {self._process_id}, from which this one "
                f"({os.getpid()}) was forked; SQLite connections do not survive a fork. Open the engine after forking, "
                'or start processes with multiprocessing.get_context("spawn").'
            )

    def truncate_wal(self) -> None:
        """Copy the whole write-ahead log into the file and empty it.

        Raises `StoreFailed` where any part of that did not happen; what was committed is still in the log then.
        """
        self.check_process()
        _truncate_wal(self.writer, self.path)

    def close(self) -> None:
        """Close all connections and let go of the file. Safe to call twice; does nothing in a forked child.

        A write-ahead log that is not empty stays for the next open to recover: closing never checkpoints in silence.
        Raises `StoreFailed` where another thread keeps using a connection; the lock is kept in that case.
        """
        if os.getpid() != self._process_id:
            return
        with self._readers_lock:
            if self._closed:
                return
            for reader in self._readers:
                _close_connection(reader, self.path)
            self._readers.clear()
            if paths.size_bytes(self.path + paths.WAL_SUFFIX) == 0:
                # Nothing to fold in: let SQLite remove the empty log and its index, so that one file is left.
                self.writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            _close_connection(self.writer, self.path)
            self._closed = True
        _open.discard(self)
        self._watch.end()
        self._lock.release()

    def connections(self) -> list[apsw.Connection]:
        """Return all connections that were handed out."""
        return [self.writer, *self._readers]


def open_database(
    path: str | os.PathLike[str], *, durability: Durability = "full", migrations: str | Traversable | None = None
) -> Database:
    """Open the database at `path`, creating it where nothing is there, and bring its schema up to date.

    ``durability="full"`` syncs at every commit; ``"normal"`` only at checkpoints, so the last moments may be lost at
    power loss (not at the death of the process). `migrations` is a folder of scripts instead of the package's own.

    Raises:
        InvalidArgument: an argument is of the wrong kind.
        FileNotUsable: the path, file, file system, platform or SQLite library will not do; the message says why.
        SchemaTooNew: a newer release wrote the file.
        FileInUse: another engine, or a program that holds a lock, has it.
        SecondSqliteError: this process has the file open otherwise than through `apsw`.
        StorageFull, StoreFailed: the disk is full, or reported an error.
    """
    if durability not in SYNCHRONOUS:
        raise InvalidArgument(f'durability must be "full" or "normal", not {durability!r}')
    check_platform(sys.platform)
    check_library(apsw.sqlite_lib_version())
    real = paths.resolve(path)
    mounts.check_mount(real)
    scripts = migrate.load_migrations(migrations)
    try:
        with _opening_lock:
            _install_fork_handler()
            return _open_free(real, durability, scripts)
    except apsw.Error as error:
        raise translate(error, real) from error
    except OSError as error:
        raise FileNotUsable(f"{real!r} cannot be opened: {error}.") from error


def check_platform(platform: str) -> None:
    """Raise `FileNotUsable` unless `platform` (as `sys.platform`) gives what the promises need."""
    if platform not in ("linux", "darwin"):
        raise FileNotUsable(
            "Stepwell keeps its promises with POSIX byte-range locks that the kernel drops when a process dies; the "
            f"platform {platform!r} is not known to have them, so the file is not opened. Use Linux or macOS (on "
            "Windows: WSL 2, with the file inside its own disk)."
        )


def _open_free(path: str, durability: Durability, scripts: tuple[migrate.Migration, ...]) -> Database:
    identity = Identity.of(path)
    locking.check_free(path, identity)
    if identity is not None:
        _refuse_open_descriptors(path)
    _look_before_writing(path, scripts[-1].number)
    lock = locking.acquire(path + paths.LOCK_SUFFIX, path)
    try:
        return _open_locked(path, durability, lock, scripts)
    except BaseException:
        lock.release()
        raise


def _open_locked(
    path: str, durability: Durability, lock: locking.FileLock, scripts: tuple[migrate.Migration, ...]
) -> Database:
    if Identity.of(path) is None:
        _create(path)
    wal_bytes = paths.size_bytes(path + paths.WAL_SUFFIX) or 0
    writer = connect(path, "rw")
    try:
        contents = _read_contents(writer)
        _judge(contents, path, scripts[-1].number)
        # Copied up by an overlay file system or not: what the connection has open now is the file that counts.
        lock.claim(_identity(path))
        if contents.is_empty:
            writer.pragma("page_size", PAGE_SIZE_BYTES)
        set_pragmas(writer, path, writer_pragmas(durability))
        if wal_bytes:
            _recover(writer, path)
        migrate.migrate(writer, path, scripts)
        set_pragmas(writer, path, {"foreign_keys": 1})
        _touch_tables(writer)
        database = Database(path, writer, lock)
    except BaseException:
        _close_connection(writer, path)
        raise
    _open.add(database)
    return database


# --- before the first write -------------------------------------------------------------------------------------------


class _Contents(NamedTuple):
    """What tells a file of ours from others."""

    application_id: int
    version: int
    tables: int
    tables_of_ours: int

    @property
    def is_empty(self) -> bool:
        return self == (0, 0, 0, 0)


def _look_before_writing(path: str, newest: int) -> None:
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
        contents = _read_contents(connection)
    except apsw.Error:
        if not unfinished:
            raise
    else:
        _judge(contents, path, newest)
    finally:
        connection.close()


def _read_contents(connection: apsw.Connection) -> _Contents:
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE name LIKE 'stepwell\\_%' ESCAPE '\\') FROM sqlite_schema"
    ).fetchone()
    assert row is not None
    return _Contents(int(connection.pragma("application_id")), migrate.version_of(connection), *row)


def _judge(contents: _Contents, path: str, newest: int) -> None:
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


def _refuse_open_descriptors(path: str) -> None:
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


# --- the connection ---------------------------------------------------------------------------------------------------


def _create(path: str) -> None:
    """Make an empty file that only its owner may read; SQLite gives its log the same mode."""
    # No connection to the new inode can exist yet, so closing this descriptor drops no lock.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o600))
    paths.sync_folder(os.path.dirname(path))


def _recover(writer: apsw.Connection, path: str) -> None:
    """Fold what an unclean exit left in the log into the file; it must succeed before anything is added."""
    try:
        _truncate_wal(writer, path)
    except StoreFailed as failure:
        if isinstance(failure.__cause__, (apsw.BusyError, apsw.CorruptError)):
            raise translate(failure.__cause__, path) from failure
        raise


def _truncate_wal(writer: apsw.Connection, path: str) -> None:
    wal = path + paths.WAL_SUFFIX
    advice = (
        f"What was committed is safe in {wal!r}; do not delete that file. Close programs that read the database, look "
        "at the disk, and start the engine again: it repeats this first."
    )
    try:
        writer.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.Error as error:
        raise StoreFailed(
            f"The write-ahead log could not be folded into {path!r}: {type(error).__name__}: {error}. {advice}"
        ) from error
    if paths.size_bytes(wal):
        raise StoreFailed(f"The write-ahead log of {path!r} is not empty after a checkpoint. {advice}")


def _touch_tables(writer: apsw.Connection) -> None:
    """Read a row of each of the engine's tables: a file that was cut off shows now, not in the midst of work."""
    names: list[tuple[Any, ...]] = writer.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'stepwell\\_%' ESCAPE '\\'"
    ).fetchall()
    for (name,) in names:
        writer.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchall()  # noqa: S608 -- names of our own tables


def _close_connection(connection: apsw.Connection, path: str) -> None:
    give_up_at = time.monotonic() + _CLOSE_PATIENCE_SECONDS
    while True:
        try:
            connection.close()
        except apsw.ThreadingViolationError as error:
            if time.monotonic() > give_up_at:
                raise StoreFailed(
                    f"A connection to {path!r} is still used by another thread, so the file stays open. Let that "
                    "thread end."
                ) from error
            connection.interrupt()
            time.sleep(0.001)
        else:
            return


def _identity(path: str) -> Identity:
    found = os.stat(path)
    return Identity(found.st_dev, found.st_ino)


# --- fork -------------------------------------------------------------------------------------------------------------


def _install_fork_handler() -> None:
    global _fork_handler_installed  # noqa: PLW0603 -- handlers belong to the process, so this does
    if not _fork_handler_installed:
        os.register_at_fork(after_in_child=_after_fork_in_child)
        _fork_handler_installed = True


def _after_fork_in_child() -> None:
    global _opening_lock  # noqa: PLW0603 -- a thread that only the parent has may hold it
    _opening_lock = threading.Lock()
    locking.after_fork_in_child()
    guard.after_fork_in_child()
    connections = [connection for database in _open for connection in database.connections()]
    _open.clear()
    if connections:
        _inherited.extend(connections)
        _make_immortal(connections)


def _make_immortal(connections: list[apsw.Connection]) -> None:
    """Take a reference to each that is never given back.

    A list alone would be cleared when the child's interpreter ends, and the connections closed: SQLite would then clean
    up files that belong to the parent.
    """
    try:
        import ctypes  # noqa: PLC0415 -- only a forked child pays for it
    except ImportError:
        return
    for connection in connections:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
