"""Workers: which live, which are stalled and can be relieved of their runs."""

from __future__ import annotations

from starlette.routing import Route

from stepwell.api.reading.read_service import ReadService
from stepwell.errors import InvalidArgument
from stepwell.shown import shown
from stepwell.ui.site import Page, Site, Visit

_MAX_DIGITS = 18


def routes(site: Site) -> list[Route]:
    """Return the addresses of this page."""

    def workers(reads: ReadService, _visit: Visit) -> Page:
        found = site.face.workers_asked() or reads.workers()
        return Page("workers.html", {"page": "workers", "workers": found})

    async def take_over(visit: Visit) -> str:
        epoch = visit.form.get("epoch", "")
        if not epoch.isdecimal() or len(epoch) > _MAX_DIGITS:
            raise InvalidArgument(f"a worker is named by its number, not {shown(epoch)}")
        await site.face.take_over(int(epoch), reason=visit.reason, by=visit.by)
        return "/workers?done=takeover"

    return [Route("/workers", site.page(workers)), Route("/workers/takeover", site.act(take_over), methods=["POST"])]
