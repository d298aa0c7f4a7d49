"""Values go into the file and come out of it, or are refused with the place that is to blame."""

from __future__ import annotations

import asyncio
import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import io
import math
import os
import pathlib
import subprocess
import sys
import threading
import typing
import uuid
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import DefinitionError, PayloadTooLarge, SerializationError
from stepwell.values.codec import Codec
from stepwell.values.fingerprint import private_copy
from stepwell.values.signature import Signature

if TYPE_CHECKING:
    from nowhere import Nothing  # type: ignore[import-not-found]

WHERE = "the result of step 'shop.charge' in run 'order-42'"
CODEC = Codec()
T = TypeVar("T")


@dataclasses.dataclass
class Item:
    sku: str
    price: int
    extra: object = None


@dataclasses.dataclass
class Order:
    items: list[Item]
    note: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    number: str


@dataclasses.dataclass
class Transfer:
    number: str
    bank: str = "none"


@dataclasses.dataclass
class Coupon:
    number: str


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


@dataclasses.dataclass
class Basket:
    payments: list[Card | Transfer]
    owner: str = "nobody"
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Leaf:
    value: int


@dataclasses.dataclass
class Tree:
    branches: list[Tree | Leaf]


@attrs.define
class Parcel:
    weight: float
    stops: list[str] = attrs.Factory(list)


@attrs.define
class Shipment:
    content: Parcel | Card
    fragile: bool = False
    stops: list[str] = attrs.Factory(list)


class Packet(msgspec.Struct):
    size: int


class Options(TypedDict, total=False):
    speed: int
    label: str


class Point(NamedTuple):
    x: int
    y: float


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Odd(enum.Enum):
    NOTHING = None
    PAIR = (1, 2)
    HALF = 0.5


class Customer(pydantic.BaseModel):
    name: str
    joined: dt.date = dt.date(2020, 1, 1)
    tags: set[str] = set()
    score: float = pydantic.Field(default=0.0, alias="points")


class Company(pydantic.BaseModel):
    name: str
    staff: int


class Text(str):
    __slots__ = ()


UTC = dt.UTC
IDENTIFIER = uuid.UUID(int=7)

ROUND_TRIPS: list[tuple[object, Any]] = [
    (5, int),
    (2**64, int),
    (-(2**200), int),
    (2**200, Any),
    (True, bool),
    ("päper", str),
    ("a\x00b", str),
    (1.5, float),
    (1e300, float),
    (-0.0, float),
    (None, type(None)),
    (None, None),
    (None, int | None),
    (b"\x00\xff", bytes),
    (decimal.Decimal("1.10"), decimal.Decimal),
    (IDENTIFIER, uuid.UUID),
    (dt.datetime(2024, 2, 29, 12, 30, 1, 7, tzinfo=UTC), dt.datetime),
    (dt.datetime(2024, 2, 29), dt.datetime),  # noqa: DTZ001 - naive times are kept naive
    (dt.date(2024, 2, 29), dt.date),
    (dt.time(1, 2, 3), dt.time),
    (dt.timedelta(days=-3, microseconds=1), dt.timedelta),
    ((1, "a"), tuple[int, str]),
    ((1, 2), tuple[int, ...]),
    ({1, 2}, set[int]),
    (frozenset({"a"}), frozenset[str]),
    ({1: "a"}, dict[int, str]),
    ({IDENTIFIER: 1}, dict[uuid.UUID, int]),
    ([1, "a", None, 2.5], list[int | str | float | None]),
    ("a", Literal["a", "b"]),
    (3, Annotated[int, msgspec.Meta(ge=0)]),
    (7, int | str),
    ("7", int | str),
    (Colour.BLUE, Colour),
    (Level.LOW, Level),
    (Odd.PAIR, Odd),
    (Odd.NOTHING, Odd),
    ([Odd.HALF], list[Odd]),
    (Order([Item("a", 1)]), Order),
    (Order([Item("a", 1, {"b": [1]})], "x"), Order | None),
    (None, Order | None),
    (Card("1"), Card),
    (Box(3), Box[int]),
    (Box(Card("1")), Box[Card]),
    (Parcel(1.5, ["a"]), Parcel),
    (Packet(1), Packet),
    ({"speed": 3}, Options),
    (Point(1, 2.5), Point),
    (Customer(name="a", tags={"x", "y"}, points=1.5), Customer),
    ([Customer(name="a")], list[Customer]),
    (None, Customer | None),
    (pathlib.Path("/tmp/a"), pathlib.Path),
    ({"a": pathlib.PurePosixPath("b")}, dict[str, pathlib.PurePosixPath]),
    (Text("a"), Text),
    (5, object),
    ("x", typing.LiteralString),
    (5, TypeVar("U")),
]


