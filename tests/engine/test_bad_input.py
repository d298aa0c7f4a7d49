"""Values, ids and names that cannot be used get a clear error before anything is written, and nothing is lost."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.rows import written

import stepwell
from stepwell import (
    DefinitionError,
    Engine,
    InvalidArgument,
    PayloadTooLarge,
    ResultNotSerializable,
    RunConflict,
    RunEnded,
    RunHalted,
    RunNotFound,
    SerializationError,
    publish,
    receive,
    send,
    step,
    transaction,
    workflow,
)
from stepwell.testing import TestEngine

executed: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@workflow
async def echo(*values: Any, **named: Any) -> Any:
    return [list(values), named]


@workflow
async def waits(name: str = "go") -> Any:
    return await receive(name)


# --- values -----------------------------------------------------------------------------------------------------------

CYCLE: list[Any] = []
CYCLE.append(CYCLE)

UNWRITABLE: dict[str, tuple[Any, str]] = {
    "an object": (object(), "$"),
    "a lock in a list": ([1, threading.Lock()], "$[1]"),
    "a function": ({"callback": len}, "$.callback"),
    "NaN deep inside": ({"rates": [1.0, {"euro": math.nan}]}, "$.rates[1].euro"),
    "infinity": ([math.inf], "$[0]"),
    "text that is no Unicode": ({"name": "\ud800"}, "$.name"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_arguments_that_cannot_be_recorded_are_refused_with_their_place(engine: TestEngine, case: str) -> None:
    value, path = UNWRITABLE[case]
    with pytest.raises(SerializationError) as refused:
        engine.start(echo, "fine", value, id="bad")
    assert refused.value.path == "$.args[1]" + path[1:]
    assert echo.name in str(refused.value)
    with pytest.raises(SerializationError) as refused:
        engine.start(echo, kwargs={"option": value})
    assert refused.value.path == "$.kwargs.option" + path[1:]
    assert written(engine) == 0


def test_a_value_that_contains_itself_is_refused(engine: TestEngine) -> None:
    with pytest.raises(SerializationError, match=r"\$\.args\[0\].* leads back"):
        engine.start(echo, CYCLE)
    assert written(engine) == 0


@pytest.mark.parametrize("case", UNWRITABLE)
def test_a_message_that_cannot_be_recorded_is_refused_with_its_place(engine: TestEngine, case: str) -> None:
    value, path = UNWRITABLE[case]
    run = engine.start(waits, id="waiting")
    rows = written(engine)
    with pytest.raises(SerializationError) as refused:
        run.send("go", value)
    assert refused.value.path == path
    assert "'go'" in str(refused.value)
    assert written(engine) == rows
    run.send("go", 1)
    assert run.result(timeout=60) == 1


def test_input_beyond_the_limit_is_refused_with_both_sizes(database: Path) -> None:
    with TestEngine(database, max_payload_bytes=1000) as engine:
        run = engine.start(waits, id="waiting")
        rows = written(engine)
        with pytest.raises(PayloadTooLarge, match=r"1,0\d\d bytes, and 1,000 are allowed"):
            engine.start(echo, "x" * 1000)
        with pytest.raises(PayloadTooLarge, match="'go'"):
            run.send("go", "x" * 1000)
        assert written(engine) == rows
        engine.start(echo, "x" * 900)


@step
async def accepts(_value: Any) -> str:
    executed.append("accepts")
    return "accepted"


@pytest.mark.parametrize("case", [case for case in UNWRITABLE if case not in ("NaN deep inside", "infinity")])
def test_arguments_of_a_step_that_cannot_be_recorded_raise_at_the_call_and_execute_nothing(
    engine: TestEngine, case: str
) -> None:
    value, path = UNWRITABLE[case]

    @workflow
    async def careless() -> str:
        try:
            return await accepts(value)
        except SerializationError as error:
            return f"{error.path} {error}"

    text = engine.start(careless).result(timeout=60)
    assert text.startswith("$.args[0]" + path[1:] + " ")
    assert accepts.name in text
    assert executed == []


def test_numbers_that_json_lacks_may_go_into_a_step_because_arguments_are_not_recorded(engine: TestEngine) -> None:
    @workflow
    async def careful() -> str:
        return await accepts([math.nan, math.inf])

    assert engine.start(careful).result(timeout=60) == "accepted"


@pytest.mark.parametrize("operation", ["publish", "send", "start"])
def test_other_operations_of_a_workflow_refuse_such_values_too(engine: TestEngine, operation: str) -> None:
    @workflow
    async def careless() -> str:
        try:
            if operation == "publish":
                await publish("key", object())
            elif operation == "send":
                await send("other", "name", object())
            else:
                await stepwell.start(echo, object())
        except SerializationError as error:
            return str(error)
        return "written"

    engine.start(waits, id="other")
    engine.idle()
    rows = written(engine)
    run = engine.start(careless)
    assert "object" in run.result(timeout=60)
    assert written(engine) == rows + 1
    assert run.journal() == []


def make_reporting(result: Callable[[], Any], annotation: Any) -> stepwell.Workflow[..., Any]:
    """Return a workflow of two steps, the second of which returns `result()` as `annotation`."""

    @step(name="first")
    def first() -> int:
        executed.append("first")
        return 1

    async def second() -> Any:
        executed.append("second")
        return result()

    second.__annotations__["return"] = annotation
    second_step = step(name="second")(second)

    @workflow(name="reporting")
    async def reporting() -> Any:
        return [first(), await second_step()]

    return reporting


BAD_RESULTS: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "cannot be written": (lambda: {"lock": [threading.Lock()]}, Any, "$.lock[0]"),
    "is too large": (lambda: "x" * 2000, Any, "$"),
    "has another type": (lambda: "text", int, "$"),
    "has another type inside": (lambda: [1, "two"], list[int], "$[1]"),
    "is NaN": (lambda: math.nan, float, "$"),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_a_step_whose_result_cannot_be_kept_halts_the_run_until_the_code_is_mended(database: Path, case: str) -> None:
    result, annotation, path = BAD_RESULTS[case]
    with TestEngine(database, workflows=[make_reporting(result, annotation)], max_payload_bytes=1000) as engine:
        run = engine.start(engine._session.workflows["reporting"], id="report")
        with pytest.raises(ResultNotSerializable, match="'second'") as halted:
            run.result(timeout=60)
        assert "'report'" in str(halted.value)
        if path != "$":
            assert path in str(halted.value)
        assert run.info().status == "halted"
        assert "second" in (run.info().reason or "")
        assert executed == ["first", "second"]
        # Opened again with the same code it halts again, for the same reason, and nothing is executed.
        for _ in range(3):
            reason = run.info().reason
            engine.reopen().idle()
            assert (run.info().status, run.info().reason) == ("halted", reason)
        engine.reopen(workflows=[make_reporting(lambda: 2, int)])
        assert run.result(timeout=60) == [1, 2]
        assert executed == ["first", "second", "second"]


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_a_workflow_whose_result_cannot_be_kept_halts_with_all_its_steps_recorded(database: Path, case: str) -> None:
    result, annotation, _ = BAD_RESULTS[case]

    def make(returned: Callable[[], Any], kind: Any) -> stepwell.Workflow[..., Any]:
        async def ending() -> Any:
            await accepts(1)
            return returned()

        ending.__annotations__["return"] = kind
        return workflow(name="ending")(ending)

    with TestEngine(database, workflows=[make(result, annotation)], max_payload_bytes=1000) as engine:
        run = engine.start(engine._session.workflows["ending"], id="end")
        with pytest.raises(ResultNotSerializable, match="'ending'"):
            run.result(timeout=60)
        engine.reopen(workflows=[make(lambda: "mended", str)])
        assert engine.get("end").result(timeout=60) == "mended"
        assert executed == ["accepts"]


# JSON has one kind of list, so what it holds would not tell which of the two was meant.
Ambiguous = list[int] | set[int]


@step
async def ambiguous() -> Ambiguous:
    return [1]


@step
def ambiguous_sync() -> Ambiguous:
    return [1]


@transaction
def ambiguous_transaction(_tx: Any) -> Ambiguous:
    return [1]


@workflow
async def ends_ambiguous() -> Ambiguous:
    return [1]


@pytest.mark.parametrize("kind", ["async", "sync", "transaction", "child", "message", "workflow"])
def test_an_annotation_that_json_cannot_express_stops_nobody_else(engine: TestEngine, kind: str) -> None:
    @workflow
    async def hopeful() -> str:
        match kind:
            case "async":
                await ambiguous()
            case "sync":
                ambiguous_sync()
            case "transaction":
                ambiguous_transaction()
            case "message":
                await receive("go", Ambiguous)
            case _:
                await ends_ambiguous()
        return "went on"

    with pytest.raises((RunHalted, DefinitionError), match=r"list\[int\] \| set\[int\]"):
        engine.start(ends_ambiguous if kind == "workflow" else hopeful, id="hopeful").result(timeout=60)
    assert engine.start(echo, 1).result(timeout=60) == [[1], {}]
    engine.reopen()
    assert engine.start(echo, 2).result(timeout=60) == [[2], {}]


# --- names ------------------------------------------------------------------------------------------------------------

BAD_NAMES = ["", "x" * 256, "x" * 10_000_000, "two\nlines", "nul\0", "bell\a", "\ud800", 5, b"bytes", ["a"], True]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name)[:12])
def test_an_unusable_id_or_name_is_refused_everywhere_before_anything_is_written(engine: TestEngine, name: Any) -> None:
    run = engine.start(waits, id="good")
    engine.idle()
    rows = written(engine)
    calls: list[Callable[[], Any]] = [
        lambda: engine.start(waits, id=name),
        lambda: engine.get(name),
        lambda: engine.send(name, "go"),
        lambda: engine.send("good", name),
        lambda: engine.send("good", "go", key=name),
        lambda: engine.start(waits, messages=[(name, 1)]),
        lambda: engine.start(waits, messages=[("go", 1, name)]),
        lambda: run.value(name, timeout=1),
        lambda: workflow(name=name)(lambda: None),
        lambda: step(name=name)(lambda: None),
        lambda: transaction(name=name)(lambda _tx: None),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument) as refused:
            call()
        assert len(str(refused.value)) < 1000
    with engine.transaction() as tx, pytest.raises(InvalidArgument):
        tx.start(waits, id=name)
    assert written(engine) == rows


@pytest.mark.parametrize("name", ["", "x" * 256, "two\nlines", 5], ids=lambda name: repr(name)[:12])
def test_workflow_code_meets_the_same_refusals(engine: TestEngine, name: Any) -> None:
    @workflow
    async def careless() -> int:
        calls: list[Callable[[], Any]] = [
            lambda: receive(name),
            lambda: send(name, "go"),
            lambda: send("good", name),
            lambda: send("good", "go", key=name),
            lambda: publish(name, 1),
            lambda: stepwell.start(echo, id=name),
        ]
        refused = 0
        for call in calls:
            try:
                await call()
            except InvalidArgument:
                refused += 1
        try:
            stepwell.patched(name)
        except InvalidArgument:
            refused += 1
        return refused

    engine.start(waits, id="good")
    run = engine.start(careless)
    assert run.result(timeout=60) == 7
    assert run.journal() == []


def test_ids_may_be_long_and_in_any_script(engine: TestEngine) -> None:
    for run_id in ("ö" * 255, "订单/42 é", "'; DROP TABLE stepwell_runs; --", "%_"):
        assert engine.start(echo, 1, id=run_id).result(timeout=60) == [[1], {}]
        assert engine.get(run_id).id == run_id


# --- ids that are taken -----------------------------------------------------------------------------------------------


def test_the_same_id_with_another_workflow_or_other_input_is_a_conflict_and_changes_nothing(engine: TestEngine) -> None:
    run = engine.start(waits, "go", id="order")
    engine.idle()
    rows = written(engine)
    attempts: list[Callable[[], Any]] = [
        lambda: engine.start(echo, "go", id="order"),
        lambda: engine.start(waits, "other", id="order"),
        lambda: engine.start(waits, id="order"),
    ]
    for attempt in attempts:
        with pytest.raises(RunConflict, match="'order'"):
            attempt()
    assert written(engine) == rows
    assert engine.start(waits, "go", id="order").id == run.id
    with engine.transaction() as tx, pytest.raises(RunConflict, match="'order'"):
        tx.start(echo, id="order")
    assert written(engine) == rows


def test_a_start_that_conflicts_sends_none_of_its_messages(engine: TestEngine) -> None:
    run = engine.start(waits, "go", id="order")
    with pytest.raises(RunConflict):
        engine.start(echo, "go", id="order", messages=[("go", "stray")])
    run.send("go", "meant")
    assert run.result(timeout=60) == "meant"


def test_a_start_that_is_repeated_sends_a_message_with_a_key_once(engine: TestEngine) -> None:
    @workflow
    async def collects() -> list[Any]:
        return [await receive("item"), await receive("item", timeout=1)]

    engine.start(collects, id="order", messages=[("item", 1, "first item")])
    run = engine.start(collects, id="order", messages=[("item", 1, "first item")])
    engine.advance(2)
    assert run.result(timeout=60) == [1, None]


def test_requests_for_runs_that_do_not_exist_or_are_over_say_so(engine: TestEngine) -> None:
    for call in (lambda: engine.get("none"), lambda: engine.send("none", "go"), lambda: engine.list(before="none")):
        with pytest.raises(RunNotFound, match="'none'"):
            call()
    run = engine.start(echo, id="over")
    run.result(timeout=60)
    with pytest.raises(RunEnded, match="'over'"):
        run.send("go")
    with pytest.raises(RunEnded, match="'over'"):
        run.value("never", timeout=60)


# --- workflows that are not there -------------------------------------------------------------------------------------


def test_a_run_of_an_unknown_workflow_waits_visibly_for_a_worker_that_has_it(engine: TestEngine) -> None:
    run = engine.start(waits, id="order")
    engine.idle()
    engine.reopen(workflows=[echo]).idle()
    run.send("go", "kept")
    engine.idle()
    info = run.info()
    assert info.status == "pending"
    assert waits.name in (info.reason or "")
    assert engine.start(echo, 1).result(timeout=60) == [[1], {}]
    engine.reopen(workflows=[echo, waits])
    assert run.result(timeout=60) == "kept"


def test_a_run_of_an_unknown_workflow_can_be_cancelled(engine: TestEngine) -> None:
    fresh, begun = engine.start(waits, id="begun"), engine.start(waits, id="begun too")
    engine.idle()
    engine.reopen(workflows=[echo]).idle()
    fresh.cancel("not needed")
    begun.cancel()
    engine.reopen(workflows=[waits]).idle()
    assert [fresh.info().status, begun.info().status] == ["cancelled", "cancelled"]


def test_a_start_of_a_workflow_that_this_engine_does_not_serve_waits_for_one_that_does(database: Path) -> None:
    with TestEngine(database, workflows=[echo]) as engine:
        run = engine.start(waits, id="elsewhere", messages=[("go", 1)])
        assert run.info().status == "pending"
        engine.reopen(workflows=None)
        assert run.result(timeout=60) == 1


def test_two_workflows_of_one_name_cannot_be_served_together(database: Path) -> None:
    async def other() -> None: ...

    twin, second_twin = workflow(name="twins")(other), workflow(name="twins")(other)
    with pytest.raises(InvalidArgument, match="'twins'"):
        Engine(database, workflows=[twin, second_twin])
    assert not database.exists()
    Engine(database, workflows=[twin, twin]).close()
