"""The part of a store's contract about owners: claims, releases, and what others leave for an owner.

A run has an owner exactly while it is in the memory of a worker; nobody else acts on it. See
`stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stepwell.errors import ClaimLost
from stepwell.model.lifecycle import STATUSES, Status
from stepwell.model.run import Message
from stepwell.store.changes import (
    CancelRequested,
    Change,
    ChildrenCancelled,
    MessageSent,
    MessageTaken,
    RunFinished,
    RunMoved,
    Sent,
    WatchAdded,
)
from stepwell.store.claims import NotesTaken, RunsClaimed, RunsReleased, RunVersioned, RunWoken, WorkerServes, WorkTaken
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker

#: Each way in which something can arrive for the run "target", whose key is given; `helper` is a run of the writer's.
_ARRIVALS: dict[str, Callable[[int, int], list[Change]]] = {
    "a message": lambda _target, _helper: [MessageSent("target", "m", "1", NOW + 7)],
    "a request to cancel it": lambda _target, _helper: [CancelRequested("target", NOW + 7)],
    "the end of its parent": lambda _target, helper: [ChildrenCancelled(helper, NOW + 7)],
    "the end of a run it watches": lambda target, helper: [
        WatchAdded(helper, target),
        RunFinished(helper, "completed", NOW + 7),
    ],
    "a call": lambda target, _helper: [RunWoken(target, NOW + 7)],
}
_each_arrival = pytest.mark.parametrize("arrival", _ARRIVALS.values(), ids=_ARRIVALS.keys())


class ClaimContract(StoreFixtures):
    """Who owns a run, and how it changes hands."""

    # --- owners ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("status", STATUSES)
    def test_a_run_has_an_owner_while_it_runs_or_waits_in_memory_and_at_no_other_time(
        self, worker: Worker, status: Status
    ) -> None:
        record = worker.record(worker.create("a", status))
        assert record.owner == (worker.epoch if status in ("running", "waiting") else None)

    def test_a_run_is_claimed_by_the_first_that_asks(self, worker: Worker, other: Worker) -> None:
        run = worker.parked("a", wake_at=NOW + 5)
        assert other.apply(RunsClaimed([run], NOW + 2)) == [[run]]
        assert worker.apply(RunsClaimed([run], NOW + 3)) == [[]]
        record = worker.record(run)
        # It goes on waiting until its code says otherwise.
        assert (record.owner, record.status, record.wake_at) == (other.epoch, "waiting", NOW + 5)

    def test_runs_of_a_version_that_another_worker_has_are_left_to_it(self, worker: Worker, other: Worker) -> None:
        parked, pending = worker.parked("parked", wake_at=NOW + 1), worker.create("pending", "pending")
        free = worker.create("free", "pending")
        name = worker.record(free).workflow
        worker.apply(RunVersioned(parked, 1), RunVersioned(pending, 1), RunVersioned(free, 3))
        worker.apply(WorkerServes([name], [(name, 1), (name, 2)]))
        other.apply(WorkerServes([name], [(name, 2)]))
        assert other.apply(RunsClaimed([parked, pending], NOW + 2)) == [[]]
        assert other.apply(WorkTaken([name], NOW + 2, 9)) == [[free]]
        assert worker.apply(WorkTaken([name], NOW + 2, 9)) == [[parked, pending]]
        assert worker.record(parked).version == 1
        assert worker.read.runs_by_version() == {(name, 1): 2, (name, 3): 1}

    def test_a_claim_gets_what_is_free_and_its_own_in_the_order_asked_for(self, worker: Worker, other: Worker) -> None:
        halted, pending = worker.create("halted", "halted"), worker.create("pending", "pending")
        parked, ended = worker.parked("parked"), worker.create("ended", "completed")
        own = worker.create("own", "waiting")
        before = worker.record(own)
        foreign = other.create("foreign", "waiting")
        asked = [pending, own, foreign, ended, 9999, parked, halted]
        assert worker.apply(RunsClaimed(asked, NOW + 4)) == [[pending, own, parked, halted]]
        assert worker.record(own) == before
        for key, status in ((pending, "running"), (parked, "waiting"), (halted, "running")):
            record = worker.record(key)
            assert (record.status, record.owner, record.reason) == (status, worker.epoch, None)
        assert worker.record(pending).started_at == NOW + 4
        assert worker.record(parked).started_at == NOW
        assert worker.record(foreign).owner == other.epoch
        assert worker.record(ended).owner is None
        assert worker.apply(RunsClaimed([], NOW)) == [[]]

    def test_what_a_run_wrote_before_it_was_claimed_by_another_cannot_be_added_to(
        self, worker: Worker, other: Worker
    ) -> None:
        run = worker.parked("a")
        other.apply(RunsClaimed([run], NOW))
        for change in (RunMoved(run, "waiting", NOW), RunFinished(run, "completed", NOW)):
            with pytest.raises(ClaimLost, match="'a'"):
                worker.apply(change)

    # --- work --------------------------------------------------------------------------------------------------------

    def test_work_is_what_is_due_the_longest_first_and_then_what_is_pending_by_age(self, worker: Worker) -> None:
        pending = [worker.create(f"p{n}", "pending", workflow=w) for n, w in enumerate(["b", "a", "b"])]
        due = [
            worker.parked(f"d{n}", wake_at=NOW + delay, workflow=w)
            for n, (delay, w) in enumerate([(30, "a"), (10, "b"), (20, "a"), (10, "a"), (31, "a")])
        ]
        later = due.pop()
        wanted = [due[1], due[3], due[2], due[0], *pending]
        assert worker.take("a", "b", "a", at=NOW + 30, limit=3) == wanted[:3]
        assert worker.take("a", "b", at=NOW + 30, limit=2) == wanted[3:5]
        assert worker.take("b", "a", at=NOW + 30) == wanted[5:]
        assert worker.take("a", "b", at=NOW + 30) == []
        assert {worker.record(key).owner for key in wanted} == {worker.epoch}
        assert [worker.record(key).status for key in wanted] == ["waiting"] * 4 + ["running"] * 3
        assert worker.record(pending[0]).started_at == NOW + 30
        assert worker.record(later).owner is None

    def test_of_a_thousand_workflows_those_with_work_are_found(self, worker: Worker) -> None:
        served = [f"w{number}" for number in range(1000)]
        due = [worker.parked(name, workflow=name, wake_at=NOW + 9) for name in ("w7", "not served", "w500")]
        worker.parked("later", workflow="w8", wake_at=NOW + 99)
        begins = [worker.create(f"new-{name}", "pending", workflow=name) for name in ("w999", "unknown", "w3")]
        assert worker.take(*served, at=NOW + 9) == [due[0], due[2], begins[0], begins[2]]
        assert worker.take(*served, at=NOW + 9) == []

    def test_only_runs_that_nobody_owns_are_work(self, worker: Worker, other: Worker) -> None:
        for status in STATUSES:
            if status != "pending":
                worker.create(status, status)
        resident = other.create("resident")
        other.apply(RunMoved(resident, "waiting", NOW, wake_at=NOW))
        worker.parked("never")
        worker.parked("foreign", wake_at=NOW, workflow="foreign")
        worker.create("foreign-pending", "pending", workflow="foreign")
        assert worker.take(at=NOW + 99) == []
        pending = worker.create("pending", "pending")
        assert other.take(at=NOW + 99) == [pending]

    def test_a_run_that_was_begun_is_not_ended_as_one_that_nobody_has(self, worker: Worker, other: Worker) -> None:
        runs = [worker.create(f"r{number}", "pending") for number in range(4)]
        other.apply(RunsClaimed(runs[:3], NOW), RunMoved(runs[1], "waiting", NOW), RunsReleased([runs[1]]))
        other.apply(RunMoved(runs[2], "pending", NOW))
        for run in runs[:3]:
            with pytest.raises(ClaimLost):
                worker.apply(RunFinished(run, "cancelled", NOW + 1, unstarted=True))
        worker.apply(RunFinished(runs[3], "cancelled", NOW + 1, unstarted=True))
        assert [worker.record(run).status for run in runs] == ["running", "waiting", "pending", "cancelled"]

    def test_two_workers_never_get_the_same_run(self, worker: Worker, other: Worker) -> None:
        keys = [worker.parked(f"r{n}", wake_at=NOW) for n in range(10)]
        mine, theirs = worker.take(limit=4), other.take(limit=100)
        assert sorted(mine + theirs) == keys
        assert (len(mine), len(theirs)) == (4, 6)

    # --- releases ----------------------------------------------------------------------------------------------------

    def test_a_released_run_keeps_its_wake_up_and_is_anyones(self, worker: Worker, other: Worker) -> None:
        run = worker.create("a")
        worker.apply(RunMoved(run, "waiting", NOW, wake_at=NOW + 9))
        assert worker.apply(RunsReleased([run])) == [[]]
        record = worker.record(run)
        assert (record.owner, record.status, record.wake_at) == (None, "waiting", NOW + 9)
        assert other.take(at=NOW + 9) == [run]

    def test_only_a_waiting_run_of_its_own_is_released_by_a_worker(self, worker: Worker, other: Worker) -> None:
        running, foreign = worker.create("a"), other.create("b", "waiting")
        assert worker.apply(RunsReleased([running, foreign, 9999])) == [[]]
        assert worker.record(running).owner == worker.epoch
        assert worker.record(foreign).owner == other.epoch

    def test_a_run_for_which_news_lies_here_is_not_released(self, worker: Worker, other: Worker) -> None:
        runs = [worker.create(f"r{n}", "waiting") for n in range(3)]
        other.apply(MessageSent("r2", "m", "1", NOW), MessageSent("r0", "m", "1", NOW))
        assert worker.apply(RunsReleased([runs[2], runs[1], runs[0]])) == [[runs[2], runs[0]]]
        assert [worker.record(run).owner for run in runs] == [worker.epoch, None, worker.epoch]
        worker.apply(NotesTaken(runs))
        assert worker.apply(RunsReleased(runs)) == [[]]

    # --- what arrives ------------------------------------------------------------------------------------------------

    @_each_arrival
    @pytest.mark.parametrize("status", ["running", "waiting"])
    def test_what_arrives_for_a_run_of_another_worker_is_noted_for_it(
        self, worker: Worker, other: Worker, arrival: Callable[[int, int], list[Change]], status: Status
    ) -> None:
        helper = other.create("helper")
        target = worker.create("target", status, parent=helper, parent_op=1, attached=True)
        wake_at = worker.record(target).wake_at
        other.apply(*arrival(target, helper))
        other.apply(*arrival(target, helper)[:1])
        assert (worker.news(), other.news()) == ([target], [])
        # A wake-up time in the row is the owner's to write.
        assert (worker.record(target).wake_at, worker.record(target).owner) == (wake_at, worker.epoch)
        worker.apply(NotesTaken([target]))
        assert worker.news() == []

    @_each_arrival
    @pytest.mark.parametrize("status", ["running", "waiting"])
    def test_what_a_worker_does_to_its_own_run_is_not_news_to_it(
        self, worker: Worker, arrival: Callable[[int, int], list[Change]], status: Status
    ) -> None:
        helper = worker.create("helper")
        target = worker.create("target", status, parent=helper, parent_op=1, attached=True)
        worker.apply(*arrival(target, helper))
        assert worker.news() == []
        if status == "waiting":
            assert worker.apply(RunsReleased([target])) == [[]]

    @_each_arrival
    @pytest.mark.parametrize("status", ["running", "waiting"])
    def test_what_a_worker_did_to_its_own_run_is_looked_at_though_it_dies_at_once(
        self, worker: Worker, other: Worker, arrival: Callable[[int, int], list[Change]], status: Status
    ) -> None:
        helper = other.create("helper")
        target = other.create("target", status, parent=helper, parent_op=1, attached=True)
        other.apply(*arrival(target, helper))
        self.kill(other)
        worker.reap(NOW + 9)
        assert target in worker.take(at=NOW + 9)

    @pytest.mark.parametrize("change", [MessageSent("a", "m", "1", NOW), CancelRequested("a", NOW)], ids=repr)
    def test_what_a_worker_has_not_looked_at_yet_is_looked_at_after_it_whatever_else_it_did(
        self, worker: Worker, other: Worker, change: Change
    ) -> None:
        run = other.create("a")
        # The activation that is committed here began before the change came.
        other.apply(change, RunMoved(run, "waiting", NOW))
        self.kill(other)
        worker.reap(NOW + 9)
        assert worker.take(at=NOW + 9) == [run]

    @_each_arrival
    def test_what_arrives_for_a_run_that_nobody_owns_makes_it_due(
        self, worker: Worker, other: Worker, arrival: Callable[[int, int], list[Change]]
    ) -> None:
        helper = other.create("helper")
        target = worker.parked("target", wake_at=NOW + 50, parent=helper, parent_op=1, attached=True)
        other.apply(*arrival(target, helper))
        assert worker.record(target).wake_at == NOW + 7
        assert worker.take(at=NOW + 6) == []
        assert worker.take(at=NOW + 7) == [target]
        assert worker.news() == []

    @_each_arrival
    @pytest.mark.parametrize("status", ["pending", "halted"])
    def test_a_run_that_does_not_wait_is_not_woken(
        self, worker: Worker, other: Worker, arrival: Callable[[int, int], list[Change]], status: Status
    ) -> None:
        helper = other.create("helper")
        target = worker.create("target", status, parent=helper, parent_op=1, attached=True)
        other.apply(*arrival(target, helper))
        record = worker.record(target)
        assert (record.status, record.owner, record.wake_at) == (status, None, None)
        assert worker.news() == []

    def test_the_end_of_a_child_is_news_for_its_parent_at_another_worker(self, worker: Worker, other: Worker) -> None:
        parent = worker.create("parent", "waiting")
        child = other.create("child", parent=parent, parent_op=1)
        other.apply(RunFinished(child, "completed", NOW + 1))
        assert worker.news() == [parent]

    def test_a_message_says_whose_run_it_is_for(self, worker: Worker, other: Worker) -> None:
        run = worker.create("a", "waiting")
        (sent,) = other.apply(MessageSent("a", "m", "1", NOW, key="k"))
        assert sent == Sent(run, "waiting", sent.position, worker.epoch)
        assert other.apply(MessageSent("a", "m", "1", NOW, key="k")) == [Sent(run, "waiting", 0, worker.epoch)]
        parked = worker.parked("b")
        (sent,) = other.apply(MessageSent("b", "m", "1", NOW))
        assert sent == Sent(parked, "waiting", sent.position, None)

    def test_a_repeated_message_is_no_news(self, worker: Worker, other: Worker) -> None:
        run = worker.create("a", "waiting")
        message = MessageSent("a", "m", "1", NOW, key="k")
        other.apply(message)
        worker.apply(NotesTaken([run]))
        other.apply(message)
        assert worker.news() == []

    def test_the_messages_that_others_wrote_are_told_apart(self, worker: Worker, other: Worker) -> None:
        run = worker.create("a")
        sent = [who.apply(MessageSent("a", "m", f"{n}", NOW + n))[0] for n, who in enumerate([other, worker] * 2)]

        def from_others(run: int, epoch: int, heard: int) -> list[Message]:
            return worker.reads.messages_from_others({run: heard}, epoch)[run]

        assert [message.value for message in from_others(run, worker.epoch, 0)] == ["0", "2"]
        assert [message.value for message in from_others(run, worker.epoch, sent[0].position)] == ["2"]
        assert [message.value for message in from_others(run, other.epoch, 0)] == ["1", "3"]
        worker.apply(MessageTaken(run, sent[2].position, NOW))
        assert [(one.position, one.name, one.sent_at) for one in from_others(run, worker.epoch, 0)] == [
            (sent[0].position, "m", NOW)
        ]

    def test_news_is_taken_by_the_owner_alone(self, worker: Worker, other: Worker) -> None:
        run, second = worker.create("a"), worker.create("b")
        other.apply(RunWoken(run, NOW), RunWoken(second, NOW), NotesTaken([run, second]))
        assert worker.news() == [run, second]
        worker.apply(NotesTaken([second, 9999]))
        assert worker.news() == [run]

    def test_news_comes_again_after_it_was_taken(self, worker: Worker, other: Worker) -> None:
        run = worker.create("a")
        for _ in range(2):
            other.apply(RunWoken(run, NOW))
            assert worker.news() == [run]
            worker.apply(NotesTaken([run]))

    @pytest.mark.parametrize("status", ["pending", "halted", "completed"])
    def test_a_run_that_leaves_memory_for_good_takes_its_news_along(
        self, worker: Worker, other: Worker, status: Status
    ) -> None:
        run = worker.create("a")
        other.apply(RunWoken(run, NOW))
        worker.apply(
            RunFinished(run, status, NOW) if status == "completed" else RunMoved(run, status, NOW, reason="why")
        )
        assert worker.news() == []
        if status == "completed":
            with worker.writing():
                assert worker.store.purge(NOW + 1, 10, worker.claim) == 1
        else:
            other.apply(RunsClaimed([run], NOW))
            assert other.news() == []
