"""The lock file: who has a database open and who may write, decided by the kernel.

Beside ``orders.db`` lies ``orders.db-lock``. All that processes must agree on is decided by POSIX byte-range locks on
bytes far behind its content: a dead process's locks are gone at once, without a lease to run out, and a forked child
does not inherit them. (`flock` and OFD locks stay with such a child; they are never used here.)

::

    byte LOCK_BASE              the door: held while a process opens or closes the file, or sets the common clock
    byte LOCK_BASE + 1, + 2     the writers' lock: its queue and itself (`writers_lock.SharedLock`)
    byte LOCK_BASE + 16 + slot  one for each process that has the file open, for as long as it has (`membership`)

What the file contains is described in `membership`. Whoever holds the door may then wait for no other of these locks,
so that they cannot wait for one another in a circle.

POSIX locks have traps, and each shapes this module:

- They are lost when *any* descriptor of the file is closed in the process. So one function opens the file, once for
  each holder, `guard` keeps the rest of the process away from it, and it is not opened at all while it is held here.
- They do not exclude within a process. So what is held here is also noted in a table of (device, inode), and threads
  settle among themselves first who asks the kernel.
- A deleted lock file lets a second set of holders in. So the inode is compared after locking, the file is never deleted
  by the engine, and `opening.Database.check_identity` looks whether it is still there.
"""

# ruff: noqa: PTH116 -- SQLite's paths are strings

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple, TypeVar

from stepwell.errors import FORK_ADVICE, FileInUse, FileNotUsable
from stepwell.model.steady import monotonic
from stepwell.store.sqlite.peers import in_words

if sys.platform != "win32":
    import fcntl

_T = TypeVar("_T")

#: First byte of the locked range; the content of the file is never near it.
LOCK_BASE: Final = 1 << 30
#: The bytes of the writers' lock.
QUEUE_BYTE: Final = LOCK_BASE + 1
WRITE_BYTE: Final = LOCK_BASE + 2
#: The byte of slot 0, and how many slots there are.
SLOT_BASE: Final = LOCK_BASE + 16
SLOTS: Final = 4096

#: How long the door is waited for: an opening that folds in a log or migrates a file takes seconds at most, as a rule.
DOOR_PATIENCE_SECONDS: Final = 10.0

#: The part of the file, from its beginning, that tells people what it is.
TEXT_BYTES: Final = 1024

#: How often a lock file that is deleted between opening and locking is opened again before giving up.
_ATTEMPTS: Final = 100
#: Between two looks at a lock that cannot be waited for without a time limit.
_FIRST_PAUSE_SECONDS: Final = 0.0002
_LONGEST_PAUSE_SECONDS: Final = 0.005


