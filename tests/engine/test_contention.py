"""An engine beside others that write: it waits to be told, asks for nothing meanwhile, and misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.waiting import until

from stepwell import Engine, FileNotUsable, get_run, receive, workflow
from stepwell.api.enlisted import Enlisted
from stepwell.runtime.serving.requests import OutgoingMessage, Purge, SendMessage, StartRun
from stepwell.runtime.turn import TurnLoop
from stepwell.store.changes import MessageSent, RunCreated, RunFinished, RunMoved
from stepwell.store.notifications import Notification
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Unit
from stepwell.values.codec import Codec
from stepwell.worker.state.runs import Capacity

NOW = 1_700_000_000_000_000


@workflow(name="nothing at all")
async def nothing() -> None:
    pass


@workflow(name="waits")
async def waits() -> None:
    await receive("go on")


@workflow(name="waits twice")
async def waits_twice() -> None:
    await receive("go on")
    await receive("go on")


@workflow(name="ordered")
async def ordered() -> list[str]:
    await receive("go")
    return [await receive("m", str), await receive("m", str), await receive("m", str)]


@workflow(name="hurried")
async def hurried() -> str:
    return await receive("m", str, timeout=10, default="late")


@workflow(name="hurried for an end")
async def hurried_for_an_end() -> str:
    try:
        async with asyncio.timeout(10):
            await get_run("other").result()
    except TimeoutError:
        return "late"
    return "in time"


@workflow(name="contention.sleeps")
async def sleeps() -> None:
    await asyncio.sleep(10)


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
def turn_loop(database: Path, driver: Driver) -> Iterator[TurnLoop]:
    store = SqliteStore.open(database)
    limits = Capacity(running=10, waiting=10, crashes=5)
    turn_loop = TurnLoop(
        store,
        Codec(),
        {one.name: one for one in (nothing, waits, waits_twice, ordered, hurried, hurried_for_an_end, sleeps)},
        limits=limits,
        chance=lambda: 0.5,
        driver=driver,
    )
    store.writers.acquire()
    turn_loop.open(NOW)
    store.writers.release()
    while turn_loop.has_more():
        turn_loop.turn(NOW)
    yield turn_loop
    store.writers.acquire()
    store.close(turn_loop.claim, NOW)
    store.writers.release()


def test_a_commit_that_has_to_wait_asks_for_a_turn_when_it_can_go_on_and_not_before(
    turn_loop: TurnLoop, driver: Driver
) -> None:
    replies: list[Any] = []
    creation = RunCreated("one", "nothing at all", None, 0, "running", NOW)
    turn_loop.submit(StartRun(creation), lambda *reply: replies.append(reply))
    turn_loop.store.writers.acquire()
    turn_loop.turn(NOW)
    assert not turn_loop.has_more()
    assert not turn_loop.is_idle(NOW)
    assert (driver.woken, replies) == (0, [])
    turn_loop.store.writers.release()
    assert driver.woken == 1
    turn_loop.turn(NOW)
    assert [error for _, error in replies] == [None]


def test_a_burial_that_has_to_wait_asks_for_a_turn_when_it_can_go_on_and_not_before(
    turn_loop: TurnLoop, driver: Driver
) -> None:
    # A worker that is entered, and whose seat nobody holds.
    turn_loop.store.writers.acquire()
    dead = turn_loop.store.membership.register(NOW)
    turn_loop.claim = turn_loop.store.membership.register(NOW)
    turn_loop.post(lambda: turn_loop.notified(Notification("death")))
    turn_loop.turn(NOW)
    turn_loop.turn(NOW)
    assert not turn_loop.has_more()
    turn_loop.store.writers.release()
    assert driver.woken == 1
    while not turn_loop.is_idle(NOW):
        turn_loop.turn(NOW)
    assert dead.epoch not in [member.epoch for member in turn_loop.store.membership.members()]


def test_a_worker_that_was_fenced_during_a_turn_begins_again_at_the_time_it_is_then(
    turn_loop: TurnLoop, driver: Driver
) -> None:
    # It was stopped in that turn: its time is older than what others did meanwhile.
    fenced = turn_loop.claimed().epoch
    turn_loop.store.writers.acquire()
    turn_loop.store.membership.fence(fenced, NOW + 50)
    turn_loop.store.writers.release()
    driver.now = NOW + 100
    creation = RunCreated("one", "nothing at all", None, 0, "running", NOW)
    turn_loop.submit(StartRun(creation), lambda *_: None)
    turn_loop.turn(NOW)
    (present,) = turn_loop.store.membership.members()
    assert present.epoch == turn_loop.claimed().epoch > fenced
    assert present.started_at == NOW + 100


def test_a_purge_that_has_to_wait_asks_for_a_turn_when_it_can_go_on_and_not_before(
    turn_loop: TurnLoop, driver: Driver
) -> None:
    replies: list[Any] = []
    turn_loop.store.writers.acquire()
    turn_loop.submit(Purge(NOW), lambda *reply: replies.append(reply))
    turn_loop.turn(NOW)
    assert (turn_loop.has_more(), driver.woken, replies) == (False, 0, [])
    turn_loop.store.writers.release()
    assert driver.woken == 1
    turn_loop.turn(NOW)
    assert replies == [(0, None)]


def test_a_purge_that_waits_is_answered_when_the_engine_stops(turn_loop: TurnLoop) -> None:
    replies: list[Any] = []
    turn_loop.store.writers.acquire()
    turn_loop.submit(Purge(NOW), lambda *reply: replies.append(reply))
    turn_loop.turn(NOW)
    turn_loop.store.writers.release()
    driver = turn_loop._driver
    driver.failed = lambda: None  # type: ignore[method-assign]
    turn_loop.fail(RuntimeError("over"))
    assert [value for value, _ in replies] == [None]


@pytest.mark.parametrize("draining", [False, True])
def test_what_arrives_for_a_run_just_before_it_leaves_memory_is_not_missed(
    turn_loop: TurnLoop, *, draining: bool
) -> None:
    creation = RunCreated("one", "waits", None, 0, "running", NOW)
    turn_loop.submit(StartRun(creation), lambda *_: None)
    while not turn_loop.is_idle(NOW):
        turn_loop.turn(NOW)
    own = turn_loop.claimed()
    turn_loop.store.writers.acquire()
    other = turn_loop.store.membership.register(NOW)
    turn_loop.store.commit([Unit([MessageSent("one", "go on", None, NOW)])], other)
    turn_loop.store.writers.release()
    assert turn_loop.store.reads.news(own.epoch)
    # The note is removed in the turn after which the run leaves memory.
    turn_loop.post(lambda: turn_loop.notified(Notification("mail")))
    turn_loop.turn(NOW)
    if draining:
        turn_loop.worker.runs.draining = True
    else:
        turn_loop.worker.runs.limits = replace(turn_loop.worker.runs.limits, waiting=0)
    while not turn_loop.is_idle(NOW):
        turn_loop.turn(NOW)
    record = turn_loop.store.inspector.run_by_id("one")
    assert record is not None
    # What is left undone is due, for whoever comes next.
    assert record.status == "completed" or (draining and (record.owner, record.wake_at) == (None, NOW))


@pytest.mark.parametrize("registered", [True, False])
def test_an_engine_that_waits_for_others_notices_that_the_file_is_gone(database: Path, *, registered: bool) -> None:
    with Engine(database, workflows=[]) as engine:
        run = engine.start(waits)
        waiters = engine._session.engine_thread.waiters
        with ThreadPoolExecutor(1) as executor:
            waiting = executor.submit(run.result, 20)
            if registered:
                until(lambda: waiters._of_runs)
            database.rename(database.with_suffix(".away"))
            try:
                with pytest.raises(FileNotUsable, match="deleted or renamed"):
                    waiting.result()
            finally:
                database.with_suffix(".away").rename(database)


@pytest.mark.parametrize("late", [(0,), (1,), (0, 1), (0, 2)])
def test_messages_are_received_in_the_order_of_sending_although_some_are_noticed_late(
    turn_loop: TurnLoop, late: tuple[int, ...]
) -> None:
    """Of three messages, another process writes the `late` ones, and the engine hears of them behind its own."""

    def until_idle() -> None:
        while not turn_loop.is_idle(NOW):
            turn_loop.turn(NOW)

    creation = RunCreated("one", "ordered", None, 0, "running", NOW)
    turn_loop.submit(StartRun(creation), lambda *_: None)
    until_idle()
    turn_loop.store.writers.acquire()
    other = turn_loop.store.membership.register(NOW)
    turn_loop.store.writers.release()
    for number in range(3):
        if number in late:
            turn_loop.store.writers.acquire()
            turn_loop.store.commit([Unit([MessageSent("one", "m", f'"{number}"', NOW)])], other)
            turn_loop.store.writers.release()
        else:
            message = OutgoingMessage("m", f'"{number}"', None)
            turn_loop.submit(SendMessage("one", message), lambda *_: None)
            until_idle()
    turn_loop.post(lambda: turn_loop.notified(Notification("mail")))
    until_idle()
    turn_loop.submit(SendMessage("one", OutgoingMessage("go", None, None)), lambda *_: None)
    until_idle()
    record = turn_loop.store.inspector.run_by_id("one")
    assert record is not None
    assert record.result == '["0","1","2"]'


@pytest.mark.parametrize(("workflow", "commits_of_worker"), [("waits", 1), ("waits twice", 2)])
def test_an_answer_to_a_message_of_another_process_is_one_commit_and_what_comes_in_between_is_heard(
    turn_loop: TurnLoop, monkeypatch: pytest.MonkeyPatch, workflow: str, commits_of_worker: int
) -> None:
    store = turn_loop.store

    def until_idle() -> None:
        while not turn_loop.is_idle(NOW):
            turn_loop.turn(NOW)

    turn_loop.submit(StartRun(RunCreated("one", workflow, None, 0, "running", NOW)), lambda *_: None)
    until_idle()
    store.writers.acquire()
    other = store.membership.register(NOW)
    store.writers.release()

    def send() -> None:
        store.writers.acquire()
        store.commit([Unit([MessageSent("one", "go on", None, NOW)])], other)
        store.writers.release()

    send()
    read, commit = store.reads.messages_from_others, store.commit
    commits: list[int] = []

    def read_and_send(*args: Any) -> Any:
        found = read(*args)
        monkeypatch.setattr(store.reads, "messages_from_others", read)
        if workflow == "waits twice":
            send()  # its note was there already, and is removed with that of the first
        return found

    def counted(units: Any, claim: Any) -> Any:
        if claim != other:
            commits.append(len(units))
        return commit(units, claim)

    monkeypatch.setattr(store.reads, "messages_from_others", read_and_send)
    monkeypatch.setattr(store, "commit", counted)
    turn_loop.post(lambda: turn_loop.notified(Notification("mail")))
    until_idle()
    record = store.inspector.run_by_id("one")
    assert record is not None
    assert record.status == "completed"
    assert not store.reads.news(turn_loop.claimed().epoch)
    # What is heard at once is one commit with the note.
    assert len(commits) == commits_of_worker


# --- what others record just before a time that a run waits for as well ----------------------------------------------

#: When the timeouts of `hurried` and the like have passed.
LATE = NOW + 10_000_000


def turns(turn_loop: TurnLoop, now: int = NOW) -> None:
    """Take turns until nothing is left to do."""
    while not turn_loop.is_idle(now):
        turn_loop.turn(now)


def begin(turn_loop: TurnLoop, run_id: str, name: str) -> None:
    """Start a run, and take turns until it waits."""
    turn_loop.submit(StartRun(RunCreated(run_id, name, None, 0, "running", NOW)), lambda *_: None)
    turns(turn_loop)


@pytest.fixture
def write(turn_loop: TurnLoop) -> Callable[[Any], None]:
    """Return what another process does: it writes, and the engine is told of that later, or never."""
    store = turn_loop.store
    store.writers.acquire()
    other = store.membership.register(NOW)
    store.writers.release()

    def writes(*changes: Any) -> None:
        store.writers.acquire()
        store.commit([Unit(list(changes))], other)
        store.writers.release()

    return writes


def result_of(turn_loop: TurnLoop, run_id: str) -> str | bytes | None:
    record = turn_loop.store.inspector.run_by_id(run_id)
    assert record is not None
    assert record.status == "completed"
    return record.result


def test_a_message_that_another_process_recorded_before_the_timeout_is_received(
    turn_loop: TurnLoop, write: Callable[[Any], None]
) -> None:
    begin(turn_loop, "one", "hurried")
    write(MessageSent("one", "m", '"in time"', NOW))
    turns(turn_loop, LATE)
    assert result_of(turn_loop, "one") == '"in time"'
    assert not turn_loop.store.reads.messages_from_others({1: 0}, 0)[1]


def test_a_message_that_is_recorded_while_the_note_of_another_is_removed_is_received_before_the_timeout(
    turn_loop: TurnLoop, write: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(turn_loop, "one", "hurried")
    write(MessageSent("one", "another", None, NOW))
    commit = turn_loop.store.commit

    def commit_late(*arguments: Any) -> Any:
        monkeypatch.setattr(turn_loop.store, "commit", commit)
        turn_loop.store.writers.release()
        write(MessageSent("one", "m", '"in time"', NOW))  # which leaves no note of its own: there is one
        turn_loop.store.writers.acquire()
        return commit(*arguments)

    monkeypatch.setattr(turn_loop.store, "commit", commit_late)
    turn_loop.post(lambda: turn_loop.notified(Notification("mail")))
    turn_loop.turn(NOW)
    assert not turn_loop.store.reads.news(turn_loop.claimed().epoch)
    turns(turn_loop, LATE)
    assert result_of(turn_loop, "one") == '"in time"'


def test_a_message_that_a_transaction_of_this_process_recorded_before_the_timeout_is_received(
    turn_loop: TurnLoop,
) -> None:
    begin(turn_loop, "one", "hurried")
    turn_loop.store.writers.acquire()
    with turn_loop.store.transaction(turn_loop.claimed()) as opened:
        enlisted = Enlisted(turn_loop.worker, Codec(), lambda: NOW, opened)
        enlisted.submit(SendMessage("one", OutgoingMessage("m", '"in time"', None)))
    for event in enlisted.events():
        turn_loop.post(event)
    turn_loop.store.writers.release()
    turns(turn_loop, LATE)
    assert result_of(turn_loop, "one") == '"in time"'


def test_the_end_of_a_run_that_another_process_recorded_before_the_timeout_is_heard_of(
    turn_loop: TurnLoop, write: Callable[[Any], None]
) -> None:
    write(RunCreated("other", "of others", None, 0, "pending", NOW))
    begin(turn_loop, "one", "hurried for an end")
    record = turn_loop.store.inspector.run_by_id("other")
    assert record is not None
    write(RunMoved(record.key, "running", NOW))
    write(RunFinished(record.key, "completed", NOW))
    turns(turn_loop, LATE)
    assert result_of(turn_loop, "one") == '"in time"'


@pytest.mark.parametrize("name", ["hurried", "hurried for an end"])
def test_after_the_timeout_nothing_was_recorded(turn_loop: TurnLoop, write: Callable[[Any], None], name: str) -> None:
    write(RunCreated("other", "of others", None, 0, "pending", NOW))
    begin(turn_loop, "one", name)
    turns(turn_loop, LATE)
    assert result_of(turn_loop, "one") == '"late"'


@pytest.mark.parametrize(("name", "asked"), [("hurried", 1), ("contention.sleeps", 0)])
def test_the_file_is_asked_once_for_what_came_before_a_time_where_something_could_come(
    turn_loop: TurnLoop, monkeypatch: pytest.MonkeyPatch, name: str, asked: int
) -> None:
    for number in range(3):
        begin(turn_loop, str(number), name)
    questions: list[int] = []
    news = turn_loop.worker.runs.reads.news

    def counted(epoch: int) -> list[int]:
        questions.append(epoch)
        return news(epoch)

    monkeypatch.setattr(turn_loop.worker.runs.reads, "news", counted)
    turns(turn_loop, LATE)
    assert [result_of(turn_loop, str(number)) for number in range(3)] == [result_of(turn_loop, "0")] * 3
    assert len(questions) == asked
