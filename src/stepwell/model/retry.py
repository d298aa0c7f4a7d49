"""When a failed attempt is followed by another: a pure function of policy, attempt, error and time."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Literal, TypeAlias, cast

import msgspec

from stepwell.errors import InvalidArgument, PermanentError
from stepwell.shown import is_one_of, shown

#: The longest duration accepted anywhere, in seconds: about 100 years. More is a mistake of units.
MAX_DURATION_SECONDS = 3_155_760_000.0

#: How long a delay may grow where the policy does not say: so many seconds, or so many times its first delay, whichever
#: is longer. So the first delay is never cut, and a factor that was asked for is at work for a while.
_GROWTH = 300.0


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_number(value, 1, math.inf)


def _are_errors(classes: object) -> bool:
    if isinstance(classes, tuple):
        several = cast("tuple[object, ...]", classes)
        return bool(several) and all(map(_are_errors, several))
    return isinstance(classes, type) and issubclass(classes, BaseException)


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how a step is tried again.

    `attempts` counts all tries, the first included. The delay before try n+1 is ``delay * backoff ** (n - 1)``, at most
    `max_delay` (both in seconds, or timedeltas; None: 300 seconds, or 300 times `delay` where that is longer), and is
    shortened at random by up to the share `jitter` (0 to 1) to spread a crowd. Only exceptions of the classes in `on`
    are retried, and, where `when` (a plain function) is given, only those for which it returns true. An exception with
    an attribute `retry_after` (seconds or a timedelta), such as `RetryLater`, sets its own delay; `PermanentError` is
    never retried. With ``then="pause"``, the run pauses when the last attempt has failed (or the next one would begin
    after the step's deadline), and has all its attempts again once somebody unpauses it; without it, the error is
    raised in the code.

    Raises `InvalidArgument` for a policy that could not be followed as it is written.
    """

    attempts: int = 3
    delay: float | timedelta = 1.0
    backoff: float = 2.0
    max_delay: float | timedelta | None = None
    jitter: float = 0.1
    on: type[BaseException] | tuple[type[BaseException], ...] = Exception
    when: Callable[[BaseException], bool] | None = None
    then: Literal["fail", "pause"] = "fail"

    def __post_init__(self) -> None:
        """Refuse a policy that could not be followed."""
        checks = {
            "attempts must be a whole number of at least 1": _is_count(self.attempts),
            "delay must be from 0 to 100 years, in seconds": _is_duration(self.delay),
            "backoff must be a number of at least 1": _is_number(self.backoff, 1, sys.float_info.max),
            "max_delay must be from 0 to 100 years, in seconds": self.max_delay is None or _is_duration(self.max_delay),
            "jitter must be from 0 to 1": _is_number(self.jitter, 0, 1),
            "on must be an exception class, or a tuple of one or more of them": _are_errors(self.on),
            "then must be 'fail' or 'pause'": is_one_of(self.then, ("fail", "pause")),
        }
        for message, holds in checks.items():
            if not holds:
                raise InvalidArgument(f"Retry: {message}; got {shown(self)}")
        if self.max_delay is not None and _seconds(self.max_delay) < _seconds(self.delay):
            raise InvalidArgument(
                f"Retry: max_delay ({_seconds(self.max_delay):g} s) must not be below delay "
                f"({_seconds(self.delay):g} s), which it would cut; got {shown(self)}"
            )
        if self.when is not None and (problem := _unfit(self.when)) is not None:
            raise InvalidArgument(
                f"Retry: when must be a plain function of the exception, {problem}; got {shown(self)}"
            )

    @property
    def longest_seconds(self) -> float:
        """How long a delay may grow."""
        if self.max_delay is not None:
            return _seconds(self.max_delay)
        return min(MAX_DURATION_SECONDS, max(_GROWTH, _GROWTH * _seconds(self.delay)))


def _is_duration(value: object) -> bool:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    return _is_number(seconds, 0, MAX_DURATION_SECONDS)


