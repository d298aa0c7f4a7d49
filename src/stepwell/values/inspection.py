"""Look inside values: name the place where something is wrong, find what JSON would lose, sort what has no order.

The codec is fast because msgspec writes and checks values in C; all that is done in Python, node by node, is here and
runs only after something went wrong, or where the encoded text gives reason to suspect it.

A place is written as ``$.items[3].price``: ``$`` is the value itself, then fields, string keys and positions.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import math
import pathlib
import re
import sys
import uuid
from array import array
from collections import UserDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from typing import Any, Final, cast

import msgspec

#: Types whose instances cannot change and hold nothing else.
ATOMS: Final[frozenset[type]] = frozenset(
    {
        *(type(None), bool, int, float, str, bytes, complex, decimal.Decimal, uuid.UUID),
        *(dt.datetime, dt.date, dt.time, dt.timedelta, dt.timezone),
        *(pathlib.PosixPath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
    }
)

#: Atoms that cannot be NaN or infinite.
_FINITE: Final = ATOMS - {float}

#: How many levels a search for the culprit goes down, and how much of a path is shown.
_SEARCH_DEPTH = 3000
_SHOWN_PATH_CHARS = 300
_SHOWN_BEGINNING_CHARS = 60

MISSING: Final[Any] = object()

#: What is written as a JSON array.
ARRAYS: Final = (list, tuple, set, frozenset)


def class_of(value: object) -> Any:
    """Return the class of a value."""
    return type(value)


def items_of(value: Any) -> Collection[Any]:
    """Return a list, tuple or set as what it is, for the type checkers."""
    return cast("Collection[Any]", value)


def mapping_of(value: Any) -> dict[Any, Any]:
    """Return a dict as what it is, for the type checkers."""
    return cast("dict[Any, Any]", value)


def is_pydantic_model(cls: Any) -> bool:
    """Tell whether `cls` is a pydantic model. Looks only where pydantic is imported already; never imports it."""
    module = sys.modules.get("pydantic")
    base = getattr(module, "BaseModel", None)
    return isinstance(base, type) and issubclass(cls, base) and hasattr(cls, "model_validate_json")


def fields_of(value: Any) -> tuple[str, ...]:
    """Return the field names of an instance of a dataclass, attrs class, Struct or pydantic model; else nothing."""
    return fields_of_class(class_of(value))


@functools.lru_cache(maxsize=2048)
def fields_of_class(cls: Any) -> tuple[str, ...]:
    """Return the field names of a dataclass, attrs class, Struct or pydantic model; else nothing."""
    if issubclass(cls, msgspec.Struct):
        return tuple(cls.__struct_fields__)
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    if hasattr(cls, "__attrs_attrs__"):
        return tuple(field.name for field in cls.__attrs_attrs__)
    if is_pydantic_model(cls):
        return tuple(cls.model_fields)
    return ()


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what `value` holds directly, each with its step of a path: ``.price`` or ``[3]``."""
    if isinstance(value, dict):
        for key, child in mapping_of(value).items():
            yield path_step(key), child
    elif isinstance(value, ARRAYS):
        for index, child in enumerate(items_of(value)):
            yield f"[{index}]", child
    else:
        for name in fields_of(value):
            child = getattr(value, name, MISSING)
            if child is not MISSING:
                yield f".{name}", child
        extra: dict[str, Any] = getattr(value, "__pydantic_extra__", None) or {}
        for name, child in extra.items():
            yield path_step(name), child


def path_step(key: object) -> str:
    """Return how a dict key is written in a path."""
    if isinstance(key, str) and key.isidentifier():
        return f".{key}"
    text = repr(key)
    return f"[{text if len(text) <= 60 else text[:60] + '…'}]"  # noqa: PLR2004 - long keys would bury the rest


def type_name(cls: Any) -> str:
    """Return the name of a class as users write it: ``int``, ``shop.models.Order``."""
    name: str = cls.__qualname__
    return name if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{name}"


_ARGUMENT = re.compile(r"\$\.(?:args\[\d+\]|kwargs\.\w+)")
_PATH_TOKEN = re.compile(r"\.(\w+)|\[(\d+)\]")


