"""Other runs, as workflow code sees them: what is looked up is recorded; what a child is started with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    InvalidArgument,
    RunCancelled,
    RunDeadlineExceeded,
    RunHalted,
    RunNotFound,
    get_run,
    publish,
    receive,
    start,
    sync,
    workflow,
)
from stepwell.testing import TestEngine


@workflow(name="others.adds")
async def adds(number: int) -> int:
    @stepwell.update
    def more(other: int) -> int:
        return number + other

    await publish("number", number)
    return number + await receive("other", int)


@workflow(name="others.looks")
async def looks(run_id: str) -> list[Any]:
    other = get_run(run_id)
    found: list[Any] = [await other.status(), await other.value("number", type=int)]
    found.append(await other.value("nothing", default="none"))
    await receive("go")
    found += [await other.status(), await other.result(type=int)]
    return found


@workflow(name="others.looks-blocking")
def looks_blocking(run_id: str) -> list[Any]:
    other = sync.get_run(run_id)
    found: list[Any] = [other.status(), other.value("number", type=int), other.value("nothing", default="none")]
    sync.receive("go")
    found += [other.status(), other.result(type=int)]
    return found


@pytest.mark.parametrize("flow", [looks, looks_blocking])
def test_what_is_looked_up_is_recorded_and_a_replay_finds_the_same(database: Path, flow: Any) -> None:
    with TestEngine(database, max_waiting_in_memory=0) as engine:
        other = engine.start(adds, 3, id="other")
        run = engine.start(flow, "other")
        engine.idle()
        other.send("other", 4)
        assert other.result() == 7
        run.send("go")
        assert run.result() == ["waiting", 3, "none", "completed", 7]
        kinds = [entry.kind for entry in run.journal()]
        assert kinds == ["looked", "looked", "look_failed", "message", "looked", "result"]


@workflow(name="others.missing")
async def missing(what: str) -> str:
    other = get_run("nobody")
    asked: dict[str, Callable[[], Any]] = {
        "status": other.status,
        "value": lambda: other.value("number", default=1),
        "result": other.result,
        "send": lambda: other.send("x"),
    }
    try:
        await asked[what]()
    except RunNotFound as error:
        return str(error)
    return "found"


@pytest.mark.parametrize("what", ["status", "value", "result", "send"])
def test_a_run_that_does_not_exist_is_not_found(engine: TestEngine, what: str) -> None:
    assert "'nobody'" in engine.start(missing, what).result()


@workflow(name="others.cancels")
async def cancels(run_id: str) -> str:
    other = get_run(run_id)
    await other.cancel("not needed")
    try:
        await other.result()
    except RunCancelled as error:
        return str(error)
    return "went on"


def test_another_run_is_cancelled_and_its_end_heard_of(engine: TestEngine) -> None:
    engine.start(adds, 1, id="other")
    assert engine.start(cancels, "other").result() == "run 'other' was cancelled: not needed"


@workflow(name="others.lists")
async def lists(**options: Any) -> list[str]:
    found = [run.id for run in await stepwell.list(**options)]
    await asyncio.sleep(5)
    return found


def test_a_list_of_runs_is_that_of_its_moment(engine: TestEngine) -> None:
    for number in range(3):
        engine.start(adds, number, id=f"adds-{number}")
    engine.send("adds-1", "other", 1)
    engine.idle()
    of_all = engine.start(lists, kwargs={"workflow": adds.name, "limit": 2})
    waiting = engine.start(lists, kwargs={"status": ["waiting"], "id_prefix": "adds-"})
    engine.idle()
    engine.start(adds, 9, id="adds-9")
    engine.advance(6)
    assert of_all.result() == ["adds-2", "adds-1"]
    assert waiting.result() == ["adds-2", "adds-0"]


def test_the_order_in_which_states_and_tags_are_said_is_none_of_a_replays_concern(database: Path) -> None:
    orders = iter([("completed", "failed"), ("failed", "completed")])  # as a set has them in two processes

    @workflow(name="others.says-in-any-order")
    async def says() -> int:
        states: Any = next(orders)
        await stepwell.set_attributes(tags=states)
        found = await stepwell.list(status=states)
        await receive("go")
        return len(found)

    with TestEngine(database, max_waiting_in_memory=0) as engine:
        run = engine.start(says)
        engine.idle()
        run.send("go")
        assert run.result() == 0


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"limit": 10_001}, {"status": "gone"}, {"workflow": 3}, {"id_prefix": 3}]
)
def test_a_list_of_nonsense_is_refused(engine: TestEngine, options: dict[str, Any]) -> None:
    with pytest.raises((InvalidArgument, RunHalted), match=r"limit must|status must|list\(\) takes|id_prefix must"):
        engine.start(lists, kwargs=options).result()


# --- children ---------------------------------------------------------------------------------------------------------


@workflow(name="others.starts-with-a-message")
async def starts_with_a_message(**options: Any) -> str:
    try:
        await start(adds, 3, id="other", messages=[("other", 4)], **options)
    except stepwell.RunConflict:
        return "refused"
    return "attached"


@pytest.mark.parametrize(
    ("options", "is_over", "outcome", "result"),
    [
        ({"on_conflict": "reject"}, False, "refused", None),
        ({"on_conflict": "reject"}, True, "refused", 4),
        ({"reuse": "after-failure"}, False, "attached", 7),
        ({"reuse": "after-failure"}, True, "attached", 4),
        ({"reuse": "always"}, True, "attached", 7),
    ],
)
def test_messages_go_with_the_start_of_a_child_to_the_run_that_it_gets_and_to_no_other(
    engine: TestEngine, options: dict[str, Any], is_over: bool, outcome: str, result: int | None
) -> None:
    other = engine.start(adds, 3, id="other")
    engine.idle()
    if is_over:
        other.send("other", 1)
        engine.idle()
    assert engine.start(starts_with_a_message, kwargs=options).result() == outcome
    engine.idle()
    if result is None:
        assert other.status == "waiting"
    else:
        assert engine.get("other").result() == result


@workflow(name="others.parent")
async def parent(options: dict[str, Any], timeout: float | None) -> Any:
    options = {name: [tuple(each) for each in value] if name in SENT else value for name, value in options.items()}
    child = await start(adds, 1, id="child", **options)
    try:
        return await child.result(timeout)
    except TimeoutError as error:
        return [str(error), await child.value("number", type=int, default=1)]


SENT = ("messages", "updates")


@workflow(name="others.blocking-parent")
def blocking_parent(options: dict[str, Any], timeout: float | None) -> Any:
    options = {name: [tuple(each) for each in value] if name in SENT else value for name, value in options.items()}
    child = sync.start(adds, 1, id="child", **options)
    try:
        return child.result(timeout)
    except TimeoutError as error:
        return [str(error), child.value("number", type=int, default=1)]


@pytest.mark.parametrize("flow", [parent, blocking_parent])
def test_a_child_takes_messages_and_updates_with_its_start(engine: TestEngine, flow: Any) -> None:
    sent = {"updates": [["more", [4], "k"]], "messages": [["other", 6]]}
    run = engine.start(flow, {"updates": sent["updates"]}, 1.0, id="p")
    engine.idle()
    engine.advance(1)
    assert run.result() == ["run 'child' has not ended after 1 s; it goes on, so it can be waited for again", 1]
    assert engine.get("child").update("more", 4, key="k") == 5
    with pytest.raises(RunCancelled):
        engine.get("child").result()
    engine.get("child").delete()
    engine.get("p").delete()
    assert engine.start(flow, {"messages": sent["messages"]}, None).result() == 7


def test_a_child_in_a_queue_is_sent_what_goes_with_its_start(engine: TestEngine) -> None:
    options = {"queue": "others-line", "messages": [["other", 6, "k"]], "kwargs": None}
    assert engine.start(parent, options, None).result() == 7


@pytest.mark.parametrize("timeout", [0.0, 5.0])
def test_the_result_of_a_child_is_waited_for_so_long(engine: TestEngine, timeout: float) -> None:
    run = engine.start(parent, {"detached": True}, timeout)
    engine.idle()
    engine.advance(timeout)
    assert (
        run.result()[0] == f"run 'child' has not ended after {timeout:g} s; it goes on, so it can be waited for again"
    )
    engine.send("child", "other", 1)
    assert engine.get("child").result() == 2


@workflow(name="others.hurried")
async def hurried(deadline: float | None) -> str:
    late = stepwell.now() + timedelta(seconds=3) if deadline is None else deadline
    child = await start(adds, 1, deadline=late)
    try:
        await child.result()
    except RunDeadlineExceeded:
        return "too late"
    return "ended"


@pytest.mark.parametrize("deadline", [3.0, None])
def test_a_child_has_a_deadline(engine: TestEngine, deadline: float | None) -> None:
    run = engine.start(hurried, deadline)
    engine.advance(4)
    assert run.result() == "too late"


@workflow(name="others.wrong")
async def wrong(what: str) -> None:
    wrongs: dict[str, dict[str, Any]] = {
        "messages": {"messages": "other"},
        "a message": {"messages": [("other",)]},
        "updates": {"updates": 3},
        "an update": {"updates": [("more", 4, "k")]},
        "a deadline": {"deadline": datetime(2026, 1, 1)},  # noqa: DTZ001 - the point of it
        "a key": {"queue": "others-line", "dedup": "d", "messages": [("other", 1)]},
    }
    await start(adds, 1, **wrongs[what])


@pytest.mark.parametrize("what", ["messages", "a message", "updates", "an update", "a deadline", "a key"])
def test_what_makes_no_sense_with_a_start_is_refused(engine: TestEngine, what: str) -> None:
    with pytest.raises((InvalidArgument, RunHalted), match=r"message|update|time zone"):
        engine.start(wrong, what).result()


@workflow(name="others.itself")
async def itself() -> None:
    get_run("me")


def test_a_run_has_no_handle_of_itself(engine: TestEngine) -> None:
    with pytest.raises((InvalidArgument, RunHalted), match="a handle of itself"):
        engine.start(itself, id="me").result()
