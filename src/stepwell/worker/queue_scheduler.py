"""When one worker decides about queues and limits, and what follows from the decisions.

A decision is due for a queue when something may have changed in it: a run entered or ended here, another worker said
so, its time has come, or this worker has room again. It is made in the commit that holds the change, as the last unit,
so that a freed slot is filled by the commit that frees it. What a decision says about later is kept as the time of the
next one: nothing polls.

Permits of limits are granted to runs of any worker, by whoever commits next; those of other workers are told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from stepwell.definitions.queues import UNSET, Limit, Queue, QueueSettings
from stepwell.definitions.step_call import StepCall
from stepwell.errors import StepwellError, StoreUnavailable
from stepwell.store.changes import Change
from stepwell.store.inspector import Inspector
from stepwell.store.queues import PermitsGranted, PermitStarted, QueueDeclared, QueueFacts, QueueState
from stepwell.worker.activation import Activator
from stepwell.worker.commit_batch import CommitBatch
from stepwell.worker.loaded_run import LoadedRun
from stepwell.worker.queue_policy import Decision, advance, grant, has_room, take
from stepwell.worker.run_cache import RunCache
from stepwell.worker.unit_of_work import UnitOfWork

_log: Final = logging.getLogger("stepwell")

#: How many runs are taken from one queue in one commit: other workers may want some as well.
MAX_TAKEN: Final = 256


_Asked: TypeAlias = tuple[LoadedRun, StepCall]


class Owner(Protocol):
    """The worker, as far as decisions need it."""

    now: int
    memory: RunCache
    batch: CommitBatch
    activator: Activator
    draining: bool

    def room(self) -> int:
        """Return how many more runs the worker may have under way."""
        ...

    def runs_taken(self, keys: list[int]) -> None:
        """Bring runs to memory that were taken from a queue."""
        ...

    def settle_run(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Carry a run on until it waits."""
        ...

    def woken(self, key: int) -> None:
        """Bring a run that is not in memory back, if nobody else has it."""
        ...


