"""The part of a store's contract about queues and limits, with a reference model that knows nothing of how it is done.

See `stepwell.testing.contract` for how to run it. Needs hypothesis.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.errors import InvalidArgument, QueueNotFound, StepwellError
from stepwell.flow import QueueSettings
from stepwell.journal import Entry
from stepwell.model import Permit
from stepwell.queues import Decision, advance, grant, take
from stepwell.store.base import (
    Change,
    Created,
    RunCreated,
    RunFinished,
    RunMoved,
    RunsClaimed,
    Unit,
    WorkTaken,
)
from stepwell.store.queueing import (
    Entered,
    PermitAsked,
    PermitFreed,
    PermitLeft,
    PermitReturned,
    PermitStarted,
    QueueChanged,
    QueueDeclared,
    QueueFacts,
    QueueState,
    QueueTaken,
)
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker

SECOND: Final = 1_000_000
_ALL: Final = ("w", "v")


# --- the reference model ----------------------------------------------------------------------------------------------


@dataclass
class Place:
    """An entry of the model."""

    run: int
    partition: str
    workflow: str
    priority: int
    ready_at: int
    place: int = 0
    state: str = "delayed"


@dataclass
class Line:
    """A queue, taken at its word: one entry after the other, each time from whoever's turn is longest ago."""

    bounds: QueueSettings = field(default_factory=QueueSettings)
    paused: bool = False
    entries: list[Place] = field(default_factory=list[Place])
    turns: dict[str, int] = field(default_factory=dict[str, int])
    starts: list[int] = field(default_factory=list[int])
    count: int = 0

    def _next(self) -> int:
        self.count += 1
        return self.count

    def enter(self, entry: Place, now: int) -> None:
        """Add an entry; one that is due waits at once."""
        self.entries.append(entry)
        if entry.ready_at <= now:
            self._wait(entry)

    def _wait(self, entry: Place) -> None:
        entry.state, entry.place = "waiting", self._next()
        self.turns.setdefault(entry.partition, 0)
        self.turns[entry.partition] = self.turns[entry.partition] or self._next()

    def advance(self, now: int) -> None:
        """Let what is due wait."""
        for entry in sorted(self.entries, key=lambda entry: (entry.ready_at, entry.run)):
            if entry.state == "delayed" and entry.ready_at <= now:
                self._wait(entry)

    def running(self, partition: str | None = None) -> int:
        """Return how many entries are running."""
        return sum(entry.state == "running" and partition in (None, entry.partition) for entry in self.entries)

    def _may_start(self, now: int, room: int, held: int) -> bool:
        bounds = self.bounds
        at = max(now, *self.starts[-1:], 0)
        window = [start for start in self.starts if bounds.rate_per is not None and start > at - bounds.rate_per]
        return (
            room > 0
            and not self.paused
            and (bounds.concurrency is None or self.running() < bounds.concurrency)
            and (bounds.per_worker is None or held < bounds.per_worker)
            and (bounds.rate_limit is None or len(window) < bounds.rate_limit)
        )

    def take(self, workflows: Collection[str], room: int, held: int, now: int) -> list[int]:
        """Take entries, one at a time, until a bound is met or nothing is left."""
        taken: list[int] = []
        while self._may_start(now, room - len(taken), held + len(taken)):
            able = [
                entry
                for entry in self.entries
                if entry.state == "waiting"
                and entry.workflow in workflows
                and (
                    self.bounds.partition_concurrency is None
                    or self.running(entry.partition) < self.bounds.partition_concurrency
                )
            ]
            if not able:
                break
            partition = min((entry.partition for entry in able), key=lambda name: self.turns[name])
            mine = [entry for entry in able if entry.partition == partition]
            entry = min(mine, key=lambda entry: (-entry.priority, entry.place))
            entry.state = "running"
            self.turns[partition] = self._next()
            if self.bounds.rate_limit is not None:
                self.starts.append(max(now, *self.starts[-1:], 0))
            taken.append(entry.run)
        return taken

    def leave(self, run: int) -> None:
        """Remove an entry. A partition without any that wait or run forgets its turn."""
        self.entries = [entry for entry in self.entries if entry.run != run]
        for partition in list(self.turns):
            if partition and not any(e.partition == partition and e.state != "delayed" for e in self.entries):
                del self.turns[partition]

    def next_start(self, workflows: Collection[str], now: int) -> int | None:
        """Return the first time after `now` at which something could be taken though nothing happens."""
        times = {entry.ready_at for entry in self.entries if entry.state == "delayed"}
        times |= {start + (self.bounds.rate_per or 0) for start in self.starts}
        for at in sorted(time for time in times if time > now):
            future = copy.deepcopy(self)
            future.advance(at)
            if future.take(workflows, 1, 0, at):
                return at
        return None


