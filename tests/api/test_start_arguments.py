"""Arguments by name: what `start` takes, what the workflow takes, and what is said where they are mixed up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import AsyncEngine, DefinitionError, sync, workflow
from stepwell.testing import TestEngine


@workflow(name="adds")
async def adds_three(a: int, b: int = 2, *, c: int = 3) -> int:
    return a + b + c


adds: Any = adds_three  # type checkers want what has a position by position


@workflow(name="tries")
async def tries(named: dict[str, Any]) -> str:
    try:
        await stepwell.start(adds, **named)
    except DefinitionError as error:
        return str(error)
    return "started"


@workflow(name="tries plainly")
def tries_plainly(named: dict[str, Any]) -> str:
    try:
        sync.start(adds, **named)
    except DefinitionError as error:
        return str(error)
    return "started"


async def async_start(database: Path, named: dict[str, Any]) -> str:
    async with AsyncEngine(database) as engine:
        with pytest.raises(DefinitionError) as refused:
            await engine.start(adds, **named)
        async with engine.transaction() as tx:
            with pytest.raises(DefinitionError) as again:
                await tx.start(adds, **named)
        assert await engine.list() == []
    assert str(again.value) == str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("named", [{"a": 1}, {"a": 1, "c": 5}, {"identifier": "x"}], ids=repr)
def test_arguments_of_the_workflow_given_by_name_lead_to_kwargs(
    engine: TestEngine, tmp_path: Path, named: dict[str, Any]
) -> None:
    told = []
    with pytest.raises(TypeError) as refused:
        engine.start(adds, **named)
    told.append(str(refused.value))
    with engine.transaction() as tx, pytest.raises(TypeError) as refused:
        tx.start(adds, **named)
    told.append(str(refused.value))
    assert engine.list() == []
    told.append(engine.start(tries, named).result(60))
    told.append(engine.start(tries_plainly, named).result(60))
    told.append(asyncio.run(async_start(tmp_path / "async.db", named)))
    assert len(set(told)) == 1
    assert f"no option {', '.join(named)}" in told[0]
    assert "start(adds_three, kwargs={" in told[0]
    assert all(f"'{name}': …" in told[0] for name in named)


def test_what_the_error_says_works(engine: TestEngine) -> None:
    assert engine.start(adds, kwargs={"a": 1, "c": 5}).result(60) == 8

    @workflow(name="starts")
    async def starts() -> list[int]:
        children = [await stepwell.start(adds, kwargs={"a": 1}), await stepwell.start(adds, 1, kwargs={"c": 5})]
        return [await child.result() for child in children]

    @workflow(name="starts plainly")
    def starts_plainly() -> list[int]:
        return [sync.start(adds, 1, 1, kwargs={"c": 1}).result(), sync.start("adds", kwargs={"a": 1}).result()]

    assert engine.start(starts).result(60) == [6, 8]
    assert engine.start(starts_plainly).result(60) == [3, 6]


@pytest.mark.parametrize("kwargs", [{"d": 1}, {"a": 1, "b": "x"}, [("a", 1)], {5: 1}])
def test_what_does_not_fit_a_child_is_refused_there(engine: TestEngine, kwargs: Any) -> None:
    @workflow(name="careless")
    async def careless() -> str:
        try:
            await stepwell.start(adds, kwargs=kwargs)
        except (TypeError, ValueError) as error:
            return type(error).__name__
        return "started"

    assert engine.start(careless).result(60) != "started"
    assert len(engine.list()) == 1


def test_an_async_run_has_the_name_of_its_workflow_and_its_state(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "async.db") as engine:
            run = await engine.start(adds, 1, id="sum")
            assert await run.result(60) == 6
            found = await engine.get("sum")
            (listed,) = await engine.list()
            for each in (run, found, listed):
                assert each.workflow == "adds"
                assert await each.status == "completed"

    asyncio.run(main())


def test_a_run_of_a_workflow_that_is_not_here_has_its_name(tmp_path: Path) -> None:
    with TestEngine(tmp_path / "one.db", workflows=[]) as engine:
        engine.start("elsewhere.checkout", 1, id="order")
        run = engine.get("order")
        assert (run.workflow, run.status) == ("elsewhere.checkout", "pending")
        assert [each.workflow for each in engine.list()] == ["elsewhere.checkout"]
