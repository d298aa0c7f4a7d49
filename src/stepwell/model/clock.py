"""Engine time: microseconds that never run backwards, and how they relate to the wall clock.

The wall clock is read once, when the engine opens; from then on engine time advances with a clock that no one can set.
A wall clock that jumps, back or forth, therefore fires no timer early, late or twice. The file's last recorded time is
the floor at the next open, so that time does not run backwards across restarts either.

So engine time can be *ahead* of the wall clock: by years, where a file was written to once while a clock was wrong.
That does no harm, for durations are counted in engine time, and dates are reckoned by the wall clock: a date that
somebody hands in is translated by the difference at that moment, and so is what is shown. A run is told the difference
once, when it is created, and keeps it (`RunRecord.ahead`), so that each replay finds the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from stepwell.errors import InvalidArgument
from stepwell.model.retry import MAX_DURATION_SECONDS
from stepwell.shown import shown

MICROSECONDS: Final = 1_000_000

# CLOCK_BOOTTIME goes on while a Linux machine is suspended; on macOS CLOCK_MONOTONIC does. Without it a laptop's
# timers would be late by its naps.
_STEADY_CLOCK_ID: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


#: How far engine time and the wall clock may be apart before that counts: two readings differ by as much on a busy
#: machine.
_TOLERANCE_NANOSECONDS: Final = 100_000_000
#: How many times the two clocks are read beside each other.
_READINGS: Final = 3


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
    """The machine's time, anchored to the wall clock once and steady afterwards.

    `wall` reads the wall clock, in nanoseconds since the epoch.
    """

    def __init__(self, wall: Callable[[], int] = time.time_ns) -> None:
        self._wall = wall
        self._offset = self._wall_offset()

    @classmethod
    def shared(cls, agree: Callable[[int], int], wall: Callable[[], int], floor: int) -> SystemClock:
        """Return a clock whose anchor is the one that all workers of a store use (see `Membership.agree_on_clock`).

        `floor` is the time below which the store's clock must not begin.
        """
        clock = cls(wall)
        clock.set_floor(floor)
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

    def ahead(self) -> int:
        """Return by how many microseconds this clock is later than the wall clock is now; 0 for what is no matter."""
        difference = self._offset - self._wall_offset()
        return difference // 1000 if abs(difference) >= _TOLERANCE_NANOSECONDS else 0

    def _wall_offset(self) -> int:
        """Return the nanoseconds from the steady clock to the wall clock."""
        readings: list[tuple[int, int]] = []
        for _ in range(_READINGS):
            before = time.clock_gettime_ns(_STEADY_CLOCK_ID)
            wall = self._wall()
            after = time.clock_gettime_ns(_STEADY_CLOCK_ID)
            readings.append((after - before, wall - (before + after) // 2))
        # The one during which the least time passed: in the others, others may have had the processor.
        return min(readings)[1]


def engine_time(clock: Clock, at: int) -> int:
    """Return engine time for a moment by the wall clock, as the caller's code sees it at present."""
    if not isinstance(clock, SystemClock):
        return at
    now, ahead = clock.now(), clock.ahead()
    # Frozen, or moved, by a tool for tests: then the caller's dates were made by that clock.
    seen = time.time_ns() // 1000
    if abs(now - ahead - seen) * 1000 >= _TOLERANCE_NANOSECONDS:
        ahead = now - seen
    return at + ahead


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def microseconds_of(when: datetime) -> int:
    """Return an aware datetime as engine time, exactly: a float of seconds would round the year 9999 into 10000."""
    return (when - _EPOCH) // _MICROSECOND


def datetime_of(at: int) -> datetime:
    """Return microseconds since the epoch as a datetime in UTC, exactly."""
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
        raise InvalidArgument(f"{what} must be seconds or a timedelta, not {type(duration).__name__} {shown(duration)}")
    if not 0 <= seconds <= MAX_DURATION_SECONDS:
        raise InvalidArgument(f"{what} must be between 0 seconds and 100 years, not {shown(duration)}")
    return seconds
