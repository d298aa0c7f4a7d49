"""How long an attempt of a step may take, and how long it may say nothing: what gives it up, and with which error.

Times are on the steady clock, and count from when the attempt begins to execute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Final, Protocol

from stepwell.definitions.reports import Reports, reports_of
from stepwell.definitions.step_call import StepCall
from stepwell.errors import StepTimeout
from stepwell.model.clock import MICROSECONDS
from stepwell.model.steady import monotonic

# Timers keep the context that they are made in, even cancelled ones: not that of an attempt.
_CONTEXT: Final = Context()


class Handle(Protocol):
    """What ends a limit."""

    def cancel(self) -> None:
        """Have it give up nothing."""
        ...


def time_limit(attempts: StepCall) -> float | None:
    """Return how many seconds this attempt may take: its timeout, or what is left of the deadline of all attempts."""
    options = attempts.definition.step_options
    limit = options.timeout_seconds
    if options.deadline_seconds is not None:
        spent = (attempts.started_at - attempts.first_started_at) / MICROSECONDS
        left = max(0.0, options.deadline_seconds - spent)
        limit = left if limit is None else min(limit, left)
    return limit


def is_limited(attempts: StepCall) -> bool:
    """Tell whether anything bounds an attempt; one that must say something has reports from now on."""
    options = attempts.definition.step_options
    if options.heartbeat_seconds is not None:
        reports_of(attempts)
        return True
    return options.timeout_seconds is not None or options.deadline_seconds is not None


def limited(loop: asyncio.AbstractEventLoop, attempts: StepCall, give_up: Callable[[], None]) -> Handle | None:
    """Have `give_up` called where an attempt that begins takes too long, or says nothing for too long."""
    limit, silence = time_limit(attempts), attempts.definition.step_options.heartbeat_seconds
    if silence is not None:
        return _Listening(loop, reports_of(attempts), limit, silence, give_up)
    return None if limit is None else loop.call_later(limit, give_up, context=_CONTEXT)


class _Listening:
    """Gives an attempt up that says nothing for `silence` seconds, or takes more than `limit`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reports: Reports,
        limit: float | None,
        silence: float,
        give_up: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._reports = reports
        self._silence = silence
        self._give_up = give_up
        self._since = monotonic()
        self._ends_at = None if limit is None else self._since + limit
        self._timer = self._wait(self._since)

    def _wait(self, now: float) -> asyncio.TimerHandle:
        next_at = max(self._since, self._reports.heard_at) + self._silence
        if self._ends_at is not None:
            next_at = min(next_at, self._ends_at)
        return self._loop.call_later(max(0.0, next_at - now), self._look, context=_CONTEXT)

    def _look(self) -> None:
        now = monotonic()
        if self._ends_at is not None and now >= self._ends_at:
            self._give_up()
        elif now - max(self._since, self._reports.heard_at) >= self._silence:
            self._reports.fell_silent = True
            self._give_up()
        else:
            self._timer = self._wait(now)

    def cancel(self) -> None:
        """Have it give up nothing."""
        self._timer.cancel()


def timed_out(attempts: StepCall) -> StepTimeout:
    """Make the error of an attempt that took too long, or said nothing for too long."""
    options = attempts.definition.step_options
    what = f"step {attempts.definition.name!r} of run {attempts.run_id!r}: attempt {attempts.attempt}"
    if attempts.reports is not None and attempts.reports.fell_silent:
        return StepTimeout(
            f"{what} said nothing for {options.heartbeat_seconds:g} s, its heartbeat timeout: it hangs, or should call "
            "current().progress() more often"
        )
    return StepTimeout(f"{what} took longer than {time_limit(attempts):g} s")