@pytest.mark.parametrize(("value", "annotation"), ROUND_TRIPS)
def test_a_value_comes_back_as_it_was_and_with_its_type(value: object, annotation: Any) -> None:
    payload, delivered = CODEC.converter(annotation).roundtrip(value, WHERE)
    assert delivered == value
    assert type(delivered) is type(value)
    assert payload == CODEC.encode(value, WHERE)
    assert CODEC.decode(payload, annotation, WHERE) == value


UNIONS: list[tuple[object, Any]] = [
    (Card("1"), Card | Transfer),
    (Transfer("1"), Card | Transfer),
    (Transfer("1"), Transfer | Card),
    (Transfer("1", "b"), list[Card] | Transfer | None),
    ([Transfer("1"), Card("2")], list[Card | Transfer]),
    ({"a": (Card("1"), 1)}, dict[str, tuple[Card | Transfer, int]]),
    (None, Card | Transfer | None),
    ("text", Card | Transfer | str),
    ([Card("1")], Card | Transfer | list[Card | Transfer]),
    (Customer(name="a", tags={"x", "y", "z"}), Customer | Company | None),
    (Company(name="a", staff=3), Customer | Company),
    (3, Customer | int),
    (Packet(1), Packet | Parcel | Options | Card),
    (Parcel(1.0), Packet | Parcel | Options | Card),
    ({"speed": 1}, Packet | Parcel | Options | Card),
    (Card("1"), Packet | Parcel | Options | Card),
    ({"a": 1}, Card | dict[str, int]),
    (pathlib.Path("a"), pathlib.Path | Card),
    (Card("1"), Annotated[Card | Transfer, "how it is paid"]),
    (Basket([Transfer("1"), Card("2")], tags=["x"]), Basket),
    (Basket([]), Basket | Card),
    (Tree([Leaf(1), Tree([Leaf(2)])]), Tree),
    (Shipment(Card("1"), stops=["a"]), Shipment),
    ([Shipment(Parcel(2.5), fragile=True)], list[Shipment]),
    (Box(Transfer("1")), Box[Card | Transfer]),
]


@pytest.mark.parametrize(("value", "annotation"), UNIONS)
def test_a_union_of_classes_gives_back_the_class_that_was_written(value: object, annotation: Any) -> None:
    _, delivered = CODEC.converter(annotation).roundtrip(value, WHERE)
    assert delivered == value
    assert type(delivered) is type(value)


def test_a_union_never_takes_one_class_for_another_with_the_same_fields() -> None:
    with pytest.raises(SerializationError, match="fits Card, Coupon alike"):
        CODEC.converter(Card | Coupon).roundtrip(Coupon("1"), WHERE)


def test_a_union_refuses_a_value_that_a_member_would_cut_short() -> None:
    with pytest.raises(SerializationError, match=r"Card: would lose a part of the value.*at \$\[0\]"):
        CODEC.decode('[{"number": "1", "more": 2}]', list[Card | Leaf], WHERE)


def test_a_union_reads_what_was_written_before_a_field_with_a_default_was_added() -> None:
    assert CODEC.decode('{"payments": []}', Basket, WHERE) == Basket([])
    assert CODEC.decode('{"content": {"weight": 1.0, "stops": []}}', Shipment, WHERE) == Shipment(Parcel(1.0))
    assert CODEC.decode('{"number": "1"}', Transfer | Leaf, WHERE) == Transfer("1")


def test_a_value_of_no_member_of_a_union_is_refused_with_the_reason_of_each() -> None:
    with pytest.raises(SerializationError, match=r"Leaf: Expected `int`, got `str` at \$.value") as caught:
        CODEC.converter(Tree).roundtrip(Tree([Leaf("x")]), WHERE)  # type: ignore[arg-type]
    assert caught.value.path == "$.branches[0]"


def test_post_init_runs_for_a_class_that_needs_help() -> None:
    @dataclasses.dataclass
    class Checked:
        payment: Card | Transfer
        seen: list[str] = dataclasses.field(default_factory=list)

        def __post_init__(self) -> None:
            self.seen.append("checked")

    Checked.__annotations__["payment"] = Card | Transfer
    assert CODEC.decode('{"payment": {"number": "1"}}', Checked | None, WHERE).seen == ["checked"]


