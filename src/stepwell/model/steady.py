"""The time that passes, for waiting: seconds of a clock that nobody sets, and no tool for tests stops.

Tools that freeze or move Python's clock put functions of their own in the place of `time.monotonic` and `time.time`. An
engine that waited by those would wait for ever, or not at all. What is asked for by the number of the clock is left
alone by them.
"""

from __future__ import annotations

import time


def monotonic() -> float:
    """Return the seconds of the steady clock, which begins anywhere; `time.monotonic` itself, where nobody froze it."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)
