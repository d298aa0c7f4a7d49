"""Schedules: when they tick next, what became of their last ticks; paused with a note, triggered, backfilled."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from starlette.routing import Route

from stepwell.api.reading.read_service import ReadService
from stepwell.errors import InvalidArgument
from stepwell.shown import shown
from stepwell.ui.cron_words import in_words
from stepwell.ui.site import Page, Site, Visit


def routes(site: Site) -> list[Route]:
    """Return the addresses of these pages."""

    async def act(visit: Visit) -> str:
        schedule, what = visit.query_of("id"), visit.form.get("act", "")
        said: dict[str, Any] = {"note": visit.reason, "by": visit.by}
        match what:
            case "pause" | "unpause" | "trigger":
                await site.face.on_schedule(schedule, what, **said)
            case "backfill":
                span = _time(visit.form.get("start", "")), _time(visit.form.get("end", ""))
                await site.face.on_schedule(schedule, "backfill", *span, **said)
            case _:
                raise InvalidArgument(f"{shown(what)} is nothing that can be done to a schedule")
        return f"/schedule?{urlencode({'id': schedule, 'done': what}, quote_via=quote)}"

    return [
        Route("/schedules", site.page(_schedules)),
        Route("/schedule", site.page(_schedule)),
        Route("/schedule/act", site.act(act), methods=["POST"]),
    ]


def _schedules(reads: ReadService, _visit: Visit) -> Page:
    found = reads.schedules()
    words = {each.id: in_words(each.cron, each.every) for each in found}
    return Page("schedules.html", {"page": "schedules", "schedules": found, "words": words})


def _schedule(reads: ReadService, visit: Visit) -> Page:
    found = reads.schedule(visit.query_of("id"))
    words = in_words(found.cron, found.every)
    return Page("schedule.html", {"page": "schedules", "schedule": found, "words": words})


def _time(text: str) -> datetime:
    """Return a time as ISO 8601 writes it; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidArgument(
            f"{shown(text)} is no time: write 2026-11-28T09:00 (UTC) or 2026-11-28T10:00+01:00"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
