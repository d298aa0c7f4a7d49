"""Queues and limits: what bounds them, what of that is used, why they stand still; paused, changed, emptied."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from starlette.routing import Route

from stepwell.api.asking.acts import Act
from stepwell.api.reading.read_service import ReadService
from stepwell.api.reading.views import QueueInfo
from stepwell.definitions.queues import Rate
from stepwell.errors import InvalidArgument
from stepwell.shown import shown
from stepwell.ui.filter_links import quoted
from stepwell.ui.site import Page, Site, Visit

_BOUNDS: Final = ("concurrency", "per_worker", "partition_concurrency", "partition_per_worker")
_RATES: Final = ("rate", "partition_rate")
_MAX_DIGITS: Final = 9
#: Throughput is that of the last hour; of a file with more runs it is counted beside the page, for so long at most.
_HOUR_SECONDS: Final = 3_600
_FEW: Final = 100_000
_LONG_SECONDS: Final = 60.0


class QueueRow(msgspec.Struct, frozen=True):
    """A queue with the last things that somebody did to it."""

    info: QueueInfo
    acts: list[Act]
    filter: str


def routes(site: Site) -> list[Route]:
    """Return the addresses of this page."""

    async def act(visit: Visit) -> str:
        name, what = visit.query_of("name"), visit.form.get("act", "")
        said: dict[str, Any] = {"reason": visit.reason, "by": visit.by}
        match what:
            case "pause" | "unpause" | "cancel_waiting":
                await site.face.on_queue(name, what, **said)
            case "change":
                await site.face.on_queue(name, "change", **_bounds(visit))
            case _:
                raise InvalidArgument(f"{shown(what)} is nothing that can be done to a queue")
        return f"/queues?{urlencode({'done': what}, quote_via=quote)}"

    def queues(reads: ReadService, _visit: Visit) -> Page:
        through: dict[str, tuple[int, int]] | None
        if reads.newest_key() <= _FEW:
            through = site.sums.get("queues", lambda: reads.through_queues(_HOUR_SECONDS))
        else:
            through = site.sums.soon("queues", lambda: site.face.look(_through, seconds=_LONG_SECONDS))
        return Page("queues.html", {"page": "queues", "queues": _rows(reads), "through": through, "bounds": _BOUNDS})

    return [Route("/queues", site.page(queues)), Route("/queues/act", site.act(act), methods=["POST"])]


def _through(reads: ReadService) -> dict[str, tuple[int, int]]:
    return reads.through_queues(_HOUR_SECONDS)


def _rows(reads: ReadService) -> list[QueueRow]:
    return [
        QueueRow(info, list(reversed(reads.acts_of_queue(info.name)[-3:])), f"queue:{quoted(info.name)} status:pending")
        for info in reads.queues()
    ]


def _bounds(visit: Visit) -> dict[str, int | Rate | None]:
    """Return the bounds that a form has: a number, a rate, or nothing for none; one that it does not have stays."""
    found: dict[str, int | Rate | None] = {
        name: _whole(visit.form[name], name) for name in _BOUNDS if name in visit.form
    }
    for name in _RATES:
        if name in visit.form:
            limit, per = _whole(visit.form[name], name), visit.form.get(f"{name}_per", "").strip()
            if (limit is None) != (not per):
                raise InvalidArgument(
                    f"{name} is how many starts, and in how many seconds; give both, or none for no bound"
                )
            found[name] = None if limit is None else Rate(limit, per=_seconds(per, name))
    return found


def _whole(text: str, name: str) -> int | None:
    text = text.strip()
    if text and not (text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise InvalidArgument(f"{name} is a whole number, or empty for no bound, not {shown(text)}")
    return int(text) if text else None


def _seconds(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidArgument(f"{name} is a number of starts in a number of seconds, not in {shown(text)}") from None
