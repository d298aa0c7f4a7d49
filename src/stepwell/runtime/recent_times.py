"""Whether what used to be short still is: commits and look-ups that a caller's loop makes itself, while they are.

On a disk that has become slow they are left to a thread, until they are short again there.
"""

from __future__ import annotations

from collections import deque
from typing import Final

#: What waits longer than this, in seconds, for the disk above all, is slow.
SLOW_SECONDS: Final = 0.002
#: So is what takes longer than this on a caller's loop, waits and all.
LONG_SECONDS: Final = 0.01
#: How many times are remembered, and how many of them may be slow (so the 90th percentile is not).
REMEMBERED: Final = 100
SLOW_ALLOWED: Final = 10
#: What stops a caller's loop for so long, in seconds, is as bad as all that may be slow.
TOO_SLOW_SECONDS: Final = 0.05


class RecentTimes:
    """Remembers how long the last ones took, of one kind. `are_short`: the next ones may hold up a caller's loop."""

    def __init__(self) -> None:
        self._slow: deque[bool] = deque(maxlen=REMEMBERED)
        self._number = 0
        self._until_again = 0
        self.are_short = True

    def took(self, seconds: float, waited_seconds: float, *, in_line: bool) -> None:
        """Take note of one, which waited for so long and computed for the rest; `in_line`: on a caller's loop."""
        slow = waited_seconds > SLOW_SECONDS or (in_line and seconds > LONG_SECONDS)
        if len(self._slow) == REMEMBERED:
            self._number -= self._slow[0]
        self._slow.append(slow)
        self._number += slow
        if in_line and seconds > TOO_SLOW_SECONDS:
            self._until_again = REMEMBERED
        elif self._until_again:
            self._until_again -= 1
        self.are_short = not self._until_again and self._number <= SLOW_ALLOWED
