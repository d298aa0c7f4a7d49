"""What was recorded and is not in what was read: a field that its class had and does not have any more.

msgspec and pydantic pass over fields that a class does not know. So what was read is written once more; where that is
not the recorded JSON, the two are searched for a field that is missing. A pydantic model that makes something of old
fields itself (aliases, a validator that comes before) is trusted to know what it does.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import msgspec

from stepwell.values.inspection import (
    class_of,
    fields_of,
    fields_of_class,
    is_pydantic_model,
    items_of,
    mapping_of,
    path_step,
    type_name,
)


def holds_fields(annotation: Any) -> bool:
    """Tell whether values of an annotation may have fields that a class can lose."""
    return _holds_fields(annotation, set())


def _holds_fields(annotation: Any, seen: set[int]) -> bool:
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return bool(fields_of_class(annotation)) or typing.is_typeddict(annotation) or is_pydantic_model(annotation)
    inner = [typing.get_origin(annotation), *typing.get_args(annotation), getattr(annotation, "__value__", None)]
    return any(_holds_fields(each, seen) for each in inner if each is not None)


def lost_field(text: str, value: Any, write: Callable[[Any], bytes]) -> tuple[str, str] | None:
    """Return the path of a field that is in the JSON and not in the value read from it, and the name of its class."""
    again = write(value).decode()
    if again == text or again == text.lstrip(" "):
        return None
    return _search(msgspec.json.decode(text), msgspec.json.decode(again), value, "$")


def _search(old: Any, new: Any, value: Any, path: str) -> tuple[str, str] | None:
    if isinstance(old, dict) and isinstance(new, dict):
        if is_pydantic_model(class_of(value)) and _mends_itself(class_of(value)):
            return None
        before, after = mapping_of(old), mapping_of(new)
        for key, item in before.items():
            if key not in after:
                return path + path_step(key), type_name(class_of(value))
            found = _search(item, after[key], _held(value, key), path + path_step(key))
            if found is not None:
                return found
    elif isinstance(old, list) and isinstance(new, list) and isinstance(value, (list, tuple)):
        triples = zip(items_of(old), items_of(new), items_of(value), strict=False)
        for index, (item, other, held) in enumerate(triples):
            found = _search(item, other, held, f"{path}[{index}]")
            if found is not None:
                return found
    return None


def _held(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return mapping_of(value).get(key)
    return getattr(value, key, None) if key in fields_of(value) else None


def _mends_itself(model: Any) -> bool:
    validators = model.__pydantic_decorators__.model_validators.values()
    return any(each.info.mode in ("before", "wrap") for each in validators) or any(
        field.validation_alias is not None for field in model.model_fields.values()
    )
