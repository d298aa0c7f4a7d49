"""Queries: what the code of a run answers to whoever asks, whatever has become of the run."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    Engine,
    HandlerNotFound,
    InvalidArgument,
    QueryFailed,
    Run,
    RunHalted,
    RunNotFound,
    SerializationError,
    StepwellError,
    WorkflowIOError,
    continue_as_new,
    publish,
    receive,
    start,
    step,
    sync,
    workflow,
)
from stepwell.definitions.versions import Chosen
from stepwell.testing import TestEngine


@dataclass
class Line:
    item: str
    price: Decimal


@step
async def price(item: str) -> Decimal:
    return Decimal(len(item)) / 4


@step
def price_blocking(item: str) -> Decimal:
    return Decimal(len(item)) / 4


class Full(Exception):
    pass


@workflow
async def basket(items: list[str]) -> int:
    lines: list[Line] = []

    @stepwell.query
    def content() -> list[Line]:
        return lines

    @stepwell.query(name="total")
    async def total_of(least: Decimal = Decimal(0), *, item: str | None = None) -> Decimal:
        return sum((one.price for one in lines if one.price >= least and item in (None, one.item)), Decimal(0))

    @stepwell.query
    def refuses() -> None:
        raise Full("no room")

    for item in items:
        lines += [Line(item, await price(item))]
    await publish("content", len(lines))
    await receive("close")
    return len(lines)


@workflow
def blocking_basket(items: list[str]) -> int:
    lines: list[Line] = []

    @sync.query
    def content() -> list[Line]:
        return lines

    for item in items:
        lines += [Line(item, price_blocking(item))]
    sync.receive("close")
    return len(lines)


CONTENT = [Line("pear", Decimal(1)), Line("fig", Decimal("0.75"))]


@pytest.mark.parametrize("flow", [basket, blocking_basket])
@pytest.mark.parametrize("memory", [0, 1000], ids=["parked", "resident"])
def test_a_query_is_answered_from_the_variables_of_the_code(database: Path, flow: Any, memory: int) -> None:
    with TestEngine(database, max_waiting_in_memory=memory) as engine:
        run = engine.start(flow, ["pear", "fig"])
        engine.advance(0)
        assert run.query("content") == CONTENT
        before = run.journal()
        run.send("close")
        assert run.result() == 2
        assert run.query("content") == CONTENT
        assert run.journal()[: len(before)] == before


def test_arguments_are_read_as_the_handler_is_annotated(engine: TestEngine) -> None:
    run = engine.start(basket, ["pear", "fig"])
    engine.advance(0)
    assert run.query("total") == Decimal("1.75")
    assert run.query("total", Decimal(1)) == Decimal(1)
    assert run.query("total", kwargs={"item": "fig"}) == Decimal("0.75")
    with pytest.raises(Full, match="no room"):
        run.query("refuses")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("total", "much"), SerializationError),
        (("total", 1, 2), SerializationError),
        (("total", object()), SerializationError),
        (("",), InvalidArgument),
        (("contents",), HandlerNotFound),
    ],
)
def test_what_does_not_fit_is_refused(engine: TestEngine, given: tuple[Any, ...], error: type[Exception]) -> None:
    run = engine.start(basket, [])
    engine.advance(0)
    with pytest.raises(error, match=r"query '(total|contents)'|name of a query"):
        run.query(*given)
    with pytest.raises(InvalidArgument, match="timeout"):
        run.query("total", timeout=-1)


def test_a_query_of_no_name_says_which_there_are(engine: TestEngine) -> None:
    run = engine.start(basket, [])
    engine.advance(0)
    with pytest.raises(HandlerNotFound, match="it has: content, refuses, total"):
        run.query("contents")
    engine.advance(0)
    run.cancel()


@workflow
async def wrong() -> list[int]:
    seen: list[int] = []
    told = asyncio.Event()

    async def listens() -> None:
        await told.wait()
        await publish("told", 1)

    listener = asyncio.create_task(listens())

    @stepwell.query
    async def calls() -> Decimal:
        return await price("x")

    @stepwell.query
    def calls_blocking() -> Decimal:
        return price_blocking("x")

    @stepwell.query
    async def catches() -> str:
        try:
            await price("x")
        except StepwellError:
            return "caught"
        return "called"

    @stepwell.query
    async def sleeps() -> None:
        await asyncio.sleep(1)

    @stepwell.query
    async def starts() -> None:
        await start(basket, [])

    @stepwell.query
    def wakes() -> None:
        told.set()

    @stepwell.query
    async def waits() -> None:
        await asyncio.Event().wait()

    @stepwell.query
    async def spins() -> None:
        while True:  # noqa: ASYNC110 - the point of it
            await asyncio.sleep(0)

    @stepwell.query
    def reads() -> str:
        return Path(__file__).read_text(encoding="utf-8")

    @stepwell.query
    def exits() -> None:
        raise SystemExit(3)

    @stepwell.query
    def adds() -> int:
        seen.append(1)
        return len(seen)

    await receive("close")
    listener.cancel()
    return seen


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("calls", QueryFailed, "called step"),
        ("calls_blocking", QueryFailed, "price_blocking|a blocking call"),
        ("catches", QueryFailed, "called step"),
        ("sleeps", QueryFailed, "called a timer"),
        ("starts", QueryFailed, "basket"),
        ("wakes", QueryFailed, "called a published value|publish"),
        ("waits", QueryFailed, "does not come to an end"),
        ("spins", QueryFailed, "does not come to an end"),
        ("reads", WorkflowIOError, "reached outside"),
        ("exits", StepwellError, "SystemExit"),
    ],
)
def test_a_query_that_does_more_than_read_has_a_clear_end(
    engine: TestEngine, name: str, error: type[Exception], says: str
) -> None:
    run = engine.start(wrong, id="wrong")
    engine.advance(0)
    with pytest.raises(error, match=says):
        run.query(name)
    assert [run.query("adds"), run.query("adds")] == [1, 1]
    assert run.journal() == []
    run.send("close")
    assert run.result() == []


@workflow
async def endless() -> None:
    @stepwell.query
    def loops() -> None:
        while True:
            pass

    await receive("close")


def test_a_query_that_never_returns_is_ended(engine: TestEngine) -> None:
    run = engine.start(endless)
    engine.advance(0)
    with pytest.raises(QueryFailed, match=r"had not come to an end after 0.05 s, at .*test_queries.py:\d+ in loops"):
        run.query("loops", timeout=0.05)
    assert run.status == "waiting"


_waits_for: list[str] = []


@workflow
async def turns_endless() -> None:
    @stepwell.query
    def stage() -> str:
        return "begun"

    while _waits_for:
        pass
    await receive("close")


def test_a_query_of_a_run_whose_own_code_never_waits_is_ended(engine: TestEngine) -> None:
    run = engine.start(turns_endless)
    engine.idle()
    _waits_for.append("what never comes")
    try:
        with pytest.raises(QueryFailed, match=r"had not come to an end after 0.05 s, at .* in turns_endless"):
            run.query("stage", timeout=0.05)
    finally:
        _waits_for.clear()
    assert run.query("stage", timeout=None) == "begun"


@workflow
async def stages(fail: bool) -> None:
    stage = "begun"

    @stepwell.query
    def at() -> str:
        return stage

    await receive("next")
    stage = "middle"
    if fail:
        _ = stage[len(stage)]
    try:
        await receive("next")
        stage = "over"
        raise ValueError("meant so")
    finally:
        stage += ", cleaned up"


def test_runs_that_are_paused_halted_failed_cancelled_or_terminated_can_be_asked(engine: TestEngine) -> None:
    paused, halted, failed, cancelled, ended = (
        engine.start(stages, fail) for fail in (False, True, False, False, False)
    )
    engine.advance(0)
    for run in (halted, failed, cancelled, ended):
        run.send("next")
    engine.advance(0)
    paused.pause()
    failed.send("next")
    cancelled.cancel()
    ended.terminate()
    engine.advance(0)
    found = [(run.status, run.query("at")) for run in (paused, halted, failed, cancelled, ended)]
    assert found == [
        ("paused", "begun"),
        ("halted", "middle"),
        ("failed", "over, cleaned up"),
        ("cancelled", "middle, cleaned up"),
        ("cancelled", "middle"),
    ]


def test_a_run_that_has_not_begun_answers_as_its_code_begins(engine: TestEngine) -> None:
    run = engine.start(stages, False, queue="queries-later", delay=60)
    assert run.status == "pending"
    assert run.query("at") == "begun"
    assert run.info().started_at is None


@workflow
async def promises() -> int:
    found = ["begun"]

    @stepwell.query
    def at() -> str:
        return found[0]

    try:
        return await stepwell.promise(int)
    except Exception as error:
        found[0] = repr(error)
        raise


def test_a_run_that_has_not_made_its_promise_answers_as_if_it_waited_for_it(engine: TestEngine) -> None:
    assert engine.start(promises, queue="queries-later", delay=60).query("at") == "begun"


def as_it_is(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@workflow
async def decorated() -> None:
    @stepwell.query
    @as_it_is
    def one(number: int) -> int:
        return number

    @stepwell.query
    @as_it_is
    def other(number: int = 2) -> int:
        return number

    await receive("never")


def test_handlers_of_one_decorator_take_what_each_of_them_takes(engine: TestEngine) -> None:
    run = engine.start(decorated)
    assert (run.query("one", 1), run.query("other"), run.query("other", 3)) == (1, 2, 3)


@workflow
async def generations(number: int) -> None:
    @stepwell.query
    def generation() -> int:
        return number

    await receive("next")
    continue_as_new(number + 1)


def test_a_run_that_went_on_as_new_or_was_rewound_answers_of_its_present_chapter(engine: TestEngine) -> None:
    run = engine.start(generations, 1)
    run.send("next")
    engine.advance(0)
    assert run.query("generation") == 2
    other = engine.start(stages, True)
    other.send("next")
    with pytest.raises(RunHalted):
        other.result()
    other.rewind(1, args=[False])
    engine.advance(0)
    assert (other.query("at"), other.status) == ("middle", "waiting")


def test_runs_whose_code_is_elsewhere_or_does_not_fit_say_so(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @workflow(name="queries-changed")
    async def first() -> None:
        await price("x")
        await receive("close")

    with TestEngine(database, workflows=[first, basket]) as engine:
        run = engine.start(first)
        known = engine.start(basket, ["fig"])
        engine.advance(0)
        run_id, known_id = run.id, known.id

    @workflow(name="queries-changed")
    async def second() -> None:
        @stepwell.query
        def at() -> int:
            return 1

        await receive("close")

    with TestEngine(database, workflows=[second]) as engine:
        with pytest.raises(QueryFailed, match=r"cannot be asked with the code that is here(.|\n)*expected"):
            engine.get(run_id).query("at")
        assert len(engine.get(known_id).query("content")) == 1  # this process has it, whatever the engine serves
        monkeypatch.setattr("stepwell.api.asking.request_factory.Served", Chosen)
        with pytest.raises(QueryFailed, match=r"basket' is not defined in this process\. Import the module"):
            engine.get(known_id).query("content")
        with pytest.raises(RunNotFound):
            Run(engine, "no-such-run", basket).query("content")


def test_to_ask_writes_nothing(database: Path) -> None:
    with Engine(database, workflows=[basket]) as engine:
        run = engine.start(basket, ["pear"])
        engine.start(basket, [], id="quick").send("close")
        assert engine.get("quick").result(10) == 0
        run.value("content")

        def version() -> Any:
            return engine.query("SELECT count(*), max(position) FROM stepwell_journal")[0], engine.query(
                "SELECT * FROM stepwell_runs ORDER BY key"
            )

        before = version()
        for asked in (run, engine.get("quick")):
            asked.query("content")
        assert version() == before


def test_async_callers_and_several_threads_ask_at_once(database: Path) -> None:
    async def main() -> list[Any]:
        async with AsyncEngine(database, workflows=[basket]) as engine:
            run = await engine.start(basket, ["pear", "fig"], id="b")
            await run.value("content")
            with pytest.raises(HandlerNotFound):
                await run.query("nothing")
            return await asyncio.gather(*(run.query("content") for _ in range(8)))

    assert asyncio.run(main()) == [CONTENT] * 8


def test_an_engine_that_serves_nothing_can_ask_where_the_code_is_imported(database: Path) -> None:
    with Engine(database, workflows=[basket]) as owner:
        run = owner.start(basket, ["pear", "fig"])
        run.value("content")
    with Engine(database, workflows=[]) as client:
        assert client.get(run.id).query("content") == CONTENT


def test_a_workflow_that_registers_queries_can_be_called_as_a_plain_function() -> None:
    @workflow(name="queries-plain")
    async def plain() -> int:
        @stepwell.query
        def one() -> int:
            return 1

        return one() + 1

    assert asyncio.run(plain()) == 2
    with pytest.raises(StepwellError, match="outside of a workflow"):
        stepwell.query(lambda: 1)


@workflow
async def misuses() -> None:
    stepwell.query(price)


def test_a_step_is_no_handler(engine: TestEngine) -> None:
    run = engine.start(misuses)
    with pytest.raises((RunHalted, InvalidArgument), match="takes a function of the workflow's own code"):
        run.result()