class Identity(NamedTuple):
    """What a file is, whatever its name."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: str) -> Identity | None:
        """Return the identity of the file at `path`, None where there is none."""
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return None
        return cls(found.st_dev, found.st_ino)


class Holder(NamedTuple):
    """A lock of another process: its first byte, how many bytes, and the process (0: not visible from here)."""

    first: int
    length: int
    pid: int


#: Files that an engine of this process holds (databases and lock files), with the path of the database.
_held: dict[Identity, str] = {}
#: Those of them whose engine was closed, but has a thread left that waits for a lock; it will let go of them.
_leaving: set[Identity] = set()
#: Files that the parent held when this process was forked. SQLite's own tables in this process say that it holds locks
#: on them, which it does not: opening one of them here would write without locks.
_inherited: dict[Identity, str] = {}
_table_lock = threading.Lock()


class LockFile:
    """The lock file of one open database, with the one descriptor of it that this process has.

    `acquire` returns it with the door held. All its locks are gone after `release`, or the death of the process.
    """

    def __init__(self, path: str, descriptor: int, identity: Identity, database_path: str) -> None:
        self.path = path
        self.identity = identity
        self.database_path = database_path
        #: -1 once released.
        self.descriptor = descriptor
        self._identities = [identity]
        self._door = threading.Lock()

    def claim(self, identity: Identity) -> None:
        """Note that the holder of this lock uses the database file `identity`, under whatever name.

        Raises `FileInUse` where another engine of this process does (through a bind mount, say).
        """
        with _table_lock:
            if identity in _held:
                raise FileInUse(_in_this_process(self.database_path, _held[identity]))
            _held[identity] = self.database_path
            self._identities.append(identity)

    def write(self, data: bytes, offset: int) -> None:
        """Write into the file; raises `OSError` also where only a part of it could be written."""
        if os.pwrite(self.descriptor, data, offset) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)

    def leave_door(self) -> None:
        """Let the next process in; for the one that `acquire` gave the door to."""
        unlock(self.descriptor, LOCK_BASE)

    @contextmanager
    def door(self, patience_seconds: float = DOOR_PATIENCE_SECONDS) -> Generator[None, None, None]:
        """Hold the door. Raises `FileInUse`, naming the holder, where it is not free in time."""
        with self._door:
            _pass_door(self.descriptor, self.path, self.database_path, patience_seconds)
            try:
                yield
            finally:
                if self.descriptor >= 0:
                    unlock(self.descriptor, LOCK_BASE)

    def leaving(self) -> None:
        """Note that the engine is closed, and that `release` will follow: whoever opens the file waits for it."""
        with _table_lock:
            if self.descriptor >= 0:
                _leaving.update(self._identities)

    def release(self) -> None:
        """Let go of all locks. Safe to call twice, and without effect in a forked child."""
        with _table_lock:
            if self.descriptor < 0 or _held.get(self.identity) is None:
                return
            os.close(self.descriptor)
            self.descriptor = -1
            for identity in self._identities:
                _held.pop(identity, None)
                _leaving.discard(identity)


def acquire(path: str, database_path: str, patience_seconds: float = DOOR_PATIENCE_SECONDS) -> LockFile:
    """Open the lock file at `path` (made with mode 0600 where it is missing) for the database at `database_path`.

    Returns with the door held. Raises `FileInUse`, naming the holder, where it is not free in time, or where an engine
    of this process has the file; `FileNotUsable` where it cannot be made or locked. This is the only function of the
    package that opens a lock file, but for `look`.
    """
    for _ in range(_ATTEMPTS):
        with _table_lock:
            check_free(database_path, Identity.of(path))
            descriptor = _open(path)
            found = os.fstat(descriptor)
            lock = LockFile(path, descriptor, Identity(found.st_dev, found.st_ino), database_path)
            # Noted before the door is waited for: closing a second descriptor would take the first one's locks along.
            _held[lock.identity] = database_path
        try:
            _pass_door(descriptor, path, database_path, patience_seconds)
            if Identity.of(path) == lock.identity:
                _write_text(descriptor)
                return lock
        except BaseException:
            lock.release()
            raise
        # Deleted or replaced before it was locked: what is locked now is not the file that others will find.
        lock.release()
    raise FileInUse(f"The lock file {path!r} is deleted by someone as fast as it is made. Find out who does that.")


def wait_for_leaving(database_path: str, patience_seconds: float = DOOR_PATIENCE_SECONDS) -> None:
    """Wait for an engine of this process that was closed and has not let go of the database yet.

    Raises `FileInUse` where that takes too long.
    """
    give_up_at = monotonic() + patience_seconds
    while _is_leaving(database_path):
        if monotonic() >= give_up_at:
            raise FileInUse(
                f"{database_path!r} was open in an engine of this process, {os.getpid()}, which is closed; but a "
                "thread of it still waits for another process, which writes all the time, or is stopped while it does. "
                "Continue that one or kill it, then open the file again."
            )
        time.sleep(_LONGEST_PAUSE_SECONDS)


def _is_leaving(database_path: str) -> bool:
    identity = Identity.of(database_path)
    with _table_lock:
        return identity in _leaving


def look(path: str, ask: Callable[[int], _T]) -> _T | None:
    """Return what `ask` finds out with a descriptor of the lock file that takes no lock.

    None where there is no such file, or where this process has it open: closing a second descriptor would take its
    locks along. For the same reason no engine of this process opens it meanwhile, so `ask` must be short.
    """
    with _table_lock:
        identity = Identity.of(path)
        if identity is None or identity in _held or identity in _inherited:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            return ask(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)


def check_free(database_path: str, identity: Identity | None) -> None:
    """Raise where an engine of this process, or of the process it was forked from, has the file `identity` open."""
    if identity is None:
        return
    if identity in _held:
        raise FileInUse(_in_this_process(database_path, _held[identity]))
    if identity in _inherited:
        raise FileNotUsable(
            f"This process ({os.getpid()}) was forked while its parent had {_inherited[identity]!r} open, and SQLite's "
            f"state came along; using the file here would damage it. {FORK_ADVICE}."
        )


def after_fork_in_child() -> None:
    """Mark everything that is held as the parent's. Descriptors stay open: closing them has no use here."""
    global _table_lock  # noqa: PLW0603 -- a thread that only the parent has may hold it
    _table_lock = threading.Lock()
    _inherited.update(_held)
    _held.clear()
    _leaving.clear()


# --- locks on bytes ---------------------------------------------------------------------------------------------------


def try_lock(descriptor: int, first: int, length: int = 1) -> bool:
    """Lock `length` bytes from `first` for this process if nobody else has one of them; return whether it did."""
    assert sys.platform != "win32", "opening refuses Windows before it comes here"
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, first)
    except (BlockingIOError, PermissionError):
        # POSIX allows either errno for "taken".
        return False
    return True


