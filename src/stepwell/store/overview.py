"""What programs that show a whole file to people read of it, beside what everybody does: outlines, and sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from stepwell.model.journal import Entry, EntryKind
from stepwell.model.lifecycle import Status


class EntryOutline(msgspec.Struct, frozen=True, gc=False):
    """An entry of a journal without its value, of which it has the size as it stands in the file."""

    position: int
    op: int
    kind: EntryKind
    name: str
    at: int
    attempt: int
    started_at: int
    size_bytes: int | None


class CellCount(msgspec.Struct, frozen=True):
    """How many runs of a workflow are in a state."""

    workflow: str
    status: Status
    count: int


class OverviewReads(Protocol):
    """A part of the `Inspector`."""

    def outline(self, run: int, *, after: int = 0, limit: int = 1000) -> list[EntryOutline]:
        """Return entries of the present chapter of a run in order, those with a position above `after`."""
        ...

    def entries_of(self, run: int, op: int, limit: int) -> list[Entry]:
        """Return the entries of one operation in the present chapter of a run, in order."""
        ...

    def entries_of_many(self, run: int, ops: Sequence[int]) -> list[Entry]:
        """Return the entries of several operations in the present chapter of a run, in order."""
        ...

    def newest_key(self) -> int:
        """Return the largest key of a run, 0 where there is none."""
        ...

    def workflow_names(self) -> list[str]:
        """Return the workflows of the last runs, by name."""
        ...

    def cells(self) -> list[CellCount]:
        """Return how many runs there are of each workflow in each state."""
        ...

    def durations(self, limit: int) -> list[tuple[str, int]]:
        """Return the workflows of the runs that completed last, and how long they took from their beginning."""
        ...

    def ended_since(self, since: int, width: int) -> list[tuple[int, int]]:
        """Return how many runs ended in each span of `width` since then: the number of the span, and how many."""
        ...

    def failed_since(self, since: int, width: int) -> list[tuple[int, int]]:
        """Return the same of those of them that failed."""
        ...

    def ended_by_queue(self, since: int) -> list[tuple[str, int, int]]:
        """Return, of each queue out of which runs ended since then, how many ended and how many of them failed."""
        ...

    def oldest_of(self, statuses: Sequence[Status], limit: int) -> list[str]:
        """Return the ids of the runs that have been in one of these states (of those that need somebody) longest."""
        ...
