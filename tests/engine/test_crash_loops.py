"""A run that was under way each time that its worker died is halted in the end, and comes back when it is resumed."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

import stepwell
from stepwell import Engine, RunCrashed, RunHalted, receive, step, workflow
from stepwell.testing import TestEngine

may_end = threading.Event()
began: list[str] = []


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    began.clear()
    may_end.clear()
    yield
    may_end.set()


@step
def part(name: str) -> str:
    began.append(name)
    may_end.wait(120)
    return name


@workflow
async def one(name: str) -> str:
    return part(name)


@workflow
async def both() -> list[str]:
    return await stepwell.map(one, ["left", "right"])


@workflow
async def above() -> list[str]:
    return await (await stepwell.start(both, id="both")).result()


@workflow
async def waits() -> str:
    return await receive("never", str)


@workflow
async def with_a_way_out() -> str:
    child = await stepwell.start(one, "child", id="child")
    try:
        async with asyncio.timeout(3600):
            return await child.result()
    except TimeoutError:
        return "went on without it"


@workflow
async def with_a_message() -> str:
    child = await stepwell.start(one, "child", id="child")
    tasks = {asyncio.ensure_future(child.result()), asyncio.ensure_future(receive("instead", str))}
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return await done.pop()


def crash(engine: TestEngine, times: int, *, begun: int = 0) -> None:
    """Have the engine die so often, each time once a further step has begun; so many have by now."""
    for number in range(begun + 1, begun + times + 1):
        until(partial(has_begun, number))
        engine.crash()
        engine.reopen()


def has_begun(number: int) -> bool:
    return len(began) >= number


def crash_until_both_are_halted(engine: TestEngine) -> None:
    """Have the engine die while children of `both` execute: together, then one after the other as suspects."""
    until(partial(has_begun, 2))
    while True:
        engine.crash()
        engine.reopen()
        until(lambda: engine._session.engine_thread.steps.under_way() or halted(engine) == [1, 2])
        if halted(engine) == [1, 2]:
            engine.idle()
            return


def halted(engine: TestEngine) -> list[int]:
    return [number for number in (1, 2) if engine.get(f"both/{number}").status == "halted"]


@pytest.fixture
def engine(database: Path) -> Iterator[TestEngine]:
    with TestEngine(database, max_crashes=3) as opened:
        yield opened


def test_it_is_given_up_and_not_tried_again_by_itself(engine: TestEngine, caplog: pytest.LogCaptureFixture) -> None:
    run = engine.start(one, "poison", id="poison")
    crash(engine, 3)
    engine.idle()
    for _ in range(2):
        info = run.info()
        assert (info.status, began) == ("halted", ["poison"] * 3)
        assert "each of the last 3 times that its worker died" in (info.reason or "")
        assert "resume" in (info.reason or "")
        engine.reopen().idle()
    with pytest.raises(RunCrashed, match="'poison'"):
        run.result(60)
    given_up = [record for record in caplog.records if "is given up" in record.getMessage()]
    assert [record.levelno for record in given_up] == [logging.ERROR]


def test_a_step_that_was_shown_as_long_is_no_progress(engine: TestEngine) -> None:
    engine.start(waits, id="other")
    engine.start(one, "slow poison", id="poison")
    for _ in range(3):
        before = len(engine.get("poison").journal())
        engine_thread = engine._session.engine_thread
        until(engine_thread.steps.under_way)
        engine_thread.post(partial(engine_thread.worker.show_long_steps, engine_thread.steps.under_way()))
        engine.send("other", "turn")  # behind it
        assert [entry.kind for entry in engine.get("poison").journal()[before:]] == ["step_started"]
        engine.crash()
        engine.reopen()
    engine.idle()
    assert engine.get("poison").status == "halted"


def test_it_comes_back_when_it_is_resumed_with_as_many_lives_as_at_first(engine: TestEngine) -> None:
    run = engine.start(one, "innocent", id="a")
    crash(engine, 3)
    engine.idle()
    run.resume()
    crash(engine, 2, begun=3)
    until(partial(has_begun, 6))
    may_end.set()
    assert run.result(60) == "innocent"


def test_a_client_can_resume_it_for_a_worker_that_comes_later(engine: TestEngine, database: Path) -> None:
    engine.start(one, "innocent", id="a")
    crash(engine, 3)
    engine.idle()
    engine.close()
    with Engine(database, workflows=[]) as client:
        client.get("a").resume()
    may_end.set()
    assert engine.reopen().get("a").result(60) == "innocent"


def test_its_parent_waits_and_whoever_waits_for_the_parent_is_told_for_whom(engine: TestEngine) -> None:
    run = engine.start(above, id="top")
    crash_until_both_are_halted(engine)
    for waited in (run, engine.get("both")):
        assert waited.info().status == "waiting"
        with pytest.raises(RunHalted, match=r"waits for run 'both/[12]', which is halted") as raised:
            waited.result(60)
        assert "RunCrashed" in str(raised.value)
    may_end.set()
    run.resume()
    assert run.result(60) == ["left", "right"]


def test_whoever_waits_already_is_told_as_well(engine: TestEngine) -> None:
    engine.start(above, id="top")
    until(partial(has_begun, 2))
    told: list[str] = []

    def wait() -> None:
        try:
            engine.get("top").result(60)
        except RunHalted as error:
            told.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    engine_thread = engine._session.engine_thread
    until(lambda: "top" in engine_thread.waiters._of_runs)
    for number in (1, 2):
        record = engine_thread.store.inspector.run_by_id(f"both/{number}")
        assert record is not None
        engine_thread.post(partial(engine_thread.worker.halt_broken, record.key, ValueError("for the test")))
    thread.join(60)
    assert "waits for run 'both/" in told[0]
    may_end.set()


@pytest.mark.parametrize("definition", [with_a_way_out, with_a_message])
def test_a_run_that_waits_for_more_than_what_is_halted_is_waited_for(engine: TestEngine, definition: Any) -> None:
    run = engine.start(definition, id="top")
    crash(engine, 3)
    engine.idle()
    assert engine.get("child").status == "halted"
    engine_thread = engine._session.engine_thread
    engine_thread.post(engine_thread.waiters.look_at_stuck)
    with pytest.raises(TimeoutError, match="has not ended"):
        run.result(0.05)
    if definition is with_a_message:
        run.send("instead", "went on without it")
    else:
        engine.advance(3600)
    assert run.result(60) == "went on without it"


def test_a_run_with_a_deadline_is_waited_for(engine: TestEngine) -> None:
    run = engine.start(above, id="top", deadline=3600)
    crash_until_both_are_halted(engine)
    with pytest.raises(TimeoutError, match="has not ended"):
        run.result(0.05)
    engine.advance(3600)
    with pytest.raises(stepwell.RunDeadlineExceeded):
        run.result(60)
