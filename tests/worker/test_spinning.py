"""Code that goes round without ever waiting hears of what it polls for, and keeps nobody else from going on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import stepwell
from stepwell import Engine, Retry, receive, step, sync, workflow
from stepwell.cli import main
from stepwell.model.clock import MICROSECONDS
from stepwell.model.journal import TICK
from stepwell.model.run import RunSnapshot
from stepwell.testing import TestEngine
from stepwell.worker.arriving.loader import Loader
from stepwell.worker.running.spinning import EAGER_TICKS, Spinning, pause_after
from stepwell.worker.running.ticks import Ticks
from stepwell.worker.state.facts import TicksDue

MAX_TURNS = 20


@pytest.fixture(autouse=True)
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tests fast."""
    monkeypatch.setattr("stepwell.replay.loop.MAX_TURNS", MAX_TURNS)


@step
async def echo(value: Any) -> Any:
    return value


@step
async def waits_outside(name: str) -> str:
    gates[name][0].set()
    await asyncio.to_thread(gates[name][1].wait)
    return name


gates: dict[str, tuple[threading.Event, threading.Event]] = {}


@step(retry=Retry(attempts=1))
async def fails() -> None:
    raise LookupError("no")


@workflow
async def child(value: int) -> int:
    await asyncio.sleep(5)
    return value


async def rounds_until(is_over: Callable[[], bool]) -> int:
    """Poll; return how often."""
    rounds = 0
    while not is_over():
        rounds += 1
        await asyncio.sleep(0)
    return rounds


# --- what can be polled for -------------------------------------------------------------------------------------------


async def polls_step() -> Any:
    task = asyncio.create_task(echo(1))
    return await rounds_until(task.done), task.result()


async def polls_failing_step() -> Any:
    task = asyncio.create_task(fails())
    return await rounds_until(task.done), repr(task.exception())


async def polls_timer() -> Any:
    task = asyncio.create_task(asyncio.sleep(5, "slept"))
    return await rounds_until(task.done), task.result()


async def polls_timers_of_one_instant() -> Any:
    tasks = [asyncio.create_task(asyncio.sleep(5, number)) for number in range(3)]
    first = await rounds_until(lambda: any(task.done() for task in tasks))
    return first, await rounds_until(lambda: all(task.done() for task in tasks))


async def polls_child() -> Any:
    task = asyncio.create_task(child(7))
    return await rounds_until(task.done), task.result()


async def polls_message() -> Any:
    task = asyncio.create_task(receive("go", str))
    return await rounds_until(task.done), task.result()


async def polls_event() -> Any:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(3, event.set)
    return await rounds_until(event.is_set)


async def polls_clock() -> Any:
    loop = asyncio.get_running_loop()
    until = loop.time() + 3
    return await rounds_until(lambda: loop.time() >= until)


async def polls_while_others_work() -> Any:
    async def works(name: str) -> Any:
        return [await echo(name + str(number)) for number in range(4)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(works(name)) for name in "ab"]
        rounds = await rounds_until(lambda: all(task.done() for task in tasks))
    return rounds, [task.result() for task in tasks]


async def schedules_itself() -> Any:
    loop, rounds, over = asyncio.get_running_loop(), 0, asyncio.create_task(asyncio.sleep(3))

    def again() -> None:
        nonlocal rounds
        rounds += 1
        if not over.done():
            loop.call_soon(again)

    again()
    await over
    return rounds


async def cleans_up_while_cancelled_again_and_again() -> Any:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await rounds_until(cleaned.done)
            await echo("cleaned")

    cleaned = asyncio.create_task(asyncio.sleep(4))
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(1)
    task.cancel()
    return [repr(end) for end in await asyncio.gather(task, return_exceptions=True)]


POLLS: list[Callable[[], Coroutine[Any, Any, Any]]] = [
    polls_step,
    polls_failing_step,
    polls_timer,
    polls_timers_of_one_instant,
    polls_child,
    polls_message,
    polls_event,
    polls_clock,
    polls_while_others_work,
    schedules_itself,
    cleans_up_while_cancelled_again_and_again,
]


