"""Progress of a step, as its attempts report it, and where it is kept from one attempt to the next.

An attempt may say it thousands of times a second, from whichever thread. So saying it only leaves it here; the engine
is told once, and takes what is the latest when it writes.
"""

from __future__ import annotations

import math
import operator
from threading import Lock
from typing import Final, Protocol, SupportsIndex, cast

import msgspec

from stepwell.errors import InvalidArgument
from stepwell.model.names import check_text
from stepwell.model.steady import monotonic

#: The longest note, in characters.
MAX_NOTE_LENGTH: Final = 1_000
#: What a column of integers holds.
_MAX_INTEGER: Final = 2**63 - 1


class Progress(msgspec.Struct, frozen=True):
    """How far a step is: the last report of its attempt number `attempt`.

    `done` of `total`, in the unit of the step; `total` is None if it is unknown. `note` is for people, or for the
    attempt that continues from there.
    """

    done: int | float
    total: int | float | None = None
    note: str | None = None
    attempt: int = 1


def progress_of(done: object, total: object, note: object, attempt: int) -> Progress:
    """Check what a step says of how far it is; raises `InvalidArgument`."""
    if note is not None:
        check_text(cast("str", note), "the note of progress()")
        if len(cast("str", note)) > MAX_NOTE_LENGTH:
            raise InvalidArgument(f"the note of progress() has more than {MAX_NOTE_LENGTH} characters")
    whole = None if total is None else _number(total, "total")
    return Progress(_number(done, "done"), whole, cast("str | None", note), attempt)


def _number(value: object, what: str) -> int | float:
    """Return a number as plain Python has it: libraries have integers of their own."""
    if isinstance(value, float):
        if math.isfinite(value) and value >= 0:
            return float(value)
    elif not isinstance(value, bool):
        try:
            number = operator.index(cast("SupportsIndex", value))
        except TypeError:
            pass
        else:
            if 0 <= number <= _MAX_INTEGER:
                return int(number)
    raise InvalidArgument(f"{what} of progress() must be a number of at least 0, not {value!r}")


class Reports:
    """Of one call of a step. `last` is what an earlier attempt said, `latest` what the one under way did.

    `is_noted`: the engine knows that there is something to write. `heard_at` is when the attempt said anything, on the
    steady clock, and `fell_silent` that it was given up because that is too long ago.
    """

    __slots__ = ("fell_silent", "heard_at", "is_noted", "last", "latest")

    def __init__(self, last: Progress | None = None) -> None:
        self.last = last
        self.latest: Progress | None = None
        self.is_noted = False
        self.heard_at = monotonic()
        self.fell_silent = False

    def begin(self) -> None:
        """Take note that an attempt begins."""
        self.last, self.latest = self.latest or self.last, None
        self.heard_at = monotonic()
        self.fell_silent = False

    def say(self, progress: Progress) -> bool:
        """Take what the attempt says; tell whether the engine has to be told."""
        self.latest = progress
        self.heard_at = monotonic()
        if self.is_noted:
            return False
        self.is_noted = True
        return True

    def take(self) -> Progress | None:
        """Return what was said last of all, to be written."""
        self.is_noted = False  # first: what is said from now on is told again
        return self.latest or self.last


class Reporting(Protocol):
    """What has reports, once something was said."""

    reports: Reports | None


_making: Final = Lock()


def reports_of(attempt: Reporting) -> Reports:
    """Return the reports of a call, made at first use; from any thread."""
    found = attempt.reports
    if found is None:
        with _making:
            found = attempt.reports
            if found is None:
                found = attempt.reports = Reports()
    return found
