"""Queries and updates of a run, from asyncio code; `api.blocking.talking`, awaited. A base of `stepwell.AsyncRun`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast, overload

from stepwell.api.asking.options import QUERY_SECONDS
from stepwell.api.awaited.loop_caller import LoopCaller
from stepwell.api.blocking.talking import answer_of, unanswered
from stepwell.model.clock import to_seconds
from stepwell.model.updates import UpdateAnswer

U = TypeVar("U")


class AsyncTalking:
    """A handle of a run, as far as its code is asked something. `id` names it."""

    def __init__(self, engine: LoopCaller, run_id: str) -> None:
        self.id = run_id
        self._engine = engine

    async def query(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | timedelta | None = QUERY_SECONDS,
    ) -> Any:
        """Return what the run answers to a query, asked in a thread; see `stepwell.Run.query`."""
        seconds = None if timeout is None else to_seconds(timeout, "timeout")
        session = await self._engine._ready()
        session.check_usable()
        return await self._engine._read(lambda _: session.query_run(self.id, name, args, kwargs, seconds))

    @overload
    async def update(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout: float | timedelta | None = None,
        type: type[U],
    ) -> U: ...
    @overload
    async def update(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout: float | timedelta | None = None,
        type: Any = ...,
    ) -> Any: ...

    async def update(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout: float | timedelta | None = None,
        type: Any = Any,
    ) -> Any:
        """Have the run answer an update, and wait for the answer; see `stepwell.Run.update`."""
        session = await self._engine._ready()
        request = session.requests.update(self.id, name, args, kwargs, key)
        answer = await self._engine._wait(unanswered(request), timeout, request)
        return answer_of(cast("UpdateAnswer", answer), session.codec, self.id, type)
