"""Sagas: what undoes work is called in reverse, once each, when the work does not get through, whatever happens."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import anyio
import pytest

import stepwell
from stepwell import (
    InvalidArgument,
    PermanentError,
    Retry,
    RunCancelled,
    RunDeadlineExceeded,
    StepwellError,
    UndoFailed,
    WorkflowCodeError,
    continue_as_new,
    patched,
    receive,
    saga,
    step,
    sync,
    transaction,
    workflow,
)
from stepwell.testing import TestEngine

happened: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    happened.clear()


class Refused(Exception):
    """What the workflows here fail with."""


@step(name="saga-do")
async def do(what: str) -> str:
    happened.append(f"do {what}")
    return what


@step(name="saga-undo")
async def undo(what: str) -> None:
    happened.append(f"undo {what}")


@step(name="saga-undo-def")
def undo_def(what: str, *, loudly: bool = False) -> None:
    happened.append(f"undo {what}{'!' if loudly else ''}")


@step(name="saga-fail")
async def fail() -> None:
    raise PermanentError("no seats")


@step(name="saga-fail-to-undo", retry=Retry(attempts=2, delay=0))
async def fail_to_undo(what: str) -> None:
    happened.append(f"cannot undo {what}")
    raise Refused(f"{what} stays")


@workflow(name="saga-undo-in-a-child")
async def undo_in_a_child(what: str) -> None:
    await undo(what)


async def _books(how: str) -> str:
    async with saga() as trip:
        for what in ("flight", "hotel"):
            trip.undo(undo, await do(what))
        match how:
            case "raise":
                raise Refused("too dear")
            case "step":
                await fail()
            case "wait":
                await receive("never")
            case _:
                pass
    return "booked"


@workflow(name="saga-books")
async def books(how: str) -> str:
    return await _books(how)


@workflow(name="saga-books-def")
def books_def(how: str) -> str:
    with sync.saga() as trip:
        for what in ("flight", "hotel"):
            trip.undo(undo, sync.call(do, what))
        match how:
            case "raise":
                raise Refused("too dear")
            case "step":
                sync.call(fail)
            case "wait":
                sync.receive("never")
            case _:
                pass
    return "booked"


BOTH = pytest.mark.parametrize("flow", [books, books_def], ids=["async", "def"])
DONE = ["do flight", "do hotel"]
UNDONE = [*DONE, "undo hotel", "undo flight"]


@BOTH
def test_a_saga_that_gets_through_undoes_nothing(engine: TestEngine, flow: Any) -> None:
    assert engine.start(flow, "not at all").result(60) == "booked"
    assert happened == DONE


@BOTH
@pytest.mark.parametrize(("how", "error"), [("raise", Refused), ("step", PermanentError)])
def test_a_failure_undoes_in_reverse_and_goes_on(
    engine: TestEngine, flow: Any, how: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        engine.start(flow, how).result(60)
    assert happened == UNDONE


@BOTH
def test_a_cancellation_undoes_in_reverse_and_goes_on(engine: TestEngine, flow: Any) -> None:
    run = engine.start(flow, "wait")
    engine.idle()
    run.cancel("changed their mind")
    with pytest.raises(RunCancelled, match="changed their mind"):
        run.result(60)
    assert happened == UNDONE


@BOTH
def test_a_deadline_undoes_in_reverse(engine: TestEngine, flow: Any) -> None:
    run = engine.start(flow, "wait", deadline=60)
    engine.advance(61)
    with pytest.raises(RunDeadlineExceeded):
        run.result(60)
    assert happened == UNDONE


@BOTH
@pytest.mark.parametrize("how", ["raise", "step", "wait"])
def test_crashes_on_the_way_lead_to_the_same_end(engine: TestEngine, flow: Any, how: str) -> None:
    run = engine.start(flow, how, id="one")
    for _ in range(3):
        engine.idle()
        engine.crash()
        engine.reopen()
    run = engine.get("one")
    if how == "wait":
        run.cancel()
    engine.idle()
    engine.crash()
    engine.reopen()
    with pytest.raises((Refused, PermanentError, RunCancelled)):
        engine.get("one").result(60)
    assert happened == UNDONE


def test_a_run_that_leaves_memory_undoes_nothing(engine: TestEngine) -> None:
    for flow in (books, books_def):
        happened.clear()
        engine.start(flow, "wait", id=flow.name)
        engine.idle()
        engine.close()
        assert happened == DONE
        engine.reopen()
        engine.idle()
        assert happened == DONE


def test_steps_of_both_kinds_transactions_and_workflows_undo(engine: TestEngine) -> None:
    @transaction(name="saga-undo-transaction")
    def strike(connection: stepwell.Connection, what: str) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS struck (what TEXT)")
        connection.execute("INSERT INTO struck VALUES (?)", (what,))

    class Shop:
        @staticmethod
        @step(name="saga-undo-static")
        def close(what: str) -> None:
            happened.append(f"undo {what}")

    @workflow(name="saga-of-all-kinds")
    async def flow() -> None:
        async with saga() as work:
            work.undo(undo, "step")
            work.undo(undo_def, "def", loudly=True)
            work.undo(strike, "transaction")
            work.undo(undo_in_a_child, "child")
            work.undo(Shop.close, "method")
            work.undo(functools.partial(undo_def, loudly=True), "partial")
            raise Refused

    run = engine.start(flow)
    with pytest.raises(Refused):
        run.result(60)
    assert happened == ["undo partial!", "undo method", "undo child", "undo def!", "undo step"]
    assert engine.query("SELECT what FROM struck") == [("transaction",)]


def test_a_function_of_the_code_undoes_with_several_operations(engine: TestEngine) -> None:
    @workflow(name="saga-with-functions")
    async def flow() -> None:
        async def take_back(*what: str) -> None:
            for each in what:
                await undo(each)

        async with saga() as work:
            work.undo(take_back, "a", "b")
            work.undo(happened.append, "plain")
            raise Refused

    with pytest.raises(Refused):
        engine.start(flow).result(60)
    assert happened == ["plain", "undo a", "undo b"]


def test_after_the_pivot_nothing_is_undone(engine: TestEngine) -> None:
    @workflow(name="saga-pivot")
    async def flow() -> None:
        async with saga() as work:
            work.undo(undo, await do("before"))
            work.pivot()
            work.undo(undo, await do("after"))
            await fail()

    with pytest.raises(PermanentError):
        engine.start(flow).result(60)
    assert happened == ["do before", "do after"]


@pytest.mark.parametrize("in_a_group", [False, True])
def test_to_continue_as_new_undoes_nothing(engine: TestEngine, in_a_group: bool) -> None:
    @workflow(name="saga-continues-as-new")
    async def flow(chapter: int) -> int:
        async def go_on() -> None:
            continue_as_new(chapter + 1)

        async with saga() as work:
            work.undo(undo, await do(f"chapter {chapter}"))
            if chapter < 2 and in_a_group:
                async with asyncio.TaskGroup() as group:
                    group.create_task(go_on())
            elif chapter < 2:
                await go_on()
        return chapter

    assert engine.start(flow, 1).result(60) == 2
    assert happened == ["do chapter 1", "do chapter 2"]


def test_an_inner_saga_that_got_through_is_not_undone_by_the_outer_one(engine: TestEngine) -> None:
    @workflow(name="saga-nested")
    async def flow() -> None:
        async with saga() as outer:
            outer.undo(undo, "outer")
            async with saga() as inner:
                inner.undo(undo, "inner")
            async with saga() as failing:
                failing.undo(undo, "failing")
                raise Refused

    with pytest.raises(Refused):
        engine.start(flow).result(60)
    assert happened == ["undo failing", "undo outer"]


def test_what_undoes_takes_the_arguments_as_they_were(engine: TestEngine) -> None:
    @step(name="saga-undo-list")
    async def undo_list(items: list[str]) -> None:
        happened.append(f"undo {items}")

    @workflow(name="saga-changes-its-arguments")
    async def flow() -> None:
        items = ["a"]
        async with saga() as work:
            work.undo(undo_list, items)
            items.append("b")
            work.undo(undo_list, items)
            items.clear()
            raise Refused

    with pytest.raises(Refused):
        engine.start(flow).result(60)
    assert happened == ["undo ['a', 'b']", "undo ['a']"]


# --- failures of what undoes ------------------------------------------------------------------------------------------


async def _fails_to_undo(how: str) -> None:
    async with saga() as work:
        work.undo(undo, "first")
        work.undo(fail_to_undo, "second")
        work.undo(undo, "third")
        if how == "raise":
            raise Refused("too dear")
        await receive("never")


@workflow(name="saga-fails-to-undo")
async def fails_to_undo(how: str) -> None:
    await _fails_to_undo(how)


def test_a_failure_to_undo_is_reported_with_the_original_and_the_rest_is_undone(engine: TestEngine) -> None:
    with pytest.raises(UndoFailed, match=r"1 of 3 calls .* of run 'one'") as caught:
        engine.start(fails_to_undo, "raise", id="one").result(60)
    assert happened == ["undo third", "cannot undo second", "cannot undo second", "undo first"]
    original, failure = caught.value.exceptions
    assert [type(original), str(original), type(failure), str(failure)] == [
        Refused,
        "too dear",
        Refused,
        "second stays",
    ]
    assert any("'saga-fail-to-undo'" in note for note in failure.__notes__)
    assert engine.get("one").info().status == "failed"


def test_a_failure_to_undo_after_a_cancellation_fails_the_run(engine: TestEngine) -> None:
    run = engine.start(fails_to_undo, "wait")
    engine.idle()
    run.cancel()
    with pytest.raises(UndoFailed) as caught:
        run.result(60)
    assert list(map(str, caught.value.exceptions)) == ["second stays"]
    assert happened[-1] == "undo first"


def test_a_handler_of_the_original_does_not_swallow_a_failure_to_undo(engine: TestEngine) -> None:
    @workflow(name="saga-handles-the-original")
    async def flow() -> str:
        try:
            await _fails_to_undo("raise")
        except Refused:
            return "all undone"
        except UndoFailed as group:
            handled = group.subgroup(Refused)
            return f"{type(handled).__name__} {len(group.exceptions)}"
        return "booked"

    assert engine.start(flow).result(60) == "UndoFailed 2"


# --- what comes while it undoes ---------------------------------------------------------------------------------------


@workflow(name="saga-undoes-slowly")
async def undoes_slowly() -> str:
    async def slowly(what: str) -> None:
        await asyncio.sleep(60)
        await undo(what)

    async with saga() as work:
        work.undo(slowly, "a")
        work.undo(slowly, "b")
        await fail()
    return "never"


def test_a_cancellation_while_it_undoes_is_heard_when_all_is_undone(engine: TestEngine) -> None:
    run = engine.start(undoes_slowly, id="one")
    engine.idle()
    run.cancel("now")
    engine.advance(61)
    assert happened == ["undo b"]
    engine.crash()
    engine.reopen()
    engine.advance(61)
    with pytest.raises(RunCancelled, match="now"):
        engine.get("one").result(60)
    assert happened == ["undo b", "undo a"]


def test_a_saga_in_a_group_is_undone_when_another_task_fails(engine: TestEngine) -> None:
    @workflow(name="saga-in-a-group")
    async def flow() -> None:
        async def part() -> None:
            async with saga() as work:
                work.undo(undo, await do("part"))
                await asyncio.sleep(1000)

        async with asyncio.TaskGroup() as group:
            group.create_task(part())
            await asyncio.sleep(1)
            raise Refused

    run = engine.start(flow)
    engine.advance(2)
    with pytest.raises(ExceptionGroup) as caught:
        run.result(60)
    assert caught.group_contains(Refused)
    assert happened == ["do part", "undo part"]


def test_a_timeout_undoes_and_is_a_timeout(engine: TestEngine) -> None:
    @workflow(name="saga-in-a-timeout")
    async def flow() -> str:
        try:
            async with asyncio.timeout(5):
                await _books("wait")
        except TimeoutError:
            return "too late"
        return "booked"

    run = engine.start(flow)
    engine.advance(6)
    assert run.result(60) == "too late"
    assert happened == UNDONE


def test_a_cancelled_scope_of_anyio_does_not_keep_a_saga_from_undoing(engine: TestEngine) -> None:
    @workflow(name="saga-in-a-scope")
    async def flow() -> bool:
        with anyio.move_on_after(5) as scope:
            async with saga() as work:
                work.undo(undo, "a")
                work.undo(undo_def, "b")
                await anyio.sleep(100)
        return scope.cancelled_caught

    run = engine.start(flow)
    engine.advance(6)
    assert run.result(60) is True
    assert happened == ["undo b", "undo a"]


def test_what_a_task_registers_while_the_saga_undoes_is_undone_as_well(engine: TestEngine) -> None:
    @workflow(name="saga-registered-late")
    async def flow() -> None:
        async def late(work: stepwell.Saga) -> None:
            await asyncio.sleep(10)
            work.undo(undo, "late")

        async def slowly(what: str) -> None:
            await asyncio.sleep(60)
            await undo(what)

        async with saga() as work:
            work.undo(slowly, "early")
            task = asyncio.create_task(late(work))
            await asyncio.sleep(1)
            raise Refused(task.get_name())

    run = engine.start(flow)
    engine.advance(1)
    engine.advance(10)
    engine.advance(60)
    with pytest.raises(Refused):
        run.result(60)
    assert happened == ["undo early", "undo late"]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_mistake_in_the_code_undoes_nothing_and_the_run_goes_on_when_it_is_mended(engine: TestEngine) -> None:
    @workflow(name="saga-with-a-mistake")
    async def broken() -> str:
        try:
            async with saga() as work:
                work.undo(undo, await do("a"))
                return {"a": "x"}["b"]
        except KeyError:
            await do("handled")
            return "handled"

    run = engine.start(broken, id="one")
    engine.idle()
    assert run.info().status == "halted"
    with pytest.raises(WorkflowCodeError, match="KeyError"):
        run.result(60)
    assert happened == ["do a"]

    @workflow(name="saga-with-a-mistake")
    async def mended() -> str:
        async with saga() as work:
            work.undo(undo, await do("a"))
            return {"b": "x"}["b"]

    engine.close()
    engine.reopen(workflows=[mended])
    assert engine.get("one").result(60) == "x"
    assert happened == ["do a"]


def test_an_exception_that_the_workflow_may_fail_with_undoes(engine: TestEngine) -> None:
    @workflow(name="saga-may-fail", fail_on=KeyError)
    async def flow() -> None:
        async with saga() as work:
            work.undo(undo, "a")
            await do({"a": "x"}["b"])

    with pytest.raises(KeyError):
        engine.start(flow).result(60)
    assert happened == ["undo a"]


def test_a_mistake_in_a_function_that_undoes_halts_the_run(engine: TestEngine) -> None:
    def takes_back(items: list[str]) -> Any:
        return items[7]

    @workflow(name="saga-with-a-mistake-in-undoing")
    async def flow() -> None:
        async with saga() as work:
            work.undo(undo, "first")
            work.undo(takes_back, [])
            raise Refused

    run = engine.start(flow)
    engine.idle()
    assert run.info().status == "halted"
    assert "IndexError" in (run.info().reason or "")
    assert happened == []


def test_a_new_compensation_fits_runs_that_are_undone_already_by_a_patch(engine: TestEngine) -> None:
    @workflow(name="saga-patched")
    async def before() -> None:
        async with saga() as work:
            work.undo(undo, "a")
            await receive("go")
            raise Refused

    engine.start(before, id="one")
    engine.idle()

    @workflow(name="saga-patched")
    async def after() -> None:
        async with saga() as work:
            work.undo(undo, "a")
            await receive("go")
            if patched("also b"):
                work.undo(undo, "b")
            raise Refused

    engine.close()
    engine.reopen(workflows=[after])
    engine.send("one", "go")
    with pytest.raises(Refused):
        engine.get("one").result(60)
    assert happened == ["undo b", "undo a"]


@pytest.mark.parametrize(
    ("given", "named", "message"),
    [
        (["refund"], {}, "not 'refund': write"),
        ([undo], {}, "missing"),
        ([undo, "a", "b"], {}, "too many"),
        ([undo_def, "a"], {"quietly": True}, "quietly"),
        ([undo, object()], {}, "saga-undo"),
        ([len], {}, "cannot be called like that"),
    ],
    ids=["no function", "too few", "too many", "unknown name", "not serializable", "of a function"],
)
def test_what_cannot_undo_is_refused_when_it_is_registered(
    engine: TestEngine, given: list[Any], named: dict[str, Any], message: str
) -> None:
    @workflow(name="saga-with-a-bad-undo")
    async def flow() -> None:
        async with saga() as work:
            work.undo(*given, **named)

    run = engine.start(flow)
    engine.idle()
    assert run.info().status == "halted"
    assert message in (run.info().reason or "")


def test_a_call_in_place_of_a_function_is_refused(engine: TestEngine) -> None:
    @workflow(name="saga-with-a-call")
    async def flow() -> None:
        async with saga() as work:
            called: Any = undo("a")
            work.undo(called)

    run = engine.start(flow)
    engine.idle()
    assert "without calling it" in (run.info().reason or "")


async def _before(_other: list[stepwell.Saga]) -> None:
    saga().undo(undo, "a")


async def _after(_other: list[stepwell.Saga]) -> None:
    async with saga() as work:
        pass
    work.undo(undo, "a")


async def _twice(_other: list[stepwell.Saga]) -> None:
    work = saga()
    async with work, work:
        pass


async def _of_another(other: list[stepwell.Saga]) -> None:
    async with saga() as work:
        other.append(work)
        other[0].pivot()
        await receive("never")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (_before, "before the block"),
        (_after, "after the block"),
        (_twice, "entered once"),
        (_of_another, "on a saga of run 'one'"),
    ],
)
def test_a_saga_out_of_place_halts_the_run(engine: TestEngine, body: Any, message: str) -> None:
    other: list[stepwell.Saga] = []

    @workflow(name="saga-out-of-place")
    async def flow() -> None:
        await body(other)

    engine.start(flow, id="one")
    engine.idle()
    run = engine.start(flow, id="two")
    engine.idle()
    assert run.info().status == "halted"
    assert message in (run.info().reason or "")


def test_a_saga_outside_of_a_workflow_is_refused() -> None:
    for make in (saga, sync.saga):
        with pytest.raises(StepwellError, match="outside of a workflow"):
            make()


def test_an_argument_that_is_no_function_is_an_invalid_argument(engine: TestEngine) -> None:
    @workflow(name="saga-catches-its-mistake")
    async def flow() -> str:
        async with saga() as work:
            nothing: Any = None
            try:
                work.undo(nothing)
            except InvalidArgument as error:
                return str(error)
        return ""

    assert "not None" in engine.start(flow).result(60)
