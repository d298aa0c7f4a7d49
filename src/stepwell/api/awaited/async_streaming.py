"""Reading the streams of a run, from asyncio code; `stepwell.api.blocking.streaming`, awaited."""

from __future__ import annotations

from typing import Any, TypeVar, Unpack, cast, overload

from stepwell.api.awaited.loop_caller import LoopCaller
from stepwell.api.reading.read_service import ReadService
from stepwell.api.reading.streams import STREAM_DEFAULTS, AsyncStreamReader, StreamOptions, StreamPage, StreamPlace
from stepwell.definitions.start_options import shows_options
from stepwell.values.codec import Codec

U = TypeVar("U")


class AsyncStreaming:
    """A handle of a run, as far as its streams are read. `id` names it."""

    def __init__(self, engine: LoopCaller, run_id: str) -> None:
        self.id = run_id
        self._engine = engine

    @overload
    def stream(self, name: str, type: type[U], **options: Unpack[StreamOptions]) -> AsyncStreamReader[U]: ...
    @overload
    def stream(self, name: str, type: Any = ..., **options: Unpack[StreamOptions]) -> AsyncStreamReader[Any]: ...

    @shows_options(STREAM_DEFAULTS, STREAM_DEFAULTS)
    def stream(self, name: str, type: Any = Any, **options: Unpack[StreamOptions]) -> AsyncStreamReader[Any]:
        """Return what reads a stream of the run, as `type`: ``async for`` over it; see `stepwell.Run.stream`."""
        place = StreamPlace(self.id, name, type, options)
        engine = self._engine

        async def codec() -> Codec:
            return (await engine._ready()).codec

        async def read(*question: Any) -> StreamPage:
            return await engine._read(ReadService.stream_page, *question)

        return AsyncStreamReader(place, codec, read, engine._wait)

    async def truncate(self, stream: str, *, before: int) -> int:
        """Delete the items of a stream whose offsets are below `before`; see `stepwell.Run.truncate`."""
        request = (await self._engine._ready()).requests.truncate_stream(self.id, stream, before)
        return cast("int", await self._engine._ask(request))