def _unfit(when: object) -> str | None:
    """Say why something is no predicate; None where it is one.

    What an async function or a generator returns is true whatever the function would have said, and so is what most
    classes make.
    """
    if not callable(when):
        return f"not {type(when).__name__}"
    if isinstance(when, type):
        return "not a class; exception classes go to on="
    for function in (when, inspect.unwrap(when), getattr(when, "__call__", None)):  # noqa: B004 - it is looked at
        while isinstance(function, functools.partial):
            function = function.func  # noqa: PLW2901 - as above
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return "not an async one: whatever it would return, the coroutine itself counts as true"
        if inspect.isgeneratorfunction(function):
            return "not a generator function: what it makes counts as true"
    try:
        signature = inspect.signature(when)
    except (ValueError, TypeError):  # of a function written in C: it will say so itself
        return None
    try:
        signature.bind(Exception())
    except TypeError as error:
        return f"which takes it as its one argument ({error})"
    return None


def _seconds(duration: float | timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


#: What `when` is.
Predicate: TypeAlias = Callable[[BaseException], object]
#: Calls a predicate: see `stepwell.definitions.invoke`.
Ask: TypeAlias = Callable[[Predicate, BaseException], object]


def _ask(when: Predicate, error: BaseException) -> object:
    return when(error)


#: The policy of a step that declares none: one attempt.
NO_RETRY = Retry(attempts=1)


def next_delay(policy: Retry, attempt: int, error: BaseException, chance: float, ask: Ask = _ask) -> float | None:
    """Return the seconds to wait before the attempt after `attempt` (counted from 1), or None to give up.

    `chance` is a random number from 0 to 1 that places the delay within its jitter. `ask` calls the policy's
    predicate; where that raises, there is no further attempt, and a note on `error` says so.
    """
    if attempt >= policy.attempts or not _is_retried(policy, error, ask):
        return None
    own = _own_delay(error)
    if own is not None:
        return own
    longest = policy.longest_seconds
    try:
        full = min(longest, _seconds(policy.delay) * float(policy.backoff) ** (attempt - 1))
    except OverflowError:
        full = longest if policy.delay else 0.0
    return full * (1 - policy.jitter * chance)


def is_spent(policy: Retry, attempt: int, error: BaseException, ask: Ask = _ask) -> bool:
    """Tell whether a run pauses (see `Retry.then`): its step has no attempt left for an error that is retried."""
    return policy.then == "pause" and attempt >= policy.attempts and _is_retried(policy, error, ask)


def _is_retried(policy: Retry, error: BaseException, ask: Ask) -> bool:
    if isinstance(error, PermanentError) or not isinstance(error, policy.on):
        return False
    return policy.when is None or _wants(policy.when, error, ask)


def _own_delay(error: BaseException) -> float | None:
    """Return the delay that an exception asks for, in seconds; None where it asks for none, or for nonsense.

    Of the latter a note on the exception tells.
    """
    try:
        own: object = getattr(error, "retry_after", None)
    except Exception:  # noqa: BLE001 - a property may raise anything
        return None
    if own is None:
        return None
    if not _is_duration(own):
        shown = f"{type(own).__name__} {own!r:.100}" if isinstance(own, (int, float, str, timedelta)) else type(own)
        _note(error, f"Its retry_after is no duration ({shown}), so the policy's delay was used.")
        return None
    return float(_seconds(cast("float | timedelta", own)))


def _wants(when: Predicate, error: BaseException, ask: Ask) -> bool:
    try:
        wanted = ask(when, error)
        if not isinstance(wanted, Awaitable):
            return bool(wanted)
        unfit = cast("Awaitable[object]", wanted)
        if inspect.iscoroutine(unfit):
            unfit.close()
        problem = f"returned {type(unfit).__name__}, which must be awaited: it must be a plain function"
    except BaseException as defect:  # noqa: BLE001 - a defect of the predicate must not hide what it was asked about
        problem = f"raised {type(defect).__name__}: {defect}"
    _note(error, f"It was not tried again, because the policy's `when` {problem}")
    return False


def _note(error: BaseException, text: str) -> None:
    with suppress(Exception):  # of a class that keeps something else where its notes belong
        error.add_note(text)
