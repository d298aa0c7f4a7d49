"""How asyncio code asks an engine, and waits for the answer; `stepwell.api.blocking.caller`, awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from stepwell.api.awaited.async_opening import LoopSession
from stepwell.api.reading.read_service import ReadService
from stepwell.api.session import Session
from stepwell.model.clock import to_seconds
from stepwell.runtime.serving.requests import Request

P = ParamSpec("P")
T = TypeVar("T")


class _Answers:
    """Carries replies from the engine's thread to the caller's loop, all of one turn at once."""

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop) -> None:
        self._session = session
        self._loop = loop
        self._ready: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []

    def reply_to(self, future: asyncio.Future[Any]) -> Callable[[Any, BaseException | None], None]:
        def reply(value: Any, error: BaseException | None, /) -> None:
            if threading.get_ident() != self._session.engine_thread.thread.ident:
                _resolve([(future, value, error)])  # refused at once, on the caller's own thread
                return
            if not self._ready:
                self._session.engine_thread.turn_loop.at_flush(self._flush)
            self._ready.append((future, value, error))

        return reply

    def _flush(self) -> None:
        ready, self._ready = self._ready, []
        try:
            self._loop.call_soon_threadsafe(_resolve, ready)
        except RuntimeError:  # the caller's loop is closed: nobody is left to hear it
            return


def _resolve(ready: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, value, error in ready:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


class LoopCaller:
    """Asks an engine's thread from an event loop, and waits; `stepwell.api.blocking.caller.Caller`, awaited."""

    def __init__(self, session: LoopSession) -> None:
        self._session = session
        self._answers: _Answers | None = None

    async def _ready(self) -> Session:
        return await self._session.opened()

    async def _read(self, ask: Callable[Concatenate[ReadService, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._session.read(ask, *args, **kwargs)

    def _opened(self) -> Session:
        return self._session.open_one()

    async def _ask(self, request: Request) -> Any:
        session = await self._ready()
        session.check_usable()
        if self._answers is None:
            self._answers = _Answers(session, asyncio.get_running_loop())
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        reply = self._answers.reply_to(future)
        session.engine_thread.submit(request, reply)
        try:
            return await future
        except asyncio.CancelledError:
            session.engine_thread.forget(reply)
            raise

    async def _wait(self, what: str, timeout: float | timedelta | None, request: Request) -> Any:
        if timeout is None:
            return await self._ask(request)
        seconds = to_seconds(timeout, "timeout")
        waiting = asyncio.ensure_future(self._ask(request))
        try:
            done, _ = await asyncio.wait([waiting], timeout=seconds)
        except asyncio.CancelledError:
            waiting.cancel()
            raise
        if done:
            return waiting.result()
        waiting.cancel()
        raise TimeoutError(f"{what} after {seconds:g} s; it goes on, so you can wait again")