# --- helpers ----------------------------------------------------------------------------------------------------------


def entered(queue: str = "q", **fields: Any) -> Entered:
    """Return how a run stands in the queue ``q``."""
    return Entered(queue=queue, **fields)


def declare(worker: Worker, name: str = "q", **bounds: Any) -> None:
    """Declare a queue, or a limit where the name begins with ``limit``."""
    kind = "limit" if name.startswith("limit") else "queue"
    worker.apply(QueueDeclared(name, kind, QueueSettings(**bounds), NOW))  # type: ignore[arg-type]


def enqueue(worker: Worker, run_id: str, entry: Entered | None = None, **fields: Any) -> Created:
    """Start a run of the workflow ``w`` in a queue."""
    fields = {"workflow": "w", "input": "[1]", "fingerprint": 7, "status": "pending", "at": NOW, **fields}
    (created,) = worker.apply(RunCreated(id=run_id, entry=entry or entered(), **fields))
    assert isinstance(created, Created)
    return created


def decide(worker: Worker, queue: str, choose: Callable[[QueueFacts], Decision], now: int) -> tuple[Decision, Any]:
    """Commit a unit that decides; return the decision and the result of its change."""
    decisions: list[Decision] = []

    def choice(facts: QueueFacts) -> list[Change]:
        decisions.append(choose(facts))
        return decisions[-1].changes

    (outcome,) = worker.commit(Unit([advance(queue, now)], decide=choice))
    assert isinstance(outcome, list), outcome
    return decisions[-1], outcome[1] if len(outcome) > 1 else []


def taken(
    worker: Worker, now: int = NOW, *, room: int = 100, held: int = 0, workflows: Collection[str] = _ALL
) -> list[int]:
    """Have a worker take what it may from the queue ``q``."""
    return decided(worker, now, room=room, held=held, workflows=workflows)[1]


def decided(
    worker: Worker, now: int = NOW, *, room: int = 100, held: int = 0, workflows: Collection[str] = _ALL
) -> tuple[Decision, list[int]]:
    """As `taken`, with the decision."""
    decision, keys = decide(worker, "q", lambda facts: take(facts, "q", workflows, now, room=room, held=held), now)
    return decision, keys


def granted(worker: Worker, now: int = NOW, limit: str = "limit") -> list[tuple[int, int]]:
    """Grant what may be granted of a limit; return the permits of the worker's own runs."""
    _, permits = decide(worker, limit, lambda facts: grant(facts, limit, now), now)
    return [(run, op) for run, op in permits]


def state_of(worker: Worker, name: str = "q") -> QueueState:
    """Return what the store holds of a queue."""
    return next(state for state in worker.read.queues() if state.name == name)


