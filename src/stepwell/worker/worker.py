"""The worker: which runs are in memory, what reaches them, what becomes of it.

Every method that takes an event turns it into a `UnitOfWork`, by way of the `Activator`. The turn loop collects those
of a batch, commits them in one transaction, and hands the results to `outcomes`, which releases the effects. `claims`
takes runs and gives them back, `loader` reads them, `unstarted` ends those that nobody has begun, `turns` decides about
queues, `inbox` hands over what other workers wrote.

No clock (`now` is set by the engine), no threads, no I/O but reads of the store.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import Limit, Queue
from stepwell.definitions.step_call import StepCall
from stepwell.errors import ClaimLost, StoreError
from stepwell.model.journal import Entry, Payload
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import RunRecord
from stepwell.replay.loop_thread import LoopThread
from stepwell.replay.operation import Operation
from stepwell.store.changes import Created, MessageSent, RunCreated, RunMoved, Sent
from stepwell.store.inspector import Inspector
from stepwell.values.codec import Codec
from stepwell.worker.activation import DEADLINE_REASON, Activator
from stepwell.worker.child_ids import ChildIds
from stepwell.worker.claims import Capacity, Claims
from stepwell.worker.commit_batch import CommitBatch
from stepwell.worker.failure_log import failed_unheard, run_fields
from stepwell.worker.inbox import Inbox
from stepwell.worker.loaded_run import LoadedRun
from stepwell.worker.loader import Loader
from stepwell.worker.outcomes import Outcomes
from stepwell.worker.queue_policy import refusal_of
from stepwell.worker.queue_scheduler import QueueScheduler
from stepwell.worker.run_cache import RunCache
from stepwell.worker.spinning import Spinning
from stepwell.worker.step_outcomes import StepOutcomes
from stepwell.worker.unit_of_work import Outside, RunOver, UnitOfWork
from stepwell.worker.unstarted import Unstarted

_log: Final = logging.getLogger("stepwell")

#: How many runs are loaded first where many are to be, and how many entries are then replayed in one event, as near as
#: can be told beforehand: some milliseconds. The steps of those that are loaded begin before the others are read.
_FIRST_LOADED: Final = 4
_REPLAYED_AT_ONCE: Final = 250


class Worker:
    """The runs of one engine. Not thread-safe: the engine's thread owns it."""

    def __init__(
        self,
        inspector: Inspector,
        codec: Codec,
        workflows: Mapping[str, Workflow[..., Any]],
        outside: Outside,
        limits: Capacity,
        chance: Callable[[], float],
        *,
        takes_work: bool = True,
        flows: Mapping[str, Queue | Limit] = MappingProxyType({}),
        queues: frozenset[str] | None = None,
    ) -> None:
        self.now = 0
        self.ahead = 0  # how much later engine time is than the wall clock: see `stepwell.model.clock`
        self.epoch = 0
        self.codec = codec
        self._inspector = inspector
        self._workflows = workflows
        self._outside = outside
        self._limits = limits
        self.activator = Activator(self)
        self._steps = StepOutcomes(self.activator, codec, chance)
        self.loops = LoopThread()
        self.memory = RunCache()
        self.unstarted = Unstarted(self, inspector, takes_work=takes_work)
        self.claims = Claims(self, inspector, workflows, limits, takes_work=takes_work)
        self.loader = Loader(self, self.claims, inspector, workflows, limits.crashes)
        self.batch = CommitBatch()
        self.child_ids = ChildIds(inspector, self.batch)
        self.turns = QueueScheduler(self, inspector, workflows, flows, queues, takes_work=takes_work)
        self.outcomes = Outcomes(self, inspector, self._steps, outside)
        self.inbox = Inbox(self, inspector, outside)
        self.spinning = Spinning(self, outside)
        self._told: list[
            tuple[LoadedRun, Entry | None]
        ] = []  # runs that were told of children, and who was refused one
        self._ends: list[tuple[int, int, RunOver]] = []  # ends to deliver within the work under way
        self.draining = False

    # --- carrying runs on ------------------------------------------------------------------------------------------

    def lose_everything(self, works: Iterable[UnitOfWork], error: ClaimLost) -> list[UnitOfWork]:
        """Forget all runs, because they are not this worker's any more; return the works that can be written anew."""
        kept = self.outcomes.drop(works, error)
        self._ends.clear()
        self.close()
        return kept

    def halt_broken(self, key: int, error: Exception) -> None:
        """Halt a run whose event the engine failed to handle."""
        self.outcomes.halt_broken(key, error)

    def halt_unread(self, key: int, error: Exception) -> None:
        """Halt a run of this worker's that is not in memory."""
        self.outcomes.halt_unread(key, error)

    def load_soon(self, keys: Sequence[int]) -> None:
        """Bring runs of this worker's to memory in an event of their own."""
        self._outside.later(partial(self._load_now, keys, _FIRST_LOADED))

    def _load_now(self, keys: Sequence[int], number: int) -> None:
        """Load so many of these runs, and the others later: what the first have to do must not wait for all."""
        some, others = keys[:number], keys[number:]
        replayed = self.loader.load(some)
        self._outside.took_on(replayed)
        # At once: by the next turn what was due could have left memory again, for ever.
        self._fire_due()
        if others:
            number = max(1, len(some) * _REPLAYED_AT_ONCE // (replayed + len(some)))
            self._outside.later(partial(self._load_now, others, number))

    def settle_run(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Carry a run on until it waits, and tell whoever waits for runs that ended on the way."""
        try:
            self.activator.settle(run, work)
        except StoreError:  # of the disk, not of the run: the engine stops, as it does wherever else it cannot read
            raise
        except Exception as error:  # noqa: BLE001 - one run's defect must not stop the others
            fields = run_fields(run.id, run.execution.definition.name)
            _log.critical("run %r: the engine failed to handle it; it is halted", run.id, exc_info=error, extra=fields)
            self.halt_broken(run.key, error)
        if self._ends:
            self.deliver_ends(work)

    def deliver_ends(self, work: UnitOfWork) -> None:
        """Tell the watchers of runs that ended within this work, and theirs in turn."""
        while self._ends:
            key, number, over = self._ends.pop()
            watcher = self.memory.runs.get(key)
            operation = watcher.execution.pending.get(number) if watcher is not None else None
            if watcher is None or (operation is None and watcher.status != "waiting"):
                continue
            self.batch.join(watcher, work)
            watcher.was_made_due()
            if operation is not None:
                self.activator.deliver(watcher, self.activator.result_entry(watcher, operation, over), work)
            self.activator.settle(watcher, work)

    def deliver_cancel(self, run: LoadedRun, reason: str | None, work: UnitOfWork) -> None:
        """Tell a run that it is cancelled, once."""
        if run.finished:
            return
        run.was_made_due()
        if not run.cancelling:
            run.cancelling = True
            run.cancel_reason = reason
            self.activator.deliver(run, Entry(run.key, 0, "cancel", reason or "", 0, self.now), work)
        self.settle_run(run, work)

    # --- time ----------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Deliver everything that is due at `now`."""
        if self.memory.parked_due is not None and self.memory.parked_due <= self.now:
            self.claims.look()
        self.turns.advance()
        self._fire_due()

    def next_due(self) -> int | None:
        """Return when the worker has something to do, though nothing happens until then; None: never."""
        due, decision_at = self.memory.next_due(), self.turns.next_at()
        return decision_at if due is None or (decision_at is not None and decision_at < due) else due

    def _fire_due(self) -> None:
        while (run := self.memory.pop_due(self.now)) is not None:
            self._fire(run)

    def _fire(self, run: LoadedRun) -> None:
        work = self.batch.work_of(run)
        if run.deadline_at is not None and run.deadline_at <= self.now and not run.cancelling:
            self.deliver_cancel(run, DEADLINE_REASON, work)
        while not run.finished and run.status != "halted":
            due = run.pop_due(self.now)
            if not due:
                break
            timers: list[Operation] = []
            for operation in map(run.execution.pending.__getitem__, due):
                if operation.kind == "timer":
                    timers.append(operation)
                else:
                    self.activator.dispatch(run, run.calls[operation.number], work)
            for place, operation in enumerate(timers, 1):
                entry = self.activator.entry(run, operation, "timer")
                self.activator.deliver(run, entry, work, more=place < len(timers))
            self.settle_run(run, work)
        self.spinning.look(run)
        if not run.finished and run.armed is None and run.key in self.memory:
            self.memory.arm(run)

    # --- steps ---------------------------------------------------------------------------------------------------

    def step_finished(self, attempts: StepCall) -> None:
        """Record how an attempt ended, and carry the run on."""
        run = self.memory.runs.get(attempts.run_key)
        number = attempts.operation
        if run is None or not attempts.wanted or run.calls.get(number) is not attempts:
            failed_unheard(attempts)
            taken_up = run is not None and number in run.calls  # by another attempt, which has the permit now
            if attempts.permit == "left" or (attempts.permit is not None and not taken_up):
                self.activator.permits.over(attempts, self.batch.lone_work())
            return
        work: UnitOfWork = run.work or self.batch.work_of(run)
        if attempts.error is None and attempts.refused is None:
            run.active -= 1
            del run.calls[number]
            entry = Entry(
                attempts.run_key,
                number,
                "step",
                attempts.name,
                attempts.fingerprint,
                self.now,
                attempts.value,
                attempts.attempt,
                attempts.started_at,
            )
            work.changes.append(entry)
            if attempts.permit is not None:
                self.activator.permits.give_back(attempts, work)
            run.execution.deliver(entry)
        else:
            self._steps.failed(run, attempts, work, self.now)
            if run.status == "halted":
                return
        self.activator.settle(run, work)
        if run.suspect:
            self.claims.work_may_exist = True  # it makes progress, so the next suspect may be taken
        if self._ends:
            self.deliver_ends(work)

    def thread_over(self, attempts: StepCall, attempt: int) -> None:
        """Free the permit of an attempt that timed out, whose thread has ended now; an event."""
        self.permit_free(attempts, attempt)

    def permit_free(self, attempts: StepCall, attempt: int) -> None:
        """Free the permit that an attempt was left with."""
        self.activator.permits.free(attempts, attempt, self.batch.lone_work())

    def transaction_due(self, run: LoadedRun, attempts: StepCall) -> None:
        """Give a transactional step a unit whose body calls it."""
        if not attempts.wanted or run.key not in self.memory:
            return
        self.batch.work_of(run).extra.transactions.append((run, attempts))

    def show_long_steps(self, attempts: Iterable[StepCall]) -> None:
        """Record that these attempts are under way, so that someone who reads the file sees them."""
        for attempt in attempts:
            run = self.memory.runs.get(attempt.run_key)
            if run is not None and attempt.wanted and not attempt.visible:
                attempt.visible = True
                self.batch.work_of(run).changes.append(self.activator.started_entry(attempt))

    # --- queues and limits (see `stepwell.worker.queue_scheduler.Owner`, `stepwell.worker.permits.PermitDesk`) --------

    def room(self) -> int:
        """Return how many more runs the worker may have under way; those that were claimed need theirs already."""
        return self._limits.running - self.memory.running() - len(self.claims.claiming)

    def runs_taken(self, keys: list[int]) -> None:
        """Bring runs to memory that were taken from a queue."""
        self.claims.claiming.update(keys)
        self.load_soon(keys)

    def declare(self, name: str, work: UnitOfWork) -> None:
        """Make a queue known to the file in the same unit that needs it."""
        self.turns.declare(name, work)

    def queue_touched(self, queue: str) -> None:
        """Decide about a queue in the commit under way, because a run enters or leaves it."""
        self.turns.touch(queue)

    def limit_touched(self, limit: str) -> None:
        """Decide about a limit in the commit under way, because a permit of it comes free."""
        self.turns.touch_limit(limit)

    def permit_asked(self, run: LoadedRun, attempts: StepCall, limit: str, work: UnitOfWork) -> None:
        """Decide about a permit in the commit under way; make the limit known to the file before it is asked for."""
        self.turns.declare(limit, work)
        self.turns.ask(run, attempts, limit)

    # --- coming and going ----------------------------------------------------------------------------------------

    def forget(self, run: LoadedRun, left: UnitOfWork | None = None) -> None:
        """Take a run out of memory; the file stands as it is. In `left`, attempts that go on keep their permits."""
        self.memory.remove(run)
        dropped = [attempts for attempts in run.calls.values() if attempts.retry_at is None]
        for attempts in dropped:
            attempts.wanted = False
            if left is not None:
                self.activator.permits.leave(attempts, left)
            attempts.permit = "left" if attempts.permit == "left" else None
        if dropped:
            self._outside.drop_steps(dropped)
        run.execution.close()

    def evict(self) -> None:
        """Let the waiting runs beyond the limit leave memory, least recently used first; call it after a commit.

        While the engine drains, all of them leave: others can carry them on at once.
        """
        parked = self.memory.beyond(0 if self.draining else self._limits.waiting)
        for run in parked:
            self.forget(run)
            if run.queue is not None:
                self.turns.touch(run.queue)
        if parked:
            self.claims.release(parked)

    def hand_over(self, attempts: Iterable[StepCall]) -> None:
        """Leave runs whose next steps are not executed here any more to other workers; an event.

        A run with other steps under way stays until they have ended.
        """
        for key, number in Counter(attempt.run_key for attempt in attempts).items():
            run = self.memory.runs.get(key)
            if run is not None and run.active == number and run.can_leave():
                self.forget(run)
                self.batch.lone_work().changes.append(RunMoved(key, "pending", self.now))

    def close(self) -> None:
        """Drop every run from memory, without letting any of them act."""
        for run in list(self.memory.runs.values()):
            self.forget(run)

    # --- what the activator asks (see `stepwell.worker.runs.Runs`) --------------------------------------------------

    def resident(self, run_id: str) -> LoadedRun | None:
        """Return a run that is in memory and has not ended."""
        return self.memory.by_id(run_id)

    def find(self, run_id: str) -> RunRecord | None:
        """Read a run from the store, as it will be once the batch is committed."""
        record = self._inspector.run_by_id(run_id)
        over = self.batch.ending.get(record.key) if record is not None else None
        if record is None or over is None:
            return record
        return replace(record, status=over.status, result=over.result, error=over.error, reason=over.reason)

    def is_ending(self, run_id: str) -> bool:
        """Tell whether a run's end is part of the batch under way: it may still be refused."""
        if not self.batch.ending:
            return False
        record = self._inspector.run_by_id(run_id)
        return record is not None and record.key in self.batch.ending

    def being_created(self, run_id: str) -> RunCreated | None:
        """Return the change of the batch under way that creates this run, or None."""
        return self.batch.creating.get(run_id)

    def creating(self, change: RunCreated) -> None:
        """Note that the batch under way creates a run, for `being_created`."""
        self.batch.creating[change.id] = change

    def admits(self, workflow: str) -> bool:
        """Tell whether a new run of this workflow may run at once."""
        return workflow in self._workflows and self.memory.running() < self._limits.running and not self.draining

    def watch(self, run_id: str, watcher: int, operation: int) -> None:
        """Have the end of a run delivered to an operation of another."""
        self.memory.watch(run_id, watcher, operation)

    def child_created(self, change: RunCreated, created: Created) -> None:
        """Bring a new run to life."""
        if created.existing is not None:
            return
        if change.status == "pending" and change.deadline_at is not None:
            self.unstarted.expect_deadline(change.deadline_at)
        if change.entry is not None:
            self.turns.touch(change.entry.queue)
            return
        definition = self._workflows.get(change.workflow)
        if change.status != "running" or definition is None:
            self.claims.work_may_exist = True
            return
        self.loader.begin(change, created.key, definition)

    def queued_child_created(self, run: LoadedRun, change: RunCreated, created: Created) -> None:
        """Tell a run which child it has in a queue, or why it has none; `settle_told` must follow.

        The journal has what one commit told a run in one piece, so the run must not go on in between.
        """
        run.unsettled -= 1
        if self.memory.runs.get(run.key) is not run:
            return
        operation = run.execution.pending.get(change.parent_op or 0)
        refused: Entry | None = None
        if change.told is not None and operation is not None:
            refusal = refusal_of(change, created)
            if refusal is None:
                run_id = change.id if created.existing is None else created.existing.id
                run.execution.deliver(replace(change.told, value=self.codec.encode(run_id, "an id")))
            else:
                refused = self.activator.entry(run, operation, "child_failed", self.codec.encode_failure(refusal))
        self._told.append((run, refused))

    def settle_told(self) -> None:
        """Carry on the runs that were told which children they have."""
        told, self._told = self._told, []
        for run, refused in told:
            if self.memory.runs.get(run.key) is not run:
                continue
            work = self.batch.work_of(run)
            if refused is not None and refused.op in run.execution.pending:
                self.activator.deliver(run, refused, work)
            self.settle_run(run, work)

    def message_committed(self, change: MessageSent, sent: Sent) -> None:
        """Hand a message to its receiver."""
        run = self.memory.runs.get(sent.run)
        if run is None:
            if sent.position and sent.status == "waiting":
                self.claims.claim([sent.run])
            return
        left = run.sending.get(change.name, 0) - 1
        if left > 0:
            run.sending[change.name] = left
        else:
            run.sending.pop(change.name, None)
        if sent.position:
            run.put_message(change.name, change.value, sent.position, change.at)
            run.was_made_due()
            self.settle_run(run, self.batch.work_of(run))

    def message_sent_outside(self, change: MessageSent, sent: Sent) -> None:
        """Hand over a message that a transaction of the user's sent, unless it was read from the store meanwhile.

        The event is queued before the transaction lets go of the writers' lock. So no other commit comes between the
        two, and a run that got the message from the store is still the same in memory.
        """
        run = self.memory.runs.get(sent.run)
        if run is None:
            self.message_committed(change, sent)
        elif sent.position and sent.position not in run.loaded_messages:
            run.put_message(change.name, change.value, sent.position, change.at)
            run.was_made_due()
            self.settle_run(run, self.batch.work_of(run))

    def started_outside(self, keys: Sequence[int]) -> None:
        """Bring runs to life that a transaction of the user's started, with what others have sent them since."""
        self.claims.claiming.update(keys)
        self._load_now(keys, _REPLAYED_AT_ONCE)

    def cancel_committed(self, record: RunRecord) -> None:
        """Deliver a cancellation."""
        if record.status in ENDED:
            return
        run = self.memory.runs.get(record.key)
        if run is not None:
            self.deliver_cancel(run, record.cancel_reason, self.batch.work_of(run))
        elif record.status == "halted" or (record.status == "pending" and (record.queued or record.started_at is None)):
            self.unstarted.cancel(record, self.batch.lone_work())
        elif record.owner is None or record.owner == self.epoch:
            self.claims.claim([record.key])

    def children_cancelled(self, keys: list[int]) -> None:
        """Deliver cancellations to children."""
        for key in keys or ():
            record = self._inspector.run_by_key(key)
            if record is not None:
                self.cancel_committed(record)

    def publish_committed(self, run: int, key: str, value: Payload) -> None:
        """Tell those who wait for a value."""
        self._outside.published(run, key, value)

    def ended(self, run: LoadedRun, over: RunOver, work: UnitOfWork) -> None:
        """Drop an ended run from memory and tell its watchers, within the same unit."""
        run.finished = True
        if run.queue is not None:
            self.turns.touch(run.queue)
        self.batch.ending[run.key] = over
        self.forget(run)
        self.tell_watchers(run.id, run.parent, over, work)

    def tell_watchers(self, run_id: str, parent: int | None, over: RunOver, work: UnitOfWork) -> None:
        """Note who is to hear of a run's end; `deliver_ends` tells them."""
        watchers = self.memory.pop_watchers(run_id)
        if parent is not None and parent not in self.memory:
            self.activator.wake_absent(parent, work)
        elif parent is not None and all(key != parent for key, _ in watchers):
            watchers.append((parent, 0))  # the end makes it due in the store, though it waits for something else
        self._ends += [(key, operation, over) for key, operation in watchers]

    def restart(self, run: LoadedRun) -> None:
        """Start the run's code anew, on greenlets."""
        self.loader.restart(run)

    def halted(self, run: LoadedRun) -> None:
        """Drop a halted run from memory."""
        self.forget(run)

    def resting(self, run: LoadedRun) -> None:
        """Note the run's next due time, and whether it may leave memory."""
        self.memory.rest(run)

    def resume_soon(self, run: LoadedRun) -> None:
        """Carry the run on, as an event of its own."""
        self._outside.later(lambda: self._resume(run))

    def _resume(self, run: LoadedRun) -> None:
        if self.memory.runs.get(run.key) is run:
            self.settle_run(run, self.batch.work_of(run))

    def spins(self, run: LoadedRun) -> None:
        """Take note that a run goes round without waiting, or does not any more."""
        self.spinning.rest(run)

    def reopen(self, run: LoadedRun, operation: Operation) -> None:
        """Open an operation again, after the commit."""
        if self.memory.runs.get(run.key) is run:
            if operation.number in run.execution.pending:
                run.execution.issued.append(operation)
            self._resume(run)

    def woken(self, key: int) -> None:
        """Bring a run that is not in memory back, if nobody else has it."""
        if key not in self.memory:
            self.claims.claim([key])

    def ended_meanwhile(self, run: LoadedRun) -> None:
        """Look whether what a run waits for has come about elsewhere."""
        if self.memory.runs.get(run.key) is run:
            self.inbox.look_again(run)
