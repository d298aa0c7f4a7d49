"""Acts on all runs that a filter matches: counted, confirmed by the count, then shown with how far they have come."""

from __future__ import annotations

from typing import Final, get_args
from urllib.parse import quote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from stepwell.api.reading.read_service import ReadService
from stepwell.errors import InvalidArgument, RunNotFound
from stepwell.runtime.serving.requests import BulkAct
from stepwell.shown import shown
from stepwell.ui.site import Page, Site, Visit

ACTS: Final[tuple[BulkAct, ...]] = get_args(BulkAct)


def routes(site: Site) -> list[Route]:
    """Return the addresses of these pages."""

    async def begin(visit: Visit) -> str:
        act, text = _act(visit.form.get("act", "")), visit.form.get("filter", "")
        typed, meant = visit.form.get("typed", "").replace(",", "").strip(), visit.form.get("count", "")
        if not meant.isdecimal() or typed != meant:
            raise InvalidArgument(f"nothing was done: to {act} {meant} runs, that number is typed, not {shown(typed)}")
        now = await run_in_threadpool(site.face.look, lambda reads: reads.count(reads.bulk_filter(act, text)))
        if now > int(meant):
            raise InvalidArgument(
                f"nothing was done: {meant} runs were meant, and {now} match by now; count them again"
            )
        number = await site.face.begin_bulk(act, text, reason=visit.reason, by=visit.by)
        return f"/bulk?{urlencode({'number': number}, quote_via=quote)}"

    return [Route("/bulk", site.page(_bulk)), Route("/bulk/begin", site.act(begin), methods=["POST"])]


def _act(text: str) -> BulkAct:
    if text not in ACTS:
        raise InvalidArgument(f"an act on many runs is one of {', '.join(ACTS)}, not {shown(text)}")
    return text


def _bulk(reads: ReadService, visit: Visit) -> Page:
    text, act = visit.query.get("filter", "").strip(), visit.query.get("act", "")
    count, fault = None, None
    if act:
        try:
            count = reads.count(reads.bulk_filter(_act(act), text))
        except (InvalidArgument, RunNotFound) as error:
            fault = str(error)
    number = visit.query.get("number", "")
    return Page(
        "bulk.html",
        {
            "page": "bulk",
            "acts_there_are": ACTS,
            "filter": text,
            "act": act,
            "count": count,
            "fault": fault,
            "bulks": reads.bulks()[:100],
            "here": int(number) if number.isdecimal() else None,
        },
    )
