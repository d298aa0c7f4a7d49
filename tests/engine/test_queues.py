"""Queues as callers and runs see them: slots, turns, rates, delays, dedup, debounce, batches, live changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from stepwell import (
    AsyncEngine,
    Batch,
    DuplicateRun,
    InvalidArgument,
    Limit,
    Queue,
    QueueNotFound,
    Rate,
    RunCancelled,
    RunConflict,
    RunDeadlineExceeded,
    RunFailed,
    receive,
    start,
    step,
    sync,
    workflow,
)
from stepwell.store.queues import QueueDeclared
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Outcome, Unit
from stepwell.testing import TestEngine

happened: list[Any] = []


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    happened.clear()
    yield
    happened.clear()


@step
def note(what: Any) -> None:
    happened.append(what)


@workflow
async def job(name: str) -> str:
    note(name)
    return name


@workflow
async def hold(name: str) -> str:
    note(name)
    await receive("go")
    return name


@workflow
async def join(items: list[int]) -> list[int]:
    return items


@workflow
def join_plainly(items: list[int]) -> int:
    sync.sleep(0)
    return sum(items)


def started() -> list[Any]:
    return list(happened)


# --- slots --------------------------------------------------------------------------------------------------------


def test_no_more_runs_are_under_way_than_the_queue_allows(engine: TestEngine) -> None:
    queue = Queue("two", concurrency=2)
    runs = [engine.start(hold, name, queue=queue) for name in "abc"]
    engine.idle()
    assert started() == ["a", "b"]
    assert runs[2].status == "pending"
    assert (runs[2].info().reason or "").startswith("queue 'two' is full: 2 of 2 runs are under way (run '")
    runs[0].send("go")
    assert runs[0].result() == "a"
    engine.idle()
    assert started() == ["a", "b", "c"]


def test_a_sleeping_run_keeps_its_slot_in_memory_or_not(database: Path) -> None:
    queue = Queue("one", concurrency=1)
    with TestEngine(database, max_waiting_in_memory=0) as engine:
        first, second = (engine.start(hold, name, queue=queue) for name in "ab")
        engine.idle()
        assert engine.in_memory == frozenset()
        assert started() == ["a"]
        first.send("go")
        assert first.result() == "a"
        second.send("go")
        assert second.result() == "b"


def test_slots_outlive_the_process(engine: TestEngine) -> None:
    queue = Queue("one", concurrency=1)
    first, second = (engine.start(hold, name, queue=queue) for name in "ab")
    engine.idle()
    engine.crash()
    engine.reopen().idle()
    assert started() == ["a"]
    first.send("go")
    engine.idle()
    assert started() == ["a", "b"]
    second.send("go")
    assert second.result() == "b"


def test_a_run_that_fails_or_is_cancelled_frees_its_slot(engine: TestEngine) -> None:
    queue = Queue("one", concurrency=1)

    @workflow
    async def fails() -> None:
        raise ValueError("no")

    failing = engine.start(fails, queue=queue)
    with pytest.raises(ValueError, match="no"):
        failing.result()
    held = engine.start(hold, "a", queue=queue)
    engine.idle()
    held.cancel()
    assert engine.start(job, "b", queue=queue).result() == "b"


def test_a_worker_takes_no_more_than_its_share(engine: TestEngine) -> None:
    queue = Queue("share", per_worker=2)
    runs = [engine.start(hold, str(number), queue=queue) for number in range(3)]
    engine.idle()
    assert started() == ["0", "1"]
    runs[0].send("go")
    runs[0].result()
    engine.idle()
    assert started() == ["0", "1", "2"]


def test_a_full_worker_takes_what_it_has_room_for(engine: TestEngine) -> None:
    queue = Queue("wide")
    engine = engine.reopen(max_running=3)
    runs = [engine.start(job, str(number), queue=queue) for number in range(20)]
    assert [run.result(60) for run in runs] == [str(number) for number in range(20)]


# --- turns --------------------------------------------------------------------------------------------------------


def test_higher_priority_goes_first_and_then_who_came_first(engine: TestEngine) -> None:
    queue = Queue("line", concurrency=1)
    engine.queue(queue).pause()
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)):
        engine.start(job, name, queue=queue, priority=priority)
    engine.queue(queue).unpause()
    engine.idle()
    assert started() == ["b", "d", "a", "c", "e"]


def test_partitions_take_turns_so_a_thousand_jobs_of_one_do_not_hold_up_another(engine: TestEngine) -> None:
    queue = Queue("tenants", concurrency=1)
    engine.queue(queue).pause()
    for number in range(30):
        engine.start(job, f"big {number}", queue=queue, partition="big")
    engine.start(job, "small", queue=queue, partition="small")
    engine.queue(queue).unpause()
    engine.idle()
    assert started()[:3] == ["big 0", "small", "big 1"]


def test_each_partition_has_its_own_bound(engine: TestEngine) -> None:
    queue = Queue("tenants", partition_concurrency=1)
    for number in range(2):
        for tenant in "ab":
            engine.start(hold, f"{tenant}{number}", queue=queue, partition=tenant)
    engine.idle()
    assert sorted(started()) == ["a0", "b0"]


def test_runs_of_workflows_that_nobody_has_do_not_block_the_line(engine: TestEngine) -> None:
    queue = Queue("mixed", concurrency=1)
    engine = engine.reopen(workflows=[job])
    foreign = engine.start(hold, "foreign", queue=queue)
    mine = engine.start(job, "mine", queue=queue)
    assert mine.result() == "mine"
    assert foreign.status == "pending"
    engine = engine.reopen(workflows=None)
    foreign.send("go")
    assert foreign.result() == "foreign"


def test_a_worker_serves_the_queues_that_it_is_told_to(database: Path) -> None:
    left, right = Queue("left"), Queue("right")
    with TestEngine(database, queues=[left]) as engine:
        here, there = engine.start(job, "here", queue=left), engine.start(job, "there", queue=right)
        free = engine.start(job, "free")
        assert (here.result(), free.result()) == ("here", "free")
        engine.idle()
        assert there.status == "pending"
        engine.reopen(queues=["right"])
        assert there.result() == "there"


# --- time ---------------------------------------------------------------------------------------------------------


def test_a_rate_bounds_the_starts_of_any_window(engine: TestEngine) -> None:
    queue = Queue("slow", rate=Rate(2, per=10))
    runs = [engine.start(job, str(number), queue=queue) for number in range(5)]
    engine.idle()
    assert started() == ["0", "1"]
    engine.advance(9.99)
    assert len(started()) == 2
    engine.advance(0.01)
    assert len(started()) == 4
    engine.crash()
    engine.reopen().advance(9.99)
    assert len(started()) == 4
    engine.advance(0.02)
    assert runs[4].result() == "4"
    starts = sorted(at for run in runs if (at := run.info().started_at) is not None)
    assert all(later - earlier >= timedelta(seconds=10) for earlier, later in zip(starts, starts[2:], strict=False))


def test_a_delayed_run_waits_for_its_time_and_then_for_its_turn(engine: TestEngine) -> None:
    queue = Queue("later")
    engine.start(job, "after", queue=queue, delay=60)
    engine.start(job, "at", queue=queue, delay=engine.clock.time + timedelta(seconds=30))
    engine.start(job, "past", queue=queue, delay=datetime(2001, 1, 1, tzinfo=UTC))
    engine.idle()
    assert started() == ["past"]
    assert engine.queue(queue).info().delayed == 2
    engine.advance(30)
    assert started() == ["past", "at"]
    engine.crash()
    engine.reopen().advance(30)
    assert started() == ["past", "at", "after"]


def test_a_deadline_counts_while_the_run_waits(engine: TestEngine) -> None:
    queue = Queue("one", concurrency=1)
    first = engine.start(hold, "a", queue=queue)
    late = engine.start(hold, "b", queue=queue, deadline=5)
    engine.advance(10)
    first.send("go")
    with pytest.raises(RunDeadlineExceeded):
        late.result()


# --- dedup, debounce, batch ---------------------------------------------------------------------------------------


def test_a_dedup_key_gives_the_run_that_has_it(engine: TestEngine) -> None:
    queue = Queue("unique")
    run = engine.start(hold, "a", queue=queue, dedup="k")
    engine.idle()
    assert engine.start(hold, "b", queue=queue, dedup="k").id == run.id
    run.send("go")
    assert run.result() == "a"
    assert engine.start(job, "c", queue=queue, dedup="k").result() == "c"


def test_a_queue_can_reject_a_second_run_and_says_which_has_the_key(engine: TestEngine) -> None:
    queue = Queue("unique", on_duplicate="reject")
    run = engine.start(hold, "a", queue=queue, dedup="k")
    with pytest.raises(DuplicateRun, match="'k'") as caught:
        engine.start(hold, "b", queue=queue, dedup="k")
    assert caught.value.run_id == run.id
    with pytest.raises(DuplicateRun, match="another workflow"):
        engine.start(job, "b", queue=Queue("unique"), dedup="k")
    assert engine.start(hold, "b", queue=queue, dedup="other").id != run.id


def test_the_id_counts_before_the_dedup_key(engine: TestEngine) -> None:
    queue = Queue("unique")
    run = engine.start(hold, "a", id="x", queue=queue, dedup="k")
    assert engine.start(hold, "a", id="x", queue=queue, dedup="other").id == "x"
    with pytest.raises(RunConflict):
        engine.start(hold, "b", id="x", queue=queue, dedup="k")
    assert run.id == "x"


def test_debouncing_runs_once_with_the_last_input_when_it_has_become_quiet(engine: TestEngine) -> None:
    queue = Queue("quiet", debounce=10, debounce_limit=25)
    runs = [engine.start(job, "0", queue=queue, dedup="k")]
    for number in range(1, 5):
        engine.advance(6)
        runs.append(engine.start(job, str(number), queue=queue, dedup="k"))
    assert started() == []
    engine.advance(0.9)
    assert started() == []
    engine.advance(0.1)  # 25 after the first
    assert started() == ["4"]
    assert {run.id for run in runs} == {runs[0].id}
    assert engine.start(job, "5", queue=queue, dedup="k").id != runs[0].id


def test_a_batch_is_one_run_with_the_items_of_many_starts(engine: TestEngine) -> None:
    queue = Queue("many", batch=Batch(3, within=5))
    runs = [engine.start(join, [number], queue=queue) for number in range(4)]
    assert len({run.id for run in runs}) == 2
    assert runs[0].result() == [0, 1, 2]
    engine.crash()
    engine.reopen().advance(5)
    assert runs[3].result() == [3]
    assert engine.start(join, [7, 8, 9, 10], queue=queue).result() == [7, 8, 9, 10]


def test_a_batch_reads_the_same_whenever_it_comes_back(engine: TestEngine) -> None:
    queue = Queue("many", batch=Batch(2, within=5))
    runs = [engine.start(join_plainly, [number], queue=queue) for number in (3, 4)]
    assert {run.result() for run in runs} == {7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": 1}, "need a queue"),
        ({"queue": 5}, "must be a Queue"),
        ({"queue": Queue("q"), "priority": 2**40}, "priority"),
        ({"queue": Queue("q"), "partition": ""}, "partition"),
        ({"queue": Queue("q"), "dedup": "x" * 2000}, "dedup"),
        ({"queue": Queue("q"), "delay": -1}, "delay"),
        ({"queue": Queue("q"), "delay": datetime(2040, 1, 1)}, "time zone"),  # noqa: DTZ001 - that is the point
        ({"queue": Queue("debounced", debounce=1)}, "dedup="),
        ({"queue": Queue("batched", batch=Batch(2, 1)), "id": "x"}, "collects"),
        ({"queue": Queue("batched", batch=Batch(2, 1))}, "a list of one or more"),
        ({"queue": Queue("q"), "dedup": "k", "messages": [("m", 1)]}, "messages"),
    ],
)
def test_options_that_do_not_go_together_are_refused(engine: TestEngine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        engine.start(job, "a", **options)
    assert engine.list() == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Queue(""),
        lambda: Queue("q", concurrency=0),
        lambda: Queue("q", rate=5),  # type: ignore[arg-type]
        lambda: Queue("q", on_duplicate="ignore"),  # type: ignore[arg-type]
        lambda: Queue("q", debounce=1, batch=Batch(2, 1)),
        lambda: Queue("q", debounce_limit=1),
        lambda: Rate(0),
        lambda: Rate(1, per=0),
        lambda: Batch(0, 1),
        lambda: Limit("q", concurrency=True),
        lambda: (Queue("both"), Limit("both")),
    ],
)
def test_queues_and_limits_that_cannot_be_kept_are_refused(make: Any) -> None:
    with pytest.raises(InvalidArgument):
        make()


# --- from inside --------------------------------------------------------------------------------------------------


@workflow
async def parent(dedup: str | None) -> list[str]:
    queue = Queue("children", concurrency=1)
    children = [await start(job, str(number), queue=queue, dedup=dedup) for number in range(3)]
    return [await child.result() for child in children]


def test_children_stand_in_queues_too(engine: TestEngine) -> None:
    run = engine.start(parent, None)
    assert run.result() == ["0", "1", "2"]
    again = engine.start(parent, "k")
    assert again.result() == ["0", "0", "0"]


@workflow
async def refused(dedup: str) -> str:
    queue = Queue("strict", on_duplicate="reject")
    await start(hold, "a", queue=queue, dedup=dedup)
    try:
        await start(hold, "b", queue=queue, dedup=dedup)
    except DuplicateRun:
        return "refused"
    return "started"


def test_a_child_that_its_queue_rejects_is_an_error_in_the_parent(engine: TestEngine) -> None:
    assert engine.start(refused, "k").result() == "refused"


def test_a_parent_that_comes_back_has_the_same_children(engine: TestEngine) -> None:
    queue = Queue("children", concurrency=1)
    engine.queue(queue).pause()
    run = engine.start(parent, "k")
    engine.idle()
    engine.crash()
    engine.reopen().idle()
    assert len(engine.list(workflow=job)) == 1
    engine.queue(queue).unpause()
    assert run.result() == ["0", "0", "0"]


@workflow
async def gather_of_both() -> list[str]:
    queue = Queue("children", concurrency=1)

    async def one(name: str) -> str:
        child = await start(job, name, queue=queue, dedup=name)
        return await child.result()

    return list(await asyncio.gather(one("a"), job("b"), one("c"), one("a")))


def test_what_a_parent_was_told_is_told_in_the_same_order_again(engine: TestEngine) -> None:
    run = engine.start(gather_of_both)
    assert run.result() == ["a", "b", "c", "a"]
    held = engine.start(gather_and_hold)
    engine.idle()
    engine.crash()
    engine.reopen().idle()
    held.send("go")
    assert held.result() == ["a", "b", "c", "a"]


@workflow
async def gather_and_hold() -> list[str]:
    results = await gather_of_both.function()
    await receive("go")
    return results


@workflow
def plain_parent() -> str:
    child = sync.start(job, "plain", queue=Queue("children"), priority=3)
    return child.result()


def test_plain_workflows_start_children_in_queues(engine: TestEngine) -> None:
    assert engine.start(plain_parent).result() == "plain"


def test_a_transaction_starts_runs_in_queues_or_none_at_all(engine: TestEngine) -> None:
    queue = Queue("outbox")
    with engine.transaction() as tx:
        run = tx.start(job, "a", queue=queue, dedup="k")
        assert tx.start(job, "b", queue=queue, dedup="k").id == run.id
    assert run.result() == "a"
    with suppress(ZeroDivisionError), engine.transaction() as tx:
        tx.start(job, "c", queue=queue)
        _ = 1 / 0
    engine.idle()
    assert started() == ["a"]
    with engine.transaction() as tx:
        held = tx.start(hold, "h", queue=queue, dedup="h")
        with pytest.raises(DuplicateRun):
            tx.start(hold, "i", queue=Queue("outbox", on_duplicate="reject"), dedup="h")
    held.send("go")
    assert held.result() == "h"


# --- the handle ---------------------------------------------------------------------------------------------------


def test_a_queue_tells_how_full_it_is(engine: TestEngine) -> None:
    queue = Queue("told", concurrency=1, rate=Rate(500, per=60))
    assert engine.queue(queue).info().waiting == 0
    for name in "abc":
        engine.start(hold, name, queue=queue)
    engine.start(hold, "d", queue=queue, delay=60)
    engine.advance(7)
    info = engine.queue("told").info()
    assert (info.waiting, info.delayed, info.running, info.paused) == (2, 1, 1, False)
    assert (info.concurrency, info.rate, info.kind) == (1, Rate(500, per=60), "queue")
    assert info.oldest_wait_seconds == 7
    assert [handle.name for handle in engine.queues()] == ["told"]
    with pytest.raises(QueueNotFound, match="'unknown'"):
        engine.queue("unknown").info()


def test_a_live_change_is_heeded_at_once_and_outlives_the_process(engine: TestEngine) -> None:
    queue = Queue("live", concurrency=1)
    for name in "abcd":
        engine.start(hold, name, queue=queue)
    engine.idle()
    engine.queue(queue).change(concurrency=2)
    engine.idle()
    assert started() == ["a", "b"]
    engine.reopen().idle()
    assert engine.queue(queue).info().concurrency == 2
    engine.queue(queue).change(concurrency=None, rate=Rate(1, per=10))
    engine.idle()
    assert started() == ["a", "b", "c"]
    engine.queue(queue).change(rate=None)
    engine.idle()
    assert started() == ["a", "b", "c", "d"]
    with pytest.raises(InvalidArgument):
        engine.queue(queue).change(concurrency=0)
    with pytest.raises(QueueNotFound):
        engine.queue("unknown").change(concurrency=1)


def test_new_code_replaces_what_was_changed(engine: TestEngine) -> None:
    engine.start(job, "a", queue=Queue("code", concurrency=1)).result()
    engine.queue("code").change(concurrency=7)
    Queue("code", concurrency=3)
    engine.reopen().idle()
    assert engine.queue("code").info().concurrency == 3


def test_the_object_that_is_handed_in_counts_whatever_else_has_its_name(engine: TestEngine) -> None:
    queue = Queue("twice", concurrency=2)
    Queue("twice", concurrency=5)
    engine.start(job, "a", queue=queue).result()
    assert engine.queue("twice").info().concurrency == 2


def test_nothing_starts_from_a_paused_queue(engine: TestEngine) -> None:
    queue = Queue("paused")
    engine.queue(queue).pause()
    run = engine.start(job, "a", queue=queue)
    engine.reopen().idle()
    assert (run.status, engine.queue(queue).info().paused) == ("pending", True)
    engine.queue(queue).unpause()
    assert run.result() == "a"


def test_what_waits_can_be_cancelled_as_a_whole_or_by_partition(engine: TestEngine) -> None:
    queue = Queue("full", concurrency=1)
    running = engine.start(hold, "running", queue=queue)
    waiting = [engine.start(hold, str(number), queue=queue, partition="ab"[number % 2]) for number in range(6)]
    late = engine.start(hold, "late", queue=queue, delay=60)
    engine.idle()
    assert engine.queue(queue).cancel_waiting(partition="a", reason="not needed") == 3
    with pytest.raises(RunCancelled, match="not needed"):
        waiting[0].result()
    assert engine.queue(queue).cancel_waiting() == 4
    assert {run.status for run in [*waiting, late]} == {"cancelled"}
    running.send("go")
    assert running.result() == "running"
    assert engine.queue(queue).cancel_waiting() == 0


def test_a_parent_hears_that_its_waiting_child_was_cancelled(engine: TestEngine) -> None:
    queue = Queue("children", concurrency=1)
    engine.queue(queue).pause()
    run = engine.start(parent, None)
    engine.idle()
    engine.queue(queue).cancel_waiting()
    with pytest.raises((RunFailed, RunCancelled)):
        run.result()


def test_a_waiting_child_is_cancelled_with_its_parent(engine: TestEngine) -> None:
    queue = Queue("children", concurrency=1)
    engine.queue(queue).pause()
    run = engine.start(parent, "x")
    engine.idle()
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result()
    engine.idle()
    assert engine.queue(queue).info().waiting == 0


def test_a_message_does_not_make_a_waiting_run_start(engine: TestEngine) -> None:
    queue = Queue("one", concurrency=1)
    engine.queue(queue).pause()
    run = engine.start(hold, "a", queue=queue)
    run.send("go")
    engine.reopen().idle()
    assert run.status == "pending"
    engine.queue(queue).unpause()
    assert run.result() == "a"


def test_the_async_engine_has_queues_too(database: Path) -> None:
    queue = Queue("async", concurrency=1)

    async def main() -> None:
        async with AsyncEngine(database) as engine:
            await engine.queue(queue).pause()
            run = await engine.start(job, "a", queue=queue, priority=1, dedup="k")
            assert (await engine.start(job, "b", queue=queue, dedup="k")).id == run.id
            assert [handle.name for handle in await engine.queues()] == ["async"]
            assert (await engine.queue(queue).info()).waiting == 1
            await engine.queue(queue).change(concurrency=2)
            await engine.queue(queue).unpause()
            assert await run.result(60) == "a"
            await engine.queue(queue).pause()
            async with engine.transaction() as tx:
                run = await tx.start(job, "c", queue=queue)
            assert await engine.queue(queue).cancel_waiting() == 1
            with pytest.raises(RunCancelled):
                await run.result(60)

    asyncio.run(main())


def test_an_engine_at_rest_does_nothing_about_its_queues(engine: TestEngine) -> None:
    queue = Queue("idle", concurrency=1)
    engine.start(hold, "a", queue=queue)
    engine.start(hold, "b", queue=queue)
    engine.idle()
    store: Any = engine._session.store
    before = store._connection.total_changes()
    engine.advance(3600)
    assert store._connection.total_changes() == before


def test_an_engine_with_room_for_one_run_takes_one_after_the_other(engine: TestEngine) -> None:
    engine = engine.reopen(max_running=1)
    queue = Queue("room for one")
    held = engine.start(hold, "first", queue=queue)
    others = [engine.start(job, name, queue=queue) for name in ("second", "third")]
    engine.idle()
    assert [run.status for run in (held, *others)] == ["waiting", "completed", "completed"]
    assert started() == ["first", "second", "third"]


def test_an_engine_tells_the_file_of_a_queue_once(engine: TestEngine) -> None:
    told: list[str] = []
    commit = SqliteStore.commit

    def commits(store: SqliteStore, units: Sequence[Unit], claim: Any) -> list[Outcome]:
        told.extend(change.name for unit in units for change in unit.changes if isinstance(change, QueueDeclared))
        return commit(store, units, claim)

    with patch.object(SqliteStore, "commit", commits):
        for name in ("first", "second", "third"):
            assert engine.start(job, name, queue=Queue("told-once", concurrency=3)).result(60) == name
    assert told == ["told-once"]
