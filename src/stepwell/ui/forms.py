"""The form that a promise's JSON schema makes, and the value that is read from what somebody filled in. Pure.

What fits in a field is a field: yes or no, a number, a text, one of several; a schema with such properties is as many
fields; anything else is typed as JSON. Whether a value fits is decided by the engine.
"""

# Schemas are JSON, of which pyright knows no types:
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from stepwell.errors import InvalidArgument
from stepwell.shown import shown
from stepwell.ui.words import visible

FieldKind: TypeAlias = Literal["choice", "yes or no", "number", "text", "json"]

_KINDS: Final[dict[str, FieldKind]] = {
    "boolean": "yes or no",
    "integer": "number",
    "number": "number",
    "string": "text",
}
#: The name of the only field of a form that is no object.
WHOLE: Final = "answer"
#: Longer values are not filled in.
_MAX_FILLED: Final = 100_000
#: Before the names of the fields of an object, so that none is taken for a field of the page's own.
_PREFIX: Final = "field "


class Field(msgspec.Struct, frozen=True):
    """One field: `name` in the form, `label` for people, `choices` as JSON texts, `text` as it is filled in first."""

    name: str
    label: str
    kind: FieldKind
    choices: list[str]
    is_required: bool
    of_object: bool = False
    text: str = ""

    def text_of(self, choice: str) -> str:
        """Return a choice as people read it: a text without its quotes, where all of them are texts."""
        found = [json.loads(each) for each in self.choices]
        return str(json.loads(choice)) if all(isinstance(each, str) and each for each in found) else choice


def fields_of(schema: Mapping[str, Any], choices: Sequence[Any]) -> list[Field]:
    """Return the fields for a schema, or for one of several values."""
    if choices:
        return [Field(WHOLE, "Answer", "choice", [json.dumps(each, ensure_ascii=False) for each in choices], True)]
    found = _resolved(schema, schema)
    properties: Any = found.get("properties")
    if found.get("type") == "object" and isinstance(properties, Mapping) and properties:
        required: Any = found.get("required", ())
        return [
            _field(f"{_PREFIX}{name}", str(name), _resolved(each, schema), name in required, of_object=True)
            for name, each in properties.items()
        ]
    return [_field(WHOLE, "Answer", found, True)]


def _resolved(part: Any, whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a part of a schema, or what it refers to within the whole."""
    if not isinstance(part, Mapping):
        return {}
    reference = part.get("$ref", "")
    definitions: Any = whole.get("$defs", {})
    return definitions.get(str(reference).removeprefix("#/$defs/"), {}) if reference else part


def _field(name: str, label: str, schema: Mapping[str, Any], is_required: bool, *, of_object: bool = False) -> Field:
    values: Any = schema.get("enum")
    if isinstance(values, list):
        choices = [json.dumps(each, ensure_ascii=False) for each in values]
        return Field(name, label, "choice", choices, is_required, of_object)
    kind = schema.get("type")
    return Field(name, label, _KINDS.get(kind, "json") if isinstance(kind, str) else "json", [], is_required, of_object)


def filled(fields: Sequence[Field], value: Any) -> list[Field]:
    """Return the fields with what a value has for each of them."""
    if len(fields) == 1 and not fields[0].of_object:
        return [replace(fields[0], text=_text(fields[0], value))]
    given: Any = value if isinstance(value, dict) else {}
    return [replace(each, text=_text(each, given[each.label])) if each.label in given else each for each in fields]


def _text(field: Field, value: Any) -> str:
    """Return what a field is filled in with: nothing that has characters which nobody sees, and would send unseen."""
    if field.kind == "text":
        return value if isinstance(value, str) and visible(value) == value else ""
    indent = 2 if field.kind == "json" else None
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if visible(text) != text:
        text = json.dumps(value, indent=indent)
    return text if len(text) <= _MAX_FILLED else ""


def value_of(fields: Sequence[Field], form: Mapping[str, str]) -> Any:
    """Return what was filled in; raises `InvalidArgument` for what is no value of its field."""
    if len(fields) == 1 and not fields[0].of_object:
        return _value(fields[0], form.get(WHOLE, ""))
    given = {field.label: (field, form.get(field.name, "")) for field in fields}
    return {label: _value(field, text) for label, (field, text) in given.items() if text or field.is_required}


def _value(field: Field, text: str) -> Any:
    if field.kind == "text":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        what = {"number": "a number", "json": 'JSON: "text", 42, true, {"a": 1}'}.get(field.kind, "one of the choices")
        raise InvalidArgument(f"{field.label}: {shown(text)} is not {what}") from None
