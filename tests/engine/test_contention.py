"""An engine beside others that write: it waits to be told, asks for nothing meanwhile, and misses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, FileNotUsable, receive, workflow
from stepwell.runtime.requests import OutgoingMessage, Purge, SendMessage, StartRun
from stepwell.runtime.turn import TurnLoop
from stepwell.store.changes import MessageSent, RunCreated
from stepwell.store.notifications import Notification
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Unit
from stepwell.values.codec import Codec
from stepwell.worker.runs import Capacity

NOW = 1_700_000_000_000_000


@workflow(name="nothing at all")
async def nothing() -> None:
    pass


@workflow(name="waits")
async def waits() -> None:
    await receive("go on")


@workflow(name="ordered")
async def ordered() -> list[str]:
    await receive("go")
    return [await receive("m", str), await receive("m", str), await receive("m", str)]


class Driver:
    """Counts how often it was asked for a turn."""

    def __init__(self) -> None:
        self.woken = 0
        self.now = NOW

    def wake(self) -> None:
        self.woken += 1

    def run_steps(self, attempts: list[Any]) -> None:
        raise NotImplementedError

    drop_steps = run_steps

    def time(self) -> int:
        return self.now

    def store_unavailable(self) -> None:
        raise NotImplementedError

    def failed(self) -> None:
        raise NotImplementedError


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def machine(database: Path, driver: Driver) -> Iterator[TurnLoop]:
    store = SqliteStore.open(database)
    limits = Capacity(running=10, waiting=10, crashes=5)
    machine = TurnLoop(
        store,
        Codec(),
        {"nothing at all": nothing, "waits": waits, "ordered": ordered},
        limits=limits,
        chance=lambda: 0.5,
        driver=driver,
    )
    store.writers.acquire()
    machine.open(NOW)
    store.writers.release()
    while machine.has_more():
        machine.turn(NOW)
    yield machine
    store.writers.acquire()
    store.close(machine.claim, NOW)
    store.writers.release()


def test_a_commit_that_has_to_wait_asks_for_a_turn_when_it_can_go_on_and_not_before(
    machine: TurnLoop, driver: Driver
) -> None:
    replies: list[Any] = []
    creation = RunCreated("one", "nothing at all", None, 0, "running", NOW)
    machine.submit(StartRun(creation), lambda *reply: replies.append(reply))
    machine.store.writers.acquire()
    machine.turn(NOW)
    assert not machine.has_more()
    assert not machine.is_idle(NOW)
    assert (driver.woken, replies) == (0, [])
    machine.store.writers.release()
    assert driver.woken == 1
    machine.turn(NOW)
    assert [error for _, error in replies] == [None]


def test_a_burial_that_has_to_wait_asks_for_a_turn_when_it_can_go_on_and_not_before(
    machine: TurnLoop, driver: Driver
) -> None:
    # A worker that is entered, and whose seat nobody holds.
    machine.store.writers.acquire()
    dead = machine.store.membership.register(NOW)
    machine.claim = machine.store.membership.register(NOW)
    machine.post(lambda: machine.hear(Notification("death")))
    machine.turn(NOW)
    machine.turn(NOW)
    assert not machine.has_more()
    machine.store.writers.release()
    assert driver.woken == 1
    while not machine.is_idle(NOW):
        machine.turn(NOW)
    assert dead.epoch not in [member.epoch for member in machine.store.membership.members()]


def test_a_worker_that_was_fenced_during_a_turn_begins_again_at_the_time_it_is_then(
    machine: TurnLoop, driver: Driver
) -> None:
    # It was stopped in that turn: its time is older than what others did meanwhile.
    fenced = machine.claimed().epoch
    machine.store.writers.acquire()
    machine.store.membership.fence(fenced, NOW + 50)
    machine.store.writers.release()
    driver.now = NOW + 100
    creation = RunCreated("one", "nothing at all", None, 0, "running", NOW)
    machine.submit(StartRun(creation), lambda *_: None)
    machine.turn(NOW)
    (present,) = machine.store.membership.members()
    assert present.epoch == machine.claimed().epoch > fenced
    assert present.started_at == NOW + 100


def test_a_purge_that_has_to_wait_asks_for_a_turn_when_it_can_go_on_and_not_before(
    machine: TurnLoop, driver: Driver
) -> None:
    replies: list[Any] = []
    machine.store.writers.acquire()
    machine.submit(Purge(NOW), lambda *reply: replies.append(reply))
    machine.turn(NOW)
    assert (machine.has_more(), driver.woken, replies) == (False, 0, [])
    machine.store.writers.release()
    assert driver.woken == 1
    machine.turn(NOW)
    assert replies == [(0, None)]


def test_a_purge_that_waits_is_answered_when_the_engine_stops(machine: TurnLoop) -> None:
    replies: list[Any] = []
    machine.store.writers.acquire()
    machine.submit(Purge(NOW), lambda *reply: replies.append(reply))
    machine.turn(NOW)
    machine.store.writers.release()
    driver = machine._driver
    driver.failed = lambda: None  # type: ignore[method-assign]
    machine.fail(RuntimeError("over"))
    assert [value for value, _ in replies] == [None]


@pytest.mark.parametrize("draining", [False, True])
def test_what_arrives_for_a_run_just_before_it_leaves_memory_is_not_missed(
    machine: TurnLoop, *, draining: bool
) -> None:
    creation = RunCreated("one", "waits", None, 0, "running", NOW)
    machine.submit(StartRun(creation), lambda *_: None)
    while not machine.is_idle(NOW):
        machine.turn(NOW)
    own = machine.claimed()
    machine.store.writers.acquire()
    other = machine.store.membership.register(NOW)
    machine.store.commit([Unit([MessageSent("one", "go on", None, NOW)])], other)
    machine.store.writers.release()
    assert machine.store.reads.news(own.epoch)
    # The note is removed in the turn after which the run leaves memory.
    machine.post(lambda: machine.hear(Notification("mail")))
    machine.turn(NOW)
    if draining:
        machine.worker.runs.draining = True
    else:
        machine.worker.runs.limits = machine.worker.runs.limits._replace(waiting=0)
    while not machine.is_idle(NOW):
        machine.turn(NOW)
    record = machine.store.inspector.run_by_id("one")
    assert record is not None
    # What is left undone is due, for whoever comes next.
    assert record.status == "completed" or (draining and (record.owner, record.wake_at) == (None, NOW))


@pytest.mark.parametrize("registered", [True, False])
def test_an_engine_that_waits_for_others_notices_that_the_file_is_gone(database: Path, *, registered: bool) -> None:
    with Engine(database, workflows=[]) as engine:
        run = engine.start(waits)
        waiters = engine._client.core.waiters
        with ThreadPoolExecutor(1) as executor:
            waiting = executor.submit(run.result, 20)
            if registered:
                while not waiters._of_runs:
                    os.sched_yield()
            database.rename(database.with_suffix(".away"))
            try:
                with pytest.raises(FileNotUsable, match="deleted or renamed"):
                    waiting.result()
            finally:
                database.with_suffix(".away").rename(database)


@pytest.mark.parametrize("late", [(0,), (1,), (0, 1), (0, 2)])
def test_messages_are_received_in_the_order_of_sending_although_some_are_noticed_late(
    machine: TurnLoop, late: tuple[int, ...]
) -> None:
    """Of three messages, another process writes the `late` ones, and the engine hears of them behind its own."""

    def until_idle() -> None:
        while not machine.is_idle(NOW):
            machine.turn(NOW)

    creation = RunCreated("one", "ordered", None, 0, "running", NOW)
    machine.submit(StartRun(creation), lambda *_: None)
    until_idle()
    machine.store.writers.acquire()
    other = machine.store.membership.register(NOW)
    machine.store.writers.release()
    for number in range(3):
        if number in late:
            machine.store.writers.acquire()
            machine.store.commit([Unit([MessageSent("one", "m", f'"{number}"', NOW)])], other)
            machine.store.writers.release()
        else:
            message = OutgoingMessage("m", f'"{number}"', None)
            machine.submit(SendMessage("one", message), lambda *_: None)
            until_idle()
    machine.post(lambda: machine.hear(Notification("mail")))
    until_idle()
    machine.submit(SendMessage("one", OutgoingMessage("go", None, None)), lambda *_: None)
    until_idle()
    record = machine.store.inspector.run_by_id("one")
    assert record is not None
    assert record.result == '["0","1","2"]'
