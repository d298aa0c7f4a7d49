"""Where a value that came back differs from what it was, and what helps: the words of a refusal.

Runs only after `stepwell.values.comparison.same` said no. What the values are is shown for numbers, times and the like
only: text may be a secret, and a refusal is logged.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import msgspec

from stepwell.values.comparison import in_order_of, more_of, same, slots_of
from stepwell.values.inspection import (
    ARRAYS,
    MISSING,
    class_of,
    fields_of,
    is_pydantic_model,
    items_of,
    mapping_of,
    path_step,
    type_name,
)

#: Types of which a value is shown in a message.
_SHOWN: Final = (bool, int, float, decimal.Decimal, dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID, enum.Enum)
_SHOWN_CHARS: Final = 60
_SHOWN_ITEMS: Final = 4


class Difference(msgspec.Struct, frozen=True):
    """The first innermost place where two values differ: its path, what is wrong there, what helps."""

    path: str
    reason: str
    advice: str


def difference(value: Any, other: Any) -> Difference:
    """Return how `other`, which came back, differs from `value`."""
    path, step = "$", ""
    owner: Any = MISSING
    while type(value) is type(other) and not _is_secret(value):
        found = next((pair for pair in _inside(value, other) if not same(pair[1], pair[2])), None)
        if found is None:
            break
        owner, (step, value, other) = value, found
        path += step
    return Difference(path, *_words(owner, step.lstrip("."), value, other))


def _is_secret(value: Any) -> bool:
    return hasattr(class_of(value), "get_secret_value")  # of pydantic's SecretStr, SecretBytes, Secret


def _inside(value: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what two values of one type hold directly, each with its step of a path; not what cannot be paired."""
    if isinstance(value, dict):
        old, new = mapping_of(value), mapping_of(other)
        if old.keys() == new.keys() and same(list(old), in_order_of(old, new)):
            for key, item in old.items():
                yield path_step(key), item, new[key]
    elif isinstance(value, (set, frozenset)):
        return
    elif isinstance(value, ARRAYS):
        if len(items_of(value)) == len(items_of(other)):
            for index, (old_item, new_item) in enumerate(zip(items_of(value), items_of(other), strict=True)):
                yield f"[{index}]", old_item, new_item
    elif not isinstance(value, _SHOWN):
        before, after = _attributes(value), _attributes(other)
        for name in dict.fromkeys([*before, *after]):
            yield f".{name}", before.get(name, MISSING), after.get(name, MISSING)


def _attributes(value: Any) -> dict[str, Any]:
    """Return all that an object holds, by name."""
    cls = class_of(value)
    found: dict[str, Any] = {}
    for name in (*fields_of(value), *slots_of(cls)):
        held = getattr(value, name, MISSING)
        if name in ("__pydantic_extra__", "__pydantic_private__"):
            found.update(held or {})
        elif held is not MISSING:
            found[name] = held
    return found | more_of(getattr(value, "__dict__", {}), cls)


# --- words ------------------------------------------------------------------------------------------------------------


def _words(owner: Any, name: str, value: Any, other: Any) -> tuple[str, str]:
    if value is MISSING or other is MISSING:
        return _of_one_that_is_missing(owner, value)
    old, new = class_of(value), class_of(other)
    if _is_secret(value):
        return (
            f"is {a_name(old)}, which is written masked, so that the secret would be lost",
            "Pass a name by which the step finds it, or `get_secret_value()`, which then stands in the file in clear",
        )
    if old is not new:
        return _of_types(value, other)
    if isinstance(value, dict):
        return _of_keys(mapping_of(value), mapping_of(other))
    if isinstance(value, (dt.datetime, dt.time)):
        return _of_moments(value, other)
    if isinstance(value, ARRAYS):
        return f"is {a_name(old)} that comes back with other items", _CLASS_ADVICE
    if owner is not MISSING and (fields_of(owner) or is_pydantic_model(class_of(owner))):
        return f"comes back {_as_another(value, other)}: {_habit(owner, name)}", _CLASS_ADVICE
    return f"is {a_name(old)}, and comes back {_as_another(value, other)}", _CLASS_ADVICE


_CLASS_ADVICE: Final = "Let its class write all that it reads, or record plain values"


