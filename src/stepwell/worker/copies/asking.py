"""Queries: a run's own code answers them, on a copy of the run that is made from its journal and then dropped.

So a query can be asked of any run that the file has, whoever executes it and whatever has become of it, on the thread
of whoever asks. What the copy's code would do is refused, and what it does to its variables is lost with it.
ADR 0057.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from stepwell.definitions.definition import Workflow
from stepwell.errors import DeterminismError, HandlerNotFound, QueryFailed, StepwellError
from stepwell.model.journal import OpKind, Payload
from stepwell.model.run import RunSnapshot
from stepwell.replay.divergence import Given
from stepwell.replay.execution import Execution
from stepwell.replay.handlers import Handler, none_of_name
from stepwell.replay.kinds import Kinds
from stepwell.replay.loop_host import Handle
from stepwell.replay.loop_thread import LoopThread
from stepwell.replay.operation import Operation
from stepwell.replay.tasks import is_done
from stepwell.values.codec import Codec
from stepwell.values.converter import Converter
from stepwell.worker.copies.throwaway import Throwaway

T = TypeVar("T")

#: Within which a run is replayed and a handler executes: it raises in the midst of code that does not come to an end.
#: Given what that is.
Bound: TypeAlias = Callable[[str], AbstractContextManager[None]]


class AskedExecution(Execution):
    """A copy of a run that answers a query: once it is `asked`, nothing durable can be called any more."""

    __slots__ = ("asked", "tried")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked = ""
        self.tried: QueryFailed | None = None

    def issue(
        self,
        kind: OpKind,
        name: str,
        fingerprint: int = 0,
        converter: Converter | None = None,
        detail: Any = None,
        given: Given | None = None,
    ) -> Operation:
        """Give a number to an operation, or refuse what a query calls."""
        if self.asked:
            self._refuse_to(kind, name)
        return super().issue(kind, name, fingerprint, converter, detail, given)

    def block_on(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for an operation from plain code; a query cannot wait."""
        if self.asked:
            coroutine.close()
            self._refuse_to("wait", "")
        return super().block_on(coroutine)

    def drop_timer(self, handle: Handle) -> None:
        """Withdraw a timer, unless that is the doing of a query."""
        if not self.asked:
            super().drop_timer(handle)

    def _refuse_to(self, kind: OpKind, name: str) -> NoReturn:
        what = "a blocking call" if kind == "wait" else self.kinds.describe(kind, name)
        self.tried = self.tried or QueryFailed(
            f"{self.asked} called {what}, at {self.location()}. A query reads what the run's code has in its "
            "variables: it can neither call a step nor change or wait for anything. For what does, use an update"
        )
        raise self.tried


class Asker:
    """Asks runs. Safe from any thread, each of which makes copies of its own."""

    def __init__(self, codec: Codec, kinds: Kinds) -> None:
        self._codec: Final = codec
        self._copies: Final = Throwaway(codec, kinds, AskedExecution)

    def query(
        self, snapshot: RunSnapshot, definition: Workflow[..., Any], name: str, given: Payload, bound: Bound
    ) -> Any:
        """Return what a run answers to a query, whose arguments are the payload `given`; `bound` bounds its time.

        Raises what its handler raises, and `HandlerNotFound`, `QueryFailed`, `SerializationError`, `DefinitionError`.
        """
        thread, run_id = LoopThread(), snapshot.record.id
        asked, copies = f"query {name!r} of run {run_id!r}", self._copies
        with thread.entered(), bound(asked), copies.replayed(snapshot, definition, thread) as execution:
            handler = self._handler(execution, name)
            where = f"the arguments of query {name!r} of run {run_id!r}"
            args, kwargs = self._codec.decode_arguments(given, handler.signature, where)
            handler.signature.bind_check(args, kwargs)
            value = self._answer(execution, asked, handler, args, kwargs)
            what = f"the answer of run {run_id!r} to query {name!r}"
            return self._codec.converter(handler.signature.return_annotation).roundtrip(value, what)[1]

    def _handler(self, execution: AskedExecution, name: str) -> Handler:
        handlers, halted = execution.handlers, execution.halted
        if isinstance(halted, DeterminismError) or (halted is not None and handlers is None):
            raise QueryFailed(f"run {execution.run_id!r} cannot be asked with the code that is here: {halted}")
        found = None if handlers is None else handlers.queries.get(name)
        if found is None:
            raise HandlerNotFound(none_of_name(execution.run_id, "query", name, handlers))
        return found

    def _answer(self, execution: AskedExecution, asked: str, handler: Handler, args: Any, kwargs: Any) -> Any:
        execution.asked = asked
        execution.replaying = True  # so its log is silent
        execution.stopped = False
        loop = execution.loop
        loop.is_open = True
        task = loop.create_task(_called(handler.function, args, kwargs), name=execution.asked, context=Context())
        of_task: Any = asyncio.Task  # its methods: see `stepwell.replay.tasks.is_done`
        # What the run's own code could still do comes after that, and none of it matters.
        loop.drain()
        if is_done(task) and execution.tried is None:
            return of_task.result(task)
        raise execution.tried or QueryFailed(
            f"{execution.asked} does not come to an end: it waits for something. A query can read, but not wait"
        )


async def _called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        result = function(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result
    except (KeyboardInterrupt, SystemExit) as error:  # asyncio would let it out, in the midst of a loop of ours
        raise StepwellError(f"a query raised {type(error).__name__}: {error}") from error
