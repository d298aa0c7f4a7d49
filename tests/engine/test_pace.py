"""One turn takes a slice of time, whatever comes in; and who keeps the engine's thread busy is named rightly."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.engine.test_contention import NOW, Driver, nothing

from stepwell import AsyncEngine, Engine, EngineClosed, StoreUnavailable, step, workflow
from stepwell.definitions.step_call import StepCall
from stepwell.runtime.serving.requests import StartRun
from stepwell.runtime.turn import TurnLoop
from stepwell.runtime.watchdog import Watchdog
from stepwell.store.changes import RunCreated
from stepwell.store.sqlite.store import SqliteStore
from stepwell.values.codec import Codec
from stepwell.worker.pace import LEAST, MOST, SLICE_SECONDS, STARTS, Pace
from stepwell.worker.state.runs import Capacity

DEADLINE_SECONDS = 60


@pytest.mark.parametrize("seconds_each", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1.0])
def test_a_turn_takes_on_what_fills_a_slice_of_time(seconds_each: float) -> None:
    pace = Pace()
    for _ in range(20):
        pace.turn_took(pace.limit * seconds_each, pace.limit)
    assert LEAST <= pace.limit <= MOST
    if LEAST < pace.limit < MOST:
        assert 0.7 * SLICE_SECONDS <= pace.limit * seconds_each <= SLICE_SECONDS


def test_a_turn_of_a_few_events_says_nothing_about_the_next() -> None:
    pace = Pace()
    before = pace.limit
    pace.turn_took(5.0, 3)
    assert pace.limit == before


# --- a turn -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def turn_loop(database: Path) -> Iterator[TurnLoop]:
    store = SqliteStore.open(database)
    limits = Capacity(running=1000, waiting=10, crashes=5)
    turn_loop = TurnLoop(store, Codec(), {"nothing": nothing}, limits=limits, chance=lambda: 0.5, driver=Driver())
    store.writers.acquire()
    turn_loop.open(NOW)
    store.writers.release()
    while turn_loop.has_more():
        turn_loop.turn(NOW)
    yield turn_loop
    store.writers.acquire()
    store.close(turn_loop.claim, NOW)
    store.writers.release()


def post_starts(turn_loop: TurnLoop, number: int) -> list[Any]:
    replies: list[Any] = []
    for index in range(number):
        creation = RunCreated(f"r{index}", "nothing", None, 0, "running", NOW)
        turn_loop.submit(StartRun(creation), lambda *reply: replies.append(reply))
    return replies


def test_many_starts_are_spread_over_turns_and_nobody_else_waits_for_them(turn_loop: TurnLoop) -> None:
    turn_loop.limit = 20
    replies = post_starts(turn_loop, 200)
    handled: list[int] = []
    turns = 0
    while turn_loop.has_more():
        turn_loop.post(lambda: handled.append(len(replies)))
        before = len(handled)
        turn_loop.turn(NOW)
        turns += 1
        # What comes in while hundreds of starts wait is handled in the very next turn.
        assert len(handled) == before + 1
        assert turn_loop.taken_on <= 2 * turn_loop.limit + 1
        if len(replies) == 200:
            break
    assert [error for _, error in replies] == [None] * 200
    assert turns >= 10


def test_runs_that_transactions_started_begin_in_slices_and_nobody_else_waits_for_them(
    turn_loop: TurnLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(turn_loop.worker.loader, "begin_started", lambda started: begun.append(len(started)))
    turn_loop.limit = MOST
    for transaction in range(4):
        creations = [RunCreated(f"t{transaction}-{n}", "nothing", None, 0, "running", NOW) for n in range(1000)]
        started = [(creation, 10_000 + 1_000 * transaction + n) for n, creation in enumerate(creations)]
        turn_loop.post(partial(turn_loop.worker.started_outside, started))
    handled: list[int] = []
    turn_loop.turn(NOW)
    while sum(begun) < 4000:
        # The step of another run that ends now is in the commit of the very next turn, which is a short one.
        before, others = sum(begun), len(handled)
        turn_loop.post(lambda: handled.append(sum(begun)))
        turn_loop.turn(NOW)
        assert handled[others:] == [before]
        assert 0 < sum(begun) - before <= STARTS


def test_a_few_runs_that_a_transaction_started_begin_at_once(
    turn_loop: TurnLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(turn_loop.worker.loader, "begin_started", lambda started: begun.append(len(started)))
    creation = RunCreated("few", "nothing", None, 0, "running", NOW)
    turn_loop.post(partial(turn_loop.worker.started_outside, [(creation, 10_000)]))
    turn_loop.turn(NOW)
    assert begun == [1]


def test_starts_come_to_their_turn_however_much_else_comes_in(turn_loop: TurnLoop) -> None:
    turn_loop.limit = 20
    replies = post_starts(turn_loop, 10)
    for _ in range(40):
        for _ in range(100):
            turn_loop.post(lambda: None)
        turn_loop.turn(NOW)
        if len(replies) == 10:
            break
    assert len(replies) == 10


def test_starts_wait_outside_while_somebody_else_is_writing(turn_loop: TurnLoop) -> None:
    turn_loop.limit = 20
    turn_loop.store.writers.acquire()
    replies = post_starts(turn_loop, 200)
    for _ in range(20):
        turn_loop.turn(NOW)
    # What would be one enormous commit in the end.
    assert len(turn_loop.worker.batch) <= turn_loop.limit
    assert not turn_loop.has_more()
    turn_loop.give_up_waiting(StoreUnavailable("somebody writes"))
    assert [str(error) for _, error in replies] == ["somebody writes"] * 200
    turn_loop.store.writers.release()
    replies = post_starts(turn_loop, 5)
    while turn_loop.has_more():
        turn_loop.turn(NOW)
    assert [error for _, error in replies] == [None] * 5


def test_starts_that_wait_are_answered_when_the_engine_fails(turn_loop: TurnLoop) -> None:
    replies = post_starts(turn_loop, 5)
    turn_loop._driver.failed = lambda: None  # type: ignore[method-assign]
    turn_loop.fail(RuntimeError("over"))
    assert len(replies) == 5
    assert all(isinstance(error, EngineClosed) for _, error in replies)


def test_the_ends_of_many_steps_are_taken_in_slices(turn_loop: TurnLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(turn_loop.worker.steps, "finished", taken.append)
    turn_loop.limit = 20
    ended: list[Any] = list(range(100))
    turn_loop.post(lambda: turn_loop.steps_finished(ended))
    sizes: list[int] = []
    while turn_loop.has_more():
        before = len(taken)
        turn_loop.turn(NOW)
        sizes.append(len(taken) - before)
    assert taken == ended
    assert max(sizes) <= 40


@step
async def plus_one(number: int) -> int:
    return number + 1


@workflow
async def counts(number: int) -> int:
    return await plus_one(number)


def test_thousands_of_starts_at_once_all_run(database: Path) -> None:
    async def main() -> list[int]:
        async with AsyncEngine(database, durability="normal") as engine:
            runs = await asyncio.gather(*(engine.start(counts, number) for number in range(2000)))
            return [await run.result() for run in runs]

    assert asyncio.run(main()) == list(range(1, 2001))


def test_starts_that_were_asked_for_before_the_engine_is_closed_are_written(database: Path) -> None:
    engine = Engine(database, durability="normal")
    answers: list[Any] = []
    with engine.transaction():  # nobody can write yet
        for number in range(1000):
            request = engine._session.requests.start(counts, (number,), {"id": f"r{number}"})
            engine._session.engine_thread.submit(request, lambda *answer: answers.append(answer))
    engine.close(timeout=DEADLINE_SECONDS)
    assert [error for _, error in answers] == [None] * 1000


# --- who keeps the thread busy ----------------------------------------------------------------------------------------


class Busy:
    """A thread that is in a turn, as the engine's; what it does there goes on until it is told to go on."""

    def __init__(self) -> None:
        self.there = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.turn: Callable[[], None] = self.one_call
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self) -> None:
        self.turn()

    def wait(self) -> None:
        self.there.release()
        self.go_on.acquire(timeout=DEADLINE_SECONDS)

    def one_call(self) -> None:
        self.on_behalf_of(attempts_of("slow"))

    def many_calls(self) -> None:
        self.on_behalf_of(attempts_of("quick"))
        self.on_behalf_of(attempts_of("quick too"))

    def own_work(self) -> None:
        self.wait()
        self.wait()

    def on_behalf_of(self, attempts: StepCall) -> None:
        self.wait()
        if attempts.name == "slow":
            self.wait()

    def looked_at(self) -> None:
        watchdog = Watchdog(lambda: self.thread.ident, {self.turn.__code__}, lambda: None)
        self.thread.start()
        for _ in range(2):
            assert self.there.acquire(timeout=DEADLINE_SECONDS)
            watchdog._look()
            self.go_on.release()
        self.thread.join()


def attempts_of(name: str) -> StepCall:
    return StepCall(1, "the run", plus_one, name, 0, (), {}, copy_context())


@pytest.mark.slow_machine
@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("one_call", "step 'tests.engine.test_pace.plus_one' of run 'the run' has kept the engine's thread busy"),
        ("many_calls", "no workflow or step is to blame"),
        ("own_work", "no workflow or step is to blame"),
    ],
)
def test_code_is_blamed_only_where_it_has_kept_the_thread_all_the_time(
    caplog: pytest.LogCaptureFixture, does: str, said: str
) -> None:
    caplog.set_level(logging.WARNING)
    busy = Busy()
    busy.turn = getattr(busy, does)
    busy.looked_at()
    (message,) = caplog.messages
    assert said in message
    assert ("Move what takes time into a step" in message) == (does == "one_call")
