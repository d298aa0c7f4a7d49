"""When one worker decides about queues and limits, and what follows from the decisions.

A decision is due for a queue when something may have changed in it: a run entered or ended here, another worker said
so, its time has come, or this worker has room again. It is made in the commit that holds the change, as the last unit,
so that a freed slot is filled by the commit that frees it. What a decision says about later is kept as the time of the
next one: nothing polls.

Permits of limits are granted to runs of any worker, by whoever commits next; those of other workers are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from stepwell.definitions.step_call import StepCall
from stepwell.errors import StepwellError, StoreUnavailable
from stepwell.store.changes import Change
from stepwell.store.queues import PermitsGranted, PermitStarted, QueueFacts, QueueState
from stepwell.worker.rules.queue_policy import Decision, advance, give, grant, has_room, take
from stepwell.worker.running.carrying import Carrier
from stepwell.worker.running.claims import Claims
from stepwell.worker.state.facts import RunsTaken
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.queue_agenda import Asking
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.step_dispatch import StepDispatch

#: How many runs are taken from one queue in one commit: other workers may want some as well.
MAX_TAKEN: Final = 256


class QueueScheduler:
    """Decides about queues and limits for one worker; belongs to the worker's thread."""

    def __init__(self, runs: Runs, steps: StepDispatch, carrier: Carrier, claims: Claims) -> None:
        self._runs = runs
        self._reads = runs.reads
        self._agenda = runs.agenda
        self._steps = steps
        self._carrier = carrier
        self._claims = claims
        #: See `stepwell.store.queues.QueueTaken`; 0 where no real time passes between taking a run and executing it.
        self.start_spread = 0
        #: Tells whether the process of another worker lives, and was not stopped; in a transaction.
        self.is_active: Callable[[int], bool] = lambda _epoch: True
        self._given_to = 0  # the epoch of the worker that was given a run last
        self._deciding: dict[str, tuple[UnitOfWork, list[Asking]]] = {}  # decisions that are not committed yet

    # --- when to decide ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Find out what is to be decided about, and when: at the start, and when others may have changed something."""
        states = self._reads.queues()
        if not states:
            return
        with self._reads.queue_facts() as facts:
            for state in states:
                self._consider(facts, state)

    def look_for_turn(self) -> None:
        """Decide soon about the queues and limits that have room for what waits, because others say that there are.

        As `look`, but without trying first what the decision would be: most likely something will come of it.
        """
        for state in self._reads.queues():
            if has_room(state) and (state.kind == "limit" or self._agenda.serves(state.name)):
                (self._agenda.limits if state.kind == "limit" else self._agenda.queues).add(state.name)
            elif state.waiting or state.delayed:
                with self._reads.queue_facts() as facts:
                    self._consider(facts, state)

    def _consider(self, facts: QueueFacts, state: QueueState) -> None:
        is_limit = state.kind == "limit"
        if not (state.waiting or state.delayed) or not (is_limit or self._agenda.serves(state.name)):
            self._agenda.note_next(state.name, "queue", None)
            return
        if is_limit:
            decision = grant(facts, state.name, self._runs.now)
        else:
            held = self._runs.memory.of_queue(state.name)
            decision = self._take(state.name, 1, held, facts)
        due = state.first_ready_at is not None and state.first_ready_at <= self._runs.now
        if decision.taken or due:
            (self._agenda.limits if is_limit else self._agenda.queues).add(state.name)
        self._agenda.note_next(state.name, "limit" if is_limit else "queue", decision.next_at)

    def declare_known(self) -> None:
        """Tell the file what this code says of the queues and limits that it knows; an event, at the start."""
        known = [state.name for state in self._reads.queues() if self._runs.declarations.is_stated(state.name)]
        if known:
            work = self._runs.batch.lone_work()
            for name in known:
                self._runs.declare(name, work)

    def is_pending(self) -> bool:
        """Tell whether a decision could be made now."""
        if self._runs.draining:
            return False
        return bool(self._agenda.limits) or (bool(self._agenda.queues) and self._runs.room() > 0)

    # --- deciding ----------------------------------------------------------------------------------------------------

    def decide(self) -> None:
        """Add the decisions that are due to the batch, behind all other works; call it before each commit."""
        for name in sorted(self._agenda.entered):
            self._runs.batch.lone_work().decide = partial(self._give, name)
        self._agenda.entered.clear()
        if not self._agenda.limits and not self._agenda.queues:
            return
        runs = self._runs
        if runs.draining:
            return
        for name in sorted(self._agenda.limits):
            asked = self._agenda.asking.pop(name, [])
            self._add(name, partial(self._grant, name), partial(self._granted, name), asked, self._agenda.limits)
        self._agenda.limits.clear()
        room = min(runs.room(), MAX_TAKEN)
        if room <= 0:
            return
        for name in sorted(self._agenda.queues):
            held = runs.memory.of_queue(name)
            self._add(name, partial(self._take, name, room, held), partial(self._taken, name), [], self._agenda.queues)
        self._agenda.queues.clear()

    def _take(self, name: str, room: int, held: int, facts: QueueFacts) -> Decision:
        spread = self.start_spread
        runs = self._runs
        return take(facts, name, runs.workflows, runs.now, room=room, held=held, spread=spread, worker=runs.epoch)

    def _give(self, name: str, facts: QueueFacts) -> list[Change]:
        taken = give(facts, name, self._runs.now, is_active=self.is_active, after=self._given_to)
        if taken is None or taken.owner is None:
            return []
        self._given_to = taken.owner
        return [taken]

    def _grant(self, name: str, facts: QueueFacts) -> Decision:
        return grant(facts, name, self._runs.now)

    def _add(
        self,
        name: str,
        choose: Callable[[QueueFacts], Decision],
        released: Callable[[list[Asking], Decision, Any], None],
        asked: list[Asking],
        due: set[str],
    ) -> None:
        batch = self._runs.batch
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
            released(asked, made[0], results[0] if results else [])

        def failed(error: StepwellError) -> None:
            self._deciding.pop(name, None)
            # Those whose asking was refused as well, or never written, have been forgotten together with their runs.
            wanted = [pair for pair in asked if pair[1].wanted]
            if wanted:
                self._agenda.asking.setdefault(name, []).extend(wanted)
            if wanted or isinstance(error, StoreUnavailable):  # a full disk says nothing about whose turn it is
                due.add(name)

        work.changes.append(advance(name, self._runs.now))
        work.decide = decide
        work.extra.decided = decided
        work.if_refused(failed)

    def _taken(self, name: str, _asked: list[Asking], decision: Decision, keys: list[int]) -> None:
        if decision.more and decision.taken:
            self._agenda.queues.add(name)
        self._agenda.note_next(name, "queue", decision.next_at)
        if keys:
            self._runs.claiming.update(keys)
            self._runs.later(RunsTaken(keys))

    def _granted(self, name: str, asked: list[Asking], decision: Decision, permits: list[tuple[int, int]]) -> None:
        if decision.more and decision.taken:
            self._agenda.limits.add(name)
        self._agenda.note_next(name, "limit", decision.next_at)
        for key, operation in permits:
            self.start(key, operation)
        granted = {
            key for change in decision.changes if isinstance(change, PermitsGranted) for key, _ in change.permits
        }
        for record in self._reads.facts(sorted(granted.difference(key for key, _ in permits))):
            if record.owner is None:  # then nobody else was told
                self._claims.woken(record.key)
        for run, attempts in asked:
            if attempts.permit == "asked" and attempts.wanted:
                self._await(run, attempts)

    # --- permits -----------------------------------------------------------------------------------------------------

    def start(self, run_key: int, operation: int) -> None:
        """Start the attempt that asked for a permit, or waited for it, and has it now."""
        runs = self._runs
        run = runs.memory.runs.get(run_key)
        attempts = None if run is None else run.calls.get(operation)
        if run is None or attempts is None or attempts.permit not in ("asked", "waiting"):
            return  # whoever reads the run from the store finds the permit there
        if run.pausing is not None:  # the permit goes back when the run is paused
            if attempts.permit == "asked":
                self._await(run, attempts)
            return
        waited = attempts.permit == "waiting"
        attempts.permit = "held"
        attempts.started_at = runs.now
        if attempts.attempt == 1:
            attempts.first_started_at = runs.now
        if waited:
            run.active += 1
        if attempts.definition.step_options.delivery == "at-most-once":
            self._steps.execute(run, attempts, runs.batch.work_of(run))
        else:
            runs.batch.steps.append(attempts)
        if waited:
            self._carrier.carry_on(run, runs.batch.work_of(run))

    def _await(self, run: LoadedRun, attempts: StepCall) -> None:
        """Let a run wait for a permit that was not granted at once."""
        runs = self._runs
        if runs.memory.runs.get(run.key) is run and run.calls.get(attempts.operation) is attempts:
            attempts.permit = "waiting"
            run.active -= 1
            self._carrier.carry_on(run, runs.batch.work_of(run))

    def look_at_permits(self, run: LoadedRun) -> None:
        """Start the attempts of a run that another worker has granted permits to."""
        # One that asks in the commit under way may have been granted its permit before, in the line that it stood in.
        if any(attempts.permit in ("asked", "waiting") for attempts in run.calls.values()):
            for permit in self._reads.permits([run.key])[run.key]:
                if permit.granted:
                    self.start(run.key, permit.op)

    def starts_seen(self, under_way: Iterable[StepCall]) -> None:
        """Tell the store when attempts began, where a rate waits to know it; an event."""
        for attempts in under_way:
            limit = attempts.definition.step_options.limit
            if limit is not None and attempts.permit == "held" and attempts.began_at and not attempts.start_told:
                attempts.start_told = True
                change = PermitStarted(attempts.run_key, attempts.operation, attempts.began_at)
                self._runs.batch.lone_work().changes.append(change)
                self._agenda.limits.add(limit.name)
