"""Every option of the public functions refuses a value of the wrong kind, by name, before anything is done."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    DefinitionError,
    Engine,
    FileNotUsable,
    InvalidArgument,
    Queue,
    SerializationError,
    StepwellError,
    receive,
    step,
    workflow,
)
from stepwell.testing import TestEngine

#: Not what is asked for, and of no type that a type checker would object to.
NUMBER: Any = 3
DAYS_END = dt.datetime.max.replace(tzinfo=dt.UTC)


@workflow
async def counts(number: int, names: list[str] | None = None) -> int:
    return number + len(names or [])


@workflow
async def waits() -> Any:
    return await receive("go")


@step
def look(number: int) -> int:
    return number


ENGINE: dict[str, dict[str, Any]] = {
    "workflows is text": {"workflows": "flows"},
    "workflows is an empty text": {"workflows": ""},
    "workflows is a mapping": {"workflows": {}},
    "queues is bytes": {"queues": b""},
    "queues is a mapping": {"queues": {}},
    "clock is a number": {"clock": 3},
    "clock is empty": {"clock": ()},
}


@pytest.mark.parametrize("case", ENGINE)
def test_an_engine_names_the_option_that_is_unusable(database: Path, case: str) -> None:
    with pytest.raises(InvalidArgument, match=case.split(maxsplit=1)[0]):
        Engine(database, **ENGINE[case])
    assert not database.exists()


@pytest.mark.parametrize("kind", [Engine, AsyncEngine, TestEngine])
def test_an_engine_names_what_is_no_option_of_it_and_makes_no_file(database: Path, kind: Any) -> None:
    with pytest.raises(TypeError, match=r"no option 'worflows'; it has workflows, durability, "):
        kind(database, worflows=[])
    assert not database.exists()


def test_a_path_that_ends_like_a_folder_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotUsable, match="names a folder"):
        Engine(f"{tmp_path}/shop/")
    assert list(tmp_path.iterdir()) == []


START: dict[str, dict[str, Any]] = {
    "kwargs is a number": {"kwargs": 1},
    "kwargs is a list of pairs": {"kwargs": [("number", 1)]},
    "kwargs is an empty text": {"kwargs": ""},
    "messages is None": {"messages": None},
    "messages is text": {"messages": "go"},
    "messages has text for a pair": {"messages": ["go"]},
    "messages has a name alone": {"messages": [("go",)]},
    "messages is a mapping": {"messages": {"go": 1}},
    "messages has a number": {"messages": [1]},
}


@pytest.mark.parametrize("case", START)
def test_a_start_names_the_option_that_is_unusable(engine: TestEngine, case: str) -> None:
    with pytest.raises(InvalidArgument, match=case.split(maxsplit=1)[0]):
        engine.start(waits, **START[case])
    assert engine.list() == []


@pytest.mark.parametrize("when", ["deadline", "delay"])
def test_the_last_moment_of_the_calendar_is_a_time_like_any_other(engine: TestEngine, when: str) -> None:
    options: Any = {"deadline": DAYS_END} if when == "deadline" else {"queue": Queue("the-end"), "delay": DAYS_END}
    info = engine.start(waits, **options).info()
    assert info.deadline_at == (DAYS_END if when == "deadline" else None)


INPUT: dict[str, tuple[Any, ...]] = {
    "$.args[0]": ("three",),
    "$.args[0] ": (True,),
    "$.args[1][0]": (3, [1]),
}


@pytest.mark.parametrize("place", INPUT)
def test_input_that_does_not_fit_the_parameters_is_refused_by_whoever_starts_the_run(
    engine: TestEngine, place: str
) -> None:
    with pytest.raises(SerializationError) as caught:
        engine.start(counts, *INPUT[place])
    assert caught.value.path == place.strip()
    with engine.transaction() as tx, pytest.raises(SerializationError):
        tx.start(counts, *INPUT[place])
    assert engine.list() == []


@workflow
async def calls_children(way: str) -> str:
    wrong: Any = "three"
    try:
        if way == "called":
            await counts(wrong)
        elif way == "started":
            await stepwell.start(counts, wrong)
        else:
            await stepwell.map(counts, [wrong])
    except SerializationError as error:
        return error.path
    return "accepted"


@pytest.mark.parametrize("way", ["called", "started", "mapped"])
def test_input_that_does_not_fit_a_child_is_refused_in_its_parent(engine: TestEngine, way: str) -> None:
    assert engine.start(calls_children, way).result(timeout=60) == "$.args[0]"
    assert len(engine.list()) == 1


def test_a_parent_goes_on_though_the_parameters_of_its_child_have_changed_meanwhile(database: Path) -> None:
    @workflow(name="child-of-any-age")
    async def child(number: int) -> Any:  # noqa: ARG001 - what counts is what it takes
        return await receive("go")

    @workflow(name="parent-of-it")
    async def parent(number: int) -> Any:
        return await child(number)

    engine = TestEngine(database, workflows=[parent, child])
    engine.start(parent, 3, id="parent")
    engine.idle()
    engine.crash()

    @workflow(name="child-of-any-age")
    async def child_of_today(name: str) -> Any:
        return name

    @workflow(name="parent-of-it")
    async def parent_of_today(number: Any) -> Any:
        return await child_of_today(number)

    engine.reopen(workflows=[parent_of_today, child])
    engine.send("parent/1", "go", "went")
    assert engine.get("parent").result(timeout=60) == "went"
    engine.close()


LISTING: dict[str, Callable[[Engine], Any]] = {
    "status": lambda engine: engine.list(status=NUMBER),
    "workflow": lambda engine: engine.list(workflow="\ud800"),
    "id_prefix": lambda engine: engine.list(id_prefix=NUMBER),
    "id_prefix ": lambda engine: engine.list(id_prefix="\ud800"),
    "partition": lambda engine: engine.queue("line").cancel_waiting(partition=10**400 * NUMBER),
    "partition ": lambda engine: engine.queue("line").cancel_waiting(partition="\ud800"),
    "reason": lambda engine: engine.queue("line").cancel_waiting(reason="\ud800"),
    "reason ": lambda engine: engine.get("waits").cancel(NUMBER),
    "reason  ": lambda engine: engine.get("waits").cancel("\ud800"),
}


@pytest.mark.parametrize("option", LISTING)
def test_what_is_asked_of_an_open_engine_is_checked_and_the_engine_goes_on(engine: TestEngine, option: str) -> None:
    engine.start(waits, id="waits", queue=Queue("line"))
    with pytest.raises(InvalidArgument, match=option.strip()):
        LISTING[option](engine)
    engine.send("waits", "go", "on")
    assert engine.get("waits").result(timeout=60) == "on"


def test_an_async_engine_checks_the_same(database: Path) -> None:
    asyncio.run(ask_an_async_engine(database))


async def ask_an_async_engine(database: Path) -> None:
    async with AsyncEngine(database) as engine:
        run = await engine.start(waits, id="waits", queue=Queue("line"))
        with pytest.raises(InvalidArgument, match="partition"):
            await engine.queue("line").cancel_waiting(partition=NUMBER)
        with pytest.raises(InvalidArgument, match="reason"):
            await run.cancel(NUMBER)
        await run.send("go", "on")
        assert await run.result(timeout=60) == "on"


def test_a_list_may_be_as_long_as_anybody_wishes(engine: TestEngine) -> None:
    engine.start(waits)
    assert len(engine.list(limit=10**400)) == 1


@workflow
async def cancels_a_child(reason: Any) -> str:
    child = await stepwell.start(waits)
    try:
        await child.cancel(reason)
    except InvalidArgument as error:
        return str(error)
    return "accepted"


def test_a_child_is_not_cancelled_for_a_reason_that_is_no_text(engine: TestEngine) -> None:
    assert "reason must be text" in engine.start(cancels_a_child, 3).result(timeout=60)


@pytest.mark.parametrize("option", ["delivery", "isolate"])
@pytest.mark.parametrize("value", ["", 0, []])
def test_an_option_for_one_call_is_checked_also_when_it_is_empty(option: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=option):
        look.options(**{option: value})


def test_a_function_is_decorated_once() -> None:
    for decorate in (step, workflow):
        with pytest.raises(DefinitionError, match="decorated once"):
            decorate(waits)
        with pytest.raises(StepwellError, match="decorated once"):
            decorate(look)


class Shop:
    def __init__(self, number: int) -> None:
        self.number = number

    @workflow
    async def counts(self, number: int) -> int:
        return self.number + number


def test_a_workflow_of_an_instance_is_refused_unless_a_worker_has_that_instance(database: Path) -> None:
    bound: Any = Shop(40).counts
    with Engine(database) as engine:
        with pytest.raises(DefinitionError, match="bound to an object"):
            engine.start(bound, 2)
        assert engine.list() == []
    with Engine(database, workflows=[bound]) as engine:
        assert engine.start(bound, 2).result(timeout=30) == 42
