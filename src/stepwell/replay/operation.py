"""What the code of a run asks for, and how it ends: the values that an execution hands to the worker."""

from __future__ import annotations

import asyncio
from typing import Any

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


class CodeOutcome:
    """How the code ended: with a `result`, with an `error`, or, both unset and `cancelled` true, by cancellation."""

    __slots__ = ("cancelled", "error", "result")

    def __init__(self, *, result: Any = None, error: BaseException | None = None, cancelled: bool = False) -> None:
        self.result = result
        self.error = error
        self.cancelled = cancelled
