"""Deadlines of runs that nobody has begun: such a run ends in time, whatever it waits for, and leaves its place."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from stepwell import Batch, Engine, Queue, Run, RunCancelled, RunDeadlineExceeded, receive, start, step, workflow
from stepwell.testing import TestEngine

ONE = Queue("one", concurrency=1)


@workflow
async def hold(name: str) -> str:
    await receive("go")
    return name


@workflow
async def nothing() -> None: ...


def occupied(engine: TestEngine, queue: Queue = ONE) -> Run[str]:
    """Return a run that has the only slot of a queue."""
    run = engine.start(hold, "first", queue=queue)
    engine.idle()
    assert run.info().status == "waiting"
    return run


def place(engine: TestEngine, deadline: float, **options: Any) -> Run[str]:
    """Return a run that has entered the queue."""
    run = engine.start(hold, "late", queue=ONE, deadline=deadline, **options)
    assert run.info().status == "pending"
    return run


def is_late(run: Run[Any]) -> bool:
    """Tell whether a run has failed because of its deadline, without ever having begun."""
    info = run.info()
    if info.status != "failed":
        return False
    with pytest.raises(RunDeadlineExceeded, match="did not begin before its deadline"):
        run.result(timeout=1)
    assert info.started_at is None
    assert run.journal() == []
    return True


def test_a_run_that_waits_behind_a_slow_one_fails_at_its_deadline(engine: TestEngine) -> None:
    first = occupied(engine)
    late = place(engine, 5)
    engine.advance(4.999)
    assert late.info().status == "pending"
    engine.advance(0.001)
    assert is_late(late)
    assert late.info().ended_at == late.info().deadline_at
    assert engine.queue(ONE).info().waiting == 0
    first.send("go")
    assert first.result() == "first"


def test_the_error_says_in_which_queue_it_waited(engine: TestEngine) -> None:
    occupied(engine)
    late = place(engine, 5)
    engine.advance(5)
    with pytest.raises(RunDeadlineExceeded, match="it still waited in queue 'one'"):
        late.result()


def test_a_paused_queue_does_not_hold_a_deadline_up(engine: TestEngine) -> None:
    engine.start(nothing, queue=ONE).result()
    engine.queue(ONE).pause()
    late = place(engine, 5)
    engine.advance(5)
    assert is_late(late)


def test_a_delayed_run_fails_at_its_deadline_before_its_delay_is_over(engine: TestEngine) -> None:
    late = place(engine, 5, delay=60)
    engine.advance(5)
    assert is_late(late)
    assert engine.queue(ONE).info().delayed == 0


def test_a_run_that_collects_starts_fails_at_its_deadline(engine: TestEngine) -> None:
    @workflow
    async def bulk(items: list[int]) -> int:
        return len(items)

    queue = Queue("bulk", batch=Batch(10, within=60))
    late = engine.start(bulk, [1], queue=queue, deadline=5)
    assert engine.start(bulk, [2], queue=queue).id == late.id
    engine.advance(5)
    assert is_late(late)
    fresh = engine.start(bulk, [3], queue=queue)
    engine.advance(60)
    assert fresh.result() == 1


def test_the_dedup_key_of_a_run_that_was_late_is_free(engine: TestEngine) -> None:
    occupied(engine)
    late = place(engine, 5, dedup="key")
    assert place(engine, 5, dedup="key").id == late.id
    engine.advance(5)
    assert is_late(late)
    assert place(engine, 50, dedup="key").id != late.id


def test_a_run_that_waits_for_room_of_a_worker_fails_at_its_deadline(database: Path) -> None:
    began, gate = threading.Event(), threading.Event()

    @step
    def work() -> None:
        began.set()
        gate.wait(60)

    @workflow
    async def busy() -> str:
        work()
        return "done"

    with Engine(database, max_running=1) as engine:
        first = engine.start(busy)
        assert began.wait(60)
        late = engine.start(nothing, deadline=0.2)
        with pytest.raises(RunDeadlineExceeded, match="did not begin before its deadline"):
            late.result(timeout=60)
        assert first.info().status == "running"
        assert late.info().started_at is None
        gate.set()
        assert first.result(timeout=60) == "done"


def test_a_run_that_no_worker_has_the_workflow_of_fails_at_its_deadline(engine: TestEngine) -> None:
    engine.reopen(workflows=[nothing])
    late = engine.start(hold, "unknown", deadline=5)
    engine.advance(5)
    with pytest.raises(RunDeadlineExceeded, match="no worker here has the workflow"):
        late.result()
    assert late.info().started_at is None


def test_each_of_many_runs_ends_at_its_own_deadline(engine: TestEngine) -> None:
    occupied(engine)
    runs = [place(engine, 5 + number % 7) for number in range(40)]
    unhurried = place(engine, 100)
    engine.advance(20)
    assert all(run.info().ended_at == run.info().deadline_at for run in runs)
    assert unhurried.info().status == "pending"


def test_more_runs_than_are_read_at_a_time_end_at_one_deadline(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.worker.running.unstarted._ENDED_AT_ONCE", 3)
    occupied(engine)
    runs = [place(engine, 5) for _ in range(10)]
    engine.advance(5)
    assert all(is_late(run) for run in runs)


def test_deadlines_that_passed_while_no_process_had_the_file_are_kept_at_the_next_opening(engine: TestEngine) -> None:
    occupied(engine)
    late = place(engine, 5)
    in_time = place(engine, 500)
    engine.crash()
    engine.clock.advance(60)
    engine.reopen().idle()
    assert is_late(late)
    assert in_time.info().status == "pending"


def test_a_run_that_is_taken_in_time_is_told_of_its_deadline_by_its_code(engine: TestEngine) -> None:
    first = occupied(engine)
    late = place(engine, 5)
    first.send("go")
    first.result()
    engine.advance(4)
    assert late.info().status == "waiting"
    engine.advance(1)
    with pytest.raises(RunDeadlineExceeded, match="did not end before its deadline"):
        late.result()


def test_a_start_in_a_transaction_is_held_to_its_deadline(engine: TestEngine) -> None:
    occupied(engine)
    with engine.transaction() as tx:
        late = tx.start(hold, "late", queue=ONE, deadline=5)
    engine.advance(5)
    assert is_late(engine.get(late.id))


@pytest.mark.parametrize("crash", [False, True], ids=["", "after a crash"])
def test_a_run_that_waits_for_another_hears_that_it_was_late(engine: TestEngine, crash: bool) -> None:
    @workflow
    async def watcher() -> str:
        try:
            return await (await start(hold, "late", id="late")).result()
        except RunDeadlineExceeded as error:
            return str(error)

    occupied(engine)
    place(engine, 5, id="late")
    run = engine.start(watcher)
    engine.idle()
    assert run.info().status == "waiting"
    if crash:
        engine.crash()
        engine.reopen()
    engine.advance(5)
    assert "did not begin before its deadline" in run.result()


def test_a_run_that_was_cancelled_first_is_cancelled(engine: TestEngine) -> None:
    occupied(engine)
    late = place(engine, 5)
    late.cancel("enough")
    engine.advance(5)
    with pytest.raises(RunCancelled, match="enough"):
        late.result()


def test_a_cancelled_run_in_a_paused_queue_ends_although_who_cancelled_it_died_at_once(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.start(nothing, queue=ONE).result()
    engine.queue(ONE).pause()
    run = engine.start(nothing, id="cancelled", queue=ONE)
    # Between the commit of the request and that of the end.
    with monkeypatch.context() as patched:
        patched.setattr(engine._session.engine_thread.worker.unstarted, "cancel", lambda _record, _work: None)
        run.cancel("enough")
        engine.crash()
    engine.reopen()
    with pytest.raises(RunCancelled, match="enough"):
        engine.get("cancelled").result()
    assert engine.queue(ONE).info().waiting == 0


def test_a_run_that_was_begun_after_it_was_read_goes_on_and_the_others_end(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = occupied(engine)
    begun = engine.start(hold, "begun", id="begun", queue=ONE)
    inspector = engine._session.store.inspector
    stale = inspector.run_by_id("begun")
    late = place(engine, 5)
    first.send("go")
    engine.idle()
    assert begun.info().status == "waiting"
    reads = engine._session.store.reads
    read = reads.overdue
    monkeypatch.setattr(reads, "overdue", lambda now, limit: [stale, *read(now, limit)])
    engine.advance(5)
    assert is_late(late)
    begun.send("go")
    assert begun.result() == "begun"
