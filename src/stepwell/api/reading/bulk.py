"""Acts on all runs that match a filter, as users see them."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, get_args

import msgspec

from stepwell.api.asking.filters import Filter, parse
from stepwell.api.reading.views import to_datetime
from stepwell.errors import InvalidArgument
from stepwell.model.lifecycle import ENDED, STATUSES, Status
from stepwell.runtime.serving.requests import BulkAct
from stepwell.shown import is_one_of, shown
from stepwell.store.bulk_acts import BulkRecord

#: How often whoever waits for the end of an act looks for it, in seconds: another worker may be at it.
BULK_LOOK_SECONDS: Final = 0.02
_GOES_ON: Final[tuple[Status, ...]] = tuple(status for status in STATUSES if status not in ENDED)
#: The states of runs that an act is for, and those that are meant where the filter names none.
_FOR: Final[dict[BulkAct | Literal["archive"], tuple[tuple[Status, ...], tuple[Status, ...]]]] = {
    "pause": (("pending", "running", "waiting"), ("pending", "running", "waiting")),
    "unpause": (("paused",), ("paused",)),
    "cancel": (_GOES_ON, _GOES_ON),
    "retry": (("failed", "cancelled", "halted"), ("failed",)),
    "terminate": (_GOES_ON, _GOES_ON),
    "delete": (tuple(sorted(ENDED)), tuple(sorted(ENDED))),
    "archive": (tuple(sorted(ENDED)), tuple(sorted(ENDED))),
}


class BulkInfo(msgspec.Struct, frozen=True):
    """An act on all runs that match a filter, at one moment. Times are aware datetimes, UTC.

    `total` is how many runs matched when it began, and `seen` how many of them have been acted on so far. `refused` is
    how many of these refused the act, because their state had changed; the log says why. `ended_at` is None while the
    act is under way.
    """

    id: int
    act: str
    filter: str
    by: str
    reason: str | None
    created_at: datetime
    ended_at: datetime | None
    total: int
    seen: int
    refused: int

    @classmethod
    def of(cls, record: BulkRecord, ahead: int) -> BulkInfo:
        """Make it from a row; `ahead` is how much later engine time is than the wall clock."""
        created_at = to_datetime(record.created_at, ahead)
        assert created_at is not None
        ended_at = to_datetime(record.ended_at, ahead)
        told = record.id, record.act, record.filter, record.by, record.reason
        return cls(*told, created_at, ended_at, record.total, record.seen, record.refused)


def bulk_filter(act: BulkAct, text: str) -> Filter:
    """Return the runs that an act is for; raises `InvalidArgument`, `InvalidFilter`, and for a filter of all runs."""
    if not is_one_of(act, get_args(BulkAct)):
        raise InvalidArgument(f"an act on many runs is one of {', '.join(get_args(BulkAct))}, not {shown(act)}")
    return _fit(act, text)


def archive_filter(text: str) -> Filter:
    """Return the runs that are to be moved into an archive; raises as `bulk_filter`."""
    return _fit("archive", text)


def _fit(act: BulkAct | Literal["archive"], text: str) -> Filter:
    found = parse(text)
    if found.is_empty:
        raise InvalidArgument(f"to {act} every run there is is seldom meant: say which, as in 'workflow:checkout'")
    possible, meant = _FOR[act]
    unfit = [status for status in found.statuses if status not in possible]
    if unfit:
        raise InvalidArgument(
            f"runs that are {', '.join(unfit)} are not for {act!r}, which is for those that are {', '.join(possible)}"
        )
    return msgspec.structs.replace(found, statuses=found.statuses or meant)
