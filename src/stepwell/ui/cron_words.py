"""What the usual cron expressions say, in words; of the others the expression itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from stepwell.model.durations import duration, length_in_words

_DAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_DAY_NAMES: Final = {name: day for day in _DAYS for name in (day[:3].upper(), str(_DAYS.index(day)))} | {"7": "Sunday"}
_MONTH_NAMES: Final = {
    name: month for number, month in enumerate(_MONTHS, 1) for name in (month[:3].upper(), str(number))
}
_FIELDS: Final = 5
#: A list of more is easier to read as it was written.
_FEW: Final = 6


def in_words(crons: Sequence[str], every: Sequence[tuple[float, float]]) -> str:
    """Return when a schedule ticks; `every` has intervals with their phases, in seconds."""
    parts = [cron_in_words(cron) for cron in crons]
    for seconds, phase in every:
        parts.append(
            f"every {length_in_words(seconds)}" + (f", {duration(phase)} after the full ones" if phase else "")
        )
    return "; ".join(parts)


def cron_in_words(cron: str) -> str:
    """Return what a cron expression says."""
    fields = cron.upper().split()
    if len(fields) != _FIELDS:
        return cron
    minute, hour, day, month, weekday = fields
    time, days = _time(minute, hour), _days(day, month, weekday)
    return cron if time is None or days is None else f"{time}{days}"


def _time(minute: str, hour: str) -> str | None:
    if minute.isdecimal():
        return _at_minute(int(minute), hour)
    if hour != "*":
        return None
    if minute == "*":
        return "every minute"
    step = minute.removeprefix("*/")
    return f"every {step} minutes" if step.isdecimal() and step != minute else None


def _at_minute(minute: int, hour: str) -> str | None:
    if hour == "*":
        return f"at minute {minute} of every hour"
    hours = hour.split(",")
    if all(each.isdecimal() for each in hours) and len(hours) <= _FEW:
        return f"at {_and([f'{int(each):02}:{minute:02}' for each in hours])}"
    first, dash, last = hour.partition("-")
    if dash and first.isdecimal() and last.isdecimal():
        return f"every hour from {int(first):02}:{minute:02} to {int(last):02}:{minute:02}"
    step = hour.removeprefix("*/")
    return f"at minute {minute} of every {_th(step)} hour" if step != hour and step.isdecimal() else None


def _days(day: str, month: str, weekday: str) -> str | None:
    months = "" if month == "*" else _named(month, _MONTH_NAMES)
    if months is None or "*" not in (day, weekday):  # both: what is meant then differs between crons
        return None
    if day != "*":
        days = day.split(",")
        if not all(each.isdecimal() for each in days) or len(days) > _FEW:
            return None
        which = f"day {int(days[0])}" if len(days) == 1 else f"days {_and([str(int(each)) for each in days])}"
        return f" on {which} of {months or 'the month'}"
    during = f"{' from' if ' to ' in months else ' in'} {months}" if months else ""
    if weekday == "*":
        return during
    named = _named(weekday, _DAY_NAMES)
    if named is None:
        return None
    return f" on {named}s{during}" if weekday in _DAY_NAMES else f", {named}{during}"


def _named(field: str, names: Mapping[str, str]) -> str | None:
    """Return the days or months that a field names: one, a list, or a range."""
    listed = field.split(",")
    if all(each in names for each in listed) and len(listed) <= _FEW:
        return _and([names[each] for each in listed])
    first, dash, last = field.partition("-")
    return f"{names[first]} to {names[last]}" if dash and first in names and last in names else None


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _th(number: str) -> str:
    return number + {"2": "nd", "3": "rd"}.get(number, "th")
