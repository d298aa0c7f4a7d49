"""Reading the streams of a run. A base of `stepwell.Run`, which has all other methods."""

from __future__ import annotations

from typing import Any, TypeVar, Unpack, cast, overload

from stepwell.api.blocking.caller import Caller
from stepwell.api.reading.streams import STREAM_DEFAULTS, StreamOptions, StreamPlace, StreamReader
from stepwell.definitions.start_options import shows_options

U = TypeVar("U")


class Streaming:
    """A handle of a run, as far as its streams are read. `id` names it."""

    def __init__(self, engine: Caller, run_id: str) -> None:
        self.id = run_id
        self._engine = engine

    @overload
    def stream(self, name: str, type: type[U], **options: Unpack[StreamOptions]) -> StreamReader[U]: ...
    @overload
    def stream(self, name: str, type: Any = ..., **options: Unpack[StreamOptions]) -> StreamReader[Any]: ...

    @shows_options(STREAM_DEFAULTS, STREAM_DEFAULTS)
    def stream(self, name: str, type: Any = Any, **options: Unpack[StreamOptions]) -> StreamReader[Any]:
        """Return what reads a stream of the run, as `type`: iterate over it; see `stepwell.StreamReader`.

        `start`: the offset of the first item that is wanted, or below 0 how many of the last there are now. It waits
        for further items, until the stream is closed or the run has ended; with ``follow=False`` it does not wait, and
        after `timeout` (seconds or a timedelta) without an item it raises `TimeoutError`. `last_attempt` leaves out
        what attempts of steps wrote that were repeated since. Raises `RunNotFound`.
        """
        place = StreamPlace(self.id, name, type, options)
        engine, session = self._engine, self._engine._session
        return StreamReader(place, session.codec, session.reads.stream_page, engine._wait)

    def truncate(self, stream: str, *, before: int) -> int:
        """Delete the items of a stream whose offsets are below `before`; return how many. Offsets stay as they are."""
        request = self._engine._session.requests.truncate_stream(self.id, stream, before)
        return cast("int", self._engine._ask(request))
