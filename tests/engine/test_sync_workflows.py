"""`def` workflows: blocking code on the same deterministic loop, with everything that `async def` ones have."""

from __future__ import annotations

import asyncio
import gc
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepwell import (
    InvalidArgument,
    Retry,
    RunCancelled,
    RunConflict,
    RunNotFound,
    StepwellError,
    current,
    receive,
    step,
    sync,
    workflow,
)
from stepwell.definitions.step_info import RunContext
from stepwell.testing import TestEngine

executed: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step
def act(name: str) -> str:
    executed.append(name)
    return f"<{name}>"


@step
async def act_async(name: str) -> str:
    executed.append(name)
    await asyncio.sleep(0)
    return f"<{name}>"


@workflow
def child(name: str) -> str:
    sync.sleep(1)
    return act(name)


@workflow
async def async_child(name: str) -> str:
    await asyncio.sleep(1)
    return await act_async(name)


@workflow
def everything(name: str) -> list[Any]:
    """Use each operation once."""
    found: list[Any] = [act(name), sync.call(act_async, name), str(sync.now()), sync.random(), str(sync.uuid4())]
    sync.sleep(timedelta(seconds=2))
    sync.publish("stage", "slept")
    found.append(sync.receive("word", str))
    found.append(sync.receive("never", str, timeout=3, default="nothing"))
    sync.sleep_until(sync.now() + timedelta(seconds=4))
    found += [child("called"), sync.call(async_child, "called async")]
    handle = sync.start(child, "started", id=f"{name} child")
    found += [handle.id, handle.result()]
    found.append(sync.map(child, ["m1", "m2", "m3"], limit=2))
    found.append(sync.map(async_child, ["m4"]))
    sync.send("listener", "word", name)
    found.append(sync.patched("new code"))
    return found


@workflow
async def listener() -> Any:
    return await receive("word")


@pytest.mark.parametrize("memory", [0, 1000], ids=["parked", "resident"])
def test_a_plain_workflow_uses_every_operation_and_survives_crashes(engine: TestEngine, memory: int) -> None:
    engine.reopen(max_waiting_in_memory=memory)
    heard = engine.start(listener, id="listener")
    run = engine.start(everything, "x", messages=[("word", "hello")])
    for _ in range(40):
        engine.advance(0.5)
        engine.crash()
        engine.reopen()
    engine.advance(60)
    found = run.result(60)
    assert found[:2] == ["<x>", "<x>"]
    assert found[5:9] == ["hello", "nothing", "<called>", "<called async>"]
    assert found[9:] == ["x child", "<started>", ["<m1>", "<m2>", "<m3>"], ["<m4>"], True]
    assert heard.result(60) == "x"
    assert run.value("stage") == "slept"
    assert sorted(executed) == sorted(["x", "x", "called", "called async", "started", "m1", "m2", "m3", "m4"])


def test_time_and_chance_are_the_same_in_every_replay(engine: TestEngine) -> None:
    seen: list[list[str]] = []

    @workflow
    def looks() -> list[str]:
        found = [str(sync.now()), str(sync.random()), str(sync.uuid4())]
        seen.append(found)
        sync.receive("word")
        return found

    run = engine.start(looks)
    for _ in range(3):
        engine.advance(5)
        engine.crash()
        engine.reopen()
        run.send("poke")
        engine.idle()
    run.send("word")
    result = run.result(60)
    assert len(seen) == 4
    assert all(found == result for found in seen)


def test_many_plain_workflows_wait_without_a_thread_each(engine: TestEngine) -> None:
    @workflow
    def sleeper(number: int) -> int:
        sync.sleep(10)
        return number

    before = threading.active_count()
    runs = [engine.start(sleeper, number) for number in range(300)]
    engine.idle()
    assert threading.active_count() - before < 5
    engine.advance(10)
    assert [run.result(60) for run in runs] == list(range(300))


def test_helper_functions_may_block_at_any_depth(engine: TestEngine) -> None:
    def deep(level: int) -> int:
        if level == 0:
            sync.sleep(1)
            return len(act("bottom"))
        return deep(level - 1)

    @workflow
    def dives() -> int:
        return deep(50) + sum(deep(level) for level in range(3))

    run = engine.start(dives)
    engine.advance(10)
    assert run.result(60) == 4 * len("<bottom>")


def test_generators_comprehensions_and_context_managers_may_block(engine: TestEngine) -> None:
    class Section:
        def __enter__(self) -> None:
            act("enter")

        def __exit__(self, *_: object) -> None:
            act("exit")

    def names() -> Any:
        for name in "ab":
            sync.sleep(1)
            yield act(name)

    @workflow
    def uses() -> list[str]:
        with Section():
            return sorted((*names(), *[act(name) for name in "cd"]), key=lambda name: act(f"key {name}"))

    run = engine.start(uses)
    engine.advance(5)
    assert run.result(60) == ["<a>", "<b>", "<c>", "<d>"]
    assert executed[0] == "enter"
    assert executed[-1] == "exit"