class QueueScheduler:
    """The queues and limits as one worker sees them; belongs to the worker's thread.

    `served` are the names of the queues that the worker takes from, None for all.
    """

    def __init__(
        self,
        worker: Owner,
        inspector: Inspector,
        workflows: Collection[str],
        flows: Mapping[str, Queue | Limit],
        served: frozenset[str] | None,
        *,
        takes_work: bool,
    ) -> None:
        self._worker = worker
        self._inspector = inspector
        self._workflows = workflows
        self._flows = flows
        self._served = served
        self._takes_work = takes_work
        #: See `stepwell.store.queues.QueueTaken`; 0 where no real time passes between taking a run and executing it.
        self.start_spread = 0
        self._declared: dict[str, QueueSettings | None] = {}  # what this engine has stated, or that it stated nothing
        self._queues: set[str] = set()  # about which a decision is due
        self._limits: set[str] = set()
        self._next: dict[str, int] = {}  # when a decision will be due, though nothing happens
        self._kinds: dict[str, str] = {}
        self._deciding: dict[str, tuple[UnitOfWork, list[_Asked]]] = {}  # decisions that are not committed yet
        self._asked: dict[str, list[_Asked]] = {}  # for permits, in the commit under way

    # --- declarations ------------------------------------------------------------------------------------------------

    def declaration(self, name: str, now: int) -> list[QueueDeclared]:
        """Return the change that tells the file of a queue or limit, where this engine has not told it the same."""
        flow = self._flows.get(name)
        if flow is None or self._declared.get(name, UNSET) == flow.stated:
            return []
        return [QueueDeclared(name, flow.kind, flow.stated, now)]

    def declare(self, name: str, work: UnitOfWork) -> None:
        """Make a queue or limit known to the file in the same unit that needs it."""
        for change in self.declaration(name, self._worker.now):
            work.then(change, partial(self.declared, change))

    def declared(self, change: QueueDeclared, before: QueueSettings | None) -> None:
        """Take note of a declaration that is committed; `before` is what it has changed, and the log says so."""
        self._declared[change.name] = change.settings
        if before is not None and change.settings is not None:
            text = "%s %r is bounded by %s from now on, as this program states it; until now it was by %s"
            _log.warning(text, change.kind, change.name, change.settings.text, before.text)

    # --- when to decide ----------------------------------------------------------------------------------------------

    def serves(self, queue: str) -> bool:
        """Tell whether this worker takes runs from a queue."""
        return self._takes_work and (self._served is None or queue in self._served)

    def touch(self, queue: str) -> None:
        """Note that something changed in a queue."""
        if self.serves(queue):
            self._queues.add(queue)

    def touch_limit(self, limit: str) -> None:
        """Note that something changed in a limit."""
        self._limits.add(limit)

    def look(self) -> None:
        """Find out what is to be decided about, and when: at the start, and when others may have changed something."""
        states = self._inspector.queues()
        if not states:
            return
        with self._inspector.queue_facts() as facts:
            for state in states:
                self._consider(facts, state)

    def look_for_turn(self) -> None:
        """Decide soon about the queues and limits that have room for what waits, because others say that there are.

        As `look`, but without trying first what the decision would be: most likely something will come of it.
        """
        for state in self._inspector.queues():
            if has_room(state) and (state.kind == "limit" or self.serves(state.name)):
                (self._limits if state.kind == "limit" else self._queues).add(state.name)
            elif state.waiting or state.delayed:
                with self._inspector.queue_facts() as facts:
                    self._consider(facts, state)

    def _consider(self, facts: QueueFacts, state: QueueState) -> None:
        is_limit = state.kind == "limit"
        if not (state.waiting or state.delayed) or not (is_limit or self.serves(state.name)):
            self._next.pop(state.name, None)
            return
        if is_limit:
            decision = grant(facts, state.name, self._worker.now)
        else:
            held = self._worker.memory.of_queue(state.name)
            decision = self._take(state.name, 1, held, facts)
        due = state.first_ready_at is not None and state.first_ready_at <= self._worker.now
        if decision.taken or due:
            (self._limits if is_limit else self._queues).add(state.name)
        self._note_next(state.name, "limit" if is_limit else "queue", decision.next_at)

    def declare_known(self) -> None:
        """Tell the file what this code says of the queues and limits that it knows; an event, at the start."""
        known = [state.name for state in self._inspector.queues() if self._is_stated(state.name)]
        if known:
            work = self._worker.batch.lone_work()
            for name in known:
                self.declare(name, work)

    def _is_stated(self, name: str) -> bool:
        flow = self._flows.get(name)
        return flow is not None and flow.stated is not None

    def next_at(self) -> int | None:
        """Return when the next decision is due, though nothing happens until then; None: never."""
        return min(self._next.values(), default=None)

    def advance(self) -> None:
        """Note the decisions whose time has come."""
        now = self._worker.now
        for name, at in list(self._next.items()):
            if at <= now:
                del self._next[name]
                (self._limits if self._kinds[name] == "limit" else self._queues).add(name)

    def is_pending(self) -> bool:
        """Tell whether a decision could be made now."""
        if self._worker.draining:
            return False
        return bool(self._limits) or (bool(self._queues) and self._worker.room() > 0)

    # --- deciding ----------------------------------------------------------------------------------------------------

    def decide(self) -> None:
        """Add the decisions that are due to the batch, behind all other works; call it before each commit."""
        if not self._limits and not self._queues:
            return
        worker = self._worker
        if worker.draining:
            return
        for name in sorted(self._limits):
            asked = self._asked.pop(name, [])
            self._add(name, partial(self._grant, name), partial(self._granted, name), asked, self._limits)
        self._limits.clear()
        room = min(worker.room(), MAX_TAKEN)
        if room <= 0:
            return
        for name in sorted(self._queues):
            held = worker.memory.of_queue(name)
            self._add(name, partial(self._take, name, room, held), partial(self._taken, name), [], self._queues)
        self._queues.clear()

    def _take(self, name: str, room: int, held: int, facts: QueueFacts) -> Decision:
        spread = self.start_spread
        return take(facts, name, self._workflows, self._worker.now, room=room, held=held, spread=spread)

    def _grant(self, name: str, facts: QueueFacts) -> Decision:
        return grant(facts, name, self._worker.now)

    def _add(
        self,
        name: str,
        choose: Callable[[QueueFacts], Decision],
        settled: Callable[[list[_Asked], Decision, Any], None],
        asked: list[_Asked],
        due: set[str],
    ) -> None:
        batch = self._worker.batch
        older = self._deciding.pop(name, None)
        if older is not None and older[0] in batch:  # it could not be committed yet, and stands before newer works
            batch.discard(older[0])
            asked = [*older[1], *asked]
        work = batch.lone_work()
        self._deciding[name] = work, asked
        made: list[Decision] = []

        def decide(facts: QueueFacts) -> list[Change]:
            made[:] = [choose(facts)]
            return made[0].changes

        def decided(results: list[Any]) -> None:
            self._deciding.pop(name, None)
            settled(asked, made[0], results[0] if results else [])

        def failed(error: StepwellError) -> None:
            self._deciding.pop(name, None)
            # Those whose asking was refused as well, or never written, have been forgotten together with their runs.
            wanted = [pair for pair in asked if pair[1].wanted]
            if wanted:
                self._asked.setdefault(name, []).extend(wanted)
            if wanted or isinstance(error, StoreUnavailable):  # a full disk says nothing about whose turn it is
                due.add(name)

        work.changes.append(advance(name, self._worker.now))
        work.decide = decide
        work.extra.decided = decided
        work.if_refused(failed)

    def _taken(self, name: str, _asked: list[_Asked], decision: Decision, keys: list[int]) -> None:
        if decision.more and decision.taken:
            self._queues.add(name)
        self._note_next(name, "queue", decision.next_at)
        if keys:
            self._worker.runs_taken(keys)

    def _granted(self, name: str, asked: list[_Asked], decision: Decision, permits: list[tuple[int, int]]) -> None:
        if decision.more and decision.taken:
            self._limits.add(name)
        self._note_next(name, "limit", decision.next_at)
        for key, operation in permits:
            self.start(key, operation)
        granted = {
            key for change in decision.changes if isinstance(change, PermitsGranted) for key, _ in change.permits
        }
        for key in sorted(granted.difference(key for key, _ in permits)):
            record = self._inspector.run_facts_by_key(key)
            if record is not None and record.owner is None:  # then nobody else was told
                self._worker.woken(key)
        for run, attempts in asked:
            if attempts.permit == "asked" and attempts.wanted:
                self._await(run, attempts)

    def _note_next(self, name: str, kind: str, at: int | None) -> None:
        if at is None:
            self._next.pop(name, None)
        else:
            self._next[name], self._kinds[name] = at, kind

    # --- permits -----------------------------------------------------------------------------------------------------

    def ask(self, run: LoadedRun, attempts: StepCall, limit: str) -> None:
        """Take note that an attempt asks for a permit in the commit under way."""
        self._asked.setdefault(limit, []).append((run, attempts))
        self._limits.add(limit)

    def start(self, run_key: int, operation: int) -> None:
        """Start the attempt that asked for a permit, or waited for it, and has it now."""
        worker = self._worker
        run = worker.memory.runs.get(run_key)
        attempts = None if run is None else run.calls.get(operation)
        if run is None or attempts is None or attempts.permit not in ("asked", "waiting"):
            return  # whoever reads the run from the store finds the permit there
        waited = attempts.permit == "waiting"
        attempts.permit = "held"
        attempts.started_at = worker.now
        if attempts.attempt == 1:
            attempts.first_started_at = worker.now
        if waited:
            run.active += 1
        if attempts.definition.step_options.delivery == "at-most-once":
            worker.activator.execute(run, attempts, worker.batch.work_of(run))
        else:
            worker.batch.steps.append(attempts)
        if waited:
            worker.settle_run(run, worker.batch.work_of(run))

    def _await(self, run: LoadedRun, attempts: StepCall) -> None:
        """Let a run wait for a permit that was not granted at once."""
        worker = self._worker
        if worker.memory.runs.get(run.key) is run and run.calls.get(attempts.operation) is attempts:
            attempts.permit = "waiting"
            run.active -= 1
            worker.settle_run(run, worker.batch.work_of(run))

    def look_at_permits(self, run: LoadedRun) -> None:
        """Start the attempts of a run that another worker has granted permits to."""
        # One that asks in the commit under way may have been granted its permit before, in the line that it stood in.
        if any(attempts.permit in ("asked", "waiting") for attempts in run.calls.values()):
            for permit in self._inspector.permits(run.key):
                if permit.granted:
                    self.start(run.key, permit.op)

    def starts_seen(self, under_way: Iterable[StepCall]) -> None:
        """Tell the store when attempts began, where a rate waits to know it; an event."""
        for attempts in under_way:
            limit = attempts.definition.step_options.limit
            if limit is not None and attempts.permit == "held" and attempts.began_at and not attempts.start_told:
                attempts.start_told = True
                change = PermitStarted(attempts.run_key, attempts.operation, attempts.began_at)
                self._worker.batch.lone_work().changes.append(change)
                self._limits.add(limit.name)
