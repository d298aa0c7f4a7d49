"""A value that cannot be used is refused as such, whatever it is: one that has no repr, is huge, or compares oddly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, Every, InvalidArgument, Limit, Queue, Retry, StepwellError, step, workflow
from stepwell.errors import FileNotUsable, PromiseNotFound
from stepwell.shown import is_one_of, shown


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Array:
    """What arrays of numbers do: no hash, and a comparison that is neither true nor false."""

    __hash__: Any = None

    def __eq__(self, other: object) -> Any:
        return self

    def __ne__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")


def nested(depth: int = 2_000) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@workflow(name="shown.never")
async def never(value: object = None) -> None: ...


@step(name="shown.step")
def harmless() -> None: ...


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("shown") / "shown.db", workflows=[]) as engine:
        engine.start("shown.never", id="there")
        engine.schedule(never, id="yearly", cron="@yearly")
        yield engine


CALLS: dict[str, Callable[[Engine, Any], object]] = {
    "act": lambda engine, value: engine.bulk(value, "id:nobody"),
    "args": lambda engine, value: engine.get("there").rewind(1, args=value),
    "by": lambda engine, value: engine.counts(by=value),
    "clock": lambda _, value: Engine("shown.db", clock=value),
    "cron": lambda engine, value: engine.schedule(never, id="new", cron=value),
    "declared": lambda engine, value: engine.declare_schedules([value], group="some"),
    "exclude": lambda engine, value: engine.get_schedule("yearly").change(exclude=value),
    "deadline": lambda engine, value: engine.start(never, deadline=value),
    "delivery": lambda _, value: harmless.options(delivery=value),
    "durability": lambda _, value: Engine("shown.db", durability=value),
    "epoch": lambda engine, value: engine.take_over(value),
    "filter": lambda engine, value: engine.list(value),
    "function": lambda _, value: step(value),
    "id": lambda engine, value: engine.get(value),
    "interval": lambda engine, value: engine.schedule(never, id="new", every=Every(value)),
    "key": lambda engine, value: engine.get("there").value(value, timeout=0),
    "limit": lambda _, value: harmless.options(limit=value),
    "many": lambda engine, value: engine.start_many(never, [value]),
    "messages": lambda engine, value: engine.start(never, messages=[value]),
    "on_conflict": lambda engine, value: engine.start(never, id="new", on_conflict=value),
    "overlap": lambda engine, value: engine.schedule(never, id="new", cron="@daily", overlap=value),
    "path": lambda _, value: Engine(value),
    "priority": lambda engine, value: engine.start(never, priority=value),
    "query": lambda engine, value: engine.get("there").query(value),
    "queue": lambda engine, value: engine.start(never, queue=value),
    "rate": lambda _, value: Limit("shown.limit", rate=value),
    "retry": lambda _, value: harmless.options(retry=value),
    "retry of a step": lambda _, value: Retry(attempts=value),
    "size": lambda _, value: Queue("shown.queue", concurrency=value),
    "sql": lambda engine, value: engine.query(value),
    "start of a stream": lambda engine, value: list(engine.get("there").stream("s", start=value, follow=False)),
    "status": lambda engine, value: engine.list(status=value),
    "tags": lambda engine, value: engine.start(never, tags=value),
    "target": lambda engine, value: engine.backup(value),
    "token": lambda engine, value: engine.resolve(value),
    "value of an attribute": lambda engine, value: engine.start(never, attributes={"name": value}),
    "workflow": lambda engine, value: engine.start(value),
    "zone": lambda engine, value: engine.schedule(never, id="new", cron="@daily", zone=value),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_value_is_refused_in_a_short_message_and_nothing_is_written(engine: Engine, call: str) -> None:
    before = engine.query("SELECT count(*) FROM stepwell_runs").fetchval()
    for value in (Mute(), Array(), nested(), b"x" * 100_000):
        with pytest.raises(StepwellError) as caught:
            CALLS[call](engine, value)
        assert len(str(caught.value)) < 1000
    assert engine.query("SELECT count(*) FROM stepwell_runs").fetchval() == before


def test_paths_that_no_file_has_are_refused(engine: Engine, tmp_path: Path) -> None:
    for name in ("a\0b", "a\ud800b"):
        with pytest.raises(FileNotUsable, match="no file has a NUL character, or a lone surrogate"):
            engine.backup(f"{tmp_path}/{name}")
    with pytest.raises(PromiseNotFound):
        engine.resolve("a\ud800b", 1)


@pytest.mark.parametrize("parameters", [None, 1, "a", b"a", {1}], ids=repr)
def test_parameters_of_sql_that_are_neither_a_sequence_nor_a_mapping_are_refused(
    engine: Engine, parameters: Any
) -> None:
    with pytest.raises(InvalidArgument, match="parameters of SQL are a sequence"):
        engine.query("SELECT ?", parameters)


def test_a_backfill_begins_when_time_does(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="a backfill starts in 1970 or later, not at 0001-01-01"):
        engine.get_schedule("yearly").backfill(datetime.min.replace(tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC))


def test_what_a_message_shows_of_a_value() -> None:
    assert shown("x" * 300) == "'" + "x" * 199 + "…"
    assert shown(Mute()) == "<Mute, whose repr fails with RuntimeError>"
    assert shown(10**5000) == "<int, whose repr fails with ValueError>"
    assert not is_one_of(Array(), ("a",))
    assert is_one_of("a", ("a",))