def lock(descriptor: int, first: int) -> None:
    """Lock the byte `first` for this process, however long that takes.

    The kernel takes processes for what is threads here: where one thread waits for another process and a second thread
    of that process waits for this one, it may see a circle (EDEADLK) where there is none. Then this looks again and
    again instead.
    """
    assert sys.platform != "win32", "opening refuses Windows before it comes here"
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, first)
    except OSError as error:
        if error.errno != errno.EDEADLK:
            raise
        lock_within(descriptor, first, float("inf"))


def lock_within(descriptor: int, first: int, patience_seconds: float) -> bool:
    """Lock the byte `first` for this process; return False where that takes longer than `patience_seconds`."""
    give_up_at = monotonic() + patience_seconds
    pause_seconds = _FIRST_PAUSE_SECONDS
    while not try_lock(descriptor, first):
        if monotonic() >= give_up_at:
            return False
        time.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
    return True


def unlock(descriptor: int, first: int, length: int = 1) -> None:
    """Let go of `length` bytes from `first`."""
    assert sys.platform != "win32", "opening refuses Windows before it comes here"
    fcntl.lockf(descriptor, fcntl.LOCK_UN, length, first)


def holder(descriptor: int, first: int, length: int = 1) -> Holder | None:
    """Return one of the other processes that have a lock on these bytes, None where there is none (F_GETLK)."""
    assert sys.platform != "win32", "opening refuses Windows before it comes here"
    if sys.platform == "linux":
        # struct flock: type, whence, start, length, pid on Linux; start, length, pid, type, whence on macOS.
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, length, 0)
        kind, _, start, extent, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    else:
        question = _FLOCK.pack(first, length, 0, fcntl.F_WRLCK, os.SEEK_SET)
        start, extent, pid, kind, _ = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else Holder(start, extent, max(pid, 0))


def holders(descriptor: int, first: int, length: int) -> list[Holder]:
    """Return all other processes that have a lock on these bytes, in the order of the bytes."""
    if length <= 0:
        return []
    found = holder(descriptor, first, length)
    if found is None:
        return []
    # The kernel names any one of them, not the first.
    behind = found.first + found.length
    return [
        *holders(descriptor, first, found.first - first),
        found,
        *holders(descriptor, behind, first + length - behind),
    ]


#: Padded at its end as the C compiler does.
_FLOCK: Final = struct.Struct("hhqqi0q" if sys.platform == "linux" else "qqihh0q")


# --- the file ---------------------------------------------------------------------------------------------------------


def _open(path: str) -> int:
    try:
        # Not through a symbolic link, and without waiting, should the name be a pipe.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise FileNotUsable(
            f"The lock file {path!r} cannot be opened: {error.strerror}. It must be a plain file that this user may "
            "write; if another user's engine made it, run both as the same user."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotUsable(f"{path!r}, where the lock file should be, is not a plain file. Move it out of the way.")
    return descriptor


def _pass_door(descriptor: int, path: str, database_path: str, patience_seconds: float) -> None:
    try:
        if lock_within(descriptor, LOCK_BASE, patience_seconds):
            return
    except OSError as error:
        raise FileNotUsable(
            f"The file system of {path!r} does not lock byte ranges ({error.strerror}), without which the file cannot "
            "be kept intact. Put it on a local disk."
        ) from error
    raise FileInUse(
        f"{database_path!r} is being opened or closed by {_describe_holder(descriptor)}, for more than "
        f"{patience_seconds:g} seconds now; meanwhile nobody else can. If it migrates a large file, wait for it and "
        "try again; if it hangs, end it: its lock is free at that moment, and nothing is lost. (`fuser` on the lock "
        "file shows it as well.)"
    )


def _describe_holder(descriptor: int) -> str:
    """Return who has the door: what the kernel knows, and where it is not visible from here, the text in the file."""
    text = os.pread(descriptor, TEXT_BYTES, 0).partition(b"\n")[0].decode("utf-8", "replace").strip("\0 ")
    found = None
    with suppress(OSError):
        found = holder(descriptor, LOCK_BASE)
    pid = found.pid if found is not None else 0
    if pid == 0:
        # Unknown here, as the holder is in another container: its own words must do.
        return text or "another process"
    return in_words.describe_process(pid)


def _write_text(descriptor: int) -> None:
    text = (
        f"process {os.getpid()} on host {os.uname().nodename}\n"
        "opened the database last. By this file Stepwell's processes know which of them have it open.\n"
    )
    # A courtesy, for which a full disk is no matter; the locks hold without it.
    with suppress(OSError):
        os.pwrite(descriptor, text.encode("utf-8", "replace")[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0"), 0)


def _in_this_process(path: str, held_path: str) -> str:
    alias = "" if path == held_path else f" (under the name {held_path!r})"
    return (
        f"{path!r} is open in another engine of this process, {os.getpid()}{alias}. Share that engine (it may be used "
        "from all threads), or close it first."
    )
