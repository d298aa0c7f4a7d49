"""What a store keeps of streams: the changes to them, and what is read of them.

A stream belongs to a run and has a name. Its items are numbered from 0, its *offsets*, in the order of their commits.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from stepwell.model.journal import Payload
from stepwell.model.lifecycle import Status


class StreamWritten(msgspec.Struct, frozen=True, gc=False):
    """A run wrote items to one of its streams; the first write makes the stream.

    `op` and `attempt` say who wrote: the operation of a step and its attempt, counting those that a crash cut off and
    those before a retry of the run, or the operation of the workflow, and 0. `begins`
    is set for what an execution of a step writes first: earlier items of the operation are superseded then. With `keep`
    old items are deleted, so that at least so many stay. Raises `ClaimLost` where another worker owns the run, or where
    it has ended.
    """

    run: int
    name: str
    op: int
    attempt: int
    at: int
    items: tuple[Payload, ...] = ()
    closes: bool = False
    keep: int | None = None
    begins: bool = False


def adds_only(change: StreamWritten) -> bool:
    """Tell whether a change does nothing but add items, so that it can be written together with others of its kind."""
    return not change.begins and not change.closes and change.keep is None


class StreamSuperseded(msgspec.Struct, frozen=True):
    """What an operation of a run has written to its streams so far is superseded: its attempt is repeated."""

    run: int
    op: int


class StreamTruncated(msgspec.Struct, frozen=True):
    """Somebody deletes the items of a stream before an offset. The result is how many there were.

    Raises `RunNotFound`; a stream that does not exist has none.
    """

    run_id: str
    name: str
    before: int


class StreamFacts(msgspec.Struct, frozen=True):
    """How a stream stands: see the table stepwell_streams. `key` is 0, and all else unset, where there is none yet."""

    run: int
    status: Status
    key: int
    first: int
    next: int
    closed_by: int | None
    ahead: int
    last_op: int


class StreamItemRow(msgspec.Struct, frozen=True, gc=False):
    """An item as it stands in the store."""

    offset: int
    value: Payload
    op: int
    attempt: int
    at: int


class StreamSummary(msgspec.Struct, frozen=True):
    """One of a run's streams: the offsets of its first item and of the next one, and whether it is closed."""

    name: str
    first: int
    next: int
    closed: bool


class StreamReads(Protocol):
    """What both read sides tell of streams."""

    def stream(self, run_id: str, name: str) -> StreamFacts | None:
        """Return how a stream of the run with this id stands, or None where there is no such run."""
        ...

    def stream_items(self, run: int, name: str, start: int, limit: int, *, last_attempt: bool) -> list[StreamItemRow]:
        """Return items of a stream from an offset on, in order; with `last_attempt` those that are not superseded."""
        ...

    def stream_attempt(self, stream: int, op: int) -> int:
        """Return the highest attempt of an operation that has items in a stream, or 0."""
        ...

    def streams(self, run: int) -> list[StreamSummary]:
        """Return the streams of a run, by name."""
        ...
