"""What a calendar consists of, as values that the file keeps; `stepwell.model.calendar` reckons with them.

Apart from it, so that whoever only reads a schedule loads no calendar, and no time zones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, TypeAlias, get_args

import msgspec

#: A time that the wall clock does not show on a day: at the moment of the change instead, or not at all.
Missing: TypeAlias = Literal["shift", "skip"]
#: A time that the wall clock shows twice. ``once``: the first time, but an expression for every hour goes on through
#: the hour that is repeated, because it is about hours that pass.
Repeated: TypeAlias = Literal["once", "first", "last", "both"]
MISSING: Final[tuple[str, ...]] = get_args(Missing)
REPEATED: Final[tuple[str, ...]] = get_args(Repeated)


class Interval(msgspec.Struct, frozen=True):
    """A tick each `every`, counted from the epoch and put off by `phase`; both in microseconds."""

    every: int
    phase: int = 0

    def moments(self, after: int) -> Iterator[int]:
        """Yield the moments after `after`, rising."""
        moment = (after - self.phase) // self.every * self.every + self.phase
        while True:
            moment += self.every
            yield moment


class CalendarSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a calendar consists of, as the file keeps it. `excluded` are cron expressions too.

    No tick lies before `start_at`, none at or after `end_at`. `jitter` is in microseconds.
    """

    crons: tuple[str, ...] = ()
    intervals: tuple[Interval, ...] = ()
    excluded: tuple[str, ...] = ()
    zone: str = "UTC"
    missing: Missing = "shift"
    repeated: Repeated = "once"
    start_at: int | None = None
    end_at: int | None = None
    jitter: int = 0
