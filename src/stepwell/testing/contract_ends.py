"""The part of a store's contract about many ends in one commit: what each is tied to hears of it, as if it were alone.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

import pytest

from stepwell.errors import ClaimLost
from stepwell.store.changes import Change, MessageSent, MessageTaken, RunCreated, RunFinished, RunMoved, WatchAdded
from stepwell.store.claims import RunWoken
from stepwell.store.store import Unit
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step
from stepwell.testing.contract_queue_kit import declare, enqueue, state_of, taken

#: The ends of as many runs are committed together, and one of them is tied to something.
MANY = 9


def end_all(worker: Worker, runs: list[int], before: dict[int, list[Change]] | None = None) -> list[list[int]]:
    """End runs, each in a unit of its own behind an entry and what is to come `before`; return whom each woke."""
    units = [
        Unit([*(before or {}).get(run, []), step(run, 1), RunFinished(run, "completed", NOW + 5, result="1")])
        for run in runs
    ]
    outcomes = worker.commit(*units)
    assert all(isinstance(outcome, list) for outcome in outcomes), outcomes
    return [outcome[-1] for outcome in outcomes if isinstance(outcome, list)]


class EndContract(StoreFixtures):
    """What a store does with ends that are committed together."""

    @pytest.fixture
    def runs(self, worker: Worker) -> list[int]:
        """Return running runs of the worker."""
        return [worker.create(f"r{number}") for number in range(MANY)]

    @pytest.mark.parametrize("place", [0, 4, MANY - 1])
    def test_a_parent_and_a_watcher_are_woken_by_the_one_that_they_await(
        self, worker: Worker, runs: list[int], place: int
    ) -> None:
        watcher, parent = worker.parked("watcher"), worker.parked("parent")
        worker.apply(WatchAdded(runs[place], watcher))
        child = worker.create("child", parent=parent, parent_op=1)
        woken = end_all(worker, [*runs, child])
        assert woken == [[watcher] if index == place else [] for index in range(MANY)] + [[parent]]
        assert (worker.record(watcher).wake_at, worker.record(parent).wake_at) == (NOW + 5, NOW + 5)

    def test_an_owner_elsewhere_that_awaits_one_is_left_a_note(
        self, worker: Worker, other: Worker, runs: list[int]
    ) -> None:
        watcher = other.create("watcher")
        worker.apply(WatchAdded(runs[3], watcher))
        assert end_all(worker, runs)[3] == [watcher]
        assert other.news() == [watcher]

    def test_messages_and_notes_of_runs_that_ended_are_gone(
        self, worker: Worker, other: Worker, runs: list[int]
    ) -> None:
        other.apply(MessageSent("r2", "m", "1", NOW))
        other.apply(RunWoken(runs[5], NOW))
        assert worker.news() == [runs[2], runs[5]]
        end_all(worker, runs)
        assert worker.news() == []
        assert [snapshot.messages for snapshot in worker.reads.load(runs)] == [[]] * MANY

    def test_places_in_a_queue_are_free_for_the_next(self, worker: Worker, runs: list[int]) -> None:
        declare(worker, concurrency=2)
        keys = [enqueue(worker, name).key for name in ("a", "b", "c", "d")]
        assert taken(worker) == keys[:2]
        end_all(worker, [keys[0], *runs, keys[1]])
        assert (state_of(worker).running, state_of(worker).waiting) == (0, 2)
        assert taken(worker) == keys[2:]

    def test_what_ties_a_run_in_the_same_commit_counts_as_well(self, worker: Worker, runs: list[int]) -> None:
        watcher, position = worker.parked("watcher"), 1
        worker.apply(MessageSent("r6", "m", "1", NOW))
        before: dict[int, list[Change]] = {
            runs[2]: [MessageSent("r5", "m", "1", NOW)],
            runs[3]: [WatchAdded(runs[4], watcher), WatchAdded(runs[7], watcher)],
            runs[6]: [MessageTaken(runs[6], position, NOW)],
        }
        woken = end_all(worker, runs, before)
        assert [index for index, keys in enumerate(woken) if keys == [watcher]] == [4, 7]
        assert [snapshot.messages for snapshot in worker.reads.load(runs)] == [[]] * MANY

    def test_one_of_many_that_must_not_end_is_refused_alone(
        self, worker: Worker, other: Worker, runs: list[int]
    ) -> None:
        foreign, over = other.create("foreign"), worker.create("over", "completed")
        units = [
            Unit([RunFinished(run, "completed", NOW + 5)]) for run in (*runs[:4], foreign, over, *runs[4:], runs[0])
        ]
        outcomes = worker.commit(*units)
        refused = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, ClaimLost)]
        assert refused == [4, 5, MANY + 2]
        assert {worker.record(run).status for run in runs} == {"completed"}
        assert worker.record(foreign).status == "running"

    def test_a_run_that_was_made_and_ended_in_one_commit_is_over(self, worker: Worker, runs: list[int]) -> None:
        (created,) = worker.apply(RunCreated("new", "w", "[1]", 7, "running", NOW))
        units = [Unit([RunFinished(run, "completed", NOW + 5)]) for run in (*runs, created.key)]
        units.insert(3, Unit([RunMoved(runs[8], "waiting", NOW + 4, wake_at=NOW + 9)]))
        outcomes = worker.commit(*units)
        assert all(isinstance(outcome, list) for outcome in outcomes)
        assert {worker.record(run).status for run in (*runs, created.key)} == {"completed"}
