"""Backups of a file: made beside the workers, looked through before they get their name, and read again.

A backup is one file that needs no other, or the same compressed by gzip (the ending ``.gz``).
"""

# ruff: noqa: PTH108, PTH110, PTH112, PTH118, PTH119, PTH120, PTH123, PTH202, PTH207 -- SQLite's paths are strings
# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import errno
import glob
import gzip
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import apsw

from stepwell.errors import FileInUse, FileNotUsable, InvalidArgument, StorageFull
from stepwell.model.sizes import size_in_words
from stepwell.store.sqlite.file import copying, locking, migrate, mounts, paths
from stepwell.store.sqlite.file.connecting import (
    check_library,
    connect,
    mode_of_looking,
    reader_pragmas,
    set_pragmas,
    translate,
)
from stepwell.store.sqlite.file.sole_writer import sole_writer
from stepwell.store.sqlite.peers.membership import Membership
from stepwell.store.sqlite.statements import SQL
from stepwell.store.sqlite.verify import Findings, findings

#: What is told what is done, and how much of how much of it, 0 of 0 where that is not known.
Progress = Callable[[str, int, int], None]

COMPRESSED: Final = ".gz"
_PARTIAL: Final = "-partial"
_RESTORED: Final = "-restored"
_BEFORE: Final = "-before-restore-"
_CHUNK_BYTES: Final = 1024 * 1024
#: gzip's quickest level: payloads are text, and half a minute more for a tenth less is nobody's choice in a backup.
_LEVEL: Final = 1
#: What the system says where there is no room, or none for this user.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def back_up(
    path: str, target: str, *, overwrite: bool, readable: Callable[[bytes], bool], progress: Progress
) -> tuple[str, Findings]:
    """Copy the file at `path` to `target`, look through the copy, and give it its name; return that and what is in it.

    Raises `InvalidArgument` where `target` is there already or is the file itself, `StorageFull` where it has no room,
    `FileNotUsable` where there is no file, or a damaged one: then no backup is left; `FileInUse` where another backup
    to `target` is under way.
    """
    check_library(apsw.sqlite_lib_version())
    real = _existing(path)
    final = os.path.realpath(target)
    _check_target(real, final, overwrite=overwrite)
    with _telling(final), sole_writer(final + _PARTIAL, final):
        # Again: what others made meanwhile stands, too.
        _check_target(real, final, overwrite=overwrite)
        return final, _made(real, final, readable, progress)


def _made(real: str, final: str, readable: Callable[[bytes], bool], progress: Progress) -> Findings:
    partial = final + _PARTIAL
    copying.discard(partial)
    try:
        copying.copy_database(real, partial, lambda done, pages: progress("copying", done, pages))
        copy = copying.open_plain(partial, "rw")
        try:
            alone = copying.standing_alone(copy)
            found = findings(copy, readable, lambda what: progress(f"checking {what}", 0, 0))
        finally:
            copy.close()
        if not alone or found.problems:
            raise FileNotUsable(
                f"No backup of {real!r} was made: the copy is not sound ({'; '.join(found.problems) or 'its mode'}), "
                "so the file is damaged as well. Keep what earlier backups there are, and restore the newest sound one "
                "(`stepwell verify`)."
            )
        if final.endswith(COMPRESSED):
            partial = _compressed(partial, progress)
        copying.publish(partial, final)
    except apsw.Error as error:
        raise translate(error, final if isinstance(error, apsw.FullError) else real) from error
    finally:
        copying.discard(final + _PARTIAL)
        copying.discard(final + _PARTIAL + COMPRESSED)
    return found


