"""Which letters a commit sends, and what is made of those that come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.members import Company, company_of, open_with_company

from stepwell.definitions.queues import QueueSettings
from stepwell.errors import RunNotFound
from stepwell.store.changes import Change, MessageSent, RunCreated, RunFinished, RunMoved, ValuePublished
from stepwell.store.claims import NotesTaken, RunsClaimed, RunsReleased, RunWoken, WorkTaken
from stepwell.store.notifications import Notification
from stepwell.store.queues import Entered, QueueChanged, QueueDeclared
from stepwell.store.sqlite.peers import datagrams
from stepwell.store.sqlite.peers.membership import Seat
from stepwell.store.store import Unit
from stepwell.testing.contract import NOW, Worker, step

#: Epochs of processes that are not there; letters to them show who is told.
TAKER, CLIENT, LISTENER = 101, 102, 103


@pytest.fixture
def worker(database: Path) -> Iterator[Worker]:
    worker = Worker(open_with_company(database))
    company_of(worker).seats = [
        Seat(11, TAKER, takes_work=True, listens=False),
        Seat(12, CLIENT, takes_work=False, listens=False),
        Seat(13, LISTENER, takes_work=False, listens=True),
    ]
    yield worker
    worker.store.close(worker.claim, NOW)


def letters(worker: Worker, *changes: Change) -> list[tuple[bytes, list[int], list[int]]]:
    """Return the letters that a commit of these changes sends."""
    company = company_of(worker)
    company.letters.clear()
    worker.apply(*changes)
    return company.letters


def test_what_concerns_nobody_else_is_told_to_nobody(worker: Worker) -> None:
    run = worker.create("a")
    assert letters(worker, step(run, 1), RunMoved(run, "waiting", NOW, wake_at=NOW + 1)) == []
    assert letters(worker, MessageSent("a", "m", "1", NOW), RunWoken(run, NOW)) == []
    assert letters(worker, RunsClaimed([run], NOW), NotesTaken([run]), WorkTaken(["w"], NOW, 1)) == []
    assert letters(worker, RunsReleased([run])) == []


def test_work_is_told_to_takers_and_ends_to_listeners(worker: Worker) -> None:
    work: tuple[bytes, list[int], list[int]] = (datagrams.WORK, [TAKER], [])
    assert letters(worker, RunCreated("p", "w", None, 1, "pending", NOW)) == [work]
    parked = worker.parked("a")
    assert letters(worker, RunWoken(parked, NOW)) == [work]
    assert letters(worker, RunWoken(parked, NOW)) == []  # it is due already
    runs = [worker.create(f"r{n}") for n in range(3)]
    ends: list[Change] = [RunFinished(runs[0], "completed", NOW), ValuePublished(runs[1], "k", "1", NOW)]
    assert letters(worker, *ends) == [(datagrams.ENDED, [LISTENER], runs[:2])]
    assert (datagrams.ENDED, [LISTENER], [runs[2]]) in letters(worker, RunMoved(runs[2], "halted", NOW, reason="why"))


def test_an_entry_of_a_queue_is_told_to_takers_as_a_turn(worker: Worker) -> None:
    company = company_of(worker)
    worker.apply(QueueDeclared("q", "queue", QueueSettings(), NOW))
    company.letters.clear()
    queued = RunCreated("p", "w", None, 1, "pending", NOW, entry=Entered("q"))
    assert letters(worker, queued) == [(datagrams.TURN, [TAKER], [])]
    # Who is told of work looks at queues as well.
    both = [msgspec.structs.replace(queued, id="r"), RunCreated("s", "w", None, 1, "pending", NOW)]
    assert letters(worker, *both) == [(datagrams.WORK, [TAKER], [])]


def test_a_deadline_in_a_queue_is_told_where_it_is_the_first(worker: Worker) -> None:
    worker.apply(QueueDeclared("q", "queue", QueueSettings(concurrency=1), NOW), QueueChanged("q", NOW, paused=True))
    company_of(worker).letters.clear()

    def entering(run_id: str, deadline_at: int | None) -> list[tuple[bytes, list[int], list[int]]]:
        started = RunCreated(run_id, "w", None, 1, "pending", NOW, deadline_at=deadline_at, entry=Entered("q"))
        return letters(worker, started).copy()

    work: list[tuple[bytes, list[int], list[int]]] = [(datagrams.WORK, [TAKER], [])]
    found = [entering(f"r{number}", at) for number, at in enumerate((None, NOW + 9, NOW + 9, NOW + 20, NOW + 8))]
    assert found == [[], work, [], [], work]


def test_an_owner_is_told_once_until_it_has_looked(worker: Worker) -> None:
    other = Worker(worker.store)
    run = other.create("a")
    assert letters(worker, RunWoken(run, NOW)) == [(datagrams.MAIL, [other.epoch], [])]
    assert letters(worker, RunWoken(run, NOW)) == []
    other.apply(NotesTaken([run]))
    assert letters(worker, RunWoken(run, NOW)) == [(datagrams.MAIL, [other.epoch], [])]


def test_nothing_is_told_of_a_commit_that_did_not_happen(worker: Worker) -> None:
    company = company_of(worker)
    company.letters.clear()
    with pytest.raises(RunNotFound):
        letters(worker, RunCreated("p", "w", None, 1, "pending", NOW), MessageSent("nobody", "m", "1", NOW))
    with pytest.raises(ValueError, match="no"), worker.writing(), worker.store.transaction(worker.claim) as tx:  # noqa: PT012
        tx.apply([RunCreated("p", "w", None, 1, "pending", NOW)])
        raise ValueError("no")
    # And of the next one only what it did itself.
    run = worker.create("a")
    assert letters(worker, step(run, 1)) == []


def test_the_runs_of_the_dead_are_told_as_work(worker: Worker) -> None:
    company = company_of(worker)
    victim = Worker(worker.store)
    victim.create("a")
    company.kill(victim.epoch)
    company.letters.clear()
    worker.reap()
    assert (datagrams.WORK, [TAKER], []) in company.letters


@pytest.mark.parametrize(
    ("kind", "keys", "news"),
    [
        (datagrams.WORK, (), Notification("work")),
        (datagrams.TURN, (), Notification("turn")),
        (datagrams.MAIL, (), Notification("mail")),
        (datagrams.ENDED, (3, 4), Notification("ends", (3, 4))),
        (datagrams.ENDED, (), Notification("anything")),
        (datagrams.DIED, (7,), Notification("death")),
        (datagrams.MEMBERS, (), Notification("anything")),
        (datagrams.ANYTHING, (), Notification("anything")),
        (b"x", (), Notification("anything")),
    ],
)
def test_letters_become_news(worker: Worker, kind: bytes, keys: tuple[int, ...], news: Notification) -> None:
    told: list[Notification] = []
    worker.store.notifications.watch(told.append)
    company = company_of(worker)
    assert company.hear is not None
    company.hear(kind, keys)
    assert told == [news]


def test_a_ping_is_answered_by_whoever_is_asked_whether_it_is_alive(worker: Worker) -> None:
    told: list[Notification] = []
    answers: list[Any] = []
    worker.store.notifications.watch(told.append)
    company = company_of(worker)
    assert company.post is not None
    company.post(lambda: answers.append(1))
    assert [news.kind for news in told] == ["alive"]
    assert answers == []
    assert told[0].reply is not None
    told[0].reply()
    assert answers == [1]


def test_listening_is_said_before_the_state_is_read(worker: Worker) -> None:
    company: Company = company_of(worker)
    worker.store.notifications.listen(True)
    assert company.listens
    worker.store.notifications.listen(False)
    assert not company.listens


def test_a_batch_of_units_tells_each_process_once(worker: Worker) -> None:
    company = company_of(worker)
    runs = [worker.create(f"r{n}") for n in range(5)]
    company.letters.clear()
    worker.commit(*(Unit([RunFinished(run, "completed", NOW)]) for run in runs))
    assert company.letters == [(datagrams.ENDED, [LISTENER], runs)]
