"""Cron expressions: what their fields say, where one is wrong, and which times by the wall clock match.

`cronsim` finds the matching minute, on times without a zone: so it never meets a change of the clocks, about which
`stepwell.model.wall_time` decides. A sixth field, seconds, stands in front and is expanded here. `cronsim` says of a
wrong field only which one it is; the fault's place is found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from cronsim import CronSim, CronSimError

from stepwell.errors import InvalidArgument
from stepwell.shown import shown

#: The words of cron for whole expressions, as in vixie-cron.
ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MINUTE: Final = timedelta(minutes=1)
_MONTHS: Final = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS: Final = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
#: Name, least value, largest value, and the words for them. The sixth field comes first.
_FIELDS: Final[list[tuple[str, int, int, list[str]]]] = [
    ("second", 0, 59, []),
    ("minute", 0, 59, []),
    ("hour", 0, 23, []),
    ("day of month", 1, 31, []),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
]
_FIELDS_WITH_SECONDS: Final = len(_FIELDS)
#: Where a search for the first match begins: any time will do, if a leap day and each day of the week come soon after.
_SOMEWHEN: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - a time by the wall clock of no zone
_LONGEST: Final = 1000


class Cron:
    """One expression. Compared, hashed and shown by its text."""

    def __init__(self, text: str) -> None:
        self.text = text
        expression = ALIASES.get(text.strip().lower(), text)
        if expression.strip().startswith("@"):
            raise _wrong(text, text.index("@"), text.strip(), f"known words are {', '.join(sorted(ALIASES))}")
        found = list(re.finditer(r"\S+", expression))
        if len(found) not in (_FIELDS_WITH_SECONDS - 1, _FIELDS_WITH_SECONDS):
            place = found[_FIELDS_WITH_SECONDS] if len(found) > _FIELDS_WITH_SECONDS else None
            words = (
                f"it has {len(found)} fields; 5 (minute, hour, day of month, month, day of week) or 6 (seconds first)"
            )
            start = len(text.rstrip()) if place is None else place.start()
            raise _wrong(text, start, "" if place is None else place.group(), words)
        fields = [(match.group(), match.start()) for match in found]
        first = _FIELDS_WITH_SECONDS - len(fields)
        for (field, start), (name, least, most, words_) in zip(fields, _FIELDS[first:], strict=True):
            _check_field(text, field.upper(), start, name, least, most, words_)
        self.has_seconds = not first
        minute_fields = [field.upper() for field, _ in fields[1 - first :]]
        try:
            # One that is copied for each search: to read the text again takes ten times as long as to find a minute.
            self._minutes = CronSim(" ".join(minute_fields), _SOMEWHEN)
            sim = CronSim(expression, _SOMEWHEN)
            self._seconds = sorted(sim.seconds)
            #: Whether it matches in every hour of the days that it is about, and in every minute of its hours.
            self.is_hourly = len(sim.hours) == len(range(24))
            self.has_all_minutes = len(sim.minutes) == len(range(60)) and not (
                self.has_seconds and len(self._seconds) != len(range(60))
            )
            next(sim)
        except (CronSimError, StopIteration, OverflowError):
            words = "there is no such day"
            raise _wrong(text, fields[2 - first + 1][1], fields[2 - first + 1][0], words) from None

    def __eq__(self, other: object) -> bool:
        """Compare by the text."""
        return isinstance(other, Cron) and other.text == self.text

    def __hash__(self) -> int:
        """Hash as `__eq__` compares."""
        return hash(self.text)

    def __repr__(self) -> str:
        """Show the text."""
        return f"Cron({self.text!r})"

    def wall_times(self, start: datetime) -> Iterator[datetime]:
        """Yield the matching times from the minute of `start` on, which has no zone, rising.

        It ends with the calendar, or where nothing matches for 50 years.
        """
        try:
            minutes = copy(self._minutes)
            minutes.dt = start.replace(second=0, microsecond=0) - _MINUTE
            for minute in minutes:
                if self.has_seconds:
                    for second in self._seconds:
                        yield minute.replace(second=second)
                else:
                    yield minute
        except (OverflowError, ValueError):  # before the year 1, or after 9999
            return

    def matches(self, wall: datetime) -> bool:
        """Tell whether a time without a zone matches: without seconds, any time in a matching minute does."""
        minutes = self._minutes
        return (
            wall.minute in minutes.minutes
            and wall.hour in minutes.hours
            and wall.month in minutes.months
            and minutes.match_day(wall.date())
            and (not self.has_seconds or wall.second in self._seconds)
        )


@lru_cache(maxsize=1024)
def cron_of(text: object) -> Cron:
    """Return an expression, read once; raises `InvalidArgument` with the place of the fault."""
    if not isinstance(text, str):
        raise InvalidArgument(
            f"a cron expression is a string such as '0 2 * * *', not {type(text).__name__} {shown(text)}"
        )
    if len(text) > _LONGEST:
        raise InvalidArgument(f"a cron expression has at most {_LONGEST} characters, not {len(text)}")
    return Cron(text)


def _check_field(text: str, field: str, start: int, name: str, least: int, most: int, words: list[str]) -> None:
    """Find the first wrong term of a field."""
    for term in field.split(","):
        _check_term(text, term, start, name, least, most, words)
        start += len(term) + 1


def _check_term(text: str, term: str, start: int, name: str, least: int, most: int, words: list[str]) -> None:
    if not term:
        raise _wrong(text, start, "", f"a value of {name} is missing beside the comma")
    span, slash, every = term.partition("/")
    if slash and not (_is_number(every) and int(every) > 0):
        raise _wrong(text, start + len(span) + 1, every, f"a step of {name} is a number from 1 up")
    if span == "*" or (name == "day of month" and span in ("L", "LW")):
        return
    if name == "day of week" and not slash:
        day, mark, nth = span.partition("#")
        if mark and not (_is_number(nth) and 1 <= int(nth) <= 5):  # noqa: PLR2004 - weeks in a month
            raise _wrong(text, start + len(day) + 1, nth, "a day of week has 1 to 5 occurrences in a month")
        if not mark and span.endswith("L") and _is_number(span[:-1]):
            day, mark = span[:-1], "L"
        if mark:
            _value(text, day, start, name, least, most, words)
            return
    low, dash, high = span.partition("-")
    first = _value(text, low, start, name, least, most, words)
    if dash:
        last = _value(text, high, start + len(low) + 1, name, least, most, words)
        if last < first:
            hint = "; write the days after Saturday as SUN or 7" if name == "day of week" else ""
            raise _wrong(text, start, span, f"a range of {name} rises: {low} is after {high}{hint}")


def _value(text: str, value: str, start: int, name: str, least: int, most: int, words: list[str]) -> int:
    if value in words:
        return words.index(value) + least
    if _is_number(value) and least <= int(value) <= most:
        return int(value)
    named = f", or {words[0]} to {words[-1]}" if words else ""
    raise _wrong(text, start, value, f"{name} is {least} to {most}{named}")


def _is_number(value: str) -> bool:
    # Four digits: a longer one is out of every range, and costs time to read.
    return re.fullmatch("[0-9]{1,4}", value) is not None


def _wrong(text: str, start: int, part: str, words: str) -> InvalidArgument:
    """Return the error for what stands at `start` of an expression, with a line that points at it."""
    line = text.replace("\t", " ").replace("\n", " ")
    what = f", not {shown(part)}" if part else ""
    return InvalidArgument(
        f"cron {text!r} is wrong at character {start + 1}: {words}{what}\n"
        f"  {line}\n  {' ' * start}{'^' * max(1, len(part))}"
    )