@workflow
async def polling(name: str) -> str:
    result = repr(await globals()[name]())
    await echo(result)  # it is compared with the journal in a replay
    await asyncio.sleep(10)
    return result


@pytest.mark.parametrize("poll", POLLS)
def test_polling_ends_when_that_comes_about_and_is_replayed_the_same(engine: TestEngine, poll: Any) -> None:
    run = engine.start(polling, poll.__name__)
    run.send("go", "gone")
    engine.advance(7)
    engine.crash()
    engine.reopen(max_waiting_in_memory=0)  # what it polled for is in the journal: it is found at the same rounds again
    engine.advance(20)
    assert run.info().status == "completed", run.info().reason
    entries = [line for line in run.journal() if (line.operation, line.name) == (0, TICK)]
    assert entries


@pytest.mark.parametrize("poll", POLLS)
def test_a_crash_while_it_polls_changes_nothing(engine: TestEngine, poll: Any) -> None:
    run = engine.start(polling, poll.__name__)
    for _ in range(3):
        engine.advance(2)
        engine.crash()
        engine.reopen()
    run.send("go", "gone")
    engine.advance(20)
    assert run.info().status == "completed", run.info().reason


@workflow
async def counts(times: int) -> int:
    for _ in range(times):
        await asyncio.sleep(0)
    return times


@workflow
def counts_plainly(times: int) -> int:
    for _ in range(times):
        sync.sleep(0)
    return times


@pytest.mark.parametrize("flow", [counts, counts_plainly])
def test_code_that_goes_round_for_long_and_ends_needs_no_time(engine: TestEngine, flow: Any) -> None:
    run = engine.start(flow, 20 * MAX_TURNS)
    engine.idle()
    assert run.result() == 20 * MAX_TURNS


@step
def plain_step(value: str) -> str:
    return value


def test_a_blocking_call_after_many_rounds_starts_the_code_anew_and_goes_round_as_often(engine: TestEngine) -> None:
    @workflow
    async def late_block() -> Any:
        rounds, _ = await polls_timer()
        return [rounds, globals()["plain_step"]("called")]

    run = engine.start(late_block)
    engine.advance(6)
    assert run.result(timeout=10)[1] == "called"


@workflow
async def spreads_out(count: int) -> int:
    return sum(await asyncio.gather(*(asyncio.sleep(1, 1) for _ in range(count))))


def test_many_tasks_at_once_are_no_going_round(engine: TestEngine) -> None:
    run = engine.start(spreads_out, 5 * MAX_TURNS)
    engine.advance(2)
    assert run.result() == 5 * MAX_TURNS
    assert [line for line in run.journal() if not line.operation] == []


# --- others go on -----------------------------------------------------------------------------------------------------


@workflow
async def spins() -> None:
    await rounds_until(lambda: False)


@workflow
async def spins_in_callbacks() -> None:
    loop = asyncio.get_running_loop()

    def again() -> None:
        loop.call_soon(again)

    again()
    await receive("never")


@workflow
async def spins_and_swallows() -> None:
    while True:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            continue


@workflow
async def spins_with_timers() -> None:
    future = asyncio.get_running_loop().create_future()
    while not future.done():
        await asyncio.wait([future], timeout=0)


@workflow
async def spins_with_messages() -> None:
    while await receive("never", bool, timeout=0) is None:
        pass


SPINNERS = [spins, spins_in_callbacks, spins_and_swallows, spins_with_timers, spins_with_messages]


@workflow
async def ordinary(value: int) -> int:
    await asyncio.sleep(0.01)
    return int(await echo(value))


@pytest.mark.parametrize("spinner", SPINNERS)
def test_other_runs_go_on_and_the_engine_closes(database: Path, spinner: Any) -> None:
    with Engine(database) as engine:
        stuck = [engine.start(spinner) for _ in range(3)]
        others = [engine.start(ordinary, value) for value in range(20)]
        assert [run.result(timeout=60) for run in others] == list(range(20))
        assert {run.info().status for run in stuck} <= {"running", "waiting"}
    with Engine(database, workflows=[]) as engine:
        assert {engine.get(run.id).info().status for run in stuck} == {"waiting"}  # for whoever opens the file next


