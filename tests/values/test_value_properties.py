"""Any value of any annotation comes back equal in type and content, or is refused with its path."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import typing
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepwell.errors import DefinitionError, SerializationError
from stepwell.values.codec import Codec
from stepwell.values.comparison import same

CODEC = Codec()


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Text(str):
    __slots__ = ()


class Rows(list[Any]):
    pass


def identical(one: Any, other: Any) -> bool:
    """Compare as slowly and simply as can be; the project's own comparison is held to this one."""
    if type(one) is int and type(other) is float:
        return bool(one == other)
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and one == other
    if isinstance(one, (dt.datetime, dt.time)):
        zones = one.tzinfo is None or one.tzinfo.utcoffset(None) is not None or one.tzinfo is other.tzinfo
        return zones and (one.utcoffset(), one.fold, one.replace(tzinfo=None)) == (
            other.utcoffset(), other.fold, other.replace(tzinfo=None)
        )  # fmt: skip
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    if isinstance(one, enum.Enum):
        return one is other
    if isinstance(one, dict):
        pairs = [(k, k2) for k in one for k2 in other if k == k2]
        return len(one) == len(other) == len(pairs) and all(
            identical(k, k2) and identical(one[k], other[k2]) for k, k2 in pairs
        )
    if isinstance(one, (set, frozenset)):
        pairs = [(k, k2) for k in one for k2 in other if k == k2]
        return len(one) == len(other) == len(pairs) and all(identical(*pair) for pair in pairs)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    if hasattr(one, "__dict__") or hasattr(one, "__struct_fields__") or hasattr(one, "__attrs_attrs__"):
        names = set(getattr(one, "__dict__", {})) | set(getattr(one, "__struct_fields__", ()))
        names |= {field.name for field in getattr(one, "__attrs_attrs__", ())}
        names |= set(getattr(other, "__dict__", {}))
        private = getattr(one, "__pydantic_private__", None) == getattr(other, "__pydantic_private__", None)
        return private and all(identical(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)


ZONES = st.sampled_from(
    [
        dt.UTC,
        dt.timezone(dt.timedelta(hours=5, minutes=45)),
        dt.timezone(dt.timedelta(seconds=-30)),
        zoneinfo.ZoneInfo("Europe/Berlin"),
        zoneinfo.ZoneInfo("UTC"),
    ]
)
ATOMS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (str, st.text(st.characters())),
    (bool, st.booleans()),
    (float, st.floats()),
    (None, st.none()),
    (bytes, st.binary(max_size=5)),
    (uuid.UUID, st.uuids()),
    (dt.date, st.dates()),
    (dt.datetime, st.datetimes(timezones=st.none() | ZONES, allow_imaginary=True)),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas()),
    (decimal.Decimal, st.decimals(allow_nan=True)),
    (pathlib.Path, st.sampled_from(["a", "/a/b", ".", "//x/y"]).map(pathlib.Path)),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Word, st.sampled_from(Word)),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (Any, st.integers() | st.text()),
    (object, st.dictionaries(st.text(), st.integers(), max_size=2)),
]
#: What no annotation promises, or only by mistake.
STRANGE = st.one_of(
    st.text().map(Text),
    st.lists(st.integers(), max_size=2).map(Rows),
    st.sampled_from([1, "1", 1.0, True, 2**53 + 1, -0.0, math.nan, "\ud800", 10**5000]),
    st.tuples(st.integers()),
    st.sets(st.integers()),
    st.sampled_from([{1: 2, "1": 3}, {True: 1}, {None: 1}, {1.5: 2}]),
    st.complex_numbers(),
    st.builds(object),
    st.builds(bytearray, st.just(b"x")),
)
NUMBER = iter(range(10**9))

Typed = tuple[Any, st.SearchStrategy[Any]]


def as_dataclass(fields: dict[str, Typed], *, slots: bool) -> Typed:
    names = [(name, of[0]) for name, of in fields.items()]
    cls = dataclasses.make_dataclass(f"D{next(NUMBER)}", names, slots=slots)
    return cls, st.builds(cls, **{name: of[1] for name, of in fields.items()})


def as_struct(fields: dict[str, Typed], *, slots: bool) -> Typed:
    cls = msgspec.defstruct(f"S{next(NUMBER)}", [(name, of[0]) for name, of in fields.items()], array_like=slots)
    return cls, st.builds(cls, **{name: of[1] for name, of in fields.items()})


def as_attrs(fields: dict[str, Typed], *, slots: bool) -> Typed:
    cls = attrs.make_class(
        f"A{next(NUMBER)}", {name: attrs.field(type=of[0]) for name, of in fields.items()}, slots=slots
    )
    return cls, st.builds(cls, **{name: of[1] for name, of in fields.items()})


def as_pydantic(fields: dict[str, Typed], *, slots: bool) -> Typed:
    settings = pydantic.ConfigDict(extra="allow" if slots else "ignore", arbitrary_types_allowed=True)
    given_fields: Any = {name: (of[0], ...) for name, of in fields.items()}
    try:
        cls = pydantic.create_model(f"P{next(NUMBER)}", __config__=settings, **given_fields)
    except pydantic.errors.PydanticUserError:  # of a TypedDict, on Python 3.11
        return as_dataclass(fields, slots=slots)
    return cls, st.builds(cls.model_construct, **{name: of[1] for name, of in fields.items()})


