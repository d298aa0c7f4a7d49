"""Is a member well? Asked and answered in the lock file, which all see who have it open, from whatever container.

Each slot has two numbers (`OFFSET`, 16 bytes, little endian): of the last question, and of the last question answered.
Whoever asks writes a higher one and sends a letter, which is a hint that may be lost; the member's `listener` sees the
number at its next tick at the latest, and has the engine's own thread write the answer. So a question that stays
unanswered means that the process is stopped, or its listening thread or its engine hangs: that is a proof, as far as
there is one. A letter that is not answered proves nothing.

Two who ask at once may write the same number: the answer is for both.
"""

from __future__ import annotations

import os
import struct
from typing import Final

OFFSET: Final = 4096
_PAIR: Final = struct.Struct("<QQ")
_NUMBER: Final = struct.Struct("<Q")
SIZE: Final = _PAIR.size


def read(descriptor: int, slot: int) -> tuple[int, int]:
    """Return the number of the last question to a slot, and of the last one that was answered."""
    pair = os.pread(descriptor, _PAIR.size, OFFSET + slot * _PAIR.size)
    asked, answered = _PAIR.unpack(pair.ljust(_PAIR.size, b"\0"))
    return asked, answered


def make_room(descriptor: int, slot: int) -> None:
    """Make sure that questions to a slot can be written when the disk is full; for whoever takes the slot."""
    os.pwrite(descriptor, _PAIR.pack(*read(descriptor, slot)), OFFSET + slot * _PAIR.size)


def ask(descriptor: int, slot: int) -> int:
    """Ask the holder of a slot; return the number of the question. Raises `OSError` where that cannot be written."""
    number = max(read(descriptor, slot)) + 1
    os.pwrite(descriptor, _NUMBER.pack(number), OFFSET + slot * _PAIR.size)
    return number


def answer(descriptor: int, slot: int, number: int) -> None:
    """Answer all questions up to `number`; for the holder of the slot."""
    os.pwrite(descriptor, _NUMBER.pack(number), OFFSET + slot * _PAIR.size + _NUMBER.size)
