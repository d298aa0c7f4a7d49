"""Acts on a run that nobody has taken from its queue: its delay is changed, it is deleted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    Batch,
    Engine,
    InvalidArgument,
    Queue,
    RunEnded,
    RunNotEnded,
    RunNotFound,
    RunNotQueued,
    current,
    get_run,
    receive,
    start,
    workflow,
)
from stepwell.model.clock import datetime_of
from stepwell.testing import TestEngine

LINE = Queue("moved-line", concurrency=1)
HELD = Queue("moved-held")
CALM = Queue("moved-calm", debounce=10)
LISTS = Queue("moved-lists", batch=Batch(10, within=60))


@workflow
async def keep(value: Any) -> Any:
    return value


@workflow
async def hold(value: Any) -> Any:
    await receive("go")
    return value


# --- reschedule -------------------------------------------------------------------------------------------------------


def test_a_delayed_run_is_brought_forward_and_put_off(engine: TestEngine) -> None:
    run = engine.start(keep, 1, queue=HELD, delay=60)
    run.reschedule(10)
    engine.advance(9.9)
    run.reschedule(timedelta(seconds=100), reason="the printer is away", by="Ada")
    engine.crash()
    engine.reopen().advance(99.9)
    assert run.status == "pending"
    assert "it is delayed until" in str(run.info().reason)
    engine.advance(0.1)
    assert run.result() == 1
    acts = [(act.act, act.by, act.reason) for act in run.acts()]
    assert acts[1] == ("reschedule", "Ada", "the printer is away")


@pytest.mark.parametrize("when", [0, timedelta(0), "now"])
def test_a_delay_of_nothing_or_a_time_that_has_passed_is_at_once(engine: TestEngine, when: Any) -> None:
    run = engine.start(keep, 1, queue=HELD, delay=60)
    run.reschedule(datetime_of(engine.clock.now()) if when == "now" else when)
    engine.idle()
    assert run.result() == 1


def test_a_run_whose_turn_has_not_come_leaves_the_line_until_then(engine: TestEngine) -> None:
    first, second, third = (engine.start(hold, name, queue=LINE) for name in "abc")
    engine.idle()
    second.reschedule(30)
    info = engine.queue(LINE).info()
    assert (info.waiting, info.delayed, info.running) == (1, 1, 1)
    for run in (first, third):
        run.send("go")
        engine.idle()
    assert [run.status for run in (first, second, third)] == ["completed", "pending", "completed"]
    engine.advance(30)
    second.send("go")
    assert second.result() == "b"


def test_a_run_that_waits_already_keeps_its_place(engine: TestEngine) -> None:
    runs = [engine.start(hold, name, queue=LINE) for name in "abc"]
    engine.idle()
    runs[1].reschedule(0)
    runs[0].send("go")
    engine.idle()
    assert [run.status for run in runs] == ["completed", "waiting", "pending"]


def test_a_debounced_run_can_be_put_off_further_by_later_starts(engine: TestEngine) -> None:
    run = engine.start(keep, 1, queue=CALM, dedup="k", debounce_limit=20)
    run.reschedule(100)
    engine.advance(95)
    engine.start(keep, 2, queue=CALM, dedup="k")
    engine.advance(4.9)
    assert run.status == "pending"
    engine.advance(0.1)
    assert run.result() == 2


def test_a_batch_is_closed_and_the_next_start_opens_another(engine: TestEngine) -> None:
    run = engine.start(keep, [1], queue=LISTS)
    run.reschedule(0)
    other = engine.start(keep, [2], queue=LISTS)
    assert run.result() == [1]
    assert other.id != run.id
    engine.advance(60)
    assert other.result() == [2]


def test_a_paused_run_has_the_new_time_when_it_goes_on(engine: TestEngine) -> None:
    sooner, later = (engine.start(keep, name, queue=HELD, delay=60) for name in "ab")
    for run in (sooner, later):
        run.pause()
    sooner.reschedule(0)
    later.reschedule(100)
    engine.idle()
    assert sooner.status == "paused"
    for run in (sooner, later):
        run.unpause()
    engine.idle()
    assert (sooner.status, later.status) == ("completed", "pending")
    engine.advance(100)
    assert later.result() == "b"


def test_what_does_not_wait_in_a_queue_has_no_delay(engine: TestEngine) -> None:
    taken, plain = engine.start(hold, 1, queue=HELD), engine.start(hold, 2)
    engine.idle()
    with pytest.raises(RunNotQueued, match="has been taken from its queue"):
        taken.reschedule(5)
    with pytest.raises(RunNotQueued, match="stands in no queue"):
        plain.reschedule(5)
    taken.send("go")
    taken.result()
    with pytest.raises(RunEnded):
        taken.reschedule(5)
    assert [act.act for act in taken.acts()] == []


@pytest.mark.parametrize("delay", [-1, None, "5", float("nan"), True, timedelta(days=100_000)])
def test_a_delay_that_is_none_is_refused(engine: TestEngine, delay: Any) -> None:
    run = engine.start(keep, 1, queue=HELD, delay=60)
    with pytest.raises(InvalidArgument):
        run.reschedule(delay)
    assert run.acts() == []


def test_a_deadline_counts_all_the_same(engine: TestEngine) -> None:
    run = engine.start(keep, 1, queue=HELD, delay=5, deadline=20)
    run.reschedule(100)
    engine.advance(20)
    with pytest.raises(stepwell.RunDeadlineExceeded):
        run.result()


# --- delete -----------------------------------------------------------------------------------------------------------


def test_a_run_is_deleted_from_its_queue(engine: TestEngine) -> None:
    first, second, third = (engine.start(hold, name, id=name, queue=LINE, dedup=name) for name in "abc")
    engine.idle()
    second.delete(reason="ordered twice")
    with pytest.raises(RunNotFound):
        second.info()
    info = engine.queue(LINE).info()
    assert (info.waiting, info.running) == (1, 1)
    first.send("go")
    engine.idle()
    assert third.status == "waiting"
    again = engine.start(hold, "again", id="b", queue=LINE, dedup="b")
    third.send("go")
    again.send("go")
    assert again.result() == "again"


@pytest.mark.parametrize("options", [{"delay": 60}, {"dedup": "k", "debounce": 60}, {}])
def test_whatever_a_run_waits_for_it_is_deleted_while_nobody_has_begun_it(
    engine: TestEngine, options: dict[str, Any]
) -> None:
    line = engine.queue(HELD)
    engine.start(keep, 0, queue=HELD)
    line.pause()
    run = engine.start(keep, 1, queue=HELD, **options)
    run.delete()
    line.unpause()
    engine.advance(60)
    info = line.info()
    assert (info.waiting, info.delayed, info.running) == (0, 0, 0)


def test_a_batch_and_a_paused_run_are_deleted_with_all_that_they_have(engine: TestEngine) -> None:
    batch, paused = engine.start(keep, [1], queue=LISTS), engine.start(keep, 1, queue=HELD, delay=5)
    paused.pause()
    paused.send("hint", 1)
    batch.delete()
    paused.delete()
    for table in ("entries", "batch_items", "messages", "runs"):
        assert list(engine.query(f"SELECT count(*) FROM stepwell_{table}")) == [(0,)]


def test_what_has_begun_is_not_deleted(engine: TestEngine) -> None:
    run = engine.start(hold, 1, queue=HELD)
    engine.idle()
    with pytest.raises(RunNotEnded, match="has begun and not ended"):
        run.delete()


@workflow
async def waits_for_other(run_id: str) -> int:
    return int(await get_run(run_id).result())


def test_a_run_that_another_one_waits_for_is_not_deleted(engine: TestEngine) -> None:
    run = engine.start(keep, 1, id="awaited", queue=HELD, delay=60)
    other = engine.start(waits_for_other, "awaited", id="other")
    engine.idle()
    with pytest.raises(RunNotEnded, match="while run 'other' waits for its end"):
        run.delete()
    engine.advance(60)
    assert other.result() == 1


def test_a_caller_that_waits_is_told(engine: TestEngine) -> None:
    run = engine.start(keep, 1, queue=HELD, delay=60)
    told = []
    waiting = threading.Thread(target=lambda: told.append(_failure(run)))
    waiting.start()
    while not engine._session.engine_thread.turn_loop.waiters._of_runs:
        engine.idle()
    run.delete(by="Ada", reason="not wanted")
    waiting.join(60)
    assert told == [f"RunCancelled: run {run.id!r} was cancelled: deleted by Ada: not wanted"]


def _failure(run: stepwell.Run[Any]) -> str:
    try:
        run.result(60)
    except stepwell.StepwellError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_another_process_moves_and_deletes_what_this_one_waits_for(database: Path) -> None:
    def elsewhere(*command: str) -> None:
        subprocess.run([sys.executable, "-m", "stepwell", *command, "--db", str(database)], check=True)

    async def main() -> None:
        async with AsyncEngine(database) as engine:
            moved, deleted = [await engine.start(keep, 1, id=name, queue=HELD, delay=3600) for name in ("m", "d")]
            told = asyncio.ensure_future(deleted.result(60))
            await asyncio.to_thread(elsewhere, "reschedule", "m", "--now")
            assert await moved.result(60) == 1
            await asyncio.to_thread(elsewhere, "delete", "d", "--yes")
            with pytest.raises(RunNotFound):
                await told

    asyncio.run(main())


@workflow
async def parent() -> str:
    child = await start(keep, 1, queue=HELD, delay=60, id=f"{current().run_id}-child")
    return str(await child.result())


def test_a_child_whose_parent_may_ask_for_it_is_not_deleted(engine: TestEngine) -> None:
    run = engine.start(parent, id="p")
    engine.idle()
    with pytest.raises(RunNotEnded, match="its parent, run 'p'"):
        engine.get("p-child").delete()
    engine.get("p-child").reschedule(0)
    assert run.result() == "1"


def test_both_are_said_on_the_command_line(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stepwell.cli import main

    with Engine(database, workflows=[]) as engine:
        for name in "ab":
            engine.start("moved.keep", id=name, queue=HELD, delay=3600)
    db = ["--db", str(database)]
    assert main(["reschedule", "a", "--delay", "2h", "--reason", "later", *db]) == 0
    assert "run 'a': it is delayed until" in capsys.readouterr().out
    assert main(["reschedule", "a", "--at", "2099-01-01T00:00Z", *db]) == 0
    assert "2099-01-01" in capsys.readouterr().out
    assert main(["reschedule", "a", "--now", *db]) == 0
    assert main(["reschedule", "a", "--now", "--delay", "1s", *db]) == 1
    assert main(["delete", "b", "--yes", *db]) == 0
    with Engine(database, workflows=[]) as engine:
        assert [run.id for run in engine.list()] == ["a"]
        assert [act.reason for act in engine.get("a").acts()] == ["later", None, None]
        assert engine.queue(HELD).info().waiting == 1
