"""Partitions of a queue with bounds above one, and several workflows in one of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from stepwell import InvalidArgument, Queue, Rate, Run, receive, step, workflow
from stepwell.testing import TestEngine

happened: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    happened.clear()
    yield
    happened.clear()


@step
def note(what: str) -> None:
    happened.append(what)


@workflow
async def hold(name: str) -> None:
    note(name)
    await receive("go")


@workflow
async def hold_as_well(name: str) -> None:
    note(name)
    await receive("go")


@workflow
async def also(name: str) -> None:
    note(name)
    await receive("go")


def end(engine: TestEngine, run: Run[None]) -> None:
    run.send("go")
    run.result(timeout=60)
    engine.idle()


@pytest.mark.parametrize("at_once", [True, False], ids=["in one commit", "one by one"])
@pytest.mark.parametrize("flows", [(hold,), (hold, hold_as_well)], ids=["one workflow", "two workflows"])
@pytest.mark.parametrize("bound", [2, 3])
def test_a_partition_never_has_more_under_way_than_its_bound(
    engine: TestEngine, bound: int, flows: tuple[Any, ...], at_once: bool
) -> None:
    queue = Queue("tenants", partition_concurrency=bound)
    names = [f"{tenant}{number}" for number in range(2 * bound + 1) for tenant in "ab"]
    runs: dict[str, Run[None]] = {}
    if at_once:
        engine.start(flows[0], "opens the queue", queue=queue, partition="c")
        engine.queue(queue).pause()
    for number, name in enumerate(names):
        runs[name] = engine.start(flows[number // 2 % len(flows)], name, queue=queue, partition=name[0])
        if not at_once:
            engine.idle()
    if at_once:
        engine.queue(queue).unpause()
    engine.idle()
    under_way = [name for name in happened if name in runs]
    assert sorted(under_way) == sorted(f"{tenant}{number}" for number in range(bound) for tenant in "ab")
    # Each end gives one place, to the next of the same partition; there are places for it alone.
    for tenant in "ab":
        for number in range(bound + 1):
            end(engine, runs[f"{tenant}{number}"])
            under_way = [name for name in happened if name in runs and runs[name].status == "waiting"]
            assert sum(name[0] == tenant for name in under_way) == bound
            assert f"{tenant}{number + bound}" in under_way


def test_a_partition_with_one_under_way_gives_one_less(engine: TestEngine) -> None:
    queue = Queue("tenants", partition_concurrency=2)
    first = engine.start(hold, "first", queue=queue, partition="a")
    engine.idle()
    engine.queue(queue).pause()
    for name in ("second", "third", "fourth"):
        engine.start(hold, name, queue=queue, partition="a")
    engine.queue(queue).unpause()
    engine.idle()
    assert happened == ["first", "second"]
    end(engine, first)
    assert happened == ["first", "second", "third"]


@pytest.mark.parametrize("change", [False, True], ids=["as declared", "as changed"])
def test_full_partitions_do_not_hide_one_with_room(engine: TestEngine, change: bool) -> None:
    queue = Queue("tenants", concurrency=8 if change else 9, partition_concurrency=2)
    for tenant in "abcd":
        for number in range(5):
            engine.start(hold, f"{tenant}{number}", queue=queue, partition=tenant)
    engine.idle()
    if change:  # for a moment no partition is full, but the queue is
        engine.queue(queue).change(partition_concurrency=3)
        engine.queue(queue).change(partition_concurrency=2, concurrency=9)
        engine.idle()
    under_way = len(happened)
    engine.queue(queue).pause()
    engine.start(hold, "e0", queue=queue, partition="e")
    engine.queue(queue).unpause()
    engine.idle()
    assert happened[under_way:] == ["e0"]


def test_a_bound_that_is_changed_counts_what_is_under_way_already(engine: TestEngine) -> None:
    queue = Queue("tenants", partition_concurrency=3)
    runs = [engine.start(hold, str(number), queue=queue, partition="a") for number in range(6)]
    engine.idle()
    assert happened == ["0", "1", "2"]
    engine.queue(queue).change(partition_concurrency=2)
    end(engine, runs[0])
    assert happened == ["0", "1", "2"]
    end(engine, runs[1])
    assert happened == ["0", "1", "2", "3"]
    engine.queue(queue).change(partition_concurrency=3)
    engine.idle()
    assert happened == ["0", "1", "2", "3", "4"]


_ORDERS = list(permutations([hold, hold_as_well, also]))
#: Started in this order: who, and how urgent.
_ENTRIES = (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1), ("f", 9))


@pytest.mark.parametrize("order", _ORDERS, ids=range(len(_ORDERS)))
def test_priority_counts_among_all_workflows_of_a_partition(engine: TestEngine, order: tuple[Any, ...]) -> None:
    queue = Queue("one", concurrency=1)
    first = engine.start(hold, "first", queue=queue)
    engine.idle()
    runs = {
        name: engine.start(order[number % 3], name, queue=queue, priority=priority)
        for number, (name, priority) in enumerate(_ENTRIES)
    }
    end(engine, first)
    for name in "fbdac":
        assert happened[-1] == name
        end(engine, runs[name])
    assert happened == ["first", *"fbdace"]


@pytest.mark.parametrize("order", _ORDERS, ids=range(len(_ORDERS)))
def test_priority_counts_among_all_workflows_that_are_taken_in_one_commit(
    engine: TestEngine, order: tuple[Any, ...]
) -> None:
    queue = Queue("three", concurrency=3)
    engine.start(hold, "opens the queue", queue=queue).cancel()
    engine.queue(queue).pause()
    for number, (name, priority) in enumerate(_ENTRIES):
        engine.start(order[number % 3], name, queue=queue, priority=priority)
    engine.queue(queue).unpause()
    engine.idle()
    assert sorted(happened[-3:]) == ["b", "d", "f"]


# --- rates and shares of workers --------------------------------------------------------------------------------------


def test_each_partition_starts_no_more_than_its_rate_allows_in_any_window(engine: TestEngine) -> None:
    queue = Queue("rated-tenants", partition_rate=Rate(2, per=10))
    runs = [
        engine.start(hold, f"{tenant}{number}", queue=queue, partition=tenant) for number in range(5) for tenant in "ab"
    ]
    engine.idle()
    assert sorted(happened) == ["a0", "a1", "b0", "b1"]
    reason = str(runs[-1].info().reason)
    assert "as many have begun of partition 'b' of queue 'rated-tenants' as its rate allows (2 in 10 s)" in reason
    assert "the next may begin at" in reason
    engine.advance(9.9)
    assert len(happened) == 4
    engine.crash()
    engine.reopen().advance(0.2)
    assert sorted(happened) == sorted(f"{tenant}{number}" for number in range(4) for tenant in "ab")
    engine.advance(10.2)
    assert len(happened) == 10


def test_a_partition_that_comes_back_is_bound_by_what_began_before(engine: TestEngine) -> None:
    queue = Queue("rated-again", partition_rate=Rate(1, per=10))
    first = engine.start(hold, "first", queue=queue, partition="a")
    engine.idle()
    end(engine, first)
    engine.start(hold, "other", queue=queue, partition="b")
    engine.start(hold, "second", queue=queue, partition="a")
    engine.advance(5)
    assert happened == ["first", "other"]
    engine.advance(5.1)
    assert happened == ["first", "other", "second"]
    assert list(engine.query("SELECT count(*) FROM stepwell_partition_starts")) == [(1,)]


def test_the_rate_of_partitions_is_changed_and_taken_away_while_runs_wait(engine: TestEngine) -> None:
    queue = Queue("rated-live", partition_rate=Rate(1, per=100))
    for number in range(4):
        engine.start(hold, str(number), queue=queue, partition="a")
    engine.idle()
    line = engine.queue(queue)
    line.change(partition_rate=Rate(2, per=100))
    engine.idle()
    assert len(happened) == 2
    assert line.info().partition_rate == Rate(2, per=100)
    assert "each partition in which something waits is full, or as many" in str(line.info().reason)
    line.change(partition_rate=None)
    engine.idle()
    assert len(happened) == 4


def test_one_worker_takes_no_more_of_a_partition_than_its_share(engine: TestEngine) -> None:
    queue = Queue("shared-tenants", partition_per_worker=1)
    runs = {name: engine.start(hold, name, queue=queue, partition=name[0]) for name in ("a0", "a1", "b0", "c0")}
    engine.idle()
    assert sorted(happened) == ["a0", "b0", "c0"]
    reason = str(runs["a1"].info().reason)
    assert "each worker that could take it has 1 run of partition 'a' of queue 'shared-tenants' already" in reason
    end(engine, runs["a0"])
    assert sorted(happened) == ["a0", "a1", "b0", "c0"]


def test_partitions_that_a_worker_has_its_share_of_hide_no_other(engine: TestEngine) -> None:
    queue = Queue("hidden-tenants", concurrency=6, partition_per_worker=1)
    for tenant in "abcde":
        for number in range(3):
            engine.start(hold, f"{tenant}{number}", queue=queue, partition=tenant)
    engine.idle()
    engine.start(hold, "z0", queue=queue, partition="z")
    engine.idle()
    assert sorted(happened) == ["a0", "b0", "c0", "d0", "e0", "z0"]


@pytest.mark.parametrize("bounds", [{"partition_per_worker": 0}, {"partition_rate": 5}, {"partition_rate": "5/s"}])
def test_bounds_of_partitions_that_cannot_be_kept_are_refused(engine: TestEngine, bounds: Any) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(bounds))):
        Queue("refused-tenants", **bounds)
    engine.start(hold, "a", queue=Queue("refused-live"))
    with pytest.raises(InvalidArgument, match=next(iter(bounds))):
        engine.queue("refused-live").change(**bounds)
