"""Cancellation: of runs, of tasks inside them, by a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

import stepwell
from stepwell import (
    InvalidArgument,
    Retry,
    RunCancelled,
    RunDeadlineExceeded,
    RunEnded,
    RunFailed,
    RunNotFound,
    current,
    publish,
    receive,
    start,
    step,
    sync,
    workflow,
)
from stepwell.definitions.step_info import StepInfo
from stepwell.model.acts import Actor
from stepwell.runtime.serving.requests import CancelRun
from stepwell.testing import TestEngine

happened: list[str] = []
began = threading.Event()


@pytest.fixture(autouse=True)
def _forget() -> None:
    happened.clear()
    began.clear()


@step
async def note(what: str) -> None:
    happened.append(what)


@step
async def hang() -> None:
    happened.append("step began")
    began.set()
    try:
        await asyncio.Event().wait()
    finally:
        happened.append("step stopped")


@workflow
async def sleeps_for_ever() -> None:
    await asyncio.sleep(10**9)


async def sleep() -> None:
    await asyncio.sleep(10**9)


async def ask() -> None:
    await receive("never")


async def gather() -> None:
    await asyncio.gather(sleep(), ask(), asyncio.gather(sleep(), ask()))


async def group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sleep())
        tasks.create_task(ask())


async def lock() -> None:
    taken = asyncio.Lock()
    await taken.acquire()
    await taken.acquire()


async def child() -> None:
    await sleeps_for_ever()


async def child_handle() -> None:
    handle = await start(sleeps_for_ever)
    await handle.result()


@pytest.mark.parametrize(
    "wait", [sleep, ask, gather, group, lock, hang, child, child_handle], ids=lambda wait: wait.__name__
)
@pytest.mark.parametrize("crash", [False, True], ids=["", "after a crash"])
def test_cancelling_reaches_a_run_wherever_it_waits_at_once(
    engine: TestEngine, wait: Callable[[], Coroutine[Any, Any, None]], crash: bool
) -> None:
    @workflow
    async def waits() -> None:
        await publish("waiting", True)
        try:
            await wait()
        finally:
            await note("cleaned up")

    run = engine.start(waits, id="run")
    run.value("waiting", 60)
    if crash:
        engine.crash()
        engine.reopen()
        happened.clear()
    run.cancel("enough")
    with pytest.raises(RunCancelled, match=r"'run'.*enough"):
        run.result(60)
    assert "cleaned up" in happened
    info = run.info()
    assert info.status == "cancelled"
    assert info.reason == "enough"
    assert info.cancel_requested_at is not None
    assert info.ended_at is not None
    engine.idle()
    assert not engine.list(status=["pending", "running", "waiting"])


def test_an_async_step_under_way_is_cancelled(engine: TestEngine) -> None:
    @workflow
    async def waits() -> None:
        await hang()

    run = engine.start(waits)
    assert began.wait(60)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    engine.idle()
    assert happened == ["step began", "step stopped"]


def test_a_sync_step_under_way_is_told_and_the_run_does_not_wait_for_it(engine: TestEngine) -> None:
    release, told = threading.Event(), threading.Event()

    @step
    def hold() -> None:
        info = current()
        assert isinstance(info, StepInfo)
        before = info.cancelled
        began.set()
        release.wait(60)
        if info.cancelled and not before:
            told.set()

    @workflow
    async def waits() -> None:
        hold()

    run = engine.start(waits)
    assert began.wait(60)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    release.set()
    assert told.wait(60)


def test_a_retry_that_waits_for_its_time_is_not_attempted(engine: TestEngine) -> None:
    @step(retry=Retry(attempts=5, delay=60))
    async def fails() -> None:
        happened.append("attempt")
        raise OSError

    @workflow
    async def tries() -> None:
        await fails()

    run = engine.start(tries)
    engine.idle()
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    engine.advance(600)
    assert happened == ["attempt"]


def test_clean_up_may_wait_call_steps_and_receive(engine: TestEngine) -> None:
    @workflow
    async def tidy() -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            await note("first")
            await asyncio.sleep(60)
            await note(await receive("word", str))

    run = engine.start(tidy)
    engine.idle()
    run.cancel()
    engine.advance(60)
    engine.crash()
    engine.reopen()
    run.send("word", "last")
    with pytest.raises(RunCancelled):
        run.result(60)
    assert happened == ["first", "last"]


def test_a_second_cancellation_does_not_disturb_the_clean_up(engine: TestEngine) -> None:
    @workflow
    async def tidy() -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            await asyncio.sleep(60)
            await note("cleaned up")

    run = engine.start(tidy)
    engine.idle()
    run.cancel("first")
    engine.idle()
    run.cancel("second")
    engine.advance(60)
    with pytest.raises(RunCancelled, match="first"):
        run.result(60)
    assert happened == ["cleaned up"]


def test_shielded_work_goes_on_to_its_end(engine: TestEngine) -> None:
    @workflow
    async def protects() -> None:
        async def important() -> None:
            await asyncio.sleep(60)
            await note("important")

        inner = asyncio.create_task(important())
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError:
            await inner
            raise

    run = engine.start(protects)
    engine.idle()
    run.cancel()
    engine.advance(60)
    with pytest.raises(RunCancelled):
        run.result(60)
    assert happened == ["important"]


def test_a_run_that_swallows_the_cancellation_completes(engine: TestEngine) -> None:
    @workflow
    async def stubborn() -> str:
        try:
            await asyncio.sleep(10**6)
        except asyncio.CancelledError:
            await note("swallowed")
        await asyncio.sleep(60)
        return "done all the same"

    run = engine.start(stubborn)
    engine.idle()
    run.cancel()
    engine.advance(30)
    engine.crash()
    engine.reopen()
    engine.advance(30)
    assert run.result(60) == "done all the same"
    assert happened == ["swallowed"]


def test_an_error_in_the_clean_up_is_what_the_run_fails_with(engine: TestEngine) -> None:
    @workflow
    async def clumsy() -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            raise ValueError("in clean-up")

    run = engine.start(clumsy)
    engine.idle()
    run.cancel()
    with pytest.raises(ValueError, match="in clean-up"):
        run.result(60)
    assert run.status == "failed"


def test_sync_workflows_are_cancelled_where_they_wait(engine: TestEngine) -> None:
    @workflow
    def waits() -> None:
        try:
            sync.sleep(10**6)
        finally:
            sync.call(note, "cleaned up")

    run = engine.start(waits)
    engine.idle()
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    assert happened == ["cleaned up"]


# --- runs in other states ---------------------------------------------------------------------------------------------


def test_a_pending_run_is_cancelled_without_having_run(engine: TestEngine) -> None:
    engine.reopen(workflows=[sleeps_for_ever])

    @workflow
    async def unserved() -> None:
        happened.append("ran")

    run = engine.start(unserved)
    assert run.status == "pending"
    run.cancel("not needed")
    with pytest.raises(RunCancelled, match="not needed"):
        run.result(60)
    assert happened == []


def test_an_unknown_run_cannot_be_cancelled(engine: TestEngine) -> None:
    with pytest.raises(RunNotFound, match="ghost"):
        engine._ask(CancelRun("ghost", Actor("mia")))


def test_an_ended_run_is_left_as_it_is(engine: TestEngine) -> None:
    @workflow
    async def quick() -> int:
        return 5

    run = engine.start(quick)
    assert run.result(60) == 5
    run.cancel()
    assert run.result(60) == 5
    assert run.info().cancel_requested_at is None


def test_a_halted_run_can_be_cancelled(engine: TestEngine) -> None:
    @workflow
    async def broken() -> Any:
        return object()

    run = engine.start(broken)
    with pytest.raises(stepwell.ResultNotSerializable):
        run.result(60)
    run.cancel("give up")
    with pytest.raises(RunCancelled, match="give up"):
        run.result(60)


def test_a_cancellation_is_durable_once_it_is_acknowledged(engine: TestEngine) -> None:
    @workflow
    async def waits() -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            await asyncio.sleep(5)

    run = engine.start(waits)
    engine.idle()
    run.cancel("gone")
    engine.crash()
    engine.reopen()
    engine.advance(5)
    with pytest.raises(RunCancelled, match="gone"):
        run.result(60)


def test_a_cancelled_run_that_was_parked_out_of_memory_is_woken(engine: TestEngine) -> None:
    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(sleeps_for_ever)
    engine.idle()
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)


def test_a_workflow_that_raises_cancelled_error_itself_is_cancelled(engine: TestEngine) -> None:
    @workflow
    async def gives_up() -> None:
        raise asyncio.CancelledError

    run = engine.start(gives_up)
    with pytest.raises(RunCancelled, match="raised CancelledError"):
        run.result(60)


def test_messages_and_values_of_a_cancelled_run_are_refused(engine: TestEngine) -> None:
    run = engine.start(sleeps_for_ever)
    engine.idle()
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    with pytest.raises(RunEnded):
        run.send("a", 1)
    with pytest.raises(RunEnded):
        run.value("a", 60)


# --- inside a run -----------------------------------------------------------------------------------------------------


def test_a_task_inside_a_run_is_cancelled_alone(engine: TestEngine) -> None:
    @workflow
    async def manages() -> list[str]:
        async def work(name: str) -> str:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                await note(f"{name} cancelled")
                raise
            return name

        tasks = [asyncio.create_task(work(name)) for name in "abc"]
        await asyncio.sleep(10)
        tasks[1].cancel()
        return [str(found) for found in await asyncio.gather(*tasks, return_exceptions=True)]

    run = engine.start(manages)
    engine.advance(50)
    engine.crash()
    engine.reopen()
    engine.advance(50)
    assert run.result(60) == ["a", "", "c"]
    assert happened == ["b cancelled"]


def test_a_cancelled_task_stops_its_step_and_the_run_goes_on(engine: TestEngine) -> None:
    @workflow
    async def manages() -> str:
        task = asyncio.create_task(hang())
        await receive("stop")
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "stopped"
        return "not stopped"

    run = engine.start(manages)
    assert began.wait(60)
    run.send("stop")
    assert run.result(60) == "stopped"
    engine.idle()
    assert happened == ["step began", "step stopped"]


def test_the_late_result_of_a_step_that_nobody_waits_for_changes_nothing(engine: TestEngine) -> None:
    release = threading.Event()

    @step
    def hold() -> str:
        release.wait(60)
        return "late"

    @workflow
    async def manages() -> list[str]:
        task = asyncio.create_task(asyncio.to_thread(hold))
        await receive("stop")
        task.cancel()
        found = ["cancelled"]
        await publish("cancelled", True)
        found.append(await receive("end", str))
        return found

    run = engine.start(manages)
    run.send("stop")
    run.value("cancelled", 60)
    release.set()
    run.send("end", "fine")
    assert run.result(60) == ["cancelled", "fine"]
    assert "step" not in {entry.kind for entry in run.journal()}


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_datetime", [False, True], ids=["duration", "datetime"])
def test_a_run_is_stopped_at_its_deadline_and_fails(engine: TestEngine, as_datetime: bool) -> None:
    @workflow
    async def slow() -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            await note("cleaned up")

    end = engine.clock.time + timedelta(seconds=100)
    run = engine.start(slow, id="slow", deadline=end if as_datetime else 100)
    assert run.info().deadline_at == end
    engine.advance(99.999)
    assert run.status == "waiting"
    engine.crash()
    engine.reopen()
    engine.advance(0.001)
    with pytest.raises(RunDeadlineExceeded, match="'slow'") as caught:
        run.result(60)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, RunFailed)
    assert happened == ["cleaned up"]
    assert run.info().status == "failed"


def test_a_deadline_reaches_a_run_that_is_busy_with_a_step(engine: TestEngine) -> None:
    @workflow
    async def busy() -> None:
        await hang()

    run = engine.start(busy, deadline=100)
    assert began.wait(60)
    engine.clock.advance(100)
    with pytest.raises(RunDeadlineExceeded):
        run.result(60)


def test_a_run_that_ends_in_time_does_not_mind_its_deadline(engine: TestEngine) -> None:
    @workflow
    async def quick() -> int:
        await asyncio.sleep(99)
        return 1

    run = engine.start(quick, deadline=100)
    engine.advance(1000)
    assert run.result(60) == 1


def test_a_cancellation_before_the_deadline_stays_a_cancellation(engine: TestEngine) -> None:
    @workflow
    async def tidy() -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            await asyncio.sleep(500)

    run = engine.start(tidy, deadline=100)
    engine.idle()
    run.cancel("by hand")
    engine.advance(1000)
    with pytest.raises(RunCancelled, match="by hand"):
        run.result(60)


def test_a_deadline_that_has_passed_at_the_start_stops_the_run_at_once(engine: TestEngine) -> None:
    run = engine.start(sleeps_for_ever, deadline=engine.clock.time - timedelta(days=1))
    with pytest.raises(RunDeadlineExceeded):
        run.result(60)


@pytest.mark.parametrize("deadline", [-1, float("nan"), "soon", timedelta(days=-1)])
def test_an_absurd_deadline_is_refused_before_anything_is_written(engine: TestEngine, deadline: Any) -> None:
    with pytest.raises(InvalidArgument, match="deadline"):
        engine.start(sleeps_for_ever, id="run", deadline=deadline)
    with pytest.raises(RunNotFound):
        engine.get("run")
