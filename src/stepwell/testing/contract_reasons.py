"""The part of a store's contract about why runs do not run.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

import pytest

from stepwell.model.lifecycle import Status
from stepwell.store.changes import MessageSent, RunFinished, RunMoved, RunResumed
from stepwell.store.claims import RunsClaimed, RunsReleased, WorkerServes
from stepwell.store.membership import SUSPECT_CRASHES
from stepwell.store.queues import PermitAsked, PermitDetached, QueueTaken
from stepwell.store.store import Store
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step
from stepwell.testing.contract_queue_kit import SECOND, declare, enqueue, entered, granted, taken

_WAITS = '[{"kind":"message","op":1,"name":"approval"}]'


class ReasonContract(StoreFixtures):
    """What is kept of what a run waits for, of what halted it, and of who could carry it on."""

    def test_what_a_run_waits_for_stands_in_its_row_until_it_moves(self, worker: Worker) -> None:
        key = worker.create("a")
        assert worker.record(key).waiting_on is None
        worker.apply(RunMoved(key, "waiting", NOW, waiting_on=_WAITS))
        assert worker.record(key).waiting_on == _WAITS
        worker.apply(RunMoved(key, "waiting", NOW, wake_at=NOW + 1, waiting_on="[]"))
        assert worker.record(key).waiting_on == "[]"
        worker.apply(RunMoved(key, "running", NOW))
        assert worker.record(key).waiting_on is None

    def test_it_stays_when_the_run_leaves_memory_and_is_claimed_and_when_its_worker_dies(self, store: Store) -> None:
        first, second = Worker(store), Worker(store)
        key = first.create("a")
        first.apply(RunMoved(key, "waiting", NOW, waiting_on=_WAITS), RunsReleased([key]))
        assert first.record(key).waiting_on == _WAITS
        assert second.apply(RunsClaimed([key], NOW)) == [[key]]
        assert second.record(key).waiting_on == _WAITS
        with first.writing():
            store.membership.fence(second.epoch, NOW + 1)
        assert first.record(key).waiting_on == _WAITS

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    def test_an_ended_run_waits_for_nothing(self, worker: Worker, status: Status) -> None:
        key = worker.create("a")
        worker.apply(RunMoved(key, "waiting", NOW, waiting_on=_WAITS))
        worker.apply(RunFinished(key, status, NOW, error="{}" if status == "failed" else None))
        assert worker.record(key).waiting_on is None

    def test_a_suspect_that_is_taken_up_is_under_way_and_waits_for_nothing(self, store: Store) -> None:
        survivor = Worker(store)
        key = survivor.create("a")
        survivor.apply(RunMoved(key, "waiting", NOW, wake_at=NOW, waiting_on=_WAITS), RunsReleased([key]))
        for _ in range(SUSPECT_CRASHES):
            assert survivor.record(key).waiting_on == _WAITS
            dead = Worker(store)
            assert dead.apply(RunsClaimed([key], NOW)) == [[key]]
            self.kill(dead)
            survivor.reap()
        assert survivor.record(key).waiting_on == _WAITS
        assert survivor.apply(RunsClaimed([key], NOW)) == [[key]]
        assert (survivor.record(key).status, survivor.record(key).waiting_on) == ("running", None)

    def test_what_halted_a_run_is_kept_while_it_is_halted(self, worker: Worker) -> None:
        key = worker.create("a")
        failure = '{"type":"stepwell.errors.RunHalted","message":"why"}'
        assert worker.read.halted_by(key) is worker.record(key).remedy is None
        worker.apply(step(key, 1))
        worker.apply(RunMoved(key, "halted", NOW, reason="RunHalted: why", failure=failure, remedy="resume"))
        assert (worker.read.halted_by(key), worker.record(key).remedy) == (failure, "resume")
        assert worker.apply(RunsClaimed([key], NOW)) == [[key]]
        assert worker.read.halted_by(key) is worker.record(key).remedy is None
        worker.apply(RunMoved(key, "halted", NOW, reason="RunHalted: why", failure=failure, remedy="mend"))
        worker.apply(RunResumed(key, NOW))
        assert worker.read.halted_by(key) is worker.record(key).remedy is None
        worker.apply(RunsClaimed([key], NOW))
        worker.apply(RunMoved(key, "halted", NOW, reason="RunHalted: why", failure=failure))
        worker.apply(RunFinished(key, "cancelled", NOW))
        assert worker.read.halted_by(key) is worker.record(key).remedy is None

    def test_it_is_known_how_a_run_stands_in_its_queue(self, worker: Worker) -> None:
        declare(worker, concurrency=1, partition_concurrency=1)
        first, second = (
            enqueue(worker, "a", entered(partition="p")).key,
            enqueue(worker, "b", entered(partition="p")).key,
        )
        late = enqueue(worker, "c", entered(partition="p", ready_at=NOW + SECOND)).key
        assert taken(worker) == [first]
        found = [worker.read.standing(run) for run in (first, second, late)]
        assert [(one.state, one.partition, one.queue) for one in found if one is not None] == [
            ("running", "p", "q"),
            ("waiting", "p", "q"),
            ("delayed", "p", "q"),
        ]
        assert found[2] is not None
        assert found[2].ready_at == NOW + SECOND
        assert worker.read.standing(late, 1) is None
        assert [worker.read.partition_busy("q", name) for name in ("p", "other")] == [1, 0]
        assert [worker.read.held_by_worker(epoch, "q") for epoch in (worker.epoch, 0)] == [1, 0]

    def test_halted_runs_that_keep_places_are_found_by_queue_and_partition(self, worker: Worker) -> None:
        declare(worker)
        declare(worker, "other")
        for name, queue, partition in (("a", "q", "p"), ("b", "q", "r"), ("c", "q", "p"), ("d", "other", "p")):
            run = enqueue(worker, name, entered(queue, partition=partition)).key
            worker.apply(QueueTaken(queue, [run], [partition], NOW))
            if name != "c":
                worker.apply(RunMoved(run, "halted", NOW, reason="why"))
        worker.create("elsewhere", "halted")
        assert worker.read.halted_holders("q") == ["a", "b"]
        assert worker.read.halted_holders("q", "p") == ["a"]
        assert worker.read.halted_holders("nowhere") == []

    def test_who_has_the_permits_of_a_limit_is_found(self, worker: Worker) -> None:
        declare(worker, "limit", concurrency=2)
        runs = [worker.create(name) for name in "abc"]
        worker.apply(*(PermitAsked(run, 1, "limit", NOW) for run in runs))
        assert granted(worker) == [(runs[0], 1), (runs[1], 1)]
        assert worker.read.permit_holders("limit", 5) == ["a", "b"]
        assert worker.read.permit_holders("limit", 1) == ["a"]
        assert worker.read.permits_kept_apart("limit") == []
        worker.apply(PermitDetached(runs[0], 1, 1, NOW))
        assert worker.read.permits_kept_apart("limit") == ["a"]
        assert worker.read.permit_holders("limit", 5) == ["b"]
        standing = worker.read.standing(runs[2], 1)
        assert standing is not None
        assert (standing.queue, standing.state) == ("limit", "waiting")

    def test_the_names_of_unread_messages_are_found_once_each(self, worker: Worker) -> None:
        run = worker.create("a")
        worker.apply(*(MessageSent("a", name, None, NOW) for name in ("y", "x", "y", "z")))
        assert worker.read.unreceived_names(run, 5) == ["x", "y", "z"]
        assert worker.read.unreceived_names(run, 2) == ["x", "y"]

    def test_the_suspect_that_is_under_way_is_found(self, store: Store) -> None:
        survivor = Worker(store)
        key = survivor.create("a")
        survivor.apply(RunMoved(key, "waiting", NOW, wake_at=NOW), RunsReleased([key]))
        for _ in range(SUSPECT_CRASHES):
            dead = Worker(store)
            assert dead.apply(RunsClaimed([key], NOW)) == [[key]]
            self.kill(dead)
            survivor.reap()
            assert survivor.read.suspect_under_way() is None
        survivor.apply(RunsClaimed([key], NOW))
        assert survivor.read.suspect_under_way() == "a"
        survivor.apply(step(key, 1))
        assert survivor.read.suspect_under_way() is None

    def test_it_is_known_what_each_worker_serves(self, store: Store) -> None:
        unknown = Worker(store)
        store.writers.acquire()
        try:
            some = store.membership.register(NOW, workflows=["b", "a"], queues=["q"])
            client = store.membership.register(NOW, takes_work=False, workflows=[])
        finally:
            store.writers.release()
        serving = {member.epoch: (member.workflows, member.queues) for member in store.membership.members()}
        assert serving == {
            unknown.epoch: (None, None),
            some.epoch: (frozenset({"a", "b"}), frozenset({"q"})),
            client.epoch: (frozenset(), None),
        }
        unknown.apply(WorkerServes(["c"]))
        assert store.membership.members()[0].workflows == frozenset({"c"})
