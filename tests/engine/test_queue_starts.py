"""What single starts say of their place in a queue, in place of what the queue says: duplicates, debounce, delays."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell import Batch, DuplicateRun, InvalidArgument, Queue, receive, start, sync, workflow
from stepwell.testing import TestEngine

PLAIN = Queue("starts-plain")
CALM = Queue("starts-calm", debounce=10, debounce_limit=25)
STRICT = Queue("starts-strict", on_duplicate="reject")


@workflow
async def keep(text: str) -> str:
    return text


@workflow
async def hold(text: str) -> str:
    await receive("go")
    return text


# --- debounce ---------------------------------------------------------------------------------------------------------


def test_a_start_debounces_in_a_queue_that_does_not(engine: TestEngine) -> None:
    runs = [engine.start(keep, "first", queue=PLAIN, dedup="k", debounce=10)]
    engine.advance(6)
    runs.append(engine.start(keep, "second", queue=PLAIN, dedup="k", debounce=10))
    engine.advance(9.9)
    assert runs[0].status == "pending"
    assert "for another start with its dedup key (debounce)" in str(runs[0].info().reason)
    engine.advance(0.1)
    assert {run.id for run in runs} == {runs[0].id}
    assert runs[0].result() == "second"


def test_each_start_brings_its_own_period_up_to_the_limit_of_the_first(engine: TestEngine) -> None:
    run = engine.start(keep, "1", queue=PLAIN, dedup="k", debounce=5, debounce_limit=20)
    engine.advance(4)
    engine.start(keep, "2", queue=PLAIN, dedup="k", debounce=60)
    engine.advance(15.9)
    assert run.status == "pending"
    engine.advance(0.1)
    assert run.result() == "2"


def test_a_shorter_period_brings_nothing_forward(engine: TestEngine) -> None:
    run = engine.start(keep, "1", queue=PLAIN, dedup="k", debounce=60)
    engine.start(keep, "2", queue=PLAIN, dedup="k", debounce=1)
    engine.advance(59)
    assert run.status == "pending"
    engine.advance(1)
    assert run.result() == "2"


def test_a_period_of_nothing_gives_the_waiting_run_new_input_and_leaves_its_place(engine: TestEngine) -> None:
    line = engine.queue(PLAIN)
    engine.start(keep, "x", queue=PLAIN)
    line.pause()
    runs = [engine.start(keep, text, queue=PLAIN, dedup="k", debounce=0) for text in "abc"]
    line.unpause()
    assert [run.result() for run in runs] == ["c", "c", "c"]


def test_the_period_of_a_start_counts_in_a_queue_that_has_one(engine: TestEngine) -> None:
    run = engine.start(keep, "1", queue=CALM, dedup="k", debounce=2)
    engine.advance(2)
    assert run.result() == "1"
    with pytest.raises(InvalidArgument, match=r"debounce_limit \(25 s\) must not be below debounce \(30 s\)"):
        engine.start(keep, "2", queue=CALM, dedup="k", debounce=30)


@pytest.mark.parametrize("policy", ["attach", "reject"])
def test_a_start_without_debounce_leaves_the_input_of_a_debounced_run(engine: TestEngine, policy: Any) -> None:
    run = engine.start(keep, "1", queue=PLAIN, dedup="k", debounce=10)
    if policy == "attach":
        assert engine.start(keep, "2", queue=PLAIN, dedup="k").id == run.id
    else:
        with pytest.raises(DuplicateRun):
            engine.start(keep, "2", queue=PLAIN, dedup="k", on_duplicate="reject")
    engine.advance(10)
    assert run.result() == "1"


def test_a_start_that_debounces_leaves_the_input_of_a_run_that_does_not(engine: TestEngine) -> None:
    run = engine.start(keep, "1", queue=PLAIN, dedup="k", delay=10)
    assert engine.start(keep, "2", queue=PLAIN, dedup="k", debounce=60).id == run.id
    with pytest.raises(DuplicateRun):
        engine.start(keep, "2", queue=PLAIN, dedup="k", debounce=60, on_duplicate="reject")
    engine.advance(10)
    assert run.result() == "1"


def test_a_crash_forgets_neither_the_last_input_nor_when_it_is_due(engine: TestEngine) -> None:
    run = engine.start(keep, "1", queue=PLAIN, dedup="k", debounce=10)
    engine.advance(5)
    engine.start(keep, "2", queue=PLAIN, dedup="k", debounce=10)
    engine.crash()
    engine.reopen().advance(9)
    assert run.status == "pending"
    engine.advance(1)
    assert run.result() == "2"


# --- duplicates -------------------------------------------------------------------------------------------------------


def test_a_start_says_itself_what_becomes_of_a_duplicate(engine: TestEngine) -> None:
    run = engine.start(hold, "a", queue=PLAIN, dedup="k")
    with pytest.raises(DuplicateRun) as caught:
        engine.start(hold, "b", queue=PLAIN, dedup="k", on_duplicate="reject")
    assert caught.value.run_id == run.id
    strict = engine.start(hold, "a", queue=STRICT, dedup="k")
    assert engine.start(hold, "b", queue=STRICT, dedup="k", on_duplicate="attach").id == strict.id
    with pytest.raises(DuplicateRun):
        engine.start(hold, "b", queue=STRICT, dedup="k")


# --- from everywhere --------------------------------------------------------------------------------------------------


@workflow
async def parent() -> list[str]:
    first = await start(keep, "1", queue=PLAIN, dedup="child", debounce=10)
    second = await start(keep, "2", queue=PLAIN, dedup="child", debounce=10, debounce_limit=20)
    try:
        await start(hold, "3", queue=PLAIN, dedup="child", on_duplicate="reject")
    except DuplicateRun:
        return [str(first.id == second.id), await second.result()]
    return []


@workflow
def plain_parent() -> list[str]:
    first = sync.start(keep, "1", queue=PLAIN, dedup="child", debounce=10)
    second = sync.start(keep, "2", queue=PLAIN, dedup="child", debounce=10, debounce_limit=20)
    try:
        sync.start(hold, "3", queue=PLAIN, dedup="child", on_duplicate="reject")
    except DuplicateRun:
        return [str(first.id == second.id), second.result()]
    return []


@pytest.mark.parametrize("code", [parent, plain_parent])
def test_workflow_code_debounces_and_refuses_as_callers_do(engine: TestEngine, code: Any) -> None:
    run = engine.start(code)
    engine.advance(9.9)
    engine.crash()
    engine.reopen().advance(0.1)
    assert run.result() == ["True", "2"]


def test_transactions_and_many_starts_at_once_take_the_same(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        first = tx.start(keep, "1", queue=PLAIN, dedup="k", debounce=10)
        assert tx.start(keep, "2", queue=PLAIN, dedup="k", debounce=10).id == first.id
    runs = engine.start_many(keep, [("3",), ("4",)], queue=PLAIN, dedup="k", debounce=10)
    assert {run.id for run in runs} == {first.id}
    engine.advance(10)
    assert first.result() == "4"
    with engine.transaction() as tx:
        other = tx.start(hold, "1", queue=PLAIN, dedup="other")
        with pytest.raises(DuplicateRun) as caught:
            tx.start(hold, "2", queue=PLAIN, dedup="other", on_duplicate="reject")
    assert caught.value.run_id == other.id
    engine.idle()
    assert engine.list("queue:starts-plain status:pending") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"debounce": 1}, "need a queue"),
        ({"on_duplicate": "reject"}, "need a queue"),
        ({"queue": PLAIN, "debounce": 1}, "a start with debounce= needs dedup="),
        ({"queue": PLAIN, "debounce": 1, "dedup": "k", "delay": 1}, "no delay"),
        ({"queue": PLAIN, "debounce": -1, "dedup": "k"}, "debounce must be between"),
        ({"queue": PLAIN, "debounce": "1", "dedup": "k"}, "debounce must be seconds"),
        ({"queue": PLAIN, "debounce_limit": 1, "dedup": "k"}, "no debounce"),
        ({"queue": PLAIN, "debounce": 2, "debounce_limit": 1, "dedup": "k"}, "must not be below"),
        ({"queue": PLAIN, "on_duplicate": "reject"}, "no key"),
        ({"queue": PLAIN, "on_duplicate": "drop", "dedup": "k"}, "must be 'attach' or 'reject'"),
        ({"queue": Queue("starts-batch", batch=Batch(2, 1)), "debounce": 1}, "collects starts"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    engine: TestEngine, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        engine.start(keep, "a", **options)
    assert engine.list() == []
