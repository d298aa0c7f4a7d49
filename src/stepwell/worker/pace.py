"""How much one turn of the engine takes on: as much as fills a slice of time.

While a turn lasts, nothing else goes on: no timer, no end of a step, no other process that wants to write. So a turn
should be short; but the shorter it is, the more turns there are, and each costs a sync of the disk. What counts is the
time that the engine computes, which more events make longer; the sync takes as long as it takes.
"""

from __future__ import annotations

from typing import Final

#: How long the engine computes in one turn, in seconds, as near as can be told beforehand.
SLICE_SECONDS: Final = 0.05
#: However long they take, so many at least; and however quick they are, so many at most.
LEAST: Final = 16
MOST: Final = 2000
#: So many starts at most, however quick the other turns were: what is done for one, until its first step has begun,
#: takes some 50 to 80 microseconds, so these take 20 ms.
STARTS: Final = 250
#: What is taken on before anything is known.
_FIRST: Final = 250
#: A turn of fewer says little about what each takes.
_ENOUGH: Final = 16


class Pace:
    """Learns from each turn how much the next one may take on, to fill a slice of so many seconds: `limit`."""

    def __init__(self, slice_seconds: float = SLICE_SECONDS) -> None:
        self._slice_seconds = slice_seconds
        self._seconds_each = SLICE_SECONDS / _FIRST
        self.limit = max(LEAST, int(slice_seconds / self._seconds_each))

    def turn_took(self, seconds: float, number: int) -> None:
        """Take note that a turn computed for so long, and handled or committed so many things."""
        if number < _ENOUGH:
            return
        self._seconds_each = (self._seconds_each + seconds / number) / 2
        self.limit = max(LEAST, min(MOST, int(self._slice_seconds / max(self._seconds_each, 1e-9))))
