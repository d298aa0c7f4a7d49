"""The run that `on_failure=` starts when another one fails or is halted, in the same commit.

What fails is told once: the start is a change of the unit that writes the failure, so there are both or none. The run
that is started is told of by nobody where it fails itself, and neither are the runs that it starts: else a hook that
fails would have itself started again, for ever.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Literal

from stepwell.errors import StepwellError
from stepwell.model.clock import datetime_of
from stepwell.model.failed_run import FailedRun
from stepwell.model.journal import Entry, Payload
from stepwell.store.changes import RunCreated
from stepwell.worker.running.starting import add_start
from stepwell.worker.state.facts import RunStarted
from stepwell.worker.state.failure_log import run_fields

if TYPE_CHECKING:
    from stepwell.definitions.definition import Workflow
    from stepwell.definitions.step_call import StepCall
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork

_log: Final = logging.getLogger("stepwell")

#: How much of an error's message is told, in characters.
_MAX_MESSAGE: Final = 10_000
#: How much of the id of the run that failed is in the id of the one that is told, in characters.
_MAX_ID: Final = 200
#: How many runs above one are looked at, to find whether a hook started it.
_MAX_DEPTH: Final = 100


class Failed:
    """What failed: a run, by key, id, workflow (in a version) and parent, with the `failure` as it is recorded."""

    __slots__ = ("failure", "key", "parent", "run_id", "status", "step", "version", "workflow")

    def __init__(
        self,
        key: int,
        run_id: str,
        workflow: str,
        parent: int | None,
        status: Literal["failed", "halted"],
        failure: Payload,
        step: StepCall | None = None,
        version: int | None = None,
    ) -> None:
        self.key = key
        self.run_id = run_id
        self.workflow = workflow
        self.parent = parent
        self.status: Literal["failed", "halted"] = status
        self.failure = failure
        self.step = step
        self.version = version


def tell_of_failure(runs: Runs, failed: Failed, work: UnitOfWork) -> None:
    """Start the run that is to hear of a failure, where there is one for it, with the unit that writes the failure."""
    hook = _hook_for(runs, failed)
    if hook is None:
        return
    facts = _facts(runs, failed, work)
    run_id = f"{failed.run_id[:_MAX_ID]}:failure:{runs.tokens()[:12]}"
    where = f"the input of workflow {hook.name!r} for run {run_id!r}"
    try:
        payload, fingerprint = runs.codec.seal_input((facts,), {}, hook.signature, where, is_checked=False)
    except StepwellError as error:  # a parameter of another type than `FailedRun`, say; the failure stands
        fields = run_fields(failed.run_id, failed.workflow)
        _log.error("run %r: its on_failure= could not be started: %s", failed.run_id, error, extra=fields)
        return
    start = RunCreated(run_id, hook.name, payload, fingerprint, "running", runs.now, ahead=runs.ahead)
    add_start(runs, start, work, RunStarted)


def _hook_for(runs: Runs, failed: Failed) -> Workflow[..., Any] | None:
    definition = runs.workflows.fitting(failed.workflow, failed.version)
    hook = runs.on_failure if definition is None or definition.on_failure is None else definition.on_failure
    if hook is None:
        return None
    hooks = {each.on_failure.name for each in runs.workflows.values() if each.on_failure is not None}
    if runs.on_failure is not None:
        hooks.add(runs.on_failure.name)
    workflow, parent = failed.workflow, failed.parent
    for _ in range(_MAX_DEPTH):
        if workflow in hooks:
            return None
        above = None if parent is None else next(iter(runs.reads.facts([parent])), None)
        if above is None:
            break
        workflow, parent = above.workflow, above.parent
    return hook


def _facts(runs: Runs, failed: Failed, work: UnitOfWork) -> FailedRun:
    kind, message = runs.codec.failure_summary(failed.failure)
    step, operation = None, None
    if failed.step is not None:
        step, operation = failed.step.name, failed.step.operation
    else:
        told = _told_last(runs, failed, work)
        if told is not None and runs.codec.failure_summary(told.value) == (kind, message):
            step, operation = told.name, told.op
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]}…"
    at = datetime_of(runs.now - runs.ahead)
    return FailedRun(failed.run_id, failed.workflow, failed.status, kind, message, at, step, operation)


def _told_last(runs: Runs, failed: Failed, work: UnitOfWork) -> Entry | None:
    """Return the failure of a step that the run was told within this unit, None where it was told none."""
    for change in reversed(work.changes):
        if isinstance(change, Entry) and change.run == failed.key and runs.kinds.of_entry(change.kind).name == "step":
            return change if change.kind in runs.kinds.failures else None
    return None
