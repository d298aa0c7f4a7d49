"""What a worker knows of the streams of its runs: whether there is room for more, and who begins to write.

All that writes to a run's streams executes where the run is in memory, so what is known here needs no look at the store
but the first. Offsets are given out by the store, with the commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.definitions.saying import StreamItems
from stepwell.errors import StepwellError, StreamClosed, StreamFull
from stepwell.store.streams import StreamWritten
from stepwell.worker.state.stream_books import Execution, StreamBook, StreamBooks

if TYPE_CHECKING:
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs


def written(
    runs: Runs, run: LoadedRun, items: StreamItems, op: int, *, attempt: int = 0, interruptions: int = 0
) -> StreamWritten | StepwellError:
    """Return the change that writes items, or why they cannot be written."""
    books = run.streams
    if books is None:
        books = run.streams = StreamBooks()
    stream = books.streams.get(items.name)
    if stream is None:
        stream = books.streams[items.name] = _read(runs, run, items.name)
    execution = (items.name, op, attempt, interruptions)
    begins = attempt > 0 and execution not in books.begun
    number = _number(runs, books, stream, execution) if begins else books.begun.get(execution, 0)
    if stream.closed_by is not None and not (begins and stream.closed_by == op):
        return StreamClosed(
            f"run {run.id!r}: stream {items.name!r} is closed, so nothing can be written to it any more. Write to "
            "another stream, or close this one later"
        )
    if items.keep is None and stream.next - stream.first + len(items.items) > items.limit:
        stream.first = _read(runs, run, items.name).first  # somebody may have truncated it
        if stream.next - stream.first + len(items.items) > items.limit:
            return StreamFull(
                f"run {run.id!r}: stream {items.name!r} holds {stream.next - stream.first} items, and {items.limit} "
                f"are allowed. Truncate it (Run.truncate), have it keep the last items only (stream(…, keep=1000)), or "
                "give it a higher limit"
            )
    if begins:
        books.begun[execution] = number
    stream.next += len(items.items)
    stream.closed_by = op if items.closes else None
    return StreamWritten(
        run.key, items.name, op, number, runs.now, items.items, items.closes, items.keep, begins=begins
    )


def _number(runs: Runs, books: StreamBooks, stream: StreamBook, execution: Execution) -> int:
    """Return which attempt the items of an execution that begins to write are from.

    It is higher than that of whatever the step has written before. The attempts of a step do not count those that a
    crash cut off, and begin anew when its run is retried; a reader tells by the number that what it got is repeated.
    """
    name, op, attempt, _interruptions = execution
    before = max((number for each, number in books.begun.items() if each[:2] == (name, op)), default=0)
    if not before and op <= stream.last_op:
        before = runs.reads.stream_attempt(stream.key, op)
    return max(attempt, before + 1)


def _read(runs: Runs, run: LoadedRun, name: str) -> StreamBook:
    found = runs.reads.stream(run.id, name)
    if found is None or not found.key:
        return StreamBook(0, 0, None, 0, 0)
    return StreamBook(found.first, found.next, found.closed_by, found.key, found.last_op)


def has_written(run: LoadedRun, op: int, attempt: int) -> bool:
    """Tell whether an attempt of a step, which has ended without a result, wrote to a stream; it is to be repeated."""
    if run.streams is None:
        return False
    for stream in run.streams.streams.values():
        if stream.closed_by == op:
            stream.closed_by = None
    return any(each[1] == op and each[2] == attempt for each in run.streams.begun)
