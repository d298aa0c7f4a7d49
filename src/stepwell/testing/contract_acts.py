"""The part of a store's contract about acts: who did what to runs and queues, and why.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

import pytest

from stepwell.errors import RunNotFound
from stepwell.model.acts import ActKind, Actor, ActRecord
from stepwell.store.acts import KEPT_ACTS, ActRecorded
from stepwell.store.changes import CancelRequested, RunFinished, RunMoved, RunResumed, RunRetried
from stepwell.store.claims import RunsReleased
from stepwell.store.queues import QueueChanged
from stepwell.store.store import Store
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker
from stepwell.testing.contract_queue_kit import declare


def act(kind: ActKind = "cancel", run_id: str | None = "a", *, at: int = NOW, reason: str | None = None) -> ActRecorded:
    """Return the change that records that Mia acted."""
    return ActRecorded(kind, at, "mia@web", reason, run_id=run_id)


class ActContract(StoreFixtures):
    """What the store keeps of those who act."""

    def test_acts_are_read_in_their_order(self, worker: Worker) -> None:
        key = worker.create("a", "halted")
        worker.apply(RunResumed(key, NOW), act("resume", reason="the shop is back"))
        worker.apply(CancelRequested("a", NOW + 1), act(at=NOW + 1))
        assert worker.read.acts(key) == [
            ActRecord(NOW, "resume", "mia@web", "the shop is back"),
            ActRecord(NOW + 1, "cancel", "mia@web", None),
        ]

    def test_acts_on_other_runs_are_not_among_them(self, worker: Worker) -> None:
        key, other = worker.create("a"), worker.create("b")
        worker.apply(act())
        assert (len(worker.read.acts(key)), worker.read.acts(other)) == (1, [])

    def test_nothing_is_done_to_a_run_that_has_ended_or_is_unknown(self, worker: Worker) -> None:
        key = worker.create("a", "completed")
        worker.apply(CancelRequested("a", NOW), act())
        worker.apply(act(run_id="ghost"))
        assert worker.read.acts(key) == []

    def test_an_act_stands_before_the_end_that_it_brings_and_after_the_return(self, worker: Worker) -> None:
        key = worker.create("a")
        worker.apply(CancelRequested("a", NOW), act(), RunFinished(key, "cancelled", NOW))
        worker.apply(RunRetried(key, NOW, NOW + 1), act("retry", at=NOW + 1))
        assert [kept.act for kept in worker.read.acts(key)] == ["cancel", "retry"]

    def test_an_act_is_refused_with_what_it_is_about(self, worker: Worker) -> None:
        key = worker.create("a")
        with pytest.raises(RunNotFound):
            worker.apply(act(), CancelRequested("ghost", NOW))
        assert worker.read.acts(key) == []

    def test_the_newest_acts_of_a_run_are_kept(self, worker: Worker) -> None:
        key, other = worker.create("a"), worker.create("b")
        worker.apply(act(run_id="b"))
        worker.apply(*(act(at=NOW + number) for number in range(KEPT_ACTS + 3)))
        assert [kept.at for kept in worker.read.acts(key)] == [NOW + number for number in range(3, KEPT_ACTS + 3)]
        assert len(worker.read.acts(other)) == 1

    def test_acts_are_purged_with_their_run(self, worker: Worker) -> None:
        key, stays = worker.create("a"), worker.create("b")
        worker.apply(act(), act(run_id="b"), RunFinished(key, "cancelled", NOW))
        with worker.writing():
            assert worker.store.purge(NOW + 1, 10, worker.claim) == 1
        assert (worker.read.acts(key), len(worker.read.acts(stays))) == ([], 1)

    def test_acts_on_a_queue_are_its_own_and_bounded(self, worker: Worker) -> None:
        declare(worker)
        key = worker.create("q")
        for number in range(KEPT_ACTS + 2):
            acted = ActRecorded("pause", NOW + number, "mia@web", "why", queue="q")
            worker.apply(QueueChanged("q", NOW, None, paused=True), acted)
        acts = worker.read.acts_of_queue("q")
        assert [kept.at for kept in acts] == [NOW + number for number in range(2, KEPT_ACTS + 2)]
        assert (acts[0].act, acts[0].by, acts[0].reason) == ("pause", "mia@web", "why")
        assert (worker.read.acts(key), worker.read.acts_of_queue("other")) == ([], [])

    # --- takeovers ---------------------------------------------------------------------------------------------------

    def test_a_death_is_noted_for_each_run_that_the_dead_had(self, store: Store) -> None:
        worker, dead = Worker(store), Worker(store)
        running, waiting = dead.create("running"), dead.create("waiting")
        left, foreign = dead.create("left"), worker.create("foreign")
        dead.apply(RunMoved(waiting, "waiting", NOW), RunMoved(left, "waiting", NOW), RunsReleased([left]))
        self.kill(dead)
        assert worker.reap(NOW + 5) == 2
        for key in (running, waiting):
            (noted,) = worker.read.acts(key)
            assert (noted.at, noted.act) == (NOW + 5, "takeover")
            assert f"worker {worker.epoch}" in noted.by
            assert noted.reason is not None
            assert f"worker {dead.epoch}" in noted.reason
            assert "died" in noted.reason
        assert worker.read.acts(left) == worker.read.acts(foreign) == []

    @pytest.mark.parametrize("reason", ["it hangs", None])
    def test_a_fence_is_noted_with_who_asked_for_it(self, store: Store, reason: str | None) -> None:
        worker, stalled = Worker(store), Worker(store)
        key = stalled.create("a")
        with worker.writing():
            assert store.membership.fence(stalled.epoch, NOW + 5, Actor("mia@web", reason)) == 1
        (noted,) = worker.read.acts(key)
        assert (noted.at, noted.act, noted.by) == (NOW + 5, "takeover", "mia@web")
        assert noted.reason is not None
        assert f"worker {stalled.epoch}" in noted.reason
        assert (reason or "fenced") in noted.reason

    def test_one_that_closes_leaves_nothing_to_note(self, worker: Worker, other: Worker) -> None:
        key = other.create("a")
        other.apply(RunMoved(key, "waiting", NOW), RunsReleased([key]))
        worker.reap()
        assert worker.read.acts(key) == []
