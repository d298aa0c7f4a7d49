"""The part of a store's contract about workers that die, stall or close, and runs that kill their workers.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.errors import ClaimLost
from stepwell.model.lifecycle import Status
from stepwell.store.changes import RunFinished, RunMoved, RunResumed
from stepwell.store.claims import RunsClaimed, RunsReleased, RunVersioned, RunWoken, WorkerServes, WorkTaken
from stepwell.store.membership import SUSPECT_CRASHES
from stepwell.store.store import Store
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step


class DeathContract(StoreFixtures):
    """What becomes of the runs of a worker that is gone."""

    # --- deaths ------------------------------------------------------------------------------------------------------

    def test_the_runs_of_a_dead_worker_are_anyones_and_what_it_was_running_is_due(
        self, worker: Worker, other: Worker
    ) -> None:
        running, noted, waiting = other.create("a"), other.create("b", "waiting"), other.create("c")
        other.apply(RunMoved(waiting, "waiting", NOW, wake_at=NOW + 50))
        others = [other.create("d", "halted"), other.create("e", "pending"), other.parked("f", wake_at=NOW + 60)]
        worker.apply(RunWoken(noted, NOW + 1))
        before = [other.record(key) for key in others]
        self.kill(other)
        assert worker.reap(NOW + 9) == 3
        due = [(record.status, record.owner, record.wake_at) for record in map(worker.record, (running, noted))]
        assert due == [("waiting", None, NOW + 9)] * 2
        assert (worker.record(waiting).owner, worker.record(waiting).wake_at) == (None, NOW + 50)
        assert [worker.record(key) for key in others] == before
        assert worker.take(at=NOW + 50, limit=3) == [running, noted, waiting]
        assert worker.news() == []

    def test_the_living_are_not_buried_and_the_dead_only_once(self, worker: Worker, other: Worker) -> None:
        third = Worker(worker.store)
        mine, theirs, lost = worker.create("a"), other.create("b"), third.create("c")
        assert worker.reap() == 0
        self.kill(third)
        assert worker.reap() == 1
        assert other.reap() == 0
        assert [worker.record(key).owner for key in (mine, theirs, lost)] == [worker.epoch, other.epoch, None]
        other.apply(step(theirs, 1))

    def test_many_dead_are_buried_at_once(self, worker: Worker) -> None:
        dead = [Worker(worker.store) for _ in range(3)]
        runs = [one.create(f"r{n}") for n, one in enumerate(dead)]
        for one in dead:
            self.kill(one)
        assert worker.reap(NOW) == 3
        assert worker.take() == runs

    def test_a_worker_that_was_buried_cannot_write_any_more(self, worker: Worker, other: Worker) -> None:
        run = other.create("a")
        self.kill(other)
        worker.reap()
        with pytest.raises(ClaimLost):
            other.apply(step(run, 1))
        assert worker.read.journal(run) == []

    # --- crashes in a row --------------------------------------------------------------------------------------------

    def _crash(self, worker: Worker, run: int, *, steps: int = 0) -> int:
        """Have a new worker die while it runs `run`, after some steps; return the count of crashes."""
        victim = Worker(worker.store)
        assert victim.apply(RunsClaimed([run], NOW)) == [[run]]
        victim.apply(RunMoved(run, "running", NOW), *(step(run, op + 1) for op in range(steps)))
        self.kill(victim)
        worker.reap(NOW)
        return worker.record(run).crashes

    def test_crashes_are_counted_anew_after_progress(self, worker: Worker) -> None:
        run = worker.parked("a")
        assert [self._crash(worker, run) for _ in range(3)] == [1, 2, 3]
        assert [self._crash(worker, run, steps=steps) for steps in (2, 0, 0, 1)] == [1, 2, 3, 1]

    def test_a_step_that_is_under_way_is_no_progress(self, worker: Worker) -> None:
        run = worker.parked("a")
        for crashes in (1, 2, 3):
            victim = Worker(worker.store)
            assert victim.apply(RunsClaimed([run], NOW)) == [[run]]
            victim.apply(RunMoved(run, "running", NOW), step(run, 1, kind="step_started", value=None))
            self.kill(victim)
            worker.reap(NOW)
            assert worker.record(run).crashes == crashes
        # It keeps the other suspects waiting, and stays one itself when it leaves memory.
        suspect = worker.parked("b")
        for _ in range(SUSPECT_CRASHES):
            self._crash(worker, suspect)
        victim = Worker(worker.store)
        assert victim.take(at=NOW, limit=5) == [run]
        victim.apply(step(run, 1, kind="step_started", value=None))
        assert not worker.reads.has_work(["shop.checkout"], NOW)
        assert worker.take(at=NOW, limit=5) == []
        victim.apply(RunMoved(run, "waiting", NOW), RunsReleased([run]))
        assert worker.record(run).crashes == 3

    def test_a_run_that_is_resumed_is_pending_and_its_crashes_are_forgiven(self, worker: Worker) -> None:
        run = worker.parked("a")
        for _ in range(3):
            self._crash(worker, run, steps=1)
            self._crash(worker, run)
        worker.apply(RunsClaimed([run], NOW), RunMoved(run, "halted", NOW, reason="RunCrashed: why"))
        assert worker.reads.halted(["shop.checkout"], 2) == []
        worker.apply(RunResumed(run, NOW + 5, "served by nobody"))
        record = worker.record(run)
        assert (record.status, record.crashes, record.resumed, record.reason) == (
            "pending",
            0,
            True,
            "served by nobody",
        )
        assert record.updated_at == NOW + 5
        assert self._crash(worker, run) == 1
        assert worker.record(run).resumed
        worker.apply(RunsClaimed([run], NOW), RunMoved(run, "halted", NOW + 9, reason="RunHalted: again"))
        assert not worker.record(run).resumed

    @pytest.mark.parametrize("status", ["running", "waiting", "pending", "completed"])
    def test_resuming_what_is_not_halted_changes_nothing(self, worker: Worker, status: Status) -> None:
        run = worker.create("a", status)
        before = worker.record(run)
        worker.apply(RunResumed(run, NOW + 5), RunResumed(99_999, NOW + 5))
        assert worker.record(run) == before

    def test_the_halted_ones_below_a_run_are_found(self, worker: Worker) -> None:
        top = worker.create("top", "waiting")
        halted = worker.create("top/1", "halted", parent=top, parent_op=1)
        middle = worker.create("top/2", "waiting", parent=top, parent_op=2)
        below = worker.create("top/2/1", "halted", parent=middle, parent_op=1)
        worker.create("other", "halted")
        ended = worker.create("top/3", "completed", parent=top, parent_op=3)
        worker.create("top/3/1", "halted", parent=ended, parent_op=1)
        assert worker.reads.halted_below(top) == [halted, below]
        assert worker.reads.halted_below(middle) == [below]
        assert worker.reads.halted_below(below) == []

    def test_a_run_that_only_waited_is_not_blamed(self, worker: Worker, other: Worker) -> None:
        runs = [other.create("a", "waiting"), other.create("b")]
        other.apply(RunMoved(runs[1], "waiting", NOW, wake_at=NOW + 50))
        self.kill(other)
        worker.reap(NOW + 49)
        assert [worker.record(run).crashes for run in runs] == [0, 0]

    def test_a_run_that_was_taken_up_and_had_not_said_anything_yet_is_blamed(self, worker: Worker) -> None:
        run = worker.parked("a", wake_at=NOW)
        for crashes in (1, 2, 3):
            victim = Worker(worker.store)
            assert victim.take(at=NOW) == [run]
            self.kill(victim)
            worker.reap(NOW + 1)
            assert worker.record(run).crashes == crashes

    def test_suspects_are_taken_one_at_a_time_and_hold_up_nobody_else(self, worker: Worker, other: Worker) -> None:
        suspects = [worker.parked(f"s{n}") for n in range(3)]
        for run in suspects:
            for _ in range(SUSPECT_CRASHES):
                self._crash(worker, run)
        innocent = [worker.parked(f"i{n}", wake_at=NOW + n) for n in range(2)]
        assert worker.take(at=NOW + 1) == [suspects[0], *innocent]
        # While it is under way, without progress, no other worker takes the next one either.
        assert other.take(at=NOW + 1) == []
        worker.apply(RunFinished(suspects[0], "completed", NOW))
        assert other.take(at=NOW + 1) == [suspects[1]]
        assert worker.take(at=NOW + 1) == []
        other.apply(step(suspects[1], 1))
        assert worker.take(at=NOW + 1) == [suspects[2]]

    def test_a_suspect_of_a_version_that_another_worker_has_is_left_to_it(self, worker: Worker, other: Worker) -> None:
        suspect = worker.parked("a")
        for _ in range(SUSPECT_CRASHES):
            self._crash(worker, suspect)
        name = worker.record(suspect).workflow
        worker.apply(RunVersioned(suspect, 1), WorkerServes([name], [(name, 1)]))
        assert other.apply(WorkTaken([name], NOW + 1, 10)) == [[]]
        assert worker.apply(WorkTaken([name], NOW + 1, 10)) == [[suspect]]

    def test_a_suspect_takes_its_turn_among_the_others(self, worker: Worker) -> None:
        suspect = worker.parked("s")
        for _ in range(SUSPECT_CRASHES):
            self._crash(worker, suspect)
        worker.apply(RunsClaimed([suspect], NOW), RunMoved(suspect, "waiting", NOW, wake_at=NOW + 5))
        worker.apply(RunsReleased([suspect]))
        runs = [worker.parked(f"r{n}", wake_at=NOW + at) for n, at in enumerate((4, 6))]
        assert worker.reads.next_wake(["shop.checkout"], NOW + 4) == NOW + 5
        assert worker.take(at=NOW + 6, limit=2) == [runs[0], suspect]

    def test_a_pending_suspect_is_taken_alone_as_well(self, worker: Worker) -> None:
        runs = [worker.parked(f"s{n}") for n in range(2)]
        for run in runs:
            for _ in range(SUSPECT_CRASHES):
                self._crash(worker, run)
            worker.apply(RunMoved(run, "pending", NOW))
        plain = worker.create("p", "pending")
        assert worker.take() == [runs[0], plain]
        assert worker.take() == []

    def test_a_suspect_that_nobody_serves_is_stranded_like_any_other(self, worker: Worker) -> None:
        run = worker.parked("s")
        for _ in range(SUSPECT_CRASHES):
            self._crash(worker, run)
        assert worker.reads.stranded(["another"], NOW, 10) == [run]
        assert worker.reads.stranded(["shop.checkout"], NOW, 10) == []

    def test_a_run_that_made_progress_and_came_to_rest_is_no_suspect_any_more(self, worker: Worker) -> None:
        run = worker.parked("s")
        for _ in range(SUSPECT_CRASHES):
            self._crash(worker, run)
        worker.apply(RunsClaimed([run], NOW), RunMoved(run, "waiting", NOW), RunsReleased([run]))
        assert worker.record(run).crashes == SUSPECT_CRASHES
        worker.apply(RunsClaimed([run], NOW), step(run, 1), RunMoved(run, "waiting", NOW), RunsReleased([run]))
        assert worker.record(run).crashes == 0

    # --- fencing and closing -----------------------------------------------------------------------------------------

    def test_a_fenced_worker_loses_its_runs_without_blame_and_goes_on_as_a_new_one(
        self, worker: Worker, other: Worker
    ) -> None:
        run, waiting = other.create("a"), other.create("b", "waiting")
        with worker.writing():
            assert worker.store.membership.fence(other.epoch, NOW + 3) == 2
            assert worker.store.membership.fence(other.epoch, NOW + 4) == 0
        record = worker.record(run)
        assert (record.status, record.wake_at, record.owner, record.crashes) == ("waiting", NOW + 3, None, 0)
        assert worker.record(waiting).owner is None
        assert worker.take(at=NOW + 3) == [run]
        with pytest.raises(ClaimLost):
            other.apply(step(run, 1))
        again = Worker(other.store)
        assert again.epoch > other.epoch
        with pytest.raises(ClaimLost, match="'a'"):
            again.apply(RunMoved(run, "waiting", NOW))
        assert again.apply(RunsClaimed([waiting], NOW + 5)) == [[waiting]]
        assert worker.reap() == 0

    def test_closing_leaves_the_runs_to_others_without_blame(self, tmp_path: Path) -> None:
        first = Worker(self.open_store(tmp_path))
        running, waiting = first.create("a"), first.create("b", "waiting")
        with first.writing():
            first.store.close(first.claim, NOW + 3)
        second = Worker(self.open_store(tmp_path))
        assert second.reap(NOW + 8) == 0
        record = second.record(running)
        assert (record.status, record.owner, record.wake_at, record.crashes) == ("waiting", None, NOW + 3, 0)
        assert (second.record(waiting).owner, second.record(waiting).wake_at) == (None, None)
        assert second.take(at=NOW + 3) == [running]
        second.store.close(second.claim, NOW)

    # --- who there is ------------------------------------------------------------------------------------------------

    def test_the_workers_that_have_not_ended_are_listed_with_what_they_hold(self, store: Store) -> None:
        client, worker, dead, fenced = (
            Worker(store, NOW, takes_work=False),
            Worker(store, NOW + 1),
            Worker(store, NOW + 2),
            Worker(store, NOW + 3),
        )
        for who, count in ((worker, 2), (dead, 1)):
            for n in range(count):
                who.create(f"{who.epoch}-{n}", "waiting" if n else "running")
        with worker.writing():
            store.membership.fence(fenced.epoch, NOW)
        self.kill(dead)
        assert [(m.epoch, m.started_at, m.takes_work, m.state, m.runs) for m in store.membership.members()] == [
            (client.epoch, NOW, False, "active", 0),
            (worker.epoch, NOW + 1, True, "active", 2),
            (dead.epoch, NOW + 2, True, "dead", 1),
        ]
        worker.reap()
        assert [member.epoch for member in store.membership.members()] == [client.epoch, worker.epoch]
