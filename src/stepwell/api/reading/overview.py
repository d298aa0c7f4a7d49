"""Reads that only pages about a whole file need, in addition to the read service: outlines, and sums.

The base of `ReadService`, in a file of its own because nothing but such a program needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stepwell.api.reading.views import JournalEntry
from stepwell.model.clock import MICROSECONDS
from stepwell.model.lifecycle import Status
from stepwell.model.run import RunRecord
from stepwell.model.waits import Wait, decode_waits
from stepwell.store.inspector import Inspector
from stepwell.store.overview import CellCount
from stepwell.values.codec import Codec

if TYPE_CHECKING:  # loaded with the first run that is drawn
    from stepwell.api.reading.outline import Outline
    from stepwell.api.reading.streams import StreamPage

#: How many entries of a journal an outline is made of, and how many of one operation are shown.
MAX_OUTLINE: Final = 50_000
_MAX_ENTRIES: Final = 200
#: Of how many of the runs that ended last durations are reckoned.
_DURATIONS: Final = 10_000
_PERCENTILES: Final = (50, 90, 99)


class EngineTime(msgspec.Struct, frozen=True):
    """The time by which a file goes, now, and how much later it is than the wall clock; in microseconds."""

    now: int
    ahead: int


class ShownItem(msgspec.Struct, frozen=True):
    """An item of a stream, its value as plain JSON data."""

    offset: int
    value: Any


class StartedRun(msgspec.Struct, frozen=True):
    """A run that another one started; times are microseconds by the wall clock."""

    id: str
    workflow: str
    status: Status
    created_at: int
    started_at: int | None
    ended_at: int | None


class Durations(msgspec.Struct, frozen=True):
    """How long the last runs of a workflow took that completed, in seconds: so many of a hundred at most that."""

    workflow: str
    runs: int
    p50: float
    p90: float
    p99: float


class Throughput(msgspec.Struct, frozen=True):
    """How many runs ended in each span of `width_seconds`, of which the last is under way, and how many failed."""

    width_seconds: int
    ended: list[int]
    failed: list[int]


class OverviewService:
    """The part of `ReadService` that is here."""

    def __init__(self, inspector: Inspector, codec: Codec, time_now: Callable[[], EngineTime]) -> None:
        self._inspector: Final = inspector
        self._codec: Final = codec
        self._time: Final = time_now

    def record(self, run_id: str) -> RunRecord:
        """Return a run's row; raises `RunNotFound`."""
        raise NotImplementedError

    def outline(self, run_id: str) -> Outline:
        """Return the operations of a run with their times; raises `RunNotFound`."""
        from stepwell.api.reading.outline import Span, outline_of  # noqa: PLC0415 - see the module

        record = self.record(run_id)
        entries = self._inspector.outline(record.key, limit=MAX_OUTLINE + 1)
        time = self._time()
        span = Span(record.created_at, record.started_at, record.ended_at, time.now, record.ahead)
        is_cut = len(entries) > MAX_OUTLINE
        summaries = self._inspector.summaries(record.key)
        return outline_of(entries[:MAX_OUTLINE], self._waits(record), span, summaries, is_cut=is_cut)

    def _waits(self, record: RunRecord) -> list[Wait]:
        return decode_waits(record.waiting_on)

    def operation(self, run_id: str, number: int) -> list[JournalEntry]:
        """Return the entries of one operation of a run, in order; none where it has none. Raises `RunNotFound`."""
        record = self.record(run_id)
        found = self._inspector.entries_of(record.key, number, _MAX_ENTRIES)
        summaries = self._inspector.summaries(record.key)
        return [JournalEntry.of(entry, self._codec, record.ahead, summaries) for entry in found]

    def started_by(self, run_id: str, numbers: Sequence[int]) -> dict[int, StartedRun]:
        """Return the runs that these operations of a run started, as far as they are there; raises `RunNotFound`."""
        record, found = self.record(run_id), dict[int, StartedRun]()
        for entry in self._inspector.entries_of_many(record.key, numbers) if numbers else ():
            child_id = JournalEntry.of(entry, self._codec).value
            child = self._inspector.run_facts(child_id) if isinstance(child_id, str) else None
            if child is not None:
                times = (at if at is None else at - child.ahead for at in (child.started_at, child.ended_at))
                found[entry.op] = StartedRun(
                    child.id, child.workflow, child.status, child.created_at - child.ahead, *times
                )
        return found

    def last_of_stream(self, run_id: str, name: str, most: int) -> list[ShownItem]:
        """Return the last items of a stream of a run; raises `RunNotFound`."""
        page = self.stream_page(run_id, name, -most, most, last_attempt=False)
        what = f"an item of the stream {name!r}"
        return [ShownItem(each.offset, self._codec.show(each.value, what)) for each in page.items]

    def stream_page(self, run_id: str, name: str, start: int, limit: int, last_attempt: bool) -> StreamPage:
        """Return a page of a stream; raises `RunNotFound`."""
        raise NotImplementedError

    def newest_key(self) -> int:
        """Return the largest key of a run, which is at least how many there are; 0 where there is none."""
        return self._inspector.newest_key()

    def workflow_names(self) -> list[str]:
        """Return the workflows that runs are of, by name."""
        return self._inspector.workflow_names()

    def cells(self) -> list[CellCount]:
        """Return how many runs there are of each workflow in each state. All runs are looked at."""
        return self._inspector.cells()

    def durations(self) -> list[Durations]:
        """Return how long the last runs took, of each workflow, the slowest first."""
        by_workflow: dict[str, list[int]] = {}
        for workflow, took in self._inspector.durations(_DURATIONS):
            by_workflow.setdefault(workflow, []).append(took)
        found = [_durations(workflow, sorted(took)) for workflow, took in by_workflow.items()]
        return sorted(found, key=lambda each: -each.p99)

    def throughput(self, width_seconds: int, spans: int) -> Throughput:
        """Return how many runs ended in each of the last `spans` of this width."""
        width = width_seconds * MICROSECONDS
        # The spans stand still while time goes on, so that what was counted once is not counted otherwise later.
        since = (self._time().now // width - spans + 1) * width
        ended, failed = [0] * spans, [0] * spans
        for read, counts in ((self._inspector.ended_since, ended), (self._inspector.failed_since, failed)):
            for span, count in read(since, width):
                if span < spans:
                    counts[span] = count
        return Throughput(width_seconds, ended, failed)

    def through_queues(self, seconds: int) -> dict[str, tuple[int, int]]:
        """Return how many runs out of each queue ended in the last seconds, and how many of them failed."""
        found = self._inspector.ended_by_queue(self._time().now - seconds * MICROSECONDS)
        return {queue: (ended, failed) for queue, ended, failed in found}

    def oldest(self, statuses: tuple[Status, ...], limit: int) -> list[str]:
        """Return the ids of the runs that were started first of those that are pending, halted or failed."""
        return self._inspector.oldest_of(statuses, limit)


def _durations(workflow: str, took: list[int]) -> Durations:
    """`took` is sorted, and not empty. The percentile is the nearest rank."""

    def at(percent: int) -> float:
        return took[max(0, -(-percent * len(took) // 100) - 1)] / MICROSECONDS

    p50, p90, p99 = (at(percent) for percent in _PERCENTILES)
    return Durations(workflow, len(took), p50, p90, p99)