def finish(worker: Worker, run: int, at: int = NOW) -> None:
    """End a run."""
    worker.apply(RunFinished(run, "completed", at))


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
        assert not worker.read.has_work(["w"], NOW)
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
        assert worker.read.load([key])[0].items == ["1", "2", b"3"]
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
            for w in _ALL
        }
        assert len(keys) == 4

    # --- what the inspector says -------------------------------------------------------------------------------------

    def test_what_waits_can_be_listed_by_partition_and_page(self, worker: Worker) -> None:
        declare(worker)
        keys = [enqueue(worker, f"r{n}", entered(partition="ab"[n % 2])).key for n in range(4)]
        delayed = enqueue(worker, "late", entered(ready_at=NOW + 50)).key
        assert worker.read.queued_runs("q", None, 0, 9) == [
            *((k, f"r{n}") for n, k in enumerate(keys)),
            (delayed, "late"),
        ]
        assert [key for key, _ in worker.read.queued_runs("q", "b", 0, 9)] == [keys[1], keys[3]]
        assert [key for key, _ in worker.read.queued_runs("q", None, keys[0], 2)] == keys[1:3]
        assert worker.read.oldest_wait("q") == NOW
        taken(worker)
        assert worker.read.oldest_wait("q") is None

    def test_a_look_at_the_facts_tells_what_a_decision_would_do(self, worker: Worker) -> None:
        declare(worker)
        key = enqueue(worker, "a").key
        with worker.read.queue_facts() as facts:
            assert take(facts, "q", _ALL, NOW, room=1).changes == [QueueTaken("q", [key], [""], NOW)]

    def test_a_rate_counts_a_start_from_the_latest_time_at_which_its_run_may_begin(self, worker: Worker) -> None:
        declare(worker, rate_limit=1, rate_per=SECOND)
        first, second = enqueue(worker, "a").key, enqueue(worker, "b").key
        spread = SECOND // 20
        decision, keys = decide(worker, "q", lambda facts: take(facts, "q", _ALL, NOW, room=9, spread=spread), NOW)
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

    # --- permits -----------------------------------------------------------------------------------------------------

    def test_permits_are_granted_in_the_order_of_asking_and_no_more_than_there_are(self, worker: Worker) -> None:
        declare(worker, "limit", concurrency=2)
        runs = [worker.create(name) for name in "abc"]
        worker.apply(*(PermitAsked(run, 1, "limit", NOW) for run in reversed(runs)))
        assert granted(worker) == [(runs[2], 1), (runs[1], 1)]
        assert granted(worker) == []
        worker.apply(PermitReturned(runs[2], 1, NOW))
        assert granted(worker) == [(runs[0], 1)]

    def test_a_permit_goes_back_when_its_run_ends_or_stops(self, worker: Worker) -> None:
        declare(worker, "limit", concurrency=2)
        ends, stops, waits = (worker.create(name) for name in "abc")
        worker.apply(*(PermitAsked(run, 1, "limit", NOW) for run in (ends, stops, waits)))
        assert len(granted(worker)) == 2
        finish(worker, ends)
        worker.apply(RunMoved(stops, "halted", NOW, reason="why"))
        assert state_of(worker, "limit").running == 0
        finish(worker, waits)
        assert state_of(worker, "limit").waiting == 0

    def test_asking_and_returning_twice_changes_nothing(self, worker: Worker) -> None:
        declare(worker, "limit", concurrency=1)
        run = worker.create("a")
        ask = PermitAsked(run, 1, "limit", NOW)
        worker.apply(ask, ask)
        assert granted(worker) == [(run, 1)]
        worker.apply(ask)
        assert granted(worker) == []
        back = PermitReturned(run, 1, NOW)
        worker.apply(back, back)
        worker.apply(back)
        state = state_of(worker, "limit")
        assert (state.waiting, state.running) == (0, 0)

    def test_a_permit_that_is_returned_and_asked_for_at_once_goes_to_who_waits_longer(self, worker: Worker) -> None:
        declare(worker, "limit", concurrency=1)
        run, other = worker.create("a"), worker.create("b")
        worker.apply(PermitAsked(run, 1, "limit", NOW), PermitAsked(other, 1, "limit", NOW))
        assert granted(worker) == [(run, 1)]
        worker.apply(PermitReturned(run, 1, NOW), PermitAsked(run, 1, "limit", NOW))
        assert granted(worker) == [(other, 1)]

    def test_a_permit_for_a_run_of_another_worker_leaves_it_a_note(self, worker: Worker, store: Any) -> None:
        declare(worker, "limit", concurrency=1)
        run, parked = worker.create("a"), worker.create("b")
        worker.apply(PermitAsked(run, 1, "limit", NOW))
        other = Worker(store)
        assert granted(other) == []
        assert other.read.news(worker.claim.epoch) == [run]
        assert worker.read.load([run])[0].permits == [Permit(1, "limit", granted=True, holder=worker.claim.epoch)]
        worker.apply(PermitReturned(run, 1, NOW), PermitAsked(parked, 1, "limit", NOW))
        assert worker.read.load([parked])[0].permits == [Permit(1, "limit", granted=False)]

    def test_a_run_that_waits_is_due_with_its_permit_even_if_its_worker_dies(self, worker: Worker) -> None:
        declare(worker, "limit", concurrency=1)
        run = worker.create("a", "waiting")
        worker.apply(PermitAsked(run, 1, "limit", NOW))
        assert granted(worker, NOW + 3) == [(run, 1)]
        assert worker.record(run).wake_at == NOW + 3

    def test_a_permit_that_an_attempt_was_left_with_stays_in_use_until_it_has_ended(self, worker: Worker) -> None:
        declare(worker, "limit", concurrency=1)
        run, other = worker.create("a"), worker.create("b")
        worker.apply(PermitAsked(run, 1, "limit", NOW))
        assert granted(worker) == [(run, 1)]
        left = PermitLeft(run, 1, 1, NOW)
        # The operation may ask again, for its retry, and stands behind whoever waits.
        worker.apply(left, left, PermitAsked(other, 1, "limit", NOW), PermitAsked(run, 1, "limit", NOW))
        assert granted(worker) == []
        assert [permit.granted for permit in worker.read.load([run])[0].permits] == [False]
        # Neither the end of the run nor that of another attempt frees it.
        worker.apply(PermitFreed(run, 1, 2), PermitFreed(other, 1, 1))
        finish(worker, run)
        assert granted(worker) == []
        assert (state_of(worker, "limit").waiting, state_of(worker, "limit").running) == (1, 1)
        worker.store.purge(NOW + 1, 10, worker.claim)
        worker.apply(PermitFreed(run, 1, 1))
        worker.apply(PermitFreed(run, 1, 1))
        assert granted(worker) == [(other, 1)]
        assert state_of(worker, "limit").running == 1

    def test_only_a_permit_that_was_granted_can_be_left(self, worker: Worker) -> None:
        declare(worker, "limit", concurrency=1)
        run, other = worker.create("a"), worker.create("b")
        worker.apply(PermitAsked(run, 1, "limit", NOW), PermitAsked(other, 1, "limit", NOW))
        assert granted(worker) == [(run, 1)]
        worker.apply(PermitLeft(other, 1, 1, NOW), PermitLeft(other, 2, 1, NOW), PermitReturned(run, 1, NOW))
        assert granted(worker) == [(other, 1)]

    def test_the_end_of_a_worker_frees_the_permits_that_its_attempts_were_left_with(
        self, worker: Worker, store: Any
    ) -> None:
        declare(worker, "limit", concurrency=1)
        run, other = worker.create("a"), worker.create("b")
        worker.apply(PermitAsked(run, 1, "limit", NOW), PermitAsked(other, 1, "limit", NOW))
        assert granted(worker) == [(run, 1)]
        worker.apply(PermitLeft(run, 1, 1, NOW), RunFinished(run, "completed", NOW))
        survivor = Worker(store)
        survivor.apply(PermitFreed(run, 1, 1))  # of another worker's attempts nobody else knows when they end
        assert granted(survivor) == []
        with survivor.writing():
            survivor.store.fence(worker.claim.epoch, NOW)
        assert state_of(survivor, "limit").running == 0
        assert decide(survivor, "limit", lambda facts: grant(facts, "limit", NOW), NOW)[0].taken == 1

    def test_the_start_of_an_attempt_that_was_left_counts_for_the_rate(self, worker: Worker) -> None:
        declare(worker, "limit", rate_limit=1, rate_per=SECOND)
        first, second = worker.create("a"), worker.create("b")
        worker.apply(PermitAsked(first, 1, "limit", NOW), PermitAsked(second, 1, "limit", NOW))
        assert granted(worker) == [(first, 1)]
        worker.apply(PermitLeft(first, 1, 1, NOW + 5))
        assert granted(worker, NOW + 4 + SECOND) == []
        assert granted(worker, NOW + 5 + SECOND) == [(second, 1)]

    def test_the_start_of_an_attempt_counts_from_when_it_happened(self, worker: Worker) -> None:
        declare(worker, "limit", rate_limit=1, rate_per=SECOND)
        first, second = worker.create("a"), worker.create("b")
        worker.apply(PermitAsked(first, 1, "limit", NOW), PermitAsked(second, 1, "limit", NOW))
        assert granted(worker) == [(first, 1)]
        assert granted(worker, NOW + 5 * SECOND) == []  # who knows when it starts
        worker.apply(PermitStarted(first, 1, NOW + 5 * SECOND))
        assert granted(worker, NOW + 6 * SECOND - 1) == []
        assert granted(worker, NOW + 6 * SECOND) == [(second, 1)]
        worker.apply(PermitReturned(second, 1, NOW + 9 * SECOND, NOW + 7 * SECOND), PermitAsked(first, 2, "limit", NOW))
        assert granted(worker, NOW + 8 * SECOND - 1) == []
        assert granted(worker, NOW + 8 * SECOND) == [(first, 2)]

    def test_an_attempt_that_never_started_does_not_count(self, worker: Worker) -> None:
        declare(worker, "limit", rate_limit=1, rate_per=SECOND)
        first, second = worker.create("a"), worker.create("b")
        worker.apply(PermitAsked(first, 1, "limit", NOW), PermitAsked(second, 1, "limit", NOW))
        assert granted(worker) == [(first, 1)]
        worker.apply(PermitReturned(first, 1, NOW))
        assert granted(worker) == [(second, 1)]


