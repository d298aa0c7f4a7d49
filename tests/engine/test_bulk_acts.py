"""Acts on a run past its code, and on all runs that match a filter: counted, recorded, gone on with after a death."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    AsyncEngine,
    Engine,
    InvalidArgument,
    InvalidFilter,
    Queue,
    RunCancelled,
    RunEnded,
    RunNotEnded,
    RunNotFound,
    StepwellError,
    start,
    step,
    workflow,
)
from stepwell.runtime.serving import bulk_requests
from stepwell.testing import TestEngine

LINE = Queue("bulk.line", concurrency=1)
executed: list[Any] = []
down: set[str] = set()
begun = threading.Event()
gate = threading.Event()


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    executed.clear()
    down.clear()
    begun.clear()
    gate.clear()
    monkeypatch.setattr(bulk_requests, "_CHUNK", 3)


@step(name="bulk.reach")
async def reach(number: int) -> int:
    if down:
        raise OSError("no route")
    executed.append(number)
    return number


@step(name="bulk.hold")
def hold() -> None:
    begun.set()
    assert gate.wait(30)


@workflow(name="bulk.reacher")
async def reacher(number: int) -> int:
    return await reach(number)


@workflow(name="bulk.sleeper")
async def sleeper() -> None:
    try:
        await asyncio.sleep(10**6)
    finally:
        await reach(-1)


@workflow(name="bulk.holder")
def holder() -> None:
    hold()


@workflow(name="bulk.parent")
async def parent() -> None:
    await (await start(sleeper, id="child")).result()


# --- terminate --------------------------------------------------------------------------------------------------------


def test_a_terminated_run_ends_at_once_and_its_code_is_not_told(engine: TestEngine) -> None:
    run = engine.start(sleeper, id="run")
    engine.idle()
    run.terminate(reason="it is stuck", by="mia")
    with pytest.raises(RunCancelled, match="terminated by mia: it is stuck"):
        run.result(timeout=30)
    engine.idle()
    assert (executed, run.status, engine.in_memory) == ([], "cancelled", frozenset())
    assert [(act.act, act.by, act.reason) for act in run.acts()] == [("terminate", "mia", "it is stuck")]


def test_whoever_waits_for_a_terminated_run_is_told_and_its_children_are_cancelled(engine: TestEngine) -> None:
    run = engine.start(parent, id="run")
    engine.idle()
    engine.get("child").terminate()
    with pytest.raises(RunCancelled):
        run.result(timeout=30)
    other = engine.start(parent, id="other")
    engine.idle()
    assert other.status == "failed"


def test_a_run_whose_step_is_under_way_is_terminated_and_its_result_dropped(engine: TestEngine) -> None:
    run = engine.start(holder)
    assert begun.wait(30)
    run.terminate()
    assert run.status == "cancelled"
    gate.set()
    engine.idle()
    assert (run.status, run.journal()) == ("cancelled", [])


def test_the_place_of_a_terminated_run_in_its_queue_is_free(engine: TestEngine) -> None:
    run = engine.start(holder, queue=LINE)
    assert begun.wait(30)
    after = engine.start(reacher, 1, queue=LINE)
    run.terminate()
    assert after.result(timeout=30) == 1
    gate.set()


@pytest.mark.parametrize("state", ["paused", "queued", "pending"])
def test_whatever_has_not_ended_is_terminated(tmp_path: Path, state: str) -> None:
    with Engine(tmp_path / "w.db", workflows=[]) as engine:
        run = engine.start(sleeper, queue=LINE if state == "queued" else None)
        if state == "paused":
            run.pause()
        run.terminate()
        assert run.status == "cancelled"
        with pytest.raises(RunEnded, match="cannot be terminated"):
            run.terminate()


def test_a_terminated_run_is_retried_as_any_other(engine: TestEngine) -> None:
    run = engine.start(sleeper)
    engine.idle()
    run.terminate()
    run.retry()
    engine.idle()
    assert run.status == "waiting"


# --- delete -----------------------------------------------------------------------------------------------------------


def test_a_deleted_run_is_gone_and_its_id_free(engine: TestEngine) -> None:
    run = engine.start(reacher, 1, id="run")
    assert run.result(timeout=30) == 1
    run.delete(reason="asked for by the customer")
    with pytest.raises(RunNotFound):
        engine.get("run")
    with pytest.raises(RunNotFound):
        run.delete()
    assert engine.start(reacher, 2, id="run").result(timeout=30) == 2


def test_what_has_not_ended_or_may_be_asked_for_is_not_deleted(engine: TestEngine) -> None:
    run = engine.start(sleeper)
    engine.idle()
    with pytest.raises(RunNotEnded, match=r"\(waiting\), so it cannot be deleted; cancel or terminate it first"):
        run.delete()

    @workflow(name="bulk.keeps")
    async def keeps() -> None:
        await start(reacher, 1, id="kept")
        await asyncio.sleep(10**6)

    engine.start(keeps, id="keeps")
    engine.idle()
    with pytest.raises(RunNotEnded, match="its parent, run 'keeps', has not ended"):
        engine.get("kept").delete()


# --- many runs --------------------------------------------------------------------------------------------------------


def failed(engine: TestEngine, number: int) -> None:
    down.add("all")
    for each in range(number):
        engine.start(reacher, each, id=f"run-{each}")
    engine.idle()
    down.clear()


def test_all_failed_runs_that_match_are_retried_and_the_act_is_recorded(engine: TestEngine) -> None:
    failed(engine, 10)
    assert engine.counts("workflow:bulk.reacher") == {"failed": 10}
    done = engine.bulk("retry", "workflow:bulk.reacher id:run-*", reason="the shop is back", by="mia")
    engine.idle()
    assert (done.total, done.seen, done.refused, done.ended_at is not None) == (10, 10, 0, True)
    assert sorted(executed) == list(range(10))
    assert engine.counts("workflow:bulk.reacher") == {"completed": 10}
    assert [(act.act, act.by, act.reason) for act in engine.get("run-3").acts()] == [
        ("retry", "mia", "the shop is back")
    ]
    (shown,) = engine.bulks()
    assert shown == done
    assert (shown.act, shown.filter, shown.by) == ("retry", "workflow:bulk.reacher id:run-*", "mia")


def test_runs_are_paused_unpaused_cancelled_terminated_and_deleted_by_a_filter(engine: TestEngine) -> None:
    for number in range(7):
        engine.start(sleeper, id=f"s-{number}")
    engine.idle()
    assert engine.bulk("pause", "id:s-*").seen == 7
    assert engine.counts("id:s-*") == {"paused": 7}
    engine.bulk("unpause", "id:s-*")
    engine.idle()
    assert engine.counts("id:s-*") == {"waiting": 7}
    engine.bulk("cancel", "id:s-1")
    engine.idle()
    assert executed == [-1]
    engine.bulk("terminate", "workflow:bulk.sleeper")
    assert (executed, engine.counts("id:s-*")) == ([-1], {"cancelled": 7})
    assert engine.bulk("delete", "id:s-*").seen == 7
    assert engine.counts() == {}
    assert [bulk.act for bulk in engine.bulks()] == ["delete", "terminate", "cancel", "unpause", "pause"]


@pytest.mark.parametrize(
    ("act", "text", "error", "said"),
    [
        ("pause", "", InvalidArgument, "to pause every run there is is seldom meant"),
        ("delete", "   ", InvalidArgument, "seldom meant"),
        ("retry", "order:-created", InvalidArgument, "seldom meant"),
        ("retry", "status:completed", InvalidArgument, "runs that are completed are not for 'retry'"),
        ("delete", "status:waiting", InvalidArgument, "not for 'delete'"),
        ("retry", "satus:failed", InvalidFilter, "is 'status' meant"),
        ("forget", "status:failed", InvalidArgument, "one of pause, unpause, cancel, retry, terminate, delete"),
        ("retry", "parent:ghost", RunNotFound, "ghost"),
    ],
)
def test_an_act_that_cannot_be_meant_is_refused_before_anything_is_written(
    engine: TestEngine, act: Any, text: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        engine.bulk(act, text)
    assert engine.bulks() == []


def test_a_run_that_has_moved_on_is_refused_and_counted(engine: TestEngine, caplog: pytest.LogCaptureFixture) -> None:
    @workflow(name="bulk.keeping")
    async def keeping() -> None:
        await start(reacher, 1, id="c-1")
        await asyncio.sleep(10**6)

    engine.start(keeping, id="p")
    engine.start(reacher, 2, id="c-2")
    engine.idle()
    done = engine.bulk("delete", "id:c-*")
    assert (done.seen, done.refused) == (2, 1)
    assert "delete of run 'c-1', one of those that match 'id:c-*', is refused" in caplog.text


@pytest.mark.parametrize("pages", [0, 1, 2, 3])
def test_an_act_goes_on_where_it_was_when_its_worker_dies_between_two_commits(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    failed(engine, 10)
    served = bulk_requests.BulkRequests.go_on
    left = [pages]

    def stops(self: Any, request: Any, reply: Any) -> None:
        if left[0]:
            left[0] -= 1
            served(self, request, reply)
        else:
            begun.set()

    monkeypatch.setattr(bulk_requests.BulkRequests, "go_on", stops)

    def ask() -> None:
        with contextlib.suppress(StepwellError):
            engine.bulk("retry", "id:run-*")

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(30)
    engine.crash()
    asking.join(30)
    monkeypatch.setattr(bulk_requests.BulkRequests, "go_on", served)
    engine.reopen()
    engine.idle()
    (done,) = engine.bulks()
    assert (done.total, done.seen, done.ended_at is not None) == (10, 10, True)
    assert set(executed) == set(range(10))
    acts = [[act.act for act in engine.get(f"run-{number}").acts()] for number in range(10)]
    assert [each.count("retry") for each in acts] == [1] * 10


def test_runs_that_are_started_meanwhile_are_not_meant(engine: TestEngine) -> None:
    for number in range(4):
        engine.start(sleeper, id=f"s-{number}")
    engine.idle()
    engine.bulk("cancel", "workflow:bulk.sleeper")
    late = engine.start(sleeper, id="late")
    engine.idle()
    assert late.status == "waiting"


def test_async_code_terminates_deletes_and_acts_on_many(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database, workflows=[]) as engine:
            run = await engine.start(sleeper, id="a")
            await engine.start(sleeper, id="b")
            await run.terminate()
            await run.delete()
            done = await engine.bulk("pause", "workflow:bulk.sleeper", by="mia")
            assert (done.seen, [each.by for each in await engine.bulks()]) == (1, ["mia"])

    asyncio.run(main())
