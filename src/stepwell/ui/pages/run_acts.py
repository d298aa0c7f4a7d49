"""What can be asked of a run by its forms: which acts there are, forms that know the types, and what is done then.

The types are those of the code, where it is in this process: of what a step returned, of the message that is
waited for, of the workflow's arguments. Without the code a value is typed as JSON.
"""

# Values are of plain JSON data, of which pyright knows no types:
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import msgspec
from starlette.concurrency import run_in_threadpool

from stepwell.api.reading.views import JournalEntry, RunDetails, RunInfo
from stepwell.errors import InvalidArgument
from stepwell.model.lifecycle import ENDED
from stepwell.operations.table import OPERATIONS
from stepwell.shown import shown
from stepwell.ui.forms import Field, fields_of, filled, value_of
from stepwell.ui.site import Site, Visit
from stepwell.values.json_schema import misfit

if TYPE_CHECKING:
    from stepwell.api.reading.code_requests import AskedFor
    from stepwell.model.run import RunRecord

#: Acts that are about one operation of a run, and stand beside it.
OF_AN_OPERATION: Final = frozenset({"rewind", "fork", "settle"})
#: A message is no longer than this, as JSON.
_MAX_MESSAGE_CHARS: Final = 200_000
#: No run has an operation whose number has more.
_MAX_DIGITS: Final = 9
#: The fields of a workflow's arguments; the field of all of them where their names are not known.
_ARGUMENT: Final = "argument "
_ARGUMENTS: Final = "arguments"
#: What the code asks for is kept for so many runs and operations.
_KEPT: Final = 200


def acts_for(info: RunInfo) -> list[str]:
    """Return what can be asked of a run in its state, the likeliest first."""
    if info.status in ENDED:
        retried = ["retry"] if info.status != "completed" else []
        settled = ["settle"] if info.status == "failed" else []
        return [*retried, "rewind", "restart", "fork", "describe", *settled, "delete"]
    if info.status == "pending" and info.started_at is None:
        waits = ["reschedule"] if info.queue is not None else []
        return ["cancel", *waits, "pause", "send", "terminate", "describe", "delete"]
    if info.status == "paused":
        return ["unpause", "cancel", "terminate", "send", "fork", "settle", "describe"]
    if info.status == "halted":
        return ["resume", "rewind", "restart", "fork", "settle", "cancel", "terminate", "send", "describe"]
    waits = ["rewind", "restart"] if info.status == "waiting" else []
    return ["cancel", "pause", "send", "terminate", *waits, "fork", "settle", "describe"]


class MessageForm(msgspec.Struct, frozen=True):
    """A message that a run waits for, with the fields of its type."""

    name: str
    type: str
    fields: list[Field]


class RunForms:
    """The fields of forms about runs."""

    def __init__(self, site: Site) -> None:
        self._site: Final = site
        self._asked: dict[tuple[object, ...], list[AskedFor]] = {}

    def asked_for(self, record: RunRecord, number: int | None) -> list[AskedFor]:
        """Return what `Face.asked_for` does; what is known of a run that has not changed is not found out again."""
        key = (record.key, record.updated_at, record.chapter, number)
        if key not in self._asked:
            if len(self._asked) >= _KEPT:
                self._asked.clear()
            self._asked[key] = self._site.face.asked_for(record.id, number)
        return self._asked[key]

    def results(self, asked: AskedFor | None, entries: Sequence[JournalEntry]) -> list[Field]:
        """Return the fields of an operation's result, filled in with what it is."""
        fields = fields_of({} if asked is None else asked.schema, [])
        last = entries[-1] if entries else None
        if last is None or last.failure is not None or last.kind in OPERATIONS.kinds.undelivered:
            return fields
        return fields if self._hides(last.name, last.value) else filled(fields, last.value)

    def arguments(self, record: RunRecord, value: Any) -> list[Field]:
        """Return the fields of a run's input, filled in with what it is: of each parameter, where they are known."""
        given: Mapping[str, Any] = value if isinstance(value, dict) else {}
        by_place, by_name = list(given.get("args", ())), dict(given.get("kwargs", {}))
        parameters = self._site.face.parameters(record)
        if parameters is None or len(by_place) > len(parameters):
            whole = Field(_ARGUMENTS, "Arguments, as a JSON array", "json", [], is_required=True)
            return [whole] if by_name or self._hides("", value) else filled([whole], by_place)
        known = by_name | {parameters[place].name: each for place, each in enumerate(by_place)}
        found: list[Field] = []
        for each in parameters:
            (field,) = fields_of({"type": "object", "properties": {each.name: each.schema}, **_defs(each.schema)}, [])
            field = msgspec.structs.replace(field, name=f"{_ARGUMENT}{each.name}", is_required=each.is_required)
            is_known = each.name in known and not self._hides(each.name, known[each.name])
            found += filled([field], {each.name: known[each.name]}) if is_known else [field]
        return found

    def messages(self, record: RunRecord, details: RunDetails) -> list[MessageForm]:
        """Return the messages that a run waits for, as far as its code says of which type they are."""
        names = {wait.name for wait in details.info.waiting_on if wait.kind == "message"}
        if not names:
            return []
        asked = [each for each in self.asked_for(record, None) if each.kind == "receive" and each.name in names]
        return [MessageForm(each.name, each.type, fields_of(each.schema, [])) for each in asked if each.schema]

    def _hides(self, name: str, value: Any) -> bool:
        redactor = self._site.redactor
        return redactor.hides(name) or redactor.of(value) != value


def _defs(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"$defs": schema["$defs"]} if "$defs" in schema else {}


