"""`patched`: code that changes under running runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stepwell.model.journal import EntryForm
from stepwell.model.names import check_name
from stepwell.operations.calling_run import calling_run
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.replay.execution import Execution
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork


def patched(name: str) -> bool:
    """Tell whether this run takes the new path of a change to the workflow's code.

    Guard what you add, remove or reorder with ``if patched("what-changed"):``. Runs that passed this line before the
    change always get False, and replay as they were recorded; all other runs get True, which is recorded.
    """
    run = calling_run("patched()")
    check_name(name, "the name of a patch")
    is_new = _takes_the_new_path(run, name)
    if run.patches is not None:
        run.patches[name] = is_new and run.patches.get(name, True)
    if is_new:
        run.issue("patch", name)
    return is_new


def _takes_the_new_path(run: Execution, name: str) -> bool:
    recorded = run.recorded_next()
    if recorded is not None:
        return recorded.kind == "patched" and recorded.name == name
    return not run.undelivered


def _open(runs: Runs, run: LoadedRun, operation: Operation, _work: UnitOfWork) -> None:
    # Ahead of all others: what is committed after the code has passed it must never lack it.
    run.deliverable.appendleft(operation.answer(run.key, "patched", runs.now))


PATCH: Final = OperationKind(
    name="patch", entries=(EntryForm("patched", has_value=False),), words="patched", open=_open
)
