"""A value comes back equal, in type and in content, or it is refused with its path before anything is recorded."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import pathlib
import uuid
import zoneinfo
from typing import Any, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from stepwell import SerializationError
from stepwell.values.codec import Codec
from stepwell.values.comparison import same

CODEC = Codec()
WHERE = "the result of step 'shop.charge' in run 'order-42'"
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


class Secret(pydantic.BaseModel):
    name: str
    token: pydantic.SecretStr


class SecretBytes(pydantic.BaseModel):
    token: pydantic.SecretBytes


class Excluding(pydantic.BaseModel):
    shown: int = 0
    hidden: str = pydantic.Field(default="default", exclude=True)


class Lossy(pydantic.BaseModel):
    price: float

    @pydantic.field_serializer("price")
    def _rounded(self, value: float) -> str:
        return f"{value:.1f}"


class Private(pydantic.BaseModel):
    shown: int
    _seen: int = pydantic.PrivateAttr(default=0)


class Numbered(pydantic.BaseModel):
    _number: int = pydantic.PrivateAttr(default_factory=iter(range(1000)).__next__)


class Stripping(pydantic.BaseModel):
    text: str

    @pydantic.field_validator("text")
    @classmethod
    def _strip(cls, value: str) -> str:
        return value.strip()


class Base(pydantic.BaseModel):
    a: int


class Derived(Base):
    b: int = 0


class Renamed(Base):
    pass


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


@dataclasses.dataclass
class Line:
    sku: str
    price: object
    note: str | None = None


@dataclasses.dataclass
class Order:
    lines: list[Line]
    tags: dict[Any, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def total(self) -> int:
        return len(self.lines)


@dataclasses.dataclass
class Priced:
    price: float


@dataclasses.dataclass
class SubLine(Line):
    pass


@dataclasses.dataclass
class Counted:
    values: list[int]
    count: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.count = len(self.values)


@dataclasses.dataclass
class Stamped:
    name: str
    number: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.number = self.number + 1


@dataclasses.dataclass(eq=False)
class Uncompared:
    value: int


@dataclasses.dataclass
class Forgetful:
    shown: int
    ignored: int = dataclasses.field(default=0, compare=False)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, 0 if name == "ignored" and value == 5 else value)


@attrs.define
class Parcel:
    weight: float
    stops: list[str] = attrs.field(factory=list)
    label: str = attrs.field(default="", init=False)


def _upper(text: str) -> str:
    return text.upper()


@attrs.define
class Guarded:
    shown: int
    _hidden: int = 0


@attrs.define
class Converted:
    name: str = attrs.field(converter=_upper)


class Packet(msgspec.Struct):
    size: int
    name: str = "x"


class Sparse(msgspec.Struct, omit_defaults=True):
    size: int = 0
    names: list[str] = []


class Doubling(msgspec.Struct):
    size: int

    def __post_init__(self) -> None:
        self.size *= 2


class Options(TypedDict, total=False):
    speed: int


class Point(NamedTuple):
    x: int
    y: Any = None


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    YES = "yes"


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Twins(enum.Enum):
    PAIR = (1, 2)
    LIST = [1, 2]  # noqa: RUF012 - a value of an enumeration


class Text(str):
    __slots__ = ()


def seen(value: int) -> Private:
    made = Private(shown=1)
    made._seen = value
    return made


def labelled(label: str) -> Parcel:
    parcel = Parcel(1.5, ["a"])
    parcel.label = label
    return parcel


def with_attribute() -> Order:
    order = Order([])
    order.cache = 5  # type: ignore[attr-defined]
    return order


def with_total() -> Order:
    order = Order([Line("a", 1)])
    assert order.total == 1
    return order


def at(**of: Any) -> dt.datetime:
    return dt.datetime(2024, 10, 27, 2, 30, 1, 5, **of)  # noqa: DTZ001 - naive times are values as well


SECONDS = dt.timezone(dt.timedelta(hours=1, seconds=30))

#: What comes back as it was, though it is near to what does not.
KEPT: list[tuple[Any, Any]] = [
    (Excluding(shown=3), Excluding),
    (seen(0), Private),
    (Stripping(text="a"), Stripping),
    (Derived(a=1, b=2), Derived),
    ([Derived(a=1, b=2)], list[Derived]),
    (Open(more=1), Open),  # type: ignore[call-arg]
    (Lossy(price=1.5), Lossy),
    (Order([Line("a", 1.5), Line("b", [None, True])], {"a": 1}), Order),
    (with_total(), Order),
    (SubLine("a", 1), SubLine),
    (Counted([1, 2]), Counted),
    (Uncompared(3), Uncompared),
    (Forgetful(1, 2), Forgetful),
    (labelled("there"), Parcel),
    (Converted("a"), Converted),
    (Guarded(1), Guarded),
    (Packet(3), Packet),
    (Sparse(), Sparse),
    (Sparse(3, ["a"]), Sparse),
    (Doubling(0), Doubling),
    ({"speed": 3}, Options),
    (Point(1, "x"), Point),
    ({1: "a", 2: "b"}, dict[int, str]),
    ({Colour.RED: 1}, dict[Colour, int]),
    ({uuid.UUID(int=3): [1]}, dict[uuid.UUID, list[int]]),
    (Word.YES, Word),
    ([Level.LOW], list[Level]),
    (Access.READ, Access),
    (Twins.PAIR, Twins),
    (at(tzinfo=dt.UTC), dt.datetime),
    (at(), dt.datetime),
    (at(tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))), dt.datetime),
    (at(tzinfo=zoneinfo.ZoneInfo("UTC")), dt.datetime),
    (dt.time(1, 2, 3, 4), dt.time),
    (dt.timedelta(days=-999, microseconds=1), dt.timedelta),
    (-0.0, float),
    (5e-324, float),
    (1, float),
    (Priced(1), Priced),
    (2**3000, int),
    (decimal.Decimal("1E+400"), decimal.Decimal),
    (decimal.Decimal("-0.00"), decimal.Decimal),
    ((1, (2, {3})), tuple[int, tuple[int, set[int]]]),
    ([1.0, 2, "x", None], list[float | int | str | None]),
    (bytearray(b"x"), bytearray),
    (pathlib.PurePosixPath("a/b"), pathlib.PurePosixPath),
    ({"a": [1, 2.5, {"b": None}], "c": True}, Any),
]


@pytest.mark.parametrize(("value", "annotation"), KEPT)
def test_what_json_keeps_comes_back_equal(value: Any, annotation: Any) -> None:
    payload, delivered = CODEC.converter(annotation).roundtrip(value, WHERE)
    assert same(value, delivered) or (type(delivered) is float and delivered == value)
    again = CODEC.decode(payload, annotation, WHERE)
    assert same(delivered, again)


#: What JSON, or a class, would change, with the path of it and a word of the reason.
CHANGED: list[tuple[Any, Any, str, str]] = [
    (Secret(name="a", token=pydantic.SecretStr("hunter2")), Secret, "$.token", "is written masked"),
    (SecretBytes(token=pydantic.SecretBytes(b"hunter2")), SecretBytes, "$.token", "is written masked"),
    ([Excluding(hidden="hunter2")], list[Excluding], "$[0].hidden", "does not write it (`exclude`)"),
    ({"a": Lossy(price=1.25)}, dict[str, Lossy], "$.a.price", "comes back as 1.2 in place of 1.25"),
    (seen(7), Private, "$._seen", "a private attribute of"),
    (Numbered(), Numbered, "$._number", "a private attribute of"),
    (Stripping.model_construct(text=" a "), Stripping, "$.text", "comes back as another str"),
    (Derived(a=1, b=2), Base, "$", "Derived, and comes back as a tests.engine.test_lossy_values.Base"),
    ([Base(a=1), Renamed(a=1)], list[Base], "$[1]", "Annotate it as tests.engine.test_lossy_values.Renamed"),
    (SubLine("a", 1), Line, "$", "SubLine, and comes back as"),
    (Order([Line("a", 1), Line("b", decimal.Decimal(2))]), Order, "$.lines[1].price", "comes back as text"),
    (Order([], {1: "a"}), Order, "$.tags", "has the key 1, an int"),
    (with_attribute(), Order, "$.cache", "it is no field of"),
    (Stamped("a"), Stamped, "$.number", "comes back as 2 in place of 1"),
    (Forgetful(1).__class__.__new__(Forgetful), Forgetful, "$", "missing required field"),
    (Doubling(3), Doubling, "$.size", "comes back as 12 in place of 6"),
    ([Guarded(1, hidden=7)], list[Guarded], "$[0]._hidden", "a private attribute of"),
    ({"speed": 3, "more": 1}, Options, "$", "has the key 'more'"),
    (Point(1, (2,)), Point, "$[1]", "is a tuple, and comes back as a list"),
    ({1: "a", "1": "b"}, Any, "$", "has the keys 1 and '1', which are the same text in JSON"),
    ({1: "a", "1": "b"}, dict[int | str, str], "$", "has the key"),
    ({True: 1}, dict[Any, int], "$", "has the key True"),
    ({Level.LOW: 1}, dict[int, int], "$", "has the key <Level.LOW: 1>"),
    ({dt.date(2024, 1, 1): 1}, Any, "$", "has the key datetime.date(2024, 1, 1)"),
    (Word.YES, str, "$", "comes back as text"),
    (Level.LOW, int, "$", "comes back as an int"),
    (Twins.LIST, Twins, "$", "comes back as <Twins.PAIR: (1, 2)>"),
    (Text("a"), str, "$", "Text, and comes back as text"),
    (collections.OrderedDict(a=1), dict[str, int], "$", "OrderedDict, and comes back as a dict"),
    (collections.Counter("a"), dict[str, int], "$", "Counter, and comes back as a dict"),
    (at(tzinfo=dt.UTC, fold=1), dt.datetime, "$", "has fold=1"),
    ([at(tzinfo=SECONDS)], list[dt.datetime], "$[0]", "whole minutes"),
    (at(tzinfo=BERLIN), dt.datetime, "$", "has the time zone Europe/Berlin"),
    (dt.time(1, 2, tzinfo=SECONDS), dt.time, "$", "whole minutes"),
    (2**53 + 1, float, "$", "comes back as"),
    (Priced(2**53 + 1), Priced, "$.price", "comes back as"),
    (decimal.Decimal(5), Any, "$", "Annotate it (`Decimal`)"),
    ([b"x"], Any, "$[0]", "is a bytes, and comes back as text"),
    ((1, "a"), Any, "$", "Annotate it (`tuple[int, str]`)"),
    ([(1,) * 9], list[Any], "$[0]", "Annotate it (`tuple[int, ...]`)"),
    ({1, 2}, Any, "$", "Annotate it (`set[int]`)"),
    (frozenset("a"), object, "$", "is a frozenset, and comes back as a list"),
    ({5: "x"}, Any, "$", "Annotate it (`dict[int, str]`)"),
    (Colour.RED, Any, "$", "Annotate it (`Colour`)"),
    ({"at": pathlib.PurePosixPath("a")}, Any, "$.at", "comes back as text"),
    ({"id": uuid.UUID(int=1)}, dict[str, Any], "$.id", "Annotate it (`UUID`)"),
    ([dt.date(2024, 1, 1)], Any, "$[0]", "Annotate it (`date`)"),
    (Order([]), Any, "$", "Annotate it (`Order`)"),
    (Packet(1), object, "$", "comes back as a dict"),
    (bytearray(b"x"), bytes, "$", "is a bytearray, and comes back as a bytes"),
]


@pytest.mark.parametrize(("value", "annotation", "path", "reason"), CHANGED)
def test_what_would_come_back_changed_is_refused_with_its_path(
    value: Any, annotation: Any, path: str, reason: str
) -> None:
    with pytest.raises(SerializationError) as caught:
        CODEC.converter(annotation).roundtrip(value, WHERE)
    assert caught.value.path == path
    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert WHERE in str(caught.value)
