"""The part of a store's contract about workers, transactions, purging and the writers' lock.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stepwell.errors import ClaimLost, RunNotFound, TransactionError
from stepwell.model.run import Claim
from stepwell.store.changes import (
    Change,
    MessageSent,
    MessageTaken,
    RunCreated,
    RunFinished,
    RunMoved,
    ValuePublished,
    WatchAdded,
)
from stepwell.store.claims import RunsReleased
from stepwell.store.store import Lent, Store, Unit
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step


class WorkerContract(StoreFixtures):
    """What keeps workers apart, and the writes that are not changes."""

    # --- workers -----------------------------------------------------------------------------------------------------

    def test_epochs_rise_and_are_never_used_twice(self, tmp_path: Path) -> None:
        epochs: list[int] = []
        for _ in range(3):
            store = self.open_store(tmp_path)
            workers = [Worker(store), Worker(store)]
            epochs += [worker.claim.epoch for worker in workers]
            store.close(workers[1].claim, NOW)
        assert epochs == sorted(set(epochs))

    def test_a_fenced_worker_cannot_write_anything(self, store: Store) -> None:
        fenced, other = Worker(store), Worker(store)
        run = fenced.create("a")
        with other.writing():
            store.membership.fence(fenced.claim.epoch, NOW + 1)
        with pytest.raises(ClaimLost):
            fenced.commit(Unit([step(run, 1)]))
        with pytest.raises(ClaimLost), fenced.writing(), store.transaction(fenced.claim):
            pytest.fail("a fenced worker got a transaction")
        with pytest.raises(ClaimLost), fenced.writing():
            store.purge(NOW, 10, fenced.claim)
        assert other.read.journal(run) == []
        other.create("b")

    def test_a_claim_that_no_worker_was_given_is_refused(self, store: Store) -> None:
        store.writers.acquire()
        with pytest.raises(ClaimLost):
            store.commit([], Claim(999))
        store.writers.release()

    def test_a_run_of_another_worker_can_be_neither_moved_nor_finished(self, worker: Worker, other: Worker) -> None:
        running, run = worker.create("running"), worker.create("waiting", "waiting")
        for key in (running, run):
            for change in (RunMoved(key, "waiting", NOW), RunFinished(key, "completed", NOW)):
                with pytest.raises(ClaimLost, match="ing'"):
                    other.apply(change)
        worker.apply(RunsReleased([run]))
        other.apply(RunMoved(run, "running", NOW))
        with pytest.raises(ClaimLost, match="'waiting'"):
            worker.apply(RunMoved(run, "waiting", NOW))

    def test_what_was_committed_is_there_after_closing_and_opening_again(self, tmp_path: Path) -> None:
        first = Worker(self.open_store(tmp_path))
        run = first.parked("a")
        first.apply(step(run, 1), ValuePublished(run, "k", "1", NOW), MessageSent("a", "m", "1", NOW))
        before = first.reads.load([run])
        first.store.close(first.claim, NOW + 3)
        second = Worker(self.open_store(tmp_path))
        assert second.reads.load([run]) == before
        assert second.read.values(run) == {"k": "1"}
        second.store.close(second.claim, NOW + 4)

    def test_the_last_time_in_the_store_is_known(self, store: Store) -> None:
        assert store.membership.last_at() == 0
        worker = Worker(store, NOW)
        run = worker.create("a", at=NOW + 5)
        assert store.membership.last_at() == NOW + 5
        worker.apply(step(run, 1, at=NOW + 8))
        worker.create("b", at=NOW + 7)
        assert store.membership.last_at() == NOW + 8

    # --- purging -----------------------------------------------------------------------------------------------------

    def test_purging_deletes_ended_runs_with_all_that_belongs_to_them(self, worker: Worker) -> None:
        keys = [worker.create(f"r{number}", at=NOW + number) for number in range(4)]
        for number, key in enumerate(keys):
            worker.apply(step(key, 1), ValuePublished(key, "k", "1", NOW), MessageSent(f"r{number}", "m", "1", NOW))
        (sent,) = worker.apply(MessageSent("r0", "m", "1", NOW, key="k"))
        worker.apply(MessageTaken(keys[0], sent.position, NOW), WatchAdded(keys[3], keys[0]))
        for key, ended_at in zip(keys[:3], (NOW + 30, NOW + 10, NOW + 90), strict=True):
            worker.apply(RunFinished(key, "completed", ended_at))
        with worker.writing():
            assert worker.store.purge(NOW + 50, 1, worker.claim) == 1
            assert next(iter(worker.reads.records([keys[1]])), None) is None
            assert worker.store.purge(NOW + 50, 10, worker.claim) == 1
            assert worker.store.purge(NOW + 50, 10, worker.claim) == 0
        assert [snapshot.record.key for snapshot in worker.reads.load(keys)] == keys[2:]
        assert worker.read.journal(keys[0]) == []
        assert worker.read.values(keys[0]) == {}
        assert worker.apply(RunFinished(keys[3], "completed", NOW + 99)) == [[]]
        assert worker.create("r0") not in keys

    def test_purging_spares_a_child_whose_parent_lives(self, worker: Worker) -> None:
        parent = worker.create("p", "waiting")
        child = worker.create("c", "completed", parent=parent, parent_op=1)
        with worker.writing():
            assert worker.store.purge(NOW + 1, 10, worker.claim) == 0
        worker.apply(RunFinished(parent, "completed", NOW))
        with worker.writing():
            assert worker.store.purge(NOW + 1, 10, worker.claim) == 2
        assert worker.reads.load([parent, child]) == []

    # --- transactions ------------------------------------------------------------------------------------------------

    def test_a_transaction_commits_user_rows_and_changes_together(self, worker: Worker) -> None:
        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            tx.lent.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
            assert tx.lent.execute("INSERT INTO orders (item) VALUES ('tea') RETURNING id, item") == [(1, "tea")]
            (created,) = tx.apply([RunCreated("a", "w", None, 1, "pending", NOW)])
        assert worker.record(created.key).id == "a"
        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            assert tx.lent.execute("SELECT item FROM orders") == [("tea",)]

    def test_a_transaction_that_raises_leaves_nothing(self, worker: Worker) -> None:
        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            tx.lent.execute("CREATE TABLE orders (id INTEGER)")

        def change_my_mind() -> None:
            with worker.writing(), worker.store.transaction(worker.claim) as tx:
                tx.lent.execute("INSERT INTO orders VALUES (1)")
                tx.apply([RunCreated("a", "w", None, 1, "pending", NOW)])
                raise ValueError("changed my mind")

        with pytest.raises(ValueError, match="changed my mind"):
            change_my_mind()
        assert worker.read.run_by_id("a") is None
        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            assert tx.lent.execute("SELECT id FROM orders") == []

    def test_changes_refused_in_a_transaction_leave_it_open(self, worker: Worker) -> None:
        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            with pytest.raises(RunNotFound):
                tx.apply([RunCreated("a", "w", None, 1, "pending", NOW), MessageSent("b", "m", "1", NOW)])
            tx.apply([RunCreated("c", "w", None, 1, "pending", NOW)])
        assert worker.read.run_by_id("a") is None
        assert worker.read.run_by_id("c") is not None

    def test_a_lent_connection_is_of_no_use_after_its_transaction(self, worker: Worker) -> None:
        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            lent = tx.lent
        kept: list[Lent] = []

        def body(lent: Lent) -> list[Change]:
            kept.append(lent)
            return []

        worker.commit(Unit([], body))
        for late in (lent, *kept):
            with pytest.raises(TransactionError, match="over"):
                late.execute("SELECT 1")
        with pytest.raises(TransactionError, match="over"):
            tx.apply([RunCreated("a", "w", None, 1, "pending", NOW)])

    def test_a_lent_connection_is_refused_to_another_thread(self, worker: Worker) -> None:
        errors: list[BaseException] = []

        def use(lent: Lent) -> None:
            try:
                lent.execute("SELECT 1")
            except TransactionError as error:
                errors.append(error)

        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            thread = threading.Thread(target=use, args=(tx.lent,))
            thread.start()
            thread.join()
            assert tx.lent.execute("SELECT 1") == [(1,)]
        assert len(errors) == 1

    # --- the writers' lock -------------------------------------------------------------------------------------------

    def test_a_loop_is_told_when_to_try_for_the_lock_again(self, store: Store) -> None:
        told = threading.Event()
        store.writers.acquire()
        assert store.writers.try_acquire(told.set) is False
        assert not told.is_set()
        store.writers.release()
        assert told.wait(timeout=30)
        assert store.writers.try_acquire(told.set) is True
        store.writers.release()

    def test_one_at_a_time_holds_the_lock(self, store: Store) -> None:
        inside: list[int] = []
        most: list[int] = []

        def work() -> None:
            for _ in range(50):
                store.writers.acquire()
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                store.writers.release()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 200
