"""Which runs are in memory, which of them may leave it, when each is due, and who waits for whose end.

Bookkeeping only: nothing here decides what happens to a run.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from heapq import heappop, heappush
from itertools import islice
from typing import Any, Final

from stepwell.definitions.definition import Workflow
from stepwell.worker.state.loaded_run import LoadedRun

#: The part of the limit that leaves at a time.
_BUNCH: Final = 8
#: How many leave at a time at most.
_MOST_AT_ONCE: Final = 250


class RunCache:
    """The runs in memory."""

    def __init__(self) -> None:
        self.runs: dict[int, LoadedRun] = {}
        #: The keys of those whose code executes on greenlets, which belong to the thread that made them.
        self.on_greenlets: set[int] = set()
        self._keys: dict[str, int] = {}  # by run id
        self._waiting: OrderedDict[int, LoadedRun] = OrderedDict()  # at rest, least recently used first
        self._due: list[tuple[int, int]] = []  # heap of (due, key), with leftovers
        self._watchers: dict[str, list[tuple[int, int]]] = {}  # run id -> (waiting run, its operation)
        self._of_queues: Counter[str] = Counter()

    def __contains__(self, key: int) -> bool:
        """Tell whether the run with this key is in memory."""
        return key in self.runs

    def by_id(self, run_id: str) -> LoadedRun | None:
        """Return the run with this id, or None."""
        key = self._keys.get(run_id)
        return None if key is None else self.runs[key]

    def workflow_of(self, run_id: str) -> Workflow[..., Any] | None:
        """Return the workflow of the run with this id, None where that is not in memory; from any thread."""
        run = self.runs.get(self._keys.get(run_id, 0))
        return None if run is None else run.execution.definition

    def enter(self, run: LoadedRun) -> None:
        """Add a run."""
        self.runs[run.key] = run
        self._keys[run.id] = run.key
        if run.execution.loop.greenlets:
            self.on_greenlets.add(run.key)
        if run.queue is not None:
            self._of_queues[run.queue] += 1

    def remove(self, run: LoadedRun) -> None:
        """Take a run out, with what it watches."""
        if self.runs.get(run.key) is run:
            del self.runs[run.key]
            self._keys.pop(run.id, None)
            self.on_greenlets.discard(run.key)
            if run.queue is not None:
                self._of_queues[run.queue] -= 1
        self._waiting.pop(run.key, None)
        for operation in run.execution.pending.values():
            if operation.kind == "result":
                self._unwatch(operation.name, run.key)

    def running(self) -> int:
        """Return how many runs are not at rest."""
        return len(self.runs) - len(self._waiting)

    def of_queue(self, queue: str) -> int:
        """Return how many runs are in memory that were taken from a queue."""
        return self._of_queues[queue]

    # --- rest ----------------------------------------------------------------------------------------------------

    def rest(self, run: LoadedRun) -> None:
        """Note that a run waits, or runs, and when it is due."""
        self.arm(run)
        if run.status == "waiting":
            self._waiting[run.key] = run
            self._waiting.move_to_end(run.key)
        else:
            self._waiting.pop(run.key, None)

    def is_beyond(self, limit: int) -> bool:
        """Tell whether more runs wait in memory than may."""
        return len(self._waiting) > limit

    def beyond(self, limit: int, now: int | None) -> list[LoadedRun]:
        """Return waiting runs that can leave memory now, where there are more than `limit`; least recently used first.

        A bunch of them at a time, because letting them go costs a commit; not too many, because to close the code of
        each takes a tenth of a millisecond. That commit makes the next bunch leave. Runs that would be read again at
        `now` stay; None: they leave as well.
        """
        excess = len(self._waiting) - limit
        if excess <= 0:
            return []
        most = min(excess + limit // _BUNCH, _MOST_AT_ONCE)
        leaving = (run for run in self._waiting.values() if run.can_leave() and (now is None or not run.polls(now)))
        return list(islice(leaving, most))

    # --- due times -----------------------------------------------------------------------------------------------

    def arm(self, run: LoadedRun) -> None:
        """Note when a run is due."""
        due = run.next_due()
        if due != run.armed:
            run.armed = due
            if due is not None:
                heappush(self._due, (due, run.key))

    def arm_at(self, run: LoadedRun, due: int) -> None:
        """Note that a run is looked at no sooner than then, whatever it is due at, unless something comes for it."""
        run.armed = due
        heappush(self._due, (due, run.key))

    def pop_due(self, now: int) -> LoadedRun | None:
        """Return a run that is due, the longest due first; None when there is none. It must be armed again."""
        while self._due and self._due[0][0] <= now:
            due, key = heappop(self._due)
            run = self.runs.get(key)
            if run is not None and run.armed == due:
                run.armed = None
                return run
        return None

    def next_due(self) -> int | None:
        """Return when the first run in memory is due; None: never."""
        while self._due:
            due, key = self._due[0]
            run = self.runs.get(key)
            if run is not None and run.armed == due:
                return due
            heappop(self._due)
        return None

    # --- watching ------------------------------------------------------------------------------------------------

    def watch(self, run_id: str, watcher: int, operation: int) -> None:
        """Note that an operation of the run `watcher` waits for the end of another run."""
        self._watchers.setdefault(run_id, []).append((watcher, operation))

    def pop_watchers(self, run_id: str) -> list[tuple[int, int]]:
        """Return who waits for the end of a run, and forget it."""
        return self._watchers.pop(run_id, [])

    def _unwatch(self, run_id: str, watcher: int) -> None:
        left = [entry for entry in self._watchers.get(run_id, ()) if entry[0] != watcher]
        if left:
            self._watchers[run_id] = left
        else:
            self._watchers.pop(run_id, None)
