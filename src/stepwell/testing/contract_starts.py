"""The part of a store's contract about starts in a transaction: many at once, and what is refused among them.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from stepwell.errors import InvalidArgument, QueueNotFound, RunConflict, RunNotFound, StoreError
from stepwell.model.start_policy import OnConflict, StartPolicy
from stepwell.store.changes import (
    CancelRequested,
    ChildrenCancelled,
    Created,
    MessageSent,
    RunCreated,
    RunFinished,
    RunMoved,
    Succeeded,
    ValuePublished,
)
from stepwell.store.queues import Entered
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step
from stepwell.testing.contract_queue_kit import declare, enqueue, entered, state_of, taken

#: More than any store would write by one statement, and no round number.
MANY = 1_234


def start(run_id: str, entry: Entered | None = None, **fields: Any) -> RunCreated:
    """Return the start of a run of the workflow ``w``."""
    status = "running" if entry is None else "pending"
    fields = {"workflow": "w", "input": "[1]", "fingerprint": 7, "status": status, "at": NOW, **fields}
    return RunCreated(run_id, **fields, entry=entry)


def apply(worker: Worker, calls: Iterable[Sequence[RunCreated]]) -> list[list[Created]]:
    """Apply the starts of each call in turn, in one transaction."""
    with worker.writing(), worker.store.transaction(worker.claim) as tx:
        return [tx.apply(changes) for changes in calls]


def ids_of(worker: Worker) -> list[str]:
    """Return the ids of all runs, the oldest first."""
    return [record.id for record in worker.reads.records(list(range(1, 2 * MANY)))]


class StartContract(StoreFixtures):
    """What a store does with starts in a transaction."""

    def test_many_starts_in_one_call_are_as_many_runs(self, worker: Worker) -> None:
        (created,) = apply(worker, [[start(f"r{number}", input=f"[{number}]") for number in range(MANY)]])
        assert len({one.key for one in created}) == MANY
        for number in (0, 63, 64, 65, MANY - 1):
            record = worker.record(created[number].key)
            assert (record.id, record.input, record.status) == (f"r{number}", f"[{number}]", "running")
            assert (record.owner, record.started_at) == (worker.epoch, NOW)

    def test_many_starts_in_a_queue_take_their_places_in_their_order(self, worker: Worker) -> None:
        declare(worker)
        starts = [start(f"r{number}", entered(partition=f"p{number % 3}")) for number in range(300)]
        first, second = apply(worker, [starts[:100], starts[100:]])
        assert (state_of(worker).waiting, state_of(worker).running) == (300, 0)
        keys = [created.key for created in (*first, *second)]
        # One of each partition in turn, which is the order of starting.
        assert taken(worker, room=300) == keys
        assert worker.record(keys[0]).owner == worker.epoch

    @pytest.mark.parametrize("place", [0, 5, 63, 64, 99])
    def test_among_many_starts_each_is_told_whether_its_id_was_there(self, worker: Worker, place: int) -> None:
        before = worker.create("there", workflow="w")
        declare(worker)
        ids = [f"r{number}" for number in range(100)]
        ids[place] = "there"
        (created,) = apply(worker, [[start(run_id, entered()) for run_id in ids]])
        assert [one.existing is not None for one in created] == [run_id == "there" for run_id in ids]
        assert created[place].key == before
        assert not created[place].refused
        assert state_of(worker).waiting == 99
        assert [worker.record(one.key).id for one in created] == ids

    def test_the_same_id_twice_in_one_call_makes_one_run(self, worker: Worker) -> None:
        ids = [f"r{number % 50}" for number in range(100)]
        (created,) = apply(worker, [[start(run_id, input=f"[{run_id!r}]") for run_id in ids]])
        assert [one.key for one in created[:50]] == [one.key for one in created[50:]]
        assert [one.existing is None for one in created] == [True] * 50 + [False] * 50

    def test_a_refused_call_takes_back_its_own_starts_and_no_others(self, worker: Worker) -> None:
        declare(worker)
        declare(worker, "limit")
        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            tx.apply([start("before", entered())])
            with pytest.raises(InvalidArgument, match="limit"):
                tx.apply([start("a", entered()), start("b", entered("limit"))])
            with pytest.raises(QueueNotFound):
                tx.apply([start("c", entered("nowhere"))])
            with pytest.raises(RunNotFound):
                tx.apply([start("d", entered()), MessageSent("ghost", "m", "1", NOW)])
            with pytest.raises(StoreError):
                tx.apply([start("e", entered(), input=2**70)])
            tx.apply([start("after", entered())])
        assert ids_of(worker) == ["before", "after"]
        assert state_of(worker).waiting == 2
        assert len(taken(worker)) == 2

    def test_nothing_is_left_of_starts_whose_transaction_raised(self, worker: Worker) -> None:
        declare(worker)

        def raising() -> Iterable[list[RunCreated]]:
            yield [start("a", entered())]
            yield [start(f"r{number}", entered()) for number in range(100)]
            raise KeyError

        with pytest.raises(KeyError):
            apply(worker, raising())
        assert ids_of(worker) == []
        assert state_of(worker).waiting == 0
        enqueue(worker, "a")
        assert state_of(worker).waiting == 1

    def test_a_dedup_key_is_found_among_the_starts_of_its_own_transaction(self, worker: Worker) -> None:
        declare(worker)
        deduped = entered(dedup="k", attach=True)
        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            ((first,), (second,)) = tx.apply([start("a", deduped)]), tx.apply([start("b", deduped)])
            third, fourth = tx.apply([start("c", deduped), start("d", entered())])
        assert (first.existing, second.joined, third.joined, fourth.existing) == (None, "attached", "attached", None)
        assert state_of(worker).waiting == 2

    def test_what_nobody_has_touched_since_it_was_created_can_be_begun_unread(
        self, worker: Worker, other: Worker
    ) -> None:
        names = ("as created", "told", "cancelled", "stepped", "ended", "moved", "told by its maker", "as created, too")
        (created,) = apply(worker, [[start(name) for name in names]])
        keys = {name: one.key for name, one in zip(names, created, strict=True)}
        worker.apply(MessageSent("told by its maker", "m", "1", NOW))
        other.apply(MessageSent("told", "m", "1", NOW))
        other.apply(CancelRequested("cancelled", NOW))
        worker.apply(step(keys["stepped"], 1))
        worker.apply(RunFinished(keys["ended"], "completed", NOW))
        worker.apply(RunMoved(keys["moved"], "waiting", NOW))
        foreign = other.create("foreign", workflow="w")
        found = worker.reads.untouched([*keys.values(), foreign, 9999], worker.epoch)
        assert found == {keys["as created"], keys["as created, too"]}
        assert worker.reads.untouched([], worker.epoch) == set()


def again(worker: Worker, input: str, on_conflict: OnConflict = "replace", entry: Entered | None = None) -> Created:
    """Start the id ``a`` once more, whoever has it."""
    policy = StartPolicy(on_conflict, "always", "me")
    (created,) = worker.apply(start("a", entry, input=input, at=NOW + 5, policy=policy))
    assert isinstance(created, Created)
    return created


class SuccessorContract(StoreFixtures):
    """What a store does with starts that use an id again."""

    def test_a_start_follows_the_run_that_it_replaces_in_the_transaction_of_its_end(
        self, worker: Worker, other: Worker
    ) -> None:
        key = worker.create("a", workflow="w")
        worker.apply(MessageSent("a", "m", "1", NOW, "k"), ValuePublished(key, "v", "7", NOW))
        created = again(other, "[2]")  # another worker asks for it
        assert (created.key, created.joined) == (key, "replaced")
        assert worker.news() == [key]
        worker.apply(MessageSent("a", "m", "2", NOW + 6))
        # It had completed when its worker heard of that: whichever comes first, both happened.
        (succeeded,) = worker.apply(RunFinished(key, "completed", NOW + 7, result="1"))
        assert succeeded == Succeeded(key, None, None)
        record = worker.record(key)
        assert (record.status, record.owner, record.input, record.started_at) == ("pending", None, "[2]", None)
        assert (record.result, record.cancel_requested_at, record.ended_at) == (None, None, None)
        assert worker.read.values(key) == {}
        assert worker.take("w", at=NOW + 8) == [key]
        assert [message.value for message in worker.reads.load([key])[0].messages] == ["2"]
        assert worker.apply(RunFinished(key, "completed", NOW + 9)) == [[]]

    def test_the_last_of_several_starts_is_the_one_that_follows(self, worker: Worker) -> None:
        key = worker.create("a", workflow="w")
        for number in (2, 3):
            again(worker, f"[{number}]")
        (same,) = worker.apply(start("a", input="[3]"))
        assert (same.refused, same.existing.input) == (False, "[3]")
        worker.apply(RunFinished(key, "cancelled", NOW + 7))
        assert worker.record(key).input == "[3]"

    def test_its_place_in_a_queue_is_its_own(self, worker: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "a", workflow="w").key
        again(worker, "[2]", entry=entered(partition="p"))
        worker.apply(RunFinished(key, "cancelled", NOW + 7, unstarted=True))
        state = state_of(worker)
        assert (state.waiting, state.running) == (1, 0)
        assert worker.record(key).queued
        assert taken(worker) == [key]
        again(worker, "[3]")
        worker.apply(RunFinished(key, "cancelled", NOW + 9))
        assert (state_of(worker).running, worker.record(key).queued) == (0, False)

    def test_a_request_to_cancel_the_id_means_what_was_to_follow_as_well(self, worker: Worker) -> None:
        key = worker.create("a", workflow="w")
        again(worker, "[2]")
        worker.apply(CancelRequested("a", NOW + 6, "enough"))
        assert worker.apply(RunFinished(key, "cancelled", NOW + 7)) == [[]]
        assert worker.record(key).status == "cancelled"

    def test_the_end_of_a_parent_means_what_was_to_follow_its_child_as_well(self, worker: Worker) -> None:
        parent = worker.create("p", workflow="w")
        child = worker.create("a", workflow="w", parent=parent, parent_op=1, attached=True)
        again(worker, "[2]")
        worker.apply(RunFinished(parent, "completed", NOW + 6), ChildrenCancelled(parent, NOW + 6, "over"))
        worker.apply(RunFinished(child, "cancelled", NOW + 7))
        assert worker.record(child).status == "cancelled"

    def test_an_id_that_was_used_before_begins_with_nothing_of_that(self, worker: Worker) -> None:
        key = worker.create("a", workflow="w")
        worker.apply(step(key, 3), MessageSent("a", "m", "1", NOW, "k"), ValuePublished(key, "v", "7", NOW))
        worker.apply(RunFinished(key, "failed", NOW + 4, error="{}"))
        assert (created := again(worker, "[2]")).joined == "reused"
        assert created.key == key
        assert worker.take("w", at=NOW + 8) == [key]
        (snapshot,) = worker.reads.load([key])
        assert (snapshot.entries, snapshot.messages, snapshot.record.error) == ([], [], None)
        assert '"a:' in str(snapshot.record.chapter)
        assert worker.reads.first_input(key) == "[2]"
        assert worker.read.values(key) == {}

    def test_a_refused_start_takes_its_unit_with_it(self, worker: Worker) -> None:
        worker.create("a", workflow="w")
        policy = StartPolicy("reject", "never", "me")
        with pytest.raises(RunConflict):
            worker.apply(start("b"), start("a", policy=policy))
        with pytest.raises(RunConflict, match="another workflow"):
            worker.apply(start("b"), start("a", workflow="v", policy=StartPolicy("replace", "always", "me")))
        assert ids_of(worker) == ["a"]
