"""A thread that hangs, or whose step waits for a run, keeps no other step from its turn; the log names who does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

from stepwell import Engine, Retry, RunCancelled, RunDeadlineExceeded, StepTimeout, current, publish, step, workflow
from stepwell.definitions.step_call import StepCall
from stepwell.executors.congestion import REPEAT_SECONDS, WAITING_SECONDS, Congestion

may_end = threading.Event()
began: list[int] = []
at_once: list[int] = []
most_at_once: list[int] = []
shared: list[Engine] = []


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    began.clear()
    at_once.clear()
    most_at_once.clear()
    may_end.clear()
    yield
    may_end.set()  # so that no thread outlives its test


@step
def hangs(number: int) -> str:
    began.append(number)
    may_end.wait(120)
    return "late"


@step
def healthy() -> str:
    at_once.append(1)
    most_at_once.append(len(at_once))
    time.sleep(0.002)  # so that those which may execute at the same time do
    at_once.pop()
    return "ok"


@workflow
async def calls_hanging(number: int, timeout: float | None, deadline: float | None, attempts: int) -> str:
    options: dict[str, Any] = {"timeout": timeout, "deadline": deadline, "retry": Retry(attempts=attempts, delay=0)}
    try:
        return hangs.options(**options)(number)
    except StepTimeout:
        return "timed out"


@workflow
async def calls_healthy() -> str:
    return healthy()


def hang(engine: Engine, how: str, number: int) -> None:
    """Leave a thread behind that executes a step for nobody."""
    match how:
        case "timeout":
            assert engine.start(calls_hanging, number, 0.01, None, 1).result(60) == "timed out"
        case "deadline of the step":
            assert engine.start(calls_hanging, number, None, 0.01, 1).result(60) == "timed out"
        case "several attempts":
            assert engine.start(calls_hanging, number, 0.01, None, 3).result(60) == "timed out"
        case "cancel":
            run = engine.start(calls_hanging, number, None, None, 1)
            until(lambda: number in began)
            run.cancel()
            with pytest.raises(RunCancelled):
                run.result(60)
        case _:
            run = engine.start(calls_hanging, number, None, None, 1, deadline=0.05)
            with pytest.raises(RunDeadlineExceeded):
                run.result(60)


HOW = ["timeout", "deadline of the step", "several attempts", "cancel", "deadline of the run"]


@pytest.mark.parametrize("how", HOW)
def test_steps_that_were_given_up_take_no_place(database: Path, how: str) -> None:
    with Engine(database, step_threads=1) as engine:
        for number in range(3):
            hang(engine, how, number)
            assert engine.start(calls_healthy).result(60) == "ok"
        may_end.set()


@pytest.mark.parametrize("how", HOW)
def test_no_more_steps_execute_at_once_than_there_are_places_when_those_have_ended(database: Path, how: str) -> None:
    with Engine(database, step_threads=2) as engine:
        for number in range(4):
            hang(engine, how, number)
        for run in [engine.start(calls_healthy) for _ in range(20)]:
            assert run.result(60) == "ok"
        assert max(most_at_once) <= 2
        may_end.set()
        until(lambda: not engine._session.engine_thread.steps._threads._executing)
        most_at_once.clear()
        for run in [engine.start(calls_healthy) for _ in range(40)]:
            assert run.result(60) == "ok"
        assert max(most_at_once) <= 2


def test_a_step_that_was_queued_behind_one_that_hangs_begins_when_that_is_given_up(database: Path) -> None:
    with Engine(database, step_threads=1) as engine:
        first = engine.start(calls_hanging, 1, None, None, 1)
        until(lambda: began == [1])
        second = engine.start(calls_healthy)
        first.cancel()
        assert second.result(60) == "ok"
        may_end.set()


# --- steps that wait for runs -----------------------------------------------------------------------------------------


@step
def starts_another(number: int, depth: int) -> int:
    began.append(number)
    until(lambda: len(began) >= 4)  # all places are taken
    engine = shared[-1]
    if depth:
        return engine.start(waits_for_another, number, depth - 1, id=f"{depth}-{number}").result(60)
    return int(engine.start(calls_healthy, id=f"other-{number}").result(60) == "ok")


@step
def waits_for_a_value(number: int) -> int:
    began.append(number)
    until(lambda: len(began) >= 4)
    return int(shared[-1].start(publishes, id=f"publisher-{number}").value("ready", 60))


@workflow
async def waits_for_another(number: int, depth: int) -> int:
    return starts_another(number, depth)


@workflow
async def waits_for_its_value(number: int) -> int:
    return waits_for_a_value(number)


@workflow
async def publishes() -> None:

    healthy()
    await publish("ready", 1)


@pytest.mark.parametrize("depth", [0, 2])
def test_steps_that_wait_for_runs_leave_their_places_to_the_steps_of_these(database: Path, depth: int) -> None:
    with Engine(database, step_threads=4) as engine:
        shared.append(engine)
        runs = [engine.start(waits_for_another, number, depth) for number in range(4)]
        assert [run.result(60) for run in runs] == [1, 1, 1, 1]


def test_steps_that_wait_for_published_values_leave_their_places_as_well(database: Path) -> None:
    with Engine(database, step_threads=4) as engine:
        shared.append(engine)
        runs = [engine.start(waits_for_its_value, number) for number in range(4)]
        assert [run.result(60) for run in runs] == [1, 1, 1, 1]


def test_a_step_that_waited_takes_its_place_back(database: Path) -> None:
    with Engine(database, step_threads=4) as engine:
        shared.append(engine)
        for waiter in [engine.start(waits_for_another, number, 1) for number in range(4)]:
            waiter.result(60)
        until(lambda: not engine._session.engine_thread.steps._threads._executing)
        most_at_once.clear()
        for run in [engine.start(calls_healthy) for _ in range(60)]:
            run.result(60)
        assert max(most_at_once) <= 4


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_a_thread_that_cannot_be_started_is_waited_for(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start
    refused: list[str] = []

    def refuses_once(thread: threading.Thread) -> None:
        if thread.name.startswith("stepwell-step-") and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    with Engine(database, step_threads=4) as engine:
        monkeypatch.setattr(threading.Thread, "start", refuses_once)
        first = engine.start(calls_healthy)
        until(lambda: len(refused) == 1)
        assert engine.start(calls_healthy).result(60) == "ok"
        assert first.result(60) == "ok"
    assert "no thread can be started for a step (can't start new thread)" in caplog.text


def test_the_log_names_a_thread_that_goes_on_for_nobody_once(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Engine(database, step_threads=1) as engine:
        hang(engine, "timeout", 1)
        threads = engine._session.engine_thread.steps._threads
        later = time.monotonic() + 5
        threads.report(later, 0)
        threads.report(later + 60, 0)
        may_end.set()
    lines = [record.getMessage() for record in caplog.records if "its thread goes on" in record.getMessage()]
    assert len(lines) == 1
    assert "'tests.executors.test_step_threads.hangs'" in lines[0]
    assert "check_cancelled" in lines[0]


def attempts_of(name: str, started_at: int) -> StepCall:
    return StepCall(1, f"run of {name}", healthy, name, 0, (), {}, Context(), started_at=started_at)


def test_the_log_names_the_steps_for_whose_places_others_wait(caplog: pytest.LogCaptureFixture) -> None:
    congestion = Congestion("thread", "step_threads", 2)
    busy = [attempts_of(f"busy {number}", 0) for number in range(2)]
    waiting = [attempts_of(f"waiting {number}", 1_000_000) for number in range(3)]
    with caplog.at_level(logging.WARNING):
        congestion.look(waiting, busy, 100, 0)
        congestion.look(waiting, busy, 100 + WAITING_SECONDS - 0.1, 0)
        assert caplog.messages == []
        congestion.look(waiting, busy, 100 + WAITING_SECONDS, 7_000_000)
        congestion.look(waiting, busy, 101 + WAITING_SECONDS, 0)
        assert len(caplog.messages) == 1
        congestion.look(waiting, busy, 100 + WAITING_SECONDS + REPEAT_SECONDS, 0)
        assert len(caplog.messages) == 2
    for part in (
        "run of waiting 0",
        "2 others",
        "'busy 0' of run 'run of busy 0' for 7 s",
        "'busy 1'",
        "step_threads=2",
    ):
        assert part in caplog.messages[0]


def test_a_backlog_that_moves_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    congestion = Congestion("process", "step_processes", 1)
    waiting = [attempts_of(f"waiting {number}", 0) for number in range(50)]
    while waiting:
        congestion.look(waiting, [attempts_of("busy", 0)], -4.0 * len(waiting), 0)
        waiting.pop(0)
    congestion.look([], [], 0, 0)
    assert caplog.messages == []


@step
def looks_up() -> str:
    info: Any = current()
    began.append(1)
    until(lambda: info.cancelled)
    began.append(2)
    return "noticed"


@workflow
async def calls_looking() -> str:
    return looks_up()


def test_a_step_that_notices_that_it_was_given_up_serves_others_again(database: Path) -> None:
    with Engine(database, step_threads=1) as engine:
        run = engine.start(calls_looking)
        until(lambda: began == [1])
        run.cancel()
        until(lambda: began == [1, 2])
        before = threading.active_count()
        for _ in range(5):
            assert engine.start(calls_healthy).result(60) == "ok"
        assert threading.active_count() <= before + 1