def test_subclasses_of_plain_types_are_written_as_these() -> None:
    class Count(int):
        pass

    class Ratio(float):
        pass

    value = [Text("a"), Count(2), Ratio(0.5), collections.OrderedDict(a=1)]
    assert CODEC.encode(value, WHERE) == '["a",2,0.5,{"a":1}]'


# --- what cannot be written ------------------------------------------------------------------------------------------


async def forgotten() -> None: ...


def cyclic() -> object:
    value: dict[str, Any] = {"inner": []}
    value["inner"].append(value)
    return value


def nested(depth: int) -> object:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


UNWRITABLE: dict[str, tuple[Callable[[], object], str, str]] = {
    "object": (object, "$", "is an object, which has no JSON form"),
    "custom class": (lambda: [1, Codec()], "$[1]", "is a stepwell.values.codec.Codec, which has no JSON form"),
    "in a field": (lambda: Order([Item("a", 1), Item("b", 2, object())]), "$.items[1].extra", "is an object"),
    "in attrs": (lambda: [Parcel(1.0, [object()])], "$[0].stops[0]", "is an object"),  # type: ignore[list-item]
    "in a dict": (lambda: {"a": {"b c": complex(1)}}, "$.a['b c']", "is a complex"),
    "in a set": (lambda: [{object()}], "$[0][0]", "is an object"),
    "generator": (lambda: [(n for n in "ab")], "$[0]", "Return a list"),
    "iterator": (lambda: iter([1]), "$", "Return a list"),
    "function": (lambda: {"f": len}, "$.f", "which is code"),
    "lambda": (lambda: lambda: 1, "$", "which is code"),
    "class": (lambda: [int], "$[0]", "which is code"),
    "module": (lambda: [math], "$[0]", "which is code"),
    "lock": (lambda: [threading.Lock()], "$[0]", "lives in this process only"),
    "file": (lambda: [io.StringIO()], "$[0]", "lives in this process only"),
    "exception": (lambda: [ValueError("x")], "$[0]", "Raise it"),
    "surrogate": (lambda: ["a", "\ud800"], "$[1]", "lone surrogates"),
    "surrogate key": (lambda: [{"\ud800": 1}], "$[0]", r"has the key '\ud800', text with lone surrogates"),
    "tuple as key": (lambda: {"a": {(1, 2): 3}}, "$.a", "has the key (1, 2), a tuple"),
    "huge integer": (lambda: [10**5000], "$[0]", "more than 4300 digits"),
    "NaN": (lambda: [1.0, math.nan], "$[1]", "NaN or infinite"),
    "NaN in a field": (lambda: Item("a", 1, {"x y": (None, -math.inf)}), "$.extra['x y'][1]", "NaN or infinite"),
    "NaN in pydantic": (lambda: [Customer(name="null", points=math.inf)], "$[0].score", "NaN or infinite"),
    "cycle": (cyclic, "$.inner[0]", "leads back to a value that contains it"),
    "deep": (
        lambda: nested(50_000),
        "$[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]…",
        "nested too deeply",
    ),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_json_cannot_express_is_refused_with_its_place(case: str) -> None:
    make, path, reason = UNWRITABLE[case]
    with pytest.raises(SerializationError) as caught:
        CODEC.encode(make(), WHERE)
    assert caught.value.path == path
    assert caught.value.where == WHERE
    assert str(caught.value).startswith(f"Cannot record {WHERE}: {path} ")
    assert reason in str(caught.value)
    with pytest.raises(SerializationError):
        CODEC.converter(Any).roundtrip(make(), WHERE)


def test_a_forgotten_await_is_named() -> None:
    coroutine = forgotten()
    with pytest.raises(SerializationError, match=r"\$\.a\[0\] is a coroutine, not a value. Did you forget `await`\?"):
        CODEC.encode({"a": [coroutine]}, WHERE)
    asyncio.run(coroutine)


def test_a_set_field_in_the_middle_of_nulls_and_the_word_null_are_no_nan() -> None:
    value = {"null": ["null", None, 1.5, {"a": None}, {2, 3}], "a": Order([Item("a", 1)])}
    assert CODEC.encode(value, WHERE) is not None


def test_a_value_above_the_limit_is_refused_with_both_sizes() -> None:
    codec = Codec(max_payload_bytes=1000)
    codec.encode("x" * 998, WHERE)
    with pytest.raises(PayloadTooLarge, match=r"order-42.*1,001 bytes, and 1,000 are allowed.*max_payload_bytes"):
        codec.encode("x" * 999, WHERE)
    with pytest.raises(PayloadTooLarge):
        codec.converter(str).roundtrip("ä" * 500, WHERE)
    with pytest.raises(PayloadTooLarge):
        codec.encode_arguments(("x" * 1000,), {}, WHERE)


# --- what does not fit its annotation --------------------------------------------------------------------------------

MISFITS: list[tuple[object, Any, str, str]] = [
    ("x", int, "$", "as int: expected `int`, got `str`"),
    (1, None, "$", "as None: expected `None`, got `int`"),
    (None, int, "$", "as int: expected `int`, got `None`"),
    (True, int, "$", "expected `int`, got `bool`"),
    (b"x", str, "$", "expected `str`, got `bytes`"),
    (dt.date(2024, 1, 1), str, "$", "expected `str`, got `datetime.date`"),
    (Order([Item("a", 1), Item("b", "2")]), Order, "$.items[1].price", "expected `int`, got `str`"),  # type: ignore[arg-type]
    ([IDENTIFIER], list[int], "$[0]", "expected `int`, got `uuid.UUID`"),
    ({"speed": "x"}, Options, "$.speed", "expected `int`, got `str`"),
    (-1, Annotated[int, msgspec.Meta(ge=0)], "$", "expected `int` >= 0"),
    ("green", Colour, "$", "invalid enum value"),
    (3, Odd, "$", "invalid enum value"),
    ([3], list[pathlib.Path], "$[0]", "expected `str`, got `int`"),
    ({"name": 3}, Customer, "$", "Customer"),
]


@pytest.mark.parametrize(("value", "annotation", "path", "reason"), MISFITS)
def test_a_value_that_does_not_fit_is_refused_with_place_and_types(
    value: object, annotation: Any, path: str, reason: str
) -> None:
    with pytest.raises(SerializationError) as caught:
        CODEC.converter(annotation).roundtrip(value, WHERE)
    assert caught.value.path == path
    assert reason in str(caught.value)
    assert WHERE in str(caught.value)


def test_what_a_constructor_raises_names_the_value() -> None:
    @dataclasses.dataclass
    class Picky:
        number: int

        def __post_init__(self) -> None:
            if self.number:
                raise KeyError("no")

    with pytest.raises(SerializationError, match=f"Cannot deliver {WHERE} as .*Picky: KeyError"):
        CODEC.decode('{"number": 1}', Picky, WHERE)


@pytest.mark.parametrize("annotation", [str | bytes, set[int] | list[int], str | dt.datetime])
def test_an_annotation_that_json_cannot_tell_apart_is_refused(annotation: Any) -> None:
    with pytest.raises(DefinitionError, match="cannot be read back from the file"):
        CODEC.converter(annotation)
    with pytest.raises(SerializationError, match=WHERE):
        CODEC.decode('"x"', annotation, WHERE)


def test_a_value_nested_deeper_than_it_can_be_read_is_an_error_not_a_crash() -> None:
    with pytest.raises(SerializationError, match="nested too deeply"):
        CODEC.decode("[" * 100_000 + "]" * 100_000, Any, WHERE)


# --- the form in the file --------------------------------------------------------------------------------------------


def test_small_values_are_readable_text_and_none_is_null() -> None:
    assert CODEC.encode(Order([Item("a", 1)]), WHERE) == '{"items":[{"sku":"a","price":1,"extra":null}],"note":null}'
    assert CODEC.encode(None, WHERE) is None
    assert CODEC.decode(None, Any, WHERE) is None


def test_large_values_are_compressed_behind_a_version_byte() -> None:
    text = "stepwell " * 1000
    payload, delivered = CODEC.converter(str).roundtrip(text, WHERE)
    assert isinstance(payload, bytes)
    assert payload[0] == 1
    assert zlib.decompress(payload[1:]).decode() == f'"{text}"'
    assert delivered == CODEC.decode(payload, str, WHERE) == text


def test_large_values_that_do_not_shrink_stay_text() -> None:
    codec = Codec(compress_above_bytes=10)
    assert codec.encode("0123456789", WHERE) == '"0123456789"'


@pytest.mark.parametrize("payload", ["{", '"', b"\x01damaged", b"\x01" + zlib.compress(b"{"), b"\x07", b""])
def test_a_damaged_payload_is_an_error_that_names_the_value(payload: str | bytes) -> None:
    with pytest.raises(SerializationError, match=WHERE):
        CODEC.decode(payload, Any, WHERE)


def test_where_is_only_told_on_errors() -> None:
    class Where:
        def __str__(self) -> str:
            raise AssertionError

    where = Where()
    codec = Codec()
    assert codec.converter(int).roundtrip(5, where) == ("5", 5)
    assert codec.decode(codec.encode([None, "x" * 5000], where), Any, where)[0] is None
    codec.fingerprint(([{1}],), {"a": 2}, where)


# --- arguments -------------------------------------------------------------------------------------------------------


def shop(order: Order, /, count: int = 1, *more: Card, when: dt.date | None = None, **others: decimal.Decimal) -> int:
    del order, count, more, when, others
    return 1


def through_the_file(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return CODEC.decode_arguments(CODEC.encode_arguments(args, kwargs, WHERE), Signature(function), WHERE)


def test_arguments_are_typed_by_their_parameters() -> None:
    day, price = dt.date(2024, 1, 1), decimal.Decimal("1.5")
    order = Order([Item("a", 1)])
    assert through_the_file(shop, order, 2, Card("1"), Card("2"), when=day, tip=price) == (
        (order, 2, Card("1"), Card("2")),
        {"when": day, "tip": price},
    )


def test_defaults_are_left_to_the_function() -> None:
    assert through_the_file(shop, Order([])) == ((Order([]),), {})


def test_the_input_leaves_empty_parts_out() -> None:
    assert CODEC.encode_arguments((), {}, WHERE) is None
    assert CODEC.encode_arguments((1,), {}, WHERE) == '{"args":[1]}'
    assert CODEC.encode_arguments((), {"a": None}, WHERE) == '{"kwargs":{"a":null}}'
    assert CODEC.decode_arguments(None, Signature(shop), WHERE) == ((), {})
    assert CODEC.decode_arguments("{}", Signature(shop), WHERE) == ((), {})


def test_a_large_input_is_compressed_and_read_again() -> None:
    assert isinstance(CODEC.encode_arguments(("x" * 5000,), {}, WHERE), bytes)
    assert through_the_file(lambda text: text, "x" * 5000) == (("x" * 5000,), {})


def test_an_argument_that_does_not_fit_is_named_with_its_place() -> None:
    with pytest.raises(SerializationError) as caught:
        CODEC.decode_arguments('{"args":[{"items":[{"sku":"a","price":"x"}]}]}', Signature(shop), WHERE)
    assert caught.value.path == "$.args[0].items[0].price"
    with pytest.raises(SerializationError) as caught:
        CODEC.decode_arguments('{"kwargs":{"tip":[]}}', Signature(shop), WHERE)
    assert caught.value.path == "$.kwargs.tip"
    with pytest.raises(SerializationError) as caught:
        CODEC.encode_arguments((1, object()), {}, WHERE)
    assert caught.value.path == "$.args[1]"


def test_an_argument_that_the_function_no_longer_takes_is_an_error() -> None:
    with pytest.raises(SerializationError, match=r"does not take the argument at \$\.args\[1\]"):
        CODEC.decode_arguments('{"args":[1,2]}', Signature(lambda a: a), WHERE)
    with pytest.raises(SerializationError, match=r"does not take the argument at \$\.kwargs\.b"):
        CODEC.decode_arguments('{"kwargs":{"b":2}}', Signature(lambda a: a), WHERE)


@pytest.mark.parametrize("payload", ["[]", '{"other":1}', '{"args":', "7"])
def test_an_input_of_another_form_is_an_error(payload: str) -> None:
    with pytest.raises(SerializationError, match="not the input of a workflow"):
        CODEC.decode_arguments(payload, Signature(shop), WHERE)


# --- fingerprints ----------------------------------------------------------------------------------------------------

FINGERPRINTS = """
import dataclasses, pathlib, sys
from stepwell.values.codec import Codec
import pydantic
@dataclasses.dataclass(frozen=True)
class Card:
    number: str
class Customer(pydantic.BaseModel):
    tags: set[str]
    home: pathlib.Path = pathlib.Path("a")
words = [f"word{n}" for n in range(40)]
values = [
    set(words), frozenset(words), {w: 1 for w in set(words)}, {Card(w) for w in words}, {1, "a", None, 2.5},
    {frozenset({w}) for w in words}, {(frozenset({w, "x"}), 1) for w in words}, {1: set(words), "1": 2},
    [[{"a": {frozenset(words), frozenset({"q"})}}]], Customer(tags=set(words)), [Customer(tags=set(words))],
    {pathlib.Path(w) for w in words}, {b"x": set(words)},
]
codec = Codec()
print([codec.fingerprint((v,), {}, "") for v in values] + [codec.fingerprint((), {"k": v}, "") for v in values])
"""


def test_a_fingerprint_does_not_depend_on_the_hash_seed() -> None:
    def run(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", FINGERPRINTS]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    first = run("1")
    assert len(first) > 100
    assert {run("2"), run("3")} == {first}


def test_fingerprints_tell_calls_apart() -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1,), {}),
        ((1.0,), {}),
        (("1",), {}),
        ((True,), {}),
        (([1],), {}),
        ((1, 1), {}),
        ((), {"a": 1}),
        ((), {"b": 1}),
        ((1,), {"a": 1}),
        (({1: "a"},), {}),
        (({"1": "a"},), {}),
        (({frozenset({1})},), {}),
        (({frozenset({2})},), {}),
    ]
    assert len({CODEC.fingerprint(args, kwargs, WHERE) for args, kwargs in calls}) == len(calls)


