"""A fork: another run that begins with what a run has up to an operation; the run itself is not touched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    InvalidArgument,
    Queue,
    RunConflict,
    RunNotFound,
    publish,
    receive,
    send,
    step,
    sync,
    workflow,
)
from stepwell.testing import TestEngine

FOREVER = 60
calls: list[Any] = []
broken: set[Any] = set()
LINE = Queue("forking.line", concurrency=1)


@pytest.fixture(autouse=True)
def _as_new() -> None:
    calls.clear()
    broken.clear()


@step(name="forking.act")
async def act(what: Any) -> Any:
    calls.append(what)
    if what in broken:
        raise LookupError(f"no {what}")
    return what


@workflow(name="forking.three")
async def three(label: str = "") -> list[Any]:
    return [await act(f"{label}{number}") for number in (1, 2, 3)]


@workflow(name="forking.three-plainly")
def three_plainly(label: str = "") -> list[Any]:
    return [sync.call(act, f"{label}{number}") for number in (1, 2, 3)]


@pytest.mark.parametrize("flow", [three, three_plainly])
def test_another_run_begins_with_what_is_kept(engine: TestEngine, flow: Any) -> None:
    run = engine.start(flow, id="a")
    run.result(FOREVER)
    before = run.journal(), run.info()
    fork = run.fork(2, id="b", reason="what if", by="ada")
    assert fork.result(FOREVER) == ["1", "2", "3"]
    assert calls == ["1", "2", "3", "2", "3"]
    assert (run.journal(), run.info()) == before
    assert [(each.act, each.verb, each.by, each.reason) for each in fork.acts()] == [
        ("fork", "forked", "ada", "what if")
    ]
    assert [(each.number, each.beginning, each.forked_from, each.forked_op) for each in fork.chapters()] == [
        (1, "forked", "a", 2)
    ]
    assert [entry.operation for entry in fork.journal()] == [1, 2, 3]
    assert [entry.operation for entry in fork.journal(1)] == [1, 2, 3]


def test_a_failed_run_is_forked_before_its_failure(engine: TestEngine) -> None:
    broken.add("3")
    run = engine.start(three, id="a")
    with pytest.raises(LookupError):
        run.result(FOREVER)
    broken.clear()
    assert run.fork(3).result(FOREVER) == ["1", "2", "3"]
    assert calls == ["1", "2", "3", "3"]
    assert run.status == "failed"


def test_it_survives_a_crash_right_after_and_the_same_fork_is_the_same_run(engine: TestEngine) -> None:
    run = engine.start(three, id="a")
    run.result(FOREVER)
    run.fork(3, id="b", results={1: "uno"})
    engine.crash()
    engine.reopen()
    fork = run.fork(3, id="b", results={1: "uno"})
    assert fork.result(FOREVER) == ["uno", "2", "3"]
    assert run.fork(3, id="b", results={1: "uno"}).id == "b"
    assert len(engine.list()) == 2


def test_an_async_engine_has_the_same(database: Path) -> None:
    async def check() -> None:
        async with AsyncEngine(database) as engine:
            run = await engine.start(three, "x")
            await run.result(FOREVER)
            fork = await run.fork(3, id="b", args=["x"], results={2: "zwei"})
            assert await fork.result(FOREVER) == ["x1", "zwei", "x3"]

    asyncio.run(check())


def test_results_and_input_can_be_replaced(engine: TestEngine) -> None:
    run = engine.start(three, "x", id="a")
    run.result(FOREVER)
    assert run.fork(3, results={1: "uno", 3: "tres"}).result(FOREVER) == ["uno", "x2", "tres"]
    fork = run.fork(1, id="b", args=["y"])
    assert fork.result(FOREVER) == ["y1", "y2", "y3"]
    assert engine.start(three, "y", id="b").result(FOREVER) == ["y1", "y2", "y3"]
    with pytest.raises(RunConflict):
        engine.start(three, "x", id="b")
    assert run.info().status == "completed"


def test_what_does_not_fit_is_refused_and_nothing_is_made(engine: TestEngine) -> None:
    run = engine.start(three, "x", id="a")
    run.result(FOREVER)
    run.fork(2, id="b")
    refused: list[tuple[Callable[[], Any], type[Exception]]] = [
        (lambda: run.fork(9), InvalidArgument),
        (lambda: run.fork(0), InvalidArgument),
        (lambda: run.fork(2, id=""), InvalidArgument),
        (lambda: run.fork(3, args=["y"]), InvalidArgument),  # the first two were given "x1" and "x2"
        (lambda: run.fork(3, results={7: 1}), InvalidArgument),
        (lambda: run.fork(2, id="a"), RunConflict),
        (lambda: run.fork(3, id="b"), RunConflict),
        (lambda: run.fork(2, id="b", results={1: "uno"}), RunConflict),
        (lambda: engine.get("zoe").fork(1), RunNotFound),
    ]
    for call, error in refused:
        with pytest.raises(error):
            call()
    assert sorted(each.id for each in engine.list()) == ["a", "b"]


@workflow(name="forking.says-its-id")
async def says_its_id() -> list[Any]:
    return [await act(stepwell.current().run_id), await act("end")]


def test_code_that_says_its_own_id_to_what_is_kept_is_told_so(engine: TestEngine) -> None:
    run = engine.start(says_its_id, id="a")
    run.result(FOREVER)
    with pytest.raises(InvalidArgument, match="a fork of run 'a' would not go on like that"):
        run.fork(2, id="b")
    assert run.fork(1, id="b").result(FOREVER) == ["b", "end"]


# --- what goes along --------------------------------------------------------------------------------------------------


@workflow(name="forking.talks")
async def talks() -> list[Any]:
    first = await receive("word", str)
    await publish("first", first)
    await send("other", "seen", first)
    second = await receive("word", str)
    return [first, second, stepwell.random(), stepwell.uuid4().hex, await receive("word", str)]


@workflow(name="forking.listens")
async def listens() -> list[str]:
    return [await receive("seen", str), await receive("seen", str)]


@pytest.mark.parametrize("ends_first", [False, True])
def test_messages_values_and_random_numbers(engine: TestEngine, ends_first: bool) -> None:
    other = engine.start(listens, id="other")
    run = engine.start(talks, id="a")
    for word in ("one", "two", "three")[: 3 if ends_first else 2]:
        run.send("word", word, key=f"key of {word}")
    if ends_first:
        run.result(FOREVER)
    engine.idle()
    fork = run.fork(4, id="b")  # the second receive
    for each in (run, fork):
        each.send("word", "one", key="key of one")  # known already
        each.send("word", "three", key="key of three")
    assert fork.result(FOREVER) == run.result(FOREVER)
    assert fork.result()[:2] == ["one", "two"]
    assert fork.value("first") == "one"
    other.send("seen", "the only other")
    assert other.result(FOREVER) == ["one", "the only other"]


def test_messages_that_were_sent_by_what_is_undone_are_sent_again(engine: TestEngine) -> None:
    other = engine.start(listens, id="other")
    run = engine.start(talks, id="a", messages=[("word", "one")])
    engine.idle()
    run.fork(1, id="b")
    assert other.result(FOREVER) == ["one", "one"]


@workflow(name="forking.child")
async def child(name: str) -> str:
    await act(f"child {name}")
    return f"{name} {await receive('go', str)}"


@workflow(name="forking.parent")
async def parent() -> list[Any]:
    kept = await stepwell.start(child, "kept")
    named = await stepwell.start(child, "named", id="named")
    unnamed = await stepwell.start(child, "unnamed")
    return [await kept.result(), await named.result(), await unnamed.result(), unnamed.id]


def test_children(engine: TestEngine) -> None:
    run = engine.start(parent, id="a")
    engine.idle()
    fork = run.fork(2, id="b")
    engine.idle()
    assert calls == ["child kept", "child named", "child unnamed", "child unnamed"]
    for each in ("a/1", "named", "a/3", "b/3"):
        engine.send(each, "go", f"to {each}")
    assert run.result(FOREVER) == ["kept to a/1", "named to named", "unnamed to a/3", "a/3"]
    assert fork.result(FOREVER) == ["kept to a/1", "named to named", "unnamed to b/3", "b/3"]


@workflow(name="forking.calls-child")
async def calls_child() -> str:
    return await child("called")


def test_a_fork_that_is_cancelled_leaves_the_children_of_the_other_run_alone(engine: TestEngine) -> None:
    run = engine.start(calls_child, id="a")
    engine.idle()
    fork = run.fork(2, id="b")
    engine.idle()
    assert engine.get("a/1").info().status == "waiting"
    fork.cancel()
    with pytest.raises(stepwell.RunCancelled):
        fork.result(FOREVER)
    engine.idle()
    engine.send("a/1", "go", "on")
    assert run.result(FOREVER) == "called on"


@workflow(name="forking.waits")
async def waits() -> str:
    await act("before")
    await asyncio.sleep(60)
    return str(await act("after"))


def test_timers_keep_their_time(engine: TestEngine) -> None:
    run = engine.start(waits, id="a")
    engine.idle()
    engine.advance(30)
    fork = run.fork(2, id="b")
    engine.advance(31)
    assert run.result(FOREVER) == fork.result(FOREVER) == "after"
    late = run.fork(2, id="c")
    assert late.result(FOREVER) == "after"
    assert calls == ["before", "after", "after", "after"]


def test_it_waits_for_its_turn_in_the_queue_of_the_run(engine: TestEngine) -> None:
    run = engine.start(waits, id="a", queue=LINE)
    engine.idle()
    fork = run.fork(2, id="b")
    assert fork.info().status == "pending"
    assert engine.queue(LINE).info().waiting == 1
    engine.advance(61)
    assert (run.result(FOREVER), fork.result(FOREVER)) == ("after", "after")


def test_a_fork_is_forked_rewound_and_restarted_as_any_run(engine: TestEngine) -> None:
    run = engine.start(three, "x", id="a")
    run.result(FOREVER)
    fork = run.fork(3, id="b", results={1: "uno"})
    fork.result(FOREVER)
    again = fork.fork(3, id="c", results={2: "dos"})
    assert again.result(FOREVER) == ["uno", "dos", "x3"]
    fork.rewind(2)
    assert fork.result(FOREVER) == ["uno", "x2", "x3"]
    fork.restart()
    assert fork.result(FOREVER) == ["x1", "x2", "x3"]
    assert [each.beginning for each in fork.chapters()] == ["forked", "rewound", "restarted"]
    assert engine.start(three, "x", id="b").result(FOREVER) == ["x1", "x2", "x3"]


@workflow(name="forking.telling")
async def telling() -> list[str]:
    return [await act.options(summary=f"about {what}")(what) for what in ("a", "b")]


def test_what_its_steps_are_about_is_told_of_a_fork_too(engine: TestEngine) -> None:
    run = engine.start(telling, id="a")
    run.result(FOREVER)
    fork = run.fork(2, id="b")
    fork.result(FOREVER)
    assert [entry.summary for entry in run.journal()] == ["about a", "about b"]
    assert [entry.summary for entry in fork.journal()] == ["about a", "about b"]
