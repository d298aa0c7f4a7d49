"""The readers of a stream of a run: from the beginning or any offset, while it grows or when it has ended.

A reader holds nothing but its place: an offset. It reads pages, and where it has come to the end it waits to be told of
more. One that is never read costs nothing. `StreamPlace` is what the readers for asyncio code and for other code share.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from copy import copy
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypedDict, TypeVar

import msgspec

from stepwell.errors import InvalidArgument
from stepwell.model.clock import datetime_of, to_seconds
from stepwell.model.names import check_id, check_name
from stepwell.runtime.serving.requests import WaitForStream
from stepwell.shown import shown
from stepwell.store.streams import StreamItemRow
from stepwell.values.codec import Codec

T = TypeVar("T")

#: How many items are read at a time.
_PAGE: Final = 256


class StreamOptions(TypedDict, total=False):
    """The keyword arguments of `stepwell.Run.stream`, typed once for both kinds of handles."""

    start: int
    last_attempt: bool
    follow: bool
    timeout: float | timedelta | None


#: What holds where an option is left out.
STREAM_DEFAULTS: Final[StreamOptions] = {"start": 0, "last_attempt": False, "follow": True, "timeout": None}


class StreamItem(msgspec.Struct, Generic[T], frozen=True):
    """An item of a stream.

    `offset` is its place, from 0: to continue after it, read from ``offset + 1``. `operation` is the number of the
    operation that wrote it. `attempt` is the attempt of the step that wrote it: 1 for the first, and higher with each
    repetition, whether because of a failure, a crash or a retry of the run; 0 if the workflow wrote it.
    """

    value: T
    offset: int
    operation: int
    attempt: int
    at: datetime


class StreamPage(msgspec.Struct, frozen=True):
    """Items from an offset on; `following` is the offset behind them, `over` is set where no more will come.

    `has_more` is set where there are more already. `ahead` is that of the run.
    """

    items: list[StreamItemRow]
    following: int
    over: bool
    has_more: bool
    ahead: int


class ShownPage(msgspec.Struct, frozen=True):
    """The same for people: values as plain JSON data."""

    items: list[StreamItem[Any]]
    following: int
    over: bool
    has_more: bool


class StreamPlace:
    """Where a reader is, and how it makes items of rows."""

    def __init__(
        self,
        run_id: str,
        name: str,
        type: Any,
        given: StreamOptions,
    ) -> None:
        for option in given:
            if option not in STREAM_DEFAULTS:
                raise TypeError(f"stream() has no option {option!r}; it has {', '.join(STREAM_DEFAULTS)}")
        options: dict[str, Any] = {**STREAM_DEFAULTS, **given}
        timeout = options["timeout"]
        self.run_id = check_id(run_id)
        self.name = check_name(name, "the name of a stream")
        self._type = type
        self.offset = _whole(options["start"])
        self._last_attempt: bool = options["last_attempt"]
        self.follow: bool = options["follow"]
        self.timeout = None if timeout is None else to_seconds(timeout, "timeout of stream()")

    def question(self) -> tuple[str, str, int, int, bool]:
        """Return what is asked for next."""
        return self.run_id, self.name, self.offset, _PAGE, self._last_attempt

    def take(self, page: StreamPage, codec: Codec) -> list[StreamItem[Any]]:
        """Move behind a page, and return its items."""
        self.offset = page.following
        where = f"an item of stream {self.name!r} of run {self.run_id!r}"
        return [
            StreamItem(
                codec.decode(row.value, self._type, where),
                row.offset,
                row.op,
                row.attempt,
                datetime_of(row.at - page.ahead),
            )
            for row in page.items
        ]

    def wait(self) -> WaitForStream:
        """Return the request to be told of more."""
        return WaitForStream(self.run_id, self.name, self.offset)

    @property
    def silence(self) -> str:
        """What to say where no item comes in time."""
        return f"stream {self.name!r} of run {self.run_id!r} had no further item"


def _whole(start: object) -> int:
    if not isinstance(start, int) or isinstance(start, bool):
        raise InvalidArgument(f"start of stream() must be a whole number, not {shown(start)}")
    return start


class StreamReader(Generic[T]):
    """The items of a stream, one after another: iterate over it for the values, or over `items` for all facts.

    Each iteration begins where the reader was told to begin. It ends when the stream is closed, or its run has ended.
    """

    def __init__(
        self,
        place: StreamPlace,
        codec: Codec,
        read: Callable[[str, str, int, int, bool], StreamPage],
        wait: Callable[[str, float | None, WaitForStream], object],
    ) -> None:
        self._place = place
        self._codec = codec
        self._read = read
        self._wait = wait

    def __iter__(self) -> Iterator[T]:
        """Iterate over the values."""
        for item in self.items():
            yield item.value

    def items(self) -> Generator[StreamItem[T], None, None]:
        """Iterate over the items, each a `StreamItem`."""
        place = copy(self._place)
        while True:
            page = self._read(*place.question())
            yield from place.take(page, self._codec)
            if page.over or not (page.has_more or place.follow):
                return
            if not page.has_more:
                self._wait(place.silence, place.timeout, place.wait())


class AsyncStreamReader(Generic[T]):
    """The items of a stream; `stepwell.StreamReader`, with ``async for``."""

    def __init__(
        self,
        place: StreamPlace,
        codec: Callable[[], Coroutine[Any, Any, Codec]],
        read: Callable[[str, str, int, int, bool], Coroutine[Any, Any, StreamPage]],
        wait: Callable[[str, float | None, WaitForStream], Coroutine[Any, Any, object]],
    ) -> None:
        self._place = place
        self._codec = codec
        self._read = read
        self._wait = wait

    async def __aiter__(self) -> AsyncIterator[T]:
        """Iterate over the values."""
        async for item in self.items():
            yield item.value

    async def items(self) -> AsyncGenerator[StreamItem[T], None]:
        """Iterate over the items, each a `StreamItem`."""
        place, codec = copy(self._place), await self._codec()
        while True:
            page = await self._read(*place.question())
            for item in place.take(page, codec):
                yield item
            if page.over or not (page.has_more or place.follow):
                return
            if not page.has_more:
                await self._wait(place.silence, place.timeout, place.wait())
