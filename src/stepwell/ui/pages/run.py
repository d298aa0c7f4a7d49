"""One run: what it is and why it waits, its operations as a waterfall, what each of them was told, and acts on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from stepwell.api.failure_path import failure_path
from stepwell.api.outline import Outline, OutlinedOperation
from stepwell.api.read_service import ReadService
from stepwell.api.views import JournalEntry, RunDetails, RunInfo
from stepwell.errors import InvalidArgument
from stepwell.model.lifecycle import ENDED
from stepwell.operations.table import OPERATIONS
from stepwell.store.streams import StreamSummary
from stepwell.ui.site import Page, Site, Visit
from stepwell.ui.waterfall import Family, axis_of, queued_bar, rows_of, window_of, within
from stepwell.ui.words import SHOWN_CHARS, Redactor, visible

#: How many operations are drawn at once.
DRAWN: Final = 300
#: A message is no longer than this, as JSON.
_MAX_MESSAGE_CHARS: Final = 200_000
#: How many items of a stream are shown, the last ones.
_LAST_ITEMS: Final = 20
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

    def routes(self) -> list[Route]:
        """Return their addresses."""
        site = self._site
        return [
            Route("/run", site.page(self.run)),
            Route("/run/journal", site.page(self.journal)),
            Route("/run/act", site.act(self.act), methods=["POST"]),
        ]

    def run(self, reads: ReadService, visit: Visit) -> Page:
        """Show a run, and one of its operations."""
        run_id = visit.query_of("id")
        details, outline = reads.summary(run_id), reads.outline(run_id)
        info = details.info
        shown = (
            self._facts(details)
            | {"streams": self._streams(reads, run_id)}
            | {"path": failure_path(reads, run_id) if info.status == "failed" else []}
            | self._waterfall(reads, run_id, outline, visit)
        )
        number = _number(visit.query.get("op"))
        if number is not None:
            shown["selected"] = self._operation(reads, run_id, number, outline)
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
            "can": acts_for(info),
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

    def _operation(self, reads: ReadService, run_id: str, number: int, outline: Outline) -> dict[str, Any]:
        entries = reads.operation(run_id, number)
        found = next((each for each in outline.operations if each.number == number), None)
        return {
            "number": number,
            "outlined": found,
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

    # --- acts --------------------------------------------------------------------------------------------------------

    async def act(self, visit: Visit) -> str:
        """Do what a form asks for; raises what the engine says against it."""
        run_id, act = visit.query_of("id"), visit.form.get("act", "")
        said = {"reason": visit.reason, "by": visit.by}
        face = self._site.face
        match act:
            case "cancel" | "terminate" | "pause" | "unpause" | "resume" | "retry":
                await face.on_run(run_id, act, **said)
            case "delete":
                if visit.form.get("typed", "").strip() != run_id.strip():
                    raise InvalidArgument("to delete a run, its id is typed; what was typed is another one")
                await face.on_run(run_id, "delete", **said)
                return "/runs?done=delete"
            case "send":
                name = visit.form.get("name", "").strip()
                await face.on_run(run_id, "send", name, value_of_form(visit.form.get("value", "")))
            case "rewind":
                await face.on_run(run_id, "rewind", *_rewinding(visit.form), **_results(visit.form), **said)
            case "restart":
                await face.on_run(run_id, "restart", *_arguments(visit.form), **said)
            case "fork":
                given = {"id": visit.form.get("new_id", "").strip() or None, **_results(visit.form), **said}
                forked = await face.on_run(run_id, "fork", *_rewinding(visit.form), **given)
                return _run_address(forked.id, "fork")
            case "settle":
                await face.on_run(run_id, "settle", *_rewinding(visit.form), **_outcome(visit.form), **said)
            case "describe":
                await face.on_run(run_id, "set_attributes", _attributes(visit.form), **_description(visit))
            case _:
                raise InvalidArgument(f"{act!r} is nothing that can be done to a run")
        return _run_address(run_id, act)


def routes(site: Site) -> list[Route]:
    """Return the addresses of these pages."""
    return RunPages(site).routes()


def _run_address(run_id: str, done: str) -> str:
    return f"/run?{urlencode({'id': run_id, 'done': done}, quote_via=quote, errors='surrogatepass')}"


def acts_for(info: RunInfo) -> list[str]:
    """Return what can be asked of a run in its state, the likeliest first."""
    if info.status in ENDED:
        retried = ["retry"] if info.status != "completed" else []
        return [
            *retried,
            "rewind",
            "restart",
            "fork",
            "describe",
            *(["settle"] if info.status == "failed" else []),
            "delete",
        ]
    if info.status == "paused":
        return ["unpause", "cancel", "terminate", "send", "fork", "settle", "describe"]
    if info.status == "halted":
        return ["resume", "rewind", "restart", "fork", "settle", "cancel", "terminate", "send", "describe"]
    waits = ["rewind", "restart"] if info.status == "waiting" else []
    return ["cancel", "pause", "send", "terminate", *waits, "fork", "settle", "describe"]


def value_of_form(text: str) -> Any:
    """Return the value that somebody typed: JSON, or the text as it stands where it is none. Nothing is null."""
    if len(text) > _MAX_MESSAGE_CHARS:
        raise InvalidArgument(f"a value has at most {_MAX_MESSAGE_CHARS} characters here")
    if not text.strip():
        return None
    try:
        return json.loads(text)  # whole numbers of any size
    except ValueError:
        return text
    except RecursionError:
        raise InvalidArgument("the value is nested too deeply") from None


def _rewinding(form: Any) -> Sequence[int]:
    number = _number(form.get("to"))
    if not number:
        raise InvalidArgument("say which operation the run shall go on from, by its number")
    return [number]


def _results(form: Any) -> dict[str, Any]:
    """Return another result for the operation that is gone back to, where one was typed."""
    text = form.get("result", "")
    return {"results": {_rewinding(form)[0]: value_of_form(text)}} if text.strip() else {}


def _outcome(form: Any) -> dict[str, Any]:
    """Return how a step ended that nobody knows it of: what it returned, or an error's text."""
    if form.get("ended") == "failed":
        return {"error": form.get("error", "").strip() or "no reason was given"}
    return {"result": value_of_form(form.get("result", ""))}


def _attributes(form: Any) -> dict[str, Any]:
    """Return the attributes that were typed, a line each: ``name=value``; without a value one is removed."""
    found: dict[str, Any] = {}
    for line in form.get("attributes", "").splitlines():
        name, equals, text = line.partition("=")
        if line.strip() and not equals:
            raise InvalidArgument(f"an attribute is written name=value, not {line!r}")
        if line.strip():
            found[name.strip()] = attribute_of_form(text.strip())
    return found


def attribute_of_form(text: str) -> Any:
    """Return the value of an attribute: JSON, a moment with its zone, or else the text; None for nothing."""
    found = value_of_form(text)
    if found is text:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return text
        return moment if moment.tzinfo is not None else text
    return found


def _description(visit: Visit) -> dict[str, Any]:
    form = visit.form
    return {
        "tags": form.get("tags", "").split(),
        "remove_tags": form.get("remove_tags", "").split(),
        "note": form.get("note", "").strip() or None,
        "by": visit.by,
    }


def _arguments(form: Any) -> Sequence[Any]:
    text = form.get("arguments", "")
    if not text.strip():
        return []
    try:
        return msgspec.convert(value_of_form(text), list[Any])
    except msgspec.ValidationError:
        raise InvalidArgument('other arguments are a JSON array: ["order-42", 100]') from None


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
