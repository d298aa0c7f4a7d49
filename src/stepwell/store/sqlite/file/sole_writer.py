"""One writer at a time for a file that is made under another name first, in this process and over all of them.

A backup is written to ``NAME-partial`` and then given its name. Two at the same time would write into one another's,
and the first to end would give its name to what the other has half done. So whoever makes one locks
``NAME-partial-lock`` meanwhile; the lock goes with its process, and the file is removed when it is done.
"""

# ruff: noqa: PTH108 -- SQLite's paths are strings

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

from stepwell.errors import FileInUse
from stepwell.store.sqlite.file import locking

_ENDING: Final = "-lock"
#: How often a lock file is opened again whose holder removes it at the same moment.
_ATTEMPTS: Final = 100
#: What this process writes; POSIX locks keep only other processes away. With the process's id: a forked child writes
#: nothing of that.
_under_way: Final[dict[str, tuple[int, object]]] = {}


@contextmanager
def sole_writer(partial: str, final: str) -> Generator[None]:
    """Keep everybody else from writing `partial`, which is to become `final`; raises `FileInUse` where one does."""
    name = partial + _ENDING
    mine = (os.getpid(), object())
    held = _under_way.setdefault(name, mine)  # atomic: threads settle it so
    if held is not mine:
        if held[0] == mine[0]:
            raise _in_use(final, "in this process")
        _under_way[name] = mine
    try:
        descriptor = _locked(name, final)
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                os.unlink(
                    name
                )  # before the lock goes: whoever opened it meanwhile sees that it is not this one any more
            os.close(descriptor)
    finally:
        del _under_way[name]


def _locked(name: str, final: str) -> int:
    for _ in range(_ATTEMPTS):
        descriptor = os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if not locking.try_lock(descriptor, locking.LOCK_BASE):
            holder = locking.holder(descriptor, locking.LOCK_BASE)
            os.close(descriptor)
            raise _in_use(final, f"in process {holder.pid}" if holder and holder.pid else "in another process")
        if locking.Identity.of(name) == locking.Identity(os.fstat(descriptor).st_dev, os.fstat(descriptor).st_ino):
            return descriptor
        os.close(descriptor)
    raise _in_use(final, "again and again")


def _in_use(final: str, where: str) -> FileInUse:
    return FileInUse(
        f"A backup to {final!r} is under way already ({where}); this one wrote nothing. Wait until that one has "
        "ended, or give another path."
    )