@pytest.mark.parametrize("spinner", [spins, spins_in_callbacks, spins_with_timers, spins_with_messages])
def test_a_run_that_goes_round_can_be_cancelled(database: Path, spinner: Any) -> None:
    with Engine(database) as engine:
        run = engine.start(spinner)
        run.cancel()
        with pytest.raises(stepwell.RunCancelled):
            run.result(timeout=60)


def test_a_deadline_ends_a_run_that_goes_round(engine: TestEngine) -> None:
    run = engine.start(spins, deadline=timedelta(minutes=1))
    engine.advance(61)
    assert run.info().status == "failed"


@pytest.mark.parametrize("poll", [spins_with_timers, spins_with_messages])
def test_timers_that_are_due_at_once_fire_more_and_more_seldom(
    engine: TestEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, poll: Any
) -> None:
    monkeypatch.setattr("stepwell.worker.arriving.run_timers._ROUNDS", 1)  # and the first one, each time
    run = engine.start(poll, id="in a hurry", deadline=timedelta(seconds=2))
    engine.idle()
    assert 2 * EAGER_TICKS <= len(run.journal()) <= 2 * (EAGER_TICKS + 2)
    found = [record.getMessage() for record in caplog.records if "due at once" in record.getMessage()]
    assert len(found) == 1
    assert "'in a hurry'" in found[0]
    assert __file__ in found[0]
    engine.advance(1)
    assert len(run.journal()) < 2 * (EAGER_TICKS + 250)
    engine.advance(2)
    assert run.info().status == "failed"


@pytest.mark.parametrize("poll", [spins_with_timers, spins_with_messages])
def test_a_run_whose_timers_are_due_at_once_is_not_read_again_and_again_where_memory_is_short(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch, poll: Any
) -> None:
    read: list[str] = []
    load = Loader._load

    def counted(loader: Loader, snapshot: RunSnapshot) -> None:
        read.append(snapshot.record.id)
        load(loader, snapshot)

    monkeypatch.setattr(Loader, "_load", counted)
    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(poll, id="in a hurry", deadline=timedelta(seconds=2))
    other = engine.start(receiver, id="patient")
    engine.advance(1)
    assert len(read) <= 2  # when it first waited, and before it was known that it polls
    other.send("go", "gone")
    assert other.result(timeout=30) == "gone"
    assert read[-1] == "patient"  # which had left
    engine.advance(2)
    assert run.info().status == "failed"


@workflow
async def receiver() -> str:
    return await receive("go", str)


@pytest.mark.parametrize(
    ("spinner", "place"),
    [(spins, "in rounds_until"), (spins_in_callbacks, "the callback spins_in_callbacks.<locals>.again (")],
)
def test_a_run_that_goes_round_for_long_is_named_with_its_line(
    engine: TestEngine, caplog: pytest.LogCaptureFixture, spinner: Any, place: str
) -> None:
    run = engine.start(spinner, id="round and round")
    engine.idle()
    found = [record.getMessage() for record in caplog.records if "gone round" in record.getMessage()]
    assert len(found) == 1
    assert "'round and round'" in found[0]
    assert f"{EAGER_TICKS * MAX_TURNS} times" in found[0]
    assert place in found[0]
    assert __file__ in found[0]
    run.cancel()


def test_a_step_that_is_polled_for_comes_in_at_once_however_long_that_took(engine: TestEngine) -> None:
    @workflow
    async def polls_slow_step() -> str:
        task = asyncio.create_task(waits_outside("slow"))
        await rounds_until(task.done)
        return task.result()

    gates["slow"] = begun, _ = threading.Event(), threading.Event()
    run = engine.start(polls_slow_step)
    assert begun.wait(30)
    with pytest.raises(TimeoutError):  # by now its ticks have pauses in between
        engine.idle(timeout=1)
    gates["slow"][1].set()
    assert run.result(timeout=30) == "slow"


