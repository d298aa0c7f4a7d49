"""What is nested without end, or too deeply, is refused with its place, wherever a value is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, Retry, RunFailed, RunHalted, SerializationError, publish, receive, send, step, workflow
from stepwell.values.codec import Codec

DEPTH = 100_000


def lists() -> Any:
    value: Any = []
    for _ in range(DEPTH):
        value = [value]
    return value


def dicts() -> Any:
    value: Any = {}
    for _ in range(DEPTH):
        value = {"a": value}
    return value


def tuples() -> Any:
    value: Any = ()
    for number in range(DEPTH):
        value = (value,) if number % 2 else [value]
    return value


@dataclass
class Node:
    next: Any = None


def objects() -> Any:
    value = Node()
    for _ in range(DEPTH):
        value = Node(value)
    return value


def cycle() -> Any:
    value: dict[str, Any] = {"x": []}
    value["x"].append(value)
    return value


def branching_cycle() -> Any:
    value: list[Any] = []
    value += [value, value]
    return value


def cycle_of_objects() -> Any:
    value = Node()
    value.next = Node(value)
    return value


MAKE: dict[str, Callable[[], Any]] = {
    each.__name__: each for each in (lists, dicts, tuples, objects, cycle, branching_cycle, cycle_of_objects)
}
REFUSAL = r"nested too deeply|leads back to a value that contains it"


@step(name="deep.returns")
def returns(kind: str) -> Any:
    return MAKE[kind]()


@step(name="deep.returns-async")
async def returns_async(kind: str) -> Any:
    return MAKE[kind]()


@step(name="deep.takes")
def takes(value: Any) -> None:
    """Take a value."""


@step(name="deep.fails", retry=Retry(attempts=1))
def fails(kind: str) -> None:
    error = ValueError("no")
    error.detail = MAKE[kind]()  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    raise error


@workflow(name="deep.result")
async def result(kind: str) -> Any:
    return MAKE[kind]()


@workflow(name="deep.result-of-a-step")
async def result_of_a_step(kind: str) -> None:
    returns(kind)


@workflow(name="deep.result-of-an-async-step")
async def result_of_an_async_step(kind: str) -> None:
    await returns_async(kind)


@workflow(name="deep.argument")
async def argument(kind: str) -> None:
    takes(MAKE[kind]())


@workflow(name="deep.published")
async def published(kind: str) -> None:
    await publish("value", MAKE[kind]())


@workflow(name="deep.waits")
async def waits(value: Any) -> Any:  # noqa: ARG001 - recorded all the same
    return await receive("value", timeout=60)


@workflow(name="deep.child")
async def child(kind: str) -> None:
    await waits(MAKE[kind]())


@workflow(name="deep.sent")
async def sent(kind: str) -> None:
    await send("listener", "value", MAKE[kind]())


@workflow(name="deep.error")
async def error_of_a_step(kind: str) -> None:
    fails(kind)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("deep") / "runs.db") as engine:
        engine.start(waits, 1, id="listener")
        yield engine


PLACES = [result, result_of_a_step, result_of_an_async_step, argument, published, child, sent]


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_value_without_a_bottom_halts_the_run_that_makes_it(engine: Engine, place: Any, kind: str) -> None:
    with pytest.raises(RunHalted, match=REFUSAL) as caught:
        engine.start(place, kind).result(60)
    assert "Cannot record the " in str(caught.value)
    assert "$" in str(caught.value)


@pytest.mark.parametrize("kind", MAKE)
def test_it_is_refused_to_whoever_starts_or_sends_before_anything_is_written(engine: Engine, kind: str) -> None:
    with pytest.raises(SerializationError, match=REFUSAL) as caught:
        engine.start(waits, MAKE[kind](), id=f"never-{kind}")
    assert caught.value.path.startswith("$.args[0]")
    assert not engine.list(id_prefix=f"never-{kind}")

    with pytest.raises(SerializationError, match=REFUSAL):
        engine.get("listener").send("value", MAKE[kind]())


@pytest.mark.parametrize("kind", MAKE)
def test_an_error_that_carries_it_is_recorded_without_it(engine: Engine, kind: str) -> None:
    with pytest.raises((RunFailed, ValueError), match="no"):
        engine.start(error_of_a_step, kind).result(60)


def below(calls: int, call: Callable[[], Any]) -> Any:
    """Call something from deep below."""
    return call() if not calls else below(calls - 1, call)


def test_what_was_written_can_be_read_from_below_more_calls() -> None:
    value: Any = []
    for _ in range(700):
        value = [value]
    codec = Codec()
    payload = codec.encode(value, "it")

    read = below(400, lambda: codec.decode(payload, Any, "it"))

    depth = 0
    while read:
        (read,) = read
        depth += 1
    assert depth == 700


@step(name="deep.large")
async def large() -> list[str]:
    return ["x" * 100] * 50_000


@workflow(name="deep.uses-large")
async def uses_large() -> int:
    return len(await large())


def test_a_large_result_of_an_async_step_is_recorded_like_any_other(tmp_path: Path) -> None:
    with Engine(tmp_path / "runs.db") as engine:
        run = engine.start(uses_large)
        assert run.result(60) == 50_000
        assert [entry.kind for entry in run.journal()] == ["step"]
