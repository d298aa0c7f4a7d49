"""The one open session of an `AsyncEngine`, opened, read and closed in threads.

Opening reads and may migrate the file, and waits where somebody else writes: seconds, in which the caller's loop must
go on serving. It happens once, for the loop of the first call; whoever calls meanwhile waits for the same opening.

What people ask of the file is read in threads of the session's own. The loop's executor may be full of what waits for
this very engine, and then a question would wait with it. A single row is looked up on the loop itself, while that
proves to be short: a thread takes five times as long for it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from stepwell.api.asking.options import Options
from stepwell.api.reading.read_service import ReadService
from stepwell.api.session import Session, check_outside_of_runs
from stepwell.errors import EngineClosed
from stepwell.model.steady import monotonic
from stepwell.runtime.recent_times import RecentTimes

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

P = ParamSpec("P")
T = TypeVar("T")

#: How many questions are read at once. The store keeps as many connections open.
_READERS: Final = 4


class LoopSession:
    """Opens a session for one event loop, and closes it. All methods but `open_one` are for coroutines of that loop."""

    def __init__(self, path: str | os.PathLike[str], options: Options) -> None:
        self._path: Final = path
        self._options: Final = options
        self._lock: Final = threading.Lock()  # of what follows, which the thread that opens sets
        self._session: Session | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Future[Session] | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._look_ups: Final = RecentTimes()

    async def opened(self) -> Session:
        """Return the session, which is opened where it is not open yet.

        Raises `EngineClosed` after `close`, and in another loop than the first call was made in; and as `Engine()`.
        """
        loop = asyncio.get_running_loop()
        session = self._session
        if session is not None and self._loop is loop:
            return session
        if self._closed:
            raise self._is_closed()
        if self._loop is not None and self._loop is not loop:
            raise EngineClosed(
                f"{os.fspath(self._path)}: this engine belongs to another event loop; use it from there "
                "(asyncio.run_coroutine_threadsafe), or share an Engine, which any thread may use"
            )
        if self._opening is None:
            check_outside_of_runs()
            self._loop, context = loop, copy_context()
            self._opening = loop.run_in_executor(None, lambda: context.run(self._open, loop))
            self._opening.add_done_callback(self._has_opened)
        return await asyncio.shield(self._opening)

    async def read(self, ask: Callable[Concatenate[ReadService, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the answer to a question, read in a thread; opens the session, and raises, as `opened` does."""
        session = await self.opened()
        reads = session.reads  # here and not in the thread: it looks at who asks
        if self._readers is None:
            from concurrent.futures import ThreadPoolExecutor

            self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="stepwell-read")
        return await asyncio.get_running_loop().run_in_executor(self._readers, partial(ask, reads, *args, **kwargs))

    async def look_up(self, ask: Callable[[ReadService, str], T], run_id: str) -> T:
        """Return what one row says, which is found by the run's id; as `read`, but on the loop while that is short."""
        session = await self.opened()
        if not self._look_ups.are_short:
            return await self.read(self._timed, ask, run_id, False)
        return self._timed(session.reads, ask, run_id, True)

    def _timed(self, reads: ReadService, ask: Callable[[ReadService, str], T], run_id: str, in_line: bool) -> T:
        began = monotonic()
        try:
            return ask(reads, run_id)
        finally:
            seconds = monotonic() - began
            self._look_ups.took(seconds, seconds, in_line=in_line)

    def open_one(self) -> Session:
        """Return the session, which must be open; from any thread. Raises `EngineClosed` where it is not."""
        if self._session is None:
            raise self._is_closed()
        return self._session

    def _open(self, loop: asyncio.AbstractEventLoop) -> Session:
        """Open the file, in a thread; a session that nobody waits for any more is closed again."""
        session = Session(self._path, self._options, loop)
        with self._lock:
            if not self._closed:
                self._session = session
                return session
        session.close(0)
        raise self._is_closed()

    def _has_opened(self, opening: asyncio.Future[Session]) -> None:
        if opening.cancelled() or opening.exception() is not None:  # the next call tries again
            self._opening = self._loop = None

    def _is_closed(self) -> EngineClosed:
        return EngineClosed(f"{os.fspath(self._path)}: the engine is closed; open another one")

    def abandon(self) -> None:
        """Close at once, without waiting for it: whoever wanted it open was cancelled meanwhile."""
        session = self._take()
        if session is not None:
            _ = asyncio.get_running_loop().run_in_executor(None, session.close, 0)

    async def close(self, timeout: float) -> None:
        """Close the session, giving steps under way `timeout` seconds to end; one that is being opened as well."""
        session, opening = self._take(), self._opening
        if session is not None:
            # In a thread, because steps under way need this loop to come to their end.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, session.close, timeout))
        elif opening is not None and not opening.done():
            await asyncio.wait([opening])  # its thread closes what it has opened

    def _take(self) -> Session | None:
        with self._lock:
            self._closed = True
            session, self._session = self._session, None
        if self._readers is not None:
            self._readers.shutdown(wait=False)  # what is being read is read to its end
        return session
