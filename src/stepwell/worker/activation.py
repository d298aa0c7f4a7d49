"""From what a run's code asked for to changes and effects.

`Activator.settle` is called after each delivery. It turns the operations that the code issued into changes (a child to
create, a message to send) and effects (a step to execute), delivers at once what needs no waiting, and in the end
writes down what state the run rests in. All of it is one unit of work, hence one commit.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from stepwell.definitions.queues import QueueSlot
from stepwell.definitions.step_call import StepCall
from stepwell.errors import (
    ResultNotSerializable,
    RunCancelled,
    RunConflict,
    RunDeadlineExceeded,
    RunEnded,
    RunHalted,
    RunNotFound,
    SerializationError,
    StepInterrupted,
    StepwellError,
)
from stepwell.model.journal import ABANDONED, Entry, EntryKind, Payload
from stepwell.model.lifecycle import ENDED, Status, check_transition
from stepwell.operations.functions import CancelDetail, MessageDetail, ValueDetail
from stepwell.replay.operation import ChildStart, CodeOutcome, Operation
from stepwell.replay.source_location import described
from stepwell.store.store import (
    CancelRequested,
    ChildrenCancelled,
    MessageSent,
    MessageTaken,
    RunCreated,
    RunFinished,
    RunMoved,
    RunWoken,
    ValuePublished,
    WatchAdded,
)
from stepwell.values.failure import encode_failure
from stepwell.worker.conflicts import conflict_with
from stepwell.worker.failure_log import attempt_failed, run_halted, run_over
from stepwell.worker.loaded_run import LoadedRun
from stepwell.worker.parked import waits_of
from stepwell.worker.permits import Permits
from stepwell.worker.queue_policy import entered
from stepwell.worker.runs import Runs
from stepwell.worker.unit_of_work import RunOver, UnitOfWork
from stepwell.worker.unrecorded import still_unrecorded

if TYPE_CHECKING:
    from stepwell.model.run import RunRecord

#: The cancellation reason that stands for the run's deadline, in the journal as well.
DEADLINE_REASON: Final = "the run's deadline has passed"

# How many deliveries one activation may make to itself (publishing in a loop, say) before it is committed and others
# get their turn.
_MAX_DELIVERIES: Final = 1000


class Activator:
    """Settles runs. Holds no state of its own; see the module."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self.permits = Permits(runs)

    # --- the loop ------------------------------------------------------------------------------------------------

    def deliver(self, run: LoadedRun, entry: Entry, work: UnitOfWork, *, more: bool = False) -> None:
        """Record an entry and hand it to the run's code; `settle` must follow. `more`: see `Execution.deliver`."""
        work.changes.append(entry)
        run.execution.deliver(entry, more=more)

    def settle(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Carry the run on until it waits for something from outside, or has ended."""
        execution = run.execution
        deliveries = 0
        while True:
            if execution.stopped:
                if execution.needs_greenlets:
                    self._runs.restart(run)
                    execution = run.execution
                    continue
                self._stopped(run, work)
                return
            if execution.issued:
                issued, execution.issued = execution.issued, []
                if run.history and not run.resumed:
                    found = still_unrecorded(issued, run.history)
                    if found is not None:
                        self.halt(run, found[0], work, step=found[1])
                        return
                run.opened = issued[-1].number
                for operation in issued:
                    if operation.number not in execution.pending:
                        continue
                    if operation.kind == "step":
                        attempts = operation.detail
                        run.calls[operation.number] = attempts
                        attempts.first_started_at = self._runs.now
                        if run.history and operation.number in run.history:
                            self._continue_step(run, operation, attempts, work)
                        else:
                            self.dispatch(run, attempts, work)
                    else:
                        self._open(run, operation, work)
            if execution.withdrawn:
                withdrawn, execution.withdrawn = execution.withdrawn, []
                for operation in withdrawn:
                    self._withdraw(run, operation, work)
            if execution.outcome is not None:
                self._finish(run, execution.outcome, work)
                return
            if not run.deliverable and not (run.receivers and run.inbox) and not execution.loop.abandoned:
                break
            entry = self._next_entry(run, work)
            if entry is None:
                break
            deliveries += 1
            self.deliver(run, entry, work)
            if deliveries >= _MAX_DELIVERIES:
                self._runs.resume_soon(run)
                break
        self._rest(run, work)

    def _next_entry(self, run: LoadedRun, work: UnitOfWork) -> Entry | None:
        if run.execution.loop.abandoned:
            number = run.execution.loop.abandoned[0]
            return Entry(run.key, 0, "timer", f"{ABANDONED}{number}", 0, self._runs.now)
        while run.deliverable:
            entry = run.deliverable.popleft()
            if entry.op in run.execution.pending:
                return entry
        if run.receivers and run.inbox:
            match = run.match_message()
            if match is not None:
                operation, message = match
                work.changes.append(MessageTaken(run.key, message.position, self._runs.now))
                return self.entry(run, operation, "message", message.value)
        return None

    def entry(self, run: LoadedRun, operation: Operation, kind: EntryKind, value: Payload = None) -> Entry:
        """Make the entry that answers an operation."""
        return Entry(run.key, operation.number, kind, operation.name, operation.fingerprint, self._runs.now, value)

    def _rest(self, run: LoadedRun, work: UnitOfWork) -> None:
        if run.execution.spins or run.spin is not None:
            self._runs.spins(run)
        spins = run.spin is not None
        due = run.next_due() if run.timers or run.deadline_at is not None or spins else None
        if run.active or run.deliverable or run.unsettled or spins:
            status: Status = "running"
            wake_at = waiting_on = None
        else:
            status, wake_at, waiting_on = "waiting", due, waits_of(run)
        if status != run.status or wake_at != run.wake_at or waiting_on != run.waiting_on:
            check_transition(run.id, run.status, status)
            work.changes.append(RunMoved(run.key, status, self._runs.now, wake_at, None, waiting_on))
            run.status, run.wake_at, run.waiting_on = status, wake_at, waiting_on
        elif status == "running" and due == run.armed:
            return
        self._runs.resting(run)

    # --- operations ----------------------------------------------------------------------------------------------

    def _open(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        match operation.kind:
            case "timer":
                run.add_timer(operation.detail, operation.number)
            case "receive":
                run.receivers.setdefault(operation.name, deque()).append(operation)
            case "publish":
                self._publish(run, operation, operation.detail, work)
            case "send":
                self._send(run, operation, work)
            case "start":
                self._start(run, operation, operation.detail, work)
            case "result":
                self._await_result(run, operation, work)
            case "patch":
                # Ahead of all others: what is committed after the code has passed it must never lack it.
                run.deliverable.appendleft(self.entry(run, operation, "patched"))
            case _:
                raise AssertionError(operation.kind)

    def _continue_step(self, run: LoadedRun, operation: Operation, attempts: StepCall, work: UnitOfWork) -> None:
        """Go on with a step that was tried before the run was read from its journal."""
        history = run.history.pop(operation.number)
        attempts.attempt = history.attempts + 1
        attempts.first_started_at = history.first_started_at or self._runs.now
        if history.started and attempts.definition.step_options.delivery == "at-most-once":
            error = StepInterrupted(
                f"step {operation.name!r} of run {run.id!r} was under way when the process died; it is delivered at "
                "most once, so it was not repeated. Find out whether it took effect, then decide in the workflow"
            )
            del run.calls[operation.number]
            work.extra.lines.append(
                attempt_failed(attempts, run.execution.definition.name, error, None, self._runs.now)
            )
            run.deliverable.append(self.entry(run, operation, "step_failed", encode_failure(error)))
        elif history.retry_at > self._runs.now:
            attempts.retry_at, attempts.last_error = history.retry_at, history.last_error
            run.add_timer(history.retry_at, operation.number)
        else:
            self.dispatch(run, attempts, work)

    def dispatch(self, run: LoadedRun, attempts: StepCall, work: UnitOfWork) -> None:
        """Have an attempt executed after the commit."""
        run.active += 1
        attempts.retry_at = None
        attempts.started_at = self._runs.now
        if attempts.definition.step_options.limit is None or self.permits.held(run, attempts, work):
            self.execute(run, attempts, work)

    def execute(self, run: LoadedRun, attempts: StepCall, work: UnitOfWork) -> None:
        """Have an attempt that needs no permit, or has it, executed after the commit."""
        definition = attempts.definition
        if definition.kind == "transaction":
            work.extra.after.append(lambda: self._runs.transaction_due(run, attempts))
            return
        if definition.step_options.delivery == "at-most-once":
            attempts.visible = True
            work.changes.append(self.started_entry(attempts))
        work.steps.append(attempts)

    def started_entry(self, attempts: StepCall) -> Entry:
        """Make the entry that shows an attempt under way."""
        return Entry(
            attempts.run_key,
            attempts.operation,
            "step_started",
            attempts.definition.name,
            attempts.fingerprint,
            self._runs.now,
            None,
            attempts.attempt,
            attempts.started_at,
        )

    def _publish(self, run: LoadedRun, operation: Operation, detail: ValueDetail, work: UnitOfWork) -> None:
        work.changes.append(ValuePublished(run.key, operation.name, detail.value, self._runs.now))
        work.extra.after.append(lambda: self._runs.publish_committed(run.key, operation.name, detail.value))
        run.deliverable.append(self.entry(run, operation, "published"))

    def _send(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        detail: MessageDetail | CancelDetail = operation.detail
        error = self._cannot_reach(run, detail.run_id)
        if isinstance(error, RunEnded) and isinstance(detail, MessageDetail) and self._runs.is_ending(detail.run_id):
            self._reopen_later(run, operation, work)
            return
        if isinstance(detail, CancelDetail):
            if not isinstance(error, RunNotFound):
                self._request_cancel(detail.run_id, detail.reason, work)
                error = None
        elif error is None:
            change = MessageSent(detail.run_id, operation.name, detail.value, self._runs.now, detail.key)
            target = self._runs.resident(detail.run_id)
            if target is not None:
                target.sending[operation.name] = target.sending.get(operation.name, 0) + 1
            work.expect(change, lambda sent: self._runs.message_committed(change, sent))
        if error is None:
            run.deliverable.append(self.entry(run, operation, "sent"))
        else:
            run.deliverable.append(self.entry(run, operation, "send_failed", encode_failure(error)))

    def _request_cancel(self, run_id: str, reason: str | None, work: UnitOfWork) -> None:
        work.expect(CancelRequested(run_id, self._runs.now, reason), self._runs.cancel_committed)

    def _cannot_reach(self, sender: LoadedRun, run_id: str) -> StepwellError | None:
        if self._runs.resident(run_id) is not None or self._runs.being_created(run_id) is not None:
            return None
        record = self._runs.find(run_id)
        if record is None:
            return RunNotFound(f"run {sender.id!r} sent to run {run_id!r}, which does not exist; start it first")
        if record.status in ENDED:
            return RunEnded(f"run {sender.id!r} sent to run {run_id!r}, which is {record.status}")
        return None

    def _start(self, run: LoadedRun, operation: Operation, detail: ChildStart, work: UnitOfWork) -> None:
        run.has_children = True
        child_id = detail.child_id
        if child_id is None:
            before = self._runs.child_ids.of_before(run, operation.number, detail.workflow, operation.fingerprint)
            if before is not None:
                run.deliverable.append(self._existing_child(run, operation, before))
                return
            try:
                child_id = self._runs.child_ids.free(run, operation.number)
            except RunConflict as error:
                run.deliverable.append(self.entry(run, operation, "child_failed", encode_failure(error)))
                return
        elif self._runs.being_created(child_id) is not None:
            self._reopen_later(run, operation, work)
            return
        elif (existing := self._runs.find(child_id)) is not None:
            run.deliverable.append(self._existing_child(run, operation, existing))
            return
        now = self._runs.now
        if detail.entry is not None:
            self._start_queued(run, operation, child_id, detail.entry, work)
            return
        admitted = self._runs.admits(detail.workflow)
        change = RunCreated(
            child_id,
            detail.workflow,
            detail.input,
            operation.fingerprint,
            "running" if admitted else "pending",
            now,
            parent=run.key,
            parent_op=operation.number,
            attached=detail.attached,
            must_be_new=True,
            ahead=self._runs.ahead,
        )
        self._runs.creating(change)
        work.expect(change, lambda created: self._runs.child_created(change, created))
        run.deliverable.append(self.entry(run, operation, "child", self._runs.codec.encode(child_id, "an id")))

    def _start_queued(
        self, run: LoadedRun, operation: Operation, child_id: str, entry: QueueSlot, work: UnitOfWork
    ) -> None:
        """Start a child in a queue, where another run may take its place: which, is known with the commit."""
        detail: ChildStart = operation.detail
        now = self._runs.now
        self._runs.declare(entry.queue.name, work)
        told = self.entry(run, operation, "child")
        change = RunCreated(
            child_id,
            detail.workflow,
            detail.input,
            operation.fingerprint,
            "pending",
            now,
            parent=run.key,
            parent_op=operation.number,
            attached=detail.attached,
            must_be_new=detail.child_id is None,
            entry=entered(entry, now, count=detail.count),
            told=told,
            ahead=self._runs.ahead,
        )
        self._runs.creating(change)
        self._runs.queue_touched(entry.queue.name)
        work.changes.append(change)
        run.unsettled += 1
        work.extra.told.append((change, lambda created: self._runs.queued_child_created(run, change, created)))

    def _existing_child(self, run: LoadedRun, operation: Operation, existing: RunRecord) -> Entry:
        detail: ChildStart = operation.detail
        codec = self._runs.codec
        error = conflict_with(
            codec, existing, existing.id, detail.workflow, detail.input, operation.fingerprint, parent=run.id
        )
        if error is None:
            return self.entry(run, operation, "child", codec.encode(existing.id, "an id"))
        return self.entry(run, operation, "child_failed", encode_failure(error))

    def _await_result(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        child_id = operation.name
        child = self._runs.resident(child_id)
        creation = self._runs.being_created(child_id)
        if creation is not None:
            if creation.parent != run.key:
                self._reopen_later(run, operation, work)
                return
        elif child is None:
            record = self._runs.find(child_id)
            if record is None:
                error = RunNotFound(f"run {run.id!r} waits for run {child_id!r}, which does not exist")
                run.deliverable.append(self.entry(run, operation, "result_failed", encode_failure(error)))
                return
            if record.status in ENDED:
                if self._runs.is_ending(child_id):
                    self._reopen_later(run, operation, work)
                    return
                over = RunOver.of(record)
                run.deliverable.append(self.result_entry(run, operation, over))
                return
            if record.parent != run.key:
                run.unsettled += 1
                work.expect(WatchAdded(record.key, run.key), lambda status: self._watched(run, status))
        elif child.parent != run.key:
            work.changes.append(WatchAdded(child.key, run.key))
        self._runs.watch(child_id, run.key, operation.number)

    def _watched(self, run: LoadedRun, status: Status) -> None:
        run.unsettled -= 1
        if status in ENDED:  # another worker ended it between the look and the commit
            self._runs.ended_meanwhile(run)
        else:
            self._runs.resume_soon(run)

    def _reopen_later(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        """Open an operation again after the commit, because it concerns a run that the same commit creates or ends.

        That may be refused, while what is recorded of it here would stand.
        """

        def reopen() -> None:
            run.unsettled -= 1
            self._runs.reopen(run, operation)

        run.unsettled += 1
        work.extra.after.append(reopen)

    def result_entry(self, run: LoadedRun, operation: Operation, over: RunOver) -> Entry:
        """Make the entry that tells a run how another one ended."""
        if over.status == "completed":
            return self.entry(run, operation, "result", over.result)
        if over.status == "failed":
            return self.entry(run, operation, "result_failed", over.error)
        reason = f": {over.reason}" if over.reason else ""
        error = RunCancelled(f"run {over.id!r} was cancelled{reason}")
        return self.entry(run, operation, "result_failed", encode_failure(error))

    def _withdraw(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        if operation.kind == "step":
            attempts = run.calls.pop(operation.number, None)
            if attempts is not None and attempts.permit == "waiting":
                self.permits.give_back(attempts, work, started=False)
            elif attempts is not None and attempts.retry_at is None:
                run.active -= 1
                self._drop(attempts, work)
                if attempts.permit == "asked" or attempts in work.steps:
                    self.permits.give_back(attempts, work, started=False)
                else:
                    self.permits.leave(attempts, work)
        elif operation.kind == "result" and operation.detail:
            self._request_cancel(operation.name, f"run {run.id!r} no longer waits for it", work)

    # --- the end -------------------------------------------------------------------------------------------------

    def _stopped(self, run: LoadedRun, work: UnitOfWork) -> None:
        reason = run.execution.halted or RunHalted(f"run {run.id!r} stopped for no recorded reason")
        self.halt(run, reason, work)

    def halt(self, run: LoadedRun, reason: BaseException, work: UnitOfWork, *, step: StepCall | None = None) -> None:
        """Stop a run, repairably: its journal stays as it is, what the failed activation wanted is dropped.

        `step`: the attempt whose result is the reason.
        """
        text = f"{type(reason).__name__}: {reason}"
        check_transition(run.id, run.status, "halted")
        self._drop_all(run, work)
        failure = encode_failure(reason)
        work.changes.append(RunMoved(run.key, "halted", self._runs.now, None, text, failure=failure))
        work.extra.over.append(RunOver(run.key, run.id, "halted", None, None, text))
        workflow = run.execution.definition.name
        work.extra.lines.append(run_halted(run.key, run.id, workflow, reason, was=run.halted_before, step=step))
        run.status = "halted"
        self._runs.halted(run)

    def _finish(self, run: LoadedRun, outcome: CodeOutcome, work: UnitOfWork) -> None:
        result: Payload = None
        failure: BaseException | None = None
        reason: str | None = None
        status: Status = "completed"
        if outcome.cancelled:
            reason = run.cancel_reason if run.cancelling else "the workflow raised CancelledError"
            status = "cancelled"
            if reason == DEADLINE_REASON:
                status = "failed"
                failure = RunDeadlineExceeded(f"run {run.id!r} did not end before its deadline")
        elif outcome.error is not None:
            status, failure = "failed", outcome.error
        else:
            definition = run.execution.definition
            where = f"the result of workflow {definition.name!r} in run {run.id!r}"
            try:
                result = definition.encode_result(self._runs.codec, outcome.result, where)
            except SerializationError as problem:
                unfit = ResultNotSerializable(
                    f"{problem}. All its steps are recorded. Mend the workflow, {described(definition.function)}, then "
                    "resume the run (or restart the engine).",
                    where=where,
                    path=problem.path,
                )
                self.halt(run, unfit, work)
                return
        check_transition(run.id, run.status, status)
        error = None if failure is None else encode_failure(failure)
        over = RunOver(run.key, run.id, status, result, error, reason)
        if status != "completed":
            workflow = run.execution.definition.name
            work.extra.lines.append(run_over(run.key, run.id, workflow, status, error=failure, reason=reason))
        self._drop_all(run, work)
        self.record_end(over, work, has_children=run.has_children)
        run.status = status
        self._runs.ended(run, over, work)

    def record_end(self, over: RunOver, work: UnitOfWork, *, has_children: bool, unstarted: bool = False) -> None:
        """Write down that a run has ended, and what that means for the runs around it.

        `unstarted`: see `RunFinished`.
        """
        now = self._runs.now

        def watchers_woken(keys: Any) -> None:
            for key in keys or ():
                self._runs.woken(key)

        end = RunFinished(over.key, over.status, now, over.result, over.error, over.reason, unstarted)
        work.expect(end, watchers_woken)
        if has_children:
            reason = f"its parent, run {over.id!r}, has ended"
            work.expect(ChildrenCancelled(over.key, now, reason), self._runs.children_cancelled)
        work.extra.over.append(over)

    def _drop_all(self, run: LoadedRun, work: UnitOfWork) -> None:
        for attempts in run.calls.values():
            if attempts.retry_at is None:
                self._drop(attempts, work)  # first: what has not begun by now never does
            self.permits.forget(attempts, work)
        run.calls.clear()

    def _drop(self, attempts: StepCall, work: UnitOfWork) -> None:
        attempts.wanted = False
        work.extra.drops.append(attempts)

    def wake_absent(self, key: int, work: UnitOfWork) -> None:
        """Have a run that is not in memory look at what came for it, durably: a parent at its children, say."""
        work.changes.append(RunWoken(key, self._runs.now))
        work.extra.after.append(lambda: self._runs.woken(key))
