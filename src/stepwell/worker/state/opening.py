"""What the openings of several kinds of operations share; the kinds themselves are in `stepwell.operations`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.errors import RunCancelled
from stepwell.store.acts import ActRecorded
from stepwell.store.changes import CancelRequested
from stepwell.worker.state.facts import CancelArrived, OperationPutOff

if TYPE_CHECKING:  # see `stepwell.worker.state.operation_kinds`
    from stepwell.model.journal import Entry
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.run_over import RunOver
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork


def reopen_later(run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    """Open an operation again after the commit, because it concerns a run that the same commit creates or ends.

    That may be refused, while what is recorded of it here would stand.
    """

    def reopen() -> OperationPutOff:
        run.awaits_commit -= 1
        return OperationPutOff(run, operation)

    run.awaits_commit += 1
    work.afterwards(reopen)


def request_cancel(runs: Runs, by: LoadedRun, run_id: str, reason: str | None, work: UnitOfWork) -> None:
    """Ask another run to stop, in the name of a run."""
    now = runs.now
    work.then(CancelRequested(run_id, now, reason), CancelArrived)
    work.changes.append(ActRecorded("cancel", now, f"run {by.id!r}", reason, run_id=run_id))


def answer_with_end(runs: Runs, run: LoadedRun, operation: Operation, over: RunOver) -> Entry:
    """Make the entry that tells a run how another one ended."""
    if over.status == "completed":
        return operation.answer(run.key, "result", runs.now, over.result)
    if over.status == "failed":
        return operation.answer(run.key, "result_failed", runs.now, over.error)
    reason = f": {over.reason}" if over.reason else ""
    error = RunCancelled(f"run {over.id!r} was cancelled{reason}")
    return operation.answer(run.key, "result_failed", runs.now, runs.codec.encode_failure(error))
