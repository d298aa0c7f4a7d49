"""Options of schedules as users write them, checked and turned into what the file keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

from msgspec.structs import replace

from stepwell.definitions.queue_slots import queue_entry
from stepwell.definitions.schedules import Every, ScheduleOptions, check_options
from stepwell.errors import InvalidArgument
from stepwell.model.calendar import calendar_of
from stepwell.model.calendar_spec import MISSING, REPEATED, CalendarSpec, Interval
from stepwell.model.clock import MICROSECONDS, microseconds_of, to_seconds
from stepwell.model.cron import cron_of
from stepwell.model.schedule import OVERLAPS, Place, ScheduleDefinition
from stepwell.model.wall_time import zone_of
from stepwell.shown import is_one_of, shown

#: Options that are about each other: whoever gives one of them gives all.
_PLACE: Final = ("queue", "priority", "partition")


def calendar_changes(options: ScheduleOptions) -> dict[str, Any]:
    """Return the fields of a `CalendarSpec` that options state; raises `InvalidArgument` for a wrong one."""
    checks: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "cron": ("crons", _crons),
        "every": ("intervals", lambda value: tuple(map(_interval, _listed(value, Every)))),
        "exclude": ("excluded", _crons),
        "zone": ("zone", _zone),
        "missing": ("missing", lambda value: _one_of(value, MISSING, "missing")),
        "repeated": ("repeated", lambda value: _one_of(value, REPEATED, "repeated")),
        "start": ("start_at", lambda value: _moment(value, "start")),
        "end": ("end_at", lambda value: _moment(value, "end")),
        "jitter": ("jitter", lambda value: _duration(value, "jitter")),
    }
    return {field: check(options[name]) for name, (field, check) in checks.items() if name in options}  # type: ignore[literal-required]


def definition_changes(options: ScheduleOptions) -> dict[str, Any]:
    """Return the fields of a `ScheduleDefinition`, but for the calendar and the input, that options state."""
    check_options(options)
    checks: dict[str, Callable[[Any], Any]] = {
        "overlap": lambda value: _one_of(value, OVERLAPS, "overlap"),
        "catch_up": lambda value: None if value is None else _duration(value, "catch_up"),
        "pause_on_failure": lambda value: _flag(value, "pause_on_failure"),
        "limit": lambda value: None if value is None else _count(value, "limit"),
        "deadline": lambda value: None if value is None else _duration(value, "deadline"),
    }
    found = {name: check(options[name]) for name, check in checks.items() if name in options}  # type: ignore[literal-required]
    if any(name in options for name in _PLACE):
        found["place"] = _place(options)
    return found


def changed(
    definition: ScheduleDefinition, calendar: Mapping[str, Any], others: Mapping[str, Any]
) -> ScheduleDefinition:
    """Return a definition with some of its fields changed; raises `InvalidArgument` where they do not go together."""
    return replace(definition, calendar=replace(definition.calendar, **calendar), **others)


def check_ticks(spec: CalendarSpec, now: int) -> None:
    """Raise `InvalidArgument` for a calendar that is wrong, or has no tick after `now`."""
    if calendar_of(spec).next_after(now) is None:
        raise InvalidArgument(
            "the schedule would never tick: all of its ticks are excluded, past its end, or before now. See "
            "start, end and exclude"
        )


def moment_of(value: object, what: str) -> int:
    """Return an aware datetime in microseconds; raises `InvalidArgument` for anything else."""
    found = _moment(value, what)
    if found is None:
        raise InvalidArgument(f"{what} must be an aware datetime, not None")
    return found


def _listed(value: Any, kind: type) -> Sequence[Any]:
    """Return what may be one or several as several."""
    several = isinstance(value, Sequence) and not isinstance(value, (str, kind))
    return cast("Sequence[Any]", value) if several else [value]


def _crons(value: Any) -> tuple[str, ...]:
    # What is no text need not be hashable, as the cache of expressions has it.
    return tuple((cron_of if isinstance(text, str) else cron_of.__wrapped__)(text).text for text in _listed(value, str))


def _interval(value: Any) -> Interval:
    every = value if isinstance(value, Every) else Every(value)
    return Interval(_duration(every.interval, "an interval"), _duration(every.phase, "the phase of an interval"))


def _zone(value: Any) -> str:
    zone_of(value)
    return str(value)


def _one_of(value: Any, known: Sequence[str], what: str) -> str:
    if not is_one_of(value, known):
        raise InvalidArgument(f"{what} must be one of {', '.join(map(repr, known))}, not {shown(value)}")
    return str(value)


def _moment(value: Any, what: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidArgument(f"{what} must be a datetime with a time zone, not {shown(value)}")
    return microseconds_of(value)


def _duration(value: Any, what: str) -> int:
    return round(to_seconds(value, what) * MICROSECONDS)


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(f"{what} must be True or False, not {shown(value)}")
    return value


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidArgument(f"{what} must be a whole number from 1 up, not {shown(value)}")
    return value


def _place(options: ScheduleOptions) -> Place | None:
    slot = queue_entry(
        options.get("queue"), priority=options.get("priority", 0), partition=options.get("partition"), has_id=True
    )
    if slot is None:
        return None
    if slot.queue.debounce is not None:
        raise InvalidArgument(f"queue {slot.queue.name!r} debounces its starts, which the runs of a schedule cannot be")
    return Place(slot.queue.name, slot.priority, slot.partition)
