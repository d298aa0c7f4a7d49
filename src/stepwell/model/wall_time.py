"""From times by a zone's wall clock to moments, also where a clock skips times or shows them twice.

What becomes of a *missing* time (clocks go forward) and of a *repeated* one (they go back) has a name, see `Missing`
and `Repeated`. Moments are microseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stepwell.errors import InvalidArgument
from stepwell.model.calendar_spec import Missing, Repeated
from stepwell.model.clock import datetime_of, microseconds_of
from stepwell.model.cron import Cron
from stepwell.shown import shown

_SECOND: Final = timedelta(seconds=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - by the wall clock of any zone


def zone_of(name: object) -> tzinfo:
    """Return the zone of a name as `zoneinfo` knows them; raises `InvalidArgument`."""
    if not isinstance(name, str):
        raise InvalidArgument(f"a time zone is a name such as 'Europe/Berlin', not {type(name).__name__} {shown(name)}")
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgument(
            f"there is no time zone {shown(name)}: it must be a name of the IANA database such as "
            "'Europe/Berlin' (or 'UTC')"
        ) from None


def moments(cron: Cron, zone: tzinfo, missing: Missing, repeated: Repeated, after: int) -> Iterator[int]:
    """Yield the moments after `after` at which an expression matches in a zone, rising, each once."""
    if cron.is_hourly and repeated == "once":
        missing, repeated = "skip", "both"
    last: int = after
    for moment in _mapped(cron, zone, missing, repeated, _first_wall(zone, after)):
        if moment > last:
            yield moment
            last = moment


def _mapped(cron: Cron, zone: tzinfo, missing: Missing, repeated: Repeated, start: datetime) -> Iterator[int]:
    """Yield the moments of all matching times from `start` on, in order; at a change, some of them several times."""
    again: list[int] = []  # those of the second time round: they come after all of the first
    for wall in cron.wall_times(start):
        if wall < start:
            continue
        local = wall.replace(tzinfo=zone)
        # PEP 495: the two offsets of a time differ where a clock shows it twice (the first is larger) or never.
        first, second = local.utcoffset(), local.replace(fold=1).utcoffset()
        assert first is not None
        assert second is not None
        if first <= second and again:
            yield from again
            again.clear()
        if first == second:
            yield (wall - _EPOCH - first) // _MICROSECOND
        elif first < second:
            if missing == "shift":
                yield microseconds_of(_change(wall, zone))
        else:
            if repeated != "last":
                yield (wall - _EPOCH - first) // _MICROSECOND
            if repeated in ("last", "both"):
                again.append((wall - _EPOCH - second) // _MICROSECOND)
    yield from again


def _first_wall(zone: tzinfo, after: int) -> datetime:
    """Return a time by the wall clock at or before all those that are after a moment."""
    local = datetime_of(after).astimezone(zone)
    wall = local.replace(tzinfo=None)
    if zone is UTC:
        return wall
    first, second = local.replace(fold=0).utcoffset(), local.replace(fold=1).utcoffset()
    assert first is not None
    assert second is not None
    # In a repeated hour those before come again.
    return wall - max(first - second, timedelta())


def _change(wall: datetime, zone: tzinfo) -> datetime:
    """Return the moment of the change that skips a time."""
    # PEP 495: reckoned with the zone's offset of after the change a missing time lies before it, else after.
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC).replace(microsecond=0)
    after = wall.replace(tzinfo=zone, fold=0).astimezone(UTC).replace(microsecond=0)
    offset = after.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // 2 // _SECOND * _SECOND
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after
