"""What a run in memory waits for, as the file shall say it (`stepwell.model.waits`)."""

from __future__ import annotations

from itertools import islice
from typing import Final

from stepwell.definitions.step_call import StepCall
from stepwell.model.waits import MAX_NAMED, Wait, encode_waits
from stepwell.replay.operation import Operation
from stepwell.worker.loaded_run import LoadedRun

_NOTHING: Final = '[{"kind":"nothing"'


def waits_of(run: LoadedRun) -> str:
    """Return the text for `waiting_on`. Takes the same time however much the run waits for."""
    pending = run.execution.pending
    waits = [_wait(operation) for operation in islice(pending.values(), MAX_NAMED)]
    if len(pending) > MAX_NAMED:
        waits.append(Wait("more", count=len(pending) - MAX_NAMED))
    elif not waits:
        name, place = run.execution.awaited()
        waits.append(Wait("nothing", name=name, at=place))
    return encode_waits(waits)


def waits_for_nothing(text: str) -> bool:
    """Tell whether a text of `waits_of` says that nothing can bring about what the run waits for."""
    return text.startswith(_NOTHING)


def _wait(operation: Operation) -> Wait:
    match operation.kind:
        case "timer":
            return Wait("timer", operation.number, until=operation.detail)
        case "receive":
            return Wait("message", operation.number, operation.name)
        case "step":
            return _wait_for_attempt(operation, operation.detail)
        case _:  # the others are done with the commit that they are issued in
            return Wait("run", operation.number, operation.name)


def _wait_for_attempt(operation: Operation, attempts: StepCall) -> Wait:
    if attempts.retry_at is None:
        limit = attempts.definition.step_options.limit
        return Wait("permit", operation.number, operation.name, limit="" if limit is None else limit.name)
    return Wait(
        "retry",
        operation.number,
        operation.name,
        until=attempts.retry_at,
        attempt=attempts.attempt,
        error=attempts.last_error,
    )
