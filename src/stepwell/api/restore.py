"""Puts a backup in the place of a file, so that nothing that happened since is repeated unnoticed."""

from __future__ import annotations

import logging
import os
from typing import Final, Literal

import msgspec

from stepwell.api.asking.acts import user_at_host
from stepwell.api.asking.filters import parse
from stepwell.api.backup import Progress, readable, silent
from stepwell.api.engine import Engine
from stepwell.errors import InvalidArgument, RunEnded, RunHalted, RunNotFound
from stepwell.shown import is_one_of, shown

#: What becomes of the runs that had not ended in the backup.
InFlight = Literal["pause", "go-on"]

_PAGE: Final = 500

_log: Final = logging.getLogger("stepwell")


class Restoration(msgspec.Struct, frozen=True):
    """A backup that was put in place, at `path`.

    `previous` is the path of the old file, None if there was none. Of the `runs` in the backup, `in_flight` had not
    ended, and `paused` of these were paused; `schedules` is the number of schedules that were paused. `bulk_acts` acts
    on many runs were under way, and were ended.
    """

    path: str
    backup: str
    previous: str | None
    runs: int
    in_flight: int
    paused: int
    schedules: int
    bulk_acts: int = 0


def restore(
    backup: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    in_flight: InFlight = "pause",
    only: str | None = None,
    reason: str | None = None,
    by: str | None = None,
    progress: Progress | None = None,
) -> Restoration:
    """Put a backup in the place of the file at `path`; the file that is there is kept under another name beside it.

    The backup does not know what happened after it was made. Steps that its runs executed since then would be executed
    again, so the runs that had not ended are paused (``in_flight="pause"``): look at each, and unpause it, settle its
    step, or cancel it. The schedules are paused as well, since their ticks since then already had their runs, and acts
    on many runs that were under way are ended. ``"go-on"`` lets all go on at once. `only`: a filter (see
    `stepwell.Engine.list`) of the runs to pause, if the steps of the others may be repeated. `reason` and `by` are
    recorded with each pause.

    The backup is checked first, as by `verify`, and is not changed. A restore that is interrupted leaves the old file
    or the new one in place; call it again. Raises `FileInUse` while workers or other programs have the file open,
    `FileNotUsable` for a backup that is damaged or is not one, `StorageFull`, `InvalidArgument`.
    """
    if not is_one_of(in_flight, ("pause", "go-on")):
        raise InvalidArgument(f'in_flight must be "pause" or "go-on", not {shown(in_flight)}')
    if only is not None:
        if in_flight != "pause":
            raise InvalidArgument('`only` says which runs are paused, so it goes with in_flight="pause"')
        if parse(only).is_empty:
            raise InvalidArgument("`only` is a filter of the runs to pause, as in 'workflow:payments'; it is empty")
    from stepwell.store.sqlite import backup as files
    from stepwell.store.sqlite.file.paths import text_of

    source, target = text_of(backup, "the path of the backup"), text_of(path, "the path of the file")
    told = progress or silent
    with files.restoring(source, target, readable=readable, progress=told) as place:
        paused = schedules = 0
        told("pausing what was under way", 0, 0)
        why, who = reason or f"restored from the backup {place.backup!r}", by or user_at_host()
        with Engine(place.partial, workflows=[]) as engine:
            counted = len(_in_flight(engine))
            for run_id in _in_flight(engine, only or "") if in_flight == "pause" else []:
                paused += _paused(engine, run_id, why, who)
            for schedule in engine.schedules() if in_flight == "pause" else []:
                if not schedule.info().paused:
                    schedule.pause(note=why, by=who)
                    schedules += 1
        ended = place.end_bulk_acts() if in_flight == "pause" else []
        for act, text, who_asked, seen, total in ended:
            told_of = "%s of all runs that match %r, asked for by %s, had come to %d of %d when the backup was made"
            _log.warning(f"{told_of}, and ends there", act, text, who_asked, seen, total)
        previous = place.put()
    return Restoration(place.path, place.backup, previous, place.found.runs, counted, paused, schedules, len(ended))


def _in_flight(engine: Engine, only: str = "") -> list[str]:
    """Return the ids of the runs that match and have not ended, but for halted ones, which do nothing by themselves."""
    found: list[str] = []
    for status in ("pending", "running", "waiting"):
        before: str | None = None
        while page := engine.list(only, status=status, limit=_PAGE, before=before):
            found += [run.id for run in page]
            before = page[-1].id
    return list(dict.fromkeys(found))


def _paused(engine: Engine, run_id: str, reason: str, by: str) -> bool:
    try:
        engine.get(run_id).pause(reason=reason, by=by)
    except (RunEnded, RunHalted, RunNotFound):  # it was cancelled before anybody had begun it, say
        return False
    return True
