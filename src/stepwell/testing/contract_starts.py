"""The part of a store's contract about starts in a transaction: many at once, and what is refused among them.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from stepwell.errors import InvalidArgument, QueueNotFound, RunNotFound, StoreError
from stepwell.store.changes import CancelRequested, Created, MessageSent, RunCreated, RunFinished, RunMoved
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
