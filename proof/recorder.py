"""A VFS that SQLite uses like any other, and that writes down what reaches the files: the input of crash images.

It is registered as SQLite's default, so the engine runs on it unchanged. Recorded are the operations that count for
what is on the disk after a power loss, of the database, its write-ahead log and its rollback journal, together with the
facts that the engine acknowledged in between, in one order. The shared-memory file is not recorded, because it does not
survive; neither are reads and locks.

What SQLite does to the folder is recorded as it does it: a name that was made or removed is safe once the folder is
synced, which SQLite's Unix VFS does at the first sync of a new log or journal (``UNIXFILE_DIRSYNC`` in ``os_unix.c``),
and the engine itself does for the database with `os.fsync`, which is listened to as well.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple
from unittest.mock import patch

import apsw

from proof.shop import Fact
from stepwell.store.sqlite.file import wal_room

#: The files of a database by the end of their names, "" for the database itself.
SUFFIXES: Final = ("", "-wal", "-journal")
#: Opened with this, a file's name is made safe by the first sync of the file.
_LOGS: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL

Kind = Literal["given", "make", "remove", "write", "truncate", "sync", "lose", "sync_folder", "fact"]


class Op(NamedTuple):
    """One line of the recording.

    - ``given``: before the recording began, `suffix` named the file `file`, which held `data`, all of it on the disk.
    - ``make``, ``remove``: the name `suffix` begins, or ceases, to mean the file `file`. A new file has a new number.
    - ``write`` of `data` at `offset`; ``truncate`` to the size `offset`; ``sync`` of the file.
    - ``lose``: a sync failed, and the kernel forgot that what was written before it is not on the disk.
    - ``sync_folder``, and ``fact``: the engine acknowledged `fact`.
    """

    kind: Kind
    file: int = -1
    suffix: str = ""
    offset: int = 0
    data: bytes = b""
    fact: Fact = ()


class Recording:
    """What happened to the files of the database at `path`, in order."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.log: list[Op] = []
        self._lock = threading.RLock()
        self._files = 0
        self._names: dict[str, int] = {}
        for suffix in SUFFIXES:
            # Nobody has the files open yet, so reading them drops no locks.
            if (there := Path(path + suffix)).exists():
                self.log.append(Op("given", self._files, suffix, data=there.read_bytes()))
                self._names[suffix] = self._files
                self._files += 1

    def acknowledge(self, fact: Fact) -> None:
        """Write down a fact that the engine acknowledged."""
        with self._lock:
            self.log.append(Op("fact", fact=fact))

    def suffix_of(self, name: str | None) -> str | None:
        """Return which of the files a name means, None for any other file."""
        if name is None or not name.startswith(self.path) or name[len(self.path) :] not in SUFFIXES:
            return None
        return name[len(self.path) :]

    def notice(self, suffix: str) -> int:
        """Return the number of a file, writing down that it was made if that is new; -1 where there is none."""
        with self._lock:
            if suffix not in self._names:
                if not Path(self.path + suffix).exists():
                    return -1
                self._names[suffix] = self._files
                self.log.append(Op("make", self._files, suffix))
                self._files += 1
            return self._names[suffix]

    def folder_synced(self) -> None:
        """Write down that the names are safe."""
        with self._lock:
            for suffix in SUFFIXES:
                self.notice(suffix)
            self.log.append(Op("sync_folder"))

    def removed(self, suffix: str, *, synced: bool) -> None:
        """Write down that a name was removed."""
        with self._lock:
            number = self._names.pop(suffix, None)
            if number is not None:
                self.log.append(Op("remove", number, suffix))
            if synced:
                self.log.append(Op("sync_folder"))

    def add(self, kind: Kind, file: int, suffix: str, offset: int = 0, data: bytes = b"") -> None:
        """Write an operation down."""
        with self._lock:
            self.log.append(Op(kind, file, suffix, offset, data))


