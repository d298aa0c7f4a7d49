"""What a decision about a queue is made from, read on one connection: the writer's, or one of the readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import msgspec

from stepwell.definitions.queues import QueueSettings
from stepwell.store.queues import Head, Lane, LoneEntry, QueueState
from stepwell.store.sql.connection import Execute, Statements

_FIRST_SETTING, _AFTER_SETTINGS = 2, 10  # where a row of queue_state has the fields of QueueSettings

#: How many runs in its memory are looked at to find out whether a worker has one under way, at 0.5 us each.
_LOOKED_AT: Final = 64


@cache
def _decoder() -> msgspec.json.Decoder[list[Head]]:
    # Made when it is first used: it would cost each process that starts, and many have no queue of several lanes.
    return msgspec.json.Decoder(list[Head])


def to_json(values: Any) -> str:
    """Return a list as JSON text, for `json_each`."""
    return msgspec.json.encode(values).decode()


def state_of(row: Sequence[Any]) -> QueueState:
    """Return the state for a row of queue_state."""
    name, kind, *rest = row
    settings = QueueSettings(*row[_FIRST_SETTING:_AFTER_SETTINGS])
    paused, *counts = rest[_AFTER_SETTINGS - _FIRST_SETTING :]
    return QueueState(name, kind, settings, paused != 0, *counts)


class SqlFacts:
    """The `QueueFacts` of a connection, inside a transaction or a read."""

    def __init__(self, execute: Execute, sql: Statements, flush: Callable[[], None] | None = None) -> None:
        self._execute = execute
        self._sql = sql
        self._flush = flush

    def state(self, queue: str) -> QueueState | None:
        """Return the queue or limit of this name, or None."""
        if self._flush is not None:
            self._flush()
        return next(map(state_of, self._rows(self._sql["queue_state"], (queue,))), None)

    def workflows(self, queue: str) -> list[str]:
        """Return the workflows that have open lanes."""
        return [name for (name,) in self._rows(self._sql["open_workflows"], (queue,))]

    def lanes(self, queue: str, workflow: str, limit: int, without: Sequence[str] = ()) -> list[Lane]:
        """Return open lanes of a workflow in the order of their turns, without those of some partitions."""
        rows = self._rows(self._sql["open_lanes"], (queue, workflow, limit, to_json(without)))
        return [Lane(*row) for row in rows]

    def heads(self, queue: str, lanes: Sequence[Lane], limit: int) -> list[list[Head]]:
        """Return, for each lane, its first `limit` entries in the order in which they are taken."""
        if len(lanes) == 1:
            lane = lanes[0]
            rows = self._rows(self._sql["heads_of_lane"], (queue, lane.workflow, lane.partition, limit))
            return [[Head(*row) for row in rows]]
        wanted = to_json([(lane.workflow, lane.partition) for lane in lanes])
        found = self._rows(self._sql["heads_of_lanes"], (queue, wanted, limit))
        decode = _decoder().decode
        return [decode(heads) for _, heads in sorted(found)]

    def start_at(self, queue: str, index: int) -> int | None:
        """Return the time of a start in the log, counted from 0 for the oldest, or None."""
        return next((at for (at,) in self._rows(self._sql["start_at"], (queue, index))), None)

    def partition_start_at(self, queue: str, partition: str, index: int) -> int | None:
        """Return the time of a start in the log of a partition, counted from 0 for the oldest, or None."""
        return next((at for (at,) in self._rows(self._sql["partition_start_at"], (queue, partition, index))), None)

    def partition_opens_at(self, queue: str, partition: str) -> int | None:
        """Return until when its rate blocks a partition, None where it does not."""
        return next((at for (at,) in self._rows(self._sql["partition_opens_at"], (queue, partition))), None)

    def held(self, queue: str, worker: int) -> dict[str, int]:
        """Return how many runs of each partition of a queue are in the memory of a worker."""
        return dict(self._rows(self._sql["held_by_partition"], (queue, worker)))

    def lone_entry(self, queue: str) -> LoneEntry | None:
        """Return the entry that waits in a queue; None where several do, or none."""
        if self._flush is not None:
            self._flush()
        for run, partition, workflow, paused, running, *settings in self._rows(self._sql["lone_entry"], (queue,)):
            return LoneEntry(run, partition, workflow, QueueSettings(*settings), paused != 0, running)
        return None

    def idle_workers(self, queue: str, workflow: str) -> list[int]:
        """Return the epochs of the workers that have no run under way, and take runs of a workflow from a queue."""
        names = to_json(queue), to_json(workflow)
        return [epoch for (epoch,) in self._rows(self._sql["idle_workers"], (*names, _LOOKED_AT))]

    def _rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        return self._execute(statement, parameters).fetchall()
