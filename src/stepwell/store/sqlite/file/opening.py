"""Open the database file so that nothing acknowledged can be lost, or refuse and say why.

The order matters. First everything that can be seen without writing: the library, the platform, the path, the file
system, whether the file is ours (`identify`). Then the lock file's *door*, which one process at a time goes through.
Only then the file itself: made if need be (mode 0600), its settings set and read back. Who is alone with the file folds
what an unclean exit left in the write-ahead log into it, and brings the schema up to date; who is not finds both done,
or is refused. With a slot of its own (`membership`) the process lets the next one in. From then on `guard` keeps the
rest of the process away from the file.
"""

# ruff: noqa: PTH116, PTH120 -- SQLite's paths are strings
# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import errno
import itertools
import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import apsw

from stepwell.errors import (
    FORK_ADVICE,
    EngineClosed,
    FileInUse,
    FileNotUsable,
    InvalidArgument,
    StorageFull,
    StoreError,
    StoreFailed,
)
from stepwell.model.steady import monotonic
from stepwell.shown import shown
from stepwell.store.sqlite.file import guard, identify, last_commit, locking, migrate, mounts, paths
from stepwell.store.sqlite.file.connecting import (
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
from stepwell.store.sqlite.file.file_identity import FileInPlace
from stepwell.store.sqlite.file.last_commit import LastCommit
from stepwell.store.sqlite.file.locking import DOOR_PATIENCE_SECONDS, Identity, LockFile
from stepwell.store.sqlite.file.logs_beside import check_index, check_logs
from stepwell.store.sqlite.file.wal_room import LogRoom, cut_failed_commit
from stepwell.store.sqlite.peers.listener import Version
from stepwell.store.sqlite.peers.membership import Membership, describe
from stepwell.store.sqlite.peers.writers_lock import SharedLock
from stepwell.values import large_values

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

#: How long `close` waits for a statement of another thread, which it interrupts; and for the door.
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
    """An open database file: the writer's connection, further readers, the watch over both, and the other processes.

    `path` is the real path; `writer` is in autocommit mode, with no authorizer. Its users take turns by `writers`, the
    lock that all threads and processes share. `membership` has a slot from the beginning; a seat, who registers.
    """

    def __init__(self, path: str, writer: apsw.Connection, lock: LockFile, membership: Membership) -> None:
        self.path = path
        self.writer = writer
        self.writers = SharedLock(lock)
        self.membership = membership
        membership.open_version = self._open_version
        self.last_commit = LastCommit(lock.descriptor, _identity(path), last_commit.this_boot())
        self._lock = lock
        self._process_id = os.getpid()
        self._readers: list[apsw.Connection] = []
        self._readers_lock = threading.Lock()
        self._closed = False
        # What must stay where it is: a second file under one of these names is what other processes would use.
        beside = (path + paths.WAL_SUFFIX, path + paths.SHM_SUFFIX, lock.path)
        self._file = FileInPlace(path, is_written=False)
        #: When the database had been written to last, when its log was seen beside it the last time.
        self._modified_at = self._file.modified_at()
        self._beside = [FileInPlace(name, is_written=True) for name in beside]
        self._in_turn = itertools.cycle(self._beside)
        self.log_room = LogRoom(path + paths.WAL_SUFFIX)
        try:
            self._watch = guard.Watch(path)
        except BaseException:
            self._let_go_of_names()
            raise

    def _let_go_of_names(self) -> None:
        self.log_room.close()
        for file in self._beside:
            file.close()

    def connect_reader(self) -> apsw.Connection:
        """Return a further connection that cannot write; `close` closes it.

        Raises `EngineClosed` after `close` or in a forked child, `StoreError` where the file cannot be read.
        """
        self.check_process()
        with self._readers_lock:
            if self._closed:
                raise EngineClosed(f"The engine on {self.path!r} is closed. Open a new one.")
            self.check_in_place()  # a log that was deleted, SQLite would make anew
            try:
                reader = connect(self.path, "ro")
                set_pragmas(reader, self.path, reader_pragmas())
            except apsw.Error as error:
                raise translate(error, self.path) from error
            self._readers.append(reader)
            return reader

    def check_identity(self) -> None:
        """Raise `FileNotUsable` where the file, its log or its lock file was deleted or replaced under us.

        Each call looks at the database and at one of the three files beside it in turn: about 4 µs.
        """
        beside = next(self._in_turn)
        modified_at = self._file.modified_at() if beside is self._beside[0] else self._modified_at
        self._check_each(self._file, beside)
        self._modified_at = modified_at

    def check_in_place(self) -> None:
        """Raise the same, having looked at all of them; of a file that was closed, none is missed."""
        if self._closed:
            return
        modified_at = self._file.modified_at()
        self._check_each(self._file, *self._beside)
        self._modified_at = modified_at

    def _check_each(self, *files: FileInPlace) -> None:
        for file in files:
            what = file.what_happened()
            if what is not None:
                raise FileNotUsable(
                    f"{file.path!r} {what} while the engine had it open. What is written now would go to a file that "
                    f"no one else can see, so the engine stops. Find out what did that, put the files of {self.path!r} "
                    "back together (or restore a backup), and start the engine again; never replace the file of a "
                    "running engine."
                )

    def check_process(self) -> None:
        """Raise `EngineClosed` in a process that was forked from the one that opened the file."""
        if os.getpid() != self._process_id:
            raise EngineClosed(
                f"The engine on {self.path!r} belongs to process {self._process_id}, from which this one "
                f"({os.getpid()}) was forked; SQLite connections do not survive that. {FORK_ADVICE}."
            )

    def truncate_wal(self) -> None:
        """Copy the whole write-ahead log into the file and empty it.

        Raises `StoreFailed` where any part of that did not happen; what was committed is still in the log then. Raises
        `FileNotUsable` where the log is not in its place: it may not belong to what the file has become.
        """
        self.check_process()
        self.check_in_place()
        _truncate_wal(self.writer, self.path)

    def close(self) -> None:
        """Close all connections and let go of the file. Safe to call twice; does nothing in a forked child.

        A write-ahead log that is not empty stays, for the others or the next open: closing never checkpoints in
        silence. Raises `StoreFailed` where another thread keeps using a connection; the locks are kept in that case.
        """
        if os.getpid() != self._process_id:
            return
        self.membership.stop_watching()
        self.writers.close()
        with self._readers_lock, ExitStack() as stack:
            if self._closed:
                return
            # Who opens the file meanwhile shall find this process there, or gone. If the door is stuck, go without.
            with suppress(StoreError):
                stack.enter_context(self._lock.door(_CLOSE_PATIENCE_SECONDS))
            for reader in self._readers:
                _close_connection(reader, self.path)
            self._readers.clear()
            self._fold_deleted_log()
            if paths.size_bytes(self.path + paths.WAL_SUFFIX) == 0 and self.membership.is_alone():
                # Nothing to fold in: let SQLite remove the empty log and its index, so that one file is left.
                self.writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            _close_connection(self.writer, self.path)
            self._let_go_of_names()
            self._closed = True
            self.membership.leave()
            _open.discard(self)
            self._watch.end()
            self._lock.leaving()
            self.writers.when_over(self._lock.release)

    def _fold_deleted_log(self) -> None:
        """Bring what stands in a log that was deleted under us into the database: it ends with us otherwise.

        Not where somebody may have written to the database since: to what they read, the log does not belong.
        """
        log = self._beside[0]
        if paths.size_bytes(log.path) is not None or self._file.what_happened() is not None:
            return
        modified_at, deleted_at = self._file.modified_at(), log.deleted_at()
        was_before = modified_at is not None and deleted_at is not None and modified_at <= deleted_at
        if was_before or (modified_at is not None and modified_at == self._modified_at):
            with suppress(apsw.Error):
                self.writer.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)

    @contextmanager
    def _open_version(self) -> Generator[Version, None, None]:
        """Lend a connection for reading SQLite's `data_version`, to the thread that enters."""
        reader = self.connect_reader()

        def version() -> int:
            # So that an engine that waits for others, and neither reads nor writes, notices when the file is gone.
            self.check_identity()
            return int(reader.pragma("data_version"))

        try:
            yield version
        finally:
            with self._readers_lock:
                if reader in self._readers:
                    self._readers.remove(reader)
            _close_connection(reader, self.path)

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
        FileInUse: another engine of this process has it, older workers do, or a program that holds a lock.
        SecondSqliteError: this process has the file open otherwise than through `apsw`.
        StorageFull, StoreFailed: the disk is full, or reported an error.
    """
    if durability not in SYNCHRONOUS:
        raise InvalidArgument(f'durability must be "full" or "normal", not {shown(durability)}')
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
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"The disk of {real!r} is full. Free some space and try again; nothing was lost."
            ) from error
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
    locking.wait_for_leaving(path)
    identity = Identity.of(path)
    locking.check_free(path, identity)
    if identity is not None:
        identify.refuse_open_descriptors(path)
    lock_path = path + paths.LOCK_SUFFIX
    if Identity.of(lock_path) is None:
        # No lock file may be left beside a file that is not ours.
        try:
            identify.look_before_writing(path, scripts[-1].number)
        except (StoreError, apsw.Error):
            # Another process may have begun to make the file meanwhile. Then it is judged again behind the door.
            if Identity.of(lock_path) is None:
                raise
    lock = locking.acquire(lock_path, path, DOOR_PATIENCE_SECONDS)
    try:
        membership = Membership(lock)
        try:
            database = _open_behind_door(path, durability, lock, membership, scripts)
        except BaseException:
            membership.leave()
            raise
        lock.leave_door()
    except BaseException:
        lock.release()
        raise
    return database


def _open_behind_door(
    path: str, durability: Durability, lock: LockFile, membership: Membership, scripts: tuple[migrate.Migration, ...]
) -> Database:
    others = membership.others_pids()
    is_new = Identity.of(path) is None
    if others:
        membership.check_others(Identity.of(path))
        check_logs(path, membership.others_pids)
    else:
        identify.look_before_writing(path, scripts[-1].number)
        if is_new:
            _create(path)
    wal_bytes = paths.size_bytes(path + paths.WAL_SUFFIX) or 0
    writer = connect(path, "rw")
    try:
        if others:
            check_index(writer, path, others)
        contents = identify.read_contents(writer)
        identify.judge(contents, path, scripts[-1].number)
        if others and contents.version < scripts[-1].number:
            raise FileInUse(_older_workers(path, contents.version, scripts[-1].number, others))
        # Copied up by an overlay file system or not: what the connection has open now is the file that counts.
        identity = _identity(path)
        lock.claim(identity)
        if not others and not is_new:
            last_commit.check(lock.descriptor, identity, last_commit.this_boot(), writer, path)
        if contents.is_empty:
            writer.pragma("page_size", PAGE_SIZE_BYTES)
        set_pragmas(writer, path, writer_pragmas(durability))
        if not others:
            if wal_bytes:
                _recover(writer, path)
            _migrate(writer, path, scripts)
            membership.begin_afresh(identity)
        _touch_tables(writer)
        membership.enter()
        database = Database(path, writer, lock, membership)
    except BaseException:
        _close_connection(writer, path)
        raise
    _open.add(database)
    return database


def _migrate(writer: apsw.Connection, path: str, scripts: tuple[migrate.Migration, ...]) -> None:
    try:
        migrate.migrate(writer, path, scripts)
    except (apsw.Error, StoreError):
        with suppress(apsw.Error, OSError):
            cut_failed_commit(writer, path)
        raise
    set_pragmas(writer, path, {"foreign_keys": 1})


def _older_workers(path: str, version: int, newest: int, others: list[int]) -> str:
    return (
        f"{path!r} has schema version {version} and is open in {describe(others)}; this release of Stepwell would "
        f"bring it to version {newest}, which those processes cannot read. Stop the older workers first (they finish "
        "the steps under way on SIGTERM), then start this one; nothing is lost meanwhile."
    )


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
    give_up_at = monotonic() + _CLOSE_PATIENCE_SECONDS
    while True:
        try:
            connection.close()
        except apsw.ThreadingViolationError as error:
            if monotonic() > give_up_at:
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
    large_values.watchers.clear()  # they speak for the parent
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
