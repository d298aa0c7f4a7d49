"""Who has a file open, and which of SQLite's locks each of them has: what the kernel says in /proc, without any lock.

The files are never opened here: closing one drops every lock that this process has on it (POSIX locks belong to the
process, fcntl_locking(2)), and the process may have an engine open. Only Linux says it; elsewhere nobody is known.

The bytes are those of SQLite's formats: in the index of the log (``-shm``) byte 120 is the writer's, 121 that of
whoever folds the log in, 123 to 127 those of readers (https://www.sqlite.org/walformat.html, "WAL locks"); in the
database itself those from 2**30 + 2 on (https://www.sqlite.org/lockingv3.html).
"""

# ruff: noqa: PTH115, PTH118, PTH123, PTH208 -- SQLite's paths are strings

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Literal

import msgspec

from stepwell.model.clock import MICROSECONDS
from stepwell.store.sqlite.file import paths

#: What a process does with the file while it has a lock.
Role = Literal["writes", "folds the log in", "reads", "keeps all others out"]

_COMMAND_CHARS: Final = 80
_WRITER_BYTE: Final = 120
_CHECKPOINT_BYTE: Final = 121
_READER_BYTES: Final = range(123, 128)
#: SQLite's SHARED lock of a database is a read lock on the bytes from here; a write lock on them keeps everybody out.
_SHARED_FIRST: Final = 2**30 + 2
#: A read that lasts, and no row of short ones, has its lock at each of so many looks, so many seconds apart.
_LOOKS: Final = 4
_BETWEEN_LOOKS_SECONDS: Final = 0.02


class Holder(msgspec.Struct, frozen=True):
    """A process that has the file open, as far as this user may see: its number and its command.

    `started_at` is when it began, in microseconds; `roles` are what it does with the file at each of several looks.
    """

    pid: int
    command: str
    started_at: int | None = None
    roles: tuple[Role, ...] = ()


def holders(path: str) -> list[Holder] | None:
    """Return the other processes that have the database open; None where the system does not say (it is no Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    pids = list(_openers(path))
    lasting = _locks(path) if pids else set[tuple[int, Role]]()
    for _ in range(_LOOKS - 1 if lasting else 0):
        time.sleep(_BETWEEN_LOOKS_SECONDS)
        lasting &= _locks(path)
    return [
        Holder(pid, _command(pid), _started_at(pid), tuple(sorted(role for other, role in lasting if other == pid)))
        for pid in pids
    ]


def _openers(path: str) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        with suppress(OSError):  # it has ended, or belongs to another user
            links = f"/proc/{name}/fd"
            if any(_link(links, number) == path for number in os.listdir(links)):
                yield int(name)


def _link(folder: str, number: str) -> str | None:
    with suppress(OSError):
        return os.readlink(os.path.join(folder, number))
    return None


def _locks(path: str) -> set[tuple[int, Role]]:
    """Return which processes have which locks on the database and the index of its log now."""
    inodes: dict[int, bool] = {}
    for name, is_index in ((path, False), (path + paths.SHM_SUFFIX, True)):
        with suppress(OSError):
            inodes[os.stat(name).st_ino] = is_index  # noqa: PTH116 - as above
    try:
        with open("/proc/locks", encoding="ascii") as file:
            return {found for line in file for found in _locks_of(line, inodes)}
    except OSError:
        return set()


def _locks_of(line: str, inodes: dict[int, bool]) -> Iterator[tuple[int, Role]]:
    # 1: POSIX  ADVISORY  WRITE 22491 fe:00:2148821 120 120; what waits for a lock has an arrow behind the colon.
    words = line.split()
    if len(words) != 8 or words[1] != "POSIX":  # noqa: PLR2004 - the line above has so many words
        return
    writes, pid, inode = words[3] == "WRITE", int(words[4]), int(words[5].rpartition(":")[2])
    first, last = int(words[6]), sys.maxsize if words[7] == "EOF" else int(words[7])
    match inodes.get(inode):
        case True:
            if writes and first <= _WRITER_BYTE <= last:
                yield pid, "writes"
            if writes and first <= _CHECKPOINT_BYTE <= last:
                yield pid, "folds the log in"
            if not writes and any(first <= byte <= last for byte in _READER_BYTES):
                yield pid, "reads"
        case False:
            if writes and first <= _SHARED_FIRST <= last:
                yield pid, "keeps all others out"
        case None:
            pass


def _command(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().replace(b"\0", b" ").decode(errors="replace").split()
        return " ".join(words)[:_COMMAND_CHARS]  # in one line, as an argument may have several
    return "?"


def _started_at(pid: int) -> int | None:
    """Return when a process began, in microseconds, as near as a tick of the kernel's clock."""
    with suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        # Field 22, after the name in brackets, which may hold brackets itself: ticks since the system began.
        ticks = int(file.read().rpartition(b")")[2].split()[19])
        up = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time_ns() // 1_000 - int(up * MICROSECONDS)
    return None
