"""Runs that failed or were cancelled are brought back, and go on from what they did not survive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

import stepwell
from stepwell import (
    AsyncEngine,
    Engine,
    InvalidArgument,
    Queue,
    Retry,
    RunCancelled,
    RunDeadlineExceeded,
    RunEnded,
    RunNotEnded,
    RunNotFound,
    StepInterrupted,
    publish,
    receive,
    send,
    step,
    sync,
    transaction,
    workflow,
)
from stepwell.testing import TestEngine

executed: list[Any] = []
broken: set[str] = set()


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()
    broken.clear()


class Down(Exception):
    """What a step meets while what it needs is down."""


@step
async def act(what: str) -> str:
    executed.append(what)
    if what in broken:
        raise Down(what)
    return what


@step
def act_sync(what: str) -> str:
    executed.append(what)
    if what in broken:
        raise Down(what)
    return what


def kinds(run: Any) -> list[str]:
    return [entry.kind for entry in run.journal()]


def fail(engine: TestEngine, definition: Any, *args: Any, id: str = "run") -> Any:
    run = engine.start(definition, *args, id=id)
    engine.idle()
    assert run.status == "failed", run.info()
    executed.clear()
    return run


# --- from the failed step ---------------------------------------------------------------------------------------------


@workflow
async def order() -> list[str]:
    first = await act("reserve")
    second = await act("charge")
    return [first, second, await act("ship")]


@workflow
def order_blocking() -> list[str]:
    return [act_sync("reserve"), act_sync("charge"), act_sync("ship")]


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("definition", [order, order_blocking])
def test_a_failed_run_goes_on_from_the_step_that_failed(engine: TestEngine, definition: Any, reopened: bool) -> None:
    broken.add("charge")
    run = fail(engine, definition)
    broken.clear()
    if reopened:
        engine.reopen()
    run.retry()
    assert run.result(timeout=60) == ["reserve", "charge", "ship"]
    assert executed == ["charge", "ship"]
    assert kinds(run) == ["step", "step", "step"]


def test_a_retry_that_fails_again_can_be_retried_again(engine: TestEngine) -> None:
    broken.add("charge")
    run = fail(engine, order)
    for _ in range(3):
        run.retry()
        engine.idle()
        assert run.status == "failed"
        with pytest.raises(Down, match="charge"):
            run.result(timeout=60)
    assert executed == ["charge"] * 3
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == ["reserve", "charge", "ship"]


def test_the_attempts_of_the_failed_step_begin_anew(engine: TestEngine) -> None:
    @step(retry=Retry(attempts=3, delay=1, backoff=1))
    async def flaky() -> str:
        executed.append("attempt")
        if "flaky" in broken:
            raise Down
        return "done"

    @workflow
    async def tries() -> str:
        return await flaky()

    broken.add("flaky")
    run = engine.start(tries)
    engine.advance(10)
    assert len(executed) == 3
    assert run.status == "failed"
    run.retry()
    engine.advance(10)
    assert len(executed) == 6
    assert kinds(run) == ["attempt_failed", "attempt_failed", "step_failed"]
    assert [entry.attempt for entry in run.journal()] == [1, 2, 3]
    broken.clear()
    run.retry()
    engine.advance(10)
    assert run.result(timeout=60) == "done"


@pytest.mark.parametrize("how", ["from", "while", "from None", "in a group", "re-raised", "in a task group"])
def test_it_is_found_however_the_failure_became_the_runs(engine: TestEngine, how: str) -> None:
    @workflow
    async def wraps() -> str:
        await act("before")
        try:
            if how == "in a task group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(act("charge"))
            else:
                await act("charge")
        except Down as error:
            match how:
                case "from":
                    raise ValueError("order") from error
                case "while":
                    raise ValueError("order")  # noqa: B904 - that is the point
                case "from None":
                    raise ValueError("order") from None
                case "in a group":
                    raise ExceptionGroup("order", [ValueError("other"), error]) from None
                case _:
                    raise
        return "done"

    broken.add("charge")
    run = fail(engine, wraps)
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == "done"
    assert executed == ["charge"]


def test_what_followed_the_failure_is_undone_and_clean_up_is_done_again_only_if_it_fails_again(
    engine: TestEngine,
) -> None:
    @workflow
    async def compensates() -> str:
        await act("reserve")
        try:
            await act("charge")
        except Down:
            await act("release")
            raise
        return await act("ship")

    broken.add("charge")
    run = fail(engine, compensates)
    run.retry()
    engine.idle()
    assert executed == ["charge", "release"]
    executed.clear()
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == "ship"
    assert executed == ["charge", "ship"]


def test_a_failure_that_was_handled_is_not_gone_back_to(engine: TestEngine) -> None:
    @workflow
    async def falls_back() -> str:
        try:
            await act("fast")
        except Down:
            await act("slow")
        return await act("last")

    broken.update({"fast", "last"})
    run = fail(engine, falls_back)
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == "last"
    assert executed == ["last"]


def test_of_a_step_that_code_tries_several_times_the_last_try_is_repeated(engine: TestEngine) -> None:
    @workflow
    async def loops() -> str:
        for attempt in range(3):
            try:
                return await act("charge")
            except Down:
                if attempt == 2:
                    raise
        return "never"

    broken.add("charge")
    run = fail(engine, loops)
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == "charge"
    assert executed == ["charge"]
    assert kinds(run) == ["step_failed", "step_failed", "step"]


def test_a_run_that_failed_by_itself_keeps_all_and_is_tried_with_the_code_of_today(engine: TestEngine) -> None:
    async def strict() -> str:
        stock = await act("stock")
        if stock:
            raise ValueError("too little")
        return await act("ship")

    async def lenient() -> str:
        await act("stock")
        return await act("ship")

    run = fail(engine, workflow(name="by itself")(strict))
    run.retry()
    engine.idle()
    assert run.status == "failed"
    assert executed == []
    workflow(name="by itself")(lenient)
    engine.reopen()
    run.retry()
    assert run.result(timeout=60) == "ship"
    assert executed == ["ship"]


def test_steps_that_went_on_beside_the_failed_one_are_not_repeated(database: Path) -> None:
    failed = threading.Event()

    @step
    def slow() -> str:
        executed.append("slow")
        failed.wait(60)
        return "slow"

    @workflow
    async def together() -> list[Any]:
        results = await asyncio.gather(act("charge"), asyncio.to_thread(slow), return_exceptions=True)
        await act("report")
        for result in results:
            if isinstance(result, Exception):
                raise result
        return list(results)

    broken.add("charge")
    with Engine(database) as engine:
        run = engine.start(together)
        until(lambda: kinds(run) == ["step_failed"])
        failed.set()
        with pytest.raises(Down):
            run.result(timeout=60)
        executed.clear()
        broken.clear()
        run.retry()
        assert run.result(timeout=60) == ["charge", "slow"]
        assert executed == ["charge", "report"]
        assert kinds(run) == ["step", "step", "step"]


def test_of_several_failures_in_a_group_the_first_is_gone_back_to(engine: TestEngine) -> None:
    @workflow
    async def several() -> None:
        await act("before")
        errors = await asyncio.gather(act("one"), act("two"), return_exceptions=True)
        found = [error for error in errors if isinstance(error, Exception)]
        if found:
            raise ExceptionGroup("several", found)

    broken.update({"one", "two"})
    run = fail(engine, several)
    broken.clear()
    run.retry()
    assert run.result(timeout=60) is None
    assert sorted(executed) == ["one", "two"]


def test_an_at_most_once_step_that_failed_is_executed_once_more_since_that_is_asked_for(engine: TestEngine) -> None:
    @step(delivery="at-most-once")
    async def once() -> str:
        executed.append("once")
        if len(executed) == 1:
            raise Down
        return "done"

    @workflow
    async def calls() -> str:
        return await once()

    run = engine.start(calls)
    engine.idle()
    assert run.status == "failed"
    run.retry()
    assert run.result(timeout=60) == "done"
    assert executed == ["once", "once"]


def test_a_transaction_that_failed_is_called_again(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        tx.execute("CREATE TABLE booked (what TEXT)")

    @transaction
    def book(tx: Any, what: str) -> None:
        tx.execute("INSERT INTO booked VALUES (?)", (what,))
        if "book" in broken:
            raise Down

    @workflow
    async def books() -> None:
        book("first")
        book("second")

    broken.add("book")
    run = fail(engine, books)
    broken.clear()
    run.retry()
    run.result(timeout=60)
    with engine.transaction() as tx:
        assert tx.execute("SELECT what FROM booked") == [("first",), ("second",)]


# --- messages, timers, values -----------------------------------------------------------------------------------------


def test_messages_that_were_received_after_the_failure_come_again_and_those_before_do_not(engine: TestEngine) -> None:
    @workflow
    async def listens() -> list[Any]:
        heard = [await receive("m")]
        try:
            await act("charge")
        except Down:
            await receive("m")
            await receive("m")
            raise
        return [*heard, await receive("m"), await receive("m"), await receive("m")]

    broken.add("charge")
    run = engine.start(listens, id="run", messages=[("m", 0), ("m", 1, "key-1"), ("m", 2), ("m", 3, "key-3")])
    engine.idle()
    assert run.status == "failed"
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == [0, 1, 2, 3]


def test_what_was_sent_to_it_before_it_failed_is_still_there(engine: TestEngine) -> None:
    @workflow
    async def listens() -> Any:
        await act("charge")
        return await receive("m")

    broken.add("charge")
    run = engine.start(listens, messages=[("m", "kept", "key")])
    engine.idle()
    assert run.status == "failed"
    with pytest.raises(RunEnded):
        run.send("m", "too late")
    broken.clear()
    engine.reopen()
    run.retry()
    run.send("m", "a repetition", key="key")
    assert run.result(timeout=60) == "kept"


def test_timers_that_fired_are_not_waited_for_again(engine: TestEngine) -> None:
    @workflow
    async def waits() -> str:
        await asyncio.sleep(3600)
        await act("charge")
        await asyncio.sleep(60)
        return "done"

    broken.add("charge")
    run = engine.start(waits)
    engine.advance(3601)
    assert run.status == "failed"
    broken.clear()
    run.retry()
    engine.idle()
    assert kinds(run) == ["timer", "step"]
    engine.advance(61)
    assert run.result(timeout=60) == "done"
    assert kinds(run) == ["timer", "step", "timer"]


def test_published_values_stay_until_they_are_replaced_and_sent_messages_are_sent_again(engine: TestEngine) -> None:
    @workflow
    async def target() -> list[Any]:
        return [await receive("news"), await receive("news")]

    @workflow
    async def speaks() -> None:
        await publish("state", "begun")
        try:
            await act("charge")
        except Down:
            await publish("state", "failed")
            await send("target", "news", "it failed")
            raise
        await send("target", "news", "it went well")

    other = engine.start(target, id="target")
    broken.add("charge")
    run = fail(engine, speaks)
    assert run.value("state") == "failed"
    broken.clear()
    run.retry()
    run.result(timeout=60)
    assert run.value("state") == "failed"
    assert other.result(timeout=60) == ["it failed", "it went well"]


# --- cancelled, given up, too late ------------------------------------------------------------------------------------


@workflow
async def cleans_up() -> str:
    await act("before")
    try:
        word = str(await receive("word"))
    finally:
        await act("clean up")
    return word


def test_a_cancelled_run_goes_on_from_where_it_was_cancelled(engine: TestEngine) -> None:
    run = engine.start(cleans_up)
    engine.idle()
    run.cancel("by mistake")
    engine.idle()
    assert run.status == "cancelled"
    assert executed == ["before", "clean up"]
    engine.reopen()
    run.retry()
    engine.idle()
    info = run.info()
    assert (info.status, info.cancel_requested_at) == ("waiting", None)
    run.send("word", "hello")
    assert run.result(timeout=60) == "hello"
    assert executed == ["before", "clean up", "clean up"]


def test_a_run_whose_clean_up_failed_goes_on_with_its_clean_up(engine: TestEngine) -> None:
    run = engine.start(cleans_up)
    engine.idle()
    broken.add("clean up")
    run.cancel("enough")
    engine.idle()
    assert run.status == "failed"
    broken.clear()
    run.retry()
    with pytest.raises(RunCancelled, match="enough"):
        run.result(timeout=60)


def test_a_run_that_was_cancelled_before_anybody_began_it_is_begun(engine: TestEngine) -> None:
    line = Queue("retried before it began", concurrency=1)
    engine.start(cleans_up, queue=line)
    run = engine.start(order, queue=line, id="run")
    engine.idle()
    run.cancel()
    engine.idle()
    assert run.info().status == "cancelled"
    run.retry()
    engine.idle()
    assert run.info().status == "pending"
    assert "retried before it began" in str(run.info().reason)
    engine.queue(line).change(concurrency=2)
    assert run.result(timeout=60) == ["reserve", "charge", "ship"]


def test_a_run_that_was_too_late_goes_on_without_its_deadline(engine: TestEngine) -> None:
    run = engine.start(cleans_up, deadline=10)
    engine.advance(20)
    with pytest.raises(RunDeadlineExceeded):
        run.result(timeout=60)
    run.retry()
    engine.idle()
    assert run.info().deadline_at is None
    run.send("word", "hello")
    assert run.result(timeout=60) == "hello"


def test_a_deadline_that_has_not_passed_stays(engine: TestEngine) -> None:
    broken.add("reserve")
    run = engine.start(order, deadline=3600)
    engine.idle()
    deadline_at = run.info().deadline_at
    broken.clear()
    run.retry()
    engine.idle()
    assert run.info().deadline_at == deadline_at is not None
    assert run.status == "completed"


def test_a_run_that_was_given_up_goes_on_after_a_retry(engine: TestEngine) -> None:
    run = engine.start(cleans_up, id="run")
    engine.idle()
    give_up(engine, run.id)
    with pytest.raises(stepwell.RunCrashed):
        run.result(timeout=60)
    run.retry()
    engine.idle()
    run.send("word", "hello")
    assert run.result(timeout=60) == "hello"


def give_up(engine: TestEngine, run_id: str) -> None:
    """Have a run given up, as if its workers had died often enough while it was under way."""
    session = engine._session
    record = session.reads.record(run_id)
    worker = session.engine_thread.worker
    worker._letting_go.forget(worker.memory.runs[record.key])
    worker.loader._give_up(record)
    engine.idle()


def test_an_at_most_once_step_that_was_cut_off_fails_first_and_is_repeated_by_a_retry(engine: TestEngine) -> None:
    @step(delivery="at-most-once", name="retried after it was cut off")
    async def once() -> str:
        executed.append("once")
        if "hang" in broken:
            await asyncio.Event().wait()
        return "done"

    @workflow
    async def calls() -> str:
        return await once()

    broken.add("hang")
    run = engine.start(calls)
    until(lambda: executed)
    engine.crash()
    engine.reopen()
    with pytest.raises(StepInterrupted):
        run.result(timeout=60)
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == "done"
    assert executed == ["once", "once"]


def test_an_at_most_once_step_that_a_cancel_cut_off_is_not_repeated_by_the_retry_of_its_run(engine: TestEngine) -> None:
    began = threading.Event()

    @step(delivery="at-most-once", name="cut off by a cancel")
    async def once() -> None:
        executed.append("once")
        began.set()
        await asyncio.Event().wait()

    @workflow
    async def decides() -> str:
        try:
            await once()
        except StepInterrupted as error:
            return str(error)
        return "executed"

    run = engine.start(decides, id="decides")
    assert began.wait(60)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(timeout=60)
    run.retry()
    assert "its run was cancelled; it is delivered at most once" in run.result(timeout=60)
    assert executed == ["once"]


# --- children and parents ---------------------------------------------------------------------------------------------


@workflow
async def part(what: str) -> str:
    await act(f"begin {what}")
    return await act(what)


@workflow
async def whole(*parts: str) -> list[str]:
    return await stepwell.map(part, parts)


@workflow
def whole_blocking(*parts: str) -> list[str]:
    return [part_blocking(each) for each in parts]


@workflow
def part_blocking(what: str) -> str:
    return sync.call(part, what)


def test_a_parent_that_failed_with_a_child_takes_it_along(engine: TestEngine) -> None:
    broken.add("b")
    run = fail(engine, whole, "a", "b")
    assert engine.list(workflow=part, status="failed")
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == ["a", "b"]
    assert executed == ["b"]
    assert {child.status for child in engine.list(workflow=part)} == {"completed"}


def test_children_that_were_cancelled_with_their_parent_come_along(engine: TestEngine) -> None:
    @workflow
    async def waits() -> str:
        return str(await receive("word"))

    @workflow
    async def parent() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(waits()), group.create_task(part("b"))]
        return [task.result() for task in tasks]

    broken.add("b")
    run = fail(engine, parent)
    assert engine.list(workflow=waits)[0].status == "cancelled"
    broken.clear()
    engine.reopen()
    run.retry()
    engine.idle()
    (child,) = engine.list(workflow=waits)
    assert child.status == "waiting"
    child.send("word", "hello")
    assert run.result(timeout=60) == ["hello", "b"]


def test_grandchildren_come_along(engine: TestEngine) -> None:
    @workflow
    async def top() -> list[list[str]]:
        return [await whole("a", "b"), await whole("c")]

    broken.add("b")
    run = fail(engine, top)
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == [["a", "b"], ["c"]]
    assert executed == ["b", "begin c", "c"]


def test_a_child_whose_failure_its_parent_has_handled_stays_as_it_is(engine: TestEngine) -> None:
    @workflow
    async def handles() -> str:
        with contextlib.suppress(Down):
            await part("a")
        return await act("last")

    broken.update({"a", "last"})
    run = fail(engine, handles)
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == "last"
    assert engine.list(workflow=part)[0].status == "failed"


def test_a_parent_that_has_heard_of_a_failure_is_not_told_of_a_later_success(engine: TestEngine) -> None:
    @workflow
    async def handles() -> list[str]:
        try:
            result = await part("a")
        except Down:
            result = "none"
        return [result, str(await receive("go"))]

    broken.add("a")
    run = engine.start(handles, id="parent")
    engine.idle()
    (child,) = engine.list(workflow=part)
    assert child.status == "failed"
    broken.clear()
    child.retry()
    assert child.result(timeout=60) == "a"
    engine.reopen()
    run.send("go", "on")
    assert run.result(timeout=60) == ["none", "on"]


def test_a_parent_whose_child_was_retried_before_finds_it_as_it_is(engine: TestEngine) -> None:
    broken.add("b")
    run = fail(engine, whole, "b")
    broken.clear()
    (child,) = engine.list(workflow=part)
    child.retry()
    assert child.result(timeout=60) == "b"
    run.retry()
    assert run.result(timeout=60) == ["b"]
    assert executed == ["b"]


def test_a_child_of_an_operation_that_is_undone_is_the_child_again_if_it_completed(engine: TestEngine) -> None:
    @workflow
    async def compensates() -> str:
        try:
            await act("charge")
        except Down:
            await part("undo")
            raise
        return await part("undo")

    broken.add("charge")
    run = fail(engine, compensates)
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == "undo"
    assert executed == ["charge"]
    assert len(engine.list(workflow=part)) == 1


def test_another_child_is_started_where_that_of_before_was_cancelled(engine: TestEngine) -> None:
    @workflow
    async def waits() -> str:
        return str(await receive("word"))

    @workflow
    async def starts() -> str:
        try:
            await act("charge")
        finally:
            child = await stepwell.start(waits)
        return await child.result()

    broken.add("charge")
    run = fail(engine, starts)
    for _ in range(2):
        run.retry()
        engine.idle()
        assert run.status == "failed"
    assert {child.status for child in engine.list(workflow=waits)} == {"cancelled"}
    broken.clear()
    run.retry()
    engine.idle()
    newest, *others = engine.list(workflow=waits)
    assert newest.status == "waiting"
    assert len({newest.id, *(child.id for child in others)}) == 4
    newest.send("word", "hello")
    assert run.result(timeout=60) == "hello"


def test_a_child_of_before_that_goes_on_is_the_child_again(engine: TestEngine) -> None:
    @workflow
    async def waits() -> str:
        return str(await receive("word"))

    @workflow
    async def starts() -> str:
        try:
            await act("charge")
        finally:
            child = await stepwell.start(waits, detached=True)
        return await child.result()

    broken.add("charge")
    run = fail(engine, starts)
    broken.clear()
    run.retry()
    engine.idle()
    (child,) = engine.list(workflow=waits)
    child.send("word", "hello")
    assert run.result(timeout=60) == "hello"


def test_a_detached_child_comes_along_only_if_its_failure_was_its_parents(engine: TestEngine) -> None:
    @workflow
    async def starts() -> str:
        ignored = await stepwell.start(part, "ignored", id="ignored", detached=True)
        awaited = await stepwell.start(part, "awaited", id="awaited", detached=True)
        assert ignored.id != awaited.id
        return await awaited.result()

    broken.update({"ignored", "awaited"})
    run = fail(engine, starts)
    broken.clear()
    run.retry()
    assert run.result(timeout=60) == "awaited"
    assert engine.get("ignored").status == "failed"


# --- queues -----------------------------------------------------------------------------------------------------------


def test_a_retried_run_of_a_queue_waits_for_its_turn_and_holds_a_slot(engine: TestEngine) -> None:
    line = Queue("retried line", concurrency=1, partition_concurrency=1)
    broken.add("charge")
    run = engine.start(order, queue=line, partition="p", id="run")
    engine.idle()
    assert run.status == "failed"
    other = engine.start(cleans_up, queue=line, partition="p")
    engine.idle()
    broken.clear()
    executed.clear()
    run.retry()
    engine.idle()
    assert (run.status, executed) == ("pending", [])
    assert engine.queue(line).info().waiting == 1
    other.send("word", "hello")
    assert run.result(timeout=60) == ["reserve", "charge", "ship"]
    assert executed[-2:] == ["charge", "ship"]
    info = engine.queue(line).info()
    assert (info.waiting, info.running) == (0, 0)


def test_a_retried_run_that_waits_for_its_turn_can_be_cancelled(engine: TestEngine) -> None:
    line = Queue("retried and cancelled", concurrency=1)
    broken.add("charge")
    run = engine.start(order, queue=line, id="run")
    engine.idle()
    engine.queue(line).pause()
    run.retry()
    engine.idle()
    assert run.info().status == "pending"
    run.cancel("enough")
    engine.idle()
    assert run.info().status == "cancelled"
    assert engine.queue(line).info().waiting == 0


# --- what cannot be retried -------------------------------------------------------------------------------------------


def test_what_has_completed_or_goes_on_is_not_retried(engine: TestEngine) -> None:
    done = engine.start(order)
    waiting = engine.start(cleans_up)
    engine.idle()
    with pytest.raises(RunEnded, match="completed"):
        done.retry()
    with pytest.raises(RunNotEnded, match="waiting"):
        waiting.retry()
    broken.add("charge")
    failed = fail(engine, order)
    engine.advance(10)
    engine.purge(1)
    with pytest.raises(RunNotFound):
        failed.retry()


def test_a_halted_run_is_resumed(engine: TestEngine) -> None:
    async def breaks() -> str:
        found: dict[str, str] = {}
        return found["x"]

    async def mended() -> str:
        return "done"

    run = engine.start(workflow(name="retried when halted")(breaks))
    engine.idle()
    assert run.status == "halted"
    workflow(name="retried when halted")(mended)
    run.retry()
    assert run.result(timeout=60) == "done"


def test_a_client_asks_and_a_worker_carries_on(database: Path) -> None:
    broken.add("charge")
    with Engine(database) as engine, pytest.raises(Down):
        engine.start(order, id="run").result(timeout=60)
    broken.clear()
    with Engine(database, workflows=[]) as client:
        client.get("run").retry()
        assert client.get("run").status == "pending"
        with pytest.raises(RunNotEnded, match="pending"):
            client.get("run").retry()
    with Engine(database) as engine:
        assert engine.get("run").result(timeout=60) == ["reserve", "charge", "ship"]


def test_an_async_engine_retries(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database) as engine:
            broken.add("charge")
            run = await engine.start(order, id="run")
            with pytest.raises(Down):
                await run.result(timeout=60)
            assert await engine.retry_all(id_prefix="run", dry_run=True) == 1
            await run.retry()
            with pytest.raises(Down):
                await run.result(timeout=60)
            broken.clear()
            assert await engine.retry_all(workflow=order) == 1
            assert await run.result(timeout=60) == ["reserve", "charge", "ship"]

    asyncio.run(main())


# --- many -------------------------------------------------------------------------------------------------------------


def test_many_runs_are_counted_and_brought_back(engine: TestEngine) -> None:
    broken.add("charge")
    runs = [engine.start(order, id=f"order-{number}") for number in range(250)]
    engine.start(whole, "a", id="whole")
    engine.idle()
    broken.clear()
    assert engine.retry_all(status="failed", dry_run=True) == 250
    assert {run.status for run in runs} == {"failed"}
    assert engine.retry_all(status="failed", workflow=order) == 250
    engine.idle()
    assert {run.status for run in runs} == {"completed"}
    assert engine.retry_all(status="failed", dry_run=True) == engine.retry_all(status="failed") == 0


def test_filters_hold_together(engine: TestEngine) -> None:
    broken.update({"charge", "a"})
    engine.start(order, id="old-1")
    engine.idle()
    engine.advance(3600)
    began = datetime.now(UTC)
    for name in ("new-1", "new-2", "other-1"):
        engine.start(order, id=name)
    engine.start(part, "a", id="new-3")
    cancelled = engine.start(cleans_up, id="new-4")
    engine.idle()
    cancelled.cancel()
    engine.idle()
    del began
    count: Callable[..., int] = lambda **filters: engine.retry_all(**filters, dry_run=True)  # noqa: E731
    assert count(status="failed") == 5
    assert count(workflow=order) == 4
    assert count(id_prefix="new-") == 3
    assert count(status=["failed", "cancelled"], id_prefix="new-") == 4
    assert count(started_since=60) == count(started_since=timedelta(minutes=1)) == 4
    assert count(started_since=7200, workflow=order) == 4
    since = engine.get("new-1").info().started_at
    assert count(started_since=since) == 4
    assert count(status="cancelled") == 1
    assert count(status="halted") == 0
    broken.clear()
    assert engine.retry_all(started_since=60, workflow=order, id_prefix="new-") == 2
    engine.idle()
    assert sorted(run.id for run in engine.list(status="failed")) == ["new-3", "old-1", "other-1"]


def test_a_parent_and_its_child_in_one_filter_are_both_brought_back_once(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    broken.add("b")
    run = fail(engine, whole, "a", "b")
    broken.clear()
    assert engine.retry_all(status="failed") >= 1
    assert run.result(timeout=60) == ["a", "b"]
    assert executed == ["b"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR and "refused" in record.message]


BAD: list[dict[str, Any]] = [
    {},
    {"dry_run": True},
    {"status": "completed"},
    {"status": ["failed", "running"]},
    {"status": []},
    {"status": "lost"},
    {"workflow": 3},
    {"id_prefix": ""},
    {"started_since": -1},
    {"started_since": datetime(2040, 1, 1)},  # noqa: DTZ001 - that is the point
    {"started_since": "yesterday"},
]


@pytest.mark.parametrize("filters", BAD, ids=repr)
def test_an_empty_or_impossible_filter_is_refused(engine: TestEngine, filters: dict[str, Any]) -> None:
    broken.add("charge")
    run = fail(engine, order)
    with pytest.raises(InvalidArgument):
        engine.retry_all(**filters)
    assert run.status == "failed"


# --- the log, and crashes on the way ----------------------------------------------------------------------------------


def test_the_log_tells_what_was_retried(engine: TestEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stepwell")
    broken.add("charge")
    run = fail(engine, order)
    caplog.clear()
    run.retry()
    engine.idle()
    assert any("'run'" in record.message and "retried" in record.message for record in caplog.records)


def test_a_retry_survives_the_death_of_whoever_asked_for_it(engine: TestEngine) -> None:
    broken.add("charge")
    run = fail(engine, order)
    broken.clear()
    run.retry()
    engine.crash()
    engine.reopen()
    assert run.result(timeout=60) == ["reserve", "charge", "ship"]
    assert kinds(run) == ["step", "step", "step"]


def make_random(seed: int) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Return a workflow that does things in an order of its own."""

    async def random_flow() -> int:
        done = 0
        for number in range(5):
            what = f"{seed}-{number}"
            match (seed + number) % 5:
                case 0:
                    done += len(await act(what))
                case 1:
                    await asyncio.sleep(0.5)
                case 2:
                    results = await asyncio.gather(act(what), act(f"{what}'"))
                    done += len(results)
                case 3:
                    done += len(await part(what))
                case _:
                    async with asyncio.TaskGroup() as group:
                        for each in ("x", "y"):
                            group.create_task(act(f"{what}{each}"))
        return done

    return random_flow


@pytest.mark.parametrize("seed", range(5))
def test_wherever_a_run_fails_a_retry_completes_it_and_repeats_no_recorded_step(engine: TestEngine, seed: int) -> None:
    flow = workflow(name=f"random {seed}")(make_random(seed))
    engine.start(flow, id="reference")
    engine.advance(60)
    assert engine.get("reference").status == "completed"
    expected = engine.get("reference").result(timeout=60)
    for number, what in enumerate(dict.fromkeys(executed.copy())):
        executed.clear()
        broken.add(what)
        run = engine.start(flow, id=f"run-{number}")
        engine.advance(60)
        assert run.status == "failed", what
        broken.clear()
        engine.reopen()
        run.retry()
        engine.advance(60)
        assert run.result(timeout=60) == expected
        repeated = {each for each in executed if executed.count(each) > 1}
        assert what in repeated
        assert len(repeated) <= 2  # the one beside it in its group may have been cut off
