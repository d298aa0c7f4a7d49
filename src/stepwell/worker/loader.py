"""Bringing runs to memory: new ones, and those that the store holds, by replaying their journals."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.errors import ClaimLost, RunCrashed, RunDeadlineExceeded, RunNotFound, StoreError
from stepwell.model.clock import MICROSECONDS
from stepwell.model.journal import Entry
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import RunRecord, RunSnapshot
from stepwell.replay.blocking import mentions_blocking_calls
from stepwell.replay.execution import Execution
from stepwell.replay.loop_thread import LoopThread
from stepwell.store.inspector import Inspector
from stepwell.store.queues import PermitReturned
from stepwell.store.store import (
    SUSPECT_CRASHES,
    RunCreated,
    RunMoved,
    RunsClaimed,
    RunsReleased,
    WorkerServes,
    WorkTaken,
)
from stepwell.values.codec import Codec
from stepwell.values.failure import encode_failure
from stepwell.worker.activation import Activator
from stepwell.worker.commit_batch import CommitBatch
from stepwell.worker.failure_log import run_fields, run_over
from stepwell.worker.loaded_run import LoadedRun
from stepwell.worker.run_cache import RunCache
from stepwell.worker.step_outcomes import attempt_history
from stepwell.worker.unit_of_work import RunOver, UnitOfWork

_log: Final = logging.getLogger("stepwell")

#: How many runs are read from the store at a time.
_LOAD_CHUNK: Final = 500
#: After how many microseconds runs that could not be ended at their deadlines are looked at again: a second.
_AGAIN: Final = MICROSECONDS


class Capacity(NamedTuple):
    """How much the worker keeps in memory, and how much it bears.

    `running` runs at once, and `waiting` ones beside them; a run that killed workers `crashes` times in a row is given
    up.
    """

    running: int = 10_000
    waiting: int = 1_000
    crashes: int = 5


class Owner(Protocol):
    """The worker, as far as loading needs it."""

    now: int
    epoch: int
    codec: Codec
    loops: LoopThread
    memory: RunCache
    batch: CommitBatch
    activator: Activator
    draining: bool

    def settle_run(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Carry a run on until it waits."""
        ...

    def halt_broken(self, key: int, error: Exception) -> None:
        """Halt a run that the engine failed to handle."""
        ...

    def halt_unread(self, key: int, error: Exception) -> None:
        """Halt a run of this worker's that is not in memory."""
        ...

    def load_soon(self, keys: Sequence[int]) -> None:
        """Bring runs of this worker's to memory, in an event of their own."""
        ...

    def queue_touched(self, queue: str) -> None:
        """Decide about a queue in the commit under way, because a run leaves it."""
        ...

    def limit_touched(self, limit: str) -> None:
        """Decide about a limit in the commit under way, because a permit of it comes free."""
        ...

    def deliver_cancel(self, run: LoadedRun, reason: str | None, work: UnitOfWork) -> None:
        """Tell a run that it is cancelled."""
        ...

    def tell_watchers(self, run_id: str, parent: int | None, over: RunOver, work: UnitOfWork) -> None:
        """Prepare to tell whoever waits for a run."""
        ...

    def deliver_ends(self, work: UnitOfWork) -> None:
        """Tell them, within the same work."""
        ...


