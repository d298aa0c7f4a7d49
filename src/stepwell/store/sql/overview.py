"""Outlines and sums for programs that show a whole file to people, of any SQL store. A part of the inspector."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.model.journal import Entry
from stepwell.model.lifecycle import Status
from stepwell.store.overview import CellCount, EntryOutline
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.reading import Reader


class OverviewReader(Reader):
    """A `stepwell.store.overview.OverviewReads`."""

    def outline(self, run: int, *, after: int = 0, limit: int = 1000) -> list[EntryOutline]:
        """Return entries of the present chapter of a run in order, those with a position above `after`."""
        return [EntryOutline(*row) for row in self._rows("outline", run, after, limit)]

    def entries_of(self, run: int, op: int, limit: int) -> list[Entry]:
        """Return the entries of one operation in the present chapter of a run, in order."""
        return [Entry(*row) for row in self._rows("entries_of", run, op, limit)]

    def entries_of_many(self, run: int, ops: Sequence[int]) -> list[Entry]:
        """Return the entries of several operations in the present chapter of a run, in order."""
        return [Entry(*row) for row in self._rows("entries_of_many", run, to_json(list(ops)))]

    def newest_key(self) -> int:
        """Return the largest key of a run, 0 where there is none."""
        return int(self._first("newest_key"))

    def workflow_names(self) -> list[str]:
        """Return the workflows of the last runs, by name."""
        return self._firsts("workflow_names")

    def cells(self) -> list[CellCount]:
        """Return how many runs there are of each workflow in each state."""
        return [CellCount(*row) for row in self._rows("cells")]

    def durations(self, limit: int) -> list[tuple[str, int]]:
        """Return the workflows of the runs that completed last, and how long they took from their beginning."""
        return self._rows("durations", limit)

    def ended_since(self, since: int, width: int) -> list[tuple[int, int]]:
        """Return how many runs ended in each span of `width` since then."""
        return self._rows("ended_since", since, width)

    def failed_since(self, since: int, width: int) -> list[tuple[int, int]]:
        """Return how many of these failed."""
        return self._rows("failed_since", since, width)

    def ended_by_queue(self, since: int) -> list[tuple[str, int, int]]:
        """Return, of each queue out of which runs ended since then, how many ended and how many of them failed."""
        return self._rows("ended_by_queue", since)

    def oldest_of(self, statuses: Sequence[Status], limit: int) -> list[str]:
        """Return the ids of the runs that have been in one of these states longest."""
        return self._firsts("oldest_of", to_json(list(statuses)), limit)
