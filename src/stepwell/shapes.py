"""Look inside values: name the place where something is wrong, find what JSON would lose, sort what has no order.

The codec is fast because msgspec writes and checks values in C; all that is done in Python, node by node, is here and
runs only after something went wrong, or where the encoded text gives reason to suspect it. Exceptions have no
annotations to go by: for them, values can be written together with their types (`to_plain`).

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
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final, NamedTuple, cast

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
    return _fields(class_of(value))


@functools.lru_cache(maxsize=2048)
def _fields(cls: Any) -> tuple[str, ...]:
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


class Culprit(NamedTuple):
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
        return Culprit("$", "is nested too deeply", "Record it as a flat list, or as text")
    if isinstance(value, dict):
        for key in mapping_of(value):
            try:
                encode({key: None})
            except Exception:  # noqa: BLE001 - hooks of user classes may raise anything
                kind = "text with lone surrogates" if isinstance(key, str) else f"a {type_name(class_of(key))}"
                return Culprit(_shown(path), f"has the key {_short(key)}, {kind}", "Use text or numbers as keys")
    return Culprit(_shown(path), *_explain(value, error))


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


# --- values that tell their own types --------------------------------------------------------------------------------

# Unlike the codec, this knows no annotations, so types are written down: JSON's own types stand for themselves, others
# are {"$": name of the type, "value": …}, and so are dicts that have the key "$" or a key that is no text. Subclasses
# of str, int and float (enumerations, say) are kept as plain text and numbers. Everything else is not plain.

# What is kept of one exception at most: values, how deep they are nested, characters of a text, bits of an integer (far
# below those that Python still converts to text).
_PLAIN_VALUES: Final = 500
_PLAIN_DEPTH: Final = 12
_PLAIN_TEXT_CHARS: Final = 8_000
_PLAIN_INTEGER_BITS: Final = 4096

_plain_json = msgspec.json.Encoder().encode

_TAGGED: Final[dict[type, str]] = {
    bytes: "bytes",
    dt.datetime: "datetime",
    dt.date: "date",
    dt.time: "time",
    dt.timedelta: "timedelta",
    decimal.Decimal: "Decimal",
    uuid.UUID: "UUID",
    type(pathlib.Path()): "Path",  # many an OSError has one
    pathlib.PurePosixPath: "PurePosixPath",
}
_TYPE_OF_TAG: Final = {name: cls for cls, name in _TAGGED.items()}
_CONTAINERS: Final[dict[type, str]] = {tuple: "tuple", set: "set", frozenset: "frozenset"}
_CONTAINER_OF_TAG: Final[dict[str, Callable[[Iterable[Any]], Any]]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}


class NotPlainError(Exception):
    """The value is not made of plain values, or of too many."""


class Budget:
    """How many plain values may still be kept of one exception."""

    def __init__(self) -> None:
        self.left = _PLAIN_VALUES

    def spend(self) -> None:
        """Count one value; raises `NotPlainError` where that is one too many."""
        self.left -= 1
        if self.left < 0:
            raise NotPlainError


def to_plain(value: Any, budget: Budget, depth: int = _PLAIN_DEPTH) -> Any:
    """Return `value` in JSON's own types; raises `NotPlainError` where it is not plain, or too large."""
    budget.spend()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, int):
        if value.bit_length() > _PLAIN_INTEGER_BITS:
            raise NotPlainError
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$": "float", "value": str(float(value))}
    cls = class_of(value)
    if depth == 0:
        raise NotPlainError
    if cls is list:
        return [to_plain(item, budget, depth - 1) for item in items_of(value)]
    if cls is dict:
        return _plain_dict(mapping_of(value), budget, depth)
    if cls in _CONTAINERS:
        items = [to_plain(item, budget, depth - 1) for item in items_of(value)]
        if cls is not tuple:
            items.sort(key=_plain_json)
        return {"$": _CONTAINERS[cls], "value": items}
    if cls in _TAGGED:
        try:
            return {"$": _TAGGED[cls], "value": msgspec.to_builtins(value, enc_hook=str)}
        except (ValueError, TypeError, OverflowError):
            raise NotPlainError from None
    raise NotPlainError


def _plain_text(value: str) -> str:
    text = str.__str__(value)
    if len(text) > _PLAIN_TEXT_CHARS:
        raise NotPlainError
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotPlainError from None
    return text


def _plain_dict(value: dict[Any, Any], budget: Budget, depth: int) -> Any:
    if "$" not in value and all(type(key) is str for key in value):
        return {_plain_text(key): to_plain(item, budget, depth - 1) for key, item in value.items()}
    pairs = [[to_plain(key, budget, depth - 1), to_plain(item, budget, depth - 1)] for key, item in value.items()]
    return {"$": "dict", "value": pairs}


def _path(cls: Any, value: Any) -> Any:
    return cls(value)


def from_plain(value: Any) -> Any:
    """Return the value that `to_plain` wrote; raises anything for what it did not write."""
    if isinstance(value, list):
        return [from_plain(item) for item in items_of(value)]
    if not isinstance(value, dict):
        return value
    mapping = mapping_of(value)
    if "$" not in mapping:
        return {key: from_plain(item) for key, item in mapping.items()}
    tag = mapping["$"]
    content: Any = mapping["value"]
    if tag == "float":
        return float(content)
    if tag == "dict":
        return {from_plain(key): from_plain(item) for key, item in content}
    if tag in _CONTAINER_OF_TAG:
        return _CONTAINER_OF_TAG[tag](from_plain(item) for item in content)
    cls: Any = _TYPE_OF_TAG[tag]
    return msgspec.convert(content, cls, dec_hook=_path)
