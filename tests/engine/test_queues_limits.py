"""Limits of steps: permits, what they are held by, and when they come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.waiting import until

from stepwell import (
    InvalidArgument,
    Limit,
    PermanentError,
    Queue,
    Rate,
    Retry,
    RunCancelled,
    RunHalted,
    StepTimeout,
    receive,
    step,
    workflow,
)
from stepwell.errors import StoreError
from stepwell.model.journal import Entry, EntryKind
from stepwell.model.run import Claim
from stepwell.store.store import Outcome, Unit
from stepwell.testing import TestEngine

narrow = Limit("narrow permits", concurrency=2)
single = Limit("single", concurrency=1)
slow = Limit("slow calls", rate=Rate(2, per=10))

gate = threading.Event()
happened: list[Any] = []


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    happened.clear()
    gate.clear()
    yield
    gate.set()


class Crowd:
    """Counts how many are inside at once."""

    inside = 0
    most = 0

    def __enter__(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


crowd = Crowd()


@step(limit=narrow)
async def visit(number: int) -> int:
    with crowd:
        await asyncio.sleep(0.001)
    return number


@workflow
async def tour(count: int) -> list[int]:
    return list(await asyncio.gather(*(visit(number) for number in range(count))))


@step(limit=single)
def enter(name: str) -> str:
    happened.append(name)
    gate.wait(60)
    return name


@workflow
async def one(name: str) -> str:
    return enter(name)


@workflow
async def impatient(name: str) -> str:
    try:
        async with asyncio.timeout(5):
            return await asyncio.to_thread(enter, name)
    except TimeoutError:
        return "gave up"


@step(limit=slow)
def call(name: str) -> str:
    happened.append(name)
    return name


@workflow
async def caller(name: str) -> str:
    return call(name)


def info(engine: TestEngine, limit: Limit) -> tuple[int, int]:
    """Return how many wait for a permit, and how many have one."""
    found = engine.queue(limit).info()
    return found.waiting, found.running


def wait_until_started(count: int) -> None:
    """Wait until so many attempts have begun; those that wait for a permit do not."""
    until(lambda: len(happened) >= count)
    assert len(happened) == count


def test_no_more_attempts_are_under_way_than_the_limit_allows_over_all_runs(engine: TestEngine) -> None:
    crowd.most = 0
    runs = [engine.start(tour, 5) for _ in range(4)]
    assert [run.result(60) for run in runs] == [[0, 1, 2, 3, 4]] * 4
    assert crowd.most == 2
    assert info(engine, narrow) == (0, 0)


def test_a_run_that_waits_for_a_permit_is_waiting_and_needs_no_thread(engine: TestEngine) -> None:
    first, second = engine.start(one, "a"), engine.start(one, "b")
    until(lambda: (first.status, second.status) == ("running", "waiting"))
    wait_until_started(1)
    assert info(engine, single) == (1, 1)
    assert second.info().wake_at is None
    gate.set()
    assert (first.result(), second.result()) == ("a", "b")


def test_permits_are_given_in_the_order_of_asking(engine: TestEngine) -> None:
    runs = [engine.start(one, str(number)) for number in range(4)]
    wait_until_started(1)
    gate.set()
    for run in runs:
        run.result()
    assert happened == ["0", "1", "2", "3"]


def test_a_run_that_waits_for_a_permit_can_leave_memory(database: Path) -> None:
    with TestEngine(database, max_waiting_in_memory=0) as engine:
        first, second = engine.start(one, "a"), engine.start(one, "b")
        wait_until_started(1)
        until(lambda: info(engine, single) == (1, 1) and second.id not in engine.in_memory)
        gate.set()
        assert (first.result(), second.result()) == ("a", "b")


def test_a_step_that_is_given_up_while_it_waits_leaves_the_line(engine: TestEngine) -> None:
    engine.start(one, "a")
    giving_up = engine.start(impatient, "b")
    until(lambda: info(engine, single) == (1, 1))
    engine.clock.advance(6)
    assert giving_up.result() == "gave up"
    assert info(engine, single) == (0, 1)
    third = engine.start(one, "c")
    gate.set()
    assert third.result() == "c"
    assert happened == ["a", "c"]


def test_a_cancelled_run_returns_what_it_has_and_waits_for_nothing(engine: TestEngine) -> None:
    waiting, third = engine.start(one, "a"), engine.start(one, "b")
    until(lambda: info(engine, single) == (1, 1))
    third.cancel()
    with pytest.raises(RunCancelled):
        third.result()
    assert info(engine, single) == (0, 1)
    waiting.cancel()
    with pytest.raises(RunCancelled):
        waiting.result()
    # What the run has called in a thread is not over with the run.
    assert info(engine, single) == (0, 1)
    gate.set()
    until(lambda: info(engine, single) == (0, 0))


def test_a_permit_outlives_the_worker_and_serves_the_repeated_attempt(engine: TestEngine) -> None:
    first, second = engine.start(one, "a"), engine.start(one, "b")
    until(lambda: info(engine, single) == (1, 1))
    wait_until_started(1)
    engine.crash()
    engine.reopen()
    wait_until_started(2)
    assert info(engine, single) == (1, 1)
    gate.set()
    assert (first.result(), second.result()) == ("a", "b")
    assert happened == ["a", "a", "b"]
    assert info(engine, single) == (0, 0)


def test_a_retry_asks_again_and_lets_others_go_first(engine: TestEngine) -> None:
    @step(limit=single, retry=Retry(attempts=2, delay=5, jitter=0))
    def flaky(name: str) -> str:
        happened.append(name)
        if happened.count(name) < 2:
            raise ValueError("once more")
        return name

    @workflow
    async def run_flaky(name: str) -> str:
        return flaky(name)

    runs = [engine.start(run_flaky, name) for name in "ab"]
    engine.idle()
    assert happened == ["a", "b"]
    assert info(engine, single) == (0, 0)
    engine.advance(5)
    assert [run.result() for run in runs] == ["a", "b"]


def test_an_attempt_that_fails_or_takes_too_long_returns_its_permit(engine: TestEngine) -> None:
    @step(limit=single)
    def fails() -> None:
        raise PermanentError("no")

    @step(limit=single, timeout=0.01)
    async def hangs() -> None:
        await asyncio.sleep(60)

    @workflow
    async def both() -> str:
        with pytest.raises(PermanentError):
            fails()
        with pytest.raises(StepTimeout):
            await hangs()
        return enter("c")

    gate.set()
    assert engine.start(both).result(60) == "c"
    assert info(engine, single) == (0, 0)


def test_a_thread_that_goes_on_after_its_time_keeps_the_permit_of_its_attempt(engine: TestEngine) -> None:
    inside = Crowd()

    # As many attempts as it takes: on a busy machine one that does not wait may be late as well.
    @step(limit=single, timeout=0.05, retry=Retry(attempts=1000, delay=0))
    def stubborn(name: str) -> str:
        with inside:
            happened.append(name)
            if len(happened) < 3:
                gates[len(happened) - 1].wait(60)
            return name

    @workflow
    async def calls_it(name: str) -> str:
        return stubborn(name)

    gates = [threading.Event(), threading.Event()]
    first = engine.start(calls_it, "a")
    wait_until_started(1)
    # The attempt has timed out, and its retry waits for the permit that its own thread has.
    until(lambda: info(engine, single) == (1, 1))
    assert [entry.kind for entry in first.journal()] == ["attempt_failed"]
    second = engine.start(one, "b")
    until(lambda: info(engine, single) == (2, 1))
    assert len(happened) == 1
    gates[0].set()
    wait_until_started(2)
    until(lambda: info(engine, single) == (2, 1))
    gates[1].set()
    gate.set()
    assert (first.result(), second.result()) == ("a", "b")
    assert inside.most == 1
    until(lambda: info(engine, single) == (0, 0))


def test_a_retry_of_an_attempt_whose_thread_goes_on_takes_another_permit_where_there_is_one(
    engine: TestEngine,
) -> None:
    @step(limit=narrow, timeout=0.05, retry=Retry(attempts=1000, delay=0))
    def stubborn(name: str) -> str:
        happened.append(name)
        if len(happened) == 1:
            gate.wait(60)
        return name

    @workflow
    async def calls_it(name: str) -> str:
        return stubborn(name)

    assert engine.start(calls_it, "a").result() == "a"
    assert len(happened) >= 2
    until(lambda: info(engine, narrow) == (0, 1))
    gate.set()
    until(lambda: info(engine, narrow) == (0, 0))


def test_the_permit_of_a_thread_that_never_ends_is_free_when_its_worker_has_ended(engine: TestEngine) -> None:
    run = engine.start(one, "a")
    wait_until_started(1)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result()
    second = engine.start(one, "b")
    until(lambda: info(engine, single) == (1, 1))
    engine.crash()
    engine.reopen()
    wait_until_started(2)
    gate.set()
    assert second.result() == "b"
    assert info(engine, single) == (0, 0)


def refuse_one(engine: TestEngine, monkeypatch: pytest.MonkeyPatch, kind: EntryKind) -> None:
    """Have the next unit that records an entry of this kind refused."""
    commit = engine._session.store.commit
    refused: list[Unit] = []

    def records(unit: Unit) -> bool:
        return any(isinstance(change, Entry) and change.kind == kind for change in unit.changes)

    def commit_all_but_one(units: Sequence[Unit], claim: Claim) -> list[Outcome]:
        if not refused:
            refused.extend([unit for unit in units if records(unit)][:1])
        outcomes = iter(commit([unit for unit in units if unit not in refused], claim))
        return [StoreError("refused by the test") if unit in refused else next(outcomes) for unit in units]

    monkeypatch.setattr(engine._session.store, "commit", commit_all_but_one)


@workflow
async def with_word(name: str) -> list[str]:
    return list(await asyncio.gather(asyncio.to_thread(enter, name), receive("word", str)))


def test_a_thread_that_goes_on_while_its_run_is_read_again_keeps_the_permit(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(with_word, "a")
    wait_until_started(1)
    refuse_one(engine, monkeypatch, "message")
    with pytest.raises(StoreError, match="refused by the test"):
        run.send("word", "lost")
    until(lambda: info(engine, single) == (1, 1))
    assert happened == ["a"]
    gate.set()
    run.send("word", "heard")
    assert run.result() == ["a", "heard"]
    assert happened == ["a", "a"]
    until(lambda: info(engine, single) == (0, 0))


def test_a_thread_that_was_given_up_in_a_write_that_was_refused_keeps_the_permit(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(impatient, "a")
    wait_until_started(1)
    refuse_one(engine, monkeypatch, "timer")
    engine.clock.advance(6)
    assert run.result() == "gave up"
    assert happened == ["a"]
    assert info(engine, single) == (0, 1)
    gate.set()
    until(lambda: info(engine, single) == (0, 0))


def test_a_thread_that_goes_on_while_the_engine_fails_to_handle_its_run_keeps_the_permit(engine: TestEngine) -> None:
    run = engine.start(with_word, "a")
    wait_until_started(1)
    engine_thread, record = engine._session.engine_thread, engine._session.reads.record(run.id)
    engine_thread.post(lambda: engine_thread.worker.halt_broken(record.key, RuntimeError("a defect")))
    with pytest.raises(RunHalted, match="a defect"):
        run.result()
    second = engine.start(one, "b")
    until(lambda: info(engine, single) == (1, 1))
    assert happened == ["a"]
    gate.set()
    assert second.result() == "b"
    until(lambda: info(engine, single) == (0, 0))


def test_a_halted_run_returns_its_permits_and_asks_again_when_it_is_resumed(engine: TestEngine) -> None:
    @step(limit=single)
    def unfit() -> Any:
        happened.append("unfit")
        return object() if len(happened) == 1 else 1

    @workflow
    async def halts() -> Any:
        return unfit()

    run = engine.start(halts)
    engine.idle()
    assert run.status == "halted"
    assert info(engine, single) == (0, 0)
    run.resume()
    assert run.result() == 1


def test_an_at_most_once_step_records_its_intent_with_the_permit(engine: TestEngine) -> None:
    @step(limit=single, delivery="at-most-once")
    def once(name: str) -> str:
        happened.append(name)
        return name

    @workflow
    async def only(name: str) -> str:
        return once(name)

    runs = [engine.start(only, str(number)) for number in range(5)]
    assert [run.result() for run in runs] == ["0", "1", "2", "3", "4"]
    assert [entry.kind for entry in runs[4].journal()] == ["step_started", "step"]


def test_no_window_holds_more_attempts_than_the_rate_allows(engine: TestEngine) -> None:
    runs = [engine.start(caller, str(number)) for number in range(5)]
    engine.idle()
    assert happened == ["0", "1"]
    engine.advance(9.9)
    assert len(happened) == 2
    engine.advance(0.1)
    assert len(happened) == 4
    engine.crash()
    engine.reopen().advance(9.9)
    assert len(happened) == 4
    engine.advance(0.1)
    assert runs[4].result() == "4"


def test_a_repeated_attempt_is_another_start(engine: TestEngine) -> None:
    @step(limit=slow)
    def hold_call(name: str) -> str:
        happened.append(name)
        gate.wait(60)
        return name

    @workflow
    async def holder(name: str) -> str:
        return hold_call(name)

    first, second = engine.start(holder, "a"), engine.start(holder, "b")
    wait_for = [first, second]
    wait_until_started(2)
    engine.crash()
    engine.reopen().idle()
    assert happened == ["a", "b"]
    gate.set()
    engine.advance(10)
    assert [run.result() for run in wait_for] == ["a", "b"]
    assert sorted(happened) == ["a", "a", "b", "b"]


def test_waiting_for_a_permit_counts_neither_against_timeout_nor_deadline(engine: TestEngine) -> None:
    @step(limit=slow, timeout=5, deadline=6)
    async def timed(name: str) -> str:
        happened.append(name)
        return name

    @workflow
    async def run_timed(name: str) -> str:
        return await timed(name)

    runs = [engine.start(run_timed, str(number)) for number in range(5)]
    engine.advance(30)
    assert [run.result() for run in runs] == ["0", "1", "2", "3", "4"]


def test_the_deadline_of_a_step_with_a_limit_counts_from_its_first_attempt(engine: TestEngine) -> None:
    @step(limit=narrow, deadline=10, retry=Retry(attempts=100, delay=4, backoff=1, jitter=0))
    async def flaky() -> None:
        happened.append("attempt")
        raise ConnectionError("down")

    @workflow
    async def run_flaky() -> None:
        await flaky()

    run = engine.start(run_flaky)
    engine.advance(30)
    assert run.status == "failed"
    assert len(happened) == 3


def test_options_can_add_a_limit_for_one_call(engine: TestEngine) -> None:
    @step
    def free(name: str) -> str:
        happened.append(name)
        gate.wait(60)
        return name

    @workflow
    async def limited(name: str) -> str:
        return free.options(limit=single)(name)

    runs = [engine.start(limited, name) for name in "ab"]
    wait_until_started(1)
    gate.set()
    assert [run.result() for run in runs] == ["a", "b"]


def test_a_limit_can_be_paused_and_changed_live(engine: TestEngine) -> None:
    gate.set()
    engine.start(one, "first").result()
    engine.queue(single).pause()
    run = engine.start(one, "a")
    engine.idle()
    assert (run.status, happened) == ("waiting", ["first"])
    engine.queue("single").resume()
    assert run.result() == "a"
    engine.queue(single).change(concurrency=5, rate=Rate(1, per=10))
    runs = [engine.start(one, name) for name in "bc"]
    engine.idle()
    assert happened == ["first", "a", "b"]
    engine.advance(timedelta(seconds=10))
    assert [run.result() for run in runs] == ["b", "c"]


def test_a_queue_is_no_limit(engine: TestEngine) -> None:
    queue: Any = Queue("line")
    with pytest.raises(InvalidArgument, match="limit must be a Limit"):
        step(limit=cast("Limit", queue))
    assert engine.queues() == []


def test_receiving_goes_on_while_a_permit_is_awaited(engine: TestEngine) -> None:
    @workflow
    async def both(name: str) -> list[str]:
        return list(await asyncio.gather(asyncio.to_thread(enter, name), receive("word", str)))

    first, second = engine.start(both, "a"), engine.start(both, "b")
    wait_until_started(1)
    second.send("word", "hello")
    first.send("word", "hi")
    gate.set()
    assert (first.result(), second.result()) == (["a", "hi"], ["b", "hello"])