class RecordingFile(apsw.VFSFile):
    """A file of the database, opened by SQLite."""

    def __init__(
        self, recording: Recording, name: str | apsw.URIFilename | None, flags: list[int], suffix: str
    ) -> None:
        super().__init__("unix", name, flags)
        self._recording = recording
        self._suffix = suffix
        self._number = recording.notice(suffix)
        self._name_is_new = bool(flags[0] & _LOGS) and bool(flags[0] & apsw.SQLITE_OPEN_CREATE)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's names
        """Write."""
        super().xWrite(data, offset)
        self._recording.add("write", self._number, self._suffix, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Truncate."""
        super().xTruncate(newsize)
        self._recording.add("truncate", self._number, self._suffix, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Sync."""
        super().xSync(flags)
        self._recording.add("sync", self._number, self._suffix)
        if self._name_is_new:
            self._name_is_new = False
            self._recording.folder_synced()


class RecordingVFS(apsw.VFS):
    """SQLite's own VFS, with a `Recording` of the files of one database."""

    def __init__(self, recording: Recording) -> None:
        super().__init__("stepwell-proof", base="unix", makedefault=True)
        self._recording = recording

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file."""
        text = name.filename() if isinstance(name, apsw.URIFilename) else name
        suffix = self._recording.suffix_of(text)
        if suffix is None:
            return apsw.VFSFile("unix", name, flags)
        return self._open(self._recording, name, flags, suffix)

    def _open(
        self, recording: Recording, name: str | apsw.URIFilename | None, flags: list[int], suffix: str
    ) -> RecordingFile:
        return RecordingFile(recording, name, flags, suffix)

    def lengthen(self, begin: int, end: int) -> None:
        """Write zeros behind the end of the log, as `stepwell.store.sqlite.file.wal_room` does past SQLite."""
        number = self._recording.notice("-wal")
        self._recording.add("write", number, "-wal", begin, bytes(end - begin))

    def cut(self, length: int) -> None:
        """Cut the log off, as `stepwell.store.sqlite.file.wal_room` does past SQLite."""
        self._recording.add("truncate", self._recording.notice("-wal"), "-wal", length)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Delete a file."""
        super().xDelete(filename, syncdir)
        suffix = self._recording.suffix_of(filename)
        if suffix is not None:
            self._recording.removed(suffix, synced=syncdir)


@contextmanager
def recording(path: str, make_vfs: Callable[[Recording], RecordingVFS] = RecordingVFS) -> Generator[Recording]:
    """Record what happens to the database at `path`, which nothing has open, until the block ends."""
    found = Recording(path)
    vfs = make_vfs(found)
    try:
        with folder_syncs(found), log_room(found, vfs):
            yield found
    finally:
        vfs.unregister()


@contextmanager
def log_room(found: Recording, vfs: RecordingVFS) -> Generator[None]:
    """Have the VFS hear of what the engine does to the log of the database past SQLite."""
    write_zeros, truncate = wal_room.write_zeros, wal_room.truncate
    log = Path(found.path + "-wal")

    def listening(descriptor: int, begin: int, end: int) -> None:
        if log.exists() and os.path.samestat(os.fstat(descriptor), log.stat()):
            vfs.lengthen(begin, end)
        write_zeros(descriptor, begin, end)

    def cutting(path: str, length: int) -> None:
        if path == str(log):
            vfs.cut(length)
        truncate(path, length)

    with patch.object(wal_room, "write_zeros", listening), patch.object(wal_room, "truncate", cutting):
        yield


@contextmanager
def folder_syncs(found: Recording) -> Generator[None]:
    """Have the recording hear of `os.fsync` on the folder of the database."""
    folder = Path(found.path).parent.stat()
    fsync = os.fsync

    def listening(descriptor: int) -> None:
        fsync(descriptor)
        synced = os.fstat(descriptor)
        if stat.S_ISDIR(synced.st_mode) and (synced.st_dev, synced.st_ino) == (folder.st_dev, folder.st_ino):
            found.folder_synced()

    os.fsync = listening  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync = fsync
