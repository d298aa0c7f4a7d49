"""What the code of a run answers to others: the queries and updates that it has registered, by name.

Code registers them while it executes (see `stepwell.operations.handlers`), so a replay finds the same ones. They are
local functions, made anew in each replay of each run; what is known of a function's parameters is kept by its code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import CodeType, FunctionType
from typing import Any, Final, Literal, TypeAlias

from stepwell.values.signature import Signature

HandlerKind: TypeAlias = Literal["query", "update"]

#: Signatures by the code of functions, with the annotations that they were made of: a function within another one may
#: name other classes each time. By the module as well: code of two modules is equal where it stands in the same line.
_signatures: Final[dict[tuple[str, CodeType], tuple[dict[str, Any], Signature]]] = {}
#: The attributes of functions whose signature is not that of their code.
_OTHERWISE: Final = ("__wrapped__", "__signature__")

#: What the task of an update executes. Takes the run, the handler, the number of the operation, and the arguments.
Answering: TypeAlias = Callable[[Any, "Handler", int, tuple[Any, ...], dict[str, Any]], Coroutine[Any, Any, None]]


class Handler:
    """A function that answers queries, or updates, of one name.

    Of an update `validate` may refuse it, and `answering` is what calls the function and has its end recorded.
    """

    __slots__ = ("answering", "function", "name", "signature", "validate")

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        signature: Signature,
        validate: Callable[..., Any] | None,
        answering: Answering,
    ) -> None:
        self.name = name
        self.function = function
        self.signature = signature
        self.validate = validate
        self.answering = answering


class Handlers:
    """The handlers of one run's code.

    `running` are the tasks of the updates that it has taken on and not answered yet; once `closed`, it takes on no more
    of them.
    """

    __slots__ = ("closed", "queries", "running", "updates")

    def __init__(self) -> None:
        self.closed = False
        self.running: list[asyncio.Task[None]] = []
        self.queries: dict[str, Handler] = {}
        self.updates: dict[str, Handler] = {}

    def of_kind(self, kind: HandlerKind) -> dict[str, Handler]:
        """Return the handlers of one kind, by name."""
        return self.queries if kind == "query" else self.updates

    async def finish(self) -> None:
        """Wait until the updates have ended that were taken on; where that is cancelled, cancel them first."""
        self.closed = True
        try:
            while self.running:
                await asyncio.wait(list(self.running))
        except asyncio.CancelledError:
            await self.cancel()
            raise

    async def cancel(self) -> None:
        """Cancel the updates that were taken on, and wait until they have ended, whatever else is asked meanwhile."""
        self.closed = True
        for task in self.running:
            task.cancel()
        while self.running:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(list(self.running))


def signature_of(function: Callable[..., Any]) -> Signature:
    """Return the signature of a handler; raises `DefinitionError` where Python cannot tell it."""
    # A method, or what a decorator made (one code for all that it decorates), takes other arguments than its code does.
    if not isinstance(function, FunctionType) or not vars(function).keys().isdisjoint(_OTHERWISE):
        return Signature(function)
    annotations = function.__annotations__
    place = function.__module__, function.__code__
    known = _signatures.get(place)
    if known is None or known[0] != annotations:
        known = annotations, Signature(function)
        known[1].detach()
        _signatures[place] = known
    return known[1]


def none_of_name(run_id: str, kind: HandlerKind, name: str, handlers: Handlers | None) -> str:
    """Say that a run has no handler of a name, and which it has."""
    names = sorted(() if handlers is None else handlers.of_kind(kind))
    known = f"it has: {', '.join(names)}" if names else "it has none so far"
    plural = "queries" if kind == "query" else "updates"
    return (
        f"run {run_id!r} has no {kind} {name!r}; {known}. Its code registers {plural} with @stepwell.{kind}, before "
        "the first thing that it waits for"
    )
