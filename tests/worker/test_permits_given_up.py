"""Permits of attempts that nobody waits for any more: whatever comes first, each goes back once, and not too early."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.waiting import until

from stepwell import Limit, Rate, Retry, RunCancelled, publish, receive, step, workflow
from stepwell.testing import TestEngine

lone = Limit("given up: one", concurrency=1)
brisk = Limit("given up: rate", rate=Rate(2, per=10))

gate = threading.Event()
happened: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    happened.clear()
    gate.clear()
    yield
    gate.set()


@step(limit=lone, timeout=1000)
def stay(name: str) -> str:
    happened.append(name)
    gate.wait(60)
    return name


@step
def take_the_thread() -> None:
    happened.append("the thread")
    gate.wait(60)


@step(limit=lone, retry=Retry(attempts=2, delay=100))
def fail(name: str) -> None:
    happened.append(name)
    raise ValueError("not yet")


@step(limit=brisk)
def call(name: str) -> str:
    happened.append(name)
    return name


@workflow
async def stays(name: str) -> str:
    return await asyncio.to_thread(stay, name)


@workflow
async def gives_up(name: str, which: str) -> str:
    try:
        async with asyncio.timeout(5):
            return await asyncio.to_thread(stay if which == "stay" else call, name)
    except TimeoutError:
        await publish("gave up", True)
        await receive("end")
        return "gave up"


@workflow
async def ends_before_the_retry(name: str) -> None:
    task = asyncio.create_task(asyncio.to_thread(fail, name))
    await receive("end")
    assert not task.done()


@workflow
async def calls(name: str) -> str:
    return call(name)


@workflow
async def holds_the_thread() -> None:
    take_the_thread()


@workflow
async def ends_without_its_step(name: str) -> str:
    task = asyncio.create_task(asyncio.to_thread(stay, name))
    await receive("end")
    return "left" if not task.done() else "late"


def info(engine: TestEngine, limit: Limit = lone) -> tuple[int, int]:
    """Return how many wait for a permit, and how many have one."""
    found = engine.queue(limit).info()
    return found.waiting, found.running


@contextmanager
def one_turn(engine: TestEngine, events: int) -> Generator[None]:
    """Have what is posted inside the block, so many events, handled in one turn of the engine and in one commit."""
    engine_thread, go, reached = engine._session.engine_thread, threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert go.wait(60)

    engine_thread.turn_loop.limit = 100
    engine_thread.post(wait)
    assert reached.wait(60)
    try:
        yield
        until(lambda: len(engine_thread.turn_loop.inbox) >= events)
    finally:
        go.set()


def test_an_attempt_that_is_given_up_before_a_thread_has_it_returns_its_permit_and_never_begins(database: Path) -> None:
    with TestEngine(database, step_threads=1) as engine:
        holder = engine.start(holds_the_thread)
        until(lambda: happened == ["the thread"])
        run = engine.start(gives_up, "a", "stay")
        until(lambda: info(engine) == (0, 1))
        engine.clock.advance(6)
        assert run.value("gave up", 60) is True
        gate.set()
        holder.result(60)
        until(lambda: info(engine) == (0, 0))
        run.send("end")
        assert run.result(60) == "gave up"
        assert engine.start(stays, "b").result(60) == "b"
        assert happened == ["the thread", "b"]


@pytest.mark.parametrize("order", ["its end is told after the cancel", "it runs out of time after the cancel"])
def test_an_attempt_whose_end_is_told_before_the_cancel_is_in_the_file_returns_its_permit_once(
    engine: TestEngine, order: str
) -> None:
    run = engine.start(stays, "a")
    until(lambda: happened == ["a"])
    (attempts,) = engine._session.engine_thread.steps.under_way()
    with ThreadPoolExecutor(1) as pool:
        with one_turn(engine, events=2):
            cancelling = pool.submit(run.cancel)
            until(lambda: len(engine._session.engine_thread.turn_loop.inbox) >= 1)
            if order.startswith("its end"):
                gate.set()
            else:
                engine._session.engine_thread.steps._threads.expire(attempts, 1)
        assert cancelling.result(60)
    with pytest.raises(RunCancelled):
        run.result(60)
    second = engine.start(stays, "b")
    if not gate.is_set():  # the thread goes on, so what it calls still bears its load
        until(lambda: info(engine) == (1, 1))
        assert happened == ["a"]
        gate.set()
    assert second.result(60) == "b"
    until(lambda: info(engine) == (0, 0))


@pytest.mark.parametrize("end", ["returns", "is cancelled"])
def test_a_run_that_ends_before_a_retry_has_no_permit_to_leave(engine: TestEngine, end: str) -> None:
    run = engine.start(ends_before_the_retry, "a")
    engine.idle()
    assert happened == ["a"]
    assert info(engine) == (0, 0)
    if end == "returns":
        run.send("end")
        run.result(60)
    else:
        run.cancel()
        with pytest.raises(RunCancelled):
            run.result(60)
    assert info(engine) == (0, 0)
    gate.set()
    assert engine.start(stays, "b").result(60) == "b"


def test_a_step_that_outlives_its_run_keeps_its_permit_until_it_ends(engine: TestEngine) -> None:
    run = engine.start(ends_without_its_step, "a")
    until(lambda: happened == ["a"])
    run.send("end")
    assert run.result(60) == "left"
    second = engine.start(stays, "b")
    until(lambda: info(engine) == (1, 1))
    assert happened == ["a"]
    gate.set()
    assert second.result(60) == "b"
    until(lambda: info(engine) == (0, 0))


def test_an_attempt_that_was_given_up_in_the_line_is_no_start_of_a_rate(engine: TestEngine) -> None:
    for name in "ab":
        assert engine.start(calls, name).result(60) == name
    given_up = engine.start(gives_up, "c", "call")
    until(lambda: given_up.info().status == "waiting")
    engine.advance(6)
    given_up.send("end")
    assert given_up.result(60) == "gave up"
    runs = [engine.start(calls, name) for name in "de"]
    engine.advance(4.5)  # ten seconds after the first two, and what a rate allows for beginnings
    assert [run.result(60) for run in runs] == ["d", "e"]
    assert sorted(happened) == ["a", "b", "d", "e"]  # in threads, so the last two in any order
