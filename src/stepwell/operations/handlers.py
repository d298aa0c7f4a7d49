"""`query` and `update`: what the code of a run answers to others while the run lives, and queries after that as well.

To register a handler is no operation: nothing is recorded, and a replay comes by the same line. A query is asked of a
copy of the run (`stepwell.worker.copies.asking`). An update is an entry of the journal, whose operation is that of the
call of the handler; what the handler ends with is an operation of its own, by which the answer reaches whoever asked.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import msgspec

from stepwell.definitions import invoke
from stepwell.definitions.callables import is_coroutine_function
from stepwell.definitions.definition import is_durable
from stepwell.definitions.durable import as_definition
from stepwell.definitions.step_info import RunContext, current_here
from stepwell.errors import InvalidArgument, RunCancelled, StepwellError
from stepwell.model.journal import EntryForm, Payload
from stepwell.model.names import check_name
from stepwell.operations.calling_run import calling_run, calling_run_or_none
from stepwell.replay.handlers import Handler, HandlerKind, Handlers, signature_of
from stepwell.replay.operation import ContinuedAsNew
from stepwell.shown import shown
from stepwell.store.changes import UpdateAnswered
from stepwell.worker.state import facts
from stepwell.worker.state.failure_log import update_failed
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.replay.execution import Execution
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork

F = TypeVar("F", bound=Callable[..., Any])


@overload
def query(function: F, /) -> F: ...
@overload
def query(*, name: str | None = None) -> Callable[[F], F]: ...


def query(function: Callable[..., Any] | None = None, /, *, name: str | None = None) -> Any:
    """Let a function in the workflow's body answer queries: ``@stepwell.query`` above it.

    `Run.query` calls it by its name, or by `name`, on a copy of the run that is made from its journal. So runs in any
    state can be asked, and changes that it makes to variables have no effect. It may be ``async def``, and must neither
    call steps nor wait. Outside of any run it is the plain function.
    """

    def register(given: Callable[..., Any]) -> Callable[..., Any]:
        return _register("query", given, name, None)

    return register if function is None else register(function)


@overload
def update(function: F, /) -> F: ...
@overload
def update(*, name: str | None = None, validate: Callable[..., object] | None = None) -> Callable[[F], F]: ...


def update(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    validate: Callable[..., object] | None = None,
) -> Any:
    """Let a function in the workflow's body answer updates: ``@stepwell.update`` above it.

    `Run.update` calls it, by its name or by `name`, as a task of the run: it may change variables, call steps and wait,
    and what it returns, or raises, is the caller's answer. `validate`, a plain function that changes nothing and calls
    no step, is called first with the same arguments: if it raises, the update is refused, and nothing of it is recorded
    in the journal. Before a run returns, or continues as new, it finishes the updates that it has begun; if it fails or
    is cancelled, they are cancelled. Outside of any run it is the plain function.
    """

    def register(given: Callable[..., Any]) -> Callable[..., Any]:
        return _register("update", given, name, validate)

    return register if function is None else register(function)


def _register(
    kind: HandlerKind, function: Any, name: str | None, validate: Callable[..., object] | None
) -> Callable[..., Any]:
    run = calling_run_or_none()
    if run is None and isinstance(current_here(), RunContext):  # a workflow that is called as a plain function
        return function  # type: ignore[no-any-return]
    run = calling_run(f"@stepwell.{kind}")
    for given in (function, validate):
        if given is not None and (not callable(given) or is_durable(as_definition(given))):
            raise InvalidArgument(f"@stepwell.{kind} takes a function of the workflow's own code, not {shown(given)}")
    if validate is not None and is_coroutine_function(validate):
        raise InvalidArgument(f"validate= takes a plain function, which looks and does not wait, not {shown(validate)}")
    known_as = check_name(str(getattr(function, "__name__", "")) if name is None else name, f"the name of a {kind}")
    if run.handlers is None:
        run.handlers = Handlers()
    handler = Handler(known_as, function, signature_of(function), validate, _answered)
    run.handlers.of_kind(kind)[known_as] = handler
    return function  # type: ignore[no-any-return]


# --- how an update ends -----------------------------------------------------------------------------------------------


class AnswerDetail(msgspec.Struct, frozen=True, gc=False):
    """The detail of an answer: the operation of the update, and what it ended with, `error` where it failed."""

    op: int
    payload: Payload
    error: BaseException | None = None
    was_cancelled: bool = False


async def _answered(run: Execution, handler: Handler, op: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Call the handler of an update, and have its end recorded: all that its task does."""
    try:
        result = invoke.handler(handler.function, args, kwargs)
        if inspect.isawaitable(result):
            result = await result
        where = f"the answer of run {run.run_id!r} to update {handler.name!r}"
        detail = AnswerDetail(op, run.codec.encode_untyped(result, where))
    except asyncio.CancelledError:
        if run.stopped:
            raise
        ended = RunCancelled(
            f"update {handler.name!r} of run {run.run_id!r} was cancelled before its handler had ended"
        )
        detail = AnswerDetail(op, None, ended, was_cancelled=True)
    except ContinuedAsNew:
        asked = f"update {handler.name!r} of run {run.run_id!r}"
        advice = "Have the handler set a variable, and the workflow's own code go on as new"
        detail = AnswerDetail(op, None, StepwellError(f"{asked} called continue_as_new() in its handler. {advice}"))
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # asyncio would let the latter two out
        if run.stopped:
            raise
        detail = AnswerDetail(op, None, error)
    await _record(run, handler.name, detail)


async def _record(run: Execution, name: str, detail: AnswerDetail) -> None:
    """Have an answer recorded, also where the run fails meanwhile: what the handler did has been done."""
    operation = run.issue("answer", name, 0, None, detail)
    operation.future = future = asyncio.Future[Any](loop=run.loop)
    while not future.done():
        try:
            await asyncio.wait([future])  # which leaves it alone
        except asyncio.CancelledError:
            if run.stopped:
                raise


def _open(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    detail: AnswerDetail = operation.detail
    failed = detail.error is not None
    payload = detail.payload if detail.error is None else runs.codec.encode_failure(detail.error)
    if detail.error is not None and not detail.was_cancelled:
        workflow = run.execution.definition.name
        work.extra.lines.append(update_failed(run.key, run.id, workflow, operation.name, detail.error))
    change = UpdateAnswered(run.key, runs.now, payload, op=detail.op, failed=failed)
    work.then(change, partial(facts.UpdateEnded, run.key, payload, failed))
    run.deliverable.append(operation.answer(run.key, "update_failed" if failed else "answered", runs.now, payload))


ANSWER: Final = OperationKind(
    name="answer",
    entries=(EntryForm("answered"), EntryForm("update_failed", is_failure=True)),
    words="the answer to update",
    open=_open,
)
