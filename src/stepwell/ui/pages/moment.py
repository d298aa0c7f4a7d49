"""Time travel: a run as it was after each thing that it was told; and two runs beside each other."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Final

import msgspec
from starlette.routing import Route

from stepwell.api.reading.outline import OutlinedOperation
from stepwell.api.reading.read_service import ReadService
from stepwell.errors import InvalidArgument
from stepwell.ui.site import Page, Site, Visit

_MAX_DIGITS: Final = 9
#: How many operations of two runs are compared.
_COMPARED: Final = 1_000


class Pair(msgspec.Struct, frozen=True):
    """The operations of two runs with one number. `differs`: they are of another kind or name, or ended otherwise."""

    number: int
    one: OutlinedOperation | None
    other: OutlinedOperation | None
    differs: bool


def routes(site: Site) -> list[Route]:
    """Return the addresses of these pages."""

    def moment(_reads: ReadService, visit: Visit) -> Page:
        run_id, told = visit.query_of("id"), visit.query.get("told", "")
        fault, found = None, None
        try:
            found = site.face.moment(run_id, int(told) if told.isdecimal() and len(told) <= _MAX_DIGITS else 0)
        except InvalidArgument as error:
            fault = str(error)
        return Page("moment.html", {"page": "runs", "id": run_id, "moment": found, "fault": fault})

    return [Route("/run/moment", site.page(moment)), Route("/run/compare", site.page(_compare))]


def _compare(reads: ReadService, visit: Visit) -> Page:
    run_id, other_id = visit.query_of("id"), visit.query.get("other", "").strip()
    shown: dict[str, Any] = {"page": "runs", "id": run_id, "other": other_id, "pairs": None}
    if other_id:
        one, other = reads.outline(run_id), reads.outline(other_id)
        shown |= {
            "pairs": pairs_of(one.operations[:_COMPARED], other.operations[:_COMPARED]),
            "infos": (reads.info(run_id), reads.info(other_id)),
            "is_cut": any(each.is_cut or len(each.operations) > _COMPARED for each in (one, other)),
        }
    return Page("compare.html", shown)


def pairs_of(one: list[OutlinedOperation], other: list[OutlinedOperation]) -> list[Pair]:
    """Return the operations of two runs by their places, each with whether they differ."""
    return [
        Pair(number, left, right, _key(left) != _key(right))
        for number, (left, right) in enumerate(zip_longest(one, other), 1)
    ]


def _key(operation: OutlinedOperation | None) -> tuple[str, ...]:
    return () if operation is None else (operation.kind, operation.name, operation.summary, operation.outcome)
