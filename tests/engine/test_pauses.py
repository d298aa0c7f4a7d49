"""A paused run starts no step, takes no message and waits with its timers, until somebody lets it go on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    AsyncEngine,
    Engine,
    InvalidArgument,
    Limit,
    PermanentError,
    Queue,
    Retry,
    RunCancelled,
    RunEnded,
    RunHalted,
    RunNotFound,
    RunNotPaused,
    RunPaused,
    receive,
    start,
    step,
    transaction,
    workflow,
)
from stepwell.testing import TestEngine

LINE = Queue("pauses.line", concurrency=1)
ONE = Limit("pauses.one", concurrency=1)
executed: list[Any] = []
broken: set[str] = set()
begun = threading.Event()
gate = threading.Event()


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()
    broken.clear()
    begun.clear()
    gate.clear()


@step(name="pauses.act")
async def act(what: str) -> str:
    executed.append(what)
    return what


def held(what: str) -> str:
    begun.set()
    assert gate.wait(30)
    executed.append(what)
    return what


@step(name="pauses.hold")
def hold(what: str) -> str:
    return held(what)


@step(name="pauses.held_once", delivery="at-most-once")
def held_once(what: str) -> str:
    return held(what)


@step(name="pauses.fragile", retry=Retry(attempts=2, delay=0, then="pause", on=OSError))
async def fragile(what: str) -> str:
    executed.append(what)
    if what in broken:
        raise OSError(what)
    if "permanent" in broken:
        raise PermanentError(what)
    if "other" in broken:
        raise ValueError(what)
    return what


@workflow(name="pauses.two_steps")
def two_steps() -> list[str]:
    return [hold("first"), hold("second")]


@workflow(name="pauses.side_by_side")
async def side_by_side() -> list[str]:
    return list(await asyncio.gather(asyncio.to_thread(hold, "slow"), fragile("quick")))


@workflow(name="pauses.once")
def once() -> list[str]:
    return [held_once("once"), hold("after")]


@workflow(name="pauses.sleeper")
async def sleeper() -> str:
    await asyncio.sleep(60)
    return await act("awake")


@workflow(name="pauses.receiver")
async def receiver() -> list[int]:
    return [await receive("number", int), await receive("number", int)]


@workflow(name="pauses.careful")
async def careful() -> str:
    return await fragile("shop")


@workflow(name="pauses.parent")
async def parent() -> str:
    return await (await start(sleeper, id="child")).result()


@workflow(name="pauses.tidy")
async def tidy() -> None:
    try:
        await asyncio.sleep(10**6)
    finally:
        await act("tidied")


@workflow(name="pauses.halting")
async def halting() -> None:
    prices: dict[str, int] = {}
    assert prices["tea"]


def status_becomes(run: Any, status: str) -> bool:
    """Wait for a state of a run: tells whether it came."""
    waited = threading.Event()
    for _ in range(3000):
        if run.status == status:
            return True
        waited.wait(0.01)
    return False


# --- what a paused run does not do ------------------------------------------------------------------------------------


def test_a_paused_run_starts_no_step_and_the_one_under_way_is_recorded(engine: TestEngine) -> None:
    run = engine.start(two_steps, id="run")
    assert begun.wait(30)
    run.pause(reason="the shop is down", by="mia")
    info = run.info()
    assert info.status == "running"
    assert "by mia (the shop is down), as soon as its steps under way have ended" in (info.reason or "")
    gate.set()
    assert status_becomes(run, "paused")
    assert (executed, [entry.kind for entry in run.journal()]) == (["first"], ["step"])
    reason = run.info().reason or ""
    assert "by mia (the shop is down)" in reason
    assert "stepwell unpause run" in reason
    run.unpause()
    assert run.result(timeout=30) == ["first", "second"]
    assert executed == ["first", "second"]
    assert (run.acts()[0].act, run.acts()[0].by) == ("pause", "mia")


def test_a_run_whose_code_ends_with_the_step_under_way_completes(engine: TestEngine) -> None:
    @workflow(name="pauses.last")
    def last() -> str:
        return hold("last")

    run = engine.start(last)
    assert begun.wait(30)
    run.pause()
    gate.set()
    assert run.result(timeout=30) == "last"


def test_a_step_that_is_delivered_once_is_not_cut_off_by_a_pause(engine: TestEngine) -> None:
    run = engine.start(once)
    assert begun.wait(30)
    run.pause()
    gate.set()
    assert status_becomes(run, "paused")
    run.unpause()
    assert run.result(timeout=30) == ["once", "after"]
    assert executed == ["once", "after"]


def test_its_timers_wait_and_those_that_are_due_fire_when_it_goes_on(engine: TestEngine) -> None:
    run = engine.start(sleeper, id="run")
    engine.idle()
    run.pause()
    assert (run.status, run.info().wake_at) == ("paused", None)
    assert "before that, it waits for a timer until" in (run.info().reason or "")
    engine.advance(3600)
    engine.idle()
    assert (run.status, executed) == ("paused", [])
    run.unpause()
    assert run.result(timeout=30) == "awake"


def test_a_timer_that_is_not_due_is_waited_for_after_a_pause(engine: TestEngine) -> None:
    run = engine.start(sleeper)
    engine.idle()
    run.pause()
    engine.advance(30)
    run.unpause()
    engine.idle()
    assert (run.status, executed) == ("waiting", [])
    engine.advance(30)
    assert run.result(timeout=30) == "awake"


def test_messages_wait_and_are_received_in_their_order(engine: TestEngine) -> None:
    run = engine.start(receiver)
    engine.idle()
    run.send("number", 1)
    engine.idle()
    run.pause()
    run.send("number", 2)
    engine.idle()
    assert (run.status, [entry.value for entry in run.journal()]) == ("paused", [1])
    run.unpause()
    assert run.result(timeout=30) == [1, 2]


def test_its_deadline_waits_as_well(engine: TestEngine) -> None:
    run = engine.start(sleeper, deadline=30)
    engine.idle()
    run.pause()
    engine.advance(3600)
    engine.idle()
    assert run.status == "paused"
    run.unpause()
    with pytest.raises(Exception, match="before its deadline"):
        run.result(timeout=30)


def test_a_run_that_waits_for_its_worker_is_paused_before_it_begins(database: Path) -> None:
    with Engine(database, workflows=[]) as client:
        run = client.start("pauses.sleeper", id="run")
        run.pause()
        assert (run.status, run.info().started_at) == ("paused", None)
    with TestEngine(database) as engine:
        engine.idle()
        assert engine.get("run").status == "paused"
        engine.get("run").unpause()
        engine.advance(61)
        engine.idle()
        engine.advance(61)
        assert engine.get("run").result(timeout=30) == "awake"


def test_one_in_a_queue_is_passed_by_and_keeps_its_place(engine: TestEngine) -> None:
    first = engine.start(two_steps, id="first", queue=LINE)
    assert begun.wait(30)
    second, third = (engine.start(receiver, id=name, queue=LINE) for name in ("second", "third"))
    second.pause()
    assert (second.status, engine.queue(LINE).info().waiting) == ("paused", 1)
    gate.set()
    first.result(timeout=30)
    assert status_becomes(third, "waiting")
    assert second.status == "paused"
    second.unpause()
    third.cancel()
    assert status_becomes(second, "waiting")


def test_what_waits_for_a_permit_gives_it_back(engine: TestEngine) -> None:
    @step(name="pauses.bounded", limit=ONE)
    def bounded(what: str) -> str:
        return held(what)

    @workflow(name="pauses.bounded_flow")
    def flow(what: str) -> str:
        return bounded(what)

    first = engine.start(flow, "first")
    assert begun.wait(30)
    second = engine.start(flow, "second")
    assert status_becomes(second, "waiting")
    second.pause()
    assert (second.status, engine.queue(ONE).info().waiting) == ("paused", 0)
    gate.set()
    assert first.result(timeout=30) == "first"
    engine.idle()
    assert executed == ["first"]
    second.unpause()
    assert second.result(timeout=30) == "second"


def test_a_pause_that_is_taken_back_at_once_changes_nothing(engine: TestEngine) -> None:
    run = engine.start(two_steps)
    assert begun.wait(30)
    run.pause()
    run.unpause()
    gate.set()
    assert run.result(timeout=30) == ["first", "second"]


# --- children ---------------------------------------------------------------------------------------------------------


def test_children_go_on_unless_they_are_paused_as_well(engine: TestEngine) -> None:
    run = engine.start(parent, id="run")
    engine.idle()
    run.pause()
    engine.advance(60)
    engine.idle()
    assert (run.status, engine.get("child").status) == ("paused", "completed")
    run.unpause()
    assert run.result(timeout=30) == "awake"


def test_a_run_is_paused_with_its_children_and_goes_on_with_them(engine: TestEngine) -> None:
    run = engine.start(parent, id="run")
    engine.idle()
    run.pause(children=True, reason="stop all of it")
    child = engine.get("child")
    assert (run.status, child.status) == ("paused", "paused")
    assert [act.reason for act in child.acts()] == ["stop all of it"]
    engine.advance(60)
    engine.idle()
    assert child.status == "paused"
    run.unpause()
    engine.idle()
    assert (run.status, child.status) == ("waiting", "paused")
    assert "paused" in (run.info().reason or "")
    child.unpause()
    assert run.result(timeout=30) == "awake"


# --- acts on what is paused, and pauses of what is something else -----------------------------------------------------


def test_to_cancel_a_paused_run_ends_the_pause_and_lets_it_clean_up(engine: TestEngine) -> None:
    run = engine.start(tidy)
    engine.idle()
    run.pause()
    assert run.cancel("enough") is True
    with pytest.raises(RunCancelled, match="enough"):
        run.result(timeout=30)
    assert executed == ["tidied"]


def test_to_cancel_one_that_never_began_ends_it(database: Path) -> None:
    with Engine(database, workflows=[]) as client:
        run = client.start("pauses.tidy")
        run.pause()
        run.cancel()
        with pytest.raises(RunCancelled):
            run.result(timeout=30)


@pytest.mark.parametrize("act", ["resume", "retry"])
def test_a_paused_run_is_not_tried_again_before_it_is_unpaused(engine: TestEngine, act: str) -> None:
    run = engine.start(sleeper, id="run")
    engine.idle()
    run.pause()
    with pytest.raises(RunPaused, match="unpause it"):
        getattr(run, act)()


def test_what_has_moved_on_meanwhile_says_what_it_is_now(engine: TestEngine) -> None:
    gate.set()
    ended, waits, halts = engine.start(two_steps, id="ended"), engine.start(sleeper, id="waits"), engine.start(halting)
    ended.result(timeout=30)
    engine.idle()
    with pytest.raises(RunEnded, match=r"'ended' has ended \(completed\), so it cannot be paused"):
        ended.pause()
    with pytest.raises(RunEnded, match=r"\(completed\), so it cannot be unpaused"):
        ended.unpause()
    with pytest.raises(RunNotPaused, match="'waits' is not paused but waiting"):
        waits.unpause()
    with pytest.raises(RunHalted, match="is halted, so it starts nothing anyway"):
        halts.pause()
    with pytest.raises(RunNotPaused, match="halted"):
        halts.unpause()
    assert [run.acts() for run in (ended, waits, halts)] == [[], [], []]


def test_to_pause_twice_is_to_pause_once(engine: TestEngine) -> None:
    run = engine.start(sleeper)
    engine.idle()
    run.pause(reason="first")
    run.pause(reason="second")
    assert [act.reason for act in run.acts()] == ["first"]


@pytest.mark.parametrize("verb", ["pause", "unpause"])
def test_a_run_that_does_not_exist_is_not_paused(engine: TestEngine, verb: str) -> None:
    run = engine.start(sleeper, id="run")
    run.id = "ghost"
    with pytest.raises(RunNotFound, match="ghost"):
        getattr(run, verb)()


def test_paused_runs_are_listed(engine: TestEngine) -> None:
    first, second, other = (engine.start(sleeper, id=name) for name in ("first", "second", "other"))
    engine.idle()
    first.pause()
    second.pause()
    assert [run.id for run in engine.list(status="paused")] == ["second", "first"]
    assert [run.id for run in engine.list(status=["paused", "waiting"])] == ["other", "second", "first"]
    assert other.status == "waiting"


def test_async_code_pauses_and_unpauses(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database) as engine:
            run = await engine.start(receiver)
            await run.pause(reason="why", by="mia")
            await run.send("number", 1)
            await run.send("number", 2)
            await run.unpause(children=True)
            assert await run.result(timeout=30) == [1, 2]
            assert [each.act for each in await run.acts()] == ["pause", "unpause"]

    asyncio.run(main())


# --- a step that has failed for good ----------------------------------------------------------------------------------


def test_a_run_pauses_with_the_error_when_attempts_are_spent_and_goes_on_after_the_fix(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    broken.add("shop")
    run = engine.start(careful, id="run")
    assert status_becomes(run, "paused")
    info = run.info()
    assert "by the retry policy of step 'pauses.fragile' (attempt 2 of step" in (info.reason or "")
    assert "OSError: shop" in (info.reason or "")
    assert "its run pauses. Mend the cause, then `stepwell unpause run`" in caplog.text
    assert [(entry.kind, entry.attempt) for entry in run.journal()] == [("attempt_failed", 1), ("attempt_failed", 2)]
    broken.clear()
    run.unpause()
    assert run.result(timeout=30) == "shop"
    assert executed == ["shop"] * 3
    assert run.journal()[-1].attempt == 3


def test_the_policy_begins_anew_when_it_goes_on(engine: TestEngine) -> None:
    broken.add("shop")
    run = engine.start(careful)
    assert status_becomes(run, "paused")
    run.unpause()
    while len(executed) < 4:
        gate.wait(0.01)
    assert status_becomes(run, "paused")
    assert [entry.attempt for entry in run.journal()] == [1, 2, 3, 4]


@pytest.mark.parametrize(("what", "error"), [("permanent", PermanentError), ("other", ValueError)])
def test_an_error_that_is_not_retried_reaches_the_code(engine: TestEngine, what: str, error: type[Exception]) -> None:
    broken.add(what)
    run = engine.start(careful)
    with pytest.raises(error):
        run.result(timeout=30)


def test_steps_beside_the_one_that_failed_end_before_the_run_pauses(engine: TestEngine) -> None:
    broken.add("quick")
    run = engine.start(side_by_side)
    while executed != ["quick", "quick"] or not run.acts():
        gate.wait(0.01)
    assert run.status == "running"
    gate.set()
    assert status_becomes(run, "paused")
    assert executed == ["quick", "quick", "slow"]
    broken.clear()
    run.unpause()
    assert run.result(timeout=30) == ["slow", "quick"]
    assert executed == ["quick", "quick", "slow", "quick"]


def test_what_cleans_up_pauses_its_run_as_well(engine: TestEngine) -> None:
    @workflow(name="pauses.cleaning")
    async def cleaning() -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            await fragile("shop")

    broken.add("shop")
    run = engine.start(cleaning)
    engine.idle()
    run.cancel()
    assert status_becomes(run, "paused")
    broken.clear()
    run.unpause()
    with pytest.raises(RunCancelled):
        run.result(timeout=30)
    assert executed == ["shop"] * 3


@pytest.mark.parametrize("then", ["stop", "", None, "PAUSE"])
def test_a_policy_that_ends_otherwise_is_refused(then: Any) -> None:
    with pytest.raises(InvalidArgument, match="then must be 'fail' or 'pause'"):
        Retry(then=then)


def test_a_transactional_step_pauses_its_run_and_leaves_nothing(engine: TestEngine) -> None:
    @transaction(name="pauses.write", retry=Retry(attempts=1, then="pause"))
    def write(lent: Any) -> str:
        lent.execute("CREATE TABLE IF NOT EXISTS written (what TEXT)")
        lent.execute("INSERT INTO written VALUES ('once')")
        if broken:
            raise OSError("no route")
        return "written"

    @workflow(name="pauses.writing")
    async def writing() -> str:
        return await asyncio.to_thread(write)

    broken.add("all")
    run = engine.start(writing)
    assert status_becomes(run, "paused")
    broken.clear()
    run.unpause()
    assert run.result(timeout=30) == "written"
    assert engine.query("SELECT count(*) FROM written").fetchall() == [(1,)]
