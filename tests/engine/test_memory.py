"""Runs that wait leave memory, come back when something happens, and do nothing on their way out."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from stepwell import publish, receive, send, start, step, sync, workflow
from stepwell.testing import TestEngine

happened: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    happened.clear()


@step
def note(what: str) -> None:
    happened.append(what)


@workflow
async def waits(name: str = "word") -> Any:
    return await receive(name)


@workflow
async def dozes(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_so_many_waiting_runs_stay_in_memory_and_no_more(engine: TestEngine, limit: int) -> None:
    engine.reopen(max_waiting_in_memory=limit)
    for number in range(20):
        engine.start(waits, id=f"run-{number}")
    engine.idle()
    assert len(engine.in_memory) == limit


def test_those_that_were_used_least_recently_leave_first(engine: TestEngine) -> None:
    @workflow
    async def listens() -> None:
        while True:
            await receive("word")

    engine.reopen(max_waiting_in_memory=3)
    for number in range(3):
        engine.start(listens, id=f"run-{number}")
        engine.idle()
    engine.send("run-0", "word")
    engine.idle()
    engine.start(listens, id="run-3")
    engine.idle()
    assert engine.in_memory == {"run-2", "run-0", "run-3"}


def test_a_run_with_a_step_under_way_stays_in_memory(engine: TestEngine) -> None:
    @step
    async def hang() -> None:
        happened.append("began")
        await asyncio.Event().wait()

    @workflow
    async def works() -> None:
        await hang()

    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(works, id="busy")
    engine.start(waits, id="idle")
    for _ in range(2):  # the second is answered in a later turn than the one in which the idle run leaves
        run.send("poke")
    assert "idle" not in engine.in_memory
    assert "busy" in engine.in_memory
    run.cancel()
    engine.idle()


def on_the_way_out(kind: str) -> Any:
    """Return a workflow with clean-up code that must not run when the run only leaves memory."""

    @workflow
    async def tidy() -> str:
        try:
            return str(await receive("word"))
        except BaseException as error:
            happened.append(f"except {type(error).__name__}")
            await publish("cleaned", True)
            note("from except")
            raise
        finally:
            if kind == "step":
                note("from finally")
            elif kind == "send":
                await send("listener", "word", "from finally")
            elif kind == "child":
                await start(waits, id="child from finally", detached=True)
            elif kind == "sleep":
                await asyncio.sleep(1)
            elif kind == "task":
                task = asyncio.create_task(waits())
                await task

    @workflow
    def tidy_plainly() -> str:
        try:
            return str(sync.receive("word"))
        finally:
            sync.publish("cleaned", True)
            note("from finally")

    return tidy_plainly if kind == "sync" else tidy


@pytest.mark.parametrize("leave", ["evicted", "closed", "crashed"])
@pytest.mark.parametrize("kind", ["step", "send", "child", "sleep", "task", "sync"])
def test_clean_up_code_of_a_run_that_leaves_memory_does_nothing(
    engine: TestEngine, leave: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine.reopen(max_waiting_in_memory=0 if leave == "evicted" else 1000)
    definition = on_the_way_out(kind)
    listener = engine.start(waits, id="listener")
    run = engine.start(definition, id="run")
    engine.idle()
    if leave == "closed":
        engine.reopen()
    elif leave == "crashed":
        engine.crash()
        engine.reopen()
    engine.idle()
    assert "from finally" not in happened
    assert "from except" not in happened
    assert run.status == listener.status == "waiting"
    assert run.journal() == []
    assert not engine.list(id_prefix="child from finally")
    assert not caplog.records
    with pytest.raises(TimeoutError):
        run.value("cleaned", 0)
    happened.clear()
    if kind == "task":
        run.cancel()
        return
    run.send("word", "hello")
    engine.advance(1)
    assert run.result(60) == "hello"
    assert happened == (["from finally"] if kind in ("step", "sync") else [])


# Python complains, on stderr, about a coroutine that ignores being closed; that is all there is to it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_code_that_catches_everything_for_ever_can_leave_memory_all_the_same(engine: TestEngine) -> None:
    @workflow
    async def stubborn() -> str:
        while True:
            try:
                return str(await receive("word"))
            except BaseException:  # noqa: BLE001 - that is the mistake
                happened.append("caught")

    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(stubborn)
    engine.idle()
    assert engine.in_memory == frozenset()
    run.send("word", "hello")
    assert run.result(60) == "hello"


def test_a_run_comes_back_for_its_timer_its_message_and_its_child(engine: TestEngine) -> None:
    @workflow
    async def parent() -> list[Any]:
        child = await start(waits)
        await asyncio.sleep(10)
        found = [await receive("word"), await child.result()]
        await asyncio.sleep(10)
        return found

    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(parent, id="parent")
    engine.advance(10)
    run.send("word", 1)
    engine.idle()
    engine.send("parent/1", "word", 2)
    engine.advance(10)
    assert run.result(60) == [1, 2]


def test_replays_do_not_lengthen_a_journal(engine: TestEngine) -> None:
    @workflow
    async def counts() -> int:
        total = 0
        for number in range(10):
            note(str(number))
            total += await receive("number", int)
        return total

    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(counts)
    for number in range(10):
        engine.idle()
        run.send("number", number)
    assert run.result(60) == 45
    assert happened == [str(number) for number in range(10)]
    assert len(run.journal()) == 20


def sleepers(path: Path, number: int) -> None:
    """Make a file with so many sleeping runs: all due in a year, but for one."""
    with TestEngine(path, durability="normal", max_waiting_in_memory=0) as engine, engine.transaction() as tx:
        for each in range(number - 1):
            tx.start(dozes, 365 * 86400, id=f"sleeper-{each}")
        tx.start(dozes, 60, id="soon")


def test_ten_thousand_sleeping_runs_neither_slow_down_the_start_nor_enter_memory(database: Path) -> None:
    sleepers(database, 10_000)
    with TestEngine(database) as engine:
        engine.idle(60)
    began = time.process_time()
    with TestEngine(database) as engine:
        run = engine.start(waits)
        run.send("word", 5)
        assert run.result(60) == 5
        took_seconds = time.process_time() - began
        engine.idle()
        assert len(engine.in_memory) == 0
        engine.advance(60)
        assert engine.get("soon").result(60) == 60
        assert len(engine.in_memory) == 0
    # Of CPU time, which a machine that is busy with other things hardly changes; loading them would take more.
    assert took_seconds < 1.0
