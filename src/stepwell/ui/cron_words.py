"""What the usual cron expressions say, in words; of the others the expression itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stepwell.model.durations import duration

_DAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_NAMES: Final = {"SUN": "0", "MON": "1", "TUE": "2", "WED": "3", "THU": "4", "FRI": "5", "SAT": "6"}
_FIELDS: Final = 5


def in_words(crons: Sequence[str], every: Sequence[tuple[float, float]]) -> str:
    """Return when a schedule ticks; `every` has intervals with their phases, in seconds."""
    parts = [cron_in_words(cron) for cron in crons]
    for seconds, phase in every:
        parts.append(f"every {_interval(seconds)}" + (f", {duration(phase)} after the full ones" if phase else ""))
    return "; ".join(parts)


def _interval(seconds: float) -> str:
    words = duration(seconds)
    for nothing in (" 0 s", " 0 min", " 0 h"):
        words = words.removesuffix(nothing)
    return words


def cron_in_words(cron: str) -> str:
    """Return what a cron expression says."""
    fields = cron.split()
    if len(fields) != _FIELDS:
        return cron
    minute, hour, day, month, weekday = fields
    time = _time(minute, hour)
    days = _days(day, month, _NAMES.get(weekday.upper(), weekday))
    if time is None or days is None:
        return cron
    return f"{time}{days}"


def _time(minute: str, hour: str) -> str | None:
    if minute.isdecimal() and hour.isdecimal():
        return f"at {int(hour):02}:{int(minute):02}"
    if hour != "*":
        return None
    if minute == "*":
        return "every minute"
    if minute.isdecimal():
        return f"at minute {int(minute)} of every hour"
    step = minute.removeprefix("*/")
    return f"every {step} minutes" if step.isdecimal() and step != minute else None


def _days(day: str, month: str, weekday: str) -> str | None:
    match day, month, weekday:
        case "*", "*", "*":
            return ""
        case "*", "*", "1-5" | "MON-FRI":
            return ", Monday to Friday"
        case "*", "*", _ if weekday.isdecimal() and int(weekday) < len(_DAYS):
            return f" on {_DAYS[int(weekday)]}s"
        case _, "*", "*" if day.isdecimal():
            return f" on day {int(day)} of the month"
        case _:
            return None
