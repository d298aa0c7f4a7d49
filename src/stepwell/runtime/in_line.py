"""Turns taken on the loop of a caller, in line with its own work: the other driver beside the engine's thread.

An `AsyncEngine` has both. Whichever is woken takes the turn; `TurnLock` sees to it that they never do at once. The loop
takes those that are light (`stepwell.runtime.light_turns`), as long as they prove to be short; all else, and all while
the disk is slow, is left to the thread, which has the timers as well. See docs/adr/0046-turns-on-the-callers-loop.md.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from asyncio.events import _get_running_loop
from collections.abc import Callable
from functools import partial
from typing import Final

from stepwell.errors import EngineClosed
from stepwell.executors.dispatch import Dispatch
from stepwell.model.clock import Clock
from stepwell.model.steady import monotonic
from stepwell.runtime.held_signals import HeldSignals
from stepwell.runtime.light_turns import SLICE_SECONDS, is_light, leaves_work
from stepwell.runtime.recent_times import RecentTimes
from stepwell.runtime.turn import TurnLoop
from stepwell.runtime.wake_ups import WakeUps
from stepwell.worker.pace import Pace

#: How long turns follow one another before the loop looks at what else is ready, in seconds.
_STRETCH_SECONDS: Final = 0.002


class TurnLock:
    """Lets one thread at a time take turns. `missed`: the engine's thread could not, and is to be woken after this."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the thread lets go of everything within its last turn
        self.missed = False
        self.times = RecentTimes()

    def take(self) -> bool:
        """Take the lock for a caller's loop, if it is free."""
        return self._lock.acquire(blocking=False)

    def take_for_thread(self) -> bool:
        """Take the lock for the engine's thread, if it is free; else have that woken when it is."""
        self.missed = True  # before the attempt: who has the lock looks at this after letting go of it
        if self._lock.acquire(blocking=False):
            self.missed = False
            return True
        return False

    def wait(self) -> None:
        """Take the lock, waiting for it."""
        self._lock.acquire()

    def release(self) -> None:
        """Let go of the lock."""
        self._lock.release()


def timed_turn(turn_loop: TurnLoop, pace: Pace, lock: TurnLock, now: int, *, light: bool) -> None:
    """Take a turn, and take note of how long it took; the caller has the lock."""
    turn_loop.limit = pace.limit
    commits = turn_loop.commits
    began, computed = monotonic(), time.thread_time()
    turn_loop.turn(now, light=light)
    computed = time.thread_time() - computed
    pace.turn_took(computed, turn_loop.taken_on)
    if turn_loop.commits != commits:
        seconds = monotonic() - began
        lock.times.took(seconds, seconds - computed, in_line=light)


class InLineTurns:
    """Takes turns on a caller's loop. `ident` is the thread of that loop, in which all but `is_turning` is used."""

    def __init__(
        self,
        turn_loop: TurnLoop,
        clock: Clock,
        steps: Dispatch,
        turns: TurnLock,
        thread: WakeUps,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._turn_loop = turn_loop
        self._clock = clock
        self._steps = steps
        self._turns = turns
        self._thread = thread
        self._loop = loop
        self._pace = Pace(SLICE_SECONDS)
        self._context = contextvars.Context()
        self._scheduled = False
        self._signals: HeldSignals | None = None
        self.ident: int | None = None
        #: Whether a turn is under way.
        self.is_turning = False

    def ask(self) -> bool:
        """Have a turn soon, where this is the place for it; False: the engine's thread must be woken."""
        if not self._turns.times.are_short:
            return False
        ident = threading.get_ident()
        if ident != self.ident:
            if self.ident is not None or _get_running_loop() is not self._loop:
                return False
            self.ident, self._signals = ident, HeldSignals(partial(_cut_off, self._turn_loop))
        if not self._scheduled and not self.is_turning:
            self._schedule()
        return True

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self.pump, context=self._context)

    def pump(self) -> None:
        """Take turns, as long as they are light and nobody else takes them; what is left is the thread's."""
        self._scheduled = False
        if self._thread.scheduled:  # it takes what is queued
            return
        thread, turn_loop = self._thread, self._turn_loop
        rests_at = monotonic() + _STRETCH_SECONDS
        while _has_something(turn_loop) and self._turns.take():  # else the thread has it, and looks when it lets go
            calls: list[Callable[[], None]] = []
            try:
                light = is_light(turn_loop, self._clock.now(), self._pace.limit)
                if light:
                    self._turn(calls)
                leaves = not light or leaves_work(turn_loop, thread.armed)
            finally:
                self._turns.release()
            for call in calls:  # steps, which may use this loop as they like: a turn could be taken within one
                call()
            if self._turns.missed or not light or (leaves and not turn_loop.has_more()):
                thread.wake()
                return
            if monotonic() > rests_at:
                break
        if _has_something(turn_loop) and not self._scheduled and not thread.scheduled:
            self._schedule()

    def _turn(self, calls: list[Callable[[], None]]) -> None:
        signals = self._signals
        assert signals is not None
        self.is_turning = True
        try:
            try:
                signals.hold()
                self._steps.collect(calls)
                timed_turn(self._turn_loop, self._pace, self._turns, self._clock.now(), light=True)
            finally:
                self._steps.collect(None)
                self.is_turning = False
                signals.let_go()
        except BaseException:  # of a signal handler, after the turn
            for call in calls:
                self._loop.call_soon(call, context=self._context)
            self._schedule()
            raise


def _cut_off(turn_loop: TurnLoop) -> None:
    """Take note that the turn under way is cut off in the middle: the program is to end."""
    turn_loop.failure = EngineClosed(
        f"{turn_loop.store.location}: the program was told to end while code of a run kept the engine busy; nothing "
        "that was acknowledged is lost. Open another engine"
    )


def _has_something(turn_loop: TurnLoop) -> bool:
    """Tell whether anything is queued, what can only be refused now included."""
    return bool(turn_loop.inbox or turn_loop.starts) or turn_loop.has_more()