def as_tuple(fields: dict[str, Typed], *, slots: bool) -> Typed:
    del slots
    cls: Any = NamedTuple(f"N{next(NUMBER)}", [(name, of[0]) for name, of in fields.items()])  # type: ignore[misc]
    return cls, st.builds(cls, **{name: of[1] for name, of in fields.items()})


def as_typed_dict(fields: dict[str, Typed], *, slots: bool) -> Typed:
    del slots
    cls: Any = TypedDict(f"T{next(NUMBER)}", {name: of[0] for name, of in fields.items()})  # type: ignore[misc]
    return cls, st.fixed_dictionaries({name: of[1] for name, of in fields.items()})


MAKERS: list[Callable[..., Typed]] = [as_dataclass, as_struct, as_attrs, as_pydantic, as_tuple, as_typed_dict]


@st.composite
def records(draw: st.DrawFn, inner: st.SearchStrategy[Typed]) -> Typed:
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "_d"]), min_size=1, max_size=3, unique=True))
    make = draw(st.sampled_from(MAKERS))
    if make in (as_pydantic, as_tuple, as_attrs):
        names = [name.lstrip("_") for name in names]
    made: Typed = make({name: draw(inner) for name in names}, slots=draw(st.booleans()))
    return made


def generic(origin: Any, *args: Any) -> Any:
    return origin[args if len(args) > 1 else args[0]]


def containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    keys = st.sampled_from(ATOMS[:11])
    return st.one_of(
        inner.map(lambda of: (generic(list, of[0]), st.lists(of[1], max_size=3))),
        inner.map(lambda of: (generic(tuple, of[0], ...), st.lists(of[1], max_size=3).map(tuple))),
        st.tuples(inner, inner).map(lambda of: (generic(tuple, of[0][0], of[1][0]), st.tuples(of[0][1], of[1][1]))),
        inner.map(lambda of: (generic(dict, str, of[0]), st.dictionaries(st.text(max_size=3), of[1], max_size=3))),
        keys.map(lambda of: (generic(set, of[0]), st.sets(of[1], max_size=3))),
        st.tuples(keys, inner).map(
            lambda of: (generic(dict, of[0][0], of[1][0]), st.dictionaries(of[0][1], of[1][1], max_size=3))
        ),
        inner.map(lambda of: (generic(typing.Optional, of[0]), of[1] | st.none())),
        records(inner),
    )


TYPED = st.recursive(st.sampled_from(ATOMS), containers, max_leaves=6)


@st.composite
def values(draw: st.DrawFn) -> tuple[Any, Any]:
    """Draw an annotation, and mostly a value of it, else one of another annotation or a strange one."""
    annotation, of_it = draw(TYPED)
    kind = draw(st.sampled_from(["own", "own", "own", "other", "strange"]))
    if kind == "strange":
        return annotation, draw(
            STRANGE | st.lists(STRANGE, max_size=2) | st.dictionaries(st.text(), STRANGE, max_size=2)
        )
    return annotation, draw(of_it if kind == "own" else draw(TYPED)[1])


@settings(max_examples=200, deadline=None)
@given(values())
@example((float, 1))
@example((set[float], {1, 2.0}))
def test_any_value_comes_back_equal_or_is_refused_with_its_path(drawn: tuple[Any, Any]) -> None:
    annotation, value = drawn
    try:
        converter = CODEC.converter(annotation)
    except DefinitionError:
        return
    try:
        payload, delivered = converter.roundtrip(value, "the value")
    except SerializationError as error:
        told = error
    else:
        assert identical(value, delivered)
        assert identical(delivered, CODEC.decode(payload, annotation, "the value"))
        return
    assert told.path.startswith("$")
    assert told.path in str(told)


@settings(max_examples=100, deadline=None)
@given(values(), values())
def test_the_fast_comparison_says_what_a_slow_one_says(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    try:
        shown = repr((one, other))
    except ValueError:  # an integer of too many digits
        return
    if "nan" in shown or "object at" in shown:  # NaN is refused before it is compared, plain objects are no values
        return
    for left, right in ((one[1], other[1]), (one[1], one[1]), ([one[1], other[1]], [other[1], one[1]])):
        assert same(left, right) == identical(left, right)


@settings(max_examples=100, deadline=None)
@given(values())
def test_any_message_is_read_as_what_it_is_or_is_refused(drawn: tuple[Any, Any]) -> None:
    annotation, value = drawn
    with contextlib.suppress(SerializationError):
        payload = CODEC.encode_untyped(value, "the message")
        with contextlib.suppress(SerializationError):  # which says that it wants to know the type
            assert identical(value, CODEC.decode(payload, Any, "the message"))
        with contextlib.suppress(SerializationError, DefinitionError):
            CODEC.converter(annotation).roundtrip(value, "the message")
            assert identical(value, CODEC.decode(payload, annotation, "the message"))


def test_a_message_that_json_does_not_show_has_to_be_read_as_what_it_is() -> None:
    payload = CODEC.encode_untyped({"price": decimal.Decimal("1.50")}, "the message")
    assert payload == ' {"price":"1.50"}'
    assert CODEC.decode(payload, dict[str, decimal.Decimal], "the message") == {"price": decimal.Decimal("1.50")}
    with pytest.raises(SerializationError, match="Say what it is"):
        CODEC.decode(payload, Any, "the message")
    assert CODEC.show(payload, "the message") == {"price": "1.50"}
    assert CODEC.encode_untyped({"price": [1.5, None]}, "the message") == '{"price":[1.5,null]}'
