"""Where a failure began, and what it brought down: from a run to the child that failed it, and up to its parents.

What a run failed with does not say which run raised it first; the journals do: a failed operation that waited for a
run leads to that one.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stepwell.api.reading.read_service import ReadService

#: How many runs are followed, downwards and upwards.
_MOST: Final = 10


class FailedPart(msgspec.Struct, frozen=True):
    """A run that a failure passed through.

    `operation` is the number of what failed it, and `name` what that is called; None and empty where no operation did.
    """

    id: str
    workflow: str
    operation: int | None
    name: str


class _Last(msgspec.Struct, frozen=True):
    """The operation of a run whose failure came last; `run`: the one that it waited for."""

    number: int
    name: str
    run: str | None


def failure_path(reads: ReadService, run_id: str) -> list[FailedPart]:
    """Return the runs that one failure brought down, the one in which it began first; none where the run is well."""
    if not _is_failed(reads, run_id):
        return []
    path = [run_id]
    while len(path) < _MOST:  # downwards, to where it began
        below = _failed_by(reads, path[0])
        if below is None or below in path or not _is_failed(reads, below):
            break
        path.insert(0, below)
    while len(path) < 2 * _MOST:
        above = reads.infos_of([path[-1]])[0].parent
        if above is None or above in path or not _is_failed(reads, above) or _failed_by(reads, above) != path[-1]:
            break
        path.append(above)
    return [_failed(reads, each) for each in path]


def _is_failed(reads: ReadService, run_id: str) -> bool:
    return any(info.status == "failed" for info in reads.infos_of([run_id]))


def _failed(reads: ReadService, run_id: str) -> FailedPart:
    last, workflow = _last_failed(reads, run_id), reads.record(run_id).workflow
    return FailedPart(run_id, workflow, None if last is None else last.number, "" if last is None else last.name)


def _failed_by(reads: ReadService, run_id: str) -> str | None:
    """Return the run whose failure failed this one, None where it was no run."""
    last = _last_failed(reads, run_id)
    return None if last is None else last.run


def _last_failed(reads: ReadService, run_id: str) -> _Last | None:
    failed = [each for each in reads.outline(run_id).operations if each.outcome == "failed"]
    if not failed:
        return None
    last = max(failed, key=lambda each: (each.ended_at or 0, each.number))
    return _Last(last.number, last.summary or last.name, last.name if last.kind == "result" else None)