# --- properties -------------------------------------------------------------------------------------------------------

_bound = st.none() | st.integers(1, 3)


def _settings(
    concurrency: int | None, per_worker: int | None, partition: int | None, rate: tuple[int, int] | None
) -> QueueSettings:
    return QueueSettings(concurrency, per_worker, partition, *(rate or (None, None)))


_bounds = st.builds(_settings, _bound, _bound, _bound, st.none() | st.tuples(st.integers(1, 4), st.integers(1, 20)))
_starts = st.tuples(
    st.sampled_from(["", "a", "b", "c"]), st.sampled_from(_ALL), st.integers(0, 2), st.sampled_from([0, 0, 0, 3, 12])
)
_actions = st.one_of(
    st.tuples(st.just("enter"), st.lists(_starts, min_size=1, max_size=6)),
    st.tuples(st.just("take"), st.tuples(st.sampled_from([("w",), ("v",), _ALL]), st.integers(0, 5))),
    st.tuples(st.just("end"), st.integers(0, 20)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("pass"), st.integers(1, 15)),
    st.tuples(st.just("bounds"), _bounds),
    st.tuples(st.just("pause"), st.booleans()),
)


class _Race:
    """The store and the model, given the same actions; they must agree after each of them."""

    def __init__(self, worker: Worker, bounds: QueueSettings) -> None:
        self.worker = worker
        self.line = Line(bounds)
        self.now = NOW
        self.created = 0
        worker.apply(QueueDeclared("q", "queue", bounds, NOW))

    def enter(self, starts: list[tuple[str, str, int, int]]) -> None:
        """Start several runs in one commit."""
        changes: list[Change] = []
        for partition, workflow, priority, delay in starts:
            entry = entered(partition=partition, priority=priority, ready_at=self.now + delay if delay else None)
            self.created += 1
            changes.append(RunCreated(f"r{self.created}", workflow, None, 1, "pending", self.now, entry=entry))
        for (partition, workflow, priority, delay), created in zip(starts, self.worker.apply(*changes), strict=True):
            assert created.existing is None
            self.line.enter(Place(created.key, partition, workflow, priority, self.now + delay), self.now)

    def take(self, wish: tuple[tuple[str, ...], int]) -> None:
        """Take runs, and compare which and in which order."""
        workflows, room = wish
        held = self.line.running()
        decision, keys = decided(self.worker, self.now, room=room, held=held, workflows=workflows)
        self.line.advance(self.now)
        assert keys == self.line.take(workflows, room, held, self.now)
        assert decision.taken == len(keys)
        more = copy.deepcopy(self.line).take(workflows, 1, 0, self.now)
        full = self.line.bounds.per_worker is not None and held + len(keys) >= self.line.bounds.per_worker
        if len(keys) == room or full:
            assert decision.more or not more
        else:
            assert not more
        due = self.line.next_start(workflows, self.now)
        if due is not None and not full and not decision.more:  # where there is more, the next decision follows at once
            assert decision.next_at is not None
            assert self.now <= decision.next_at <= due

    def end(self, number: int) -> None:
        """End one of the running runs."""
        self._leave([entry.run for entry in self.line.entries if entry.state == "running"], number, "completed")

    def cancel(self, number: int) -> None:
        """Cancel one of the runs that were not taken."""
        self._leave([entry.run for entry in self.line.entries if entry.state != "running"], number, "cancelled")

    def _leave(self, runs: list[int], number: int, status: Any) -> None:
        if runs:
            run = runs[number % len(runs)]
            self.worker.apply(RunFinished(run, status, self.now))
            self.line.leave(run)

    def set_bounds(self, bounds: QueueSettings) -> None:
        """Change the bounds live."""
        self.worker.apply(QueueChanged("q", self.now, bounds))
        self.line.bounds = bounds
        if bounds.rate_limit is None:
            self.line.starts.clear()

    def pause(self, paused: bool) -> None:
        """Pause or resume."""
        self.worker.apply(QueueChanged("q", self.now, paused=paused))
        self.line.paused = paused

    def act(self, action: tuple[str, Any]) -> None:
        """Do one of the above, then compare the counts."""
        name, argument = action
        if name == "pass":
            self.now += argument
        else:
            acts: dict[str, Callable[[Any], None]] = {
                "enter": self.enter,
                "take": self.take,
                "end": self.end,
                "cancel": self.cancel,
                "bounds": self.set_bounds,
                "pause": self.pause,
            }
            acts[name](argument)
        state = state_of(self.worker)
        states = [entry.state for entry in self.line.entries]
        assert (state.delayed, state.waiting, state.running) == tuple(
            states.count(kind) for kind in ("delayed", "waiting", "running")
        )


