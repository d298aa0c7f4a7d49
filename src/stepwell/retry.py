"""When a failed attempt is followed by another: a pure function of policy, attempt, error and time."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from stepwell.errors import InvalidArgument, PermanentError

#: The longest duration accepted anywhere, in seconds: about 100 years. More is a mistake of units.
MAX_DURATION_SECONDS = 3_155_760_000.0


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_number(value, 1, math.inf)


def _are_errors(classes: object) -> bool:
    if isinstance(classes, tuple):
        return all(map(_are_errors, cast("tuple[object, ...]", classes)))
    return isinstance(classes, type) and issubclass(classes, BaseException)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how a step is tried again.

    `attempts` counts all tries, the first included. The delay before try n+1 is ``delay * backoff ** (n - 1)``, at most
    `max_delay` (both in seconds, or timedeltas), and is shortened at random by up to the share `jitter` (0 to 1) to
    spread a crowd. Only exceptions of the classes in `on` are retried, and, where `when` is given, only those for which
    it returns true. An exception with a numeric attribute `retry_after` (seconds), such as `RetryLater`, sets its own
    delay; `PermanentError` is never retried.
    """

    attempts: int = 3
    delay: float | timedelta = 1.0
    backoff: float = 2.0
    max_delay: float | timedelta = 300.0
    jitter: float = 0.1
    on: type[BaseException] | tuple[type[BaseException], ...] = Exception
    when: Callable[[BaseException], bool] | None = None

    def __post_init__(self) -> None:
        """Refuse a policy that could not be followed."""
        checks = {
            "attempts must be a whole number of at least 1": _is_count(self.attempts),
            "delay must be from 0 to 100 years, in seconds": _is_number(_seconds(self.delay), 0, MAX_DURATION_SECONDS),
            "backoff must be a number of at least 1": _is_number(self.backoff, 1, sys.float_info.max),
            "max_delay must be from 0 to 100 years, in seconds": (
                _is_number(_seconds(self.max_delay), 0, MAX_DURATION_SECONDS)
            ),
            "jitter must be from 0 to 1": _is_number(self.jitter, 0, 1),
            "on must be an exception class, or a tuple of them": _are_errors(self.on),
            "when must be a function of the exception": self.when is None or callable(self.when),
        }
        for message, holds in checks.items():
            if not holds:
                raise InvalidArgument(f"Retry: {message}; got {self!r}")


def _seconds(duration: float | timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


#: The policy of a step that declares none: one attempt.
NO_RETRY = Retry(attempts=1)


def next_delay(policy: Retry, attempt: int, error: BaseException, chance: float) -> float | None:
    """Return the seconds to wait before the attempt after `attempt` (counted from 1), or None to give up.

    `chance` is a random number from 0 to 1 that places the delay within its jitter. Where the policy's predicate
    raises, there is no further attempt, and a note on `error` says so.
    """
    if attempt >= policy.attempts or isinstance(error, PermanentError) or not isinstance(error, policy.on):
        return None
    if policy.when is not None and not _wants(policy.when, error):
        return None
    own = _own_delay(error)
    if own is not None:
        return own
    longest = _seconds(policy.max_delay)
    try:
        full = min(longest, _seconds(policy.delay) * float(policy.backoff) ** (attempt - 1))
    except OverflowError:
        full = longest if policy.delay else 0.0
    return full * (1 - policy.jitter * chance)


def _own_delay(error: BaseException) -> float | None:
    try:
        own: object = getattr(error, "retry_after", None)
    except Exception:  # noqa: BLE001 - a property may raise anything
        return None
    if not isinstance(own, (int, float)) or not 0 <= own <= MAX_DURATION_SECONDS:
        return None
    return float(own)


def _wants(when: Callable[[BaseException], bool], error: BaseException) -> bool:
    try:
        return bool(when(error))
    except Exception as defect:  # noqa: BLE001 - a defect of the predicate must not hide what it was asked about
        error.add_note(f"It was not tried again, because the policy's `when` raised {type(defect).__name__}: {defect}")
        return False
