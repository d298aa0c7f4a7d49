"""Until when a member may be busy with a large value: said beforehand, in the lock file, for whoever asks it meanwhile.

One call into `msgspec` holds Python's interpreter for its whole length, in all threads of the process: seconds, for
hundreds of megabytes on a slow machine. A worker that is at it answers no question (`questions`), and is well. So
before such a call it writes at its slot (`OFFSET`, 8 bytes, little endian) until when it may be silent, in nanoseconds
of the steady clock: more than it can need. Whoever asks takes that for an answer. A worker that is stopped meanwhile
shows as stalled when that time has passed; nobody has to take the word back.

The steady clock is the same in all processes of a machine. One that has a clock of its own (a container, with a time
namespace) says what others cannot believe, and is asked as any other.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from stepwell.model.steady import monotonic

OFFSET: Final = 200_704
_UNTIL: Final = struct.Struct("<Q")
#: Nobody is believed who wants more, in seconds.
LONGEST_SECONDS: Final = 600.0
_NANOSECONDS: Final = 1_000_000_000


def clear(descriptor: int, slot: int) -> None:
    """Forget what the last holder of a slot said, and have room when the disk is full; for whoever takes the slot."""
    os.pwrite(descriptor, bytes(_UNTIL.size), OFFSET + slot * _UNTIL.size)


def say(descriptor: int, slot: int, seconds: float) -> None:
    """Say that the holder of a slot may be silent for so long from now on, unless it has said more before."""
    seconds = min(seconds, LONGEST_SECONDS)
    if seconds > seconds_left(descriptor, slot):
        until = int((monotonic() + seconds) * _NANOSECONDS)
        os.pwrite(descriptor, _UNTIL.pack(until), OFFSET + slot * _UNTIL.size)


def seconds_left(descriptor: int, slot: int) -> float:
    """Return for how long the holder of a slot may still be silent; 0 where it has said nothing that holds."""
    found = os.pread(descriptor, _UNTIL.size, OFFSET + slot * _UNTIL.size)
    left = _UNTIL.unpack(found.ljust(_UNTIL.size, b"\0"))[0] / _NANOSECONDS - monotonic()
    return left if 0 < left <= LONGEST_SECONDS else 0.0
