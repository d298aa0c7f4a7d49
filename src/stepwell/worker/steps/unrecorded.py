"""Results that cannot be recorded: no JSON form, too large, not as annotated.

The step has acted. Executing it once more acts twice, so that is never done by itself with the same code: not by the
next engine that opens the file, nor by a worker that takes over from another one. What is recorded of such an attempt
says which code it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from stepwell.definitions.code_identity import code_fingerprint
from stepwell.definitions.step_call import History, StepCall
from stepwell.errors import ResultNotSerializable, SerializationError, StepFailed, StepInterrupted
from stepwell.replay.operation import Operation
from stepwell.replay.source_location import described
from stepwell.values.failure import failure_from_json


def unrecorded(attempts: StepCall, error: BaseException) -> ResultNotSerializable:
    """Return what halts the run of a step, given what is wrong with its result."""
    return ResultNotSerializable(
        f"{error}. The step has acted, but its result is not recorded. Mend it, "
        f"{described(attempts.definition.function)}: once its code is another one, it is executed once more. With the "
        "same code it is only when you resume the run",
        where=error.where if isinstance(error, SerializationError) else "",
        path=error.path if isinstance(error, SerializationError) else "$",
    )


def interrupted(attempts: StepCall, error: SerializationError) -> StepInterrupted:
    """Return what a step of at-most-once raises, given what is wrong with its result."""
    interruption = StepInterrupted(
        f"step {attempts.name!r} of run {attempts.run_id!r} has acted, but its result cannot be recorded: {error}. It "
        "is delivered at most once, so it is not repeated. Find out what it did, then decide in the workflow"
    )
    interruption.__cause__ = error
    return interruption


def still_unrecorded(
    issued: Iterable[Operation], histories: dict[int, History]
) -> tuple[ResultNotSerializable, StepCall] | None:
    """Return what still halts a run: an operation that its code issued whose result the same code could not give."""
    for operation in issued:
        history = histories.get(operation.number)
        if operation.kind != "step" or history is None or not history.refused:
            continue
        attempts = cast("StepCall", operation.detail)
        failure = history.refused.get(code_fingerprint(attempts.definition))
        if failure is not None:
            return unrecorded(attempts, failure_from_json(failure, StepFailed)), attempts
    return None
