"""Schedules for asyncio code: `stepwell.api.blocking.schedules`, awaited."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from types import ModuleType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, TypeVarTuple, Unpack, overload

from stepwell.api.blocking.schedules import DeclaredSchedules
from stepwell.api.reading.read_service import ReadService
from stepwell.api.reading.schedule_views import ScheduleInfo
from stepwell.api.session import Session
from stepwell.definitions.schedules import SCHEDULE_DEFAULTS, Schedule, ScheduleOptions
from stepwell.definitions.start_options import shows_options
from stepwell.model.schedule import Overlap
from stepwell.runtime.serving.requests import Request

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Ts = TypeVarTuple("Ts")


class AsyncCaller(Protocol[R_co]):
    """What is needed of the engine; `R_co` are its handles of runs, which are above this."""

    def get(self, id: str) -> Coroutine[Any, Any, R_co]:
        """Return the handle of a run."""
        ...

    def _ready(self) -> Coroutine[Any, Any, Session]: ...

    def _ask(self, request: Request) -> Coroutine[Any, Any, Any]: ...

    def _read(
        self, ask: Callable[Concatenate[ReadService, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...


class AsyncScheduling(Generic[R]):
    """What an engine does with schedules."""

    def _scheduler(self) -> AsyncCaller[R]:
        """Return the engine."""
        raise NotImplementedError

    @overload
    async def schedule(self, schedule: Schedule, /, *, by: str | None = None) -> AsyncScheduleHandle[R]: ...

    @overload
    async def schedule(
        self,
        workflow: Callable[[*Ts], Any],
        /,
        *args: *Ts,
        id: str,
        by: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> AsyncScheduleHandle[R]: ...

    @overload
    async def schedule(
        self, workflow: str, /, *args: Any, id: str, by: str | None = None, **options: Unpack[ScheduleOptions]
    ) -> AsyncScheduleHandle[R]: ...

    # Of the first overload, which takes no arguments, mypy thinks that the implementation would not take it.
    @shows_options(SCHEDULE_DEFAULTS, SCHEDULE_DEFAULTS)  # type: ignore[misc]
    async def schedule(
        self,
        workflow: Callable[[*Ts], Any] | str | Schedule,
        /,
        *args: *Ts,
        id: str = "",
        by: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> AsyncScheduleHandle[R]:
        """Have `workflow` run with `args` again and again; see `stepwell.Engine.schedule`."""
        engine = self._scheduler()
        made = workflow if isinstance(workflow, Schedule) else Schedule(workflow, *args, id=id, **options)
        await engine._ask((await engine._ready()).schedules.put(made, by))
        return AsyncScheduleHandle(engine, made.id)

    async def get_schedule(self, id: str) -> AsyncScheduleHandle[R]:
        """Return the handle of a schedule; raises `ScheduleNotFound`."""
        engine = self._scheduler()
        return AsyncScheduleHandle(engine, (await engine._read(ReadService.schedule, id)).id)

    async def schedules(self) -> builtins.list[AsyncScheduleHandle[R]]:
        """Return the handles of all schedules, by id."""
        engine = self._scheduler()
        return [AsyncScheduleHandle(engine, name) for name in await engine._read(ReadService.schedule_ids)]

    async def declare_schedules(
        self, source: ModuleType | Iterable[Schedule], *, remove: bool = False, group: str | None = None
    ) -> DeclaredSchedules:
        """Have the schedules that code declares; see `stepwell.Engine.declare_schedules`."""
        engine = self._scheduler()
        factory = (await engine._ready()).schedules
        name, requests = factory.declared(source, group)
        found: dict[str, builtins.list[str]] = {"created": [], "changed": [], "unchanged": []}
        for request in requests:
            _, outcome = await engine._ask(request)
            found[outcome].append(request.id)
        removed: builtins.list[str] = []
        if remove:
            kept = {request.id for request in requests}
            known = await engine._read(ReadService.schedule_ids, declared=name)
            removed = [each for each in known if each not in kept]
            for each in removed:
                await engine._ask(factory.delete(each, None))
        return DeclaredSchedules(**found, removed=removed)


class AsyncScheduleHandle(Generic[R]):
    """A schedule in the file; `stepwell.ScheduleHandle`, awaited."""

    def __init__(self, engine: AsyncCaller[R], id: str) -> None:
        self.id = id
        self._engine = engine

    async def info(self) -> ScheduleInfo:
        """Return the facts about it; see `stepwell.ScheduleHandle.info`."""
        return await self._engine._read(ReadService.schedule, self.id)

    async def pause(self, note: str | None = None, *, by: str | None = None) -> None:
        """Let no tick start a run until `unpause`; see `stepwell.ScheduleHandle.pause`."""
        await self._engine._ask((await self._engine._ready()).schedules.pause(self.id, True, note, by))

    async def unpause(self, note: str | None = None, *, by: str | None = None) -> None:
        """Let it go on with its next tick; see `stepwell.ScheduleHandle.unpause`."""
        await self._engine._ask((await self._engine._ready()).schedules.pause(self.id, False, note, by))

    async def trigger(self, note: str | None = None, *, by: str | None = None) -> R:
        """Start a run now and return its handle; see `stepwell.ScheduleHandle.trigger`."""
        run_id = await self._engine._ask((await self._engine._ready()).schedules.trigger(self.id, note, by))
        return await self._engine.get(run_id)

    async def backfill(
        self,
        start: datetime,
        end: datetime,
        *,
        overlap: Overlap = "buffer_all",
        note: str | None = None,
        by: str | None = None,
    ) -> None:
        """Do the ticks from `start` until before `end`; see `stepwell.ScheduleHandle.backfill`."""
        factory = (await self._engine._ready()).schedules
        await self._engine._ask(factory.backfill(self.id, start, end, overlap, note, by))

    @shows_options(SCHEDULE_DEFAULTS, SCHEDULE_DEFAULTS)
    async def change(self, *, by: str | None = None, **options: Unpack[ScheduleOptions]) -> ScheduleInfo:
        """Change what is given, leave the rest, and return what it is now; see `stepwell.ScheduleHandle.change`."""
        await self._engine._ask((await self._engine._ready()).schedules.change(self.id, options, by))
        return await self.info()

    async def delete(self, *, by: str | None = None) -> None:
        """Delete the schedule; its runs stay, and go on."""
        await self._engine._ask((await self._engine._ready()).schedules.delete(self.id, by))

    def __repr__(self) -> str:
        """Show the id."""
        return f"<AsyncScheduleHandle {self.id!r}>"
