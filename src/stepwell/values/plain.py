"""Values that tell their own types, for what has no annotation to go by: the arguments and attributes of exceptions.

JSON's own types stand for themselves. Others are ``{"$": name of the type, "value": …}``, and so are dicts that have
the key ``"$"`` or a key that is no text:

- builtin values and containers, dates, decimals, UUIDs, paths: restored as what they were;
- ``enum``, with its class as `type` and the name of its member: the member where its class is imported already, else
  its plain value;
- ``exception``: a failure of `stepwell.values.failure`, which reads and writes it;
- ``object``: what is left of anything else, a `Remnant`.

Subclasses of str, int and float are kept as plain text and numbers.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import pathlib
import sys
import types
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NoReturn

import msgspec

from stepwell.values.inspection import class_of, items_of, mapping_of

# What is kept of one exception at most: values, how deep they are nested, characters of a text, bits of an integer (far
# below those that Python still converts to text), attributes of an object of which only a remnant is kept.
_VALUES: Final = 500
_DEPTH: Final = 12
_TEXT_CHARS: Final = 8_000
_INTEGER_BITS: Final = 4096
_REMNANT_ATTRIBUTES: Final = 20

#: Numbers that are kept of an object; NaN is not below anything.
_NUMBERS: Final = (bool, int, float)
_NUMBERS_BELOW: Final = 2**63

_json = msgspec.json.Encoder().encode

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
    """The value is not made of plain values, or of too many; its text says which, after the value's name."""


class Remnant:
    """What was recorded of an object that is no plain value: those of its attributes that are numbers.

    An exception's handler looks at numbers (`error.response.status_code`); text may hold what must not be recorded.
    """

    def __init__(self, type_name: str, attributes: dict[str, Any]) -> None:
        self.__dict__.update(attributes)
        self.__dict__["_type_name"] = type_name

    def __getattr__(self, name: str) -> NoReturn:
        """Say why there is no such attribute."""
        kept = ", ".join(attributes_of(self))
        raise AttributeError(
            f"of this {self.__dict__.get('_type_name')} only {kept} was recorded, and not {name}: it is no plain "
            "value. Raise an exception that holds what its handlers need as plain values",
            name=name,
            obj=self,
        )

    def __repr__(self) -> str:
        """Name the class, and what was kept."""
        kept = ", ".join(f"{name}={value!r}" for name, value in attributes_of(self).items())
        return f"<recorded of {self.__dict__['_type_name']}: {kept}>"

    def __eq__(self, other: object) -> bool:
        """Compare class and attributes."""
        return isinstance(other, Remnant) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment] # pyright: ignore[reportAssignmentType] - can be changed


def attributes_of(remnant: Remnant) -> dict[str, Any]:
    """Return what was kept, by name."""
    return {name: value for name, value in remnant.__dict__.items() if name != "_type_name"}


