"""Ids that sort by the time of their making, for runs that are given none."""

from __future__ import annotations

import secrets
import threading
from typing import Final

_RANDOM_BITS: Final = 64
#: How much of the random part each of two ids of one millisecond is above the one before, at most: so that whoever
#: knows one does not know the next.
_STEP_BITS: Final = 32


class SortableIds:
    """Makes ids: 12 hexadecimal digits of milliseconds, then 16 random ones. Those of one maker rise."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def new(self, now: int) -> str:
        """Return an id for the time `now`, in microseconds; above all that were returned before."""
        milliseconds = now // 1000
        with self._lock:
            if milliseconds > self._last >> _RANDOM_BITS:
                made = milliseconds << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS - 1)
            else:
                made = self._last + 1 + secrets.randbits(_STEP_BITS)
            self._last = made
        return f"{made:028x}"
