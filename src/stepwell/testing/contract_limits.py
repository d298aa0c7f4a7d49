"""The part of a store's contract about limits: permits, who has them, and when they come free.

See `stepwell.testing.contract` for how to run it. Needs hypothesis.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.definitions.queues import QueueSettings
from stepwell.model.run import Permit
from stepwell.store.changes import RunFinished, RunMoved
from stepwell.store.queues import (
    PermitAsked,
    PermitDetached,
    PermitFreed,
    PermitReturned,
    PermitStarted,
    QueueDeclared,
)
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker
from stepwell.testing.contract_queue_kit import (
    SECOND,
    decide,
    declare,
    finish,
    granted,
    settings_of,
    state_of,
)
from stepwell.worker.rules.queue_policy import grant


class LimitContract(StoreFixtures):
    """What a store does with permits."""

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
        assert other.reads.news(worker.claim.epoch) == [run]
        assert worker.reads.load([run])[0].permits == [Permit(1, "limit", granted=True, holder=worker.claim.epoch)]
        worker.apply(PermitReturned(run, 1, NOW), PermitAsked(parked, 1, "limit", NOW))
        assert worker.reads.load([parked])[0].permits == [Permit(1, "limit", granted=False)]

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
        left = PermitDetached(run, 1, 1, NOW)
        # The operation may ask again, for its retry, and stands behind whoever waits.
        worker.apply(left, left, PermitAsked(other, 1, "limit", NOW), PermitAsked(run, 1, "limit", NOW))
        assert granted(worker) == []
        assert [permit.granted for permit in worker.reads.load([run])[0].permits] == [False]
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
        worker.apply(PermitDetached(other, 1, 1, NOW), PermitDetached(other, 2, 1, NOW), PermitReturned(run, 1, NOW))
        assert granted(worker) == [(other, 1)]

    def test_the_end_of_a_worker_frees_the_permits_that_its_attempts_were_left_with(
        self, worker: Worker, store: Any
    ) -> None:
        declare(worker, "limit", concurrency=1)
        run, other = worker.create("a"), worker.create("b")
        worker.apply(PermitAsked(run, 1, "limit", NOW), PermitAsked(other, 1, "limit", NOW))
        assert granted(worker) == [(run, 1)]
        worker.apply(PermitDetached(run, 1, 1, NOW), RunFinished(run, "completed", NOW))
        survivor = Worker(store)
        survivor.apply(PermitFreed(run, 1, 1))  # of another worker's attempts nobody else knows when they end
        assert granted(survivor) == []
        with survivor.writing():
            survivor.store.membership.fence(worker.claim.epoch, NOW)
        assert state_of(survivor, "limit").running == 0
        assert decide(survivor, "limit", lambda facts: grant(facts, "limit", NOW), NOW)[0].taken == 1

    def test_the_start_of_an_attempt_that_was_left_counts_for_the_rate(self, worker: Worker) -> None:
        declare(worker, "limit", rate_limit=1, rate_per=SECOND)
        first, second = worker.create("a"), worker.create("b")
        worker.apply(PermitAsked(first, 1, "limit", NOW), PermitAsked(second, 1, "limit", NOW))
        assert granted(worker) == [(first, 1)]
        worker.apply(PermitDetached(first, 1, 1, NOW + 5))
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


_bound = st.none() | st.integers(1, 3)


class LimitProperties(StoreFixtures):
    """What holds for any course of events."""

    @settings(max_examples=60, deadline=None)
    @given(
        concurrency=_bound,
        rate=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 20)),
        actions=st.lists(
            st.tuples(
                st.sampled_from(["ask", "start", "tell", "leave", "return", "end", "pass", "grant"]), st.integers(0, 9)
            ),
            max_size=60,
        ),
    )
    def test_a_limit_is_never_exceeded_by_what_really_happens(
        self, concurrency: int | None, rate: tuple[int, int] | None, actions: list[tuple[str, int]]
    ) -> None:
        with tempfile.TemporaryDirectory() as place:
            worker = Worker(self.open_store(Path(place)))
            bounds = settings_of(concurrency, None, None, rate)
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
        self.left: set[tuple[int, int]] = set()
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
            case "leave" if one is not None and one not in self.left and (started_at := self.held[one]) is not None:
                self.worker.apply(PermitDetached(*one, 1, started_at))
                self.left.add(one)
            case "return" if one in self.left:
                self.left.discard(one)
                del self.held[one]
                self.worker.apply(PermitFreed(*one, 1))
            case "tell" if one is not None and (started_at := self.held[one]) is not None:
                self.worker.apply(PermitStarted(*one, started_at))
            case "return" if one is not None:
                self.worker.apply(PermitReturned(*one, self.now, self.held.pop(one)))
            case _:
                self.now += choice
