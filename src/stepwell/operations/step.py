"""Steps, in workflow code: the call of one, and why a run waits for its next attempt.

A step is executed, so what is done about one is the worker's own business: `stepwell.worker.steps.step_dispatch` hands
it out, `stepwell.worker.arriving.step_outcomes` says what follows from an attempt.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stepwell.definitions.step_call import StepCall
from stepwell.errors import StepFailed
from stepwell.model.journal import EntryForm
from stepwell.model.waits import Wait
from stepwell.replay.operation_issuer import MAX_REFUSALS
from stepwell.values.fingerprint import quick_fingerprint
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.definitions.definition import Step
    from stepwell.replay.operation import Operation
    from stepwell.replay.operation_issuer import OperationIssuer


async def _call(run: OperationIssuer, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # This is `perform` once more, in line, because every step of every run passes here.
    future: asyncio.Future[Any] = asyncio.Future(loop=run.loop)
    operation = run.issue_recorded(step, args, kwargs) if run.replaying else None
    if operation is None:
        codec = run.codec
        # `Codec.seal` begins with this look; here it saves most steps that call, and a `_Where`: 1 % of a step.
        fingerprint = None if kwargs or step.step_options.isolate is not None else quick_fingerprint(args)
        if fingerprint is None:
            where = _Where(step.name, run.run_id)
            if step.step_options.isolate is not None and run.recorded_next() is None:
                codec.check_call(args, kwargs, step.signature, where)
            fingerprint, args, kwargs = codec.seal(args, kwargs, where, step.signature)
        if run.refusals >= MAX_REFUSALS:
            await future  # for ever: see MAX_REFUSALS
        attempts = StepCall(run.key, run.run_id, step, step.name, fingerprint, args, kwargs, copy_context())
        operation = run.issue("step", step.name, fingerprint, step.converter(codec), attempts)
        attempts.operation = operation.number
        if run.ahead:
            attempts.ahead = run.ahead
    operation.future = future
    try:
        return await future
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            run.withdraw(operation)
        # The future holds the error, and the error this frame: a cycle for the collector otherwise.
        del future, operation
        raise


class _Where(msgspec.Struct, gc=False):
    """Text that is made only when an error needs it: every step call would pay for an f-string otherwise."""

    step: str
    run_id: str

    def __str__(self) -> str:
        return f"the arguments of step {self.step!r} in run {self.run_id!r}"


def _waits(operation: Operation) -> Wait:
    call: StepCall = operation.detail
    if call.retry_at is None:
        limit = call.definition.step_options.limit
        return Wait("permit", operation.number, operation.name, limit="" if limit is None else limit.name)
    if call.poll is not None and not call.last_error:
        return Wait("poll", operation.number, operation.name, until=call.retry_at, attempt=call.poll.tries)
    return Wait(
        "retry", operation.number, operation.name, until=call.retry_at, attempt=call.attempt, error=call.last_error
    )


STEP: Final = OperationKind(
    name="step",
    entries=(
        EntryForm("step"),  # it returned; the value is its result
        EntryForm("step_failed", fails_as=StepFailed),  # its last attempt failed
        # An attempt failed and another follows; the value is an `AttemptFailure`.
        EntryForm("attempt_failed", is_delivered=False),
        # A long or at-most-once attempt is under way, or one was `CUT_OFF`.
        EntryForm("step_started", is_delivered=False, has_value=False),
    ),
    shows_arguments=True,
    waits=_waits,
    calls={"step": _call, "transaction": _call},
)