def test_errors_of_steps_and_children_are_raised_where_they_are_called(engine: TestEngine) -> None:
    @step(retry=Retry(attempts=2, delay=1, jitter=0))
    def fails() -> None:
        executed.append("attempt")
        raise LookupError("no")

    @workflow
    def failing_child() -> None:
        raise KeyError("child")

    @workflow
    def catches() -> list[str]:
        found = []
        for call in (fails, failing_child):
            try:
                call()
            except LookupError as error:
                found.append(repr(error))
        return found

    run = engine.start(catches)
    engine.advance(1)
    assert run.result(60) == ["LookupError('no')", "KeyError('child')"]
    assert executed == ["attempt", "attempt"]


def test_a_plain_workflow_is_cancelled_where_it_waits_and_cleans_up(engine: TestEngine) -> None:
    @workflow
    def tidy() -> None:
        try:
            sync.receive("never")
        finally:
            sync.sleep(5)
            act("clean")

    run = engine.start(tidy)
    engine.idle()
    run.cancel("enough")
    engine.advance(5)
    with pytest.raises(RunCancelled, match="enough"):
        run.result(60)
    assert executed == ["clean"]


def test_a_plain_workflow_may_swallow_its_cancellation(engine: TestEngine) -> None:
    @workflow
    def stubborn() -> str:
        try:
            sync.sleep(10**6)
        except asyncio.CancelledError:
            return act("swallowed")
        return ""

    run = engine.start(stubborn)
    engine.idle()
    run.cancel()
    assert run.result(60) == "<swallowed>"


def test_async_and_plain_workflows_call_each_other(engine: TestEngine) -> None:
    @workflow
    async def ping(depth: int) -> int:
        return 0 if depth == 0 else 1 + pong(depth - 1)

    @workflow
    def pong(depth: int) -> int:
        return 0 if depth == 0 else 1 + sync.call(ping, depth - 1)

    assert engine.start(ping, 20).result(60) == 20
    assert engine.start(pong, 21).result(60) == 21


def test_handles_of_children_send_and_cancel(engine: TestEngine) -> None:
    @workflow
    def hears() -> str:
        return sync.receive("word", str)

    @workflow
    def parent() -> list[str]:
        first, second = sync.start(hears), sync.start(hears)
        first.send("word", "hello")
        second.cancel("not needed")
        found = [first.result()]
        try:
            second.result()
        except RunCancelled as error:
            found.append(str(error))
        return found

    hello, cancelled = engine.start(parent).result(60)
    assert hello == "hello"
    assert "not needed" in cancelled


def test_detached_children_go_on_and_conflicts_and_unknown_runs_are_raised(engine: TestEngine) -> None:
    @workflow
    def parent() -> list[str]:
        sync.start(child, "free", id="free", detached=True)
        found = []
        try:
            sync.start(child, "other", id="free")
        except RunConflict:
            found.append("conflict")
        try:
            sync.send("ghost", "word")
        except RunNotFound:
            found.append("not found")
        return found

    assert engine.start(parent).result(60) == ["conflict", "not found"]
    engine.advance(1)
    assert engine.get("free").result(60) == "<free>"


def test_current_names_the_run(engine: TestEngine) -> None:
    @workflow(name="plain one")
    def looks() -> list[str]:
        found = sync.current()
        assert isinstance(found, RunContext)
        return [found.run_id, found.workflow]

    assert current is sync.current
    assert engine.start(looks, id="run").result(60) == ["run", "plain one"]


def test_only_steps_and_workflows_can_be_called(engine: TestEngine) -> None:
    async def helper() -> None: ...

    @workflow
    def calls() -> None:
        sync.call(helper)

    with pytest.raises(InvalidArgument, match="@step"):
        engine.start(calls).result(60)


def test_sync_operations_are_refused_outside_of_workflows() -> None:
    for use in (
        lambda: sync.sleep(1),
        lambda: sync.sleep_until(datetime.now(UTC)),
        lambda: sync.receive("a"),
        lambda: sync.send("a", "b"),
        lambda: sync.publish("a", 1),
        lambda: sync.start(child, "x"),
        lambda: sync.map(child, ["x"]),
        lambda: sync.call(act_async, "x"),
        lambda: sync.patched("x"),
    ):
        with pytest.raises(StepwellError, match="outside of a workflow"):
            use()


def test_outside_of_a_run_a_plain_workflow_is_the_plain_function() -> None:
    @workflow
    def adds(left: int, right: int) -> int:
        return left + right

    assert adds(1, right=2) == 3


# Python says that the coroutine was never awaited; so does the error.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_plain_workflow_that_returns_a_coroutine_is_told(engine: TestEngine) -> None:
    @workflow
    def forgets() -> Any:
        return act_async("x")

    with pytest.raises(StepwellError, match="forgets"):
        engine.start(forgets).result(60)
    gc.collect()
    assert executed == []