def test_the_pauses_grow_so_that_a_day_takes_a_few_thousand_ticks() -> None:
    elapsed = ticks = 0
    while elapsed < 24 * 3600 * MICROSECONDS:
        ticks += 1
        elapsed += pause_after(ticks) if ticks >= EAGER_TICKS else 0
    assert ticks < 4000
    assert pause_after(10**9) == 60 * MICROSECONDS


# --- many of them -----------------------------------------------------------------------------------------------------


class Rounds:
    """A worker whose runs go round for ever, and which notes who is given a tick."""

    def __init__(self, count: int) -> None:
        self.now = 0
        self.draining = False
        self.events = 0
        self.told: list[int] = []
        self.batch = self
        self.memory: Any = SimpleNamespace(runs={})
        itself: Any = self  # as much of a worker as they need
        self.spinning = Spinning(itself)
        self.ticks = Ticks(itself, self.spinning, itself, itself)
        for key in range(count):
            code = SimpleNamespace(spins=True, has_news=False, loop=self, waits_at=str)
            run: Any = SimpleNamespace(key=key, id=str(key), spin=None, finished=False, execution=code)
            self.memory.runs[key] = run
            self.spinning.rest(run)

    def ready_callbacks(self) -> list[Any]:
        return []

    def later(self, fact: Any) -> None:
        assert isinstance(fact, TicksDue)
        self.events += 1

    def work_of(self, _run: Any) -> None: ...

    def deliver(self, run: Any, _entry: Any, _work: Any) -> None:
        self.told.append(run.key)

    def carry_on(self, run: Any, _work: Any) -> None:
        self.spinning.rest(run)

    def handle_event(self) -> None:
        assert self.events == 1  # all other events come in between
        self.events = 0
        self.ticks.give_some()


def test_many_runs_that_go_round_take_turns_a_few_at_a_time() -> None:
    rounds = Rounds(10)
    for _ in range(25):
        rounds.handle_event()
    assert rounds.told == list(range(10)) * 10


def test_runs_whose_pauses_are_over_at_once_wait_for_their_turns_as_well() -> None:
    rounds = Rounds(10)
    while rounds.events:
        rounds.handle_event()
    rounds.told.clear()
    rounds.now += 10 * MICROSECONDS
    for run in rounds.memory.runs.values():
        rounds.spinning.look(run)
    rounds.handle_event()
    assert rounds.told == [0, 1, 2, 3]


# --- several lives ----------------------------------------------------------------------------------------------------


def test_a_run_that_kills_its_workers_while_it_goes_round_is_given_up(database: Path) -> None:
    with TestEngine(database, max_crashes=3) as engine:
        run = engine.start(spins)
        for _ in range(3):
            engine.idle()
            assert run.info().status == "running"
            engine.crash()
            engine.reopen()
        engine.idle()
        assert run.info().status == "halted"


def test_show_counts_ticks_that_follow_one_another(
    engine: TestEngine, database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = engine.start(polling, "polls_timer", id="polls")
    engine.advance(20)
    ticks = sum(line.operation == 0 for line in run.journal())
    engine.close()
    assert main(["show", "polls", "--db", str(database)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = [words for words in lines if words[:3] == ["0", "timer", "tick"]]
    counts = [int(words[-2]) if words[-1] == "times" else 1 for words in shown]
    assert sum(counts) == ticks
    assert len(shown) < 5


# --- code that was mended ---------------------------------------------------------------------------------------------


def test_a_run_goes_on_with_code_that_waits_where_it_went_round(engine: TestEngine) -> None:
    @workflow(name="mended")
    async def before() -> str:
        task = asyncio.create_task(receive("go", str))
        await rounds_until(task.done)
        return "polled: " + task.result()

    @workflow(name="mended")
    async def after() -> str:
        return "waited: " + await receive("go", str)

    engine.reopen(workflows=[before])
    run = engine.start(before)
    engine.idle()
    engine.crash()
    engine.reopen(workflows=[after])
    engine.idle()
    run.send("go", "gone")
    assert run.result(timeout=30) == "waited: gone"
