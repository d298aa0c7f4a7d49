"""About which queues and limits one worker has to decide: in the commit under way, or at a time to come.

Bookkeeping only, below all that touches a queue; `stepwell.worker.scheduling.queue_scheduler` decides.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from stepwell.definitions.step_call import StepCall
from stepwell.worker.state.loaded_run import LoadedRun

#: An attempt that asks for a permit, with its run.
Asking: TypeAlias = tuple[LoadedRun, StepCall]


class QueueAgenda:
    """What is to be decided. `served` are the names of the queues that the worker takes from, None for all."""

    def __init__(self, served: frozenset[str] | None, *, takes_work: bool) -> None:
        self._served = served
        self._takes_work = takes_work
        #: About these a decision is due.
        self.queues: set[str] = set()
        self.limits: set[str] = set()
        #: In these a run enters that this worker does not take: perhaps another one is given it.
        self.entered: set[str] = set()
        #: Who asks for permits in the commit under way, by limit.
        self.asking: dict[str, list[Asking]] = {}
        self._next: dict[str, tuple[int, Literal["queue", "limit"]]] = {}

    def serves(self, queue: str) -> bool:
        """Tell whether this worker takes runs from a queue."""
        return self._takes_work and (self._served is None or queue in self._served)

    def touch(self, queue: str) -> None:
        """Note that something changed in a queue: a run entered it, or left it."""
        if self.serves(queue):
            self.queues.add(queue)

    def touch_limit(self, limit: str) -> None:
        """Note that something changed in a limit: a permit of it comes free."""
        self.limits.add(limit)

    def ask(self, run: LoadedRun, attempts: StepCall, limit: str) -> None:
        """Note that an attempt asks for a permit in the commit under way."""
        self.asking.setdefault(limit, []).append((run, attempts))
        self.limits.add(limit)

    # --- later -------------------------------------------------------------------------------------------------------

    def note_next(self, name: str, kind: Literal["queue", "limit"], at: int | None) -> None:
        """Note when the next decision about a queue or limit will be due, though nothing happens; None: never."""
        if at is None:
            self._next.pop(name, None)
        else:
            self._next[name] = at, kind

    def due_at(self) -> int | None:
        """Return when the next decision is due, though nothing happens until then; None: never."""
        return min((at for at, _ in self._next.values()), default=None) if self._next else None

    def advance(self, now: int) -> None:
        """Note the decisions whose time has come."""
        for name, (at, kind) in list(self._next.items()):
            if at <= now:
                del self._next[name]
                (self.limits if kind == "limit" else self.queues).add(name)
