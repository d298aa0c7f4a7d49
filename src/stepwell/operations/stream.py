"""`stream`: items that a run writes one after another, for readers outside, who may come late and read from anywhere.

Workflow code and steps write alike. What workflow code writes is an operation: it is written once, with the commit of
the activation, and a replay does not write it again. What a step writes is written at once; should the step be
repeated, so are its items, and each carries the attempt that wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

import msgspec

from stepwell.definitions.saying import MAX_STREAM_ITEMS, Speaker, StreamItems, say, speaker_here
from stepwell.errors import InvalidArgument, RunFailed, StepwellError
from stepwell.model.journal import EntryForm, Payload
from stepwell.model.names import check_name
from stepwell.operations.calling_run import calling_run, calling_run_or_none
from stepwell.replay.divergence import Given
from stepwell.shown import shown
from stepwell.worker.state import facts
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.replay.execution import Execution
    from stepwell.replay.operation import Operation
    from stepwell.values.codec import Codec
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork

T = TypeVar("T")


class _Where(msgspec.Struct, frozen=True, gc=False):
    """Where a value is to be written, in words; they are needed only where it cannot be."""

    stream: str
    of: object

    def __str__(self) -> str:
        """Say it."""
        return f"an item of stream {self.stream!r}, written by {self.of}"


class StreamSettings(Generic[T]):
    """What writing to a stream needs to know, whichever way it is waited for."""

    def __init__(self, name: str, type: Any, keep: int | None, limit: int) -> None:
        self.name = check_name(name, "the name of a stream")
        self._type = type
        self._keep = None if keep is None else _at_least_one(keep, "keep")
        self._limit = _at_least_one(limit, "limit")

    def __repr__(self) -> str:
        """Show the name."""
        return f"<Stream {self.name!r}>"

    def _items(self, codec: Codec, values: tuple[T, ...], of: object, *, closes: bool) -> StreamItems:
        """Return what is written; raises `SerializationError` for what would not come back equal."""
        where = _Where(self.name, of)
        payloads: tuple[Payload, ...]
        if self._type is Any:
            payloads = tuple([codec.encode_untyped(value, where) for value in values])
        else:
            converter = codec.converter(self._type)
            payloads = tuple([converter.record(value, where) for value in values])
        return StreamItems(self.name, payloads, closes, self._keep, self._limit)

    async def _perform(self, run: Execution, values: tuple[T, ...], *, closes: bool) -> None:
        said = self._items(run.codec, values, f"run {run.run_id!r}", closes=closes)
        fingerprint = run.codec.fingerprint((values, closes), {}, f"items of stream {self.name!r}")
        await run.perform("stream", self.name, fingerprint, None, said, Given((list(values),), {}))

    def _of_step(self, speaker: Speaker, values: tuple[T, ...], *, closes: bool) -> StreamItems:
        if speaker.outlet is None:
            return StreamItems(self.name)
        return self._items(speaker.outlet.codec, values, speaker, closes=closes)


class Stream(StreamSettings[T]):
    """A stream of the calling run, for the code of its workflow and of its steps. `stepwell.stream` makes it."""

    async def write(self, value: T) -> None:
        """Add an item.

        In a workflow it is written exactly once, in the commit with the code's other progress. In a step it is written
        at once, and survives power loss when this returns. Raises `StreamClosed`, `StreamFull`, `SerializationError`;
        in an attempt that was given up, `StepwellError`.
        """
        await self._write((value,), closes=False)

    async def write_many(self, values: Iterable[T]) -> None:
        """Add several items, all or none, in one commit."""
        items = tuple(values)
        if items:
            await self._write(items, closes=False)

    async def close(self) -> None:
        """End the stream: readers come to the end after its last item. A stream also ends with its run."""
        await self._write((), closes=True)

    async def _write(self, values: tuple[T, ...], *, closes: bool) -> None:
        run = calling_run_or_none()
        if run is None and (speaker := speaker_here()) is not None:
            await say(speaker, self._of_step(speaker, values, closes=closes))
            return
        await self._perform(calling_run("stream().write()") if run is None else run, values, closes=closes)


@overload
def stream(name: str, type: type[T], *, keep: int | None = None, limit: int = MAX_STREAM_ITEMS) -> Stream[T]: ...
@overload
def stream(name: str, type: Any = Any, *, keep: int | None = None, limit: int = MAX_STREAM_ITEMS) -> Stream[Any]: ...


def stream(name: str, type: Any = Any, *, keep: int | None = None, limit: int = MAX_STREAM_ITEMS) -> Stream[Any]:
    """Return the stream of this name of the calling run, to write to; in the code of a workflow, or of a step.

    Items are converted as `type`; without it, as their own types. A stream holds up to `limit` items; a further write
    raises `StreamFull`. With `keep` there is no limit: at least the last `keep` items stay, and older ones are deleted.
    """
    return Stream(name, type, keep, limit)


def _at_least_one(number: object, what: str) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InvalidArgument(f"{what} of stream() must be a whole number of at least 1, not {shown(number)}")
    return number


def _open(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    from stepwell.worker.steps.streams import written  # noqa: PLC0415 - most runs write none

    change = written(runs, run, operation.detail, operation.number)
    if isinstance(change, StepwellError):
        failure = runs.codec.encode_failure(change)
        run.deliverable.append(operation.answer(run.key, "stream_failed", runs.now, failure))
        return
    work.changes.append(change)
    work.afterwards(lambda: facts.StreamGrew(run.key, operation.name))
    run.deliverable.append(operation.answer(run.key, "streamed", runs.now))


#: The entry has no value: the items stand in a table of their own, once.
STREAM: Final = OperationKind(
    name="stream",
    entries=(EntryForm("streamed", has_value=False), EntryForm("stream_failed", fails_as=RunFailed)),
    open=_open,
)
