"""JSON schemas of annotations, and what of a value does not fit one: the part of JSON Schema that msgspec writes.

So that a value can be checked, before anything is recorded, in a process that does not have the annotation: the command
line, a web back end. https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

import datetime as dt
import decimal
import operator
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec

from stepwell.values.inspection import is_pydantic_model, items_of, type_name

_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "string": str,
    "array": list,
    "object": dict,
}
#: The formats that msgspec writes.
_FORMATS: Final[dict[str, Any]] = {
    "date-time": dt.datetime,
    "date": dt.date,
    "time": dt.time,
    "duration": dt.timedelta,
    "uuid": uuid.UUID,
    "decimal": decimal.Decimal,
}
#: What bounds numbers: the keyword, its words, and what compares a value with the bound.
_BOUNDS: Final[tuple[tuple[str, str, Callable[[Any, Any], bool]], ...]] = (
    ("minimum", "at least", operator.ge),
    ("maximum", "at most", operator.le),
    ("exclusiveMinimum", "above", operator.gt),
    ("exclusiveMaximum", "below", operator.lt),
)
#: How much of a value an error shows, in characters.
_LONGEST: Final = 60
#: How deeply schemas may refer to others, and values be nested: what is deeper is left to whoever reads it typed.
_DEPTH: Final = 200


def schema_of(annotation: Any) -> dict[str, Any]:
    """Return the JSON schema of an annotation; an empty one, which everything fits, where it has none."""
    try:
        if isinstance(annotation, type) and is_pydantic_model(annotation):
            found: dict[str, Any] = cast("Any", annotation).model_json_schema()
            return found
        return msgspec.json.schema(annotation)
    except Exception:  # noqa: BLE001 - hooks of user classes may raise anything; msgspec knows not every class
        return {}


def misfit(schema: Mapping[str, Any], value: Any) -> str | None:
    """Say where a value, as JSON has it, does not fit a schema; None where it does."""
    return _misfit(schema, value, "$", schema, _DEPTH)


def _misfit(schema: Any, value: Any, path: str, root: Mapping[str, Any], depth: int) -> str | None:
    if schema is True or depth <= 0:
        return None
    if schema is False:
        return f"{path}: nothing is allowed here"
    if "$ref" in schema:
        target = _referred(root, schema["$ref"])
        return None if target is None else _misfit(target, value, path, root, depth - 1)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            found = [_misfit(each, value, path, root, depth - 1) for each in schema[keyword]]
            if None not in found:
                return _nearest(path, [each for each in found if each])
    for each in schema.get("allOf", ()):
        if fault := _misfit(each, value, path, root, depth - 1):
            return fault
    if "const" in schema and not _equal(schema["const"], value):
        return f"{path}: must be {_shown(schema['const'])}, not {_shown(value)}"
    if "enum" in schema and not any(_equal(each, value) for each in schema["enum"]):
        return f"{path}: must be one of {', '.join(map(_shown, schema['enum']))}, not {_shown(value)}"
    return (
        _type_fault(schema, value, path)
        or _bounds_fault(schema, value, path)
        or _parts_fault(schema, value, path, root, depth - 1)
    )


def _referred(root: Mapping[str, Any], reference: str) -> Any:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        found = cast("dict[str, Any]", found).get(name) if isinstance(found, dict) else None
    return found


def _nearest(path: str, faults: list[str]) -> str:
    """Of the faults of alternatives, return the one that is deepest inside, or all that are about the value itself."""
    inner = [fault for fault in faults if not fault.startswith(f"{path}: ")]
    if len(inner) == 1:
        return inner[0]
    return f"{path}: {'; or '.join(dict.fromkeys(fault.removeprefix(f'{path}: ') for fault in faults))}"


def _type_fault(schema: Mapping[str, Any], value: Any, path: str) -> str | None:
    wanted = schema.get("type")
    if wanted is None:
        return None
    names = [wanted] if isinstance(wanted, str) else wanted
    if any(_is_of(name, value) for name in names):
        return None
    return f"{path}: must be {' or '.join(names)}, not {_shown(value)}"


def _is_of(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(name, object))


def _bounds_fault(schema: Mapping[str, Any], value: Any, path: str) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for keyword, what, holds in _BOUNDS:
            if keyword in schema and not holds(value, schema[keyword]):
                return f"{path}: must be {what} {schema[keyword]}, not {value}"
        return None
    if isinstance(value, (str, list, dict)):
        size = len(cast("str", value))
        kind = "Length" if isinstance(value, str) else "Items" if isinstance(value, list) else "Properties"
        if size < schema.get(f"min{kind}", size):
            return f"{path}: must have at least {schema[f'min{kind}']} parts, not {size}"
        if size > schema.get(f"max{kind}", size):
            return f"{path}: must have at most {schema[f'max{kind}']} parts, not {size}"
    if isinstance(value, str):
        return _pattern_fault(schema, value, path) or _format_fault(schema, value, path)
    return None


def _pattern_fault(schema: Mapping[str, Any], value: str, path: str) -> str | None:
    try:
        fits = "pattern" not in schema or re.search(schema["pattern"], value) is not None
    except re.error:  # of another dialect, as pydantic's are: left to whoever reads the value typed
        return None
    return None if fits else f"{path}: must match {schema['pattern']!r}, not {_shown(value)}"


def _format_fault(schema: Mapping[str, Any], value: str, path: str) -> str | None:
    wanted = _FORMATS.get(schema.get("format", ""))
    if wanted is None and schema.get("contentEncoding") == "base64":
        wanted = bytes
    if wanted is None:
        return None
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError:
        return f"{path}: must be text that reads as {type_name(wanted)}, not {_shown(value)}"
    return None


def _parts_fault(schema: Mapping[str, Any], value: Any, path: str, root: Mapping[str, Any], depth: int) -> str | None:
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        for index, item in enumerate(items_of(value)):
            inner = first[index] if index < len(first) else schema.get("items", True)
            if fault := _misfit(inner, item, f"{path}[{index}]", root, depth):
                return fault
    elif isinstance(value, dict):
        given = cast("dict[str, Any]", value)
        missing = [name for name in schema.get("required", ()) if name not in given]
        if missing:
            return f"{path}: {missing[0]!r} is missing"
        known = schema.get("properties", {})
        for name, item in given.items():
            if name not in known and "propertyNames" in schema:
                fault = _misfit(schema["propertyNames"], name, f"{path}.{name}", root, depth)
                if fault:
                    return fault
            inner = known.get(name, schema.get("additionalProperties", True))
            if inner is False:
                return f"{path}: there is no {name!r}"
            if fault := _misfit(inner, item, f"{path}.{name}", root, depth):
                return fault
    return None


def _equal(one: Any, other: Any) -> bool:
    """Tell whether two values are the same JSON: 1 is not true."""
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
