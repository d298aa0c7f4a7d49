"""What a store keeps of promises: the changes to them, and what is read of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from stepwell.model.journal import Payload
from stepwell.model.promise import PromiseFacts, PromiseRecord


class PromiseMade(msgspec.Struct, frozen=True, gc=False):
    """Operation `op` of a run is a promise, which can be answered until `deadline_at` (None: as long as it waits)."""

    token: str
    run: int
    op: int
    at: int
    deadline_at: int | None
    form: Payload


class PromiseAnswered(msgspec.Struct, frozen=True):
    """Somebody answers a promise. The result is `Answered`: where it cannot be answered (any more) nothing is changed.

    That is decided here, within the transaction: a promise is answered once. Whoever carries the run on is told,
    and the run's acts have who answered it, and why.
    """

    token: str
    state: Literal["resolved", "rejected"]
    answer: Payload
    at: int
    by: str
    reason: str | None = None


class PromiseTimedOut(msgspec.Struct, frozen=True, gc=False):
    """Where the time of a promise has passed by `at`, it has timed out. One that was answered before stays so."""

    token: str
    at: int


class Answered(msgspec.Struct, frozen=True):
    """What became of a `PromiseAnswered`: whether it `is_done`, and the row as it was before; None: no such token."""

    is_done: bool
    before: PromiseRecord | None


class PromiseReads(Protocol):
    """What both read sides tell of promises."""

    def promise(self, token: str) -> PromiseRecord | None:
        """Return the promise with this token, or None."""
        ...

    def promises_of(self, run: int, ops: Sequence[int]) -> list[PromiseFacts]:
        """Return those of a run's operations that are promises, as they are now."""
        ...

    def promises_open(self, after: int, limit: int, run: int | None = None) -> list[PromiseRecord]:
        """Return the open promises of runs that have not ended, or of one `run`, the oldest first.

        They are those with numbers above `after`.
        """
        ...