def at_path(value: Any, path: str) -> Any:
    """Return what stands at `path` inside `value`, `MISSING` where the path cannot be followed."""
    position = 1
    while position < len(path):
        token = _PATH_TOKEN.match(path, position)
        if token is None:
            return MISSING
        name, index = token.groups()
        if name is None:
            items = list(items_of(value)) if isinstance(value, ARRAYS) else []
            value = items[int(index)] if int(index) < len(items) else MISSING
        elif isinstance(value, dict):
            value = mapping_of(value).get(name, MISSING)
        else:
            value = getattr(value, name, MISSING) if name in fields_of(value) else MISSING
        if value is MISSING:
            return MISSING
        position = token.end()
    return value


# --- values that cannot be written ----------------------------------------------------------------------------------


class Culprit(msgspec.Struct, frozen=True):
    """The innermost part of a value that cannot be encoded: where it is, what is wrong with it, what helps."""

    path: str
    reason: str
    advice: str


def find_culprit(value: Any, encode: Callable[[Any], bytes], error: Exception) -> Culprit:
    """Return why `encode(value)` raised `error`, by trying ever smaller parts of the value."""
    path = "$"
    above = {id(value)}
    for _ in range(_SEARCH_DEPTH):
        found = _failing_child(value, encode)
        if found is None:
            break
        step, value, error = found
        path += step
        if id(value) in above:
            return Culprit(_shown(path), "leads back to a value that contains it", "Record an id instead of the cycle")
        above.add(id(value))
    if isinstance(error, RecursionError):
        return Culprit(_beginning(path), "is nested too deeply", "Record it as a flat list, or as text")
    if isinstance(value, dict):
        for key in mapping_of(value):
            try:
                encode({key: None})
            except Exception:  # noqa: BLE001 - hooks of user classes may raise anything
                kind = "text with lone surrogates" if isinstance(key, str) else f"a {type_name(class_of(key))}"
                return Culprit(_shown(path), f"has the key {_short(key)}, {kind}", "Use text or numbers as keys")
    return Culprit(_shown(path), *_explain(value, error))


def _beginning(path: str) -> str:
    """Return the first steps of a path that goes very far down: there is nothing to see at its end."""
    if len(path) <= _SHOWN_BEGINNING_CHARS:
        return path
    cut = max(path.rfind(mark, 1, _SHOWN_BEGINNING_CHARS) for mark in (".", "["))
    return f"{path[:cut]}…"


def plain_form(value: object) -> str | None:
    """Return what to write for a collection of a kind that JSON has not, None where it is none."""
    if isinstance(value, (Mapping, UserDict)):
        return "dict(value)"
    if isinstance(value, (Sequence, AbstractSet, ValuesView, array)):
        return "list(value)"
    return "value.tolist()" if callable(getattr(value, "tolist", None)) else None


def _failing_child(value: Any, encode: Callable[[Any], bytes]) -> tuple[str, Any, Exception] | None:
    for step, child in children(value):
        try:
            encode(child)
        except Exception as error:  # noqa: BLE001 - hooks of user classes may raise anything
            return step, child, error
    return None


def _shown(path: str) -> str:
    return path if len(path) <= _SHOWN_PATH_CHARS else path[:_SHOWN_PATH_CHARS] + "…"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a repr may raise anything
        return "…"
    return text if len(text) <= 60 else text[:60] + "…"  # noqa: PLR2004 - enough to recognise it


