"""The lock file: one engine for one database, decided by the kernel.

Beside ``orders.db`` lies ``orders.db-lock``, empty but for a line that tells people who holds it. Who holds it is
decided by POSIX byte-range locks on bytes far behind that line: a dead process's locks are gone at once, without a
lease to run out, and a forked child does not inherit them. (`flock` and OFD locks stay with such a child; they are
never used here.)

::

    byte LOCK_BASE        the engine that has the file open (exclusive)
    bytes above it        kept free for one byte for each worker, when several processes share the file

POSIX locks have traps, and each shapes this module:

- They are lost when *any* descriptor of the file is closed in the process. So one function opens the file, once for
  each holder, `guard` keeps the rest of the process away from it, and it is not opened at all while it is held here.
- They do not exclude within a process. So what is held here is also noted in a table of (device, inode).
- A deleted lock file lets a second holder in. So the inode is compared after locking, the file is never deleted by the
  engine, and `opening.Database.check_identity` looks whether it is still there.
"""

# ruff: noqa: PTH116 -- SQLite's paths are strings

from __future__ import annotations

import os
import stat
import struct
import sys
import threading
from typing import Final, NamedTuple

from stepwell.errors import FileInUse, FileNotUsable

if sys.platform != "win32":
    import fcntl

#: First byte of the locked range; the text at the start of the file is never near it.
LOCK_BASE: Final = 1 << 30

#: How often a lock file that is deleted between opening and locking is opened again before giving up.
_ATTEMPTS: Final = 100


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


#: Files that an engine of this process holds (databases and lock files), with the path of the database.
_held: dict[Identity, str] = {}
#: Files that the parent held when this process was forked. SQLite's own tables in this process say that it holds locks
#: on them, which it does not: opening one of them here would write without locks.
_inherited: dict[Identity, str] = {}
_table_lock = threading.Lock()


class FileLock:
    """The lock on one database file, held until `release` or the death of the process."""

    def __init__(self, path: str, descriptor: int, identity: Identity, database_path: str) -> None:
        self.path = path
        self.identity = identity
        self._descriptor = descriptor
        self._database_path = database_path
        self._identities = [identity]

    def claim(self, identity: Identity) -> None:
        """Note that the holder of this lock uses the database file `identity`, under whatever name.

        Raises `FileInUse` where another engine of this process does (through a bind mount, say).
        """
        with _table_lock:
            if identity in _held:
                raise FileInUse(_in_this_process(self._database_path, _held[identity]))
            _held[identity] = self._database_path
            self._identities.append(identity)

    def release(self) -> None:
        """Let go of the lock. Safe to call twice, and without effect in a forked child."""
        with _table_lock:
            if self._descriptor < 0 or _held.get(self.identity) is None:
                return
            os.close(self._descriptor)
            self._descriptor = -1
            for identity in self._identities:
                _held.pop(identity, None)


def acquire(path: str, database_path: str) -> FileLock:
    """Take the lock file at `path` (created with mode 0600 where it is missing) for the database at `database_path`.

    Raises `FileInUse`, naming the holder, where it is taken; `FileNotUsable` where it cannot be created or locked. This
    is the only function of the package that opens a lock file.
    """
    with _table_lock:
        for _ in range(_ATTEMPTS):
            check_free(database_path, Identity.of(path))
            descriptor = _open(path)
            try:
                _lock(descriptor, path, database_path)
                held = os.fstat(descriptor)
                identity = Identity(held.st_dev, held.st_ino)
                if Identity.of(path) == identity:
                    _write_holder(descriptor)
                    _held[identity] = database_path
                    return FileLock(path, descriptor, identity, database_path)
            except BaseException:
                os.close(descriptor)
                raise
            # Deleted or replaced before it was locked: what is locked now is not the file that others will find.
            os.close(descriptor)
    raise FileInUse(f"The lock file {path!r} is deleted by someone as fast as it is made. Find out who does that.")


def check_free(database_path: str, identity: Identity | None) -> None:
    """Raise where an engine of this process, or of the process it was forked from, has the file `identity` open."""
    if identity is None:
        return
    if identity in _held:
        raise FileInUse(_in_this_process(database_path, _held[identity]))
    if identity in _inherited:
        raise FileNotUsable(
            f"This process ({os.getpid()}) was forked while its parent had {_inherited[identity]!r} open, and SQLite's "
            "state came along; using the file here would damage it. Fork before the engine is opened, or start the "
            'process afresh (multiprocessing.get_context("spawn"), subprocess).'
        )


def after_fork_in_child() -> None:
    """Mark everything that is held as the parent's. Descriptors stay open: closing them has no use here."""
    global _table_lock  # noqa: PLW0603 -- a thread that only the parent has may hold it
    _table_lock = threading.Lock()
    _inherited.update(_held)
    _held.clear()


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


def _lock(descriptor: int, path: str, database_path: str) -> None:
    assert sys.platform != "win32", "opening refuses Windows before it comes here"
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LOCK_BASE)
    except (BlockingIOError, PermissionError):
        # POSIX allows either errno for "taken".
        holder = _describe_holder(descriptor)
        raise FileInUse(
            f"{database_path!r} is open in another engine: {holder}. One engine at a time can have a file. Stop that "
            "process, or let it do the work; its lock is free the moment it ends. (`fuser` on the lock file shows it "
            "as well.)"
        ) from None
    except OSError as error:
        raise FileNotUsable(
            f"The file system of {path!r} does not lock byte ranges ({error.strerror}), without which the file cannot "
            "be kept intact. Put it on a local disk."
        ) from error


def _describe_holder(descriptor: int) -> str:
    """Return who has the lock: the text in the file where it is the holder's, else what the kernel knows."""
    text = os.pread(descriptor, 400, 0).decode("utf-8", "replace").strip()
    pid = _pid_of_holder(descriptor)
    if pid <= 0:
        # Unknown here, as the holder is in another container: its own words must do.
        return text or "another process"
    # Else the text is an earlier holder's: the present one has not written its own yet, or could not.
    return text if text.startswith(f"process {pid} ") else f"process {pid}"


def _pid_of_holder(descriptor: int) -> int:
    """Return the process that has the lock, as the kernel says (fcntl(2), F_GETLK); 0 where it does not."""
    assert sys.platform != "win32", "opening refuses Windows before it comes here"
    # struct flock: type, whence, start, length, pid on Linux; start, length, pid, type, whence on macOS.
    layout, values = ("qqihh", (LOCK_BASE, 1, 0, fcntl.F_WRLCK, os.SEEK_SET))
    if sys.platform == "linux":
        layout, values = ("hhqqi", (fcntl.F_WRLCK, os.SEEK_SET, LOCK_BASE, 1, 0))
    try:
        answer = struct.unpack_from(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(layout + "0q", *values)))
    except OSError:
        return 0
    kind, pid = (answer[0], answer[4]) if sys.platform == "linux" else (answer[3], answer[2])
    return int(pid) if kind != fcntl.F_UNLCK else 0


def _write_holder(descriptor: int) -> None:
    text = f"process {os.getpid()} on host {os.uname().nodename}\n"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode("utf-8", "replace"), 0)
    except OSError:
        # A full disk, most likely. The text is a courtesy; the lock holds without it.
        return


def _in_this_process(path: str, held_path: str) -> str:
    alias = "" if path == held_path else f" (under the name {held_path!r})"
    return (
        f"{path!r} is open in another engine of this process, {os.getpid()}{alias}. Share that engine (it may be used "
        "from all threads), or close it first."
    )
