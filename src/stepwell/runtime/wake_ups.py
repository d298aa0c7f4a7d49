"""When the engine's thread takes its next turn: soon, because something was queued, or when something is due."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Final

from stepwell.model.clock import Clock
from stepwell.runtime.own_loop import OwnLoop

#: The longest uninterrupted wait of the timer, in seconds; bounds what a suspended machine can cost.
_MAX_TIMER_SECONDS: Final = 60.0


class WakeUps:
    """Has `pump` called on the loop of an engine's thread; `pump` sets `scheduled` to False when it has looked."""

    def __init__(self, own_loop: OwnLoop, clock: Clock) -> None:
        self._own_loop = own_loop
        self._clock = clock
        # Runs must not see the context variables of whoever happens to wake the engine.
        self._context = contextvars.Context()
        self._timer: asyncio.TimerHandle | None = None
        self._pump: Callable[[], None] | None = None
        #: Whether the thread is about to take a turn; while it is set, nobody needs to wake it.
        self.scheduled = False
        #: What the timer is set for, in microseconds of engine time.
        self.armed: int | None = None

    def begin(self, pump: Callable[[], None]) -> None:
        """Say what takes turns; before the first `wake`."""
        self._pump = pump

    def wake(self) -> None:
        """Have the queue looked at; from any thread."""
        assert self._pump is not None
        self.scheduled = True
        if not self._own_loop.soon(self._pump, self._context):  # the loop is closed: the engine is, too
            self.scheduled = False

    def wake_if_asleep(self) -> None:
        """Have the queue looked at, unless it will be anyway; from any thread."""
        if not self.scheduled:
            self.wake()

    def set_timer(self, due: int | None, now: int) -> None:
        """Wake the thread at `due`, and not when it was set for before; on that thread. `now`: of the last turn."""
        self._stop_timer()
        self.armed = due
        if due is None:
            return
        if due <= now:  # of a run that was just read: a clock that stands still would never say so
            self.wake_if_asleep()
            return
        seconds = self._clock.seconds_until(due)
        if seconds is not None:
            # A microsecond more, because the loop's clock may be a little ahead of the engine's.
            wait = min(seconds + 1e-6, _MAX_TIMER_SECONDS)
            self._timer = self._own_loop.loop.call_later(wait, self._on_timer)

    def _stop_timer(self) -> None:
        """Wake the thread at no time any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = self.armed = None
        self.wake_if_asleep()
