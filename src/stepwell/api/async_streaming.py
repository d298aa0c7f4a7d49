"""Reading what a run writes item after item, from asyncio code; `stepwell.api.streaming`, awaited."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar, cast, overload

from stepwell.api.loop_caller import LoopCaller
from stepwell.api.read_service import ReadService
from stepwell.api.streams import AsyncStreamReader, StreamPage, StreamPlace
from stepwell.values.codec import Codec

U = TypeVar("U")


class AsyncStreaming:
    """A handle of a run, as far as its streams are read. `id` names it."""

    def __init__(self, engine: LoopCaller, run_id: str) -> None:
        self.id = run_id
        self._engine = engine

    @overload
    def stream(
        self,
        name: str,
        type: type[U],
        *,
        start: int = 0,
        last_attempt: bool = False,
        follow: bool = True,
        timeout: float | timedelta | None = None,
    ) -> AsyncStreamReader[U]: ...
    @overload
    def stream(
        self,
        name: str,
        type: Any = ...,
        *,
        start: int = 0,
        last_attempt: bool = False,
        follow: bool = True,
        timeout: float | timedelta | None = None,
    ) -> AsyncStreamReader[Any]: ...

    def stream(
        self,
        name: str,
        type: Any = Any,
        *,
        start: int = 0,
        last_attempt: bool = False,
        follow: bool = True,
        timeout: float | timedelta | None = None,
    ) -> AsyncStreamReader[Any]:
        """Return what reads a stream of the run, as `type`: ``async for`` over it; see `stepwell.Run.stream`."""
        place = StreamPlace(self.id, name, type, start=start, last_attempt=last_attempt, follow=follow, timeout=timeout)
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
