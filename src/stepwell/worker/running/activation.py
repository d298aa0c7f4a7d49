"""Turns what a run's code asks for into changes and effects.

`Activator.advance` is called after each delivery. It turns the operations that the code issued into changes (a child to
create, a message to send: as their kinds say, see `stepwell.operations`) and effects (a step to execute), delivers at
once what needs no waiting, and in the end writes down what state the run rests in; where it goes no further,
`stepwell.worker.running.run_endings` does. All of it is one unit of work, hence one commit.
"""

from __future__ import annotations

from typing import Final, Literal

from stepwell.model.journal import ABANDONED, Entry
from stepwell.model.lifecycle import check_transition
from stepwell.replay.operation import Operation
from stepwell.store.changes import (
    MessageTaken,
    RunMoved,
)
from stepwell.store.claims import RunWoken
from stepwell.worker.running.run_endings import RunEndings
from stepwell.worker.running.spinning import Spinning
from stepwell.worker.running.updates import next_update
from stepwell.worker.state.executions import Executions
from stepwell.worker.state.facts import (
    RunContinues,
    RunEnded,
    RunStopped,
    RunsWoken,
    RunYielded,
)
from stepwell.worker.state.journal_length import growing_long, limit_of, next_look, too_long
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.operation_kinds import OperationTable
from stepwell.worker.state.parked import waits_for_nothing, waits_of
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.progress import ProgressKeeper
from stepwell.worker.steps.step_dispatch import StepDispatch
from stepwell.worker.steps.unrecorded import still_unrecorded

# How many deliveries one activation may make to itself (publishing in a loop, say) before it is committed and others
# get their turn.
_MAX_DELIVERIES: Final = 1000


class Activator:
    """Carries runs on. Holds no state of its own; see the module."""

    def __init__(
        self,
        runs: Runs,
        operations: OperationTable,
        steps: StepDispatch,
        endings: RunEndings,
        executions: Executions,
        spinning: Spinning,
        progress: ProgressKeeper,
    ) -> None:
        self._runs = runs
        self._progress = progress
        self._openings, self._withdrawals = operations.openings, operations.withdrawals
        self._looks, self._expirations = operations.looks, operations.expirations
        self._steps = steps
        self._endings = endings
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
                    return self._endings.stop(run, work)
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
                        return self._endings.halt(run, found[0], work, step=found[1])
                run.opened = issued[-1].number
                for operation in issued:
                    if operation.number not in execution.pending:
                        continue
                    if operation.kind == "step":
                        attempts = operation.detail
                        run.calls[operation.number] = attempts
                        attempts.first_started_at = self._runs.now
                        if run.history and operation.number in run.history:
                            self._steps.go_on(run, operation, attempts, work)
                        elif attempts.definition.is_ready:
                            # What `dispatch` and `execute` do for most steps, without two calls: 2 % of a step.
                            run.active += 1
                            attempts.started_at = self._runs.now
                            if work.steps:
                                work.steps.append(attempts)
                            else:
                                work.steps = [attempts]
                        else:
                            self._steps.dispatch(run, attempts, work)
                    else:
                        self._openings[operation.kind](self._runs, run, operation, work)
            if execution.withdrawn or execution.counts:
                self._take_note(run, work)
            if execution.outcome is not None:
                return self._endings.end(run, execution.outcome, work)
            if (
                not run.deliverable
                and not (run.receivers and run.inbox)
                and not run.requests
                and not execution.loop.abandoned
                and not execution.undoing
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
            return self._endings.halt(run, too_long(run.id, workflow.name, run.entries, limit), work)
        if not is_new:
            work.extra.lines.append(growing_long(run.key, run.id, workflow.name, run.entries, limit))
        return None

    def _next_entry(self, run: LoadedRun, work: UnitOfWork) -> Entry | None:
        if run.execution.loop.abandoned:
            number = run.execution.loop.abandoned[0]
            return Entry(run.key, 0, "timer", f"{ABANDONED}{number}", 0, self._runs.now)
        if run.execution.undoing:
            return Entry(run.key, 0, "timer", run.execution.undoing[0], 0, self._runs.now)
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
        if (  # another step is under way: what follows would find so, with 3 % of the bytecodes of a step
            run.status == "running"
            and run.active
            and run.armed is None
            and not (run.timers or run.deadline_at is not None or run.spin is not None or run.execution.spins)
        ):
            return None
        if run.pausing is not None and not (run.active or run.deliverable or run.awaits_commit):
            return self._endings.pause(run, run.pausing, work)
        if run.execution.spins or run.spin is not None:
            self._spinning.rest(run)
        spins = run.spin is not None
        due = run.next_due() if run.timers or run.deadline_at is not None or spins else None
        if run.active or run.deliverable or run.awaits_commit or spins:
            status: Literal["running", "waiting"] = "running"
            wake_at = waiting_on = None
        else:
            status, wake_at, waiting_on = "waiting", due, waits_of(run)
        if status != run.status or wake_at != run.wake_at or waiting_on != run.waiting_on:
            check_transition(run.id, run.status, status)
            if waiting_on is not None:
                self._endings.tell_failed_tasks(run, work, held=waits_for_nothing(waiting_on))
            work.changes.append(RunMoved.kept(run.key, status, self._runs.now, wake_at, waiting_on))
            run.status, run.wake_at, run.waiting_on = status, wake_at, waiting_on
        elif status == "running" and due == run.armed:
            return None
        self._runs.memory.rest(run)
        return None

    def _take_note(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Act on what the code has given up, and on how far its maps are."""
        withdrawn, run.execution.withdrawn = run.execution.withdrawn, []
        for operation in withdrawn:
            self._withdraw(run, operation, work)
        counts, run.execution.counts = run.execution.counts, []
        self._progress.counted(run, counts, work)

    def _withdraw(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        if operation.kind == "step":
            self._steps.give_up(run, operation, work)
        elif (withdraw := self._withdrawals.get(operation.kind)) is not None:
            withdraw(self._runs, run, operation, work)

    def wake_absent(self, key: int, work: UnitOfWork) -> None:
        """Have a run that is not in memory look at what came for it, durably: a parent at its children, say."""
        work.changes.append(RunWoken(key, self._runs.now))
        work.afterwards(lambda: RunsWoken([key]))
