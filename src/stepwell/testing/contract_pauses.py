"""The part of a store's contract about pauses: what is paused is taken by nobody, and wakes for nothing.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.errors import RunNotFound
from stepwell.model.acts import ActRecord
from stepwell.store.changes import (
    CancelRequested,
    ChildrenCancelled,
    MessageSent,
    Paused,
    PauseEnded,
    PauseRequested,
    RunFinished,
    RunMoved,
)
from stepwell.store.claims import RunsClaimed, RunWoken
from stepwell.store.queues import QueueAdvanced, QueueTaken
from stepwell.store.store import Store
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker
from stepwell.testing.contract_queue_kit import declare, enqueue, entered, state_of

LATER = NOW + 60_000_000


def pause(run_id: str = "a", *, at: int = NOW, reason: str | None = None, children: bool = False) -> PauseRequested:
    """Return the change by which Mia pauses a run."""
    return PauseRequested(run_id, at, "mia@web", reason, children)


def unpause(run_id: str = "a", *, at: int = NOW, children: bool = False) -> PauseEnded:
    """Return the change by which Mia lets it go on."""
    return PauseEnded(run_id, at, "mia@web", None, children)


class PauseContract(StoreFixtures):
    """What pausing a run, and letting it go on, means for who may take it."""

    def test_a_paused_run_is_taken_by_nobody_until_it_goes_on(self, worker: Worker) -> None:
        due, pending = worker.parked("due", wake_at=NOW), worker.create("pending", "pending")
        worker.apply(pause("due"), pause("pending"))
        assert [worker.record(key).status for key in (due, pending)] == ["paused", "paused"]
        assert worker.take(at=LATER) == []
        assert worker.apply(RunsClaimed([due, pending], NOW)) == [[]]
        worker.apply(unpause("due"), unpause("pending"))
        assert [worker.record(key).status for key in (due, pending)] == ["pending", "pending"]
        assert worker.take() == [due, pending]

    def test_what_arrives_for_a_paused_run_does_not_wake_it(self, worker: Worker, other: Worker) -> None:
        key = worker.parked("a")
        worker.apply(pause())
        other.apply(MessageSent("a", "news", None, NOW), RunWoken(key, NOW))
        assert (worker.record(key).status, worker.record(key).wake_at, worker.take()) == ("paused", None, [])
        assert [message.name for message in worker.reads.load([key])[0].messages] == ["news"]

    def test_a_run_in_memory_is_marked_and_its_worker_is_told(self, worker: Worker, other: Worker) -> None:
        key = worker.create("a")
        (done,) = other.apply(pause())
        assert isinstance(done, Paused)
        assert (done.before.status, done.keys) == ("running", [key])
        assert (worker.record(key).status, worker.record(key).paused, worker.news()) == ("running", True, [key])
        worker.apply(RunMoved(key, "paused", NOW, waiting_on="[]"))
        record = worker.record(key)
        assert (record.status, record.owner, record.waiting_on, worker.news()) == ("paused", None, "[]", [])

    def test_one_that_was_only_marked_goes_on_as_it_is(self, worker: Worker, other: Worker) -> None:
        key = worker.create("a")
        other.apply(pause(), unpause())
        record = worker.record(key)
        assert (record.status, record.paused, record.owner) == ("running", False, worker.epoch)

    def test_a_marked_run_whose_worker_dies_is_paused(self, store: Store) -> None:
        dead, worker = Worker(store), Worker(store)
        running, waiting = dead.create("running"), dead.create("waiting", "waiting")
        worker.apply(pause("running"), pause("waiting"))
        self.kill(dead)
        assert worker.reap() == 2
        assert [worker.record(key).status for key in (running, waiting)] == ["paused", "paused"]
        assert worker.take(at=LATER) == []

    def test_a_pause_covers_all_below_that_has_not_ended(self, worker: Worker) -> None:
        parent = worker.parked("a")
        child = worker.parked("a/1", parent=parent, parent_op=1)
        grandchild = worker.create("a/1/1", "pending", parent=child, parent_op=1)
        ended = worker.create("a/2", "completed", parent=parent, parent_op=2)
        (done,) = worker.apply(pause(children=True))
        assert isinstance(done, Paused)
        assert done.keys == [parent, child, grandchild]
        assert worker.record(ended).status == "completed"
        worker.apply(unpause())
        assert [worker.record(key).status for key in (parent, child, grandchild)] == ["pending", "paused", "paused"]
        worker.apply(unpause(children=True))
        assert [worker.record(key).status for key in (parent, child, grandchild)] == ["pending"] * 3

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "halted"])
    def test_what_has_ended_or_is_halted_is_left_as_it_is(self, worker: Worker, status: Any) -> None:
        key = worker.create("a", status)
        (done,) = worker.apply(pause())
        assert isinstance(done, Paused)
        assert (done.before.status, done.keys, worker.record(key).paused) == (status, [], False)
        assert worker.read.acts(key) == []

    def test_only_what_is_done_is_recorded(self, worker: Worker) -> None:
        key = worker.parked("a")
        worker.apply(unpause())
        worker.apply(pause(reason="the shop is down"), pause(), unpause(at=NOW + 1))
        assert worker.read.acts(key) == [
            ActRecord(NOW, "pause", "mia@web", "the shop is down"),
            ActRecord(NOW + 1, "unpause", "mia@web", None),
        ]

    def test_nobody_pauses_a_run_that_does_not_exist(self, worker: Worker) -> None:
        for change in (pause("ghost"), unpause("ghost")):
            with pytest.raises(RunNotFound):
                worker.apply(change)

    def test_a_cancellation_ends_a_pause(self, worker: Worker) -> None:
        parent = worker.parked("p")
        run, child = worker.parked("a"), worker.parked("c", parent=parent, parent_op=1, attached=True)
        worker.apply(pause(), pause("c"))
        worker.apply(CancelRequested("a", NOW), ChildrenCancelled(parent, NOW))
        assert [worker.record(key).status for key in (run, child)] == ["pending", "pending"]

    def test_a_paused_run_ends_only_by_being_cancelled(self, worker: Worker) -> None:
        key = worker.parked("a")
        worker.apply(pause())
        for status in ("completed", "failed"):
            with pytest.raises(Exception, match="paused"):
                worker.apply(RunFinished(key, status, NOW, error="{}" if status == "failed" else None))
        worker.apply(RunFinished(key, "cancelled", NOW))
        assert (worker.record(key).status, worker.record(key).paused) == ("cancelled", False)

    # --- in a queue --------------------------------------------------------------------------------------------------

    def test_one_in_a_queue_keeps_its_place_in_the_line(self, worker: Worker) -> None:
        declare(worker)
        first, second = enqueue(worker, "a").key, enqueue(worker, "b").key
        worker.apply(pause())
        assert (worker.record(first).status, worker.record(first).queued) == ("paused", True)
        state = state_of(worker, "q")
        assert (state.waiting, state.running) == (1, 0)
        assert worker.apply(QueueTaken("q", [first, second], [""], NOW)) == [[second]]
        worker.apply(unpause())
        state = state_of(worker, "q")
        assert (worker.record(first).status, state.waiting, state.running) == ("pending", 1, 1)
        assert worker.apply(QueueTaken("q", [first], [""], NOW)) == [[first]]

    def test_one_that_is_delayed_waits_for_its_time_after_a_pause(self, worker: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "a", entered(ready_at=LATER)).key
        worker.apply(pause())
        assert state_of(worker, "q").delayed == 0
        worker.apply(QueueAdvanced("q", LATER))
        assert state_of(worker, "q").waiting == 0
        worker.apply(unpause(at=NOW + 1))
        assert (state_of(worker, "q").delayed, state_of(worker, "q").waiting) == (1, 0)
        worker.apply(pause(), unpause(at=LATER))
        assert (state_of(worker, "q").delayed, state_of(worker, "q").waiting) == (0, 1)
        assert worker.apply(QueueTaken("q", [key], [""], LATER)) == [[key]]

    def test_a_paused_run_leaves_its_queue_when_it_ends(self, worker: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "a", entered(dedup="k")).key
        worker.apply(pause(), RunFinished(key, "cancelled", NOW))
        state = state_of(worker, "q")
        assert (state.waiting, state.delayed, state.running) == (0, 0, 0)
        assert enqueue(worker, "b", entered(dedup="k")).key != key
