"""When a schedule ticks: several cron expressions and intervals together, without what is excluded.

Pure reckoning: moments (microseconds since the epoch, by the wall clock) in, moments out. A tick's moment names it for
ever; `late_by` says how much later than that its run begins, where a jitter spreads the starts.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Final

from stepwell.errors import InvalidArgument
from stepwell.model.calendar_spec import MISSING, REPEATED, CalendarSpec
from stepwell.model.clock import MICROSECONDS, datetime_of, microseconds_of
from stepwell.model.cron import Cron, cron_of
from stepwell.model.wall_time import moments, zone_of
from stepwell.shown import shown

#: How far a tick is searched for beyond what is excluded: as far as `cronsim` looks for one.
_FIFTY_YEARS: Final = 50 * 366 * 86_400 * MICROSECONDS
#: How many stretches of excluded time are passed over in one search: about fifty years of excluded days.
_MAX_EXCLUDED: Final = 20_000
#: The end of what a date can say.
_LAST: Final = microseconds_of(datetime.max.replace(tzinfo=UTC))
_HOUR: Final = timedelta(hours=1)
_MINUTE: Final = 60 * MICROSECONDS


class Calendar:
    """Reckons with a `CalendarSpec`; raises `InvalidArgument` for one that is wrong."""

    def __init__(self, spec: CalendarSpec) -> None:
        self.spec = spec
        self._zone = zone_of(spec.zone)
        self._crons = [cron_of(text) for text in spec.crons]
        self._excluded = [cron_of(text) for text in spec.excluded]
        if not spec.crons and not spec.intervals:
            raise InvalidArgument("a schedule needs at least one cron expression or interval: it would never tick")
        for name, value, known in (("missing", spec.missing, MISSING), ("repeated", spec.repeated, REPEATED)):
            if value not in known:
                raise InvalidArgument(f"{name} must be one of {', '.join(map(repr, known))}, not {shown(value)}")
        for interval in spec.intervals:
            if interval.every < MICROSECONDS:
                raise InvalidArgument(f"an interval is at least one second, not {interval.every / MICROSECONDS:g}")
            if not 0 <= interval.phase < interval.every:
                raise InvalidArgument(
                    f"the phase of an interval is from 0 to below the interval of {interval.every / MICROSECONDS:g} "
                    f"seconds, not {interval.phase / MICROSECONDS:g}"
                )
        if spec.start_at is not None and spec.end_at is not None and spec.end_at <= spec.start_at:
            raise InvalidArgument(
                f"a schedule ends after it starts: {datetime_of(spec.end_at)} is not after {datetime_of(spec.start_at)}"
            )

    def ticks(self, after: int) -> Iterator[int]:
        """Yield the ticks after a moment, rising, each once. It ends where there is none any more."""
        spec = self.spec
        if spec.start_at is not None:
            after = max(after, spec.start_at - 1)
        passed, before = 0, after
        while True:
            excluded_until = None
            for moment in self._all(after):
                if moment > _LAST or (spec.end_at is not None and moment >= spec.end_at):
                    return
                excluded_until = self._excluded_until(moment)
                if excluded_until is not None:
                    break
                passed, before = 0, moment
                yield moment
            if excluded_until is None:
                return
            passed += 1
            if passed > _MAX_EXCLUDED or excluded_until > before + _FIFTY_YEARS:
                return
            after = excluded_until - 1

    def next_after(self, after: int) -> int | None:
        """Return the first tick after a moment, or None."""
        return next(self.ticks(after), None)

    def some_after(self, after: int, count: int) -> list[int]:
        """Return the next ticks after a moment, at most `count`."""
        return list(islice(self.ticks(after), count))

    def late_by(self, schedule: str, tick: int, following: int | None) -> int:
        """Return by how many microseconds a tick's run begins later than its moment; always the same for a tick.

        That is below the jitter, and never reaches the tick that follows: runs begin in the order of their ticks.
        """
        jitter = self.spec.jitter
        if not jitter:
            return 0
        if following is not None:
            jitter = min(jitter, following - tick)
        digest = hashlib.blake2b(f"{schedule}\0{tick}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) * jitter >> 64

    def _all(self, after: int) -> Iterator[int]:
        """Yield the ticks after a moment, what is excluded among them."""
        spec = self.spec
        sources = [moments(cron, self._zone, spec.missing, spec.repeated, after) for cron in self._crons]
        sources += [interval.moments(after) for interval in spec.intervals]
        if len(sources) == 1:
            yield from sources[0]
            return
        for moment in heapq.merge(*sources):
            if moment > after:
                yield moment
                after = moment

    def _excluded_until(self, moment: int) -> int | None:
        """Return when the stretch ends that excludes a moment; None where nothing does."""
        if not self._excluded:
            return None
        wall = datetime_of(moment).astimezone(self._zone).replace(tzinfo=None)
        for cron in self._excluded:
            if cron.matches(wall):
                return max(moment + 1, self._end_of_stretch(cron, wall, moment))
        return None

    def _end_of_stretch(self, cron: Cron, wall: datetime, moment: int) -> int:
        """Return a moment until which all is excluded: the end of the day, of the hour or of the minute."""
        if cron.has_all_minutes:
            hour = wall.replace(minute=0, second=0, microsecond=0)
            ends = [hour.replace(hour=0) + 24 * _HOUR] if cron.is_hourly else []
            for end in (*ends, hour + _HOUR):
                if self._is_plain(wall, end):
                    return microseconds_of(end.replace(tzinfo=self._zone))
        return moment if cron.has_seconds else moment // _MINUTE * _MINUTE + _MINUTE

    def _is_plain(self, wall: datetime, end: datetime) -> bool:
        """Tell whether no clock is changed between two times, nor shows one of them twice."""
        here, there = wall.replace(tzinfo=self._zone), end.replace(tzinfo=self._zone)
        return len({time.replace(fold=fold).utcoffset() for time in (here, there) for fold in (0, 1)}) == 1


@lru_cache(maxsize=4096)
def calendar_of(spec: CalendarSpec) -> Calendar:
    """Return the calendar of a spec, made once."""
    return Calendar(spec)
