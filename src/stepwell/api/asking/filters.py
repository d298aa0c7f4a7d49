"""The filter language: one line that selects runs.

One language for the API, the command line, and whatever else lists runs or acts on many of them::

    status:failed workflow:checkout started>-2h queue:mails id:order-* customer="acme" tag:vip

A filter is words with blanks between them, all of which must hold. Each is a field, a sign and a value; a value with
blanks in it stands in double quotes, with a backslash before each quote or backslash of its own. Nothing of it is ever
executed, or becomes part of a statement of SQL: `parse` makes a frozen value of it, or says where it goes wrong.

Pure: what is relative to now stays so, until `Filter.run_filter` is told the time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, cast, get_args

import msgspec

from stepwell.errors import InvalidArgument, InvalidFilter
from stepwell.model.attributes import MAX_NAME, RESERVED, AttributeKind, check_tag
from stepwell.model.clock import MICROSECONDS, microseconds_of
from stepwell.model.lifecycle import STATUSES, Status
from stepwell.shown import shown
from stepwell.store.inspector import AttributeMatch, Comparison, RunFilter, RunOrder

#: The longest filter, in characters: far more than anybody types.
MAX_FILTER_LENGTH: Final = 2_000
#: The fields that a filter may name, and what they mean.
FIELDS: Final[dict[str, str]] = {
    "status": "a state, or several with commas between them",
    "workflow": "the name of a workflow",
    "queue": "the queue that it was started in",
    "id": "an id, or the beginning of one with a star behind it",
    "parent": "the id of the run that started it; `none` for those that no other run started",
    "created": "when it was started: `created>-2h`, `created<2026-11-28T09:00Z`",
    "started": "when it began",
    "ended": "when it ended",
    "tag": "a tag; may be given again",
    "order": "`created`, `started` or `ended`, the last first with a dash: `order:-started`",
}
_TIMES: Final = ("created", "started", "ended")
_WORD: Final = re.compile(
    r'(?P<field>[A-Za-z_][A-Za-z0-9_.-]*)(?P<sign>>=|<=|[:=<>])(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]*)(?=\s|$)'
)
_AGO: Final = re.compile(r"-?(\d+(?:\.\d+)?)([smhdw])")
_NUMBER: Final = re.compile(r"-?\d+(\.\d*)?([eE][+-]?\d+)?")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_ATTRIBUTES: Final = 'An attribute of the author\'s is compared with = < > <= >=, as customer="acme"'
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
#: A hundred years: more is a mistake.
_LONGEST_AGO: Final = 3_155_760_000


class Moment(msgspec.Struct, frozen=True):
    """A time in a filter: so many microseconds `ago` or, where that is None, `at` that wall-clock time."""

    ago: int | None = None
    at: int | None = None


class AttributeTest(msgspec.Struct, frozen=True):
    """What an attribute is compared with: one of `any`, each a kind and a value of it."""

    name: str
    comparison: Comparison
    any: tuple[tuple[AttributeKind, str | int | float | Moment], ...]


class Filter(msgspec.Struct, frozen=True):
    """A filter that was understood; `text` is what was written. What is None or empty does not restrict."""

    text: str
    statuses: tuple[Status, ...] = ()
    workflow: str | None = None
    queue: str | None = None
    id: str | None = None
    id_prefix: str | None = None
    parent: str | None = None
    roots: bool = False
    created_after: Moment | None = None
    created_before: Moment | None = None
    started_after: Moment | None = None
    started_before: Moment | None = None
    ended_after: Moment | None = None
    ended_before: Moment | None = None
    attributes: tuple[AttributeTest, ...] = ()
    tags: tuple[str, ...] = ()
    order: RunOrder = "-created"

    @property
    def is_empty(self) -> bool:
        """Whether it means every run."""
        return self == Filter(self.text, order=self.order)

    def run_filter(self, now: int, ahead: int, parent: int | None = None, limit: int = 100) -> RunFilter:
        """Return it for a store, `now`, which is `ahead` of the wall clock, in microseconds; `parent` is its key."""

        def time(moment: Moment | None) -> int | None:
            if moment is None:
                return None
            return now - moment.ago if moment.ago is not None else (moment.at or 0) + ahead

        return RunFilter(
            status=self.statuses or None,
            workflow=self.workflow,
            id_prefix=self.id_prefix,
            id=self.id,
            queue=self.queue,
            parent=parent,
            roots=self.roots,
            created_after=time(self.created_after),
            created_before=time(self.created_before),
            started_since=time(self.started_after),
            started_before=time(self.started_before),
            ended_after=time(self.ended_after),
            ended_before=time(self.ended_before),
            attributes=tuple(_match(test, now - ahead) for test in self.attributes),
            tags=self.tags,
            order=self.order,
            limit=limit,
        )


def parse(text: str) -> Filter:
    """Return what a filter says; raises `InvalidFilter`, which has the `position` of the fault."""
    if not isinstance(text, str):
        raise InvalidFilter(f"a filter is a text such as 'status:failed workflow:checkout', not {shown(text)}")
    if len(text) > MAX_FILTER_LENGTH:
        raise InvalidFilter(f"a filter has at most {MAX_FILTER_LENGTH} characters, not {len(text)}")
    found: dict[str, Any] = {}
    place = 0
    while True:
        place += len(text[place:]) - len(text[place:].lstrip())
        if place == len(text):
            return Filter(text, **found)
        match = _WORD.match(text, place)
        if match is None:
            _refuse_word(text, place)
        _take(text, match, found)
        place = match.end()


def _refuse_word(text: str, place: int) -> NoReturn:
    word = text[place:].split(maxsplit=1)[0]
    quote = text.find('"', place, place + len(word))
    if quote >= 0:
        _refuse(text, quote, 'a quoted value ends with a quote, and a blank or nothing behind it: workflow:"my flow"')
    field = re.match(r"\w*", word)
    name = "" if field is None else field[0]
    if name in FIELDS and len(word) > len(name):
        _refuse(text, place + len(name), f"behind {name!r} stands one of : = < > <= >=")
    if name in FIELDS or name == word:
        _refuse(
            text, place, f"{word!r} is no condition: write a field, a sign and a value, as status:failed. {_fields()}"
        )
    _refuse(text, place, f"{word!r} is no condition{_meant(name, list(FIELDS))}; {_fields()}")


def _take(text: str, match: re.Match[str], found: dict[str, Any]) -> None:
    """Note what one word says."""
    field, sign, raw = match["field"], match["sign"], match["value"]
    at, value_at = match.start(), match.start("value")
    if field not in FIELDS and sign != ":" and field not in RESERVED:
        tests = found.get("attributes", ())
        found["attributes"] = (*tests, _attribute(text, match, raw.startswith('"')))
        return
    if field not in FIELDS:
        _refuse(text, at, f"there is no field {field!r}{_meant(field, list(FIELDS))}; {_fields()}. {_ATTRIBUTES}")
    value = re.sub(r"\\(.)", r"\1", raw[1:-1]) if raw.startswith('"') else raw
    if not value:
        _refuse(text, value_at, f"{field} needs a value: {FIELDS[field]}")

    def put(name: str, what: object) -> None:
        if name == "tags":
            found[name] = tuple(dict.fromkeys((*found.get(name, ()), what)))
            return
        if name in found:
            _refuse(text, at, f"{field} is given twice; a run cannot be both")
        found[name] = what

    if field in _TIMES:
        if sign in (":", "="):
            _refuse(text, match.start("sign"), f"of a time one says before or after: {field}>-2h, {field}<2026-11-28")
        put(f"{field}_{'after' if sign[0] == '>' else 'before'}", _moment(text, value_at, value))
        return
    if sign not in (":", "="):
        _refuse(text, match.start("sign"), f"{field} has no order: write {field}:{value}")
    _KINDS.get(field, _plain)(text, value_at, field, value, put)


_Put = Callable[[str, object], None]


def _plain(_text: str, _at: int, field: str, value: str, put: _Put) -> None:
    put(field, value)


def _statuses(text: str, at: int, _field: str, value: str, put: _Put) -> None:
    names: list[str] = []
    for name in value.split(","):
        if name not in STATUSES:
            _refuse(
                text, at, f"there is no state {name!r}{_meant(name, STATUSES)}; the states are {', '.join(STATUSES)}"
            )
        names.append(name)
        at += len(name) + 1
    put("statuses", cast("tuple[Status, ...]", tuple(dict.fromkeys(names))))


def _id(text: str, at: int, _field: str, value: str, put: _Put) -> None:
    if value == "*":
        _refuse(text, at, "a star alone means every run; leave it out")
    put(*(("id_prefix", value[:-1]) if value.endswith("*") else ("id", value)))


def _parent(_text: str, _at: int, _field: str, value: str, put: _Put) -> None:
    put(*(("roots", True) if value == "none" else ("parent", value)))


def _tag(text: str, at: int, _field: str, value: str, put: _Put) -> None:
    try:
        check_tag(value)
    except InvalidArgument as error:
        _refuse(text, at, str(error))
    put("tags", value)


def _attribute(text: str, match: re.Match[str], quoted: bool) -> AttributeTest:
    """Return what is said of an attribute.

    What is not quoted may be a number, a truth or a time: equal to that or to the text, greater and less than that.
    """
    name, raw, at = match["field"], match["value"], match.start("value")
    value = re.sub(r"\\(.)", r"\1", raw[1:-1]) if quoted else raw
    if len(name) > MAX_NAME:
        _refuse(text, match.start(), f"the name of an attribute has at most {MAX_NAME} characters")
    if not value and not quoted:
        _refuse(text, at, f'{name} needs a value: {name}=42, {name}>-2h, {name}="two words"')
    found: list[tuple[AttributeKind, str | int | float | Moment]] = []
    if not quoted:
        if _NUMBER.fullmatch(value):
            number = int(value) if value.lstrip("-").isdigit() else float(value)
            if not -(2**63) <= number < 2**63 or not math.isfinite(number):
                _refuse(text, at, f"{value} is no number of at most 64 bits")
            found.append(("number", number))
        elif value in ("true", "false"):
            found.append(("bool", int(value == "true")))
        elif _AGO.fullmatch(value) or _DATE.match(value):
            found.append(("datetime", _moment(text, at, value)))
    if not found or match["sign"] == "=":
        found.append(("str", value))
    return AttributeTest(name, cast("Comparison", match["sign"]), tuple(found))


def _match(test: AttributeTest, now: int) -> AttributeMatch:
    """Return it for a store; `now` is the wall clock's."""

    def kept(value: str | float | Moment) -> str | int | float:
        if not isinstance(value, Moment):
            return value
        return now - value.ago if value.ago is not None else value.at or 0

    return AttributeMatch(test.name, tuple((kind, test.comparison, kept(value)) for kind, value in test.any))


