"""Engine time: microseconds since the Unix epoch that never run backwards.

The wall clock is read once, when the engine opens; from then on time advances with a clock that no one can set. A wall
clock that jumps, back or forth, therefore fires no timer early, late or twice. The file's last recorded time is the
floor at the next open, so that time does not run backwards across restarts either.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from stepwell.errors import InvalidArgument
from stepwell.retry import MAX_DURATION_SECONDS

MICROSECONDS: Final = 1_000_000

# CLOCK_BOOTTIME goes on while a Linux machine is suspended; on macOS CLOCK_MONOTONIC does. Without it a laptop's
# timers would be late by its naps.
_STEADY_CLOCK_ID: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Where an engine gets its time from."""

    def now(self) -> int:
        """Return microseconds since the Unix epoch; never less than at an earlier call."""
        ...

    def set_floor(self, at: int) -> None:
        """Promise that `now` never returns less than `at`."""
        ...

    def seconds_until(self, at: int) -> float | None:
        """Return how many real seconds to sleep before `now` reaches `at`; None when real time has no part in it."""
        ...

    def on_jump(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, from any thread, whenever time moves other than by passing."""
        ...


class SystemClock:
    """The machine's time, anchored to the wall clock once and steady afterwards."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.clock_gettime_ns(_STEADY_CLOCK_ID)

    @classmethod
    def shared(cls, agree: Callable[[int], int]) -> SystemClock:
        """Return a clock whose anchor is the one that all workers of a store use (see `Store.agree_on_clock`)."""
        clock = cls()
        clock._offset = agree(clock._offset)
        return clock

    def now(self) -> int:
        """Return microseconds since the Unix epoch."""
        return (time.clock_gettime_ns(_STEADY_CLOCK_ID) + self._offset) // 1000

    def set_floor(self, at: int) -> None:
        """Move the anchor forward where the wall clock was behind `at` (it was set back between two runs)."""
        behind = at - self.now()
        if behind > 0:
            self._offset += behind * 1000

    def seconds_until(self, at: int) -> float | None:
        """Return the seconds from now to `at`, at least 0."""
        return max(0.0, (at - self.now()) / MICROSECONDS)

    def on_jump(self, callback: Callable[[], None]) -> None:
        """Ignore `callback`: this clock only passes."""


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def microseconds_of(when: datetime) -> int:
    """Return an aware datetime as engine time, exactly: a float of seconds would round the year 9999 into 10000."""
    return (when - _EPOCH) // _MICROSECOND


def datetime_of(at: int) -> datetime:
    """Return engine time as a datetime in UTC, exactly."""
    return _EPOCH + timedelta(microseconds=at)


def to_seconds(duration: object, what: str) -> float:
    """Return `duration` (seconds or a timedelta) in seconds.

    Raises `InvalidArgument`, naming `what`, for anything negative, infinite, longer than 100 years, or not a duration.
    """
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, (int, float)) and not isinstance(duration, bool):
        # The bounds come first: not every integer has a float.
        seconds = float(duration) if 0 <= duration <= MAX_DURATION_SECONDS else -1.0
    else:
        raise InvalidArgument(f"{what} must be seconds or a timedelta, not {type(duration).__name__} {duration!r}")
    if not 0 <= seconds <= MAX_DURATION_SECONDS:
        raise InvalidArgument(f"{what} must be between 0 seconds and 100 years, not {duration!r}")
    return seconds
