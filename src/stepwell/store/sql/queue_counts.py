"""What counts the entries of queues and limits: gathered while changes are applied, written once a queue and lane.

Counts are kept by code and not by triggers: a trigger runs for every row, and 500 entries that are taken from one lane
change its counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepwell.errors import QueueNotFound
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.queue_facts import to_json


class KnownQueue:
    """A queue as it is in this transaction, what was gathered but not written included."""

    def __init__(self, row: Sequence[Any]) -> None:
        self.kind: str
        self.declared: str
        self.concurrency: int | None
        self.bound: int | None  # of a partition
        self.rate_per: int | None
        self.partition_rate: int | None  # how many starts of a partition may be in a window, and the length of that
        self.partition_rate_per: int | None
        self.paused: int
        self.delayed: int
        self.waiting: int
        self.running: int
        self.starts: int
        self.tickets: int
        self.last_start_at: int
        self.kind, self.declared, self.concurrency, self.bound, self.rate_per, *rest = row
        self.partition_rate, self.partition_rate_per, self.paused, *counts = rest
        self.delayed, self.waiting, self.running, self.starts, self.tickets, self.last_start_at = counts
        self.more_unconfirmed = 0
        self.is_dirty = False
        #: Whether others may find something to take here that they did not find before.
        self.opened = False

    @property
    def is_full(self) -> bool:
        """Whether it is at its bound."""
        return self.concurrency is not None and self.running >= self.concurrency

    def ticket(self) -> int:
        """Return the next place in a line."""
        self.tickets += 1
        return self.tickets


class QueueCounts:
    """The queues that one transaction knows, and how their counts change; a base of `queue_changes.Entries`."""

    def __init__(self, connection: SqlConnection, sql: Statements) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute
        self._sql = sql
        self._clear_counts()

    def _clear_counts(self) -> None:
        self._known: dict[str, KnownQueue] = {}
        self._lanes: dict[tuple[str, str, str], int] = {}
        self._partitions: dict[tuple[str, str], int] = {}
        self._turns: dict[tuple[str, str], int] = {}
        self._rated: dict[str, set[str]] = {}  # partitions with new starts, by queue
        self._dirty = False

    def _queue(self, name: str) -> KnownQueue:
        known = self._known.get(name)
        if known is None:
            row = next(iter(self._rows(self._sql["queue_known"], (name,))), None)
            if row is None:
                raise QueueNotFound(f"the file knows no queue or limit {name!r}; start something in it first")
            known = self._known[name] = KnownQueue(row)
        return known

    def _touch(self, name: str) -> KnownQueue:
        known = self._known.get(name) or self._queue(name)
        known.is_dirty = self._dirty = True
        return known

    def _count_waiting(self, queue: str, partition: str, workflow: str, more: int) -> None:
        lane = (queue, partition, workflow)
        self._lanes[lane] = self._lanes.get(lane, 0) + more

    def _count_busy(self, queue: str, partition: str, more: int) -> None:
        place = (queue, partition)
        self._partitions[place] = self._partitions.get(place, 0) + more

    def _write_counts(self) -> None:
        """Write those of lanes and partitions, and then of queues, to which the lanes add tickets."""
        grown: list[tuple[Any, ...]] = []
        shrunk: list[tuple[Any, ...]] = []
        turns: dict[tuple[str, str], int] = {}  # for partitions that may be new
        for (queue, partition, workflow), more in self._lanes.items():
            if more < 0:
                shrunk.append((queue, partition, workflow, -more))
                continue
            turn = turns.get((queue, partition))
            if turn is None:
                turn = turns[queue, partition] = self._known[queue].ticket()
            grown.append((queue, partition, workflow, more, turn))
        if grown:
            added = {(queue, partition, workflow): more for queue, partition, workflow, more, _ in grown}
            rows = self._rows(self._sql["lanes_grown"], (to_json(grown),))
            for queue, partition, workflow, waiting in rows:
                if waiting == added[queue, partition, workflow]:  # nothing waited there before
                    self._known[queue].opened = True
        if shrunk:
            self._execute(self._sql["lanes_shrunk"], (to_json(shrunk),))
        changed = [
            (*place, self._partitions.get(place, 0), self._turns.get(place), self._known[place[0]].bound)
            for place in self._partitions.keys() | self._turns.keys()
        ]
        if changed:
            self._execute(self._sql["partitions_changed"], (to_json(changed),))
        rated, self._rated = self._rated, {}
        for queue, partitions in rated.items():
            self._rate(queue, sorted(partitions))
        if any(place[1] for place in self._partitions) or any(lane[1] for lane in shrunk):
            self._execute(self._sql["idle_lanes_deleted"])
        self._lanes.clear()
        self._partitions.clear()
        self._turns.clear()
        for name, known in self._known.items():
            if known.is_dirty:
                known.is_dirty = False
                counts = (known.delayed, known.waiting, known.running, known.starts, known.more_unconfirmed)
                known.more_unconfirmed = 0
                self._execute(self._sql["queue_counted"], (name, *counts, known.tickets, known.last_start_at))

    def _rate(self, queue: str, partitions: list[str]) -> None:
        """Note until when the rate of the queue's partitions blocks these."""
        known = self._queue(queue)
        bounds = (known.partition_rate or 1) - 1, known.partition_rate_per, known.bound
        self._execute(self._sql["partitions_rated"], (queue, to_json(partitions), *bounds))

    def _rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        return self._execute(statement, parameters).fetchall()