def _order(text: str, at: int, _field: str, value: str, put: _Put) -> None:
    if value not in get_args(RunOrder):
        _refuse(text, at, f"runs are not ordered by {value!r}{_meant(value, get_args(RunOrder))}; {FIELDS['order']}")
    put("order", value)


_KINDS: Final[dict[str, Callable[[str, int, str, str, _Put], None]]] = {
    "status": _statuses,
    "id": _id,
    "parent": _parent,
    "order": _order,
    "tag": _tag,
}


def _moment(text: str, at: int, value: str) -> Moment:
    ago = _AGO.fullmatch(value)
    if ago is not None:
        seconds = float(ago[1]) * _SECONDS[ago[2]]
        if seconds > _LONGEST_AGO:
            _refuse(text, at, f"{value!r} is more than a hundred years")
        return Moment(ago=round(seconds * MICROSECONDS))
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        _refuse(text, at, f"{value!r} is no time: write how long ago (-90m, -24h, -7d) or a moment (2026-11-28T09:00Z)")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return Moment(at=microseconds_of(moment))


def _fields() -> str:
    return f"the fields are {', '.join(FIELDS)}"


def _meant(name: str, names: Sequence[str]) -> str:
    import difflib  # noqa: PLC0415 - only a mistake needs it

    close = difflib.get_close_matches(name, names, 1)
    return f" (is {close[0]!r} meant?)" if close else ""


def _refuse(text: str, position: int, why: str) -> NoReturn:
    raise InvalidFilter(f"filter, at character {position + 1}: {why}\n  {text}\n  {' ' * position}^", position=position)
