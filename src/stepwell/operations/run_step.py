"""`run_step`: a step that is written where it is called, of any callable, closures included.

It is a step like any other to the journal, the worker and the executors: what differs is what replay can check. A
closure has in it what no journal could compare, and its arguments may be anything (a client, an agent, an open model),
so it is known by its place in the order of operations and by its name. The result is recorded as that of any step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict, TypeVar, TypeVarTuple, Unpack, cast, overload

from stepwell.definitions.definition import Step
from stepwell.definitions.durable import Definition, unwrapped
from stepwell.definitions.queues import Limit
from stepwell.definitions.step_call import StepCall
from stepwell.definitions.step_options import Delivery, StepOptions, step_options
from stepwell.errors import DefinitionError, InvalidArgument
from stepwell.model.names import check_name
from stepwell.model.retry import Retry
from stepwell.operations.calling_run import calling_run
from stepwell.replay.operation_issuer import MAX_REFUSALS
from stepwell.shown import shown
from stepwell.values.codec import Codec
from stepwell.values.converter import Converter

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")

#: The fingerprint of every call: its arguments are not recorded.
_NO_FINGERPRINT: Final = 0


class _FromAnnotation:
    """The type of `ANNOTATED`."""

    def __repr__(self) -> str:
        """Show in signatures as what it means."""
        return "its return annotation"


#: Stands for the type that the callable says that it returns.
ANNOTATED: Final[Any] = _FromAnnotation()


class InlineStep(Step[..., Any]):
    """A step of a callable that was never declared as one. `returns` is the type of its result."""

    __slots__ = ("_returns",)

    def __init__(self, function: Callable[..., Any], name: str, options: StepOptions, returns: Any) -> None:
        super().__init__(function, name, options)
        self._returns = self.signature.return_annotation if returns is ANNOTATED else returns

    def converter(self, codec: Codec) -> Converter:
        """Return what encodes and decodes the result."""
        return codec.converter(self._returns)


class InlineOptions(TypedDict, total=False):
    """The keyword arguments of `run_step` beside `type`, typed once for all its signatures."""

    retry: Retry | None
    timeout: float | timedelta | None
    deadline: float | timedelta | None
    delivery: Delivery
    isolate: Literal["process"] | None
    limit: Limit | None
    summary: str | None
    heartbeat_timeout: float | timedelta | None


@overload
async def run_step(
    name: str,
    function: Callable[[*Ts], Any],
    /,
    *args: *Ts,
    type: type[U],
    **options: Unpack[InlineOptions],
) -> U: ...


@overload
async def run_step(
    name: str,
    function: Callable[[*Ts], Coroutine[Any, Any, T]],
    /,
    *args: *Ts,
    **options: Unpack[InlineOptions],
) -> T: ...


@overload
async def run_step(
    name: str,
    function: Callable[[*Ts], T],
    /,
    *args: *Ts,
    **options: Unpack[InlineOptions],
) -> T: ...


@overload
async def run_step(
    name: str,
    function: Callable[[*Ts], Any],
    /,
    *args: *Ts,
    type: Any,
    **options: Unpack[InlineOptions],
) -> Any: ...


async def run_step(
    name: str,
    function: Callable[[*Ts], Any],
    /,
    *args: *Ts,
    type: Any = ANNOTATED,
    retry: Retry | None = None,
    timeout: float | timedelta | None = None,
    deadline: float | timedelta | None = None,
    delivery: Delivery = "at-least-once",
    isolate: Literal["process"] | None = None,
    limit: Limit | None = None,
    summary: str | None = None,
    heartbeat_timeout: float | timedelta | None = None,
) -> Any:
    """Execute any callable as a step, ``def`` or ``async def``, and return its result, which is recorded once.

    A lambda, a closure, a bound method, a partial: it needs no name of its own and no `@step`. Its arguments may be
    anything, since they are not recorded; a replay checks the order of the calls and their names.

    - `name`: what the journal calls it; the same in every replay.
    - `type`: the type of the result; without it, the callable's return annotation. Without either, the result must be
      plain JSON data.
    - `retry`, `timeout`, `deadline`, `delivery`, `limit`, `heartbeat_timeout`: as for `stepwell.step`. A callable
      cannot be isolated.
    - `summary`: a line for people, shown with the step in the journal while it executes and after that.

    Raises what the callable raised in its last attempt; `DefinitionError` if it is not callable, is a step or workflow
    already, or cannot be called with these arguments; `InvalidArgument` for an unusable option.
    """
    run = calling_run("run_step()")
    check_name(name, "the name of a step")
    if isolate is not None:
        raise InvalidArgument(
            f"run_step({name!r}): a child process imports a step by its name, which a closure does not have; declare a "
            "function of a module with @step(isolate='process') and call that"
        )
    options = step_options(retry, timeout, deadline, delivery, None, limit, summary, heartbeat_timeout)
    definition = InlineStep(_checked(name, function), name, options, type)
    definition.signature.bind_check(args, {})
    future: asyncio.Future[Any] = asyncio.Future(loop=run.loop)
    if run.refusals >= MAX_REFUSALS:
        await future  # for ever: see MAX_REFUSALS
    call = StepCall(run.key, run.run_id, definition, name, _NO_FINGERPRINT, args, {}, copy_context(), ahead=run.ahead)
    operation = run.issue("step", name, _NO_FINGERPRINT, definition.converter(run.codec), call)
    call.operation = operation.number
    return await run.outcome_of(operation, future)


def _checked(name: str, function: object) -> Callable[..., Any]:
    """Return a callable that can be a step; raise `DefinitionError` for another object."""
    inner, _, _ = unwrapped(function, (), {})
    if isinstance(inner, Definition):
        found = cast("Definition[..., Any]", inner)
        await_ = "await " if found.is_async else ""
        raise DefinitionError(
            f"run_step({name!r}) was given {found!r}, which is recorded already: call it, `{await_}{found.__name__}(…)`"
        )
    if asyncio.iscoroutine(function):
        function.close()
        raise DefinitionError(
            f"run_step({name!r}) was given a coroutine, which can be awaited only once, and not again where an attempt "
            "fails: pass the function and its arguments, run_step(name, function, argument)"
        )
    if not callable(function) or isinstance(function, type):
        raise DefinitionError(f"run_step({name!r}) needs a function and its arguments, not {shown(function)}")
    return cast("Callable[..., Any]", function)