class QueueProperties(StoreFixtures):
    """What holds for any course of events."""

    @settings(max_examples=80, deadline=None)
    @given(bounds=_bounds, actions=st.lists(_actions, max_size=40))
    def test_a_queue_does_what_the_model_does(self, bounds: QueueSettings, actions: list[tuple[str, Any]]) -> None:
        with tempfile.TemporaryDirectory() as place:
            worker = Worker(self.open_store(Path(place)))
            race = _Race(worker, bounds)
            for action in actions:
                race.act(action)
            race.act(("take", (_ALL, 100)))
            worker.store.close(worker.claim, NOW)

    @settings(max_examples=60, deadline=None)
    @given(
        concurrency=_bound,
        rate=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 20)),
        actions=st.lists(
            st.tuples(st.sampled_from(["ask", "start", "tell", "return", "end", "pass", "grant"]), st.integers(0, 9)),
            max_size=60,
        ),
    )
    def test_a_limit_is_never_exceeded_by_what_really_happens(
        self, concurrency: int | None, rate: tuple[int, int] | None, actions: list[tuple[str, int]]
    ) -> None:
        with tempfile.TemporaryDirectory() as place:
            worker = Worker(self.open_store(Path(place)))
            bounds = _settings(concurrency, None, None, rate)
            worker.apply(QueueDeclared("limit", "limit", bounds, NOW))
            _Permits(worker, bounds).play(actions)
            worker.store.close(worker.claim, NOW)


