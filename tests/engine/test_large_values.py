"""Values of many megabytes, and plain ones: as certain to come back equal as any other, and quick."""

from __future__ import annotations

import collections
import enum
import gc
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepwell import Engine, PayloadTooLarge, SerializationError, step, workflow
from stepwell.model.journal import Payload
from stepwell.values import converter as converter_module
from stepwell.values import large_values
from stepwell.values.codec import Codec
from stepwell.values.large_values import LARGE_BYTES, collector_paused, note_value
from stepwell.values.payload import write
from stepwell.values.signature import Signature


class Colour(enum.IntEnum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"


class Text(str):
    __slots__ = ()


@dataclass
class Line:
    sku: str
    quantity: int
    price: float


@dataclass
class Order:
    id: str
    paid: bool
    note: str | None
    lines: list[Line]


def orders(count: int) -> list[Order]:
    return [
        Order(f"order-{i}", i % 3 == 0, None if i % 2 else "x", [Line(f"sku-{i}-{k}", k, i / 7) for k in range(3)])
        for i in range(count)
    ]


#: Long enough that what holds it is taken for large.
FILLER = ["x" * 100] * (LARGE_BYTES // 100)

PLAIN: dict[str, Any] = {
    "nothing": None,
    "truth": [True, False, 1, 0, 1.0, 0.0],
    "zeros": [0.0, -0.0],
    "large integers": [2**63, -(2**64), 10**300],
    "floats": [1e16, 1e-7, 5e-324, 1.7976931348623157e308],
    "text": ["", "\0", '"\\', "\u2028", "null", "\U0001f600"],
    "nested": {"a": [{"b": [[], {}]}], "": {"$": 1}},
}
NOT_PLAIN: dict[str, tuple[Any, str]] = {
    "nan": ([1.0, math.nan], "[1]"),
    "infinite": ({"a": -math.inf}, ".a"),
    "tuple": ([(1, 2)], "[0]"),
    "set": ([{1}], "[0]"),
    "bytes": ([b"x"], "[0]"),
    "bytearray": ([bytearray(b"x")], "[0]"),
    "integer of an enumeration": ([Colour.RED], "[0]"),
    "text of an enumeration": ([Word.YES], "[0]"),
    "subclass of text": ([Text("x")], "[0]"),
    "subclass of dict": ([collections.OrderedDict(a=1)], "[0]"),
    "keys that are numbers": ([{1: "a"}], "[0]"),
    "keys that are the same": ([{1: "a", "1": "b"}], "[0]"),
    "keys that are true": ([{True: "a"}], "[0]"),
    "surrogates": (["\ud800"], "[0]"),
}
ANNOTATIONS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "nothing is known": (Any, lambda value: [value, *FILLER]),
    "a dict": (dict, lambda value: {"value": [value], "filler": FILLER}),
    "a list of anything": (list[Any], lambda value: [value, FILLER]),
    "small": (Any, lambda value: [value]),
    "a small list": (list, lambda value: [value]),
}


def typed(value: Any) -> Any:
    """Return a value with the types at every place, and the sign of zeros."""
    if isinstance(value, dict):
        return [(typed(key), typed(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value), repr(value)


@pytest.mark.parametrize("annotation", ANNOTATIONS)
@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_value_comes_back_as_it_was_in_every_type(annotation: str, name: str) -> None:
    codec = Codec()
    hint, wrap = ANNOTATIONS[annotation]
    value = wrap(PLAIN[name])

    payload, delivered = codec.converter(hint).roundtrip(value, "it")

    assert typed(delivered) == typed(value)
    assert typed(codec.decode(payload, hint, "it")) == typed(value)
    assert typed(codec.decode(codec.encode_untyped(value, "it"), Any, "it")) == typed(value)
    assert delivered is not value


@pytest.mark.parametrize("annotation", ANNOTATIONS)
@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_json_cannot_tell_is_refused_with_its_path_however_large_the_rest(annotation: str, name: str) -> None:
    hint, wrap = ANNOTATIONS[annotation]
    value, path = NOT_PLAIN[name]

    with pytest.raises(SerializationError) as caught:
        Codec().converter(hint).roundtrip(wrap(value), "it")

    assert path in caught.value.path
    assert "Cannot " in str(caught.value)


@pytest.mark.parametrize("annotation", ANNOTATIONS)
@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_input_and_message_are_written_and_summed_up_as_ever(annotation: str, name: str) -> None:
    codec = Codec()
    hint, wrap = ANNOTATIONS[annotation]
    value = wrap(PLAIN[name])
    checksum = codec.fingerprint((value,), {}, "it")

    payload, fingerprint = codec.seal_input((value,), {}, signature_of(hint), "it")
    by_name = codec.seal_input((), {"x": value}, signature_of(hint), "it", is_typed=False)
    message, sent = codec.seal_untyped(value, (value,), "it")

    assert (payload, fingerprint) == (codec.encode_arguments((value,), {}, "it"), checksum)
    assert by_name == (
        codec.encode_arguments((), {"x": value}, "it"),
        codec.fingerprint((), {"x": value}, "it"),
    )
    assert (message, sent) == (codec.encode_untyped(value, "it"), checksum)
    assert typed(codec.decode_arguments(payload, signature_of(hint), "it")[0][0]) == typed(value)


TEXTS = {
    "tracebacks": 'Traceback:\n  File "/a/b.py", line 3, in f\n    g()\n  File "x.py", line 9, in g\nValueError: no',
    "the half of one": 'File "a.py", line 3',
    "quotes": '"File \\"x\\", line 1',
}


@pytest.mark.parametrize("name", TEXTS)
def test_tracebacks_in_a_large_input_are_summed_up_as_in_a_small_one(name: str) -> None:
    codec = Codec()
    value = [[TEXTS[name], number, "x" * 200] for number in range(MANY)]
    checksum = codec.fingerprint((1, value, value), {"k": value}, "it")

    payload, fingerprint = codec.seal_input((1, value, value), {"k": value}, Signature(takes_four), "it")

    assert fingerprint == checksum
    assert payload == codec.encode_arguments((1, value, value), {"k": value}, "it")
    assert codec.seal((1, value, value), {"k": value}, "it", Signature(takes_four))[0] == checksum
    assert codec.seal_untyped(value, ("run", value, None), "it")[1] == codec.fingerprint(("run", value, None), {}, "it")


#: Of these a message may be, which is read as what it is; surrogates are text that nothing can hold.
REFUSED_AS_THEMSELVES = {"nan", "infinite", "keys that are the same", "surrogates"}


@pytest.mark.parametrize("annotation", ANNOTATIONS)
@pytest.mark.parametrize(
    ("name", "is_typed"),
    [*((name, True) for name in NOT_PLAIN), *((name, False) for name in sorted(REFUSED_AS_THEMSELVES))],
)
def test_an_input_that_json_cannot_tell_is_refused_however_large_the_rest(
    annotation: str, name: str, is_typed: bool
) -> None:
    hint, wrap = ANNOTATIONS[annotation]
    value, path = NOT_PLAIN[name]

    with pytest.raises(SerializationError) as caught:
        Codec().seal_input((wrap(value),), {}, signature_of(hint), "it", is_typed=is_typed)

    assert path in caught.value.path


@pytest.mark.parametrize("name", sorted(REFUSED_AS_THEMSELVES))
def test_a_message_that_json_cannot_tell_is_refused_however_large_the_rest(name: str) -> None:
    value, path = NOT_PLAIN[name]

    with pytest.raises(SerializationError) as caught:
        Codec().seal_untyped([value, *FILLER], ([value, *FILLER],), "it")

    assert path in caught.value.path


@pytest.mark.parametrize("value", [orders(2000), {"all": orders(2000)}, [orders(1000), {"x": orders(1000)}]])
def test_objects_that_come_back_for_certain_are_not_read_when_they_are_sent(value: Any) -> None:
    codec = Codec()
    for hint in (Order, list[Order]):
        codec.converter(hint)._decode = cannot_be_read

    payload, fingerprint = codec.seal_untyped(value, (value,), "it")

    assert payload == codec.encode_untyped(value, "it")
    assert fingerprint == codec.fingerprint((value,), {}, "it")


def test_an_input_that_comes_back_for_certain_is_not_read_when_it_is_given() -> None:
    codec = Codec()
    value = orders(2000)
    codec.converter(list[Order])._decode = cannot_be_read

    payload, fingerprint = codec.seal_input((value,), {}, Signature(takes_orders), "it")

    assert payload == codec.encode_arguments((value,), {}, "it")
    assert fingerprint == codec.fingerprint((value,), {}, "it")


def test_sets_in_a_large_input_are_summed_up_in_order() -> None:
    codec = Codec()
    value = [{f"item-{i}" for i in range(50)}, {str(i) for i in range(LARGE_BYTES // 4)}]
    signature = signature_of(list[set[str]])

    assert codec.seal_input((value,), {}, signature, "it")[1] == codec.fingerprint((value,), {}, "it")
    assert codec.seal_untyped(value, (value,), "it")[1] == codec.fingerprint((value,), {}, "it")


HANDLED: dict[str, Callable[[Codec, Any], object]] = {
    "result of a step": lambda codec, value: codec.converter(list[Order]).roundtrip(value, "it"),
    "result of a workflow": lambda codec, value: codec.converter(list[Order]).record(value, "it"),
    "arguments of a step": lambda codec, value: codec.seal((value,), {}, "it", Signature(takes_orders)),
    "input": lambda codec, value: codec.seal_input((value,), {}, Signature(takes_orders), "it"),
    "input by name": lambda codec, value: codec.seal_input((value,), {}, Signature(takes), "it", is_typed=False),
    "message": lambda codec, value: codec.seal_untyped(value, (value,), "it"),
    "decoding": lambda codec, value: codec.decode(PACKED[id(value)], list[Order], "it"),
    "decoding an input": lambda codec, value: codec.decode_arguments(
        PACKED_INPUT[id(value)], Signature(takes_orders), "it"
    ),
}
LARGE = orders(5000)
SMALL = orders(3)
PACKED: dict[int, Payload] = {id(value): Codec().converter(list[Order]).record(value, "it") for value in (LARGE, SMALL)}
PACKED_INPUT: dict[int, Payload] = {id(value): Codec().encode_arguments((value,), {}, "it") for value in (LARGE, SMALL)}


@pytest.mark.parametrize("name", HANDLED)
def test_whoever_watches_is_told_of_large_values_and_of_no_small_ones(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    watchers = {told.append}
    monkeypatch.setattr(large_values, "watchers", watchers)
    codec = Codec()

    HANDLED[name](codec, SMALL)
    assert told == []

    HANDLED[name](codec, LARGE)
    size = len(msgspec.json.encode(LARGE))
    assert max(told) >= size * large_values.SECONDS_PER_BYTE


def cannot_be_read(_text: Any) -> Any:
    """Fail, where nothing is to be read."""
    raise AssertionError("it was read")


def signature_of(hint: Any) -> Signature:
    """Return the signature of what takes one argument."""

    def takes_it(x: Any) -> None:
        """Take it."""

    takes_it.__annotations__ = {"x": hint}
    return Signature(takes_it)


#: As many items as make a list large, each with what is of interest.
MANY = 3000
LISTS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "nothing is known": (Any, lambda value: [[value, "x" * 200]] * MANY),
    "a list": (list, lambda value: [*(["x" * 200] * MANY), [value]]),
    "a list of lists": (list[list[Any]], lambda value: [*([["x" * 200]] * MANY), [value]]),
    "a list of dicts": (list[dict[str, Any]], lambda value: [{"a": value, "b": "x" * 200}] * MANY),
}


@pytest.mark.parametrize("annotation", LISTS)
@pytest.mark.parametrize("name", PLAIN)
def test_a_list_that_is_written_in_parts_is_what_it_is_as_a_whole(annotation: str, name: str) -> None:
    codec = Codec()
    hint, wrap = LISTS[annotation]
    value = wrap(PLAIN[name])
    whole = codec.encode(value, "it")
    converter = codec.converter(hint)

    assert converter._by_parts(value, "it") == whole
    payload, delivered = converter.roundtrip(value, "it")
    assert payload == converter.record(value, "it") == whole
    assert typed(delivered) == typed(value)
    assert delivered is not value


@pytest.mark.parametrize("annotation", LISTS)
@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_json_cannot_tell_is_refused_in_whichever_part_of_a_list_it_is(annotation: str, name: str) -> None:
    hint, wrap = LISTS[annotation]
    value, _ = NOT_PLAIN[name]

    with pytest.raises(SerializationError, match="Cannot "):
        Codec().converter(hint).roundtrip(wrap(value), "it")
    with pytest.raises(SerializationError, match="Cannot "):
        Codec().converter(hint).record(wrap(value), "it")


def test_no_call_handles_more_than_a_part_of_a_large_list(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec()
    value = orders(20_000)
    converter = codec.converter(list[Order])
    read = converter._decode
    seen: list[int] = []

    def write_some(some: Any) -> bytes:
        data = write(some)
        seen.append(len(data))
        return data

    def read_some(text: Any) -> Any:
        seen.append(len(text))
        return read(text)

    monkeypatch.setattr(converter_module, "write", write_some)
    converter._decode = read_some
    _, delivered = converter.roundtrip(value, "it")
    converter.record(value, "it")

    assert delivered == value
    assert sum(seen) > 3 * 15 * LARGE_BYTES
    assert max(seen) < 2 * LARGE_BYTES


@pytest.mark.parametrize("limit", [0, -1])
def test_the_size_of_a_list_is_limited_to_the_byte(limit: int) -> None:
    value = orders(3000)
    size = len(msgspec.json.encode(value))
    codec = Codec(max_payload_bytes=size + limit)
    converter = codec.converter(list[Order])
    if not limit:
        assert converter.roundtrip(value, "it")[1] == value
        return
    with pytest.raises(PayloadTooLarge, match=f"{size:,} bytes"):
        converter.roundtrip(value, "it")
    with pytest.raises(PayloadTooLarge, match=f"{size:,} bytes"):
        converter.record(value, "it")


def test_a_list_that_contains_itself_is_refused_however_many_items_it_has() -> None:
    value: list[Any] = ["x" * 200] * MANY
    value.append(value)
    for handle in (Codec().converter(list).roundtrip, Codec().converter(Any).record):
        with pytest.raises(SerializationError, match="leads back"):
            handle(value, "it")


def takes(x: Any) -> None:
    """Take anything."""


def takes_four(a: int, b: list[Any], c: Any, k: Any = None) -> None:
    """Take some things."""


def takes_orders(x: list[Order]) -> None:
    """Take orders."""


ARGUMENTS: dict[str, tuple[Callable[..., Any], Any]] = {
    "plain": (takes, [1, {"a": [1.5, None, True]}]),
    "nan": (takes, [math.nan]),
    "objects": (takes_orders, orders(3)),
    "nan in objects": (takes_orders, [Order("a", True, None, [Line("b", 1, math.nan)])]),
    "tuple, set and bytes": (takes, [(1, 2), {1, 2}, b"x", bytearray(b"y")]),
    "keys": (takes, {1: "a", 2: "b"}),
    "enumeration": (takes, [Colour.RED, Text("x")]),
    "subclass of dict": (takes, [collections.OrderedDict(a=[1])]),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_copied_in_all_their_types_and_summed_up_as_ever(name: str) -> None:
    function, value = ARGUMENTS[name]
    codec = Codec()

    checksum, (copied,), _ = codec.seal((value,), {}, "it", Signature(function))

    assert repr(copied) == repr(value)
    assert list(map(type, copied)) == list(map(type, value))
    assert copied is not value
    assert checksum == codec.fingerprint((value,), {}, "it")


def test_a_large_value_costs_little_more_than_its_json_and_its_compression() -> None:
    value = orders(6000)
    codec = Codec()
    codec.converter(list[Order]).record(orders(1), "it")

    def seconds(call: Callable[[], object]) -> float:
        times: list[float] = []
        for _ in range(5):
            began = time.thread_time()
            call()
            times.append(time.thread_time() - began)
        return min(times)

    json = seconds(lambda: zlib.compress(msgspec.json.encode(value), 1))
    recorded = seconds(lambda: codec.converter(list[Order]).record(value, "it"))

    # At most 3 times, measured alone on a quiet machine; the rest is for what else executes here.
    assert recorded < 6 * json


def test_the_collector_rests_while_large_values_are_read_and_no_longer() -> None:
    gc.enable()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("value", [[], {}, "x", 5, None, [1, 2, 3], {"a": "b"}, b"x" * 10, orders(3)])
def test_a_small_value_does_not_look_large(value: Any) -> None:
    assert not note_value(value)


@pytest.mark.parametrize(
    "value",
    ["x" * LARGE_BYTES * 2, list(range(LARGE_BYTES)), {"rows": [{"a": "x" * 50}] * LARGE_BYTES}, orders(6000)],
    ids=["text", "numbers", "rows", "objects"],
)
def test_a_large_value_looks_large(value: Any) -> None:
    assert note_value(value)


def test_what_a_step_returned_is_not_shared_with_the_run(tmp_path: Path) -> None:
    kept: list[list[int]] = []

    @step(name="large-values.returns")
    def returns() -> list[int]:
        kept.append([1, 2, 3])
        return kept[0]

    @workflow(name="large-values.changes")
    def changes() -> list[int]:
        first = returns()
        kept[0].append(4)
        first.append(5)
        return first

    with Engine(tmp_path / "values.db") as engine:
        run = engine.start(changes)
        assert run.result() == [1, 2, 3, 5]
    assert kept == [[1, 2, 3, 4]]
