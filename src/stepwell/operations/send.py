"""`send`: a message to another run, or a request to cancel it, together with the progress of this one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from stepwell.errors import RunEnded, RunFailed, RunNotFound, StepwellError
from stepwell.model.journal import EntryForm
from stepwell.model.lifecycle import ENDED
from stepwell.model.names import check_id, check_name
from stepwell.operations.calling_run import calling_run
from stepwell.replay.divergence import Given
from stepwell.store.changes import MessageSent
from stepwell.worker.state.facts import MessageArrived
from stepwell.worker.state.opening import reopen_later, request_cancel
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork


class MessageDetail(msgspec.Struct, frozen=True, gc=False):
    """The detail of a send operation."""

    run_id: str
    value: str | bytes | None
    key: str | None


class CancelDetail(msgspec.Struct, frozen=True, gc=False):
    """The detail of a send operation that cancels another run."""

    run_id: str
    reason: str | None


async def send(run_id: str, name: str, value: object = None, *, key: str | None = None) -> None:
    """Send a message to another run, exactly once, together with the progress of this one.

    `key`: a second message with the same key to the same run is dropped. Raises `RunNotFound`, and `RunEnded` for a run
    that has ended.
    """
    run = calling_run("send()")
    check_id(run_id)
    check_name(name, "the name of a message")
    if key is not None:
        check_name(key, "the key of a message")
    where = f"the message {name!r} from run {run.run_id!r} to run {run_id!r}"
    given = Given((run_id, value, key), {})
    payload, fingerprint = run.codec.seal_untyped(value, given.args, where)
    await run.perform("send", name, fingerprint, None, MessageDetail(run_id, payload, key), given)


def _open(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    detail: MessageDetail | CancelDetail = operation.detail
    error = _cannot_reach(runs, run, detail.run_id)
    if isinstance(error, RunEnded) and isinstance(detail, MessageDetail) and runs.is_ending(detail.run_id):
        reopen_later(run, operation, work)
        return
    if isinstance(detail, CancelDetail):
        if not isinstance(error, RunNotFound):
            request_cancel(runs, run, detail.run_id, detail.reason, work)
            error = None
    elif error is None:
        change = MessageSent(detail.run_id, operation.name, detail.value, runs.now, detail.key)
        target = runs.loaded(detail.run_id)
        if target is not None:
            target.sending[operation.name] = target.sending.get(operation.name, 0) + 1
        work.then(change, partial(MessageArrived, change))
    if error is None:
        run.deliverable.append(operation.answer(run.key, "sent", runs.now))
    else:
        run.deliverable.append(operation.answer(run.key, "send_failed", runs.now, runs.codec.encode_failure(error)))


def _cannot_reach(runs: Runs, sender: LoadedRun, run_id: str) -> StepwellError | None:
    if runs.loaded(run_id) is not None or runs.being_created(run_id) is not None:
        return None
    record = runs.find(run_id)
    if record is None:
        return RunNotFound(f"run {sender.id!r} sent to run {run_id!r}, which does not exist; start it first")
    if record.status in ENDED:
        return RunEnded(f"run {sender.id!r} sent to run {run_id!r}, which is {record.status}")
    return None


SEND: Final = OperationKind(
    name="send",
    entries=(EntryForm("sent", has_value=False), EntryForm("send_failed", fails_as=RunFailed)),
    open=_open,
)
