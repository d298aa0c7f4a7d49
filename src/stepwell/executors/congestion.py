"""Saying in the log that steps wait for a thread or a process, and for whose.

A backlog that moves is no news. Steps that wait while none begins are: those that have the places hang, or wait for
what only the others could bring about.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from stepwell.definitions.step_call import StepCall
from stepwell.model.clock import MICROSECONDS

_log: Final = logging.getLogger("stepwell")

#: After how many seconds without a beginning the log says so, and how often it repeats that.
WAITING_SECONDS: Final = 5.0
REPEAT_SECONDS: Final = 60.0
#: How many steps such a message names.
_NAMED: Final = 5


class Congestion:
    """Watches one kind of place: `place` is "thread" or "process", `option` the engine's option that says how many."""

    def __init__(self, place: str, option: str, limit: int) -> None:
        self._place = place
        self._option = option
        self._limit = limit
        self._head: StepCall | None = None  # the attempt that is the next one to begin …
        self._since = 0.0  # … and since when
        self._told_at: float | None = None

    def look(self, waiting: Sequence[StepCall], executing: Sequence[StepCall], at: float, now: int) -> None:
        """Take note of who waits and who executes, both the longest first; now and then.

        `at` is on the monotonic clock, in seconds, `now` on the engine's, in microseconds.
        """
        head = waiting[0] if waiting else None
        if head is not self._head:
            self._head, self._since, self._told_at = head, at, None
        if head is None or at - self._since < WAITING_SECONDS:
            return
        if self._told_at is not None and at - self._told_at < REPEAT_SECONDS:
            return
        self._told_at = at
        more = f" and {len(executing) - _NAMED} more" if len(executing) > _NAMED else ""
        _log.warning(
            "run %r: step %r waits for a %s, as do %d others, and none has come free for %.0f s. They are busy with %s "
            "(%s=%d). Steps that wait for other steps can hold each other up for ever: let the workflow wait instead, "
            "give steps a timeout, or raise %s",
            head.run_id,
            head.name,
            self._place,
            len(waiting) - 1,
            at - self._since,
            ", ".join(_named(attempts, now) for attempts in executing[:_NAMED]) + more,
            self._option,
            self._limit,
            self._option,
        )


def _named(attempts: StepCall, now: int) -> str:
    return f"step {attempts.name!r} of run {attempts.run_id!r} for {(now - attempts.started_at) / MICROSECONDS:.0f} s"
