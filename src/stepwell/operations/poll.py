"""`poll_until`: a step that is called again and again until what it returns fits. An operation of the kind of a step.

The tries are attempts of one call, so the journal has one entry of it: what fitted. How often it was tried, and when it
is due again, stands in one row that is written over (`stepwell.worker.steps.polling`).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from datetime import timedelta
from typing import Any, TypeVar, TypeVarTuple, cast, overload

from stepwell.definitions.definition import is_step
from stepwell.definitions.durable import unwrapped
from stepwell.definitions.step_call import Poll, StepCall
from stepwell.errors import InvalidArgument
from stepwell.model.clock import MICROSECONDS, to_seconds
from stepwell.operations.calling_run import calling_run
from stepwell.replay.operation_issuer import MAX_REFUSALS

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@overload
async def poll_until(
    step: Callable[[*Ts], Coroutine[Any, Any, T]],
    *args: *Ts,
    until: Callable[[T], object],
    every: float | timedelta,
    timeout: float | timedelta | None = None,
) -> T: ...


@overload
async def poll_until(
    step: Callable[[*Ts], T],
    *args: *Ts,
    until: Callable[[T], object],
    every: float | timedelta,
    timeout: float | timedelta | None = None,
) -> T: ...


async def poll_until(
    step: Callable[[*Ts], Any],
    *args: *Ts,
    until: Callable[[Any], object],
    every: float | timedelta,
    timeout: float | timedelta | None = None,
) -> Any:
    """Call a step again and again until its result satisfies a condition, and return that result.

    - `until`: the condition, a plain function of the result, quick and without effects. What it raises is raised here.
    - `every`: seconds, or a timedelta, from one call to the next, counted from the first call, also over crashes and
      restarts. Calls that were missed, for example because one took longer than that, are left out.
    - `timeout`: for all calls together. When it has passed, the step is called once more; then `PollTimeout` is raised.

    However many calls there are, they cost one row of the file and one entry of the journal. A call that fails is
    repeated as the step's retry policy says, whose attempts are counted anew for each call. Arguments by name go into a
    `functools.partial`. Raises the step's error when its attempts are spent, and `InvalidArgument` for what cannot be
    polled.
    """
    run = calling_run("poll_until()")
    definition, first, named = unwrapped(step, (), {})
    if not is_step(definition) or definition.kind != "step":
        raise InvalidArgument(f"poll_until() needs a @step, not {step!r}")
    if definition.step_options.delivery == "at-most-once":
        raise InvalidArgument(f"poll_until() repeats step {definition.name!r}, which is delivered at most once")
    poll = Poll(_checked(until), _duration(every, "every"), None if timeout is None else _duration(timeout, "timeout"))
    given = (*first, *args)
    definition.signature.bind_check(given, named)
    where = f"the arguments of step {definition.name!r} in run {run.run_id!r}"
    if definition.step_options.isolate is not None and run.recorded_next() is None:
        run.codec.check_call(given, named, definition.signature, where)
    fingerprint, given, named = run.codec.seal(given, named, where, definition.signature)
    future: asyncio.Future[Any] = asyncio.Future(loop=run.loop)
    if run.refusals >= MAX_REFUSALS:
        await future  # for ever: see MAX_REFUSALS
    call = StepCall(
        run.key, run.run_id, definition, definition.name, fingerprint, given, named, copy_context(), ahead=run.ahead
    )
    call.poll = poll
    operation = run.issue("step", definition.name, fingerprint, definition.converter(run.codec), call)
    call.operation = operation.number
    return await run.outcome_of(operation, future)


def _checked(until: object) -> Callable[[Any], object]:
    if not callable(until) or inspect.iscoroutinefunction(until):
        raise InvalidArgument(
            f"until of poll_until() must be a plain function of what the step returns, not {until!r}: what has to be "
            "awaited belongs into the step"
        )
    return cast("Callable[[Any], object]", until)


def _duration(value: float | timedelta, what: str) -> int:
    seconds = to_seconds(value, f"{what} of poll_until()")
    microseconds = int(seconds * MICROSECONDS)
    if microseconds < 1:
        raise InvalidArgument(f"{what} of poll_until() must be more than 0")
    return microseconds
