"""The part of a store's contract about queues that compares it with a reference model, over random courses of events.

The model knows nothing of how it is done. See `stepwell.testing.contract` for how to run it. Needs hypothesis.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.definitions.queues import QueueSettings
from stepwell.store.changes import Change, RunCreated, RunFinished
from stepwell.store.queues import (
    QueueChanged,
    QueueDeclared,
)
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker
from stepwell.testing.contract_queue_kit import (
    ALL,
    decided,
    entered,
    settings_of,
    state_of,
)

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
    partition_starts: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
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

    def _moment(self, now: int) -> int:
        return max(now, *self.starts, *(at for _, at in self.partition_starts), 0)

    def _may_give(self, partition: str, now: int) -> bool:
        bounds = self.bounds
        at, per = self._moment(now), bounds.partition_rate_per
        window = [1 for name, start in self.partition_starts if name == partition and per and start > at - per]
        running = self.running(partition)
        return (
            (bounds.partition_concurrency is None or running < bounds.partition_concurrency)
            and (bounds.partition_per_worker is None or running < bounds.partition_per_worker)
            and (bounds.partition_rate_limit is None or len(window) < bounds.partition_rate_limit)
        )

    def _may_start(self, now: int, room: int, held: int) -> bool:
        bounds = self.bounds
        at = self._moment(now)
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
                if entry.state == "waiting" and entry.workflow in workflows and self._may_give(entry.partition, now)
            ]
            if not able:
                break
            partition = min((entry.partition for entry in able), key=lambda name: self.turns[name])
            mine = [entry for entry in able if entry.partition == partition]
            entry = min(mine, key=lambda entry: (-entry.priority, entry.place))
            entry.state = "running"
            self.turns[partition] = self._next()
            at = self._moment(now)
            if self.bounds.rate_limit is not None:
                self.starts.append(at)
            if self.bounds.partition_rate_limit is not None:
                self.partition_starts.append((partition, at))
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
        times |= {start + (self.bounds.partition_rate_per or 0) for _, start in self.partition_starts}
        for at in sorted(time for time in times if time > now):
            future = copy.deepcopy(self)
            future.advance(at)
            if future.take(workflows, 1, 0, at):
                return at
        return None


# --- random courses ---------------------------------------------------------------------------------------------------

_bound = st.none() | st.integers(1, 3)
_rate = st.none() | st.tuples(st.integers(1, 4), st.integers(1, 20))
_bounds = st.builds(settings_of, _bound, _bound, _bound, _rate, st.none() | st.integers(1, 3), _rate)
_starts = st.tuples(
    st.sampled_from(["", "a", "b", "c"]), st.sampled_from(ALL), st.integers(0, 2), st.sampled_from([0, 0, 0, 3, 12])
)
_actions = st.one_of(
    st.tuples(st.just("enter"), st.lists(_starts, min_size=1, max_size=6)),
    st.tuples(st.just("take"), st.tuples(st.sampled_from([("w",), ("v",), ALL]), st.integers(0, 5))),
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
        if bounds.partition_rate_limit is None:
            self.line.partition_starts.clear()

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
            race.act(("take", (ALL, 100)))
            worker.store.close(worker.claim, NOW)