class Loader:
    """Makes residents out of what the store holds. Acts for one worker, whose batch and memory it fills."""

    def __init__(
        self,
        worker: Owner,
        inspector: Inspector,
        workflows: Mapping[str, Workflow[..., Any]],
        limits: Capacity,
        *,
        takes_work: bool = True,
    ) -> None:
        self._worker = worker
        self._inspector = inspector
        self._workflows = workflows
        self._limits = limits
        self._greenlets: dict[str, tuple[Workflow[..., Any], bool]] = {}
        self.takes_work = takes_work
        self._announced = 0  # how many workflows the store was told of
        #: Whether there may be work in the store that `look` had no room for.
        self.work_may_exist = True
        self._looking = False  # a `WorkTaken` is not committed yet
        self._looked_meanwhile = False  # it was made before what is to be looked at now
        self._suspects: set[int] = set()  # the keys of those that were brought to memory
        self._releasing: set[int] = set()  # the keys of runs whose release is not committed yet
        self._wanted_back: set[int] = set()  # those of them that somebody wanted meanwhile
        self._halted: dict[int, str | None] = {}  # why, of those that are tried again without being asked for
        self._ending_overdue = False  # ends of runs at their deadlines are not committed yet
        #: The keys of runs that are about to be claimed and read.
        self.claiming: set[int] = set()

    def _execution(self, record: RunRecord, definition: Workflow[..., Any]) -> Execution:
        known = self._greenlets.get(definition.name)
        if known is None or known[0] is not definition:
            known = self._greenlets[definition.name] = (definition, mentions_blocking_calls(definition.function))
        return Execution(record, definition, self._worker.codec, greenlets=known[1], thread=self._worker.loops)

    def begin(self, change: RunCreated, key: int, definition: Workflow[..., Any]) -> None:
        """Bring a run to memory that was created just now, and start its code."""
        worker = self._worker
        record = RunRecord(
            key=key,
            id=change.id,
            workflow=change.workflow,
            status="running",
            input=change.input,
            fingerprint=change.fingerprint,
            created_at=change.at,
            updated_at=change.at,
            started_at=change.at,
            deadline_at=change.deadline_at,
            parent=change.parent,
            parent_op=change.parent_op,
            attached=change.attached,
            ahead=change.ahead,
        )
        execution = self._execution(record, definition)
        run = LoadedRun(record, execution)
        worker.memory.enter(run)
        work = worker.batch.work_of(run)
        execution.begin()
        worker.settle_run(run, work)

    def recover(self) -> None:
        """Take up what waits for a worker, try halted runs with today's code, and say which runs nobody here can run.

        An event, the first one of an engine.
        """
        worker = self._worker
        if not self.takes_work:
            return
        served = list(self._workflows)
        self.claim(self._inspector.halted(served, self._limits.crashes), unasked=True)
        for key in self._inspector.stranded(served, worker.now, _LOAD_CHUNK):
            record = self._inspector.run_facts_by_key(key)
            if record is not None:
                self._leave_pending(record)
        self.look()

    def serving(self) -> list[str]:
        """Return the workflows that this worker has; the caller tells the store."""
        self._announced = len(self._workflows)
        return list(self._workflows)

    def retry_halted(self) -> None:
        """Try halted runs again, with the code of this worker; an event."""
        if self.takes_work and not self._worker.draining:
            self.claim(self._inspector.halted(list(self._workflows), self._limits.crashes), unasked=True)

    # --- claiming: first the claim is committed, then the run is read -------------------------------------------------

    def look(self) -> None:
        """Take runs that are due, or pending, and that nobody owns, as far as there is room; an event.

        Those that were cancelled, or whose deadlines have passed, before anybody began them are ended.
        """
        worker = self._worker
        if worker.draining or not self.takes_work:
            worker.memory.parked_due = None
            return
        if len(self._workflows) != self._announced:  # a module was imported since
            worker.batch.lone_work().changes.append(WorkerServes(self.serving()))
        served = list(self._workflows)
        worker.memory.parked_due = self._inspector.next_wake(served, worker.now)
        worker.memory.parked(self._end_overdue())
        self.work_may_exist = True
        if self._looking:
            self._looked_meanwhile = True
        else:
            self._take(served)

    def admit(self) -> None:
        """Take what `look` had no room for, once there is some; call it after a commit."""
        if self._suspects:
            # Only one is taken up at a time: when it has got on, or has left memory, it is the next one's turn.
            self.work_may_exist = True
            if not self._worker.batch:
                self._suspects.intersection_update(self._worker.memory.runs)
        if self.work_may_exist and not self._looking and self.takes_work and not self._worker.draining:
            self._take(list(self._workflows))

    def _take(self, served: list[str]) -> None:
        worker = self._worker
        # What was claimed comes to memory in an event of its own: it needs its room already.
        limit = min(self._limits.running - worker.memory.running() - len(self.claiming), _LOAD_CHUNK)
        if limit <= 0:
            return
        self.work_may_exist = self._inspector.has_work(served, worker.now)
        if not self.work_may_exist:
            return
        self._looking = True
        work = worker.batch.lone_work()
        work.extra.failing.append(self._not_taken)
        work.expect(WorkTaken(served, worker.now, limit), lambda keys: self._taken(keys, limit))

    def _taken(self, keys: list[int], limit: int) -> None:
        self._looking = False
        self.work_may_exist = len(keys) == limit or self._looked_meanwhile
        self._looked_meanwhile = False
        self.claiming.update(keys)
        self._worker.load_soon(keys)

    def _not_taken(self, _value: object, _error: BaseException | None) -> None:
        self._looking = False
        self.work_may_exist = True

    def claim(self, keys: Sequence[int], *, unasked: bool = False) -> None:
        """Bring runs to memory that nobody owns; those of other workflows are left to other workers.

        `unasked`: nobody asked for just these; a halted one that is halted again for the same reason is no news then.
        """
        worker = self._worker
        if worker.draining or not self.takes_work:
            return
        wanted: list[int] = []
        for key in keys:
            if key in worker.memory or worker.batch.keeps_out(key) or key in self.claiming:
                continue
            record = self._inspector.run_facts_by_key(key)
            if record is None or record.status in ENDED or record.queued:
                continue
            if record.workflow in self._workflows:
                wanted.append(key)
                if unasked and record.status == "halted":
                    self._halted[key] = record.reason
            elif record.owner is None:
                self._leave_pending(record)
        if wanted:
            self.claiming.update(wanted)
            work = worker.batch.lone_work()
            work.extra.failing.append(lambda _value, _error: self._claimed(wanted, []))
            work.expect(RunsClaimed(wanted, worker.now), lambda keys: self._claimed(wanted, keys))

    def _claimed(self, wanted: list[int], keys: list[int]) -> None:
        missed = set(wanted).difference(keys)
        self.claiming.difference_update(missed)
        for key in missed:
            self._halted.pop(key, None)
        # Not at once: what else the commit held, messages for these runs say, must be handed out first.
        self._worker.load_soon(keys)

    def release(self, runs: Sequence[LoadedRun]) -> None:
        """Let others have waiting runs that have left memory; those that something arrived for come back."""
        worker = self._worker
        keys = [run.key for run in runs]
        due = min((run.wake_at for run in runs if run.wake_at is not None), default=None)

        def released(kept: list[int]) -> None:
            worker.memory.parked(due)  # not earlier: what is not released yet, `look` would not find
            wanted_back = self._released(keys)
            if kept:
                worker.load_soon(kept)
            self.claim([key for key in wanted_back if key not in kept])

        def not_released(_value: object, _error: BaseException | None) -> None:
            self._released(keys)
            worker.load_soon(keys)

        self._releasing.update(keys)
        work = worker.batch.lone_work()
        work.extra.failing.append(not_released)
        work.expect(RunsReleased(keys), released)

    def _released(self, keys: list[int]) -> list[int]:
        """Note that a release is settled; return the keys of the runs that were wanted back meanwhile."""
        wanted_back = [key for key in keys if key in self._wanted_back]
        self._releasing.difference_update(keys)
        self._wanted_back.difference_update(keys)
        return wanted_back

    def load(self, keys: Sequence[int]) -> int:
        """Bring runs to memory, by replaying their journals; return how many entries that were."""
        worker, replayed = self._worker, 0
        self.claiming.difference_update(keys)
        # What is about to be released is not this worker's any more when that is committed.
        self._wanted_back.update(key for key in keys if key in self._releasing)
        wanted = [key for key in keys if key not in worker.memory and not worker.batch.keeps_out(key)]
        wanted = [key for key in wanted if key not in self._releasing]
        for at in range(0, len(wanted), _LOAD_CHUNK):
            for snapshot in self._inspector.load(wanted[at : at + _LOAD_CHUNK]):
                replayed += len(snapshot.entries)
                try:
                    self._load(snapshot)
                except StoreError:  # see `Worker.settle_run`
                    raise
                except Exception as error:  # noqa: BLE001 - one run that cannot be read must not keep the others from running
                    fields = run_fields(snapshot.record.id, snapshot.record.workflow)
                    _log.critical(
                        "run %r: the engine failed to read it; it is halted",
                        snapshot.record.id,
                        exc_info=error,
                        extra=fields,
                    )
                    worker.halt_broken(snapshot.record.key, error)
        return replayed

    def _load(self, snapshot: RunSnapshot) -> None:
        worker = self._worker
        record = snapshot.record
        halted_before = self._halted.pop(record.key, None)
        if record.owner != worker.epoch or worker.memory.by_id(record.id) is not None:
            return  # it ended meanwhile, or this worker was fenced: then it is another one's
        if record.crashes >= SUSPECT_CRASHES:
            self._suspects.add(record.key)
        if record.crashes >= self._limits.crashes:
            self._give_up(record)
            return
        definition = self._workflows.get(record.workflow)
        if definition is None:
            self._leave_pending(record)
            return
        record = self._with_items(snapshot)
        execution = self._execution(record, definition)
        run = LoadedRun(record, execution)
        run.halted_before = halted_before
        worker.memory.enter(run)
        work = worker.batch.work_of(run)
        run.suspect = record.crashes >= SUSPECT_CRASHES
        run.permits = {permit.op: permit for permit in snapshot.permits}
        run.history = attempt_history(snapshot.entries)
        execution.replay(snapshot.entries)
        run.loaded_messages = frozenset(message.position for message in snapshot.messages)
        run.heard = max(run.loaded_messages, default=0)
        for message in snapshot.messages:
            run.put_message(message.name, message.value, message.position, message.sent_at)
        for entry in snapshot.entries:
            if entry.kind == "cancel":
                run.cancelling, run.cancel_reason = True, entry.name or None
            elif entry.kind == "child":
                run.has_children = True
        worker.settle_run(run, work)
        if run.permits and run.key in worker.memory:
            self._return_permits(run)
        if record.cancel_requested_at is not None and not run.cancelling and run.key in worker.memory:
            worker.deliver_cancel(run, record.cancel_reason, work)

    def _with_items(self, snapshot: RunSnapshot) -> RunRecord:
        """Return the record of a run; of one that has collected the inputs of several starts, with all of them."""
        record = snapshot.record
        if not snapshot.items:
            return record
        where = f"the input of workflow {record.workflow!r} for run {record.id!r}"
        return replace(record, input=self._worker.codec.join_arguments(snapshot.items, where))

    def _return_permits(self, run: LoadedRun) -> None:
        """Return the permits of operations that the code has given up, which a worker that died could not return."""
        worker = self._worker
        for permit in run.permits.values():
            worker.batch.work_of(run).changes.append(PermitReturned(run.key, permit.op, worker.now, worker.now))
            worker.limit_touched(permit.limit)
        run.permits = {}

    def _leave_pending(self, record: RunRecord) -> None:
        worker = self._worker
        reason = no_workflow(record.workflow)
        if record.status != "pending" or record.reason != reason:
            worker.batch.lone_work().changes.append(RunMoved(record.key, "pending", worker.now, None, reason))

    def cancel_unstarted(self, record: RunRecord, work: UnitOfWork) -> None:
        """End a run whose code has no part in it: it never ran, or is halted."""
        over = RunOver(record.key, record.id, "cancelled", None, None, record.cancel_reason)
        self._end_unheard(record, over, work)

    def _give_up(self, record: RunRecord) -> None:
        """Halt a run that is not to be tried again by itself."""
        error = RunCrashed(
            f"run {record.id!r} was under way, and made no progress, each of the last {record.crashes} times that its "
            "worker died, so it is not carried on by itself any more. Find out what kills the process (memory, a crash "
            "in a library: look at the worker's exit code), then resume the run"
        )
        self._worker.halt_unread(record.key, error)

    def _fail_unheard(self, record: RunRecord, error: BaseException, work: UnitOfWork) -> None:
        over = RunOver(record.key, record.id, "failed", None, encode_failure(error), None)
        self._end_unheard(record, over, work, error)

    def _end_unheard(
        self, record: RunRecord, over: RunOver, work: UnitOfWork, error: BaseException | None = None
    ) -> None:
        worker = self._worker
        line = run_over(record.key, record.id, record.workflow, over.status, error=error, reason=over.reason)
        work.extra.lines.append(line)
        if record.queue is not None:
            worker.queue_touched(record.queue)
        has_begun = record.started_at is not None
        worker.activator.record_end(over, work, has_children=has_begun, unstarted=not has_begun)
        worker.batch.ending[record.key] = over
        worker.tell_watchers(record.id, record.parent, over, work)
        worker.deliver_ends(work)

    # --- deadlines of runs that nobody has begun ----------------------------------------------------------------------

    def expect_deadline(self, deadline_at: int) -> None:
        """Note the deadline of a new run that nobody has begun."""
        if self.takes_work:
            self._worker.memory.parked(deadline_at)

    def _end_overdue(self) -> int | None:
        """End the runs whose deadlines passed before anybody began them; return when the next one passes.

        And those that are cancelled: who asked for that ends such a run with his next commit, if he lives.
        """
        worker = self._worker
        if self._ending_overdue:
            return None  # it is looked at again when that is committed
        due = self._inspector.next_deadline()
        if due is None or due > worker.now:
            return due
        self._ending_overdue = True
        settled: list[object] = []
        for record in self._inspector.overdue(worker.now, _LOAD_CHUNK):
            if record.key in worker.batch.ending:
                settled.append(record.key)
                continue
            work = worker.batch.lone_work()
            work.extra.after.append(partial(settled.append, record.key))
            work.extra.failing.append(lambda _value, error: settled.append(error) if _is_stale(error) else None)
            self._end_late(record, work)
        # Behind all of them, with nothing to write: it is settled in the same commit.
        last = worker.batch.lone_work()
        last.extra.after.append(lambda: self._overdue_ended(0 if settled else _AGAIN))
        last.extra.failing.append(lambda _value, _error: self._overdue_ended(_AGAIN))
        return None

    def _end_late(self, record: RunRecord, work: UnitOfWork) -> None:
        if record.cancel_requested_at is not None:
            self.cancel_unstarted(record, work)
            return
        waited = f"in queue {record.queue!r}" if record.queued else record.reason or "for a worker with room for it"
        error = RunDeadlineExceeded(
            f"run {record.id!r} did not begin before its deadline: it still waited {waited}. Nothing of it was executed"
        )
        self._fail_unheard(record, error, work)

    def _overdue_ended(self, wait: int) -> None:
        self._ending_overdue = False
        self._worker.memory.parked(self._worker.now + wait)

    def restart(self, run: LoadedRun) -> None:
        """Start the run's code anew, on greenlets, from its journal.

        What the interrupted activation led to is discarded.
        """
        worker = self._worker
        old = run.execution
        self._greenlets[old.definition.name] = (old.definition, True)
        snapshot = self._inspector.load([run.key])[0]
        uncommitted = [
            change
            for change in worker.batch.work_of(run).changes
            if isinstance(change, Entry) and change.run == run.key
        ]
        record = replace(self._with_items(snapshot), started_at=old.started_at)
        run.execution = execution = Execution(record, old.definition, worker.codec, greenlets=True, thread=worker.loops)
        execution.replay([*snapshot.entries, *uncommitted], restarted=True)
        execution.withdrawn = [*old.withdrawn, *execution.withdrawn]
        # What the old execution had asked for before the interrupted activation is under way already.
        execution.issued = [operation for operation in execution.issued if operation.number > run.opened]
        run.receivers = {
            name: deque(
                execution.pending[waiting.number] for waiting in receivers if waiting.number in execution.pending
            )
            for name, receivers in run.receivers.items()
        }
        old.close()


def _is_stale(error: BaseException | None) -> bool:
    """Tell whether a change was refused because what it was about had changed already."""
    return isinstance(error, (ClaimLost, RunNotFound))


def no_workflow(name: str) -> str:
    """Say why a run of an unknown workflow is pending."""
    return f"no worker here has the workflow {name!r}; the run waits for one that does"
