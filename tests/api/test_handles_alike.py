"""What all handles have in common is given to each of them in the same way."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    AsyncEngine,
    AsyncQueueHandle,
    AsyncRun,
    AsyncScheduleHandle,
    Engine,
    Queue,
    QueueHandle,
    Run,
    ScheduleHandle,
    receive,
    workflow,
)
from stepwell.testing import TestEngine

HANDLES = (
    Engine,
    AsyncEngine,
    Run,
    AsyncRun,
    QueueHandle,
    AsyncQueueHandle,
    ScheduleHandle,
    AsyncScheduleHandle,
    TestEngine,
)
#: What these do is for a part of the whole, which is to be read before the reason.
CHOOSE = {"cancel_waiting", "retry_all", "terminate_running"}


def _methods() -> Iterator[tuple[str, str, list[inspect.Parameter]]]:
    for handle in HANDLES:
        for name, method in inspect.getmembers(handle, inspect.isfunction):
            if not name.startswith("_"):
                yield handle.__name__, name, list(inspect.signature(method).parameters.values())[1:]


def test_a_reason_is_given_by_position_where_nothing_else_is() -> None:
    by_name_only = [
        f"{handle}.{name}"
        for handle, name, parameters in _methods()
        for said in parameters
        if said.name in {"reason", "note"} and said.kind is said.KEYWORD_ONLY
        if all(each.kind is each.KEYWORD_ONLY for each in parameters) and name not in {*CHOOSE, "set_attributes"}
    ]
    assert by_name_only == []


def test_each_timeout_may_be_none() -> None:
    bounded = [
        f"{handle}.{name}"
        for handle, name, parameters in _methods()
        for each in parameters
        if each.name == "timeout" and each.annotation is not each.empty and "None" not in str(each.annotation)
    ]
    assert bounded == []


@workflow(name="alike.waits")
async def waits() -> Any:
    return await receive("go")


def test_the_reason_of_an_act_is_kept_whichever_way_it_is_given(engine: TestEngine) -> None:
    run = engine.start(waits)
    run.pause("one", children=True)
    run.unpause("two")
    run.resume("three")
    run.cancel("four")
    engine.idle(timeout=None)
    run.retry("five")
    run.terminate("six")
    assert {"one", "two", "four", "five", "six"} <= {act.reason for act in run.acts()}
    run.delete("seven")
    line = engine.queue(Queue("alike", concurrency=1))
    line.pause("eight")
    line.unpause(reason="nine")
    assert {"eight", "nine"} == {act.reason for act in line.acts()}
    scheduled = engine.schedule(waits, id="alike", every=3600)
    scheduled.pause("ten")
    assert scheduled.info().note == "ten"


def test_an_engine_closes_when_its_steps_have_ended_without_a_timeout(database: Path) -> None:
    engine = Engine(database)
    engine.start(waits)
    engine.close(timeout=None)
    engine.close(None)


def test_the_same_holds_for_an_async_engine(database: Path) -> None:
    async def main() -> None:
        engine = AsyncEngine(database)
        run = await engine.start(waits)
        await run.pause("one", children=True)
        await run.unpause("two")
        await run.terminate("three")
        assert {"one", "two", "three"} <= {act.reason for act in await run.acts()}
        await run.delete("four")
        await engine.close(timeout=None)

    asyncio.run(main())


@pytest.mark.parametrize("timeout", [-1, "long", True])
def test_no_timeout_is_not_any_timeout(database: Path, timeout: Any) -> None:
    with Engine(database) as engine, pytest.raises(ValueError, match=r"timeout of close\(\)"):
        engine.close(timeout)
