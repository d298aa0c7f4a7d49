"""One run: what it is and why it waits, its operations as a waterfall, what each of them was told.

What its forms do is in `run_acts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from stepwell.api.reading.failure_path import failure_path
from stepwell.api.reading.outline import Outline, OutlinedOperation
from stepwell.api.reading.read_service import ReadService
from stepwell.api.reading.views import JournalEntry, RunDetails
from stepwell.model.run import RunRecord
from stepwell.operations.table import OPERATIONS
from stepwell.store.streams import StreamSummary
from stepwell.ui.pages.run_acts import OF_AN_OPERATION, RunActs, RunForms, acts_for
from stepwell.ui.site import Page, Site, Visit
from stepwell.ui.waterfall import Family, axis_of, queued_bar, rows_of, window_of, within
from stepwell.ui.words import SHOWN_CHARS, Redactor, visible

#: How many operations are drawn at once.
DRAWN: Final = 300
#: How many items of a stream are shown, the last ones.
_LAST_ITEMS: Final = 20
#: Of a run with more operations its code is not asked what it asked for: not even the journal is read for that.
_REPLAYED: Final = 2_000
#: So many children are opened although nobody asked for it; and so many at most.
_FEW_CHILDREN: Final = 3
_MOST_OPENED: Final = 20
#: No run has an operation whose number has more.
_MAX_DIGITS: Final = 9


class RunPages:
    """The pages about one run."""

    def __init__(self, site: Site) -> None:
        self._site: Final = site
        self._redactor: Final[Redactor] = site.redactor
        self._forms: Final = RunForms(site)

    def routes(self) -> list[Route]:
        """Return their addresses."""
        site = self._site
        return [
            Route("/run", site.page(self.run)),
            Route("/run/journal", site.page(self.journal)),
            Route("/run/act", site.act(RunActs(site, self._forms).act), methods=["POST"]),
        ]

    def run(self, reads: ReadService, visit: Visit) -> Page:
        """Show a run, and one of its operations."""
        run_id = visit.query_of("id")
        details, outline = reads.summary(run_id), reads.outline(run_id)
        info, record, can = details.info, reads.record(run_id), acts_for(details.info)
        is_short = len(outline.operations) <= _REPLAYED
        may_act = self._site.may_act and visit.user.may_act
        shown = (
            self._facts(details)
            | {"streams": self._streams(reads, run_id)}
            | {"path": failure_path(reads, run_id) if info.status == "failed" else []}
            | self._waterfall(reads, run_id, outline, visit)
        )
        number = _number(visit.query.get("op"))
        if number is not None:
            shown["selected"] = self._operation(reads, record, number, outline)
        if may_act:
            shown |= {
                "can": [act for act in can if act not in OF_AN_OPERATION],
                "can_there": [act for act in can if act in OF_AN_OPERATION],
                "arguments": self._forms.arguments(record, details.input) if {"restart", "rewind"} & {*can} else [],
                "messages": self._forms.messages(record, details) if "send" in can and is_short else [],
            }
        return Page("run.html", {"page": "runs", "run": info, "id": run_id, "op": number, **shown})

    def _facts(self, details: RunDetails) -> dict[str, Any]:
        info, failure = details.info, details.failure
        origin = None if failure is None else (failure.origin if info.status == "halted" else failure)
        return {
            "input": self._value(details.input),
            "result": self._value(details.result),
            "published": [(key, self._named(key, value)) for key, value in details.published.items()],
            "children": details.children,
            "acts": list(reversed(details.acts)),
            "owner": details.owner,
            "failure": origin,
            "message_name": next((wait.name or "" for wait in info.waiting_on if wait.kind == "message"), ""),
            "selected": None,
        }

    def _streams(self, reads: ReadService, run_id: str) -> list[tuple[StreamSummary, list[dict[str, Any]]]]:
        """Return the streams of a run with their last items."""
        return [
            (
                stream,
                [
                    {"offset": each.offset, "value": self._named(stream.name, each.value)}
                    for each in reads.last_of_stream(run_id, stream.name, _LAST_ITEMS)
                ],
            )
            for stream in reads.streams(run_id)
        ]

    def _waterfall(self, reads: ReadService, run_id: str, outline: Outline, visit: Visit) -> dict[str, Any]:
        window = window_of(visit.query.get("zoom", ""))
        chosen = [each for each in outline.operations if _is_shown(each, visit.query) and within(each, outline, window)]
        start = max(0, _number(visit.query.get("from")) or 0)
        folds = visit.query.get("fold", "1") != "0"
        drawn = chosen[start : start + DRAWN]
        family = family_of(reads, run_id, drawn, visit.query.get("children", ""))
        axis = axis_of(outline, folds=folds, family=family, window=window)
        kinds = sorted({each.kind for each in outline.operations})
        return {
            "rows": rows_of(outline, drawn, axis, family),
            "queued": queued_bar(outline, axis) if window is None else None,
            "axis": axis,
            "zoom": visit.query.get("zoom") if window is not None else None,
            "opened": sorted(family.outlines),
            "children_said": visit.query.get("children"),
            "begin": outline.created_at,
            "folds": folds,
            "kinds": kinds,
            "kind": visit.query.get("kind", ""),
            "only_failed": visit.query.get("show") == "failed",
            "failures": sum(each.outcome == "failed" for each in outline.operations),
            "total": len(outline.operations),
            "chosen": len(chosen),
            "start": start,
            "before": max(0, start - DRAWN) if start else None,
            "after": start + DRAWN if start + DRAWN < len(chosen) else None,
            "is_cut": outline.is_cut,
            "asks": any(each.kind == "promise" and each.outcome == "open" for each in outline.operations),
        }

    def _operation(self, reads: ReadService, record: RunRecord, number: int, outline: Outline) -> dict[str, Any]:
        entries = reads.operation(record.id, number)
        is_short = len(outline.operations) <= _REPLAYED
        asked = next(iter(self._forms.asked_for(record, number) if is_short else []), None)
        found = next((each for each in outline.operations if each.number == number), None)
        return {
            "number": number,
            "outlined": found,
            "asked": asked,
            "results": self._forms.results(asked, entries),
            "zoom": None if found is None else _zoom_to(found, outline),
            "entries": [self._entry(entry) for entry in entries],
            "kind": found.kind if found is not None else "",
            "name": (found.summary or found.name) if found is not None else "",
        }

    def _entry(self, entry: JournalEntry) -> dict[str, Any]:
        has_value = entry.failure is None and entry.kind not in OPERATIONS.kinds.valueless
        return {
            "entry": entry,
            "value": self._named(entry.name, entry.value) if has_value else None,
            "failure": None if entry.failure is None else entry.failure.text[:SHOWN_CHARS],
        }

    def _named(self, name: str, value: Any) -> Any:
        return "•••• hidden" if self._redactor.hides(name) else self._redactor.of(value)

    def _value(self, value: Any) -> Any:
        return self._redactor.of(value)

    # --- the journal -------------------------------------------------------------------------------------------------

    def journal(self, reads: ReadService, visit: Visit) -> Page | Response:
        """Show the journal: the operations in a line each, every entry in full, or JSON to keep."""
        run_id = visit.query_of("id")
        form = visit.query.get("form", "compact")
        entries = [self._redacted(entry) for entry in reads.journal(run_id)]
        if form == "json":
            name = "".join(each if each.isalnum() or each in "-_." else "_" for each in visible(run_id))[:80]
            body = msgspec.json.format(msgspec.json.encode(entries), indent=2)
            headers = {"Content-Disposition": f'attachment; filename="journal-{quote(name)}.json"'}
            return Response(body, media_type="application/json", headers=headers)
        rows = [self._entry(entry) for entry in entries]
        return Page("journal.html", {"page": "runs", "id": run_id, "form": form, "rows": rows})

    def _redacted(self, entry: JournalEntry) -> JournalEntry:
        return msgspec.structs.replace(entry, value=self._named(entry.name, entry.value))


def routes(site: Site) -> list[Route]:
    """Return the addresses of these pages."""
    return RunPages(site).routes()


def _zoom_to(operation: OutlinedOperation, outline: Outline) -> str:
    """Return the part of a run in which an operation is, with a little around it."""
    ended = outline.ends_at if operation.ended_at is None else operation.ended_at
    around = max((ended - operation.issued_at) // 10, 1_000)
    begin = max(0, operation.issued_at - outline.created_at - around)
    return f"{begin}-{max(ended - outline.created_at + around, begin + 1)}"


def family_of(reads: ReadService, run_id: str, drawn: Sequence[OutlinedOperation], said: str) -> Family:
    """Return the children that operations started, and the outlines of those that are opened.

    `said` are the numbers of the operations whose children are; where nothing is said, all of a few, else those that
    need somebody.
    """
    children = reads.started_by(run_id, [each.number for each in drawn if each.kind == "start"])
    if said:
        chosen = [number for text in said.split(",") if (number := _number(text)) in children]
    elif len(children) <= _FEW_CHILDREN:
        chosen = list(children)
    else:
        chosen = [number for number, child in children.items() if child.status in ("failed", "halted", "paused")]
    outlines = {number: reads.outline(children[number].id) for number in chosen[:_MOST_OPENED]}
    return Family(children, outlines)


def _is_shown(operation: OutlinedOperation, query: Any) -> bool:
    if query.get("show") == "failed" and operation.outcome != "failed" and len(operation.attempts) <= 1:
        return False
    return not query.get("kind") or operation.kind == query["kind"]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) <= _MAX_DIGITS else None
