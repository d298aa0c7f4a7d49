"""Workers in several processes on one SQLite file: claims, deaths, and what they tell each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.programs.store_worker import Heard, Remote

from stepwell.errors import ClaimLost
from stepwell.store.changes import CancelRequested, MessageSent, RunCreated, RunFinished, RunMoved, ValuePublished
from stepwell.store.claims import NotesTaken, RunsClaimed, RunsReleased, RunWoken
from stepwell.store.sql import workers
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Unit
from stepwell.testing.contract import NOW, Worker, step

Starter = Callable[..., Remote]


@pytest.fixture
def worker(database: Path) -> Iterator[Worker]:
    """Return a worker of this process."""
    worker = Worker(SqliteStore.open(database, durability="normal"))
    yield worker
    with worker.writing():
        worker.store.close(worker.claim, NOW)


@pytest.fixture
def heard(worker: Worker) -> Heard:
    """Return what this process is told by others."""
    return Heard(cast("SqliteStore", worker.store))


@pytest.fixture
def start(database: Path) -> Iterator[Starter]:
    """Return what starts a worker in another process."""
    remotes: list[Remote] = []

    def start(**options: bool) -> Remote:
        remotes.append(Remote(database, **options))
        return remotes[-1]

    yield start
    for remote in remotes:
        remote.end()


# --- rows
# --------------------------------------------------------------------------------------------------------------


def test_of_the_workers_that_have_ended_the_newest_are_remembered(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "KEPT_WORKERS", 5)
    store = cast("SqliteStore", worker.store)

    def epochs() -> list[int]:
        return [epoch for (epoch,) in store._connection.execute("SELECT epoch FROM stepwell_workers ORDER BY epoch")]

    with worker.writing():
        fenced = store.membership.register(NOW)
        store.membership.fence(fenced.epoch, NOW)
        last = fenced
        for _ in range(30):
            last = store.membership.register(NOW)
            store.membership.fence(last.epoch, NOW)
        # This worker has not ended, however old it is.
        assert epochs() == [worker.claim.epoch, *range(last.epoch - 4, last.epoch + 1)]
        with pytest.raises(ClaimLost, match="ended long ago"):
            store.commit([Unit([RunCreated("late", "w", None, 1, "pending", NOW)])], fenced)
    worker.create("a")
    with worker.writing():
        # An epoch is never used again, even where no row tells that it was.
        store._connection.execute("DELETE FROM stepwell_workers WHERE epoch > 1")
        assert store.membership.register(NOW).epoch == last.epoch + 1


# --- claims
# ------------------------------------------------------------------------------------------------------------


def test_processes_that_take_work_at_once_share_it_without_a_run_twice_or_none(worker: Worker, start: Starter) -> None:
    remotes = [start() for _ in range(3)]
    units = [Unit([RunCreated(f"r{n}", "shop.checkout", None, 1, "pending", NOW)]) for n in range(600)]
    keys = [cast("Any", outcome)[0].key for outcome in worker.commit(*units)]
    for remote in remotes:
        remote.send("take_all", 7)
    taken = [remote.result() for remote in remotes]
    assert sorted(key for part in taken for key in part) == keys
    for remote, part in zip(remotes, taken, strict=True):
        assert {worker.record(key).owner for key in part} <= {remote.epoch}


def test_a_run_of_another_process_is_out_of_reach_until_it_is_released(worker: Worker, start: Starter) -> None:
    remote = start()
    run = remote.create("a", "waiting")
    assert worker.apply(RunsClaimed([run], NOW)) == [[]]
    with pytest.raises(ClaimLost, match=f"belongs to worker {remote.epoch}"):
        worker.apply(RunMoved(run, "running", NOW))
    assert remote.apply(RunsReleased([run])) == [[]]
    assert worker.apply(RunsClaimed([run], NOW)) == [[run]]


# --- deaths
# ------------------------------------------------------------------------------------------------------------


def test_the_death_of_a_process_is_heard_and_its_runs_are_carried_on(
    worker: Worker, heard: Heard, start: Starter
) -> None:
    remote = start()
    run = remote.create("a")
    assert [(member.epoch, member.state, member.runs) for member in worker.store.membership.members()] == [
        (worker.epoch, "active", 0),
        (remote.epoch, "active", 1),
    ]
    assert worker.reap(NOW) == 0
    killed_at = time.monotonic()
    remote.kill()
    heard.until("death")
    assert [member.state for member in worker.store.membership.members()] == ["active", "dead"]
    assert worker.reap(NOW + 5) == 1
    assert worker.take(at=NOW + 5) == [run]
    # A few milliseconds where nothing else runs; no lease has to run out.
    assert time.monotonic() - killed_at < 30
    assert worker.record(run).crashes == 1
    assert [member.epoch for member in worker.store.membership.members()] == [worker.epoch]


def test_a_worker_that_died_before_it_had_its_seat_is_buried(worker: Worker, start: Starter) -> None:
    remote = start(registered=False)
    remote.send("die_unseated")
    remote.process.join(60)
    assert [member.state for member in worker.store.membership.members()] == ["active", "dead"]
    worker.reap(NOW)
    assert [member.state for member in worker.store.membership.members()] == ["active"]


def test_the_dead_that_the_last_process_left_behind_are_buried_by_the_next(database: Path, start: Starter) -> None:
    remotes = [start() for _ in range(2)]
    runs = [remote.create(f"r{n}") for n, remote in enumerate(remotes)]
    for remote in remotes:
        remote.kill()
    worker = Worker(SqliteStore.open(database, durability="normal"))
    assert worker.reap(NOW) == 2
    assert worker.take() == runs
    worker.store.close(worker.claim, NOW)


def test_a_stopped_process_keeps_its_runs_until_it_is_fenced_and_then_writes_nothing_more(
    worker: Worker, start: Starter
) -> None:
    remote = start()
    run = remote.create("a")
    remote.pause()
    assert [member.state for member in worker.store.membership.members()] == ["active", "stopped"]
    assert worker.store.membership.ping([remote.epoch], 0.2) == {remote.epoch: "silent"}
    assert worker.reap(NOW) == 0
    with worker.writing():
        assert worker.store.membership.fence(remote.epoch, NOW + 1) == 1
    assert worker.take(at=NOW + 1) == [run]
    remote.send("apply", step(run, 1))
    remote.go_on()
    with pytest.raises(ClaimLost, match="fenced"):
        remote.result()
    # It goes on as a new worker, by itself.
    assert remote.register(True) > remote.epoch
    assert worker.read.journal(run) == []
    with pytest.raises(ClaimLost, match="'a'"):
        remote.apply(RunMoved(run, "waiting", NOW))
    assert worker.reap(NOW) == 0


def test_a_fenced_worker_is_told_to_look(worker: Worker, start: Starter) -> None:
    remote = start()
    with worker.writing():
        worker.store.membership.fence(remote.epoch, NOW)
    assert remote.until("mail")


def test_closing_hands_the_runs_over_at_once(worker: Worker, heard: Heard, start: Starter) -> None:
    remote = start()
    run = remote.create("a")
    remote.close()
    heard.until("work")
    assert worker.take(at=NOW + 3) == [run]
    assert worker.record(run).crashes == 0


# --- what is told
# -------------------------------------------------------------------------------------------------------


def test_work_is_told_to_those_who_take_it(worker: Worker, heard: Heard, start: Starter) -> None:
    client = start(takes_work=False)
    run = client.create("a", "pending")
    heard.until("work")
    assert worker.take() == [run]
    # The client is told of its mail, and before that of no work.
    parked = worker.parked("b")
    worker.create("c", "pending")
    own = client.create("d", "waiting")
    worker.apply(RunWoken(own, NOW))
    assert [kind for kind, _ in client.until("mail")] == ["mail"]
    # And the other way round: a parked run that became due is work.
    client.apply(MessageSent("b", "m", "1", NOW))
    heard.until("work")
    assert worker.take(limit=1) == [parked]


@pytest.mark.parametrize(
    "change", [MessageSent("a", "m", "1", NOW), CancelRequested("a", NOW)], ids=lambda change: type(change).__name__
)
def test_what_arrives_for_a_run_of_another_process_is_told_to_its_owner(
    worker: Worker, heard: Heard, start: Starter, change: Any
) -> None:
    remote = start()
    run = worker.create("a", "waiting")
    remote.apply(change)
    heard.until("mail")
    assert worker.news() == [run]
    # Taken first and read then: what comes later is told again.
    worker.apply(NotesTaken([run]))
    remote.apply(change)
    heard.until("mail")
    assert worker.news() == [run]


def test_ends_and_values_are_told_to_who_listens(worker: Worker, heard: Heard, start: Starter) -> None:
    remote = start()
    runs = [remote.create(f"r{n}") for n in range(4)]
    own = worker.create("own", "waiting")
    remote.apply(RunFinished(runs[0], "completed", NOW))
    remote.apply(RunWoken(own, NOW))
    assert [news.kind for news in heard.until("mail")] == ["mail"]
    worker.store.notifications.listen(True)
    remote.apply(RunFinished(runs[1], "completed", NOW), ValuePublished(runs[2], "k", "1", NOW))
    assert heard.until("ends")[-1].keys == (runs[1], runs[2])
    remote.apply(RunMoved(runs[3], "halted", NOW, reason="why"))
    assert heard.until("ends")[-1].keys == (runs[3],)
    worker.store.notifications.listen(False)
    worker.apply(NotesTaken([own]))
    remote.apply(RunFinished(runs[3], "cancelled", NOW))
    remote.apply(RunWoken(own, NOW))
    assert "ends" not in [news.kind for news in heard.until("mail")]


def test_what_a_transaction_of_user_code_did_is_told_as_well(worker: Worker, start: Starter) -> None:
    remote = start()
    run = remote.create("a", "waiting")
    with worker.writing(), worker.store.transaction(worker.claim) as tx:
        tx.apply([MessageSent("a", "m", "1", NOW)])
    remote.until("mail")
    assert remote.news() == [run]


def test_a_change_that_nobody_was_told_of_is_noticed(heard: Heard, start: Starter) -> None:
    remote = start()
    run = remote.create("a")
    # The first time, the coming of the process may have been what was noticed; the last time, only the change.
    for op in range(4):
        remote.apply(step(run, op))
        heard.until("anything")


def test_a_worker_answers_from_where_it_works(worker: Worker, start: Starter) -> None:
    remote = start()
    asked = [remote.epoch, remote.epoch + 99]
    assert worker.store.membership.ping(asked, 30) == {remote.epoch: "answered", remote.epoch + 99: "unreachable"}


def test_all_processes_agree_on_a_clock(worker: Worker, start: Starter) -> None:
    assert worker.store.membership.agree_on_clock(123) == 123
    assert start().agree_on_clock(456) == 123


# --- the disk
# -----------------------------------------------------------------------------------------------------------


def test_a_fault_of_one_process_is_mended_by_the_next_that_writes(
    worker: Worker, start: Starter, database: Path
) -> None:
    remote = start()
    run = remote.create("a")
    remote.mark_fault()
    log = database.with_name(database.name + "-wal")
    before = log.stat().st_size
    worker.create("b")
    assert log.stat().st_size < before
    members = cast("Any", worker.store)._members
    assert members.faulty is False
    remote.apply(step(run, 1))


def test_two_processes_that_write_without_a_pause_both_get_on(worker: Worker, start: Starter) -> None:
    remotes = [start() for _ in range(2)]
    runs = [remote.create(f"r{n}") for n, remote in enumerate(remotes)]
    for remote, run in zip(remotes, runs, strict=True):
        remote.send("write_for", run, 0.5)
    counts = [remote.result() for remote in remotes]
    assert min(counts) > max(counts) / 4, counts
    assert [len(worker.read.journal(run, limit=10**6)) for run in runs] == counts