def name_of(cls: Any) -> str:
    """Return the name of a class as tracebacks show it: ``ValueError``, ``shop.errors.CardDeclined``."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def imported_class(name: str, base: type) -> Any:
    """Return the subclass of `base` of this name, None where its module is not imported or has no such class.

    Looks into `__dict__` only: a lazy module is not loaded, a module's `__getattr__` and descriptors are not called.
    """
    parts = name.split(".")
    for split in range(len(parts) - 1, -1, -1):
        module = sys.modules.get(".".join(parts[:split]) or "builtins")
        if not isinstance(module, types.ModuleType):
            continue
        found: Any = module
        for part in parts[split:]:
            holder = object.__getattribute__(found, "__dict__") if found is module else vars(found)
            found = holder.get(part)
            if not isinstance(found, type):
                break
        else:
            return found if issubclass(found, base) else None
    return None


class Writer:
    """Makes values plain; one for each exception, whose values it counts.

    `exception` writes an exception that is among them, or returns None. `remnants` collects the names of the classes of
    which only a part was kept, each with what that is.
    """

    def __init__(self, exception: Callable[[BaseException], Any]) -> None:
        self._exception = exception
        self._left = _VALUES
        self.remnants: list[str] = []

    def plain(self, value: Any, depth: int = _DEPTH) -> Any:
        """Return `value` in JSON's own types; raises `NotPlainError` where it is not plain, or too large."""
        self._left -= 1
        if self._left < 0:
            raise NotPlainError("is too much to record")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, enum.Enum):
            return self._enum(value, depth)
        if isinstance(value, str):
            return _plain_text(value)
        if isinstance(value, int):
            if value.bit_length() > _INTEGER_BITS:
                raise NotPlainError("is too large to record")
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$": "float", "value": str(float(value))}
        if depth == 0:
            raise NotPlainError("is nested too deeply to record")
        return self._structure(value, depth - 1)

    def _structure(self, value: Any, depth: int) -> Any:
        cls = class_of(value)
        if cls is list:
            return [self.plain(item, depth) for item in items_of(value)]
        if cls is dict:
            return self._dict(mapping_of(value), depth)
        if cls in _CONTAINERS:
            items = [self.plain(item, depth) for item in items_of(value)]
            if cls is not tuple:
                items.sort(key=_json)
            return {"$": _CONTAINERS[cls], "value": items}
        if cls in _TAGGED:
            try:
                return {"$": _TAGGED[cls], "value": msgspec.to_builtins(value, enc_hook=str)}
            except (ValueError, TypeError, OverflowError):
                raise NotPlainError("cannot be written") from None
        if isinstance(value, BaseException):
            record = self._exception(value)
            if record is None:
                raise NotPlainError("leads back to an exception that contains it, or is one too many")
            return {"$": "exception", "value": record}
        return self._remnant(value)

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        if "$" not in value and all(type(key) is str for key in value):
            return {_plain_text(key): self.plain(item, depth) for key, item in value.items()}
        pairs = [[self.plain(key, depth), self.plain(item, depth)] for key, item in value.items()]
        return {"$": "dict", "value": pairs}

    def _enum(self, value: enum.Enum, depth: int) -> Any:
        try:
            plain = self.plain(value.value, min(depth, 1))
        except NotPlainError:
            plain = None
        name = name_of(type(value))
        return {"$": "enum", "type": name, "name": value.name, "value": plain} if value.name else plain

    def _remnant(self, value: Any) -> Any:
        if isinstance(value, Remnant):
            return {"$": "object", "type": value.__dict__["_type_name"], "value": attributes_of(value)}
        name = name_of(class_of(value))
        kept = dict(_numbers_of(value))
        if not kept:
            raise NotPlainError(f"is {_a(name)}, which is no plain value")
        self.remnants.append(f"{_a(name)}, which is no plain value (kept of it: {', '.join(kept)})")
        return {"$": "object", "type": name, "value": kept}


def _a(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _numbers_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object that are numbers, without calling any code of its class."""
    if isinstance(value, (type, types.ModuleType)):
        return
    cls = class_of(value)
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ == "builtins":
            continue
        for name, member in mapping_of(vars(base)).items():
            # A member descriptor is a slot.
            found[name] = _slot(member, value) if isinstance(member, types.MemberDescriptorType) else member
    with suppress(AttributeError, TypeError):
        found.update(object.__getattribute__(value, "__dict__"))
    named = ((name, member) for name, member in found.items() if type(name) is str and not name.startswith("_"))
    kept = ((name, member) for name, member in named if type(member) in _NUMBERS and abs(member) < _NUMBERS_BELOW)
    yield from islice(kept, _REMNANT_ATTRIBUTES)


def _slot(member: types.MemberDescriptorType, value: Any) -> Any:
    try:
        return member.__get__(value)
    except AttributeError:
        return None


def _plain_text(value: str) -> str:
    text = str.__str__(value)
    if len(text) > _TEXT_CHARS:
        raise NotPlainError("is too long a text to record")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotPlainError("is text with lone surrogates") from None
    return text


def _path(cls: Any, value: Any) -> Any:
    return cls(value)


def restore(value: Any, exception: Callable[[Any], BaseException]) -> Any:
    """Return the value that a `Writer` wrote, which has exceptions read by `exception`.

    Raises anything for what no `Writer` wrote.
    """
    if isinstance(value, list):
        return [restore(item, exception) for item in items_of(value)]
    if not isinstance(value, dict):
        return value
    mapping = mapping_of(value)
    if "$" not in mapping:
        return {key: restore(item, exception) for key, item in mapping.items()}
    tag = mapping["$"]
    content: Any = mapping["value"]
    if tag == "float":
        return float(content)
    if tag == "dict":
        return {restore(key, exception): restore(item, exception) for key, item in content}
    if tag in _CONTAINER_OF_TAG:
        return _CONTAINER_OF_TAG[tag](restore(item, exception) for item in content)
    if tag == "exception":
        return exception(content)
    if tag == "enum":
        return _restore_enum(mapping["type"], mapping["name"], restore(content, exception))
    if tag == "object":
        return Remnant(str(mapping["type"]), {str(name): item for name, item in mapping_of(content).items()})
    cls: Any = _TYPE_OF_TAG[tag]
    return msgspec.convert(content, cls, dec_hook=_path)


def _restore_enum(type_name: str, name: str, plain: Any) -> Any:
    """Return the member, looked up without calling anything; its plain value where there is none any more."""
    cls = imported_class(type_name, enum.Enum)
    members: dict[str, Any] = {} if cls is None else type.__getattribute__(cls, "_member_map_")
    return members.get(name, plain)
