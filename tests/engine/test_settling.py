"""The outcome of a step that nobody knows is set by hand."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    AsyncEngine,
    Engine,
    InvalidArgument,
    ResultNotSerializable,
    Retry,
    RunEnded,
    RunNotFound,
    StepFailed,
    StepInterrupted,
    step,
    sync,
    workflow,
)
from stepwell.testing import TestEngine

FOREVER = 60
calls: list[Any] = []
hangs = threading.Event()
begun = threading.Event()
broken: set[str] = set()


@pytest.fixture(autouse=True)
def _as_new() -> Iterator[None]:
    calls.clear()
    broken.clear()
    hangs.clear()
    begun.clear()
    yield
    hangs.set()


@dataclass
class Receipt:
    number: int


@step(name="settling.before")
def before() -> str:
    calls.append("before")
    return "before"


@step(name="settling.stuck")
def stuck() -> int:
    calls.append("stuck")
    begun.set()
    hangs.wait(FOREVER)
    return 1


@step(name="settling.async-stuck")
async def async_stuck() -> int:
    calls.append("async")
    begun.set()
    await asyncio.sleep(FOREVER)
    return 1


@step(name="settling.pay", delivery="at-most-once", retry=Retry(attempts=1))
def pay() -> Receipt:
    calls.append("pay")
    begun.set()
    hangs.wait(FOREVER)
    return Receipt(1)


@step(name="settling.lossy")
def lossy() -> Receipt:
    calls.append("lossy")
    return object()  # type: ignore[return-value]


@step(name="settling.failing", retry=Retry(attempts=9, delay=1000))
def failing() -> int:
    calls.append("failing")
    raise LookupError("not there")


@step(name="settling.after")
async def after(what: Any) -> Any:
    calls.append(("after", what))
    if "after" in broken:
        raise LookupError("no after")
    return what


@workflow(name="settling.flow")
async def flow(which: str) -> Any:
    before()
    chosen: Any = {"stuck": stuck, "async": async_stuck, "pay": pay, "lossy": lossy, "failing": failing}[which]
    found = await chosen() if which == "async" else chosen()
    return await after(found.number if isinstance(found, Receipt) else found)


@workflow(name="settling.plain")
def plain(which: str) -> Any:
    before()
    found = {"stuck": stuck, "pay": pay, "lossy": lossy, "failing": failing}[which]()  # type: ignore[operator]
    return sync.call(after, found.number if isinstance(found, Receipt) else found)


def reached(engine: TestEngine, which: str) -> None:
    """Wait until the run is at its second step."""
    if which in ("stuck", "async", "pay"):
        assert begun.wait(FOREVER)
    else:
        engine.idle()


@pytest.mark.parametrize(
    ("code", "which", "said", "expected"),
    [
        (flow, "stuck", 7, 7),
        (plain, "stuck", 7, 7),
        (flow, "async", 7, 7),
        (flow, "pay", Receipt(7), 7),
        (flow, "lossy", {"number": 7}, 7),
        (plain, "lossy", Receipt(7), 7),
        (flow, "failing", 7, 7),
    ],
)
def test_a_result_is_set(engine: TestEngine, code: Any, which: str, said: Any, expected: Any) -> None:
    run = engine.start(code, which, id="a")
    reached(engine, which)
    if which == "lossy":
        with pytest.raises(ResultNotSerializable):
            run.result(FOREVER)
    run.settle(2, result=said, reason="asked the bank", by="ada")
    assert run.result(FOREVER) == expected
    hangs.set()  # the late answer
    engine.idle()
    assert run.result(FOREVER) == expected
    assert [name for name in calls if isinstance(name, str)] == ["before", which]
    assert [(act.act, act.verb, act.by, act.reason) for act in run.acts()] == [
        ("settle", "settled", "ada", "operation 2: asked the bank")
    ]
    answers = [entry.kind for entry in run.journal() if entry.operation == 2]
    assert answers[-1] == "step"
    assert answers.count("step") == 1


@pytest.mark.parametrize("which", ["stuck", "async", "lossy", "failing"])
@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [(ValueError("the bank says no"), ValueError, "the bank says no"), ("it says no", StepFailed, "it says no")],
    ids=["exception", "text"],
)
def test_an_error_is_set_and_the_step_is_not_tried_again(
    engine: TestEngine, which: str, error: Any, kind: type[Exception], text: str
) -> None:
    run = engine.start(flow, which, id="a")
    reached(engine, which)
    run.settle(2, error=error)
    with pytest.raises(kind, match=text):
        run.result(FOREVER)
    assert calls == ["before", which]


def test_it_survives_a_crash_right_after(engine: TestEngine) -> None:
    run = engine.start(flow, "stuck", id="a")
    reached(engine, "stuck")
    run.settle(2, result=7)
    engine.crash()
    engine.reopen()
    assert run.result(FOREVER) == 7
    assert calls[:2] == ["before", "stuck"]


@pytest.mark.parametrize("crashes", [False, True])
def test_a_run_that_failed_because_a_step_was_interrupted_goes_on(engine: TestEngine, crashes: bool) -> None:
    run = engine.start(flow, "pay", id="a")
    reached(engine, "pay")
    engine.crash()
    engine.reopen()
    with pytest.raises(StepInterrupted):
        run.result(FOREVER)
    with pytest.raises(InvalidArgument, match="number"):
        run.settle(2, result={"numbers": 1})
    assert run.status == "failed"
    run.settle(2, result=Receipt(3))
    if crashes:
        engine.crash()
        engine.reopen()
    assert run.result(FOREVER) == 3
    assert [name for name in calls if isinstance(name, str)] == ["before", "pay"]


@workflow(name="settling.beside")
async def beside() -> list[Any]:
    async def side() -> Any:
        return await after("beside")

    task = asyncio.ensure_future(side())
    await asyncio.sleep(0)
    paid = await asyncio.to_thread(pay)
    return [paid.number, await task]


def test_what_ran_beside_an_interrupted_step_is_not_done_again(engine: TestEngine) -> None:
    run = engine.start(beside, id="a")
    reached(engine, "pay")
    while not any(entry.kind == "step" for entry in run.journal()):
        pass
    engine.crash()
    engine.reopen()
    with pytest.raises(StepInterrupted):
        run.result(FOREVER)
    (number,) = [entry.operation for entry in run.journal() if entry.kind == "step_failed"]
    run.settle(number, result=Receipt(3))
    assert run.result(FOREVER) == [3, "beside"]
    assert calls in ([("after", "beside"), "pay"], ["pay", ("after", "beside")])


def test_a_paused_run_is_settled_and_stays_paused(engine: TestEngine) -> None:
    run = engine.start(flow, "failing", id="a")
    engine.idle()
    run.pause()
    run.settle(2, result=7)
    engine.idle()
    assert run.status == "paused"
    run.unpause()
    assert run.result(FOREVER) == 7


def test_the_command_line_leaves_word_for_the_worker_that_has_the_run(database: Path) -> None:
    line = ["settle", "a", "2", "--result", '{"number": 9}', "--yes", "--db", str(database)]
    with Engine(database, workflows=[flow]) as engine:
        run = engine.start(flow, "pay", id="a")
        assert begun.wait(FOREVER)
        said = subprocess.run(
            [sys.executable, "-m", "stepwell", *line], check=True, capture_output=True, text=True
        ).stdout
        assert "operation 2 of run 'a' is settled" in said
        assert run.result(FOREVER) == 9
        assert calls[:2] == ["before", "pay"]


def test_what_a_worker_is_told_and_does_not_fit_is_dropped_and_logged(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine(database, workflows=[flow]) as engine, pytest.raises(ResultNotSerializable):
        engine.start(flow, "lossy", id="a").result(FOREVER)
    with Engine(database, workflows=[]) as client:
        client.get("a").settle(2, result="a text")
    with Engine(database, workflows=[flow]) as engine:
        run = engine.get("a")
        with pytest.raises(ResultNotSerializable, match="was given a result by hand that is not of its type"):
            run.result(FOREVER)
        assert calls == ["before", "lossy"]  # which has acted
        assert "the outcome of operation 2 that was set by hand is dropped" in caplog.text
        run.settle(2, result=Receipt(2))
        assert run.result(FOREVER) == 2


def test_what_is_not_open_is_refused(engine: TestEngine) -> None:
    run = engine.start(flow, "failing", id="a")
    engine.idle()
    over = engine.start(flow, "stuck", id="over")
    assert begun.wait(FOREVER)
    hangs.set()
    over.result(FOREVER)
    broken.add("after")
    failed = engine.start(flow, "stuck", id="failed")
    with pytest.raises(LookupError):
        failed.result(FOREVER)
    refused: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: run.settle(1, result="x"), InvalidArgument, "operation 1"),
        (lambda: run.settle(3, result="x"), InvalidArgument, "operation 3"),
        (lambda: run.settle(2, result="x"), InvalidArgument, "int"),
        (lambda: run.settle(2), InvalidArgument, "either result= or error="),
        (lambda: run.settle(2, result=1, error="x"), InvalidArgument, "either result= or error="),
        (lambda: run.settle(0, result=1), InvalidArgument, "at least 1"),
        (lambda: run.settle(2, error=3), InvalidArgument, "an exception or a text"),  # type: ignore[arg-type]
        (lambda: over.settle(2, result=1), RunEnded, "completed"),
        (lambda: failed.settle(3, result=1), InvalidArgument, "rewind"),
        (lambda: engine.get("nobody").settle(2, result=1), RunNotFound, "nobody"),
    ]
    for call, kind, text in refused:
        with pytest.raises(kind, match=text):
            call()
    assert run.acts() == over.acts() == []
    run.settle(2, result=1)


def test_an_async_engine_has_the_same(database: Path) -> None:
    async def check() -> None:
        async with AsyncEngine(database) as engine:
            run = await engine.start(flow, "async")
            await asyncio.to_thread(begun.wait, FOREVER)
            await run.settle(2, result=7)
            assert await run.result(FOREVER) == 7

    asyncio.run(check())


def test_what_was_left_for_a_run_is_forgotten_when_it_is_rewound(database: Path) -> None:
    with Engine(database, workflows=[flow]) as engine, pytest.raises(ResultNotSerializable):
        engine.start(flow, "lossy", id="a").result(FOREVER)
    with Engine(database, workflows=[]) as client:
        client.get("a").settle(2, result={"number": 1})
        assert client.query("SELECT op, kind FROM stepwell_settlements") == [(2, "step")]
        client.get("a").rewind(2)
        assert client.query("SELECT op, kind FROM stepwell_settlements") == []