def test_the_fingerprint_of_no_arguments_is_zero() -> None:
    assert CODEC.fingerprint((), {}, WHERE) == 0


def test_the_order_of_keys_does_not_change_a_fingerprint() -> None:
    assert CODEC.fingerprint(({"a": 1, "b": 2},), {"x": 1, "y": 2}, WHERE) == CODEC.fingerprint(
        ({"b": 2, "a": 1},), {"y": 2, "x": 1}, WHERE
    )


def test_an_argument_that_cannot_be_written_is_named() -> None:
    with pytest.raises(SerializationError, match=r"\$\.args\[1\]\.a is an object"):
        CODEC.fingerprint((1, {"a": object()}), {}, WHERE)
    with pytest.raises(SerializationError, match=r"\$\.kwargs\.b\[0\] is an object"):
        CODEC.fingerprint((1,), {"b": [object()]}, WHERE)


# --- private copies --------------------------------------------------------------------------------------------------


def test_immutable_arguments_are_handed_on_as_they_are() -> None:
    args: tuple[Any, ...] = (1, "a", None, Card("1"), (1, Card("2")), Colour.RED, frozenset({1}))
    copied, _ = private_copy(args, {"a": 1})
    assert copied is args


def test_mutable_arguments_share_nothing_with_the_caller() -> None:
    order, tags = Order([Item("a", 1)]), [["x"]]
    (first, second), named = private_copy((order, (1, tags)), {"tags": tags})
    assert (first, second, named) == (order, (1, tags), {"tags": tags})
    assert type(first) is Order
    first.items.append(Item("b", 2))
    named["tags"][0].append("y")
    assert order == Order([Item("a", 1)])
    assert tags == [["x"]]
    assert second[1] is named["tags"]  # what was one object stays one


