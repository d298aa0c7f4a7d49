"""Attempts of steps, from when they are asked for until they are handed out, or nobody waits for them any more.

What follows when one has ended is `stepwell.worker.arriving.step_outcomes`.
"""

from __future__ import annotations

from msgspec.structs import replace

from stepwell.definitions.reports import Reports
from stepwell.definitions.step_call import StepCall
from stepwell.errors import StepInterrupted
from stepwell.model.journal import CUT_OFF, Entry
from stepwell.replay.operation import Operation
from stepwell.store.changes import StepSummarized
from stepwell.worker.state.facts import TransactionDue
from stepwell.worker.state.failure_log import attempt_failed
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.permits import Permits
from stepwell.worker.steps.polling import go_on
from stepwell.worker.steps.progress import tell_last


class StepDispatch:
    """Hands attempts out, and takes them back. Holds no state of its own."""

    def __init__(self, runs: Runs, permits: Permits) -> None:
        self._runs = runs
        self._permits = permits

    def go_on(self, run: LoadedRun, operation: Operation, attempts: StepCall, work: UnitOfWork) -> None:
        """Go on with a step that was tried before the run was read from its journal."""
        history = run.history.pop(operation.number)
        attempts.attempt, attempts.forgiven = history.attempts + 1, history.forgiven
        attempts.first_started_at = history.first_started_at or self._runs.now
        if history.poll is not None and attempts.poll is not None:
            go_on(attempts.poll, history.poll)
        if history.progress is not None:
            attempts.reports = Reports(history.progress)
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
        if attempts.definition.step_options.limit is None or self._permits.held(run, attempts, work):
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

    def tell_cut_off(self, run: LoadedRun, attempts: StepCall, work: UnitOfWork) -> None:
        """Have the journal show that an attempt was under way when its code gave it up: it may have acted."""
        if attempts.definition.kind != "transaction":  # which acts with its commit, or not at all
            work.changes.append(replace(self.started_entry(attempts), value=CUT_OFF))
            run.entries += 1

    def give_up(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        """Have nobody wait for the attempts of a step any more; what the one under way answers is dropped."""
        attempts = run.calls.pop(operation.number, None)
        if attempts is not None:
            tell_last(attempts, work, self._runs.now, ended=True)
        if attempts is not None and attempts.permit == "waiting":
            self._permits.give_back(attempts, work, started=False)
        elif attempts is not None and attempts.retry_at is None:
            run.active -= 1
            self._drop(attempts, work)
            if attempts.permit == "asked" or attempts in work.steps:
                self._permits.give_back(attempts, work, started=False)
            else:
                self.tell_cut_off(run, attempts, work)
                self._permits.leave(attempts, work)

    def drop_all(self, run: LoadedRun, work: UnitOfWork, *, ended: bool = False) -> None:
        """Have nobody wait for any attempt of a run any more, which leaves memory with this unit, or has `ended`."""
        for attempts in run.calls.values():
            if attempts.retry_at is None:
                self._drop(attempts, work)  # first: what has not begun by now never does
            if ended:
                tell_last(attempts, work, self._runs.now, ended=True)
            self._permits.forget(attempts, work)
        run.calls.clear()

    def _drop(self, attempts: StepCall, work: UnitOfWork) -> None:
        attempts.wanted = False
        work.extra.drops.append(attempts)
