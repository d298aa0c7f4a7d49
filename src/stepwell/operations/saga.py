"""`saga`: what undoes work is registered with the work, and called in reverse when the code does not get through.

No operation of its own: it calls the steps and workflows that it was given, so what undoes work is as durable as the
work. Nothing is recorded when something is registered, either: replay does that again.

What makes a saga undo is an exception that the author let out of the block, or a cancellation. A mistake in the code is
neither (ADR 0033, ADR 0053): the run is halted before anything is undone, and goes on when the code was mended.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, Self, cast

from stepwell.definitions.definition import is_durable, is_workflow
from stepwell.definitions.durable import unwrapped
from stepwell.errors import InvalidArgument, StepwellError, UndoFailed
from stepwell.model.undone import undoes
from stepwell.operations.calling_run import calling_run
from stepwell.replay.anyio_support import shield_scope
from stepwell.replay.operation import continued_by
from stepwell.shown import shown

if TYPE_CHECKING:
    from stepwell.replay.execution import Execution

P = ParamSpec("P")


class _Undo(NamedTuple):
    """One thing to do: a step or a workflow (`is_durable`), or a function of the workflow's code."""

    callee: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    is_durable: bool


class Compensations:
    """What undoes the work of a saga, in the order of registration. `Saga` and `stepwell.sync.Saga` are its forms."""

    __slots__ = ("_first", "_is_over", "_is_past_pivot", "_run", "_undos")

    def __init__(self) -> None:
        self._run: Execution | None = None
        self._first = 0  # the first operation of the block
        self._undos: list[_Undo] = []
        self._is_past_pivot = False
        self._is_over = False

    def undo(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Register what undoes work: a step or a workflow, and its arguments, as they are now.

        It is called when an exception or a cancellation leaves the block of the saga, after all that was registered
        later. A function of the workflow's own code is called as well, ``def`` or ``async def``. After `pivot` nothing
        is kept. Raises `InvalidArgument` for what cannot be called, `DefinitionError` or `SerializationError` for
        arguments that do not fit or cannot be written, and `StepwellError` outside of the saga's block.
        """
        run = self._entered("undo()")
        undo = _checked(run, function, args, kwargs)
        if not self._is_past_pivot:
            self._undos.append(undo)

    def pivot(self) -> None:
        """Pass the point of no return: nothing of this saga is undone any more, whatever happens."""
        self._entered("pivot()")
        self._is_past_pivot = True
        self._undos.clear()

    def _entered(self, what: str) -> Execution:
        run = calling_run(f"saga.{what}")
        if self._run is not run:
            raise StepwellError(
                f"run {run.run_id!r}: saga.{what} was called {_before(self._run)}, at {run.location()}. A saga belongs "
                "to the block of the `with` statement that makes it: `async with stepwell.saga() as saga: …`"
            )
        if self._is_over:
            raise StepwellError(
                f"run {run.run_id!r}: saga.{what} was called after the block of the saga, at {run.location()}. Nothing "
                "would be undone any more: wait within the block for all that it starts, in a TaskGroup, say"
            )
        return run

    def _enter(self, what: str) -> Self:
        run = calling_run(what)
        if self._run is not None:
            raise StepwellError(f"run {run.run_id!r}: a saga is entered once; make another one with {what}")
        self._run, self._first = run, run.issued_so_far + 1
        return self

    def _leave(self, error: BaseException | None) -> Coroutine[Any, Any, None] | None:
        """Return what has to be awaited when the block was left with an exception, None where nothing is undone.

        What is not the code's own end (it is closed because the run leaves memory, it is halted) undoes nothing, nor
        does `continue_as_new`.
        """
        run = cast("Execution", self._run)
        ended = cast("BaseException", error) if isinstance(error, _UNDOING) else None
        if self._undos and not run.stopped and ended is not None and continued_by(ended) is None:
            return self._undo_for(run, ended)
        self._is_over = True
        return None

    async def _undo_for(self, run: Execution, error: BaseException) -> None:
        """Undo, in reverse, what was registered; raise what follows from it in place of `error`."""
        try:
            if run.halt_for_mistake(error):
                await run.loop.create_future()  # for ever: nothing of a halted run's code executes
            await self._undo_all(run, error)
        finally:
            self._is_over = True

    async def _undo_all(self, run: Execution, error: BaseException) -> None:
        failed: list[Exception] = []
        done: list[str] = []
        task = run.loop.create_task(self._undoing(run, failed, done))
        cancelled: asyncio.CancelledError | None = None
        with shield_scope():
            while not task.done():
                try:
                    await asyncio.wait([task])
                except asyncio.CancelledError as request:  # heard when all is undone
                    cancelled = request
        if failed:
            original = [error] if isinstance(error, Exception) else []
            number = len(failed) + len(done)
            raise UndoFailed(
                f"{len(failed)} of {number} {'calls' if number > 1 else 'call'} that undo what a saga of run "
                f"{run.run_id!r} had done failed; look at each, and see to what they were to undo by hand",
                [*original, *failed],
            ) from error
        if cancelled is not None and not isinstance(error, asyncio.CancelledError):
            raise cancelled from error

    async def _undoing(self, run: Execution, failed: list[Exception], done: list[str]) -> None:
        """Call all that is registered, the last first; tasks of the block that go on may register more meanwhile."""
        while self._undos:
            undo = self._undos.pop()
            run.undoing.append(undoes(self._first, undo.name))
            try:
                await _call(run, undo)
            except asyncio.CancelledError as error:
                stray = StepwellError(f"run {run.run_id!r}: undoing with {undo.name!r} was cancelled")
                stray.__cause__ = error
                failed.append(stray)
            except Exception as error:
                if run.stopped:
                    raise
                if run.halt_for_mistake(error):
                    await run.loop.create_future()
                error.add_note(f"while undoing, with {undo.name!r}, what a saga of run {run.run_id!r} had done")
                failed.append(error)
            else:
                done.append(undo.name)


#: What makes a saga undo. Not `GeneratorExit`, with which code is closed that goes on later, nor Ctrl-C.
_UNDOING: Final = (Exception, BaseExceptionGroup, asyncio.CancelledError)


def _before(owner: Execution | None) -> str:
    return "before the block of the saga was entered" if owner is None else f"on a saga of run {owner.run_id!r}"


def _checked(run: Execution, function: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Undo:
    definition, args, kwargs = unwrapped(function, args, kwargs)
    if is_durable(definition):
        definition.signature.bind_check(args, kwargs)
        if is_workflow(definition):
            definition.check_can_be_started()
        where = f"the arguments of {definition.kind} {definition.name!r}, which run {run.run_id!r} gave to saga.undo()"
        _, args, kwargs = run.codec.seal(args, kwargs, where, definition.signature)
        return _Undo(definition, args, kwargs, definition.name, is_durable=True)
    if not callable(definition):
        if inspect.iscoroutine(definition):
            definition.close()
        raise InvalidArgument(
            f"saga.undo() takes a step, or another function, and its arguments, not {shown(definition)}: write "
            "`saga.undo(refund, receipt)`, without calling it"
        )
    try:
        inspect.signature(definition).bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidArgument(f"saga.undo(): {definition!r} cannot be called like that: {error}") from error
    except ValueError:  # a built-in, which tells nobody what it takes
        pass
    return _Undo(definition, args, kwargs, getattr(definition, "__qualname__", repr(definition)), is_durable=False)


async def _call(run: Execution, undo: _Undo) -> None:
    if undo.is_durable:
        await run.call_async(undo.callee, undo.args, undo.kwargs)
        return
    result = undo.callee(*undo.args, **undo.kwargs)
    if inspect.isawaitable(result):
        await result


class Saga(Compensations):
    """A block of work that is undone if it fails or is cancelled: ``async with stepwell.saga() as saga``."""

    __slots__ = ()

    async def __aenter__(self) -> Self:
        """Begin the block."""
        return self._enter("stepwell.saga()")

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """End the block; undo its work where an exception or a cancellation ended it, which goes on after that."""
        undoing = self._leave(error)
        if undoing is not None:
            await undoing


def saga() -> Saga:
    """Make a block of work that is undone if it fails or is cancelled; use it with ``async with``.

    An exception that leaves the block, and a cancellation of the run, have everything called that was registered with
    `Saga.undo`, in reverse, each to its end; then the exception goes on. Where some of that failed, the others are
    called all the same, and `UndoFailed` is raised, a group of the exception and of those failures. A mistake in the
    workflow's code (see `WorkflowCodeError`) undoes nothing: the run is halted, to go on when the code was mended.
    """
    calling_run("saga()")
    return Saga()
