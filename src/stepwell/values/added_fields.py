"""Whether arguments are the recorded ones but for fields and parameters that the code has got since.

Of arguments only a checksum is recorded. A class that gets a field, or a function that gets a parameter, changes it,
though the code asks for the same; and that must not stop the runs under way. So where the checksum differs, fields and
parameters that have their default values are left out, in every combination: one of them is what the code was before.
Only a run that would have been stopped pays for the search.

Where nothing fits, the same search over all fields finds out which one is new, for the message.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, combinations, islice
from typing import Any, Final, TypeAlias

import msgspec

from stepwell.values.fingerprint import sorted_json, without_frames
from stepwell.values.inspection import (
    class_of,
    fields_of,
    fields_of_class,
    is_pydantic_model,
    items_of,
    mapping_of,
    type_name,
)
from stepwell.values.signature import Signature

#: How many combinations are tried, and how many bytes of JSON are made for them at most.
_COMBINATIONS: Final = 4096
_BYTES: Final = 50_000_000

#: What can be left out: a field of a class, or a parameter (without a class).
Part: TypeAlias = tuple[Any, str]
_NOTHING: Final = frozenset[Part]()
_MISSING: Final[Any] = object()


class Arguments:
    """The arguments of one call, with all that can be left out of them.

    `optional` are the fields and parameters that have their default values wherever they stand, `others` the rest.
    """

    def __init__(self, args: Sequence[Any], kwargs: dict[str, Any], signature: Signature | None) -> None:
        self._found: dict[Part, bool] = {}
        self._positional = [_Value(value, self._found) for value in args]
        self._named = {name: _Value(value, self._found) for name, value in kwargs.items()}
        self._names: list[str | None] = [None] * len(args)
        if signature is not None:
            self._names = [signature.place(index) for index in range(len(args))]
            for name, value in [*zip(self._names, args, strict=True), *kwargs.items()]:
                if name is not None:
                    self._found[None, name] = _is_default(value, signature.default_of(name))
        self.optional = [part for part, is_default in self._found.items() if is_default]
        self.others = [part for part, is_default in self._found.items() if not is_default]

    def without(self, search: Sequence[Part], recorded: int) -> frozenset[Part] | None:
        """Return which of these parts must be left out to get the recorded checksum; None where none do."""
        whole = [*self._positional, *self._named.values()]
        size = len(self._json(whole, _NOTHING))
        limit = min(_COMBINATIONS, _BYTES // (size + 1) + 1)
        for left_out in islice(_combinations(search), limit):
            if recorded in self._checksums(left_out):
                return left_out
        return None

    def _checksums(self, left_out: frozenset[Part]) -> Iterator[int]:
        positional = self._positional
        while positional and (None, self._names[len(positional) - 1]) in left_out:
            positional = positional[:-1]
        named = {name: value for name, value in self._named.items() if (None, name) not in left_out}
        if not positional and not named:
            yield 0
            return
        of_args = self._json(positional, left_out)
        of_kwargs = _object(sorted((name, value.json(left_out)) for name, value in named.items())) if named else b""
        yield zlib.crc32(without_frames(of_kwargs), zlib.crc32(without_frames(of_args)))
        yield zlib.crc32(of_kwargs, zlib.crc32(of_args))  # as versions before the first release did

    @staticmethod
    def _json(values: Sequence[_Value], left_out: frozenset[Part]) -> bytes:
        return b"[" + b",".join(value.json(left_out) for value in values) + b"]"


def is_recorded(recorded: int, args: Sequence[Any], kwargs: dict[str, Any], signature: Signature | None) -> bool:
    """Tell whether these are the arguments of the recorded checksum but for new fields and parameters."""
    with suppress(Exception):  # classes of users are looked at, and their default factories called
        arguments = Arguments(args, kwargs, signature)
        return arguments.without(arguments.optional, recorded) is not None
    return False


def what_is_new(recorded: int, args: Sequence[Any], kwargs: dict[str, Any], signature: Signature | None) -> str | None:
    """Return which fields or parameters tell the arguments from the recorded ones, in words; None where none do."""
    with suppress(Exception):  # as above
        arguments = Arguments(args, kwargs, signature)
        found = arguments.without([*arguments.others, *arguments.optional], recorded)
        if found:
            told = [_told(part) for part in arguments.others if part in found]
            return f"new since it was recorded: {', '.join(told)}" if told else None
    return None


def _told(part: Part) -> str:
    cls, name = part
    if cls is None:
        return f"the parameter `{name}`, with another value than its default"
    has_default = _default_of(cls, name, None) is not _MISSING
    return f"the field `{name}` of {type_name(cls)}, " + (
        "with another value than its default" if has_default else "which has no default"
    )


def _combinations(parts: Sequence[Part]) -> Iterator[frozenset[Part]]:
    """Yield sets of parts, the likeliest first: none, one each, all, then two each, and so on."""
    sizes = chain(range(min(2, len(parts) + 1)), [len(parts)] * (len(parts) > 1), range(2, len(parts)))
    return (frozenset(chosen) for size in sizes for chosen in combinations(parts, size))


# --- values -----------------------------------------------------------------------------------------------------------


class _Value:
    """The JSON of one value, from which fields can be left out.

    It is what `sorted_json` gives, or in parts: the items of a list, the fields of an object, each with the field that
    it is.
    """

    def __init__(self, value: Any, found: dict[Part, bool]) -> None:
        cls: Any = class_of(value)
        fields: Any = getattr(cls, "_fields", None)  # of a named tuple
        self._whole = sorted_json(value)
        self._items: list[tuple[Part | None, _Value]] | None = None
        self._fields: list[tuple[str, Part | None, _Value]] | None = None
        if cls in (list, tuple):
            self._items = [(None, _Value(item, found)) for item in items_of(value)]
        elif cls is dict and all(type(key) is str for key in mapping_of(value)):
            mapping = mapping_of(value)
            self._fields = [(key, None, _Value(mapping[key], found)) for key in sorted(mapping)]
        elif isinstance(value, tuple) and fields is not None:
            self._items = _items_in(value, fields, found)
        elif fields_of(value) and self._whole[:1] == b"[":  # a Struct that is written as an array
            self._items = _items_in(value, fields_of(value), found)
        elif fields_of(value):
            self._fields = _fields_in(value, self._whole, found)
        if self.json(_NOTHING) != self._whole:  # written by rules of its own: it is taken as a whole
            self._items = self._fields = None

    def json(self, left_out: frozenset[Part]) -> bytes:
        """Return the JSON without some fields."""
        if self._items is not None:
            return b"[" + b",".join(item.json(left_out) for part, item in self._items if part not in left_out) + b"]"
        if self._fields is not None:
            return _object((key, value.json(left_out)) for key, part, value in self._fields if part not in left_out)
        return self._whole


def _items_in(value: Any, names: Sequence[str], found: dict[Part, bool]) -> list[tuple[Part | None, _Value]]:
    """Return the fields of an object that is written as an array, in order."""
    return [(_part(value, name, found), _Value(getattr(value, name), found)) for name in names]


def _part(value: Any, name: str, found: dict[Part, bool]) -> Part:
    """Return a field of an object, and note whether it has its default value here as well."""
    cls = class_of(value)
    part = (cls, name)
    found[part] = found.get(part, True) and _is_default(getattr(value, name), _default_of(cls, name, value))
    return part


def _object(pairs: Any) -> bytes:
    return b"{" + b",".join(msgspec.json.encode(key) + b":" + value for key, value in pairs) + b"}"


def _fields_in(value: Any, whole: bytes, found: dict[Part, bool]) -> list[tuple[str, Part | None, _Value]] | None:
    """Return the fields of an object as its JSON has them: the key, the field, its value."""
    written = msgspec.json.decode(whole, type=dict[str, msgspec.Raw])
    cls = class_of(value)
    name_of = {key: name for name, key in _keys_of(cls).items()}
    fields: list[tuple[str, Part | None, _Value]] = []
    for key in written:
        name = name_of.get(key, key)
        if not hasattr(value, name):  # the tag of a Struct
            fields.append((key, None, _Value(msgspec.json.decode(written[key]), {})))
            continue
        fields.append((key, _part(value, name, found), _Value(getattr(value, name), found)))
    return fields


def _keys_of(cls: Any) -> dict[str, str]:
    """Return the names under which fields are written, where these are others than their own."""
    if issubclass(cls, msgspec.Struct):
        return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    if is_pydantic_model(cls):
        return {name: field.serialization_alias or name for name, field in cls.model_fields.items()}
    return {}


def _default_of(cls: Any, name: str, owner: Any) -> Any:
    """Return the default value of a field, `_MISSING` where it has none."""
    if hasattr(cls, "_field_defaults"):  # a named tuple
        return cls._field_defaults.get(name, _MISSING)
    if name not in fields_of_class(cls):
        return _MISSING
    if issubclass(cls, msgspec.Struct):
        (info,) = (field for field in msgspec.structs.fields(cls) if field.name == name)
        if info.default_factory is not msgspec.NODEFAULT:
            return info.default_factory()
        return _MISSING if info.default is msgspec.NODEFAULT else info.default
    if is_pydantic_model(cls):
        field = cls.model_fields[name]
        return _MISSING if field.is_required() else field.get_default(call_default_factory=True)
    if dataclasses.is_dataclass(cls):
        (of,) = (field for field in dataclasses.fields(cls) if field.name == name)
        if of.default_factory is not dataclasses.MISSING:
            return of.default_factory()
        return _MISSING if of.default is dataclasses.MISSING else of.default
    (attribute,) = (field for field in cls.__attrs_attrs__ if field.name == name)
    default = attribute.default
    if hasattr(default, "factory"):
        return default.factory(owner) if default.takes_self else default.factory()
    return _MISSING if repr(default) == "NOTHING" else default


def _is_default(value: Any, default: Any) -> bool:
    if default is _MISSING or default is Signature.NONE:
        return False
    return sorted_json(value) == sorted_json(default)
