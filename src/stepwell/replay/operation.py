"""What the code of a run asks for, and how it ends: the values that an execution hands to the worker."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from stepwell.definitions.queues import QueueSlot
from stepwell.model.journal import OpKind, Payload
from stepwell.replay.loop_host import Handle
from stepwell.values.converter import Converter


class Operation(msgspec.Struct, eq=False):
    """Something durable that the code asked for and waits for.

    `detail` depends on the kind: the `StepCall` of a step, the due time of a timer, for the others see
    `stepwell.operations.functions`. `converter` reads what is delivered; it is None where that is nothing. A timer has
    a `handle`, the others a `future`.
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


class ChildStart:
    """The detail of a start operation: which run to create. `child_id` is None where the engine shall choose it.

    `entry` says how it stands in a queue, `count` how many items it brings to a batch.
    """

    __slots__ = ("attached", "child_id", "count", "entry", "input", "workflow")

    def __init__(
        self,
        workflow: str,
        payload: Payload,
        *,
        child_id: str | None,
        attached: bool,
        entry: QueueSlot | None = None,
        count: int = 1,
    ) -> None:
        self.workflow = workflow
        self.input = payload
        self.child_id = child_id
        self.attached = attached
        self.entry = entry
        self.count = count


class CodeOutcome:
    """How the code ended: with a `result`, with an `error`, or, both unset and `cancelled` true, by cancellation."""

    __slots__ = ("cancelled", "error", "result")

    def __init__(self, *, result: Any = None, error: BaseException | None = None, cancelled: bool = False) -> None:
        self.result = result
        self.error = error
        self.cancelled = cancelled
