"""The part of a store's contract about bringing ended runs back.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.errors import RunNotEnded, RunNotFound
from stepwell.model.lifecycle import Status
from stepwell.store.changes import CancelRequested, MessageSent, MessageTaken, RunFinished, RunMoved, RunRetried
from stepwell.store.claims import RunsClaimed, RunsReleased, WorkTaken
from stepwell.store.membership import SUSPECT_CRASHES
from stepwell.store.queues import QueueTaken
from stepwell.store.store import Store
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step
from stepwell.testing.contract_queue_kit import ALL, declare, enqueue, entered, state_of

LATER = NOW + 10


def ended(worker: Worker, run_id: str = "a", status: Status = "failed") -> int:
    """Create a run with three entries that has ended."""
    key = worker.create(run_id)
    worker.apply(*(step(key, op) for op in (1, 2, 3)))
    worker.apply(RunFinished(key, status, NOW, error="{}" if status == "failed" else None, reason="because"))
    return key


def retried(key: int, **fields: Any) -> RunRetried:
    """Return the change that brings a run back."""
    return RunRetried(key, NOW, LATER, **fields)


class RetryContract(StoreFixtures):
    """What becomes of runs that failed or were cancelled when they are brought back."""

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_a_retried_run_is_pending_and_loses_what_is_undone(self, worker: Worker, status: Status) -> None:
        key = ended(worker, status=status)
        second = worker.read.journal(key)[1]
        worker.apply(retried(key, undone=[second.position]))
        record = worker.record(key)
        assert (record.status, record.error, record.reason, record.ended_at, record.owner) == (
            *("pending", None, None, None, None),
        )
        assert [entry.op for entry in worker.read.journal(key)] == [1, 3]
        assert worker.take(at=LATER) == [key]
        assert worker.record(key).status == "running"
        worker.apply(step(key, 2), RunFinished(key, "completed", LATER, result="1"))
        assert [entry.op for entry in worker.read.journal(key)] == [1, 3, 2]

    def test_entries_of_other_runs_are_not_touched(self, worker: Worker) -> None:
        key, other = ended(worker), ended(worker, "b")
        worker.apply(retried(key, undone=[entry.position for entry in worker.read.journal(other)]))
        assert len(worker.read.journal(other)) == len(worker.read.journal(key)) == 3

    @pytest.mark.parametrize("status", ["pending", "running", "waiting", "halted", "completed"])
    def test_only_what_failed_or_was_cancelled_is_retried(self, worker: Worker, status: Status) -> None:
        key = worker.create("a")
        if status == "completed":
            worker.apply(RunFinished(key, status, NOW))
        elif status != "running":
            worker.apply(RunMoved(key, status, NOW, reason="because" if status == "halted" else None))
        with pytest.raises(RunNotEnded, match=f"'a' is {status}"):
            worker.apply(retried(key))
        assert worker.record(key).status == status

    def test_a_retry_of_another_end_is_refused_and_changes_nothing(self, worker: Worker) -> None:
        key = ended(worker)
        worker.apply(retried(key))
        with pytest.raises(RunNotEnded, match="faster"):
            worker.apply(retried(key))
        worker.take(at=LATER)
        worker.apply(RunFinished(key, "failed", LATER, error="{}"))
        with pytest.raises(RunNotEnded, match="faster"):
            worker.apply(retried(key, undone=[entry.position for entry in worker.read.journal(key)]))
        assert len(worker.read.journal(key)) == 3
        with pytest.raises(RunNotFound):
            worker.apply(retried(key + 100))

    def test_a_request_to_cancel_is_forgotten_unless_it_stays(self, worker: Worker) -> None:
        keys = [worker.create(run_id) for run_id in ("a", "b")]
        for key, run_id in zip(keys, ("a", "b"), strict=True):
            worker.apply(CancelRequested(run_id, NOW, "enough"), RunFinished(key, "cancelled", NOW, reason="enough"))
        worker.apply(retried(keys[0]), retried(keys[1], stays_cancelled=True))
        assert [worker.record(key).cancel_reason for key in keys] == [None, "enough"]
        assert [worker.record(key).cancel_requested_at for key in keys] == [None, NOW]

    def test_a_request_to_cancel_is_taken_back_from_runs_that_nobody_has(self, store: Store) -> None:
        first, second = Worker(store), Worker(store)
        key, idle, owned = ended(first), first.create("idle"), second.create("owned")
        first.apply(RunMoved(idle, "waiting", NOW), RunsReleased([idle]))
        for run_id in ("idle", "owned"):
            first.apply(CancelRequested(run_id, NOW, "its parent has ended"))
        first.apply(retried(key, uncancelled=[idle, owned]))
        assert first.record(idle).cancel_requested_at is None
        assert first.record(owned).cancel_requested_at == NOW

    def test_the_count_of_crashes_begins_anew(self, store: Store) -> None:
        worker = Worker(store)
        key = worker.create("a")
        worker.apply(step(key, 1), RunMoved(key, "waiting", NOW, wake_at=NOW), RunsReleased([key]))
        for _ in range(SUSPECT_CRASHES):
            dead = Worker(store)
            dead.apply(RunsClaimed([key], NOW))
            self.kill(dead)
            worker.reap()
        assert worker.record(key).crashes == SUSPECT_CRASHES
        worker.apply(RunFinished(key, "failed", NOW, error="{}"))
        worker.apply(retried(key, undone=[entry.position for entry in worker.read.journal(key)]))
        assert worker.record(key).crashes == 0
        dead = Worker(store)
        assert dead.take(at=LATER) == [key]
        self.kill(dead)
        worker.reap()
        assert worker.record(key).crashes == 1

    def test_a_deadline_is_what_the_retry_says(self, worker: Worker) -> None:
        key = worker.create("a", deadline_at=NOW + 5)
        worker.apply(RunFinished(key, "failed", NOW, error="{}"))
        worker.apply(retried(key))
        assert worker.record(key).deadline_at is None

    def test_what_was_undone_can_be_received_again_before_what_nobody_received(self, worker: Worker) -> None:
        key = worker.create("a")
        for name, message_key in (("one", None), ("two", "key"), ("three", None), ("four", "other")):
            worker.apply(MessageSent("a", "m", f'"{name}"', NOW, message_key))
        one, two, _, _ = worker.reads.load([key])[0].messages
        worker.apply(MessageTaken(key, one.position, NOW + 1), MessageTaken(key, two.position, NOW + 2))
        worker.apply(RunFinished(key, "failed", NOW, error="{}"))
        worker.apply(retried(key, returned=[("m", '"one"', NOW + 1), ("m", '"two"', NOW + 2)]))
        assert [message.value for message in worker.reads.load([key])[0].messages] == [
            '"one"',
            '"two"',
            '"three"',
            '"four"',
        ]
        for message_key in ("key", "other"):
            worker.apply(MessageSent("a", "m", '"again"', LATER, message_key))
        messages = worker.reads.load([key])[0].messages
        assert [message.value for message in messages] == ['"one"', '"two"', '"three"', '"four"']
        assert min(message.position for message in messages) > two.position

    @pytest.mark.parametrize("status", ["failed", "cancelled", "completed"])
    def test_unreceived_messages_are_kept_for_a_retry_only(self, worker: Worker, status: Status) -> None:
        key = worker.create("a")
        worker.apply(MessageSent("a", "m", "1", NOW))
        worker.apply(RunFinished(key, status, NOW, error="{}" if status == "failed" else None))
        assert len(worker.reads.load([key])[0].messages) == (status != "completed")

    # --- queues ------------------------------------------------------------------------------------------------------

    def test_a_retried_run_waits_for_its_turn_again(self, worker: Worker) -> None:
        declare(worker, concurrency=1, partition_concurrency=1)
        key = enqueue(worker, "a", entered(partition="p", priority=7)).key
        worker.apply(QueueTaken("q", [key], ["p"], NOW), step(key, 1), RunFinished(key, "failed", NOW, error="{}"))
        assert (state_of(worker).waiting, state_of(worker).running) == (0, 0)
        enqueue(worker, "b", entered(partition="p", priority=3))
        worker.apply(retried(key))
        record = worker.record(key)
        assert (record.status, record.queued, state_of(worker).waiting) == ("pending", True, 2)
        assert worker.apply(WorkTaken(["w"], LATER, 10)) == [[]]
        with worker.read.queue_facts() as facts:
            (lane,) = facts.lanes("q", "w", 10)
            assert (lane.partition, lane.waiting) == ("p", 2)
            assert [head.priority for head in facts.heads("q", [lane], 10)[0]] == [7, 3]
        assert worker.apply(QueueTaken("q", [key], ["p"], LATER)) == [[key]]
        assert worker.record(key).status == "running"
        worker.apply(RunFinished(key, "completed", LATER))
        assert (state_of(worker).waiting, state_of(worker).running) == (1, 0)
        assert set(ALL) >= {"w"}

    def test_one_that_was_cancelled_while_it_waited_waits_where_it_did(self, worker: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "a", entered(partition="p")).key
        worker.apply(RunFinished(key, "cancelled", NOW, unstarted=True))
        worker.apply(retried(key))
        with worker.read.queue_facts() as facts:
            assert [(lane.partition, lane.waiting) for lane in facts.lanes("q", "w", 10)] == [("p", 1)]
        assert worker.record(key).started_at is None
