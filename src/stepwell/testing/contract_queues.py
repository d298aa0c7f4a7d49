"""The part of a store's contract about queues.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

import pytest

from stepwell.definitions.queues import QueueSettings
from stepwell.errors import ClaimLost, InvalidArgument, QueueNotFound, RunNotFound, StepwellError
from stepwell.model.journal import Entry
from stepwell.store.changes import Change, Created, MessageSent, RunCreated, RunFinished, RunMoved
from stepwell.store.claims import NotesTaken, RunsClaimed, WorkerServes, WorkTaken
from stepwell.store.queues import (
    LoneEntry,
    QueueChanged,
    QueueDeclared,
    QueueFacts,
    QueueTaken,
    Rescheduled,
    RunRescheduled,
)
from stepwell.store.store import Unit
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker
from stepwell.testing.contract_queue_kit import (
    ALL,
    SECOND,
    decide,
    declare,
    enqueue,
    entered,
    finish,
    state_of,
    taken,
)
from stepwell.worker.rules.queue_policy import take


class QueueContract(StoreFixtures):
    """What a store does with queues and limits."""

    # --- declaring ---------------------------------------------------------------------------------------------------

    def test_a_declaration_reads_as_it_was_made(self, worker: Worker) -> None:
        declare(worker, concurrency=3, per_worker=2, partition_concurrency=1, rate_limit=5, rate_per=SECOND)
        state = state_of(worker)
        assert state.settings == QueueSettings(3, 2, 1, 5, SECOND)
        assert (state.kind, state.paused, state.waiting, state.running) == ("queue", False, 0, 0)

    def test_a_live_change_outlives_the_same_declaration_but_not_another_one(self, worker: Worker) -> None:
        declare(worker, concurrency=3)
        worker.apply(QueueChanged("q", NOW, QueueSettings(concurrency=9)))
        declare(worker, concurrency=3)
        assert state_of(worker).settings.concurrency == 9
        declare(worker, concurrency=4)
        assert state_of(worker).settings.concurrency == 4

    def test_naming_a_queue_changes_nothing_of_it(self, worker: Worker) -> None:
        (made,) = worker.apply(QueueDeclared("q", "queue", None, NOW))
        assert made is None
        assert state_of(worker).settings == QueueSettings()
        declare(worker, concurrency=3)
        (named,) = worker.apply(QueueDeclared("q", "queue", None, NOW))
        assert named is None
        assert state_of(worker).settings == QueueSettings(concurrency=3)
        with pytest.raises(InvalidArgument, match="'q' is a queue"):
            worker.apply(QueueDeclared("q", "limit", None, NOW))

    def test_a_declaration_tells_what_it_has_changed(self, worker: Worker) -> None:
        def stated(concurrency: int | None) -> object:
            return worker.apply(QueueDeclared("q", "queue", QueueSettings(concurrency), NOW))[0]

        assert stated(3) is None  # it was not there
        assert stated(3) is None
        assert stated(4) == QueueSettings(3)
        worker.apply(QueueChanged("q", NOW, QueueSettings(9)))
        assert stated(4) is None
        assert stated(9) is None  # which it was already
        assert stated(None) == QueueSettings(9)

    def test_a_name_is_a_queue_or_a_limit(self, worker: Worker) -> None:
        declare(worker)
        with pytest.raises(InvalidArgument, match="'q' is a queue"):
            worker.apply(QueueDeclared("q", "limit", QueueSettings(), NOW))

    def test_an_unknown_queue_takes_no_runs_and_no_changes(self, worker: Worker) -> None:
        with pytest.raises(QueueNotFound, match="'q'"):
            enqueue(worker, "a")
        with pytest.raises(QueueNotFound, match="'q'"):
            worker.apply(QueueChanged("q", NOW, paused=True))
        assert worker.read.run_by_id("a") is None

    # --- runs --------------------------------------------------------------------------------------------------------

    def test_a_queued_run_is_pending_and_only_its_turn_makes_it_run(self, worker: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "a").key
        record = worker.record(key)
        assert (record.status, record.queue, record.queued) == ("pending", "q", True)
        assert worker.apply(WorkTaken(["w"], NOW, 10)) == [[]]
        assert worker.apply(RunsClaimed([key], NOW)) == [[]]
        assert not worker.reads.has_work(["w"], NOW)
        assert taken(worker, NOW + 5) == [key]
        record = worker.record(key)
        assert (record.status, record.queued, record.owner) == ("running", False, worker.claim.epoch)
        assert record.started_at == record.updated_at == NOW + 5

    def test_a_slot_is_held_until_the_run_ends_however_it_rests(self, worker: Worker) -> None:
        declare(worker, concurrency=1)
        first, second = enqueue(worker, "a").key, enqueue(worker, "b").key
        assert taken(worker) == [first]
        worker.apply(RunMoved(first, "waiting", NOW, wake_at=NOW + 5))
        assert taken(worker) == []
        worker.apply(RunMoved(first, "halted", NOW, reason="why"))
        assert taken(worker) == []
        worker.apply(RunFinished(first, "cancelled", NOW))
        assert taken(worker) == [second]

    def test_a_cancelled_run_leaves_the_line(self, worker: Worker) -> None:
        declare(worker)
        first, second = enqueue(worker, "a").key, enqueue(worker, "b").key
        worker.apply(RunFinished(first, "cancelled", NOW))
        assert taken(worker) == [second]
        assert state_of(worker).waiting == 0

    def test_the_same_id_finds_the_run_whatever_became_of_it(self, worker: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "a").key
        created = enqueue(worker, "a")
        assert (created.key, created.joined, created.refused) == (key, None, False)
        assert enqueue(worker, "a", fingerprint=8).refused
        assert state_of(worker).waiting == 1

    def test_a_start_that_a_parent_made_is_told_in_its_journal_in_the_same_breath(self, worker: Worker) -> None:
        declare(worker)
        parent = worker.create("p")
        told = Entry(parent, 1, "child", "w", 7, NOW)
        enqueue(worker, "p/1", entered(dedup="k"), parent=parent, parent_op=1, told=told)
        enqueue(worker, "p/2", entered(dedup="k"), parent=parent, parent_op=2, told=told)
        enqueue(worker, "p/3", entered(dedup="k", attach=False), parent=parent, parent_op=2, told=told)
        assert [entry.value for entry in worker.read.journal(parent)] == ['"p/1"', '"p/1"']

    # --- dedup, debounce, batch --------------------------------------------------------------------------------------

    def test_a_dedup_key_belongs_to_the_run_until_it_ends(self, worker: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "a", entered(dedup="k")).key
        for _ in range(2):  # while it waits, and while it runs
            created = enqueue(worker, "b", entered(dedup="k"))
            assert (created.key, created.joined, created.refused) == (key, "attached", False)
            assert enqueue(worker, "b", entered(dedup="k", attach=False)).refused
            taken(worker)
        assert worker.read.run_by_id("b") is None
        finish(worker, key)
        assert enqueue(worker, "b", entered(dedup="k")).joined is None

    def test_the_same_dedup_key_twice_in_one_commit_makes_one_run(self, worker: Worker) -> None:
        declare(worker)
        changes = [RunCreated(name, "w", None, 1, "pending", NOW, entry=entered(dedup="k")) for name in "ab"]
        first, second = worker.apply(*changes)
        assert second.key == first.key

    def test_a_dedup_key_does_not_hand_out_runs_of_other_workflows(self, worker: Worker) -> None:
        declare(worker)
        enqueue(worker, "a", entered(dedup="k"))
        assert enqueue(worker, "b", entered(dedup="k"), workflow="v").refused

    def test_a_debounced_start_replaces_the_input_and_puts_the_start_off_up_to_its_limit(self, worker: Worker) -> None:
        declare(worker)

        def start(at: int, payload: str) -> Created:
            entry = entered(dedup="k", ready_at=at + 10, latest_at=at + 15)
            return enqueue(worker, f"r{at}", entry, at=at, input=payload, fingerprint=at)

        key = start(NOW, "1").key
        again = start(NOW + 4, "2")
        assert (again.key, again.joined) == (key, "debounced")
        assert worker.record(key).input == "2"
        assert taken(worker, NOW + 13) == []
        assert start(NOW + 9, "3").key == key
        assert taken(worker, NOW + 14) == []
        assert taken(worker, NOW + 15) == [key]
        assert worker.record(key).input == "3"
        assert start(NOW + 16, "4").joined is None  # it runs: what comes now needs another run

    def test_a_debounced_start_that_was_made_earlier_and_comes_later_brings_nothing_forward(
        self, worker: Worker
    ) -> None:
        declare(worker)
        key = enqueue(worker, "a", entered(dedup="k", ready_at=NOW + 10, latest_at=NOW + 99)).key
        for at in (NOW + 5, NOW + 2):
            enqueue(worker, f"r{at}", entered(dedup="k", ready_at=at + 10, latest_at=at + 99), at=at)
        assert taken(worker, NOW + 14) == []
        assert taken(worker, NOW + 15) == [key]

    def test_a_debounced_entry_that_lacks_only_a_slot_keeps_its_place(self, worker: Worker) -> None:
        declare(worker, concurrency=1)
        busy = enqueue(worker, "busy").key
        assert taken(worker) == [busy]
        key = enqueue(worker, "a", entered(dedup="k", ready_at=NOW + 1, latest_at=NOW + 99)).key
        assert taken(worker, NOW + 2) == []
        again = enqueue(worker, "b", entered(dedup="k", ready_at=NOW + 50, latest_at=NOW + 99), at=NOW + 3, input="2")
        assert (again.key, again.joined) == (key, "debounced")
        finish(worker, busy)
        assert taken(worker, NOW + 4) == [key]
        assert worker.record(key).input == "2"

    def test_a_run_that_waits_is_rescheduled_and_counted_where_it_stands(self, worker: Worker) -> None:
        declare(worker, concurrency=1)
        busy, key, last = (enqueue(worker, name).key for name in ("busy", "moved", "last"))
        assert taken(worker) == [busy]

        def move(name: str, ready_at: int, at: int = NOW) -> bool:
            (found,) = worker.apply(RunRescheduled(name, ready_at, at, "Ada"))
            assert isinstance(found, Rescheduled)
            return found.moved

        assert move("moved", NOW + 20)
        state = state_of(worker)
        assert (state.waiting, state.delayed, state.first_ready_at) == (1, 1, NOW + 20)
        assert not move("busy", NOW + 20)
        finish(worker, busy)
        assert taken(worker) == [last]
        finish(worker, last)
        assert move("moved", NOW + 5, NOW + 1)
        assert taken(worker, NOW + 4) == []
        assert move("moved", NOW + 4, NOW + 4)
        assert taken(worker, NOW + 4) == [key]
        assert [act.act for act in worker.read.acts(key)] == ["reschedule"] * 3
        with pytest.raises(RunNotFound):
            move("nobody", NOW)

    def test_a_batch_collects_until_it_is_full(self, worker: Worker) -> None:
        declare(worker)
        batch = entered(batch_size=3, ready_at=NOW + 10)
        key = enqueue(worker, "a", batch, input="1").key
        assert taken(worker) == []
        assert enqueue(worker, "b", batch, input="2").joined == "batched"
        assert enqueue(worker, "c", batch, input=b"3").key == key
        other = enqueue(worker, "d", batch, input="4").key
        assert other != key
        assert taken(worker) == [key]
        assert worker.reads.load([key])[0].items == ["1", "2", b"3"]
        assert taken(worker, NOW + 10) == [other]

    def test_a_batch_that_one_start_fills_does_not_wait(self, worker: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "a", entered(batch_size=2, count=2, ready_at=NOW + 10)).key
        assert taken(worker) == [key]

    def test_batches_of_partitions_and_workflows_are_apart(self, worker: Worker) -> None:
        declare(worker)
        keys = {
            enqueue(worker, f"{p}{w}", entered(batch_size=2, partition=p, ready_at=NOW + 9), workflow=w).key
            for p in ("", "p")
            for w in ALL
        }
        assert len(keys) == 4

    # --- what the inspector says -------------------------------------------------------------------------------------

    def test_what_waits_can_be_listed_by_partition_and_page(self, worker: Worker) -> None:
        declare(worker)
        keys = [enqueue(worker, f"r{n}", entered(partition="ab"[n % 2])).key for n in range(4)]
        delayed = enqueue(worker, "late", entered(ready_at=NOW + 50)).key
        assert worker.reads.queued_runs("q", None, 0, 9) == [
            *((k, f"r{n}") for n, k in enumerate(keys)),
            (delayed, "late"),
        ]
        assert [key for key, _ in worker.reads.queued_runs("q", "b", 0, 9)] == [keys[1], keys[3]]
        assert [key for key, _ in worker.reads.queued_runs("q", None, keys[0], 2)] == keys[1:3]
        assert worker.read.oldest_wait("q") == NOW
        taken(worker)
        assert worker.read.oldest_wait("q") is None

    def test_a_look_at_the_facts_tells_what_a_decision_would_do(self, worker: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "a").key
        with worker.read.queue_facts() as facts:
            assert take(facts, "q", ALL, NOW, room=1).changes == [QueueTaken("q", [key], [""], NOW)]

    def test_a_rate_counts_a_start_from_the_latest_time_at_which_its_run_may_begin(self, worker: Worker) -> None:
        declare(worker, rate_limit=1, rate_per=SECOND)
        first, second = enqueue(worker, "a").key, enqueue(worker, "b").key
        spread = SECOND // 20
        decision, keys = decide(worker, "q", lambda facts: take(facts, "q", ALL, NOW, room=9, spread=spread), NOW)
        assert keys == [first]
        assert decision.next_at == NOW + spread + SECOND
        assert taken(worker, NOW + spread + SECOND - 1) == []
        assert taken(worker, NOW + spread + SECOND) == [second]

    def test_a_decision_that_raises_refuses_its_unit_alone(self, worker: Worker) -> None:
        declare(worker)
        key = worker.create("a")

        def fail(_facts: QueueFacts) -> list[Change]:
            raise ValueError("no")

        good, bad = worker.commit(Unit([RunMoved(key, "waiting", NOW)]), Unit([], decide=fail))
        assert isinstance(good, list)
        assert isinstance(bad, StepwellError)

    # --- given to another worker ------------------------------------------------------------------------------------

    def test_the_only_entry_that_waits_is_told_with_its_queue(self, worker: Worker) -> None:
        declare(worker, concurrency=3, per_worker=2)
        assert lone(worker) is None
        key = enqueue(worker, "one", entered(partition="eu")).key
        assert lone(worker) == LoneEntry(key, "eu", "w", QueueSettings(3, 2), paused=False, running=0)
        second = enqueue(worker, "two").key
        assert lone(worker) is None
        worker.apply(QueueTaken("q", [key], ["eu"], NOW), QueueChanged("q", NOW, paused=True))
        assert lone(worker) == LoneEntry(second, "", "w", QueueSettings(3, 2), paused=True, running=1)

    def test_who_has_no_run_under_way_and_serves_a_queue_is_idle(self, worker: Worker, other: Worker) -> None:
        declare(worker)
        assert idle(worker) == []  # nobody has said what it serves
        client = Worker(worker.store, takes_work=False)
        for each in (worker, other, client):
            each.apply(WorkerServes(["v", "w"]))
        assert idle(worker) == [worker.epoch, other.epoch]
        assert idle(worker, workflow="vw") == []
        key = worker.create("busy", workflow="v")
        assert idle(worker) == [other.epoch]
        worker.apply(RunMoved(key, "waiting", NOW))
        assert idle(worker) == [worker.epoch, other.epoch]
        with worker.writing():
            worker.store.membership.fence(other.epoch, NOW)
        assert idle(worker) == [worker.epoch]

    def test_only_who_takes_from_a_queue_is_idle_for_it(self, worker: Worker) -> None:
        declare(worker)
        with worker.writing():
            found = [
                worker.store.membership.register(NOW, workflows=["w"], queues=queues).epoch
                for queues in (["q"], ["qq", 'a"q"'], ["p", "q"])
            ]
        assert idle(worker) == [found[0], found[2]]

    def test_a_run_is_given_to_another_worker_which_finds_a_note(self, worker: Worker, other: Worker) -> None:
        declare(worker, concurrency=1)
        key = enqueue(worker, "one").key
        assert worker.apply(QueueTaken("q", [key], [""], NOW, owner=other.epoch)) == [[key]]
        assert (worker.record(key).status, worker.record(key).owner) == ("running", other.epoch)
        assert (worker.news(), other.news()) == ([], [key])
        assert (state_of(worker).waiting, state_of(worker).running) == (0, 1)
        with pytest.raises(ClaimLost):
            finish(worker, key)
        finish(other, key)
        assert other.news() == []
        assert state_of(worker).running == 0

    def test_what_arrives_for_a_run_that_was_given_is_told_of_as_well(self, worker: Worker, other: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "one").key
        worker.apply(QueueTaken("q", [key], [""], NOW, owner=other.epoch))
        worker.apply(MessageSent("one", "name", "1", NOW))
        assert other.news() == [key]
        other.apply(NotesTaken([key]))
        assert other.news() == []

    def test_what_was_given_is_released_with_its_worker(self, worker: Worker, other: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "one").key
        worker.apply(QueueTaken("q", [key], [""], NOW, owner=other.epoch))
        with worker.writing():
            assert worker.store.membership.fence(other.epoch, NOW) == 1
        assert worker.take("w") == [key]
        assert worker.news() == other.news() == []


def lone(worker: Worker) -> LoneEntry | None:
    """Return the only entry that waits in the queue ``q``."""
    with worker.reads.queue_facts() as facts:
        return facts.lone_entry("q")


def idle(worker: Worker, workflow: str = "w") -> list[int]:
    """Return who is idle and takes runs from the queue ``q``."""
    with worker.reads.queue_facts() as facts:
        return facts.idle_workers("q", workflow)
