"""Sets the outcome of a step by hand, because somebody found out how it had ended.

The attempt under way is given up as if its code had been cancelled, so what it still answers is dropped. What is said
becomes the entry of the step; its code goes on with it as with any other. A value that is not of the type that
the step returns is refused before anything is written, or, where the caller had no code, dropped here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.definitions.step_call import StepCall
from stepwell.errors import InvalidArgument, ResultNotSerializable, SerializationError
from stepwell.model.journal import Entry, EntryKind, Payload
from stepwell.model.run import RunRecord, Settlement
from stepwell.replay.execution import Execution
from stepwell.replay.operation import Operation
from stepwell.store.settlements import SettlementTaken
from stepwell.worker.running.activation import Activator
from stepwell.worker.state.executions import Executions
from stepwell.worker.state.failure_log import run_fields
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.step_dispatch import StepDispatch

_log: Final = logging.getLogger("stepwell")


def open_step(
    executions: Executions, record: RunRecord, workflow: Workflow[..., Any], entries: Sequence[Entry], op: int
) -> Operation | None:
    """Return the step that a run waits for as its operation `op`, by a replay that nothing comes of; or None."""
    for greenlets in (False, True):
        execution = executions.of(record, workflow, greenlets=greenlets)
        execution.replay(entries)
        try:
            if not execution.needs_greenlets:
                return _step(execution, op)
        finally:
            execution.close()
    return None


def _step(execution: Execution, op: int) -> Operation | None:
    operation = None if execution.stopped else execution.pending.get(op)
    return operation if operation is not None and operation.kind == "step" else None


def check_type(operation: Operation, kind: EntryKind, value: Payload, run_id: str) -> None:
    """Raise `InvalidArgument` for a result that is not of the type that the step returns."""
    if kind == "step" and operation.converter is not None:
        where = f"the result of step {operation.name!r}, operation {operation.number} of run {run_id!r}"
        try:
            operation.converter.decode(value, where)
        except SerializationError as error:
            raise InvalidArgument(str(error)) from None


class Settler:
    """Enters what was said of steps in the journals of runs that are in memory."""

    def __init__(self, steps: StepDispatch, activator: Activator) -> None:
        self._steps = steps
        self._activator = activator

    def step_of(self, run: LoadedRun, op: int) -> Operation | None:
        """Return the step that a run in memory waits for as its operation `op`."""
        return _step(run.execution, op)

    def settle(
        self, run: LoadedRun, operation: Operation, kind: EntryKind, value: Payload, at: int, work: UnitOfWork
    ) -> None:
        """Have a run go on with the outcome of a step; `advance` must follow."""
        call: StepCall = operation.detail
        run.history.pop(operation.number, None)
        self._steps.give_up(run, operation, work)
        entry = operation.answer(run.key, kind, at, value)
        entry = replace(entry, attempt=call.attempt, started_at=call.started_at or at)
        self._activator.deliver(run, entry, work)

    def take(
        self, run: LoadedRun, settlements: Sequence[Settlement], at: int, work: UnitOfWork
    ) -> tuple[ResultNotSerializable, StepCall] | None:
        """Enter what was said of steps of a run; `advance` must follow.

        Return what is to halt a run that was just read, and the step: what was said of that is of another type, and
        the step, which may have acted, is not to be executed because of it.
        """
        misfit: tuple[ResultNotSerializable, StepCall] | None = None
        for said in settlements:
            if run.execution.stopped or run.finished:  # halted: it is taken when that is mended
                break
            work.changes.append(SettlementTaken(run.key, said.op))
            operation = self.step_of(run, said.op)
            problem = "no step of it is under way there"
            if operation is not None:
                try:
                    check_type(operation, said.kind, said.value, run.id)
                except InvalidArgument as error:
                    problem = str(error)
                    misfit = _misfit(run, operation, error), operation.detail
                else:
                    self.settle(run, operation, said.kind, said.value, at, work)
                    continue
            text = "run %r: the outcome of operation %d that was set by hand is dropped: %s"
            fields = run_fields(run.id, run.execution.definition.name)
            _log.error(text, run.id, said.op, problem, extra=fields)
        return misfit


def _misfit(run: LoadedRun, operation: Operation, error: InvalidArgument) -> ResultNotSerializable:
    number = operation.number
    return ResultNotSerializable(
        f"operation {number} of run {run.id!r}, step {operation.name!r}, was given a result by hand that is not of its "
        f"type: {error}. Settle it again, settle({number}, result=…); to have the step executed, resume the run"
    )