class _Permits:
    """Runs that ask for permits, and start their attempts some time after they got them."""

    def __init__(self, worker: Worker, bounds: QueueSettings) -> None:
        self.worker = worker
        self.bounds = bounds
        self.now = NOW
        self.runs = [worker.create(f"run{number}") for number in range(4)]
        self.asked: list[tuple[int, int]] = []  # in order
        self.held: dict[tuple[int, int], int | None] = {}  # when the attempt really started
        self.starts: list[int] = []

    def play(self, actions: list[tuple[str, int]]) -> None:
        """Act, and check the limit after each action."""
        for number, (action, choice) in enumerate(actions):
            self._act(action, choice, number + 1)
            if self.bounds.concurrency is not None:
                assert len(self.held) <= self.bounds.concurrency
            if self.bounds.rate_limit is not None and self.bounds.rate_per is not None:
                starts = sorted(self.starts)
                for first, last in zip(starts, starts[self.bounds.rate_limit :], strict=False):
                    assert last - first >= self.bounds.rate_per

    def _act(self, action: str, choice: int, op: int) -> None:
        held = sorted(self.held)
        one = held[choice % len(held)] if held else None
        match action:
            case "ask":
                key = (self.runs[choice % len(self.runs)], op)
                self.worker.apply(PermitAsked(*key, "limit", self.now))
                self.asked.append(key)
            case "grant":
                for key in granted(self.worker, self.now):
                    assert key == self.asked.pop(0)
                    self.held[key] = None
            case "start" if one is not None and self.held[one] is None:
                self.held[one] = self.now
                self.starts.append(self.now)
            case "tell" if one is not None and (started_at := self.held[one]) is not None:
                self.worker.apply(PermitStarted(*one, started_at))
            case "return" if one is not None:
                self.worker.apply(PermitReturned(*one, self.now, self.held.pop(one)))
            case _:
                self.now += choice
