"""The first page: what needs somebody, how many runs are in which state, how long they take, how many come through."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.routing import Route

from stepwell.api.doctor import stuck
from stepwell.api.reading.overview import Durations, Throughput
from stepwell.api.reading.read_service import ReadService
from stepwell.model.lifecycle import STATUSES, Status
from stepwell.store.overview import CellCount
from stepwell.ui.filter_links import quoted
from stepwell.ui.plots import Plot, plot_of
from stepwell.ui.site import Page, Site, Visit

#: Spans of the plots: minutes of an hour, quarters of an hour of a day.
_HOUR: Final = (60, 60)
_DAY: Final = (900, 96)
_OLDEST: Final = 5
#: Of a file with more runs, sums are made beside the page, and may take so many seconds.
_FEW: Final = 100_000
_LONG_SECONDS: Final = 60.0
_NEED_SOMEBODY: Final = frozenset({"failed", "halted", "paused"})
#: From which share of a workflow's runs on a state that needs somebody is shown how strongly.
_SHARES: Final = (0.0, 0.02, 0.1, 0.3)


class Cell(msgspec.Struct, frozen=True):
    """How many runs of a workflow are in a state, and how much that stands out, from 0 to 4."""

    status: Status
    count: int
    heat: int
    filter: str


class HeatRow(msgspec.Struct, frozen=True):
    """A workflow."""

    workflow: str
    total: int
    cells: list[Cell]


class _Sums(msgspec.Struct, frozen=True):
    cells: list[CellCount]
    durations: list[Durations]
    hour: Throughput
    day: Throughput


def routes(site: Site) -> list[Route]:
    """Return the address of this page."""

    def overview(reads: ReadService, _visit: Visit) -> Page:
        needs = stuck(reads)
        oldest = reads.infos_of(reads.oldest(("pending",), _OLDEST))
        asked = reads.promises(_OLDEST + 1)
        sums: _Sums | None
        if reads.newest_key() <= _FEW:
            sums = site.sums.get("overview", lambda: _sums(reads))
        else:  # longer than somebody should wait for a page
            sums = site.sums.soon("overview", lambda: site.face.look(_sums, seconds=_LONG_SECONDS))
        shown = {"needs": needs, "oldest": oldest, "asked": asked[:_OLDEST], "more_asked": len(asked) > _OLDEST}
        return Page("overview.html", {"page": "overview", **shown, **_shown(sums)})

    return [Route("/", site.page(overview))]


def _sums(reads: ReadService) -> _Sums:
    hour, day = reads.throughput(*_HOUR), reads.throughput(*_DAY)
    return _Sums(durations=reads.durations(), hour=hour, day=day, cells=reads.cells())


def _shown(sums: _Sums | None) -> dict[str, object]:
    if sums is None:
        return {"heat": None, "statuses": STATUSES, "durations": [], "plots": []}
    plots: list[tuple[str, Plot]] = [("The last hour", plot_of(sums.hour)), ("The last day", plot_of(sums.day))]
    return {"heat": heat_map(sums.cells), "statuses": STATUSES, "durations": sums.durations, "plots": plots}


def heat_map(cells: list[CellCount]) -> list[HeatRow]:
    """Return a row for each workflow, those first of which most runs need somebody."""
    by_workflow: dict[str, dict[Status, int]] = {}
    for cell in cells:
        by_workflow.setdefault(cell.workflow, {})[cell.status] = cell.count
    rows = [_row(workflow, counts) for workflow, counts in by_workflow.items()]
    return sorted(rows, key=lambda row: (-max(cell.heat for cell in row.cells), row.workflow))


def _row(workflow: str, counts: dict[Status, int]) -> HeatRow:
    total = sum(counts.values())
    cells = [
        Cell(
            status,
            counts.get(status, 0),
            heat_of(status, counts.get(status, 0), total),
            f"workflow:{quoted(workflow)} status:{status}",
        )
        for status in STATUSES
    ]
    return HeatRow(workflow, total, cells)


def heat_of(status: Status, count: int, total: int) -> int:
    """Return how much a count stands out: what is expected of a workflow, that its runs complete, does not."""
    if not count or status not in _NEED_SOMEBODY:
        return 0
    return sum(count / total >= share for share in _SHARES)
