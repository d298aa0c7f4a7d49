"""Bringing runs to memory: new ones, and those that the store holds, by replaying their journals."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.errors import RunCrashed, StoreError
from stepwell.model.journal import Entry
from stepwell.model.run import RunRecord, RunSnapshot
from stepwell.replay.blocking import mentions_blocking_calls
from stepwell.replay.execution import Execution
from stepwell.replay.loop_thread import LoopThread
from stepwell.store.changes import RunCreated
from stepwell.store.inspector import Inspector
from stepwell.store.queues import PermitReturned
from stepwell.values.codec import Codec
from stepwell.worker.claims import Claims
from stepwell.worker.commit_batch import CommitBatch
from stepwell.worker.failure_log import run_fields
from stepwell.worker.loaded_run import LoadedRun
from stepwell.worker.parked import waits_for_nothing
from stepwell.worker.run_cache import RunCache
from stepwell.worker.step_outcomes import attempt_history
from stepwell.worker.unit_of_work import UnitOfWork
from stepwell.worker.unstarted import Unstarted

_log: Final = logging.getLogger("stepwell")

#: How many runs are read from the store at a time.
_READ_AT_ONCE: Final = 500


class Owner(Protocol):
    """The worker, as far as loading needs it."""

    now: int
    epoch: int
    codec: Codec
    loops: LoopThread
    memory: RunCache
    batch: CommitBatch
    unstarted: Unstarted

    def settle_run(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Carry a run on until it waits."""
        ...

    def halt_broken(self, key: int, error: Exception) -> None:
        """Halt a run that the engine failed to handle."""
        ...

    def halt_unread(self, key: int, error: Exception) -> None:
        """Halt a run of this worker's that is not in memory."""
        ...

    def limit_touched(self, limit: str) -> None:
        """Decide about a limit in the commit under way, because a permit of it comes free."""
        ...

    def deliver_cancel(self, run: LoadedRun, reason: str | None, work: UnitOfWork) -> None:
        """Tell a run that it is cancelled."""
        ...


class Loader:
    """Makes loaded runs out of what the store holds. Acts for one worker, whose batch and memory it fills.

    A run that killed workers `crashes` times in a row is given up.
    """

    def __init__(
        self,
        worker: Owner,
        claims: Claims,
        inspector: Inspector,
        workflows: Mapping[str, Workflow[..., Any]],
        crashes: int,
    ) -> None:
        self._worker = worker
        self._claims = claims
        self._inspector = inspector
        self._workflows = workflows
        self._crashes = crashes
        self._greenlets: dict[str, tuple[Workflow[..., Any], bool]] = {}

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

    def load(self, keys: Sequence[int]) -> int:
        """Bring runs to memory, by replaying their journals; return how many entries that were."""
        worker, replayed = self._worker, 0
        wanted = self._claims.claimed(keys)
        for at in range(0, len(wanted), _READ_AT_ONCE):
            for snapshot in self._inspector.load(wanted[at : at + _READ_AT_ONCE]):
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
        halted_before = self._claims.halted.pop(record.key, None)
        if record.owner != worker.epoch or worker.memory.by_id(record.id) is not None:
            return  # it ended meanwhile, or this worker was fenced: then it is another one's
        if record.suspect:
            self._claims.suspects.add(record.key)
        if record.crashes >= self._crashes:
            self._give_up(record)
            return
        definition = self._workflows.get(record.workflow)
        if definition is None:
            worker.unstarted.leave_pending(record)
            return
        record = self._with_items(snapshot)
        execution = self._execution(record, definition)
        run = LoadedRun(record, execution)
        run.halted_before = halted_before
        worker.memory.enter(run)
        work = worker.batch.work_of(run)
        run.suspect = record.suspect
        run.permits = {permit.op: permit for permit in snapshot.permits}
        run.history = attempt_history(self._worker.codec, snapshot.entries)
        execution.replay(snapshot.entries)
        if record.waiting_on is not None:  # so the log had been told of tasks that failed by then
            execution.loop.unretrieved(held=waits_for_nothing(record.waiting_on))
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

    def _give_up(self, record: RunRecord) -> None:
        """Halt a run that is not to be tried again by itself."""
        error = RunCrashed(
            f"run {record.id!r} was under way, and made no progress, each of the last {record.crashes} times that its "
            "worker died, so it is not carried on by itself any more. Find out what kills the process (memory, a crash "
            "in a library: look at the worker's exit code), then resume the run"
        )
        self._worker.halt_unread(record.key, error)

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
