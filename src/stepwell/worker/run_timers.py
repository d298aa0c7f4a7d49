"""The times of runs in memory: timers, attempts that wait to be repeated, deadlines, pauses of code that goes round."""

from __future__ import annotations

from stepwell.replay.operation import Operation
from stepwell.worker.activation import Activator
from stepwell.worker.carrying import Carrier
from stepwell.worker.loaded_run import LoadedRun
from stepwell.worker.run_endings import DEADLINE_REASON
from stepwell.worker.runs import Runs
from stepwell.worker.spinning import Spinning
from stepwell.worker.step_dispatch import StepDispatch


class RunTimers:
    """Carries runs on when their times come; a `stepwell.worker.due.Due`."""

    def __init__(
        self, runs: Runs, steps: StepDispatch, activator: Activator, carrier: Carrier, spinning: Spinning
    ) -> None:
        self._runs = runs
        self._steps = steps
        self._activator = activator
        self._carrier = carrier
        self._spinning = spinning

    def due_at(self) -> int | None:
        """Return when the first run in memory is due; None: none is."""
        return self._runs.memory.next_due()

    def advance(self, now: int) -> None:
        """Carry on all runs that are due at `now`, the longest due first."""
        while (run := self._runs.memory.pop_due(now)) is not None:
            self._fire(run, now)

    def _fire(self, run: LoadedRun, now: int) -> None:
        if run.pausing is not None:
            return  # its timers wait
        memory = self._runs.memory
        work = self._runs.batch.work_of(run)
        if run.deadline_at is not None and run.deadline_at <= now and not run.cancelling:
            self._carrier.deliver_cancel(run, DEADLINE_REASON, work)
        while not run.finished and run.status != "halted":
            due = run.pop_due(now)
            if not due:
                break
            timers: list[Operation] = []
            for operation in map(run.execution.pending.__getitem__, due):
                if operation.kind == "timer":
                    timers.append(operation)
                elif operation.number in run.calls:
                    self._steps.dispatch(run, run.calls[operation.number], work)
                else:
                    self._activator.expire(run, operation, work)
            for place, operation in enumerate(timers, 1):
                entry = operation.answer(run.key, "timer", now)
                self._activator.deliver(run, entry, work, more=place < len(timers))
            self._carrier.carry_on(run, work)
        self._spinning.look(run)
        if not run.finished and run.armed is None and run.key in memory:
            memory.arm(run)
