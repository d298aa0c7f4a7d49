"""The worker: which runs are in memory, what is delivered to them, and what follows from that.

A worker is made of parts, each handed the parts below it: calls go down. What a part has to say to those above it is a
fact (`stepwell.worker.state.facts`), and `Worker.route` says who acts on each. What the worker wants done outside
itself is an effect (`stepwell.worker.state.effects`), which the turn loop takes. So the way of an event is: a method
here or of a part, the run's code (`activation`, by way of `carrying`), a unit of work in the batch; then, when the turn
loop has committed that, `release`.

No clock (`now` is set by the engine), no threads, no I/O but reads of the store.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, assert_never

from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import Limit, Queue
from stepwell.definitions.step_call import StepCall
from stepwell.errors import ClaimLost, StoreError
from stepwell.replay.operation import Operation
from stepwell.store.changes import RunCreated, RunMoved
from stepwell.store.store import Outcome
from stepwell.store.worker_reads import WorkerReads
from stepwell.values.codec import Codec
from stepwell.worker.arriving.arrivals import Arrivals
from stepwell.worker.arriving.inbox import Inbox
from stepwell.worker.arriving.loader import Loader
from stepwell.worker.arriving.outcomes import Outcomes
from stepwell.worker.arriving.run_timers import RunTimers
from stepwell.worker.arriving.step_outcomes import StepOutcomes
from stepwell.worker.pace import LEAST
from stepwell.worker.repair.settlements import Settler
from stepwell.worker.running.activation import Activator
from stepwell.worker.running.carrying import Carrier
from stepwell.worker.running.claims import Claims
from stepwell.worker.running.letting_go import LettingGo
from stepwell.worker.running.run_endings import RunEndings
from stepwell.worker.running.spinning import Spinning
from stepwell.worker.running.ticks import Ticks
from stepwell.worker.running.unstarted import Unstarted
from stepwell.worker.scheduling.queue_scheduler import QueueScheduler
from stepwell.worker.scheduling.schedules import Schedules
from stepwell.worker.state import facts
from stepwell.worker.state.declarations import Declarations
from stepwell.worker.state.due import DueTimes
from stepwell.worker.state.effects import Effect, TookOn
from stepwell.worker.state.executions import Executions
from stepwell.worker.state.failure_log import attempt_fields
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.operation_kinds import OperationTable
from stepwell.worker.state.queue_agenda import QueueAgenda
from stepwell.worker.state.runs import Capacity, Runs, no_tokens
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.permits import Permits
from stepwell.worker.steps.progress import ProgressKeeper
from stepwell.worker.steps.step_dispatch import StepDispatch

_log: Final = logging.getLogger("stepwell")

#: How many entries are replayed in one event, as near as can be told beforehand: some milliseconds.
_REPLAYED_AT_ONCE: Final = 250


class Worker:
    """The runs of one engine. Not thread-safe: the engine's thread owns it."""

    def __init__(
        self,
        reads: WorkerReads,
        codec: Codec,
        workflows: Mapping[str, Workflow[..., Any]],
        limits: Capacity,
        chance: Callable[[], float],
        operations: OperationTable,
        *,
        takes_work: bool = True,
        flows: Mapping[str, Queue | Limit] = MappingProxyType({}),
        queues: frozenset[str] | None = None,
        tokens: Callable[[], str] = no_tokens,
    ) -> None:
        self.declarations = Declarations(flows)
        agenda = QueueAgenda(queues, takes_work=takes_work)
        self.runs = runs = Runs(reads, codec, operations.kinds, workflows, limits, self.declarations, agenda, tokens)
        permits = Permits(runs)
        self.executions = executions = Executions(runs)
        self.spinning = Spinning(runs)
        self._dispatch = dispatch = StepDispatch(runs, permits)
        endings = RunEndings(runs, dispatch)
        self.progress = ProgressKeeper(runs)
        self.activator = Activator(runs, operations, dispatch, endings, executions, self.spinning, self.progress)
        self._letting_go = LettingGo(runs, permits)
        self.carrier = Carrier(runs, self.activator, endings, self._letting_go)
        self.unstarted = Unstarted(runs, endings, self.carrier, takes_work=takes_work)
        self._ticks = Ticks(runs, self.spinning, self.activator, self.carrier)
        self.claims = Claims(runs, self.unstarted, takes_work=takes_work)
        self.settler = Settler(dispatch, self.activator)
        self.loader = Loader(
            runs, executions, self._letting_go, self.carrier, self.unstarted, self.claims, self.settler
        )
        self.scheduler = QueueScheduler(runs, dispatch, self.carrier, self.claims)
        self.steps = StepOutcomes(runs, permits, self.activator, self.carrier, self.claims, chance)
        self.inbox = Inbox(runs, self.activator, self.carrier, self.scheduler, self.settler, self._letting_go)
        self._timers = RunTimers(runs, dispatch, self.activator, self.carrier, self.spinning, self.inbox)
        self.arrivals = Arrivals(
            runs, self.activator, self.carrier, self.unstarted, self.claims, self.loader, self._letting_go
        )
        self.outcomes = Outcomes(runs, self._letting_go, self.carrier, self.steps)
        self.schedules = Schedules(runs, takes_work=takes_work)
        #: All that has times of its own.
        self.due = DueTimes(self.claims, agenda, self._timers, self.schedules, self.progress)
        self.codec, self.kinds = codec, operations.kinds
        self.loops, self.memory, self.batch = runs.loops, runs.memory, runs.batch

    @property
    def now(self) -> int:
        """Engine time, in microseconds; the turn loop sets it."""
        return self.runs.now

    @now.setter
    def now(self, now: int) -> None:
        self.runs.now = now

    # --- facts go up -------------------------------------------------------------------------------------------------

    def route(self, fact: facts.Fact) -> None:
        """Have whoever it concerns act on a fact. Every kind of `Fact` is here, and nowhere else."""
        match fact:
            case facts.MessageArrived(change, sent):
                self.arrivals.message(change, sent)
            case facts.RunStarted(change, created):
                self.arrivals.created(change, created)
            case facts.ChildEntered(parent, change, created):
                self.arrivals.entered(parent, change, created)
            case facts.RunsWoken(keys):
                self._woken(keys)
            case facts.CancelArrived(record):
                self.arrivals.cancel(record)
            case facts.CancelsArrived(keys):
                self.arrivals.cancel_all(keys)
            case facts.TerminationArrived(change, done):
                self.arrivals.terminated(change, done)
            case facts.PausesArrived(keys):
                self.arrivals.pause(keys)
            case facts.PausesEnded(keys):
                self._unpaused(keys)
            case facts.ValuePublished() | facts.StreamGrew() | facts.UpdateEnded():
                self.runs.effects.append(fact)
            case facts.PromiseTouched(key, op):
                self.arrivals.answer(key, op)
            case facts.OperationPutOff(run, operation):
                self._reopen(run, operation)
            case facts.SuccessorBegan(succeeded):
                self.arrivals.began_again(succeeded)
            case facts.LateEnd(over, parent, woken):
                self.arrivals.late_end(over, parent, woken)
            case facts.WatchedRunOver(run):
                self._look_again(run)
            case facts.TransactionDue(run, attempts):
                self._transact(run, attempts)
            case facts.RunYielded(run):
                self._go_on(run)
            case facts.RunsBegun(started):
                self._begin(started)
            case facts.RunsTaken(keys, number):
                self._load(keys, number)
            case facts.NotesRemoved(keys):
                self.inbox.read(keys)
            case facts.NotesLeft():
                self.take_mail()
            case facts.ScheduleTouched():
                self.schedules.touched()
            case facts.TicksDue():
                self._ticks.give_some()
            case _:
                assert_never(fact)

    def release(self, works: Sequence[UnitOfWork], outcomes: Sequence[Outcome]) -> Iterator[None]:
        """Release what committed works led to, or forget those that were refused: see `arriving.outcomes`.

        Yields after each work that may have effects, so that they are carried out before those of the next.
        """
        for fact in self.outcomes.told(works, outcomes):
            self.route(fact)
        self.arrivals.carry_on_entered()
        steps = self.batch.steps
        pairs = iter(zip(works, outcomes, strict=True))
        for work, outcome in pairs:
            if work.rare is None and isinstance(outcome, list):
                # What `Outcomes.released` does for such a work, without a generator for each step.
                for attempts in work.steps:
                    if attempts.wanted:
                        steps.append(attempts)
            else:
                try:
                    for fact in self.outcomes.released(work, outcome):
                        self.route(fact)
                except Exception:
                    # The engine stops; whoever waits for these, or for the rest of this one, is told so.
                    self.batch.put_back([work, *(left for left, _ in pairs)])
                    raise
                yield

    def take_effects(self) -> list[Effect]:
        """Return what is to be done outside the worker since the last call, in order."""
        effects, self.runs.effects = self.runs.effects, []
        return effects

    def _go_on(self, run: LoadedRun) -> None:
        if self._is_loaded(run):
            self.carrier.carry_on(run, self.batch.work_of(run))

    def _look_again(self, run: LoadedRun) -> None:
        if self._is_loaded(run):
            self.inbox.look_again(run)

    def _transact(self, run: LoadedRun, attempts: StepCall) -> None:
        if attempts.wanted and run.key in self.memory:
            self.batch.work_of(run).extra.transactions.append((run, attempts))

    def _woken(self, keys: Sequence[int]) -> None:
        for key in keys:
            self.claims.woken(key)

    def _unpaused(self, keys: Sequence[int]) -> None:
        for key in keys:
            self.inbox.unpause(key)
        self.claims.work_may_exist = True
        self.scheduler.look()

    def _is_loaded(self, run: LoadedRun) -> bool:
        return self.memory.runs.get(run.key) is run

    def _reopen(self, run: LoadedRun, operation: Operation) -> None:
        if self._is_loaded(run):
            if operation.number in run.execution.pending:
                run.execution.issued.append(operation)
            self.carrier.carry_on(run, self.batch.work_of(run))

    def _load(self, keys: Sequence[int], number: int) -> None:
        """Load so many of these runs, and the others later: what the first have to do must not wait for all.

        The steps of those that are loaded begin before the others are read.
        """
        some, others = keys[:number], keys[number:]
        replayed = self.loader.load(some)
        self.runs.effects.append(TookOn(replayed))
        # At once: by the next turn what was due could have left memory again, for ever.
        self._timers.advance(self.runs.now)
        if others:
            number = max(1, len(some) * _REPLAYED_AT_ONCE // (replayed + len(some)))
            self.runs.later(facts.RunsTaken(list(others), number))

    def take_mail(self) -> None:
        """Look at what arrived for runs of this worker, and take up those that others made its own; an event."""
        given = self.inbox.take()
        if given:
            self._load(given, len(given))
            self.inbox.given(given)

    def started_outside(self, started: list[tuple[RunCreated, int]]) -> None:
        """Bring runs to life that a transaction of the user's started, with what has been sent to them since."""
        self.runs.claiming.update(key for _, key in started)
        if len(started) > LEAST:
            self.runs.later(facts.RunsBegun(started))
        else:
            self._begin(started)

    def _begin(self, started: list[tuple[RunCreated, int]]) -> None:
        """Begin some of these runs, and the others later, as `_load` does."""
        some, others = started[:_REPLAYED_AT_ONCE], started[_REPLAYED_AT_ONCE:]
        self.loader.begin_started(some)
        self.runs.effects.append(TookOn(len(some)))
        self._timers.advance(self.runs.now)
        if others:
            self.runs.later(facts.RunsBegun(others))

    def steps_finished(self, ended: Iterable[StepCall]) -> None:
        """Take the ends of attempts."""
        step_finished = self.steps.finished
        for attempts in ended:
            try:
                step_finished(attempts)
            except StoreError:  # see `Carrier.carry_on`
                raise
            except Exception as error:  # noqa: BLE001 - one run's defect must not stop the others
                _log.critical(
                    "run %r: the engine failed to handle the end of step %r; the run is halted",
                    attempts.run_id,
                    attempts.name,
                    exc_info=error,
                    extra=attempt_fields(attempts),
                )
                self.halt_broken(attempts.run_key, error)

    # --- coming and going --------------------------------------------------------------------------------------------

    def show_long_steps(self, attempts: Iterable[StepCall]) -> None:
        """Record that these attempts are under way, so that someone who reads the file sees them."""
        for attempt in attempts:
            run = self.memory.runs.get(attempt.run_key)
            if run is not None and attempt.wanted and not attempt.visible:
                attempt.visible = True
                self.batch.work_of(run).changes.append(self._dispatch.started_entry(attempt))
                run.entries += 1

    def evict(self) -> None:
        """Let the waiting runs beyond the limit leave memory, least recently used first; call it after a commit.

        While the engine drains, all of them leave: others can carry them on at once.
        """
        runs = self.runs
        parked = self.memory.beyond(0, None) if runs.draining else self.memory.beyond(runs.limits.waiting, runs.now)
        for run in parked:
            self.progress.leave(run)
            self._letting_go.forget(run)
            if run.queue is not None:
                self.runs.queue_touched(run.queue)
        if parked:
            self.claims.release(parked)

    def hand_over(self, attempts: Iterable[StepCall]) -> None:
        """Leave runs whose next steps are not executed here any more to other workers; an event.

        A run with other steps under way stays until they have ended.
        """
        for key, number in Counter(attempt.run_key for attempt in attempts).items():
            run = self.memory.runs.get(key)
            if run is not None and run.active == number and run.can_leave():
                self._letting_go.forget(run)
                move = RunMoved.left if run.pausing is None else RunMoved.paused
                self.batch.lone_work().changes.append(move(key, self.runs.now))

    def let_go(self, run: LoadedRun) -> UnitOfWork:
        """Take a run that rests out of memory, since somebody changes its journal; return what that needs written."""
        return self._letting_go.let_go(run, [])

    def halt_broken(self, key: int, error: Exception) -> None:
        """Halt a run whose event the engine failed to handle."""
        self._letting_go.halt_broken(key, error)

    def lose_everything(self, works: Iterable[UnitOfWork], error: ClaimLost) -> list[UnitOfWork]:
        """Forget all runs, because they are not this worker's any more; return the works that can be written anew."""
        kept = self.outcomes.drop(works, error)
        self.carrier.ends.clear()
        self.close()
        return kept

    def close(self) -> None:
        """Drop every run from memory, without letting any of them act."""
        for run in list(self.memory.runs.values()):
            self._letting_go.forget(run)
