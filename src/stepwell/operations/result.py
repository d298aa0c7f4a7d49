"""Waiting for the end of another run: `ChildRun.result`, and the call of a workflow in workflow code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stepwell.errors import RunFailed, RunNotFound
from stepwell.model.journal import EntryForm
from stepwell.model.lifecycle import ENDED
from stepwell.model.waits import Wait
from stepwell.store.changes import WatchAdded
from stepwell.worker.state.facts import RunYielded, WatchedRunOver
from stepwell.worker.state.opening import answer_with_end, reopen_later, request_cancel
from stepwell.worker.state.operation_kinds import OperationKind
from stepwell.worker.state.run_over import RunOver

if TYPE_CHECKING:
    from stepwell.definitions.definition import Workflow
    from stepwell.model.lifecycle import Status
    from stepwell.replay.execution import Execution
    from stepwell.replay.operation import Operation
    from stepwell.values.converter import Converter
    from stepwell.worker.state.facts import Fact
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork


async def result_of(run: Execution, workflow: Workflow[..., Any], run_id: str, *, cancel_with_caller: bool) -> Any:
    """Wait for the end of another run and return its result, or raise what it failed with.

    `cancel_with_caller`: when the waiting task is cancelled, cancel the other run as well.
    """
    return await run.perform("result", run_id, 0, workflow.converter(run.codec), cancel_with_caller)


async def result_as(run: Execution, converter: Converter, run_id: str) -> Any:
    """Wait for the end of a run whose workflow is not known, and return its result as the converter reads it."""
    return await run.perform("result", run_id, 0, converter, False)


def _open(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    other_id = operation.name
    other = runs.loaded(other_id)
    creation = runs.being_created(other_id)
    if creation is not None:
        if creation.parent != run.key:
            reopen_later(run, operation, work)
            return
    elif other is None:
        record = runs.find(other_id)
        if record is None:
            error = RunNotFound(f"run {run.id!r} waits for run {other_id!r}, which does not exist")
            failure = runs.codec.encode_failure(error)
            run.deliverable.append(operation.answer(run.key, "result_failed", runs.now, failure))
            return
        if record.status in ENDED:
            if runs.is_ending(other_id):
                reopen_later(run, operation, work)
                return
            run.deliverable.append(answer_with_end(runs, run, operation, RunOver.of(record)))
            return
        if record.parent != run.key:
            run.awaits_commit += 1
            work.then(WatchAdded(record.key, run.key), lambda status: _watched(runs, run, status))
    elif other.parent != run.key:
        work.changes.append(WatchAdded(other.key, run.key))
    runs.watch(other_id, run.key, operation.number)


def _watched(runs: Runs, run: LoadedRun, status: Status) -> Fact | None:
    run.awaits_commit -= 1
    if status in ENDED:  # another worker ended it between the look and the commit
        return WatchedRunOver(run)
    runs.later(RunYielded(run))
    return None


def _withdraw(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    if operation.detail and _is_own(runs, run, operation.name):  # see `result_of`
        request_cancel(runs, run, operation.name, f"run {run.id!r} no longer waits for it", work)


def _is_own(runs: Runs, run: LoadedRun, other_id: str) -> bool:
    """Tell whether it is a child of the run: those that a fork was told of belong to the run that it came from."""
    other = runs.loaded(other_id) or runs.being_created(other_id) or runs.find(other_id)
    return other is not None and other.parent == run.key


def _waits(operation: Operation) -> Wait:
    return Wait("run", operation.number, operation.name)


RESULT: Final = OperationKind(
    name="result",
    entries=(EntryForm("result"), EntryForm("result_failed", fails_as=RunFailed)),
    words="waiting for run",
    open=_open,
    withdraw=_withdraw,
    waits=_waits,
)
