"""Decoders for annotations: what msgspec does natively, and what it leaves to hooks or refuses.

By hook: pydantic models (only where pydantic is imported already), `pathlib` paths, subclasses of str, int and float.
Refused by msgspec, and made possible here: unions of classes that are all written as JSON objects, such as
``Card | Transfer`` with two dataclasses, wherever they stand, also inside containers and fields.

The rule for such a union: a member fits when decoding succeeds *and* writing the result again gives back the same
JSON. So ``{"x": 1, "y": 2}`` is never taken for a class that knows only ``x``. Where no member fits exactly, the first
one is taken that only adds fields (it got a default since the value was written). Where two fit exactly, nothing
in the file tells them apart, and that is an error: a value must never come back as another class.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from stepwell.errors import DefinitionError
from stepwell.values.inspection import class_of, is_pydantic_model, items_of, mapping_of, type_name

#: Annotations that promise nothing: values are delivered as JSON shows them.
UNTYPED: Final[tuple[Any, ...]] = (Any, object, inspect.Parameter.empty, getattr(typing, "Self"))  # noqa: B009 - pyright refuses a bare Self

_SCALARS: Final = (str, int, float)
_UNIONS: Final = (typing.Union, types.UnionType)


# --- writing --------------------------------------------------------------------------------------------------------


def encode_hook(value: Any) -> Any:
    """Return a JSON form of what msgspec does not know; raise `TypeError` where there is none."""
    if isinstance(value, pathlib.PurePath):
        return str(value)
    for scalar in _SCALARS:
        if isinstance(value, scalar):
            return scalar(value)
    cls = class_of(value)
    if is_pydantic_model(cls):
        return msgspec.Raw(_pydantic_json(value))
    raise TypeError(f"{type_name(cls)} has no JSON form")


def sorting_encode_hook(value: Any) -> Any:
    """Do as `encode_hook`, but leave the sets of a pydantic model to an encoder that sorts them."""
    if not is_pydantic_model(type(value)):
        return encode_hook(value)
    try:
        return msgspec.Raw(_encode_sorted(value.model_dump(mode="python", round_trip=True)))
    except TypeError:  # it holds something that only pydantic can write
        return msgspec.Raw(_pydantic_json(value))


_encode = msgspec.json.Encoder(enc_hook=encode_hook).encode
_encode_sorted = msgspec.json.Encoder(enc_hook=sorting_encode_hook, order="deterministic").encode


def _pydantic_json(value: Any) -> bytes:
    # Aliases may differ between reading and writing; field names cannot, from the pydantic on that can read by name.
    cls = class_of(value)
    text: str = value.model_dump_json(by_alias=not _reads_by_name(cls), round_trip=True)
    return text.encode()


@functools.lru_cache(maxsize=1024)
def _reads_by_name(model: Any) -> bool:
    return "by_name" in inspect.signature(model.model_validate_json).parameters


def _decode_pydantic(model: Any, data: bytes) -> Any:
    if _reads_by_name(model):
        return model.model_validate_json(data, by_alias=True, by_name=True)
    return model.model_validate_json(data)


# --- reading --------------------------------------------------------------------------------------------------------


class _Lenient(type):
    """The type of placeholders: msgspec checks that what a hook returns is an instance of what was asked for."""

    def __instancecheck__(cls, _instance: object) -> bool:
        return True


class Decoders:
    """Makes decoders for annotations, and remembers how to read the types that it had to replace."""

    def __init__(self) -> None:
        # Annotations that msgspec refuses, each with the class that stands for it and how to read that one.
        self._placeholders: dict[Any, type] = {}
        self._readers: dict[type, Callable[[Any], Any]] = {}

    def decoder(self, annotation: Any) -> Callable[[str | bytes], Any]:
        """Return a function that decodes JSON as `annotation` says.

        Raises `DefinitionError` where JSON cannot express the type.
        """
        if is_untyped(annotation):
            return msgspec.json.Decoder().decode
        try:
            return self._build(self._accepted(annotation))
        except DefinitionError:
            raise
        except Exception as error:
            raise DefinitionError(
                f"a value annotated {show(annotation)} cannot be read back from the file: {error}. "
                "Annotate it with a type that JSON can express"
            ) from error

    def _build(self, annotation: Any) -> Callable[[str | bytes], Any]:
        return msgspec.json.Decoder(annotation, dec_hook=self._hook).decode

    def _hook(self, annotation: Any, value: Any) -> Any:
        reader = self._readers.get(annotation)
        if reader is not None:
            return reader(value)
        if annotation is object:
            return value
        if isinstance(annotation, type):
            if is_pydantic_model(annotation):
                return _decode_pydantic(annotation, msgspec.json.encode(value))
            if issubclass(annotation, pathlib.PurePath):
                return annotation(_expect(str, value))
            for scalar in _SCALARS:
                if issubclass(annotation, scalar):
                    return annotation(_expect(scalar, value))
        raise TypeError(f"`{show(annotation)}` has no JSON form to read it from")

    # --- annotations that msgspec refuses ----------------------------------------------------------------------------

    def _accepted(self, annotation: Any) -> Any:
        """Return `annotation`, or one like it that msgspec accepts, with placeholders for what it refuses."""
        try:
            self._build(annotation)
        except TypeError as error:
            return self._rewritten(annotation, error)
        return annotation

    def _rewritten(self, annotation: Any, refusal: TypeError) -> Any:
        if is_untyped(annotation):
            return Any
        if annotation in (typing.NoReturn, typing.Never):
            return None
        if annotation is typing.LiteralString:
            return str
        alias = getattr(annotation, "__value__", None)  # type X = …
        if alias is not None and type(annotation).__name__ == "TypeAliasType":
            return self._accepted(alias)
        if annotation in self._placeholders:
            return self._placeholders[annotation]
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in _UNIONS:
            return self._union(annotation, args, refusal)
        if origin is typing.Annotated:
            return typing.Annotated[(self._accepted(args[0]), *args[1:])]
        if origin is not None and origin is not Literal:
            replaced = tuple(arg if arg is ... else self._accepted(arg) for arg in args)
            if replaced != args:
                return self._accepted(origin[replaced])
        if isinstance(annotation, type) and _is_record(annotation):
            return self._record(annotation, refusal)
        if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            placeholder = self._placeholder(annotation)
            self._readers[placeholder] = functools.partial(_read_enum, list(annotation))
            return placeholder
        raise refusal

    def _placeholder(self, annotation: Any) -> type:
        placeholder = _Lenient("Placeholder", (), {})
        self._placeholders[annotation] = placeholder
        return placeholder

    def _union(self, annotation: Any, args: tuple[Any, ...], refusal: TypeError) -> Any:
        objects = [arg for arg in args if _is_object(arg)]
        others = [self._accepted(arg) for arg in args if not _is_object(arg)]
        if not objects:
            rest: Any = typing.Union[tuple(others)]  # noqa: UP007 - made at run time
            if rest == annotation:
                raise refusal
            return self._accepted(rest)
        placeholder = self._placeholder(annotation)
        try:
            members = [(show(arg), self.decoder(arg)) for arg in objects]
            if others:
                rest = typing.Union[tuple(others)]  # noqa: UP007 - made at run time
                members.append((show(rest), self._build(rest)))
        except BaseException:
            del self._placeholders[annotation]
            raise
        self._readers[placeholder] = functools.partial(_read_union, members)
        return placeholder

    def _record(self, cls: Any, refusal: TypeError) -> Any:
        """Read a class some field of which msgspec refuses: through a Struct with the same fields, but placeholders."""
        name = type_name(cls)
        hints = typing.get_type_hints(cls, include_extras=True)
        defaults: dict[str, bool] = {}
        if dataclasses.is_dataclass(cls):
            defaults = {f.name: _has_default(f) for f in dataclasses.fields(cls)}
        elif hasattr(cls, "__attrs_attrs__"):
            defaults = {f.name: repr(f.default) != "NOTHING" for f in cls.__attrs_attrs__}
        else:
            raise refusal
        placeholder = self._placeholder(cls)
        try:
            fields = [(name, self._accepted(hints[name]), msgspec.UNSET) for name in defaults]
        except BaseException:
            del self._placeholders[cls]
            raise
        if all(accepted is hints[name] for name, accepted, _ in fields):  # refused for something else than its fields
            del self._placeholders[cls]
            raise refusal
        mirror = msgspec.defstruct(name.rpartition(".")[2], fields)
        decode = msgspec.json.Decoder(mirror, dec_hook=self._hook).decode
        self._readers[placeholder] = functools.partial(_read_record, cls, decode, defaults)
        return placeholder


def is_untyped(annotation: Any) -> bool:
    """Tell whether an annotation promises nothing."""
    return any(annotation is untyped for untyped in UNTYPED) or isinstance(annotation, str)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _is_record(cls: Any) -> bool:
    return dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__")


def _is_object(annotation: Any) -> bool:
    """Tell whether values of this type are written as JSON objects."""
    cls: Any = typing.get_origin(annotation) or annotation
    if not isinstance(cls, type):
        return False
    config = getattr(cls, "__struct_config__", None)
    if config is not None:
        return not config.array_like
    return _is_record(cls) or typing.is_typeddict(cls) or is_pydantic_model(cls) or issubclass(cls, dict)


def _expect(cls: type, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float) if cls is float else cls):
        raise TypeError(f"Expected `{cls.__name__}`, got `{_json_type(value)}`")
    return value


def _json_type(value: Any) -> str:
    name = type(value).__name__
    return {"dict": "object", "list": "array", "NoneType": "null"}.get(name, name)


def _read_union(members: list[tuple[str, Callable[[str | bytes], Any]]], value: Any) -> Any:
    data = msgspec.json.encode(value)
    same: list[tuple[str, Any]] = []
    wider: list[Any] = []
    reasons: list[str] = []
    for name, decode in members:
        try:
            candidate = _completed(decode(data))
            again = _encode(candidate)
        except Exception as error:  # noqa: BLE001 - classes of users may raise anything while they are made
            reasons.append(f"{name}: {plain_reason(error)}")
            continue
        if again == data or _equal(again, value):
            same.append((name, candidate))
        elif _holds(msgspec.json.decode(again), value):
            wider.append(candidate)
        else:
            reasons.append(f"{name}: would lose a part of the value")
    if len(same) == 1:
        return same[0][1]
    if same:
        names = ", ".join(name for name, _ in same)
        raise ValueError(
            f"Expected a value of one class, but it fits {names} alike (give the classes different fields, "
            "or each a field `kind: Literal[...]` with its own text)"
        )
    if wider:
        return wider[0]
    names = " | ".join(name for name, _ in members)
    raise ValueError(f"Expected `{names}`, got `{_json_type(value)}` ({'; '.join(reasons)})")


def _completed(candidate: Any) -> Any:
    """Set its defaults on a dataclass instance: msgspec leaves them to the class, and does not write them then."""
    if dataclasses.is_dataclass(candidate) and hasattr(candidate, "__dict__"):
        for field in dataclasses.fields(candidate):
            if field.name not in candidate.__dict__ and hasattr(candidate, field.name):
                object.__setattr__(candidate, field.name, getattr(candidate, field.name))
    return candidate


def _equal(again: bytes, value: Any) -> bool:
    """Compare JSON by content: sets come back in another order, and 1 is not 1.0."""
    return _encode_sorted(_without_order(msgspec.json.decode(again))) == _encode_sorted(_without_order(value))


def _without_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_order(item) for key, item in mapping_of(value).items()}
    if isinstance(value, list):
        items = [_without_order(item) for item in items_of(value)]
        return [msgspec.Raw(item) for item in sorted(map(_encode_sorted, items))]
    return value


def _holds(again: Any, value: Any) -> bool:
    """Tell whether `again` is `value` with nothing but fields added."""
    if isinstance(value, dict) and isinstance(again, dict):
        less, more = mapping_of(value), mapping_of(again)
        return all(key in more and _holds(more[key], item) for key, item in less.items())
    if isinstance(value, list) and isinstance(again, list):
        before, after = items_of(value), items_of(again)
        return len(before) == len(after) and all(map(_holds, after, before))
    return _encode(again) == _encode(value)


def _read_enum(members: list[enum.Enum], value: Any) -> enum.Enum:
    """Read an enumeration whose values are neither all texts nor all integers."""
    data = _encode_sorted(value)
    for member in members:
        if _encode_sorted(member) == data:
            return member
    raise ValueError(f"Invalid enum value {data.decode()}")


def _read_record(cls: Any, decode: Callable[[bytes], Any], defaults: dict[str, bool], value: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"Expected `object`, got `{_json_type(value)}`")
    mirror = decode(msgspec.json.encode(value))
    made = cls.__new__(cls)
    given = {name: getattr(mirror, name) for name in defaults}
    missing = [name for name, found in given.items() if found is msgspec.UNSET]
    for name in missing:
        if not defaults[name]:
            raise ValueError(f"Object missing required field `{name}`")
        del given[name]
    return _construct(cls, made, given, missing)


def _construct(cls: Any, made: Any, given: dict[str, Any], missing: list[str]) -> Any:
    """Fill `made` as msgspec fills dataclasses: field by field, then ``__post_init__``, never ``__init__``."""
    fields: list[Any] = list(dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else cls.__attrs_attrs__)
    for field in fields:
        if field.name in missing:
            given[field.name] = _default_of(field, made)
        object.__setattr__(made, field.name, given[field.name])
    for after in ("__post_init__", "__attrs_post_init__"):
        if hasattr(made, after):
            getattr(made, after)()
    return made


def _default_of(field: Any, made: Any) -> Any:
    default = field.default
    if hasattr(field, "default_factory"):
        return default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if not hasattr(default, "factory"):
        return default
    return default.factory(made) if default.takes_self else default.factory()


# --- messages -------------------------------------------------------------------------------------------------------


def show(annotation: Any) -> str:
    """Return an annotation as it stands in source code, nearly."""
    if isinstance(annotation, type):
        return annotation.__qualname__
    return re.sub(r"\b(typing|__main__)\.", "", str(annotation))


def split_reason(error: Exception) -> tuple[str, str]:
    """Return what a validation error says, and the path inside the value that it speaks of."""
    text, *places = str(error).split(" - at `")
    # Hooks within hooks give several places, the innermost first. A key's place is written "`key` in `$`".
    steps = [place.rsplit("`", 1)[0].rsplit("`", 1)[-1].lstrip("$") for place in places]
    return text, "$" + "".join(reversed(steps))


def plain_reason(error: Exception) -> str:
    """Return what went wrong on one line, in a form that `split_reason` leaves alone."""
    text, path = split_reason(error)
    text = " ".join(text.split())
    return text if path == "$" else f"{text} at {path}"
