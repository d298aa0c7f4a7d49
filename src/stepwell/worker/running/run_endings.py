"""How the execution of a run ends: it ends, is halted, pauses, or continues as another chapter.

Each writes down what becomes of the run and returns the fact; what that means for the runs around it is
`stepwell.worker.running.carrying`.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

from stepwell.definitions.jobs import Job
from stepwell.definitions.step_call import StepCall
from stepwell.errors import ResultNotSerializable, RunDeadlineExceeded, RunHalted, SerializationError
from stepwell.model.journal import Entry, Payload
from stepwell.model.lifecycle import Status, check_transition
from stepwell.model.start_policy import REPLACED_REASON
from stepwell.replay.operation import CodeOutcome, ContinuedAsNew
from stepwell.replay.source_location import described
from stepwell.store.changes import ChildrenCancelled, RunContinued, RunFinished, RunMoved, Succeeded
from stepwell.worker.running.failure_hooks import Failed, tell_of_failure
from stepwell.worker.state.facts import (
    CancelsArrived,
    LateEnd,
    RunContinues,
    RunEnded,
    RunStopped,
    RunsWoken,
    SuccessorBegan,
)
from stepwell.worker.state.failure_log import run_ended_line, run_halted, run_paused, task_failed
from stepwell.worker.state.loaded_run import LoadedRun, Pausing
from stepwell.worker.state.parked import waited_for
from stepwell.worker.state.run_over import RunOver, remedy_of
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.step_dispatch import StepDispatch

#: The cancellation reason that stands for the run's deadline, in the journal as well.
DEADLINE_REASON: Final = "the run's deadline has passed"

#: In the place of a run's parent: another start of its id does not wait for its end.
FOLLOWED_BY_NOBODY: Final = -1

# How many tasks are looked through, on average, when a run begins to wait: it may have thousands.
_TASKS_AT_A_TIME: Final = 32


class RunEndings:
    """Ends, halts and pauses runs whose code was carried on. Holds no state of its own."""

    def __init__(self, runs: Runs, steps: StepDispatch) -> None:
        self._runs = runs
        self._steps = steps

    def tell_failed_tasks(self, run: LoadedRun, work: UnitOfWork, *, held: bool) -> None:
        """Have the log say which tasks failed unheard, where the run rests or ends; `held`: of those held as well."""
        execution = run.execution
        for name, error in execution.loop.unretrieved(held=held, most=None if held else _TASKS_AT_A_TIME):
            work.extra.lines.append(task_failed(run.id, execution.definition.name, run.key, name, error))

    def pause(self, run: LoadedRun, pausing: Pausing, work: UnitOfWork) -> RunStopped:
        """Pause a run that was to pause, now that none of its attempts is under way.

        What its code asked for since then was not begun, and is asked for again when the run is read from its journal.
        """
        check_transition(run.id, run.status, "paused")
        move = RunMoved.paused(run.key, self._runs.now, waited_for(run), pausing.failure)
        self._steps.drop_all(run, work)
        work.changes.append(move)
        work.extra.lines.append(run_paused(run.key, run.id, run.execution.definition.name))
        run.status = "paused"
        return RunStopped(run)

    def stop(self, run: LoadedRun, work: UnitOfWork) -> RunStopped:
        """Halt a run whose code was stopped, for the reason that was recorded then."""
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
        self._steps.drop_all(run, work)
        failure = self._runs.codec.encode_failure(reason)
        work.changes.append(RunMoved.halted(run.key, self._runs.now, text, failure, remedy_of(reason)))
        work.extra.over.append(RunOver.halted(run.key, run.id, text))
        workflow = run.execution.definition.name
        work.extra.lines.append(run_halted(run.key, run.id, workflow, reason, was=run.halted_before, step=step))
        if run.halted_before != text:  # else it was tried again without being asked for, and is as it was
            self._tell_of_failure(run, "halted", failure, work, step)
        run.status = "halted"
        return RunStopped(run)

    def end(self, run: LoadedRun, outcome: CodeOutcome, work: UnitOfWork) -> RunContinues | RunEnded | RunStopped:
        """End a run whose code has ended, or begin its next chapter; halt it where its result cannot be recorded."""
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
        self.tell_failed_tasks(run, work, held=True)
        if status != "completed":
            workflow = run.execution.definition.name
            work.extra.lines.append(run_ended_line(run.key, run.id, workflow, status, error=failure, reason=reason))
        for attempts in run.calls.values():
            if attempts.retry_at is None and attempts.permit not in ("asked", "waiting") and attempts not in work.steps:
                self._steps.tell_cut_off(run, attempts, work)
        self._steps.drop_all(run, work, ended=True)
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
        self.tell_failed_tasks(run, work, held=True)
        for operation in list(run.execution.pending.values()):
            if operation.kind == "step":
                self._steps.give_up(run, operation, work)
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


def _woken(result: list[int] | Succeeded) -> RunsWoken | SuccessorBegan:
    """Make the fact that follows from the end of a run."""
    return SuccessorBegan(result) if isinstance(result, Succeeded) else RunsWoken(result)


def _told_late(over: RunOver, parent: int | None, result: list[int] | Succeeded) -> LateEnd | SuccessorBegan:
    """Make the fact that follows from the end of a run that another one was to follow."""
    return SuccessorBegan(result) if isinstance(result, Succeeded) else LateEnd(over, parent, result)