@contextmanager
def _telling(made: str) -> Generator[None]:
    """Say in our words what the system says of the file that is being made."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                f"The disk of {made!r} is full. Free some space, or give another path; nothing was changed."
            ) from error
        if not str(error.filename).startswith(made):  # what `progress` raises, say
            raise
        raise FileNotUsable(
            f"{made!r} cannot be written: {error.strerror}. Give another path, or change the folder's rights."
        ) from error


def _existing(path: str) -> str:
    real = paths.resolve(path, to_look=True)
    if not os.path.exists(real):
        raise FileNotUsable(f"There is no file {real!r}. Give the path of the file that the workers have open.")
    mounts.check_mount(real)
    return real


def _check_target(real: str, final: str, *, overwrite: bool) -> None:
    folder = os.path.dirname(final)
    if os.path.isdir(final):
        raise InvalidArgument(f"{final!r} is a folder; name the file that the backup is to be")
    if not os.path.isdir(folder):
        raise InvalidArgument(f"There is no folder {folder!r} for the backup; make it, or give another path")
    if locking.Identity.of(final) == locking.Identity.of(real):
        raise InvalidArgument(f"{final!r} is the file itself; give another path for its backup")
    if os.path.exists(final) and not overwrite:
        raise InvalidArgument(f"{final!r} is there already; give another path, or have it overwritten")
    size = sum(paths.size_bytes(real + suffix) or 0 for suffix in ("", paths.WAL_SUFFIX))
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        raise StorageFull(
            f"A backup of {real!r} takes up to {size_in_words(size)}, and the disk of {folder!r} has "
            f"{size_in_words(free)} free. Nothing was written: free some space, or give another path."
        )


def _compressed(partial: str, progress: Progress) -> str:
    packed, size = partial + COMPRESSED, os.path.getsize(partial)
    descriptor = os.open(packed, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600)
    with open(partial, "rb") as plain, open(descriptor, "wb") as raw, gzip.GzipFile("", "wb", _LEVEL, raw) as file:
        done, write_out = 0, copying.writing_out(descriptor)
        while chunk := plain.read(_CHUNK_BYTES):
            file.write(chunk)
            write_out()
            done += len(chunk)
            progress("compressing", done, size)
    return packed


def verify(path: str, *, readable: Callable[[bytes], bool], progress: Progress) -> Findings:
    """Look through a file, or a backup of one; raises `FileNotUsable` where it is no file of ours."""
    check_library(apsw.sqlite_lib_version())
    real = _existing(path)
    with unpacked(real) as plain:
        try:
            connection = connect(plain, mode_of_looking(plain))
            try:
                set_pragmas(connection, plain, reader_pragmas())
                if int(connection.pragma("application_id")) != migrate.APPLICATION_ID:
                    raise FileNotUsable(f"{real!r} is an SQLite database, but not Stepwell's.")
                newest = migrate.load_migrations()[-1].number
                migrate.check_version(migrate.version_of(connection), newest, real)
                return findings(connection, readable, lambda what: progress(f"checking {what}", 0, 0))
            finally:
                if not paths.size_bytes(plain + paths.WAL_SUFFIX):
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
                connection.close()
        except apsw.Error as error:
            raise translate(error, real) from error


@contextmanager
def unpacked(path: str) -> Generator[str]:
    """Yield the path of the database of a backup: the file itself, or an unpacked copy for the length of the block."""
    if not path.endswith(COMPRESSED):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="stepwell-") as folder:
        plain = os.path.join(folder, os.path.basename(path).removesuffix(COMPRESSED))
        unpack(path, plain)
        yield plain


@contextmanager
def writable(path: str) -> Generator[str]:
    """Yield the path of the database to be read: a copy of one that cannot be written, whose log SQLite could not open.

    Compressed backups are unpacked.
    """
    with unpacked(path) as plain:
        file = Path(plain)
        # Root may write to anything: what nobody may write was made read-only for a reason.
        if not file.is_file() or (
            os.access(file, os.W_OK) and os.access(file.resolve().parent, os.W_OK) and _mode(file)
        ):
            yield plain
            return
        with tempfile.TemporaryDirectory(prefix="stepwell-") as scratch:
            copy = os.path.join(scratch, os.path.basename(plain))
            for suffix in ("", paths.WAL_SUFFIX):
                if os.path.exists(plain + suffix):
                    shutil.copyfile(plain + suffix, copy + suffix)
            yield copy


def _mode(file: Path) -> bool:
    return bool(file.stat().st_mode & 0o222)


def unpack(path: str, plain: str) -> None:
    """Write what a compressed backup holds to a new file; raises `FileNotUsable` where it is damaged."""
    try:
        with gzip.open(path, "rb") as packed, open(plain, "xb") as file:
            shutil.copyfileobj(packed, file, _CHUNK_BYTES)
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise StorageFull(
                f"{path!r} was not unpacked: the disk of {plain!r} is full. Free some space and try again."
            ) from error
        raise FileNotUsable(
            f"{path!r} cannot be unpacked: {error}. It is damaged, or no backup; take another one"
        ) from error


class Place:
    """A restore under way: a backup that was copied to `partial`, to be put at `path`."""

    def __init__(self, backup: str, path: str, partial: str, found: Findings, lock: locking.LockFile) -> None:
        self.backup: Final = backup
        self.path: Final = path
        self.partial: Final = partial
        self.found: Final = found
        self._lock: Final = lock

    def end_bulk_acts(self) -> list[tuple[str, str, str, int, int]]:
        """End the acts on many runs that were under way, as far as they had come; return those.

        Each as act, filter, who asked for it, how many runs it had come to, and how many there were. The copy has this
        release's schema, and nobody has it open.
        """
        copy = copying.open_plain(self.partial, "rw")
        try:
            rows: list[Any] = copy.execute(SQL["bulks_ended"], (time.time_ns() // 1000,)).fetchall()
            return rows
        finally:
            copy.close()

    def put(self) -> str | None:
        """Put it in place; return where the file is now that was there, None where there was none.

        The old file stays in place until the last step, which is one.
        """
        with _telling(self.path):
            copying.settle(self.partial)
            previous = _aside(self.path) if os.path.exists(self.path) else None
            copying.publish(self.partial, self.path)
        return previous


@contextmanager
def restoring(backup: str, path: str, *, readable: Callable[[bytes], bool], progress: Progress) -> Generator[Place]:
    """Copy a backup beside `path`, look through it, and keep everybody from opening `path` for the length of the block.

    Raises `FileInUse` where somebody has `path` open, `FileNotUsable` where the backup is damaged, or none.
    """
    check_library(apsw.sqlite_lib_version())
    source, real = _existing(backup), paths.resolve(path)
    if locking.Identity.of(source) == locking.Identity.of(real):
        raise InvalidArgument(f"{source!r} is the file itself; give the path of a backup")
    mounts.check_mount(real)
    partial = real + _RESTORED + _PARTIAL
    lock = locking.acquire(real + paths.LOCK_SUFFIX, real)
    try:
        _discard(partial)
        others = _others(lock)
        if others:
            raise FileInUse(
                f"{real!r} is open in process {', '.join(map(str, others))}. Stop all workers and programs that have "
                "it open, then restore; nothing was changed."
            )
        try:
            if source.endswith(COMPRESSED):
                unpack(source, partial)
            else:
                copying.copy_database(source, partial, lambda done, pages: progress("copying", done, pages))
            found = verify(partial, readable=readable, progress=progress)
            if found.problems:
                raise FileNotUsable(
                    f"The backup {source!r} is damaged ({'; '.join(found.problems)}). {real!r} was not changed; "
                    "`stepwell verify` says which backup is whole."
                )
            yield Place(source, real, partial, found, lock)
        except apsw.Error as error:
            raise translate(error, real) from error
        finally:
            _discard(partial)
    finally:
        lock.release()


def _others(lock: locking.LockFile) -> list[int]:
    """Return the ids of the processes that have the file open, for whoever stands in its door."""
    membership = Membership(lock)
    try:
        return membership.others_pids()
    finally:
        membership.leave()


def _aside(path: str) -> str:
    """Copy the file at `path`, with all that its log has, to another name, and return that."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name, number = f"{path}{_BEFORE}{moment}", 1
    while os.path.exists(name):
        number += 1
        name = f"{path}{_BEFORE}{moment}-{number}"
    endings = [""]
    try:
        copying.settle(path)
    except (apsw.CorruptError, apsw.NotADBError):
        # It is damaged, which may be why it is replaced: kept as it is, with its log, for whoever rescues what is left.
        endings += [paths.WAL_SUFFIX] if os.path.exists(path + paths.WAL_SUFFIX) else []
    # Copied, not renamed: at every moment there is a file at the path, and nobody makes a new one. Nor linked: engines
    # refuse a file of two names.
    for left in glob.glob(f"{glob.escape(path)}{_BEFORE}*{_PARTIAL}"):  # by a restore that was cut off
        os.unlink(left)
    for ending in endings:
        os.close(os.open(name + _PARTIAL, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        shutil.copyfile(path + ending, name + _PARTIAL)
        copying.publish(name + _PARTIAL, name + ending)
    for ending in (paths.WAL_SUFFIX, paths.SHM_SUFFIX):
        with suppress(FileNotFoundError):
            os.unlink(path + ending)
    return name


def _discard(partial: str) -> None:
    """Remove a copy that an engine had open, and what it made beside it: the lock file, too, knows the last commit.

    A migration of the copy makes a backup; the one that is restored is one.
    """
    copying.discard(partial)
    for beside in (partial + paths.LOCK_SUFFIX, *glob.glob(glob.escape(partial) + "-backup-v*")):
        with suppress(FileNotFoundError):
            os.unlink(beside)
    shutil.rmtree(partial + paths.PEERS_SUFFIX, ignore_errors=True)
