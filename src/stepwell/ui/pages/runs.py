"""The list of runs: a filter, counts by status, a page of a hundred."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stepwell.api.asking.filters import FIELDS
from stepwell.api.reading.read_service import ReadService
from stepwell.errors import InvalidFilter, RunNotFound
from stepwell.model.lifecycle import STATUSES
from stepwell.ui.filter_links import quoted, value_of, with_word
from stepwell.ui.site import Page, Site, Visit

#: How many runs a page has.
PAGE: int = 100
#: Of a file with at most so many runs, counts are made with the page; else the page asks for them by itself.
_FEW: int = 30_000

#: Views that every file has: what they are called, and their filters. Browsers keep those that somebody saves.
VIEWS: Final = (
    ("Needs somebody", "status:failed,halted,paused"),
    ("Under way", "status:pending,running,waiting"),
    ("Failed today", "status:failed ended>-1d order:-ended"),
)


class Chip(msgspec.Struct, frozen=True):
    """A status that the list can be narrowed to. `count` is None while it is not known."""

    status: str
    filter: str
    is_chosen: bool
    count: int | None


def routes(site: Site) -> list[Route]:
    """Return the addresses of this page."""

    def counts(reads: ReadService, visit: Visit) -> Response:
        text = with_word(visit.query.get("filter", ""), "status", None)
        return site.sums.get(f"counts {text}", lambda: _counts(reads, text))

    return [
        Route("/runs", site.page(_runs)),
        Route("/runs/counts", site.page(counts)),
        Route("/runs/complete", site.page(_complete)),
    ]


def _runs(reads: ReadService, visit: Visit) -> Page:
    text = visit.query.get("filter", "").strip()
    after = visit.query.get("after") or None
    fault: str | None = None
    infos = []
    try:
        infos = reads.infos(text, limit=PAGE + 1, before=after)
    except InvalidFilter as error:
        fault = str(error)
    except RunNotFound as error:  # the parent that it names, or the run that the page before ended with
        fault = f"{error}"
    shown = infos[:PAGE]
    counts = _count(reads, text) if fault is None and reads.newest_key() <= _FEW else None
    return Page(
        "runs.html",
        {
            "page": "runs",
            "filter": text,
            "views": VIEWS,
            "fault": fault,
            "runs": shown,
            "next": shown[-1].id if len(infos) > PAGE else None,
            "after": after,
            "chips": _chips(text, counts),
            "all_count": None if counts is None else sum(counts.values()),
            "all_filter": with_word(text, "status", None),
            "is_all": value_of(text, "status") is None,
            "only_roots": value_of(text, "parent") == "none",
            "roots_filter": with_word(text, "parent", None if value_of(text, "parent") == "none" else "none"),
        },
    )


def _chips(text: str, counts: dict[str, int] | None) -> list[Chip]:
    chosen = (value_of(text, "status") or "").split(",")
    return [
        Chip(
            status,
            with_word(text, "status", None if chosen == [status] else status),
            status in chosen,
            None if counts is None else counts.get(status, 0),
        )
        for status in STATUSES
    ]


def _count(reads: ReadService, text: str) -> dict[str, int]:
    """Return how many runs are in each state of those that a filter means, whatever it says of states."""
    return reads.counts(with_word(text, "status", None), "status")


def _counts(reads: ReadService, text: str) -> Response:
    try:
        found = _count(reads, text)
    except (InvalidFilter, RunNotFound):
        found = {}
    # As texts: what JavaScript would make of large numbers is no concern then.
    return JSONResponse({status: f"{found.get(status, 0):,}" for status in STATUSES} | {"": f"{sum(found.values()):,}"})


def _complete(reads: ReadService, visit: Visit) -> Response:
    """Answer what the last word of a filter could go on with: fields, or values of the one that it names."""
    word = visit.query.get("word", "")
    field, colon, begun = word.partition(":")
    if not colon:
        names = [f"{name}:" for name in FIELDS if name != "order"] + [f"{name}=" for name in reads.attribute_names()]
        return JSONResponse([name for name in names if name.startswith(word)])
    values: list[str] = []
    if field == "status":
        values = list(STATUSES)
    elif field == "workflow":
        values = reads.workflow_names()
    elif field == "queue":
        values = reads.queue_names()
    elif field == "tag":
        values = reads.tag_names()
    elif field == "id" and begun:
        values = [info.id for info in reads.records(id_prefix=begun, limit=20)]
    offered = [f"{field}:{quoted(value)}" for value in values if value.startswith(begun)]
    return JSONResponse(offered[:20])
