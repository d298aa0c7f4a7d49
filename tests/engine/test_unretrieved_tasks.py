"""What a task of workflow code fails with, and nothing asks for, is logged: once, with the run and the task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from stepwell import receive, step, sync, workflow
from stepwell.testing import TestEngine


@step
async def works() -> None: ...


async def fails() -> None:
    await works()
    raise ValueError("nobody hears this")


async def fails_at_once() -> None:
    raise ValueError("nobody hears this")


def forget(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.get_running_loop().create_task(coroutine).set_name("background")


@workflow
async def drops() -> str:
    forget(fails())
    await receive("go")
    return "ended"


@workflow
async def drops_one_of_many() -> str:
    tasks = [asyncio.create_task(asyncio.sleep(1 + number)) for number in range(100)]
    forget(fails())
    await asyncio.gather(*tasks)
    return "ended"


@workflow
async def keeps() -> str:
    task = asyncio.create_task(fails(), name="background")
    await receive("go")
    return f"ended, {task.done()}"


@workflow
async def asks_later() -> str:
    task = asyncio.create_task(fails(), name="background")
    await receive("go")
    try:
        await task
    except ValueError as error:
        return str(error)
    return "not reached"


@workflow
async def waits_for_what_never_comes() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def produce() -> None:
        await fails()
        await queue.put(1)

    task = asyncio.create_task(produce(), name="background")
    await queue.get()
    await task


@workflow
async def cancels() -> str:
    task = asyncio.create_task(asyncio.sleep(600), name="background")
    await asyncio.sleep(0)
    task.cancel()
    await receive("go")
    return "ended"


@workflow
def drops_in_def() -> str:
    forget(fails_at_once())
    sync.receive("go")
    return "ended"


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "background" in record.getMessage()]


@pytest.mark.parametrize("flow", [drops, drops_in_def], ids=lambda flow: flow.name.rpartition(".")[2])
@pytest.mark.parametrize("parked", [False, True], ids=["in memory", "evicted"])
def test_it_is_logged_when_the_run_comes_to_rest_and_not_again(
    database: Path, caplog: pytest.LogCaptureFixture, flow: Any, parked: bool
) -> None:
    with TestEngine(database, max_waiting_in_memory=0 if parked else 1_000) as engine:
        run = engine.start(flow, id="run")
        engine.idle()
        (record,) = told(caplog)
        assert (record.levelname, record.run_id, record.workflow, record.task) == (  # type: ignore[attr-defined]
            "ERROR",
            "run",
            flow.name,
            "background",
        )
        assert "'run'" in record.getMessage()
        assert "ValueError: nobody hears this" in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[1] is not None
        assert record.exc_info[1].__traceback__ is not None
        run.send("other")
        engine.idle()
        engine.reopen()
        run.send("go")
        assert run.result(timeout=60) == "ended"
        assert told(caplog) == [record]


def test_one_that_the_code_still_holds_is_logged_when_the_run_ends(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    run = engine.start(keeps, id="run")
    engine.idle()
    assert told(caplog) == []
    engine.reopen()
    run.send("go")
    assert run.result(timeout=60) == "ended, True"
    assert len(told(caplog)) == 1


def test_one_that_is_asked_later_is_not_logged(engine: TestEngine, caplog: pytest.LogCaptureFixture) -> None:
    run = engine.start(asks_later, id="run")
    engine.idle()
    engine.reopen()
    run.send("go")
    assert run.result(timeout=60) == "nobody hears this"
    assert told(caplog) == []


def test_one_of_a_run_that_waits_for_nothing_is_logged_though_code_holds_it(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    run = engine.start(waits_for_what_never_comes, id="run")
    engine.idle()
    assert [wait.kind for wait in run.info().waiting_on] == ["nothing"]
    assert len(told(caplog)) == 1
    engine.reopen()
    run.resume()
    engine.idle()
    run.cancel()
    engine.idle()
    assert len(told(caplog)) == 1


def test_a_cancelled_one_is_not_logged(engine: TestEngine, caplog: pytest.LogCaptureFixture) -> None:
    run = engine.start(cancels, id="run")
    run.send("go")
    assert run.result(timeout=60) == "ended"
    assert told(caplog) == []


def test_among_many_tasks_it_is_found_as_well(engine: TestEngine, caplog: pytest.LogCaptureFixture) -> None:
    run = engine.start(drops_one_of_many, id="run")
    engine.advance(10)
    assert run.status == "waiting"
    assert len(told(caplog)) == 1
    engine.advance(100)
    assert run.result(timeout=60) == "ended"
    assert len(told(caplog)) == 1
