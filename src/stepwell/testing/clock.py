"""Time that passes only when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from stepwell.errors import InvalidArgument
from stepwell.model.clock import MICROSECONDS, to_seconds
from stepwell.shown import shown

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

#: Where a clock starts by default: a Monday, at noon.
DEFAULT_START: Final = datetime(2024, 1, 1, 12, tzinfo=UTC)


class VirtualClock:
    """A `stepwell.Clock` that stands still until `advance` or `set` moves it; then engines on it look what is due.

    It starts at `start`, an aware datetime. One clock may serve several engines; all methods are thread-safe. Like
    engine time of any kind it never runs backwards. To play a machine whose wall clock was set back between two runs,
    give the next engine a new clock that starts earlier.
    """

    def __init__(self, start: datetime = DEFAULT_START) -> None:
        self._now = _microseconds(start)
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    # --- for tests -----------------------------------------------------------------------------------------------

    @property
    def time(self) -> datetime:
        """The clock's time, UTC."""
        return _EPOCH + self.now() * _MICROSECOND

    def advance(self, duration: float | timedelta) -> None:
        """Move forward by `duration`, seconds or a timedelta.

        The engines are told, but not waited for, and what is due in between is late, as after a downtime;
        `TestEngine.advance` lets time pass instead. Raises `InvalidArgument` for a negative duration.
        """
        self._move(self.now() + round(to_seconds(duration, "the time to advance by") * MICROSECONDS))

    def set(self, time: datetime) -> None:
        """Move forward to `time`, an aware datetime; raises `InvalidArgument` where that has passed."""
        target = _microseconds(time)
        if target < self.now():
            raise InvalidArgument(
                f"the clock stands at {self.time} and cannot go back to {time}: engine time never runs backwards. For "
                "a wall clock that was set back between two runs, open the next engine with a new VirtualClock"
            )
        self._move(target)

    def _move(self, target: int) -> None:
        self.set_floor(target)
        with self._lock:
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    # --- for engines (see `stepwell.Clock`) --------------------------------------------------------------------------

    def now(self) -> int:
        """Return microseconds since the Unix epoch."""
        with self._lock:
            return self._now

    def set_floor(self, at: int) -> None:
        """Move forward to `at`, microseconds since the epoch, where the clock is behind it."""
        with self._lock:
            self._now = max(self._now, at)

    def seconds_until(self, at: int) -> None:  # noqa: ARG002 - part of the protocol
        """Return None: no real time brings `at` nearer."""
        return

    def on_jump(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after each move."""
        with self._lock:
            self._callbacks.append(callback)

    def __repr__(self) -> str:
        """Show the time."""
        return f"<VirtualClock {self.time}>"


def _microseconds(time: datetime) -> int:
    if time.tzinfo is None:
        raise InvalidArgument(f"a clock needs a datetime with a time zone, not {shown(time)}")
    return (time - _EPOCH) // _MICROSECOND
