"""On which boot of which machine a process runs: only there do process ids, as the kernel gives them here, mean it.

The kernel tells who holds a lock by a process id, translated for whoever asks. But a member of another boot (another
machine on a cluster's file system, or a container that was given a boot id of its own) may be given by a number that
belongs to a process here which has nothing to do with it. So each member leaves its place at its slot in the lock file
(16 bytes), and only those of one's own place are looked up by their process ids. The others are asked for their locks.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

OFFSET: Final = 69_632
SIZE: Final = 16
_UNKNOWN: Final = bytes(SIZE)


def own_place() -> bytes:
    """Return what tells this boot of this machine from others; zeros where that is not known (macOS)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return _UNKNOWN
    return hashlib.blake2b(boot, digest_size=SIZE).digest()


def write(descriptor: int, slot: int, place: bytes) -> None:
    """Leave the place of this process at its slot."""
    os.pwrite(descriptor, place, OFFSET + slot * SIZE)


def is_here(descriptor: int, slot: int, place: bytes) -> bool:
    """Tell whether the holder of a slot runs where this process does."""
    return os.pread(descriptor, SIZE, OFFSET + slot * SIZE) == place