def _explain(value: Any, error: Exception) -> tuple[str, str]:
    """Return what is wrong with `value` (it follows the path in a sentence), and what to do about it."""
    name = type_name(type(value))
    is_a = f"is {'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
    if inspect.isawaitable(value):
        return f"{is_a}, not a value", "Did you forget `await`?"
    if isinstance(value, str):
        return "is text with lone surrogates, which UTF-8 cannot hold", "Clean it, or record `bytes`"
    if isinstance(value, int):
        return f"is an integer of more than {sys.get_int_max_str_digits()} digits", "Record it as text: `hex(n)`"
    if isinstance(value, type) or inspect.isroutine(value) or inspect.ismodule(value):
        return f"{is_a}, which is code", "Record its name, or the data that it works on"
    if isinstance(value, BaseException):
        return f"{is_a}, an exception", "Raise it, or record `str(error)`"
    if hasattr(value, "fileno") or hasattr(value, "acquire") or type(value).__module__ in ("_thread", "_io", "socket"):
        return f"{is_a}, which lives in this process only", "Open it inside the step that uses it"
    if isinstance(value, Iterator) or inspect.isasyncgen(value):
        return f"{is_a}, which can be read only once", "Return a list of its items"
    if fields_of(value) or type(value) in ATOMS or isinstance(value, (dict, *ARRAYS)):
        return f"{is_a} that cannot be encoded ({error})", "Change it so that it can be written as JSON"
    plain = plain_form(value)
    if plain is not None:
        return f"{is_a}, which has no JSON form", f"Record `{plain}`"
    return (
        f"{is_a}, which has no JSON form",
        "Make its class a dataclass, an attrs class, a msgspec.Struct or a pydantic model, or record plain values",
    )


def find_not_finite(value: Any) -> str | None:
    """Return the path of the first NaN or infinity inside `value`, None where there is none."""
    inner = _not_finite(value)
    return None if inner is None else f"${inner}"


def _not_finite(value: Any) -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else ""
    if type(value) in _FINITE:
        return None
    if isinstance(value, dict):
        held: Collection[Any] = mapping_of(value).values()
    elif isinstance(value, ARRAYS):
        held = items_of(value)
    else:
        held = [getattr(value, name, None) for name in fields_of(value)]
        if hasattr(class_of(value), "__pydantic_extra__"):
            held += mapping_of(value.__pydantic_extra__ or {}).values()
    if _FINITE.issuperset(map(type, held)):
        return None
    for child in held:
        inner = _not_finite(child)
        if inner is not None:
            step = next((step for step, same in children(value) if same is child), "[...]")
            return step + inner
    return None


# --- values that may be shared


def is_immutable(value: Any) -> bool:
    """Tell whether a value cannot change, as far as that is quickly seen: False where in doubt."""
    if type(value) in ATOMS or isinstance(value, enum.Enum):
        return True
    if type(value) in (tuple, frozenset):
        return all(map(is_immutable, items_of(value)))
    cls = class_of(value)
    settings = getattr(cls, "__struct_config__", None) or getattr(cls, "__dataclass_params__", None)
    if not getattr(settings, "frozen", False):
        return False
    return all(is_immutable(getattr(value, name, None)) for name in fields_of(value))


# --- values without an order ----------------------------------------------------------------------------------------


def holds_unsorted_set(value: Any) -> bool:
    """Tell whether `value` holds a set whose items `sorted` may leave in any order (sets compare by inclusion)."""
    if type(value) in ATOMS:
        return False
    if isinstance(value, (set, frozenset)):
        return not ATOMS.issuperset(map(type, items_of(value)))
    if isinstance(value, (list, tuple)) and ATOMS.issuperset(map(type, items_of(value))):
        return False
    return any(holds_unsorted_set(child) for _, child in children(value))


def in_order(value: Any, encode: Callable[[Any], bytes]) -> Any:
    """Return something that `encode` writes the same way in every process, for any value that it can write at all.

    Sets become lists sorted by the items' encoded text, dicts lists of pairs sorted by the keys' encoded text. What
    comes out differs between different values; it is made for fingerprints, not to be read back.
    """
    if type(value) in ATOMS:
        return value
    if isinstance(value, (set, frozenset)):
        items = [encode(in_order(item, encode)) for item in items_of(value)]
        return [msgspec.Raw(item) for item in sorted(items)]
    if isinstance(value, (list, tuple)):
        return [in_order(item, encode) for item in items_of(value)]
    if isinstance(value, dict):
        pairs = [(encode(in_order(key, encode)), in_order(item, encode)) for key, item in mapping_of(value).items()]
        return [[msgspec.Raw(key), item] for key, item in sorted(pairs, key=lambda pair: pair[0])]
    if fields_of(value) and not is_pydantic_model(type(value)):  # those have a writer of their own
        return {step: in_order(child, encode) for step, child in children(value)}
    return value
