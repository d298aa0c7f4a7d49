"""The part of a store's contract about why runs do not run.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

import pytest

from stepwell.lifecycle import Status
from stepwell.store.base import SUSPECT_CRASHES, RunFinished, RunMoved, RunsClaimed, RunsReleased, Store, WorkerServes
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step

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
            store.fence(second.epoch, NOW + 1)
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
            survivor.bury()
        assert survivor.record(key).waiting_on == _WAITS
        assert survivor.apply(RunsClaimed([key], NOW)) == [[key]]
        assert (survivor.record(key).status, survivor.record(key).waiting_on) == ("running", None)

    def test_what_halted_a_run_is_kept_while_it_is_halted(self, worker: Worker) -> None:
        key = worker.create("a")
        failure = '{"type":"stepwell.errors.RunHalted","message":"why"}'
        assert worker.read.halted_by(key) is None
        worker.apply(step(key, 1))
        worker.apply(RunMoved(key, "halted", NOW, reason="RunHalted: why", failure=failure))
        assert worker.read.halted_by(key) == failure
        assert worker.apply(RunsClaimed([key], NOW)) == [[key]]
        assert worker.read.halted_by(key) is None
        worker.apply(RunMoved(key, "halted", NOW, reason="RunHalted: why", failure=failure))
        worker.apply(RunFinished(key, "cancelled", NOW))
        assert worker.read.halted_by(key) is None

    def test_it_is_known_what_each_worker_serves(self, store: Store) -> None:
        unknown = Worker(store)
        store.writers.acquire()
        try:
            some = store.register(NOW, workflows=["b", "a"], queues=["q"])
            client = store.register(NOW, takes_work=False, workflows=[])
        finally:
            store.writers.release()
        serving = {member.epoch: (member.workflows, member.queues) for member in store.members()}
        assert serving == {
            unknown.epoch: (None, None),
            some.epoch: (frozenset({"a", "b"}), frozenset({"q"})),
            client.epoch: (frozenset(), None),
        }
        unknown.apply(WorkerServes(["c"]))
        assert store.members()[0].workflows == frozenset({"c"})
