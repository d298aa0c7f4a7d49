"""What the code of a run asks for, and how it ends: the values that an execution hands to the worker."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec

from stepwell.model.journal import Entry, EntryKind, OpKind, Payload
from stepwell.replay.loop_host import Handle
from stepwell.values.converter import Converter


class Operation(msgspec.Struct, eq=False):
    """Something durable that the code asked for and waits for.

    `detail` depends on the kind: the `StepCall` of a step, the due time of a timer, for the others see
    `stepwell.operations`. `converter` reads what is delivered; it is None where that is nothing. A timer has a
    `handle`, the others a `future`.
    """

    number: int
    kind: OpKind
    name: str
    fingerprint: int
    converter: Converter | None
    detail: Any
    future: asyncio.Future[Any] | None = None
    handle: Handle | None = None

    def __str__(self) -> str:
        """Name what is delivered, for messages of the codec."""
        return f"the result of {self.kind} {self.name!r}"

    def answer(self, run: int, kind: EntryKind, at: int, value: Payload = None) -> Entry:
        """Make the entry that answers it in the run with this key."""
        return Entry(run, self.number, kind, self.name, self.fingerprint, at, value)


class ContinuedAsNew(BaseException):
    """Raised in the code to end its chapter: the run goes on with `input` (see `stepwell.continue_as_new`).

    No `Exception`: code that catches what went wrong does not mean this.
    """

    def __init__(self, payload: Payload) -> None:
        super().__init__("the run goes on as new")
        self.input = payload


class CodeOutcome:
    """How the code ended: with a `result`, with an `error`, or, both unset and `cancelled` true, by cancellation.

    Or it did not end, but goes on as new: `continued` says with what.
    """

    __slots__ = ("cancelled", "continued", "error", "result")

    def __init__(
        self,
        *,
        result: Any = None,
        error: BaseException | None = None,
        cancelled: bool = False,
        continued: ContinuedAsNew | None = None,
    ) -> None:
        self.result = result
        self.error = error
        self.cancelled = cancelled
        self.continued = continued


def continued_by(error: BaseException) -> ContinuedAsNew | None:
    """Return what an exception says of going on as new: itself, or all that a group of a `TaskGroup` has.

    Where something else went wrong as well, the run fails with that.
    """
    if isinstance(error, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return continued_by(members[0]) if len(members) == 1 else None
    return error if isinstance(error, ContinuedAsNew) else None