class RunActs:
    """Does what a form asks of a run."""

    def __init__(self, site: Site, forms: RunForms) -> None:
        self._site: Final = site
        self._forms: Final = forms

    async def act(self, visit: Visit) -> str:
        """Do what a form asks for; raises what the engine says against it."""
        run_id, act = visit.query_of("id"), visit.form.get("act", "")
        said: dict[str, Any] = {"reason": visit.reason, "by": visit.by}
        face, form = self._site.face, visit.form
        match act:
            case "cancel" | "terminate" | "pause" | "unpause" | "resume" | "retry":
                await face.on_run(run_id, act, **said)
            case "delete":
                if form.get("typed", "").strip() != run_id.strip():
                    raise InvalidArgument("to delete a run, its id is typed; what was typed is another one")
                await face.on_run(run_id, "delete", **said)
                return "/runs?done=delete"
            case "send":
                value = await run_in_threadpool(self._message, run_id, form)
                await face.on_run(run_id, "send", form.get("name", "").strip(), value)
            case "rewind":
                given = await run_in_threadpool(self._instead, run_id, form)
                await face.on_run(run_id, "rewind", _operation(form), **given, **said)
            case "restart":
                given = await run_in_threadpool(self._arguments, run_id, form)
                await face.on_run(run_id, "restart", *given.pop("args", ()), **given, **said)
            case "fork":
                given = await run_in_threadpool(self._instead, run_id, form)
                given["id"] = form.get("new_id", "").strip() or None
                forked = await face.on_run(run_id, "fork", _operation(form), **given, **said)
                return _run_address(forked.id, "fork")
            case "settle":
                outcome = await run_in_threadpool(self._outcome, run_id, form)
                await face.on_run(run_id, "settle", _operation(form), **outcome, **said)
            case "reschedule":
                await face.on_run(run_id, "reschedule", _delay(visit.form), **said)
            case "describe":
                await face.on_run(run_id, "set_attributes", _attributes(form), **_description(visit))
            case _:
                raise InvalidArgument(f"{shown(act)} is nothing that can be done to a run")
        return _run_address(run_id, act)

    # --- values, in a thread: what they are is found out by a replay -------------------------------------------------

    def _record(self, run_id: str) -> RunRecord:
        return self._site.face.look(lambda reads: reads.record(run_id))

    def _message(self, run_id: str, form: Mapping[str, str]) -> Any:
        if form.get("typed") != "yes":
            return value_of_form(form.get("value", ""))
        name = form.get("name", "")
        asked = next((each for each in self._forms.asked_for(self._record(run_id), None) if each.name == name), None)
        return _fitting(asked, form, f"the message {shown(name)}")

    def _instead(self, run_id: str, form: Mapping[str, str]) -> dict[str, Any]:
        """Return another result for the operation that is gone back to, and other input, where they were given."""
        number = _operation(form)
        given = self._arguments(run_id, form)
        if form.get("instead") == "result":
            given["results"] = {number: self._result(run_id, number, form)}
        return given

    def _outcome(self, run_id: str, form: Mapping[str, str]) -> dict[str, Any]:
        """Return how a step ended that nobody knows it of: what it returned, or an error's text."""
        if form.get("ended") == "failed":
            return {"error": form.get("error", "").strip() or "no reason was given"}
        return {"result": self._result(run_id, _operation(form), form)}

    def _result(self, run_id: str, number: int, form: Mapping[str, str]) -> Any:
        asked = next(iter(self._forms.asked_for(self._record(run_id), number)), None)
        return _fitting(asked, form, f"the result of operation {number}")

    def _arguments(self, run_id: str, form: Mapping[str, str]) -> dict[str, Any]:
        if form.get("input") != "these":
            return {}
        fields = self._forms.arguments(self._record(run_id), None)
        if [field.name for field in fields] != [_ARGUMENTS]:
            return {"args": (), "kwargs": value_of(fields, form)}
        try:
            return {"args": msgspec.convert(value_of_form(form.get(_ARGUMENTS, "")), list[Any])}
        except msgspec.ValidationError:
            raise InvalidArgument('other arguments are a JSON array: ["order-42", 100]') from None


def _fitting(asked: AskedFor | None, form: Mapping[str, str], what: str) -> Any:
    """Return the value that a form has; raises `InvalidArgument` where it does not fit the type that the code has."""
    schema = {} if asked is None else asked.schema
    value = value_of(fields_of(schema, []), form)
    fault = misfit(schema, value)
    if fault is not None:
        raise InvalidArgument(f"{what} is no {'' if asked is None else asked.type}: {fault}")
    return value


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


def _delay(form: Mapping[str, str]) -> float:
    text = form.get("delay", "").strip()
    try:
        return float(text or 0)
    except ValueError:
        raise InvalidArgument(f"the delay is a number of seconds, or empty for none, not {shown(text)}") from None


def _operation(form: Mapping[str, str]) -> int:
    text = form.get("to", "")
    if not (text.isdecimal() and len(text) <= _MAX_DIGITS and int(text)):
        raise InvalidArgument("say which operation is meant, by its number")
    return int(text)


def _attributes(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes that were typed, a line each: ``name=value``; without a value one is removed."""
    found: dict[str, Any] = {}
    for line in form.get("attributes", "").splitlines():
        name, equals, text = line.partition("=")
        if line.strip() and not equals:
            raise InvalidArgument(f"an attribute is written name=value, not {shown(line)}")
        if line.strip():
            found[name.strip()] = attribute_of_form(text.strip())
    return found


def _description(visit: Visit) -> dict[str, Any]:
    form = visit.form
    return {
        "tags": form.get("tags", "").split(),
        "remove_tags": form.get("remove_tags", "").split(),
        "note": form.get("note", "").strip() or None,
        "by": visit.by,
    }


def _run_address(run_id: str, done: str) -> str:
    return f"/run?{urlencode({'id': run_id, 'done': done}, quote_via=quote, errors='surrogatepass')}"
