"""One clock for all processes that have the file open: its anchor, kept in the lock file.

The anchor is the offset between the steady clock and the wall clock. The first member to ask writes its own, and the
others use that one for as long as any member lives, so that the times of all processes compare exactly. The anchor is
kept with a key of the steady clock that it belongs to: processes on another clock (a container with its own time)
must not use it.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from stepwell.store.sqlite.file.locking import DOOR_PATIENCE_SECONDS, LockFile

#: Behind the fields of the header; see `membership`.
ANCHOR_OFFSET: Final = 1024 + 32
#: Whether there is one (0 or 1), its key, the offset in nanoseconds.
_ANCHOR: Final = struct.Struct("<q16sq")


def offset(lock_file: LockFile, own_offset_ns: int) -> int:
    """Return the nanoseconds from the steady clock to the wall clock that all members use.

    The first one to ask decides, with its own offset. Raises `FileInUse` where the door is not free in time.
    """
    key = _clock_key()
    with lock_file.door(DOOR_PATIENCE_SECONDS):
        stands, found, offset_ns = _ANCHOR.unpack(os.pread(lock_file.descriptor, _ANCHOR.size, ANCHOR_OFFSET))
        if not stands:
            lock_file.write(_ANCHOR.pack(1, key, own_offset_ns), ANCHOR_OFFSET)
            return own_offset_ns
    return int(offset_ns) if found == key else own_offset_ns


def _clock_key() -> bytes:
    """Return what tells steady clocks apart: the boot of the machine, and the container's time; zeros if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return bytes(16)
    clock = ""
    with suppress(OSError):
        clock = str(Path("/proc/self/ns/time").readlink())
    # CLOCK_MONOTONIC where there is no CLOCK_BOOTTIME: the two differ by the machine's sleep.
    own = f"{clock} {hasattr(time, 'CLOCK_BOOTTIME')}".encode()
    return hashlib.blake2b(boot + own, digest_size=16).digest()
