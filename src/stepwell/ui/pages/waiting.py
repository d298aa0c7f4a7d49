"""What runs ask people for: every open promise with a form of its schema, the oldest first."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from stepwell.api.reading.promise_views import PromiseInfo
from stepwell.api.reading.read_service import ReadService
from stepwell.ui.forms import Field, fields_of, value_of
from stepwell.ui.site import Page, Site, Visit

#: How many are shown, the oldest first.
_SHOWN: Final = 100


class Asked(msgspec.Struct, frozen=True):
    """A promise with the fields of its form. `evidence` is without what is hidden."""

    promise: PromiseInfo
    fields: list[Field]
    evidence: object


def routes(site: Site) -> list[Route]:
    """Return the addresses of this page."""

    def waiting(reads: ReadService, visit: Visit) -> Page:
        of_run = visit.query.get("id", "")
        found = reads.promises(_SHOWN + 1, of_run or None)
        asked = [
            Asked(each, fields_of(each.schema, each.choices), site.redactor.of(each.evidence))
            for each in found[:_SHOWN]
        ]
        shown = {"page": "waiting", "asked": asked, "of_run": of_run, "more": len(found) > len(asked)}
        return Page("waiting.html", shown)

    async def answer(visit: Visit) -> str:
        token = visit.form.get("token", "")
        promise = await run_in_threadpool(site.face.look, lambda reads: reads.promise_info(token))
        if visit.form.get("act") == "reject":
            await site.face.answer(token, "reject", visit.reason or "no reason was given", reason=None, by=visit.by)
        else:
            value = value_of(fields_of(promise.schema, promise.choices), visit.form)
            await site.face.answer(token, "resolve", value, reason=visit.reason, by=visit.by)
        return "/waiting?done=answer"

    return [Route("/waiting", site.page(waiting)), Route("/waiting/answer", site.act(answer), methods=["POST"])]
