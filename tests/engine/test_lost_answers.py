"""What an engine knows only in memory when it stops: answers that callers wait for, and news for runs that wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from stepwell import Engine, Limit, Queue, StorageFull, StoreError, receive, step, workflow
from stepwell.store.changes import MessageSent, RunFinished
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Outcome, Unit
from stepwell.testing import TestEngine
from stepwell.worker.arriving.loader import Loader
from stepwell.worker.scheduling.queue_scheduler import QueueScheduler

DEADLINE_SECONDS = 120


@workflow
async def listener() -> str:
    return await receive("word", str)


def refuse(*_: object) -> list[Outcome]:
    raise StoreError("the disk reported an error")


def ask_for_many(engine: Engine) -> list[StoreError | None]:
    """Have many threads start runs; return what each of them heard."""

    def ask(number: int) -> None:
        engine.start(listener, id=f"run-{number}")

    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(ask, number) for number in range(8)]
        heard = [answer.exception(DEADLINE_SECONDS) for answer in asked]
    assert all(error is None or isinstance(error, StoreError) for error in heard)
    return heard  # type: ignore[return-value]


def test_whoever_asked_for_what_could_not_be_committed_is_told_so(database: Path) -> None:
    with Engine(database) as engine, patch.object(SqliteStore, "commit", refuse):
        assert None not in ask_for_many(engine)


def test_whoever_asked_for_what_was_committed_but_could_not_be_begun_hears_of_it(database: Path) -> None:
    with Engine(database) as engine, patch.object(Loader, "begin", refuse):
        ask_for_many(engine)


def test_a_message_that_was_committed_just_before_the_worker_died_wakes_its_run(database: Path) -> None:
    engine = TestEngine(database)
    run = engine.start(listener, id="listener")
    engine.idle()
    commit = SqliteStore.commit
    sent = False

    def commits(store: SqliteStore, units: Sequence[Unit], claim: Any) -> list[Outcome]:
        nonlocal sent
        if sent:
            raise StoreError("the worker dies here")
        sent = any(isinstance(change, MessageSent) for unit in units for change in unit.changes)
        return commit(store, units, claim)

    with patch.object(SqliteStore, "commit", commits):
        run.send("word", "hello", key="1")
        with pytest.raises(StoreError):
            run.result(DEADLINE_SECONDS)
    engine.crash()
    engine.reopen()
    assert run.result(DEADLINE_SECONDS) == "hello"
    engine.close()


pressed: list[int] = []


@step(limit=Limit("test_lost_answers.press", concurrency=1))
async def press(number: int) -> int:
    pressed.append(number)
    return number


@workflow
async def presses() -> int:
    first, second, third = await asyncio.gather(press(1), press(2), press(3))
    return first + second + third


@pytest.mark.parametrize("commits", range(1, 12))
def test_a_permit_that_was_granted_just_before_the_worker_died_is_not_lost(database: Path, commits: int) -> None:
    """The worker dies after every number of commits: one of them grants the next permit, and nobody acts on it."""
    commit = SqliteStore.commit
    left = commits

    def commits_some(store: SqliteStore, units: Sequence[Unit], claim: Any) -> list[Outcome]:
        nonlocal left
        left -= 1
        if left < 0:
            raise StoreError("the worker dies here")
        return commit(store, units, claim)

    engine = TestEngine(database)
    with patch.object(SqliteStore, "commit", commits_some), suppress(StoreError):
        engine.start(presses, id="run").result(DEADLINE_SECONDS)
    engine.crash()
    engine.reopen()
    assert engine.start(presses, id="run").result(DEADLINE_SECONDS) == 6
    engine.close()


@step
async def long_step() -> None:
    if len(pressed) < 2:  # until the worker dies
        await asyncio.sleep(3600)


@workflow
async def busy() -> None:
    await long_step()


def test_a_permit_that_was_free_when_the_worker_died_is_granted_when_the_file_is_opened(database: Path) -> None:
    pressed.clear()
    decide = QueueScheduler.decide

    def decide_until_pressed(scheduler: QueueScheduler) -> None:
        if not pressed:
            decide(scheduler)

    engine = TestEngine(database)
    with patch.object(QueueScheduler, "decide", decide_until_pressed):
        other = engine.start(busy)  # is taken up in the commit that grants the permit
        run = engine.start(presses, id="run")
        give_up_at = time.monotonic() + DEADLINE_SECONDS
        while (run.status != "waiting" or not run.journal()) and time.monotonic() < give_up_at:
            threading.Event().wait(0.001)
        engine.crash()
    pressed.append(0)
    engine.reopen().idle()
    # Not by and by, when the fallback for lost letters looks.
    assert (run.status, other.status) == ("completed", "completed")
    engine.close()


@workflow
async def job(number: int) -> int:
    return number


def test_a_turn_that_a_full_disk_prevented_is_taken_when_there_is_room(database: Path) -> None:
    queue = Queue("test_lost_answers.jobs", concurrency=1)
    commit = SqliteStore.commit
    refused: list[int] = []

    def commits(store: SqliteStore, units: Sequence[Unit], claim: Any) -> list[Outcome]:
        """Refuse the first commit in which a job ends, and with it the decision whose turn is next."""
        if not refused and any(isinstance(change, RunFinished) for unit in units for change in unit.changes):
            refused.append(len(units))
            raise StorageFull("the disk is full")
        return commit(store, units, claim)

    with TestEngine(database) as engine, patch.object(SqliteStore, "commit", commits):
        with engine.transaction() as tx:
            runs = [tx.start(job, number, queue=queue) for number in range(3)]
        assert [run.result(DEADLINE_SECONDS) for run in runs] == [0, 1, 2]
    assert refused


@step(limit=Limit("test_lost_answers.lathe", concurrency=1))
async def turn_on_lathe(number: int) -> int:
    pressed.append(number)
    if len(pressed) == 1:  # until the worker dies
        await asyncio.sleep(3600)
    return number


@workflow
async def turned(number: int) -> int:
    return await turn_on_lathe(number)


def test_a_run_that_waits_for_a_permit_in_nobodys_memory_is_taken_up_by_whoever_grants_it(database: Path) -> None:
    pressed.clear()
    engine = TestEngine(database)
    first = engine.start(turned, 1)
    second = engine.start(turned, 2)
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while (second.status != "waiting" or not pressed) and time.monotonic() < give_up_at:
        threading.Event().wait(0.001)
    engine.crash()
    engine.reopen().idle()
    # Not by and by, when the fallback for lost letters looks.
    assert (first.status, second.status) == ("completed", "completed")
    engine.close()
