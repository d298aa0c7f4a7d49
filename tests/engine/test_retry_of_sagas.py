"""A run whose saga has undone its work is not retried as if the work stood."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    Engine,
    PermanentError,
    RunCancelled,
    RunUndone,
    StepInterrupted,
    UndoFailed,
    receive,
    saga,
    step,
    sync,
    workflow,
)
from stepwell.testing import TestEngine

happened: list[str] = []
broken: set[str] = set()


@pytest.fixture(autouse=True)
def _forget() -> None:
    happened.clear()
    broken.clear()


@step(name="undone.do")
async def do(what: str) -> str:
    if what in broken:
        raise PermanentError(f"no {what}")
    happened.append(f"do {what}")
    return what


@step(name="undone.undo")
async def undo(what: str) -> None:
    if f"undo {what}" in broken:
        raise PermanentError(f"{what} stays")
    happened.append(f"undo {what}")


@workflow(name="undone.trip")
async def trip() -> str:
    await do("look")
    async with saga() as work:
        work.undo(undo, await do("flight"))
        work.undo(undo, await do("hotel"))
        await do("car")
    return "booked"


@workflow(name="undone.trip-def")
def trip_def() -> str:
    sync.call(do, "look")
    with sync.saga() as work:
        work.undo(undo, sync.call(do, "flight"))
        work.undo(undo, sync.call(do, "hotel"))
        sync.call(do, "car")
    return "booked"


@workflow(name="undone.slowly")
async def undoes_slowly() -> None:
    async def slowly() -> None:
        await asyncio.sleep(60)
        await undo("flight")

    async with saga() as work:
        work.undo(slowly)
        work.undo(undo, await do("hotel"))
        await do("car")


BOTH = pytest.mark.parametrize("flow", [trip, trip_def], ids=["async", "def"])
TRIP = ["do flight", "do hotel"]
UNDONE = ["do look", *TRIP, "undo hotel", "undo flight"]


def fail(engine: Engine, flow: Any, run_id: str = "one", error: type[Exception] = PermanentError) -> Any:
    broken.add("car")
    run = engine.start(flow, id=run_id)
    with pytest.raises(error):
        run.result(60)
    broken.clear()
    return run


@BOTH
def test_a_retry_is_refused_and_a_rewind_to_the_saga_does_the_work_again(engine: TestEngine, flow: Any) -> None:
    run = fail(engine, flow)
    before = run.info(), run.journal(), run.acts()
    with pytest.raises(
        RunUndone, match=r"'one' .* operation 2 has undone it, by 'undone.undo' \(2 times\).*operation 2,"
    ):
        run.retry()
    assert (run.info(), run.journal(), run.acts()) == before
    assert happened == UNDONE
    run.rewind(2)
    assert run.result(60) == "booked"
    assert happened == [*UNDONE, *TRIP, "do car"]


def test_who_knows_that_the_work_stands_rewinds_to_the_step_that_failed(engine: TestEngine) -> None:
    run = fail(engine, trip)
    with pytest.raises(RunUndone, match="if that work stands after all, rewind it to operation 4"):
        run.retry()
    run.rewind(4)
    assert run.result(60) == "booked"
    assert happened == [*UNDONE, "do car"]


@pytest.mark.parametrize("crashes", [0, 3])
def test_what_undoes_is_recorded_once_whatever_dies_meanwhile(engine: TestEngine, crashes: int) -> None:
    broken.add("car")
    engine.start(trip, id="one")
    for _ in range(crashes):
        engine.crash()
        engine.reopen()
        engine.idle()
    engine.idle()
    told = [line.name for line in engine.get("one").journal() if not line.operation]
    assert told == ["saga from operation 2 undoes with undone.undo"] * 2
    with pytest.raises(RunUndone):
        engine.get("one").retry()


def test_a_cancelled_run_that_has_undone_its_work_is_not_retried(engine: TestEngine) -> None:
    @workflow(name="undone.waits")
    async def flow() -> None:
        async with saga() as work:
            work.undo(undo, await do("flight"))
            await receive("never")

    run = engine.start(flow, id="one")
    engine.idle()
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    with pytest.raises(RunUndone, match=r"operation 1 has undone it, by 'undone.undo'"):
        run.retry()


def test_work_that_could_be_undone_in_part_only_is_not_taken_for_done(engine: TestEngine) -> None:
    broken.add("undo flight")
    run = fail(engine, trip, error=UndoFailed)
    with pytest.raises(RunUndone):
        run.retry()


def test_a_run_that_went_on_after_its_saga_is_retried_from_where_it_failed(engine: TestEngine) -> None:
    @workflow(name="undone.goes-on")
    async def flow() -> str:
        try:
            async with saga() as work:
                work.undo(undo, await do("flight"))
                await do("car")
        except PermanentError:
            return await do("train")
        return "booked"

    broken.add("train")
    run = fail(engine, flow)
    run.retry()
    assert run.result(60) == "train"
    assert happened == ["do flight", "undo flight", "do train"]


@pytest.mark.parametrize("how", ["pivot", "nothing registered", "code alone"])
def test_a_run_whose_saga_undid_nothing_outside_is_retried(engine: TestEngine, how: str) -> None:
    @workflow(name="undone.nothing")
    async def flow() -> str:
        seen: list[str] = []
        async with saga() as work:
            if how == "pivot":
                work.undo(undo, await do("flight"))
                work.pivot()
            elif how == "code alone":
                work.undo(seen.append, "it")
            return await do("car")

    run = fail(engine, flow)
    run.retry()
    assert run.result(60) == "car"


def test_a_run_that_is_halted_while_it_undoes_is_resumed_and_undoes_the_rest(engine: TestEngine) -> None:
    is_mended = False

    @workflow(name="undone.halted")
    async def flow() -> None:
        async def take_back() -> None:
            await undo({"right": "flight"}["right" if is_mended else "wrong"])

        async with saga() as work:
            work.undo(take_back)
            work.undo(undo, await do("hotel"))
            await do("car")

    broken.add("car")
    run = engine.start(flow, id="one")
    engine.idle()
    assert run.info().status == "halted"
    is_mended = True
    run.retry()
    with pytest.raises(PermanentError):
        run.result(60)
    assert happened == ["do hotel", "undo hotel", "undo flight"]


def test_a_run_that_an_earlier_release_began_to_undo_is_undone_to_the_end(engine: TestEngine, database: Path) -> None:
    broken.add("car")
    engine.start(undoes_slowly, id="one")
    engine.idle()
    engine.crash()
    with contextlib.closing(sqlite3.connect(database)) as file, file:
        assert file.execute("DELETE FROM stepwell_journal WHERE op = 0").rowcount == 2
    Path(f"{database}-lock").unlink()  # which knows what the file lacks now
    engine.reopen()
    engine.advance(61)
    with pytest.raises(PermanentError):
        engine.get("one").result(60)
    assert happened == ["do hotel", "undo hotel", "undo flight"]
    with pytest.raises(RunUndone):
        engine.get("one").retry()


def test_a_terminated_run_goes_on_undoing(engine: TestEngine) -> None:
    broken.add("car")
    run = engine.start(undoes_slowly, id="one")
    engine.idle()
    run.terminate()
    engine.idle()
    run.retry()
    engine.advance(61)
    with pytest.raises(PermanentError):
        run.result(60)
    assert happened == ["do hotel", "undo hotel", "undo flight"]


@workflow(name="undone.parent")
async def parent() -> str:
    await do("look")
    return await trip()


def test_a_parent_is_not_retried_with_a_child_that_has_undone_its_work(engine: TestEngine) -> None:
    run = fail(engine, parent)
    with pytest.raises(RunUndone, match=r"'one' cannot be brought back .* operation 2, which started that"):
        run.retry()
    happened.clear()
    run.rewind(2)
    assert run.result(60) == "booked"
    assert happened == ["do look", *TRIP, "do car"]


def test_in_bulk_such_runs_are_refused_and_the_others_retried(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow(name="undone.plain")
    async def plain() -> str:
        return await do("car")

    fail(engine, trip, "a")
    fail(engine, plain, "b")
    done = engine.bulk("retry", "status:failed")
    assert (done.seen, done.refused) == (2, 1)
    assert "run 'a' cannot be retried" in caplog.text
    assert engine.get("b").result(60) == "car"
    fail(engine, plain, "c")
    assert engine.retry_all(status="failed") == 1
    assert engine.get("a").info().status == "failed"


def test_to_settle_the_step_that_failed_is_no_way_around(engine: TestEngine) -> None:
    @step(name="undone.pay", delivery="at-most-once")
    async def pay() -> None:
        raise StepInterrupted("nobody knows")

    @workflow(name="undone.pays")
    async def flow() -> None:
        async with saga() as work:
            work.undo(undo, await do("flight"))
            await pay()

    run = fail(engine, flow, error=StepInterrupted)
    with pytest.raises(RunUndone):
        run.settle(2, result=None)
    assert run.info().status == "failed"