def test_an_argument_that_cannot_be_copied_is_an_error() -> None:
    class Uncopied:
        def __deepcopy__(self, memo: object) -> Any:
            raise RuntimeError("no")

    with pytest.raises(SerializationError, match="RuntimeError: no"):
        private_copy(([Uncopied()],), {})


# --- signatures ------------------------------------------------------------------------------------------------------


def sample(a: int, b: Nothing, c: Later | None = None, *, d: list[Later]) -> Later:
    del a, b, d
    return c or Later(1)


@dataclasses.dataclass
class Later:
    value: int


def test_annotations_are_resolved_at_first_use_and_unresolvable_names_go_untyped() -> None:
    signature = Signature(sample)
    assert signature.return_annotation is Later
    assert signature.annotations.keyword == {"a": int, "b": Any, "c": Later | None, "d": list[Later]}
    assert signature.unresolved == ("b",)


def test_names_of_an_enclosing_function_are_resolved_where_the_function_uses_them() -> None:
    @dataclasses.dataclass
    class Local:
        value: int

    def make(value: Local) -> Local:
        return Local(value.value)

    assert Signature(make).return_annotation is Local


def test_a_missing_annotation_is_any_and_none_is_none() -> None:
    def nothing() -> None: ...

    assert Signature(nothing).return_annotation is type(None)
    assert Signature(lambda a: a).return_annotation is Any
    assert Signature(lambda a: a).annotation_at(0) is Any