def _as_another(value: Any, other: Any) -> str:
    if isinstance(value, _SHOWN):
        return f"as {_short(other)} in place of {_short(value)}"
    return f"as another {type_name(class_of(value))}"


def _habit(owner: Any, field: str) -> str:
    """Return what it is about the class of an object that may change a field."""
    cls = class_of(owner)
    name = type_name(cls)
    if field.startswith("_") and hasattr(cls, "__attrs_attrs__"):
        return f"it is a private attribute of {name}, which is not written"
    if not is_pydantic_model(cls):
        return f"{name} changes it when it is made (`__post_init__`, a converter), or does not write it"
    if field in cls.__private_attributes__:
        return f"it is a private attribute of {name}, which is not written"
    if field in cls.model_fields and cls.model_fields[field].exclude:
        return f"{name} does not write it (`exclude`)"
    return f"{name} writes it otherwise than it reads it (a serialiser, a validator, `exclude`)"


def _of_one_that_is_missing(owner: Any, value: Any) -> tuple[str, str]:
    name = type_name(class_of(owner))
    if value is MISSING:
        return f"is new when it comes back: {name} makes it when it is read", "Make it a field, or a `cached_property`"
    return f"does not come back: it is no field of {name}", "Make it a field"


def _of_types(value: Any, other: Any) -> tuple[str, str]:
    old, new = class_of(value), class_of(other)
    reason = f"is {a_name(old)}, and comes back as {a_name(new)}"
    if issubclass(old, new) and new in (dict, *ARRAYS):  # of its class no annotation says how it is read
        return reason, f"Record `{new.__name__}(value)`"
    if issubclass(old, new):
        return reason, f"Annotate it as {type_name(old)}, or record {a_name(new)}"
    annotation = _annotation(value)
    return reason, f"Annotate it (`{annotation}`), or record it as the {type_name(new)} that it becomes"


def _of_keys(value: dict[Any, Any], other: dict[Any, Any]) -> tuple[str, str]:
    if len(other) < len(value):
        seen: dict[str, Any] = {}
        for key in value:
            twin = seen.setdefault(str(getattr(key, "value", key)), key)
            if twin is not key:
                return (
                    f"has the keys {_short(twin)} and {_short(key)}, which are the same text in JSON",
                    "Give it keys that differ as text",
                )
    kept = set(map(type, other))
    for key in value:
        if key not in other or type(key) not in kept:
            return (
                f"has the key {_short(key)}, {a_name(class_of(key))}, which does not come back",
                f"Annotate it (`{_annotation(value)}`), or use text as keys",
            )
    return "comes back with other keys", "Use text as keys"


def _of_moments(value: Any, other: Any) -> tuple[str, str]:
    if value.fold != other.fold:
        return "has fold=1, which JSON does not show", "Record it in UTC: `value.astimezone(UTC)`"
    if value.utcoffset() != other.utcoffset():
        return (
            f"has the offset {value.utcoffset()} from UTC, of which JSON keeps whole minutes",
            "Record it in UTC: `value.astimezone(UTC)`",
        )
    return (
        f"has the time zone {value.tzinfo}, of which only the offset of this moment comes back",
        "Record it in UTC (`value.astimezone(UTC)`), and the name of the zone beside it where it matters",
    )


def a_name(cls: Any) -> str:
    """Return the name of a class with its article."""
    name = {type(None): "None", str: "text"}.get(cls) or type_name(cls)
    if cls in (type(None), str):
        return name
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _annotation(value: Any) -> str:
    """Return an annotation that fits a value, as far as that is quickly seen."""
    cls = class_of(value)
    if cls is dict:
        held = mapping_of(value)
        return f"dict[{_either(held)}, {_either(held.values())}]"
    if cls is tuple and len(value) <= _SHOWN_ITEMS:
        return f"tuple[{', '.join(map(_annotation, value)) or '()'}]"
    if cls is tuple:
        return f"tuple[{_either(value)}, ...]"
    if cls in (list, set, frozenset):
        return f"{cls.__name__}[{_either(value)}]"
    return "None" if value is None else cls.__name__


def _either(values: Any) -> str:
    few: list[Any] = list(islice(values, _SHOWN_ITEMS))
    names = dict.fromkeys(map(_annotation, few))
    return " | ".join(names) or "object"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a repr may raise anything
        return "…"
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
