"""What a process that keeps the writers' lock for long says of itself: for whoever waits, and wonders why.

The kernel knows which process holds the lock, but not what for, and across containers not even which. So a transaction
of user code leaves a note in the lock file for its length: the process, its host, its command, since when, and the line
of code. Commits of the engine leave none: they take milliseconds, and would all have to pay for it.

The note is JSON text in one line, from byte `OFFSET`, ended by a zero. It is a courtesy, never a fact to act on: one
that was left by a process that died there counts for nothing, since the kernel names another holder then.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Final

import msgspec

from stepwell.store.sqlite.peers.in_words import shortened

OFFSET: Final = 1152
_MAX_BYTES: Final = 880
_MAX_PLACE_LENGTH: Final = 300


class WriterNote(msgspec.Struct):
    """What a holder says of itself. `pids` tells its process ids from those of other containers."""

    pid: int
    pids: str
    host: str
    command: str
    at: float
    where: str

    def describe(self) -> str:
        """Return the note in words."""
        return f"process {self.pid} of another container, {self.host} ({self.command}), {self.describe_place()},"

    def describe_place(self) -> str:
        """Return since when the holder has been where."""
        return f"in {self.where} since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.at))}"


def pid_namespace() -> str:
    """Return what tells the process ids of this container from those of others; empty where there is no such thing."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 -- "pid:[4026531836]" is the name of no file
    except OSError:
        return ""


def write(descriptor: int, where: str) -> None:
    """Leave a note in the lock file. The caller has the writers' lock."""
    # `orig_argv` is how the process was started; `argv` of an embedded interpreter may be empty.
    command = shortened(" ".join(getattr(sys, "orig_argv", sys.argv)))
    note = WriterNote(
        os.getpid(),
        pid_namespace(),
        os.uname().nodename,
        command,
        time.clock_gettime(time.CLOCK_REALTIME),
        where[:_MAX_PLACE_LENGTH],
    )
    said = msgspec.json.encode(note)
    # A full disk takes no notes; the lock holds without them.
    with suppress(OSError):
        os.pwrite(descriptor, (said if len(said) < _MAX_BYTES else b"") + b"\0", OFFSET)


def clear(descriptor: int) -> None:
    """Take the note back."""
    with suppress(OSError):
        os.pwrite(descriptor, b"\0", OFFSET)


def read(descriptor: int, holder: int) -> WriterNote | None:
    """Return the note of the process that holds the lock, whose id is 0 where it is not visible from here."""
    try:
        said = os.pread(descriptor, _MAX_BYTES, OFFSET).partition(b"\0")[0]
        note = msgspec.json.decode(said, type=WriterNote)
    except (OSError, msgspec.DecodeError):
        return None
    if note.pids == pid_namespace() and note.pid != holder:
        return None
    return note
