"""From what a run's code asked for to changes and effects.

`Activator.advance` is called after each delivery. It turns the operations that the code issued into changes (a child to
create, a message to send: as their kinds say, see `stepwell.operations`) and effects (a step to execute), delivers at
once what needs no waiting, and in the end writes down what state the run rests in. All of it is one unit of work, hence
one commit.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

from msgspec.structs import replace

from stepwell.definitions.jobs import Job
from stepwell.definitions.step_call import StepCall
from stepwell.errors import (
    ResultNotSerializable,
    RunDeadlineExceeded,
    RunHalted,
    SerializationError,
    StepInterrupted,
)
from stepwell.model.journal import ABANDONED, CUT_OFF, Entry, Payload
from stepwell.model.lifecycle import Status, check_transition
from stepwell.model.start_policy import REPLACED_REASON
from stepwell.replay.operation import CodeOutcome, ContinuedAsNew, Operation
from stepwell.replay.source_location import described
from stepwell.store.changes import (
    ChildrenCancelled,
    MessageTaken,
    RunContinued,
    RunFinished,
    RunMoved,
    StepSummarized,
    Succeeded,
)
from stepwell.store.claims import RunWoken
from stepwell.worker.executions import Executions
from stepwell.worker.facts import (
    CancelsArrived,
    LateEnd,
    RunContinues,
    RunEnded,
    RunStopped,
    RunsWoken,
    RunYielded,
    SuccessorBegan,
    TransactionDue,
)
from stepwell.worker.failure_hooks import Failed, tell_of_failure
from stepwell.worker.failure_log import attempt_failed, run_ended_line, run_halted, run_paused, task_failed
from stepwell.worker.journal_length import growing_long, limit_of, next_look, too_long
from stepwell.worker.loaded_run import LoadedRun, Pausing
from stepwell.worker.operation_kinds import OperationTable
from stepwell.worker.parked import waited_for, waits_for_nothing, waits_of
from stepwell.worker.permits import Permits
from stepwell.worker.run_over import RunOver, remedy_of
from stepwell.worker.runs import Runs
from stepwell.worker.spinning import Spinning
from stepwell.worker.unit_of_work import UnitOfWork
from stepwell.worker.unrecorded import still_unrecorded
from stepwell.worker.updates import next_update

#: The cancellation reason that stands for the run's deadline, in the journal as well.
DEADLINE_REASON: Final = "the run's deadline has passed"

#: In the place of a run's parent: another start of its id does not wait for its end.
FOLLOWED_BY_NOBODY: Final = -1

# How many deliveries one activation may make to itself (publishing in a loop, say) before it is committed and others
# get their turn.
_MAX_DELIVERIES: Final = 1000
# How many tasks are looked through, on average, when a run begins to wait: it may have thousands.
_TASKS_AT_A_TIME: Final = 32


class Activator:
    """Carries runs on. Holds no state of its own; see the module."""

    def __init__(
        self, runs: Runs, operations: OperationTable, permits: Permits, executions: Executions, spinning: Spinning
    ) -> None:
        self._runs = runs
        self._openings, self._withdrawals = operations.openings, operations.withdrawals
        self._looks, self._expirations = operations.looks, operations.expirations
        self.permits = permits
        self._executions = executions
        self._spinning = spinning

    # --- the loop ------------------------------------------------------------------------------------------------

    def deliver(self, run: LoadedRun, entry: Entry, work: UnitOfWork, *, more: bool = False) -> None:
        """Record an entry and hand it to the run's code; `advance` must follow. `more`: see `Execution.deliver`."""
        work.changes.append(entry)
        run.entries += 1
        run.execution.deliver(entry, more=more)

    def advance(self, run: LoadedRun, work: UnitOfWork) -> RunContinues | RunEnded | RunStopped | None:
        """Carry the run on until it waits for something from outside, or its code has ended; return how it ended."""
        execution = run.execution
        deliveries = 0
        while True:
            if execution.stopped:
                if not execution.needs_greenlets:
                    return self._stopped(run, work)
                if not self._restart(run):
                    return None
                execution = run.execution
                continue
            if run.entries >= run.length_due and execution.outcome is None:
                stopped = self._look_at_length(run, work)
                if stopped is not None:
                    return stopped
            if execution.issued and run.pausing is None:
                issued, execution.issued = execution.issued, []
                if run.history and not run.resumed:
                    found = still_unrecorded(issued, run.history)
                    if found is not None:
                        return self.halt(run, found[0], work, step=found[1])
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
                        elif attempts.definition.is_ready:
                            # What `dispatch` and `execute` do for most steps, without two calls: 2 % of a step.
                            run.active += 1
                            attempts.started_at = self._runs.now
                            if work.steps:
                                work.steps.append(attempts)
                            else:
                                work.steps = [attempts]
                        else:
                            self.dispatch(run, attempts, work)
                    else:
                        self._openings[operation.kind](self._runs, run, operation, work)
            if execution.withdrawn:
                self._withdraw_all(run, work)
            if execution.outcome is not None:
                return self._end(run, execution.outcome, work)
            if (
                not run.deliverable
                and not (run.receivers and run.inbox)
                and not run.requests
                and not execution.loop.abandoned
            ):
                break
            entry = self._next_entry(run, work)
            if entry is None:
                break
            deliveries += 1
            self.deliver(run, entry, work)
            if deliveries >= _MAX_DELIVERIES:
                self._runs.later(RunYielded(run))
                break
        return self._rest(run, work)

    def look(self, run: LoadedRun, number: int = 0) -> None:
        """Look for what came for the operations that a run waits for, or for one of them; `advance` must follow."""
        pending = run.execution.pending
        operations = list(pending.values()) if not number else [pending[number]] if number in pending else []
        for kind, look in self._looks.items():
            waiting = [operation for operation in operations if operation.kind == kind]
            if waiting:
                look(self._runs, run, waiting)

    def expire(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        """Do what is due for an operation that is no timer and no step; `advance` must follow."""
        self._expirations[operation.kind](self._runs, run, operation, work)

    def _restart(self, run: LoadedRun) -> bool:
        """Start a run's code anew on greenlets; return False where the engine's thread alone can do that."""
        self._runs.memory.on_greenlets.add(run.key)
        if self._runs.is_light:
            self._runs.later(RunYielded(run))
            return False
        self._executions.restart(run)
        return True

    def _look_at_length(self, run: LoadedRun, work: UnitOfWork) -> RunStopped | None:
        """Warn of a journal that has become long, or halt its run: one that goes on, and is not being cancelled.

        Steps that are under way may end, lest they be executed again, and the run may go a little further meanwhile.
        """
        workflow = run.execution.definition
        limit = limit_of(workflow, self._runs.limits.entries)
        is_new = run.length_due == 0
        run.length_due = next_look(run.entries, limit)
        if run.entries >= limit:
            run.length_due = run.entries + 1
            spare = limit // 10 if run.execution.issued else limit
            if run.cancelling or (run.active and run.entries < limit + spare):
                return None
            return self.halt(run, too_long(run.id, workflow.name, run.entries, limit), work)
        if not is_new:
            work.extra.lines.append(growing_long(run.key, run.id, workflow.name, run.entries, limit))
        return None

    def _next_entry(self, run: LoadedRun, work: UnitOfWork) -> Entry | None:
        if run.execution.loop.abandoned:
            number = run.execution.loop.abandoned[0]
            return Entry(run.key, 0, "timer", f"{ABANDONED}{number}", 0, self._runs.now)
        while run.deliverable:
            entry = run.deliverable.popleft()
            if entry.op in run.execution.pending:
                return entry
        if run.requests and run.pausing is None:
            taken_on = next_update(self._runs, run, work)
            if taken_on is not None:
                return taken_on
        if run.receivers and run.inbox and run.pausing is None:
            match = run.match_message()
            if match is not None:
                operation, message = match
                work.changes.append(MessageTaken(run.key, message.position, self._runs.now))
                return operation.answer(run.key, "message", self._runs.now, message.value)
        return None

    def _rest(self, run: LoadedRun, work: UnitOfWork) -> RunStopped | None:
        if run.pausing is not None and not (run.active or run.deliverable or run.awaits_commit):
            return self._pause(run, run.pausing, work)
        if run.execution.spins or run.spin is not None:
            self._spinning.rest(run)
        spins = run.spin is not None
        due = run.next_due() if run.timers or run.deadline_at is not None or spins else None
        if run.active or run.deliverable or run.awaits_commit or spins:
            status: Status = "running"
            wake_at = waiting_on = None
        else:
            status, wake_at, waiting_on = "waiting", due, waits_of(run)
        if status != run.status or wake_at != run.wake_at or waiting_on != run.waiting_on:
            check_transition(run.id, run.status, status)
            if waiting_on is not None:
                self._tell_failed_tasks(run, work, held=waits_for_nothing(waiting_on))
            work.changes.append(RunMoved(run.key, status, self._runs.now, wake_at, None, waiting_on))
            run.status, run.wake_at, run.waiting_on = status, wake_at, waiting_on
        elif status == "running" and due == run.armed:
            return None
        self._runs.memory.rest(run)
        return None

    def _tell_failed_tasks(self, run: LoadedRun, work: UnitOfWork, *, held: bool) -> None:
        """Have the log say which tasks failed unheard, where the run rests or ends; `held`: of those held as well."""
        execution = run.execution
        for name, error in execution.loop.unretrieved(held=held, most=None if held else _TASKS_AT_A_TIME):
            work.extra.lines.append(task_failed(run.id, execution.definition.name, run.key, name, error))

    # --- steps ---------------------------------------------------------------------------------------------------

    def _continue_step(self, run: LoadedRun, operation: Operation, attempts: StepCall, work: UnitOfWork) -> None:
        """Go on with a step that was tried before the run was read from its journal."""
        history = run.history.pop(operation.number)
        attempts.attempt, attempts.forgiven = history.attempts + 1, history.forgiven
        attempts.first_started_at = history.first_started_at or self._runs.now
        if history.started and attempts.definition.step_options.delivery == "at-most-once":
            error = StepInterrupted(
                f"step {operation.name!r} of run {run.id!r} was cut off: its process died, or its run was cancelled; "
                "it is delivered at most once, so it was not repeated. Find out whether it took effect, then decide in "
                "the workflow"
            )
            del run.calls[operation.number]
            work.extra.lines.append(
                attempt_failed(attempts, run.execution.definition.name, error, None, self._runs.now)
            )
            failure = self._runs.codec.encode_failure(error)
            run.deliverable.append(operation.answer(run.key, "step_failed", self._runs.now, failure))
        elif history.retry_at > self._runs.now:
            attempts.retry_at, attempts.last_error = history.retry_at, history.last_error
            run.add_timer(history.retry_at, operation.number)
        else:
            self.dispatch(run, attempts, work)

    def dispatch(self, run: LoadedRun, attempts: StepCall, work: UnitOfWork) -> None:
        """Have an attempt executed after the commit."""
        run.active += 1
        summary = attempts.definition.step_options.summary
        if summary is not None and attempts.attempt == 1:
            work.changes.append(StepSummarized(run.key, attempts.operation, summary))
        attempts.retry_at = None
        attempts.first_started_at = attempts.first_started_at or self._runs.now
        attempts.started_at = self._runs.now
        if attempts.definition.step_options.limit is None or self.permits.held(run, attempts, work):
            self.execute(run, attempts, work)

    def execute(self, run: LoadedRun, attempts: StepCall, work: UnitOfWork) -> None:
        """Have an attempt that needs no permit, or has it, executed after the commit."""
        definition = attempts.definition
        if definition.kind == "transaction":
            work.afterwards(lambda: TransactionDue(run, attempts))
            return
        if definition.step_options.delivery == "at-most-once":
            attempts.visible = True
            work.changes.append(self.started_entry(attempts))
            run.entries += 1
        work.steps = [*work.steps, attempts]

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

    def _tell_cut_off(self, run: LoadedRun, attempts: StepCall, work: UnitOfWork) -> None:
        """Have the journal show that an attempt was under way when its code gave it up: it may have acted."""
        if attempts.definition.kind != "transaction":  # which acts with its commit, or not at all
            work.changes.append(replace(self.started_entry(attempts), value=CUT_OFF))
            run.entries += 1

    def _withdraw_all(self, run: LoadedRun, work: UnitOfWork) -> None:
        withdrawn, run.execution.withdrawn = run.execution.withdrawn, []
        for operation in withdrawn:
            self._withdraw(run, operation, work)

    def _withdraw(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        if operation.kind == "step":
            self.give_up(run, operation, work)
        elif (withdraw := self._withdrawals.get(operation.kind)) is not None:
            withdraw(self._runs, run, operation, work)

    def give_up(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        """Have nobody wait for the attempts of a step any more; what the one under way answers is dropped."""
        attempts = run.calls.pop(operation.number, None)
        if attempts is not None and attempts.permit == "waiting":
            self.permits.give_back(attempts, work, started=False)
        elif attempts is not None and attempts.retry_at is None:
            run.active -= 1
            self._drop(attempts, work)
            if attempts.permit == "asked" or attempts in work.steps:
                self.permits.give_back(attempts, work, started=False)
            else:
                self._tell_cut_off(run, attempts, work)
                self.permits.leave(attempts, work)

    # --- the end -------------------------------------------------------------------------------------------------

    def _pause(self, run: LoadedRun, pausing: Pausing, work: UnitOfWork) -> RunStopped:
        """Pause a run that was to pause, now that none of its attempts is under way.

        What its code asked for since then was not begun, and is asked for again when the run is read from its journal.
        """
        check_transition(run.id, run.status, "paused")
        move = RunMoved(run.key, "paused", self._runs.now, None, None, waited_for(run), pausing.failure)
        self._drop_all(run, work)
        work.changes.append(move)
        work.extra.lines.append(run_paused(run.key, run.id, run.execution.definition.name))
        run.status = "paused"
        return RunStopped(run)

    def _stopped(self, run: LoadedRun, work: UnitOfWork) -> RunStopped:
        reason = run.execution.halted or RunHalted(f"run {run.id!r} stopped for no recorded reason")
        return self.halt(run, reason, work)

    def halt(
        self, run: LoadedRun, reason: BaseException, work: UnitOfWork, *, step: StepCall | None = None
    ) -> RunStopped:
        """Stop a run, repairably: its journal stays as it is, what the failed activation wanted is dropped.

        `step`: the attempt whose result is the reason.
        """
        text = f"{type(reason).__name__}: {reason}"
        check_transition(run.id, run.status, "halted")
        self._drop_all(run, work)
        failure = self._runs.codec.encode_failure(reason)
        work.changes.append(RunMoved(run.key, "halted", self._runs.now, None, text, None, failure, remedy_of(reason)))
        work.extra.over.append(RunOver(run.key, run.id, "halted", None, None, text))
        workflow = run.execution.definition.name
        work.extra.lines.append(run_halted(run.key, run.id, workflow, reason, was=run.halted_before, step=step))
        if run.halted_before != text:  # else it was tried again without being asked for, and is as it was
            self._tell_of_failure(run, "halted", failure, work, step)
        run.status = "halted"
        return RunStopped(run)

    def _end(self, run: LoadedRun, outcome: CodeOutcome, work: UnitOfWork) -> RunContinues | RunEnded | RunStopped:
        if outcome.continued is not None:
            return self._continue(run, outcome.continued, work)
        return self._finish(run, outcome, work)

    def _finish(self, run: LoadedRun, outcome: CodeOutcome, work: UnitOfWork) -> RunEnded | RunStopped:
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
                result = self._result_of_job(run, work) if isinstance(definition, Job) else None
                if result is None:
                    result = definition.encode_result(self._runs.codec, outcome.result, where)
            except SerializationError as problem:
                unfit = ResultNotSerializable(
                    f"{problem}. All its steps are recorded. Mend the workflow, {described(definition.function)}, then "
                    "resume the run (or restart the engine).",
                    where=where,
                    path=problem.path,
                )
                return self.halt(run, unfit, work)
        check_transition(run.id, run.status, status)
        error = None if failure is None else self._runs.codec.encode_failure(failure)
        over = RunOver(run.key, run.id, status, result, error, reason)
        self._tell_failed_tasks(run, work, held=True)
        if status != "completed":
            workflow = run.execution.definition.name
            work.extra.lines.append(run_ended_line(run.key, run.id, workflow, status, error=failure, reason=reason))
        for attempts in run.calls.values():
            if attempts.retry_at is None and attempts.permit not in ("asked", "waiting") and attempts not in work.steps:
                self._tell_cut_off(run, attempts, work)
        self._drop_all(run, work)
        parent = run.parent if run.cancel_reason == REPLACED_REASON else FOLLOWED_BY_NOBODY
        self.record_end(over, work, has_children=run.has_children, late_to=parent)
        if status == "failed":
            self._tell_of_failure(run, "failed", error, work)
        run.status = status
        return RunEnded(run, over)

    def _tell_of_failure(
        self,
        run: LoadedRun,
        status: Literal["failed", "halted"],
        failure: Payload,
        work: UnitOfWork,
        step: StepCall | None = None,
    ) -> None:
        definition = run.execution.definition
        failed = Failed(run.key, run.id, definition.name, run.parent, status, failure, step, definition.version)
        tell_of_failure(self._runs, failed, work)

    def _result_of_job(self, run: LoadedRun, work: UnitOfWork) -> Payload:
        """Return what the step of a run returned that is nothing else, None where it has to be encoded.

        It is what the run returns, in the same commit, so it is not written twice: the journal is left without it.
        """
        last = work.changes[-1] if work.changes else None
        if not isinstance(last, Entry) or last.kind != "step" or last.run != run.key:
            return None
        work.changes.pop()
        return last.value

    def _continue(self, run: LoadedRun, continued: ContinuedAsNew, work: UnitOfWork) -> RunContinues:
        """Begin another chapter: what the code of this one has under way is given up, nothing else is lost."""
        self._tell_failed_tasks(run, work, held=True)
        for operation in list(run.execution.pending.values()):
            if operation.kind == "step":
                self.give_up(run, operation, work)
        heard_cancel, ops_before = run.cancelling, run.execution.issued_so_far
        change = RunContinued(run.key, self._runs.now, continued.input, ops_before, heard_cancel)
        work.then(change, lambda succeeded: None if succeeded is None else SuccessorBegan(succeeded))
        return RunContinues(run)

    def record_end(
        self,
        over: RunOver,
        work: UnitOfWork,
        *,
        has_children: bool,
        unstarted: bool = False,
        late_to: int | None = FOLLOWED_BY_NOBODY,
    ) -> None:
        """Write down that a run has ended, and what that means for the runs around it.

        `unstarted`: see `RunFinished`. `late_to`: where another start of its id may follow it, so that nobody is told
        of the end before that is known, its parent, or None.
        """
        now = self._runs.now
        end = RunFinished(over.key, over.status, now, over.result, over.error, over.reason, unstarted)
        work.then(end, _woken if late_to == FOLLOWED_BY_NOBODY else partial(_told_late, over, late_to))
        if has_children:
            reason = f"its parent, run {over.id!r}, has ended"
            work.then(ChildrenCancelled(over.key, now, reason), CancelsArrived)
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
        work.afterwards(lambda: RunsWoken([key]))


def _woken(result: list[int] | Succeeded) -> RunsWoken | SuccessorBegan:
    """Make the fact that follows from the end of a run."""
    return SuccessorBegan(result) if isinstance(result, Succeeded) else RunsWoken(result)


def _told_late(over: RunOver, parent: int | None, result: list[int] | Succeeded) -> LateEnd | SuccessorBegan:
    """Make the fact that follows from the end of a run that another one was to follow."""
    return SuccessorBegan(result) if isinstance(result, Succeeded) else LateEnd(over, parent, result)