def test_the_result_of_an_async_function_is_what_awaiting_gives() -> None:
    assert Signature(forgotten).return_annotation is type(None)


def test_keyword_arguments_of_a_typed_dict_are_typed_each() -> None:
    def configure(**options: typing.Unpack[Options]) -> None: ...

    signature = Signature(configure)
    assert signature.annotation_of("speed") is int
    assert signature.annotation_of("unknown") is Signature.NONE


CALLS: list[tuple[tuple[Any, ...], dict[str, Any], bool]] = [
    ((1,), {}, True),
    ((1, 2, 3), {}, True),
    ((), {}, False),
    ((), {"order": 1}, False),  # positional only
    ((1,), {"count": 2}, True),
    ((1, 2), {"count": 2}, False),
    ((1,), {"when": None, "other": 3}, True),
]


@pytest.mark.parametrize(("args", "kwargs", "fits"), CALLS)
def test_a_call_is_checked_before_anything_happens(args: tuple[Any, ...], kwargs: dict[str, Any], fits: bool) -> None:
    signature = Signature(shop)
    if fits:
        signature.bind_check(args, kwargs)
    else:
        with pytest.raises(DefinitionError, match=r"^shop\(order: .* cannot be called like this: "):
            signature.bind_check(args, kwargs)


def test_simple_calls_are_checked_as_python_checks_them() -> None:
    def plain(a: int, b: int = 2, c: int = 3) -> None: ...
    def named(a: int, *, b: int) -> None: ...
    def positional(a: int, /, b: int = 2) -> None: ...
    def anything(a: int, /, *b: int, **c: int) -> None: ...

    values = [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]
    names: list[dict[str, Any]] = [{}, {"a": 1}, {"b": 1}, {"b": 1, "c": 2}, {"a": 1, "b": 1, "c": 2}, {"x": 1}]
    for function in (plain, named, positional, anything):
        signature = Signature(function)
        for args in values:
            for kwargs in names:
                try:
                    function(*args, **kwargs)
                except TypeError:
                    with pytest.raises(DefinitionError):
                        signature.bind_check(args, kwargs)
                else:
                    signature.bind_check(args, kwargs)


