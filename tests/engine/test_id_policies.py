"""Starts whose id belongs to a run already: who gets what, and in which order things happen."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    InvalidArgument,
    Queue,
    RunCancelled,
    RunConflict,
    RunEnded,
    continue_as_new,
    current,
    publish,
    receive,
    step,
    workflow,
)
from stepwell.model.lifecycle import STATUSES
from stepwell.model.start_policy import OnConflict, Reuse, StartPolicy
from stepwell.testing import TestEngine

happened: list[str] = []
queue = Queue("id-policies", concurrency=1)


@pytest.fixture(autouse=True)
def _nothing_happened() -> None:
    happened.clear()


@step(name="id-policies.note")
def note(what: str) -> str:
    happened.append(what)
    return current().idempotency_key


@workflow(name="id-policies.job")
async def job(number: int, clean_up_seconds: int = 0) -> int:
    note(f"begins {number}")
    await publish("number", number)
    try:
        await receive("go on")
    except asyncio.CancelledError:
        if clean_up_seconds:
            await asyncio.sleep(clean_up_seconds)
        note(f"cleans up {number}")
        raise
    return number


@workflow(name="id-policies.ends")
async def ends(how: str, number: int = 0) -> str:
    if how == "failed":
        raise ValueError(how)
    if how == "cancelled":
        raise asyncio.CancelledError
    return f"{how} {number}"


# --- the decision -----------------------------------------------------------------------------------------------------

CONFLICTS: tuple[OnConflict, ...] = ("attach", "reject", "replace")
REUSES: tuple[Reuse, ...] = ("never", "after-failure", "always")


@pytest.mark.parametrize(("on_conflict", "reuse"), list(itertools.product(CONFLICTS, REUSES)))
def test_the_policy_decides_by_the_state_of_the_run(on_conflict: OnConflict, reuse: Reuse) -> None:
    policy = StartPolicy(on_conflict, reuse, "me")
    decisions = {status: policy.decide(status) for status in STATUSES}
    alive = {decisions[status] for status in ("pending", "running", "waiting", "paused", "halted")}
    assert alive == {on_conflict}
    taken = "reject" if on_conflict == "reject" else "attach"
    assert decisions["completed"] == ("reuse" if reuse == "always" else taken)
    assert decisions["failed"] == decisions["cancelled"] == (taken if reuse == "never" else "reuse")


@pytest.mark.parametrize(
    ("options", "how", "begins"),
    [
        ({}, "completed", False),
        ({"reuse": "never"}, "failed", False),
        ({"reuse": "after-failure"}, "completed", False),
        ({"reuse": "after-failure"}, "failed", True),
        ({"reuse": "after-failure"}, "cancelled", True),
        ({"reuse": "always"}, "completed", True),
        ({"on_conflict": "replace"}, "completed", True),
        ({"on_conflict": "replace", "reuse": "after-failure"}, "completed", False),
        ({"on_conflict": "reject", "reuse": "always"}, "cancelled", True),
    ],
)
def test_an_ended_id_is_used_again_as_the_start_says(
    engine: TestEngine, options: dict[str, Any], how: str, begins: bool
) -> None:
    first = engine.start(ends, how, id="it")
    engine.idle()
    assert first.status == how
    again = engine.start(ends, how if not begins else "completed", 0 if not begins else 1, id="it", **options)
    engine.idle()
    assert [chapter.beginning for chapter in again.chapters()] == ["started"] * (1 + begins)
    if begins:
        assert again.result(60) == "completed 1"


def start_both(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        tx.start(job, 5, id="newer")
        tx.start(job, 1, id="it", on_conflict="reject")


@pytest.mark.parametrize("status", ["waiting", "completed"])
def test_a_start_that_may_have_no_other_run_is_refused_and_writes_nothing(engine: TestEngine, status: str) -> None:
    run = engine.start(job, 1, id="it", messages=[("go on", None)] if status == "completed" else [])
    engine.idle()
    with pytest.raises(RunConflict, match=rf"there is a run 'it' already \('id-policies.job', {status}\)"):
        engine.start(job, 1, id="it", on_conflict="reject", messages=[("go on", None)])
    with pytest.raises(RunConflict, match="there is a run 'it' already"):
        engine.start_many(job, [(5,), (1,)], ids=["new", "it"], on_conflict="reject")
    with pytest.raises(RunConflict):
        start_both(engine)
    engine.idle()
    assert [run.id for run in engine.list(workflow=job)] == ["it"]
    assert run.status == status


@pytest.mark.parametrize("options", [{"reuse": "always"}, {"on_conflict": "replace"}, {"on_conflict": "reject"}])
def test_an_id_is_used_by_runs_of_one_workflow_only(engine: TestEngine, options: dict[str, Any]) -> None:
    engine.start(job, 1, id="it", messages=[("go on", None)]).result(60)
    with pytest.raises(RunConflict, match="of another workflow"):
        engine.start(ends, "completed", id="it", **options)


# --- replacing --------------------------------------------------------------------------------------------------------


def test_the_new_run_begins_when_the_old_one_has_cleaned_up(engine: TestEngine) -> None:
    old = engine.start(job, 1, 10, id="it")
    engine.idle()
    new = engine.start(job, 2, id="it", on_conflict="replace")
    engine.idle()
    assert happened == ["begins 1"]
    assert "another start of its id replaces it" in (new.info().reason or "")
    assert [(act.act, act.reason) for act in new.acts()] == [("cancel", "another start of its id replaces it")]
    engine.advance(11)
    assert happened == ["begins 1", "cleans up 1", "begins 2"]
    assert old.value("number") == 2
    engine.send("it", "go on")
    assert (old.result(60), new.result(60)) == (2, 2)
    assert new.journal()[0].operation > 5  # counted on, so that keys for outside services differ


def test_who_waits_for_the_id_gets_the_result_of_the_last_run(engine: TestEngine) -> None:
    async def watch() -> int:
        return await asyncio.to_thread(engine.get("it").result, 60)

    async def main() -> int:
        engine.start(job, 1, id="it")
        engine.idle()
        waiting = asyncio.create_task(watch())
        await asyncio.sleep(0)
        engine.start(job, 2, id="it", on_conflict="replace", messages=[("go on", None)])
        return await waiting

    assert asyncio.run(main()) == 2


def test_of_several_replacements_in_a_row_the_last_one_counts(engine: TestEngine) -> None:
    engine.start(job, 1, 10, id="it")
    engine.idle()
    for number in (2, 3, 4):
        engine.start(job, number, id="it", on_conflict="replace")
    assert engine.start(job, 4, id="it").id == "it"  # the same start once more
    with pytest.raises(RunConflict, match="other input"):
        engine.start(job, 1, 10, id="it")
    engine.advance(11)
    assert happened == ["begins 1", "cleans up 1", "begins 4"]
    for number in (5, 6):
        engine.start(job, number, id="it", on_conflict="replace")
        engine.idle()
    assert happened[3:] == ["cleans up 4", "begins 5", "cleans up 5", "begins 6"]


@pytest.mark.parametrize("crash_after", ["the request", "the clean-up began", "the end", "nothing"])
def test_a_crash_at_any_time_neither_loses_nor_doubles_it(engine: TestEngine, crash_after: str) -> None:
    def crash(when: str) -> None:
        if when == crash_after:
            engine.crash()
            engine.reopen()

    engine.start(job, 1, 10, id="it")
    engine.idle()
    engine.start(job, 2, id="it", on_conflict="replace")
    crash("the request")
    engine.idle()
    crash("the clean-up began")
    engine.advance(11)
    crash("the end")
    engine.idle()
    assert happened == ["begins 1", "cleans up 1", "begins 2"]
    engine.send("it", "go on")
    assert engine.get("it").result(60) == 2
    assert len(engine.get("it").chapters()) == 2


def test_it_may_have_completed_before_it_heard_that_it_is_replaced(engine: TestEngine) -> None:
    engine.start(job, 1, id="it", messages=[("go on", None)])
    engine.start(job, 2, id="it", on_conflict="replace")  # whichever comes first
    engine.idle()
    assert happened[-1] == "begins 2"
    assert engine.get("it").status == "waiting"


def halted(engine: TestEngine) -> None:
    engine.start(stuck, id="it")


def paused(engine: TestEngine) -> None:
    engine.start(job, 1, id="it")
    engine.idle()
    engine.get("it").pause()


def queued(engine: TestEngine) -> None:
    engine.queue(queue).pause()
    engine.start(job, 1, id="it", queue=queue)


def delayed(engine: TestEngine) -> None:
    engine.start(job, 1, id="it", queue=queue, delay=1000)


def of_a_queue(engine: TestEngine) -> None:
    engine.start(job, 1, id="it", queue=queue)


@workflow(name="id-policies.stuck")
async def stuck(number: int = 0) -> int:
    if number == 0:
        return {"mend": 1}["me"]
    return number


@pytest.mark.parametrize("state", [paused, queued, delayed, of_a_queue])
@pytest.mark.parametrize("options", [{}, {"queue": queue}])
def test_whatever_state_it_is_in(
    engine: TestEngine, state: Callable[[TestEngine], None], options: dict[str, Any]
) -> None:
    engine.start(ends, "completed", queue=queue).result(60)  # the file knows the queue
    state(engine)
    engine.idle()
    new = engine.start(job, 2, id="it", on_conflict="replace", **options)
    engine.idle()
    engine.queue(queue).unpause()
    engine.idle()
    assert happened[-1] == "begins 2"
    new.send("go on")
    assert new.result(60) == 2
    info = engine.queue(queue).info()
    assert (info.waiting, info.delayed, info.running) == (0, 0, 0)


def test_a_halted_run_is_replaced_without_its_code(engine: TestEngine) -> None:
    engine.start(stuck, id="it")
    engine.idle()
    assert engine.get("it").status == "halted"
    assert engine.start(stuck, 5, id="it", on_conflict="replace").result(60) == 5


@workflow(name="id-policies.goes-on")
async def goes_on(number: int) -> int:
    note(f"begins {number}")
    try:
        await receive("go on")
    except asyncio.CancelledError:
        continue_as_new(number + 100)
    return number


def test_a_run_that_goes_on_as_new_when_it_is_cancelled_is_replaced_all_the_same(engine: TestEngine) -> None:
    engine.start(goes_on, 1, id="it")
    engine.idle()
    new = engine.start(goes_on, 2, id="it", on_conflict="replace")
    engine.idle()
    assert happened == ["begins 1", "begins 2"]
    new.send("go on")
    assert new.result(60) == 2


def test_messages_are_for_the_run_that_was_meant(engine: TestEngine) -> None:
    engine.start(job, 1, 10, id="it")
    engine.idle()
    engine.send("it", "other", key="k")
    engine.start(job, 2, id="it", on_conflict="replace", messages=[("go on", None)])
    engine.send("it", "other", key="k2")
    engine.advance(11)
    assert engine.get("it").result(60) == 2
    assert engine.query("SELECT count(*) FROM stepwell_messages WHERE key = 'k'").fetchval() == 0


@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_to_end_it_ends_the_id_and_what_was_to_follow(engine: TestEngine, how: str) -> None:
    engine.start(job, 1, 10, id="it")
    engine.idle()
    run = engine.start(job, 2, id="it", on_conflict="replace")
    engine.idle()
    getattr(run, how)()
    engine.advance(11)
    with pytest.raises(RunCancelled):
        run.result(60)
    assert "begins 2" not in happened
    assert engine.query("SELECT count(*) FROM stepwell_replacements").fetchval() == 0
    with pytest.raises(RunEnded):
        run.send("go on")


def test_what_begins_again_can_be_retried_restarted_and_purged(engine: TestEngine) -> None:
    engine.start(ends, "completed", id="it").result(60)
    run = engine.start(ends, "failed", 2, id="it", reuse="always")
    engine.idle()
    run.retry()
    engine.idle()
    assert run.status == "failed"
    run.restart("completed", 3)
    assert run.result(60) == "completed 3"
    assert [chapter.beginning for chapter in run.chapters()] == ["started", "started", "restarted"]
    engine.start(ends, "failed", 2, id="it")  # what it was started with last
    with pytest.raises(RunConflict, match="other input"):
        engine.start(ends, "completed", id="it")
    run.delete()
    assert engine.start(ends, "completed", 4, id="it", reuse="always").result(60) == "completed 4"


# --- from a workflow --------------------------------------------------------------------------------------------------


@workflow(name="id-policies.parent")
async def parent(times: int) -> list[int]:
    children = [await stepwell.start(job, number, id="child", on_conflict="replace") for number in range(times)]
    await asyncio.sleep(1)
    await children[-1].send("go on")
    return [await child.result() for child in children]


def test_a_workflow_replaces_its_child(engine: TestEngine) -> None:
    run = engine.start(parent, 3)
    engine.idle()
    engine.crash()
    engine.reopen()
    engine.advance(2)
    assert run.result(60) == [2, 2, 2]
    assert happened[-1] == "begins 2"


@workflow(name="id-policies.refused-parent")
def refused_parent() -> str:
    try:
        stepwell.sync.start(job, 1, id="child", on_conflict="reject")
    except RunConflict as error:
        return str(error)
    return ""


def test_a_workflow_is_told_that_its_child_was_refused(engine: TestEngine) -> None:
    engine.start(job, 1, id="child")
    assert "there is a run 'child' already" in engine.start(refused_parent).result(60)


@workflow(name="id-policies.waiting-parent")
async def waiting_parent() -> int:
    child = await stepwell.start(job, 1, id="child")
    return await child.result()


def test_a_parent_goes_on_waiting_for_the_id(engine: TestEngine) -> None:
    run = engine.start(waiting_parent)
    engine.idle()
    engine.start(job, 2, id="child", on_conflict="replace")
    engine.idle()
    assert run.status == "waiting"
    engine.send("child", "go on")
    assert run.result(60) == 2


@workflow(name="id-policies.failing-parent")
async def failing_parent() -> int:
    child = await stepwell.start(job, 1, id="child")
    await receive("fail")
    if "fails" in happened:
        raise LookupError("for now")
    return await child.result()


def test_what_is_to_follow_a_child_follows_it_though_its_parent_comes_back(database: Path) -> None:
    """A retry takes back what ended with the parent, and no replacement that somebody has asked for."""
    happened.append("fails")
    with TestEngine(database, workflows=[failing_parent, job]) as engine:
        run = engine.start(failing_parent, id="parent")
        engine.idle()
        assert engine.get("child").status == "waiting"
    with TestEngine(database, workflows=[failing_parent]) as engine:  # the child cannot hear of it
        run = engine.get("parent")
        run.send("fail")
        engine.idle()
        assert run.status == "failed"
        engine.start(job, 2, id="child", on_conflict="replace")
        happened.clear()
        run.retry()
        engine.idle()
    with TestEngine(database, workflows=[failing_parent, job]) as engine:
        engine.idle()
        engine.send("child", "go on")
        assert engine.get("parent").result(60) == 2
        engine.advance(1)
        assert engine.purge(0) == 2


# --- refused, and the async engine ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"id": "x", "on_conflict": "skip"},
        {"id": "x", "on_conflict": None},
        {"id": "x", "reuse": True},
        {"id": "x", "on_conflict": "replace", "reuse": "never"},
        {"on_conflict": "reject"},
        {"reuse": "always"},
        {"id": "x", "reuse": "always", "queue": queue, "dedup": "k"},
    ],
)
def test_options_that_mean_nothing_are_refused(engine: TestEngine, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"on_conflict|reuse"):
        engine.start(job, 1, **cast("Any", options))
    assert engine.list(workflow=job) == []


def test_an_async_engine_has_the_same(database: Path) -> None:
    async def main() -> list[Any]:
        async with AsyncEngine(database, workflows=[job, ends]) as engine:
            await engine.start(job, 1, id="it")
            new = await engine.start(job, 2, id="it", on_conflict="replace", messages=[("go on", None)])
            found: list[Any] = [await new.result(60)]
            (again,) = await engine.start_many(job, [(3,)], ids=["it"], reuse="always", messages=[("go on", None)])
            found.append(await again.result(60))
            try:
                await engine.start(job, 3, id="it", on_conflict="reject")
            except RunConflict:
                found.append("refused")
            async with engine.transaction() as tx:
                last = await tx.start(job, 4, id="it", reuse="always", messages=[("go on", None)])
            return [*found, await last.result(60)]

    assert asyncio.run(main()) == [2, 3, "refused", 4]
