"""Who waits for what: the end of a run, a published value, a moment without work.

Waiters live in memory only; what they wait for is in the file. A caller that dies waits again with the next engine.
Everything here happens on the engine's thread, and each reply is called once.
"""

from __future__ import annotations

from typing import TypeVar

from stepwell.batch import Batch
from stepwell.errors import RunEnded, RunNotFound, StepwellError
from stepwell.journal import Payload
from stepwell.lifecycle import ENDED
from stepwell.memory import Memory
from stepwell.store.base import Store
from stepwell.work import Reply, RunOver

K = TypeVar("K")


class Waiters:
    """The replies of one engine that are still to come.

    `memory` knows runs that have not ended, `batch` those that have, but whose end is not committed yet.
    """

    def __init__(self, store: Store, memory: Memory, batch: Batch) -> None:
        self._store = store
        self._memory = memory
        self._batch = batch
        self._of_runs: dict[str, list[Reply]] = {}
        self._of_values: dict[tuple[int, str], list[Reply]] = {}
        self.idle: list[Reply] = []

    def run(self, run_id: str, reply: Reply) -> None:
        """Reply with the `RunOver` of a run as soon as there is one; an event."""
        if self._memory.by_id(run_id) is None:
            record = self._store.inspector.run_by_id(run_id)
            if record is None:
                reply(None, self._not_found(run_id))
                return
            # A run that was halted, and ended when it was tried again, is told of when that is committed.
            if record.status in ENDED or (record.status == "halted" and record.key not in self._batch.ending):
                over = RunOver.of(record)
                reply(over, None)
                return
        self._of_runs.setdefault(run_id, []).append(reply)

    def value(self, run_id: str, key: str, reply: Reply) -> None:
        """Reply with the value that a run publishes, or has published, under `key`; an event."""
        record = self._store.inspector.run_by_id(run_id)
        if record is None:
            reply(None, self._not_found(run_id))
            return
        found = self._store.inspector.value(record.key, key)
        if found is not None:
            reply(found[0], None)
        elif record.status in ENDED:
            reply(None, _will_not_publish(run_id, key, record.status))
        else:
            self._of_values.setdefault((record.key, key), []).append(reply)

    def when_idle(self, reply: Reply) -> None:
        """Reply once nothing is to be done, with the time at which that changes by itself, or None; an event."""
        self.idle.append(reply)

    def run_over(self, over: list[RunOver]) -> None:
        """Tell whoever waits for these runs, or for a value that they will not publish any more."""
        for end in over:
            for reply in self._of_runs.pop(end.id, ()):
                reply(end, None)
            if self._of_values and end.status in ENDED:
                for place in [place for place in self._of_values if place[0] == end.key]:
                    for reply in self._of_values.pop(place):
                        reply(None, _will_not_publish(end.id, place[1], end.status))

    def published(self, run: int, key: str, value: Payload) -> None:
        """Tell whoever waits for this value."""
        for reply in self._of_values.pop((run, key), ()):
            reply(value, None)

    def tell_idle(self, due: int | None) -> None:
        """Tell whoever waits for a moment without work that it has come; `due` is when it ends by itself."""
        replies, self.idle = self.idle, []
        for reply in replies:
            reply(due, None)

    def refuse(self, error: StepwellError) -> None:
        """Tell everyone that nothing will come any more, and why."""
        waiting = [*self._of_runs.values(), *self._of_values.values(), self.idle]
        self._of_runs, self._of_values, self.idle = {}, {}, []
        for replies in waiting:
            for reply in replies:
                reply(None, error)

    def forget(self, reply: Reply) -> None:
        """Drop a reply that nobody waits for any more; an event."""
        if reply in self.idle:
            self.idle.remove(reply)
        elif not _drop(reply, self._of_runs):
            _drop(reply, self._of_values)

    def _not_found(self, run_id: str) -> RunNotFound:
        return RunNotFound(f"{self._store.location} has no run {run_id!r}")


def _drop(reply: Reply, waiters: dict[K, list[Reply]]) -> bool:
    for place, replies in waiters.items():
        if reply in replies:
            replies.remove(reply)
            if not replies:
                del waiters[place]
            return True
    return False


def _will_not_publish(run_id: str, key: str, status: str) -> RunEnded:
    return RunEnded(f"run {run_id!r} is {status} and never published {key!r}")
