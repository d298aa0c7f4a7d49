"""A run is rewound to an operation, or restarted, in place: what was before is kept, the rest is done anew."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    DefinitionError,
    InvalidArgument,
    Queue,
    RunCancelled,
    RunNotEnded,
    RunNotFound,
    SerializationError,
    publish,
    receive,
    send,
    step,
    sync,
    workflow,
)
from stepwell.testing import TestEngine

FOREVER = 60
HANGING = threading.Event()
calls: list[Any] = []
broken: set[Any] = set()


@pytest.fixture(autouse=True)
def _as_new() -> None:
    calls.clear()
    broken.clear()


@pytest.fixture(params=[0, 1000], ids=["parked", "resident"])
def memory(request: pytest.FixtureRequest, database: Path) -> Iterator[TestEngine]:
    """Yield an engine that keeps waiting runs in memory, or does not."""
    with TestEngine(database, max_waiting_in_memory=request.param) as engine:
        yield engine


@step(name="rewinding.act")
async def act(what: Any) -> Any:
    calls.append(what)
    if what in broken:
        raise LookupError(f"no {what}")
    return what


@workflow(name="rewinding.three")
async def three(label: str = "") -> list[Any]:
    return [await act(f"{label}{number}") for number in (1, 2, 3)]


@workflow(name="rewinding.three-plainly")
def three_plainly(label: str = "") -> list[Any]:
    return [sync.call(act, f"{label}{number}") for number in (1, 2, 3)]


@pytest.mark.parametrize("flow", [three, three_plainly])
def test_a_completed_run_goes_on_from_an_operation(engine: TestEngine, flow: Any) -> None:
    run = engine.start(flow, id="a")
    assert run.result(FOREVER) == ["1", "2", "3"]
    run.rewind(2)
    assert run.result(FOREVER) == ["1", "2", "3"]
    assert calls == ["1", "2", "3", "2", "3"]
    assert [chapter.beginning for chapter in run.chapters()] == ["started", "rewound"]
    assert [[entry.operation for entry in run.journal(number)] for number in (1, 2)] == [[1, 2, 3], [1, 2, 3]]


def test_a_failed_run_goes_on_from_before_the_failure(engine: TestEngine) -> None:
    broken.add("3")
    run = engine.start(three, id="a")
    with pytest.raises(LookupError):
        run.result(FOREVER)
    broken.clear()
    run.rewind(2, reason="the data were wrong", by="ada")
    assert run.result(FOREVER) == ["1", "2", "3"]
    assert calls == ["1", "2", "3", "2", "3"]
    assert [(act.act, act.by, act.reason, act.verb) for act in run.acts()] == [
        ("rewind", "ada", "the data were wrong", "rewound")
    ]


def test_it_survives_a_crash_right_after(engine: TestEngine) -> None:
    run = engine.start(three, id="a")
    run.result(FOREVER)
    run.rewind(3)
    engine.crash()
    engine.reopen()
    assert run.result(FOREVER) == ["1", "2", "3"]
    assert calls[:4] == ["1", "2", "3", "3"]


def test_a_restarted_run_begins_again(engine: TestEngine) -> None:
    run = engine.start(three, "x", id="a")
    run.result(FOREVER)
    run.restart(reason="again")
    assert run.result(FOREVER) == ["x1", "x2", "x3"]
    run.restart("y")
    assert run.result(FOREVER) == ["y1", "y2", "y3"]
    assert [(chapter.beginning, chapter.input) for chapter in run.chapters()] == [
        ("started", {"args": ["x"]}),
        ("restarted", {"args": ["x"]}),
        ("restarted", {"args": ["y"]}),
    ]
    assert [(act.act, act.reason) for act in run.acts()] == [("restart", "again"), ("restart", None)]
    assert engine.start(three, "x", id="a").result(FOREVER) == ["y1", "y2", "y3"]


def test_an_async_engine_has_the_same(database: Path) -> None:
    async def check() -> None:
        async with AsyncEngine(database) as engine:
            run = await engine.start(three, "x")
            await run.result(FOREVER)
            await run.rewind(3)
            await run.result(FOREVER)
            await run.restart("y")
            assert await run.result(FOREVER) == ["y1", "y2", "y3"]
            assert calls == ["x1", "x2", "x3", "x3", "y1", "y2", "y3"]

    asyncio.run(check())


# --- replaced results and input ---------------------------------------------------------------------------------------


def test_a_recorded_result_can_be_replaced(engine: TestEngine) -> None:
    run = engine.start(three, id="a")
    run.result(FOREVER)
    run.rewind(3, results={1: "uno"})
    assert run.result(FOREVER) == ["uno", "2", "3"]
    assert calls == ["1", "2", "3", "3"]
    assert [entry.value for entry in run.journal(1)] == ["1", "2", "3"]


def test_a_failed_step_can_be_given_a_result(engine: TestEngine) -> None:
    broken.add("2")
    run = engine.start(three, id="a")
    engine.idle()
    run.rewind(2, results={2: "dos"})
    assert run.result(FOREVER) == ["1", "dos", "3"]
    assert calls == ["1", "2", "3"]


@workflow(name="rewinding.by-input")
async def by_input(first: str, second: str = "b") -> list[Any]:
    return [await act(first), await act(second)]


def test_other_input_is_given_where_the_code_goes_on_with_it(engine: TestEngine) -> None:
    run = engine.start(by_input, "a", id="a")
    run.result(FOREVER)
    run.rewind(2, args=["a"], kwargs={"second": "c"})
    assert run.result(FOREVER) == ["a", "c"]
    assert calls == ["a", "b", "c"]


def test_other_input_with_which_the_kept_part_would_differ_is_refused(engine: TestEngine) -> None:
    run = engine.start(by_input, "a", id="a")
    run.result(FOREVER)
    with pytest.raises(InvalidArgument, match=r"nothing was changed. DeterminismError(.|\n)*'other'"):
        run.rewind(2, args=["other"])
    assert (run.status, run.info().chapter, run.acts()) == ("completed", 1, [])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"to": 0}, InvalidArgument, "at least 1"),
        ({"to": 4}, InvalidArgument, "no operation 4; those of its present chapter are 1 to 3"),
        ({"to": "2"}, InvalidArgument, "the operation to rewind to"),
        ({"to": 2, "results": {3: 1}}, InvalidArgument, "operation 3 of run 'a' has no recorded result"),
        ({"to": 2, "results": {9: 1}}, InvalidArgument, "operation 9"),
        ({"to": 2, "results": [1]}, InvalidArgument, "mapping"),
        ({"to": 2, "results": {1: object()}}, SerializationError, "operation 1"),
        ({"to": 2, "args": "x"}, InvalidArgument, "sequence"),
        ({"to": 2, "args": [1, 2, 3]}, DefinitionError, "three"),
        ({"to": 2, "by": ""}, InvalidArgument, "by"),
    ],
    ids=range(10),
)
def test_bad_input_is_refused_before_anything_is_changed(
    engine: TestEngine, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    run = engine.start(three, id="a")
    run.result(FOREVER)
    with pytest.raises(error, match=text):
        run.rewind(**arguments)
    assert (run.status, run.info().chapter, run.acts()) == ("completed", 1, [])


@workflow(name="rewinding.publishes")
async def publishes() -> str:
    await publish("v", 1)
    return str(await act("1"))


def test_what_has_no_result_cannot_be_given_one(engine: TestEngine) -> None:
    run = engine.start(publishes, id="a")
    run.result(FOREVER)
    with pytest.raises(InvalidArgument, match="operation 1 of run 'a' is publish 'v', which has no result"):
        run.rewind(2, results={1: 2})


# --- in which state ---------------------------------------------------------------------------------------------------


@workflow(name="rewinding.waits")
async def waits() -> list[Any]:
    first = await act("first")
    heard = await receive("go", str)
    second = await act("second")
    return [first, heard, second, await receive("end", str)]


def test_a_waiting_run_is_rewound(memory: TestEngine) -> None:
    run = memory.start(waits, id="a")
    run.send("go", "now")
    memory.idle()
    assert run.status == "waiting"
    run.rewind(3)
    run.send("end", "over")
    assert run.result(FOREVER) == ["first", "now", "second", "over"]
    assert calls == ["first", "second", "second"]


def test_a_cancelled_run_is_rewound_and_its_cancellation_is_gone(memory: TestEngine) -> None:
    run = memory.start(waits, id="a")
    memory.idle()
    run.cancel("too early")
    with pytest.raises(RunCancelled):
        run.result(FOREVER)
    run.rewind(1)
    memory.idle()
    assert (run.status, run.info().cancel_requested_at) == ("waiting", None)
    assert calls == ["first", "first"]


@workflow(name="rewinding.halts")
async def halts() -> Any:
    await act("first")
    if "halt" in broken:
        assert not broken, "a mistake"
    return await act("second")


def test_a_halted_run_is_rewound(engine: TestEngine) -> None:
    broken.add("halt")
    run = engine.start(halts, id="a")
    engine.idle()
    assert run.status == "halted"
    broken.clear()
    run.rewind(1)
    assert run.result(FOREVER) == "second"
    assert calls == ["first", "first", "second"]


@workflow(name="rewinding.hangs")
async def hangs() -> None:
    await act("first")
    await hang()


@step(name="rewinding.hang")
async def hang() -> None:
    HANGING.set()
    await asyncio.Event().wait()


def test_a_run_that_is_under_way_is_refused(engine: TestEngine) -> None:
    run = engine.start(hangs, id="a")
    assert HANGING.wait(FOREVER)
    with pytest.raises(RunNotEnded, match="'a' is running: its code or one of its steps is under way"):
        run.rewind(1)
    assert run.info().chapter == 1


def test_a_run_that_does_not_exist_is_refused(engine: TestEngine) -> None:
    run = engine.start(three, id="a")
    run.result(FOREVER)
    engine.advance(1)
    engine.purge(0)
    with pytest.raises(RunNotFound, match="'a'"):
        run.rewind(1)
    with pytest.raises(RunNotFound, match="'a'"):
        run.restart()


# --- what surrounds it ------------------------------------------------------------------------------------------------


def test_messages_that_were_received_since_can_be_received_again_before_the_others(memory: TestEngine) -> None:
    run = memory.start(waits, id="a")
    run.send("go", "one", key="1")
    run.send("end", "two")
    run.result(FOREVER)
    run.rewind(2)
    run.send("go", "one again", key="1")  # the key stays known
    assert run.result(FOREVER) == ["first", "one", "second", "two"]
    run.rewind(3)
    assert run.result(FOREVER) == ["first", "one", "second", "two"]
    run.restart()
    assert run.result(FOREVER) == ["first", "one", "second", "two"]


def test_published_values_stay_until_they_are_published_anew(engine: TestEngine) -> None:
    run = engine.start(publishes, id="a")
    run.result(FOREVER)
    broken.add("1")
    run.rewind(2)
    engine.idle()
    assert (run.status, run.value("v")) == ("failed", 1)


@workflow(name="rewinding.sends")
async def sends(key: str | None) -> None:
    await act("before")
    await send("receiver", "word", "sent", key=key)


@workflow(name="rewinding.receiver")
async def receiver(number: int) -> list[str]:
    return [await receive("word", str) for _ in range(number)]


@pytest.mark.parametrize(("key", "heard"), [(None, 2), ("once", 1)])
def test_messages_that_were_sent_stay_sent_and_a_key_drops_the_repetition(
    engine: TestEngine, key: str | None, heard: int
) -> None:
    other = engine.start(receiver, 3, id="receiver")
    run = engine.start(sends, key, id="a")
    run.result(FOREVER)
    run.rewind(1)
    run.result(FOREVER)
    engine.idle()
    assert len(other.journal()) == heard


@workflow(name="rewinding.child")
async def child(word: str) -> str:
    await act(word)
    return await receive("go", str)


@workflow(name="rewinding.parent")
async def parent(child_id: str | None) -> str:
    await act("parent")
    started = await stepwell.start(child, "child", id=child_id)
    return await started.result()


def test_a_child_that_was_started_since_is_cancelled_and_another_one_started(memory: TestEngine) -> None:
    run = memory.start(parent, None, id="a")
    memory.idle()
    run.rewind(1)
    memory.idle()
    assert (memory.get("a/2").status, calls) == ("cancelled", ["parent", "child", "parent", "child"])
    assert "undone" in str(memory.get("a/2").info().reason)
    (second,) = memory.list(id_prefix="a/2~")
    second.send("go", "gone")
    assert run.result(FOREVER) == "gone"


def test_a_child_with_an_id_of_its_own_is_found_again(memory: TestEngine) -> None:
    run = memory.start(parent, "mine", id="a")
    memory.idle()
    run.rewind(1)
    memory.idle()
    assert (memory.get("mine").status, calls) == ("waiting", ["parent", "child", "parent"])
    memory.send("mine", "go", "gone")
    assert run.result(FOREVER) == "gone"


def test_a_child_that_completed_is_done_again_where_its_start_is(memory: TestEngine) -> None:
    run = memory.start(parent, None, id="a")
    memory.idle()
    memory.send("a/2", "go", "first")
    assert run.result(FOREVER) == "first"
    run.rewind(3)  # its result only: it has completed, and says the same
    assert run.result(FOREVER) == "first"
    run.rewind(2)
    memory.idle()
    (second,) = memory.list(id_prefix="a/2~")
    second.send("go", "second")
    assert run.result(FOREVER) == "second"


@workflow(name="rewinding.fails-beside-a-child")
async def fails_beside_a_child() -> str:
    started = await stepwell.start(child, "child")
    await act("beside")
    return await started.result()


def test_a_child_that_was_started_before_comes_back_with_its_parent(memory: TestEngine) -> None:
    broken.add("beside")
    run = memory.start(fails_beside_a_child, id="a")
    memory.idle()
    assert (run.status, memory.get("a/1").status) == ("failed", "cancelled")
    broken.clear()
    run.rewind(2)
    memory.idle()
    assert (run.status, memory.get("a/1").status) == ("waiting", "waiting")
    assert [act.act for act in memory.get("a/1").acts()] == ["retry"]
    memory.send("a/1", "go", "gone")
    assert run.result(FOREVER) == "gone"
    assert sorted(calls) == ["beside", "beside", "child"]


LINE = Queue("rewinding line", concurrency=1)


def test_a_run_of_a_queue_waits_for_its_turn_again(engine: TestEngine) -> None:
    run = engine.start(three, "x", id="a", queue=LINE)
    run.result(FOREVER)
    other = engine.start(waits, id="b", queue=LINE)
    engine.idle()
    run.rewind(3)
    engine.idle()
    assert run.status == "pending"
    other.cancel()
    assert run.result(FOREVER) == ["x1", "x2", "x3"]


@workflow(name="rewinding.gathers")
async def gathers() -> list[Any]:
    async def two(name: str) -> list[Any]:
        return [await act(f"{name}1"), await act(f"{name}2")]

    return list(await asyncio.gather(two("a"), two("b")))


def test_what_was_asked_for_before_is_kept_in_all_branches(engine: TestEngine) -> None:
    run = engine.start(gathers, id="a")
    run.result(FOREVER)
    names = {entry.operation: entry.value for entry in run.journal()}
    calls.clear()
    run.rewind(4)
    assert run.result(FOREVER) == [["a1", "a2"], ["b1", "b2"]]
    assert calls == [names[4]]


@workflow(name="rewinding.draws")
async def draws() -> list[Any]:
    return [await act(str(stepwell.uuid4())) for _ in range(3)]


def test_random_numbers_of_what_is_kept_are_the_same_and_those_of_a_restart_are_not(engine: TestEngine) -> None:
    run = engine.start(draws, id="a")
    first = run.result(FOREVER)
    run.rewind(3)
    assert run.result(FOREVER) == first
    run.restart()
    assert not set(run.result(FOREVER)) & set(first)


@workflow(name="rewinding.sleeps")
async def sleeps() -> str:
    await act("before")
    await asyncio.sleep(10)
    return str(await act("after"))


def test_the_clock_of_a_restarted_run_begins_anew(engine: TestEngine) -> None:
    run = engine.start(sleeps, id="a")
    engine.advance(100)
    run.result(FOREVER)
    run.restart()
    engine.advance(5)
    assert run.status == "waiting"
    engine.advance(5)
    assert run.result(FOREVER) == "after"


def test_a_rewound_run_can_be_rewound_retried_and_rewound_again(engine: TestEngine) -> None:
    run = engine.start(three, id="a")
    run.result(FOREVER)
    run.rewind(2)
    run.result(FOREVER)
    broken.add("3")
    run.rewind(3)
    engine.idle()
    broken.clear()
    run.retry()
    assert run.result(FOREVER) == ["1", "2", "3"]
    run.rewind(1)
    assert run.result(FOREVER) == ["1", "2", "3"]
    assert run.info().chapter == 4
