"""An attempt that was under way when its code gave it up is in the journal: it may have acted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

from stepwell import Limit, Retry, receive, step, transaction, workflow
from stepwell.cli import main
from stepwell.testing import TestEngine

began: list[str] = []
gate = threading.Event()


@pytest.fixture(autouse=True)
def _afresh() -> Any:
    began.clear()
    gate.clear()
    yield
    gate.set()


@step(name="slow")
async def slow() -> None:
    began.append("slow")
    await asyncio.sleep(3600)


@step(name="slow")
def slow_thread() -> None:
    began.append("slow")
    gate.wait(60)


@step(name="slow", delivery="at-most-once")
async def slow_once() -> None:
    began.append("slow")
    await asyncio.sleep(3600)


@step(name="slow", limit=Limit("cut", concurrency=1))
async def slow_limited() -> None:
    began.append("slow")
    await asyncio.sleep(3600)


@step(name="fails", retry=Retry(attempts=5, delay=600))
async def fails() -> None:
    raise ConnectionError("down")


@transaction(name="writes")
def writes(db: Any) -> None:
    db.execute("SELECT 1")


@workflow
async def calls(which: str) -> None:
    await {"slow": slow, "once": slow_once, "limited": slow_limited}[which]()


@workflow
def calls_in_def() -> None:
    slow_thread()


@workflow
async def times_out() -> None:
    try:
        async with asyncio.timeout(60):
            await slow()
    except TimeoutError:
        await receive("go")


@workflow
async def ends_without_it() -> str:
    task = asyncio.create_task(slow())
    await receive("go")
    return f"done: {task.done()}"


@workflow
async def waits_for_another_attempt() -> None:
    await fails()


@workflow
async def waits() -> None:
    writes()
    await receive("go")


def until_begun() -> None:
    until(lambda: began)


def cut_off(engine: TestEngine) -> list[tuple[str, int]]:
    return [
        (entry.name, entry.attempt or 0)
        for entry in engine.get("run").journal()
        if entry.kind == "step_started" and entry.value == "cut off"
    ]


def cancel(engine: TestEngine) -> None:
    engine.get("run").cancel()


def let_time_pass(engine: TestEngine) -> None:
    engine.clock.advance(61)
    engine._session.engine_thread.wake()


def let_it_end(engine: TestEngine) -> None:
    engine.send("run", "go")
    assert engine.get("run").result(timeout=60) == "done: False"


@pytest.mark.parametrize(
    ("flow", "arguments", "act"),
    [
        (calls, ["slow"], cancel),
        (calls, ["once"], cancel),
        (calls, ["limited"], cancel),
        (calls_in_def, [], cancel),
        (times_out, [], let_time_pass),
        (ends_without_it, [], let_it_end),
    ],
    ids=["async", "at most once", "with a limit", "def", "by a timeout", "by the end of the code"],
)
def test_what_was_under_way_has_a_line_and_the_run_is_replayed_with_it(
    engine: TestEngine, flow: Any, arguments: list[Any], act: Callable[[TestEngine], None]
) -> None:
    engine.start(flow, *arguments, id="run")
    until_begun()
    act(engine)
    gate.set()
    engine.idle()
    assert cut_off(engine) == [("slow", 1)]
    if engine.get("run").status == "waiting":
        engine.reopen()
        engine.send("run", "go")
        engine.get("run").result(timeout=60)
    assert cut_off(engine) == [("slow", 1)]


@pytest.mark.parametrize("flow", [waits_for_another_attempt, waits])
def test_what_was_not_under_way_has_none(engine: TestEngine, flow: Any) -> None:
    engine.start(flow, id="run")
    engine.idle()
    cancel(engine)
    engine.idle()
    assert engine.get("run").status == "cancelled"
    assert cut_off(engine) == []


def test_a_cancelled_run_that_is_retried_calls_it_as_before(engine: TestEngine) -> None:
    engine.start(calls, "slow", id="run")
    until_begun()
    cancel(engine)
    engine.idle()
    began.clear()
    engine.get("run").retry()
    until_begun()
    cancel(engine)
    engine.idle()
    assert engine.get("run").status == "cancelled"


def test_show_says_so(engine: TestEngine, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine.start(calls, "slow", id="run")
    until_begun()
    cancel(engine)
    engine.idle()
    assert main(["show", "run", "--db", str(database)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "step_started" in line]
    assert line.split()[:3] == ["1", "step_started", "slow"]
    assert line.endswith('"cut off"')