def test_the_first_parameter_can_be_left_out() -> None:
    class Shop:
        def sell(self, order: Order) -> None: ...

    signature = Signature(Shop.sell, skip_first=True)
    assert signature.annotation_at(0) is Order
    signature.bind_check((1,), {})
    with pytest.raises(DefinitionError, match="must take a first positional parameter"):
        Signature(lambda: None, skip_first=True)


# --- properties ------------------------------------------------------------------------------------------------------

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)
ITEMS = st.builds(Item, st.text(), st.integers(), JSON)
BASKETS = st.builds(
    Basket, st.lists(st.builds(Card, st.text()) | st.builds(Transfer, st.text(), st.text()), max_size=3), st.text()
)


@given(JSON)
def test_any_json_value_comes_back_equal_and_stays_so(value: Any) -> None:
    payload, delivered = CODEC.converter(Any).roundtrip(value, WHERE)
    assert delivered == value
    assert repr(delivered) == repr(value)  # 1, 1.0 and True are equal
    assert CODEC.encode(delivered, WHERE) == payload


@given(st.builds(Order, st.lists(ITEMS, max_size=3), st.none() | st.text()) | BASKETS)
def test_any_dataclass_comes_back_equal_and_stays_so(value: Any) -> None:
    payload, delivered = CODEC.converter(Order | Basket).roundtrip(value, WHERE)
    assert delivered == value
    assert CODEC.encode(delivered, WHERE) == payload
    assert CODEC.fingerprint((value,), {}, WHERE) == CODEC.fingerprint((copy.deepcopy(delivered),), {}, WHERE)


@given(st.tuples(JSON, JSON), st.dictionaries(st.text(), JSON, max_size=3))
def test_any_arguments_come_back_equal(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    def accept(*args: Any, **kwargs: Any) -> None: ...

    assert through_the_file(accept, *args, **kwargs) == (args, kwargs)
