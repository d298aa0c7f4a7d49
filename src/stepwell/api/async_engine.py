"""The engine for asyncio code: `stepwell.api.engine`, awaited; its handles are in `stepwell.api.awaited.async_handles`.

The engine's own thread does the work; the caller's loop executes the async steps, and is never blocked by a commit.
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ParamSpec,
    Self,
    TypeVar,
    TypeVarTuple,
    Unpack,
    cast,
)

from stepwell.api.archive import Archive, archive
from stepwell.api.asking.acts import checked_actor
from stepwell.api.asking.listing_options import LISTING_DEFAULTS, Listing
from stepwell.api.asking.options import (
    ENGINE_DEFAULTS,
    EngineOptions,
    Options,
    flow_name,
)
from stepwell.api.awaited.async_handles import AsyncQueueHandle, AsyncRun, AsyncStarter, AsyncTransaction
from stepwell.api.awaited.async_opening import LoopSession
from stepwell.api.awaited.async_schedules import AsyncCaller, AsyncScheduling
from stepwell.api.awaited.loop_caller import LoopCaller
from stepwell.api.backup import Backup, Progress, back_up
from stepwell.api.engine import CLOSE_TIMEOUT_SECONDS
from stepwell.api.one_block import OneBlock
from stepwell.api.reading.bulk import BULK_LOOK_SECONDS, BulkInfo
from stepwell.api.reading.promise_views import PromiseInfo
from stepwell.api.reading.read_service import ReadService
from stepwell.api.reading.views import WorkerInfo, to_datetime
from stepwell.api.session import closing_seconds, in_transaction
from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import Limit, Queue
from stepwell.definitions.start_options import shows_options
from stepwell.model.lifecycle import Status
from stepwell.replay.source_location import executing_at
from stepwell.runtime.lock_watch import acquire_from_loop
from stepwell.runtime.serving.requests import AnswerPromise, BulkAct, Request, SendMessage, StartRun, WaitForIdle
from stepwell.store.inspector import CountGroup
from stepwell.values.own_tables import Parameters, Rows

if TYPE_CHECKING:
    from stepwell.api.check import Check

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")


class AsyncEngine(LoopCaller, AsyncStarter, AsyncScheduling["AsyncRun[Any]"]):
    """Runs durable workflows; `stepwell.Engine` for asyncio, with the same options.

    It belongs to the event loop in which it is opened: by ``async with``, or by the first call. Async steps execute on
    that loop; opening and closing the file does not hold it up.
    """

    @shows_options(ENGINE_DEFAULTS, ENGINE_DEFAULTS)
    def __init__(self, path: str | os.PathLike[str], **options: Unpack[EngineOptions]) -> None:
        super().__init__(LoopSession(path, Options(options)))
        self._path = path
        self._block = OneBlock(path)

    async def __aenter__(self) -> Self:
        """Open the file and return the engine; raises `EngineInUse` where it is in an ``async with`` block already."""
        self._block.enter()
        try:
            await self._ready()
        except BaseException as error:
            self._block.leave()
            if isinstance(error, asyncio.CancelledError):
                self._session.abandon()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the engine."""
        self._block.leave()
        await self.close()

    async def close(self, timeout: float | timedelta | None = CLOSE_TIMEOUT_SECONDS) -> None:
        """Stop, giving steps under way `timeout` to end; see `stepwell.Engine.close`."""
        await self._session.close(closing_seconds(timeout))

    def _caller(self) -> LoopCaller:
        return self

    async def _submit(self, request: StartRun | SendMessage | AnswerPromise) -> Any:
        return await self._ask(request)

    async def _submit_all(self, requests: Sequence[StartRun]) -> builtins.list[str]:
        session = await self._ready()
        session.check_usable()
        return await asyncio.to_thread(session.start_all, requests)

    def _scheduler(self) -> AsyncCaller[AsyncRun[Any]]:
        return self

    async def get(self, id: str) -> AsyncRun[Any]:
        """Return the handle of a run; raises `RunNotFound`."""
        definition = (await self._ready()).in_memory(id)
        if definition is None:
            definition = self._opened().definition_of(await self._session.look_up(ReadService.record, id))
        return AsyncRun(self, id, definition)

    @shows_options(LISTING_DEFAULTS, LISTING_DEFAULTS)
    async def list(self, filter: str = "", /, **options: Unpack[Listing]) -> builtins.list[AsyncRun[Any]]:
        """Return the handles of the runs that match all filters, newest first; see `stepwell.Engine.list`."""
        records = await self._read(ReadService.records, filter, **options)
        session = self._opened()
        return [AsyncRun(self, record.id, session.definition_of(record)) for record in records]

    async def bulk(self, act: BulkAct, filter: str, /, *, reason: str | None = None, by: str | None = None) -> BulkInfo:
        """Act on all runs that match a filter; see `stepwell.Engine.bulk`."""
        runs = await self._read(ReadService.bulk_filter, act, filter)
        number = await self._ask((await self._ready()).requests.bulk(act, filter, runs, by, reason))
        while (info := await self._read(ReadService.bulk, number)).ended_at is None:  # noqa: ASYNC110 - another process may be at it
            await asyncio.sleep(BULK_LOOK_SECONDS)
        return info

    async def bulks(self) -> builtins.list[BulkInfo]:
        """Return the acts on many runs, the newest first; see `stepwell.Engine.bulk`."""
        return await self._read(ReadService.bulks)

    async def promises(self) -> builtins.list[PromiseInfo]:
        """Return the open promises of all runs, the oldest first; see `stepwell.Engine.promises`."""
        return await self._read(ReadService.promises)

    async def counts(self, filter: str = "", /, *, by: CountGroup = "status") -> dict[str, int]:
        """Return how many of the runs that match a filter are of each state; see `stepwell.Engine.counts`."""
        return await self._read(ReadService.counts, filter, by)

    async def retry_all(
        self,
        *,
        status: Status | Sequence[Status] | None = None,
        workflow: Workflow[..., Any] | str | None = None,
        started_since: datetime | timedelta | float | None = None,
        id_prefix: str | None = None,
        dry_run: bool = False,
        reason: str | None = None,
        by: str | None = None,
    ) -> int:
        """Retry the runs that match all filters; see `stepwell.Engine.retry_all`."""
        session = await self._ready()
        request = session.requests.retry_all(status, workflow, started_since, id_prefix, by, reason)
        if dry_run:
            return await self._read(ReadService.count, request.runs)
        return cast("int", await self._ask(request))

    async def purge(self, older_than: float | timedelta) -> int:
        """Delete runs that ended long ago; see `stepwell.Engine.purge`."""
        return cast("int", await self._ask((await self._ready()).requests.purge(older_than)))

    async def run_until_idle(self, timeout: float | timedelta | None = None) -> datetime | None:
        """Do all that is due, and return when something is due next; see `stepwell.Engine.run_until_idle`."""
        due: int | None = await self._wait("the engine is not idle", timeout, WaitForIdle())
        return to_datetime(due, self._opened().engine_thread.worker.runs.ahead)

    def queue(self, queue: Queue | Limit | str) -> AsyncQueueHandle:
        """Return the handle of a queue or limit; see `stepwell.Engine.queue`."""
        return AsyncQueueHandle(self, flow_name(queue))

    async def queues(self) -> builtins.list[AsyncQueueHandle]:
        """Return the handles of all queues and limits that the file knows, by name."""
        return [AsyncQueueHandle(self, name) for name in await self._read(ReadService.queue_names)]

    async def workers(self) -> builtins.list[WorkerInfo]:
        """Return the workers that have the file open; see `stepwell.Engine.workers`."""
        (await self._ready()).check_usable()
        return await self._read(ReadService.workers)

    async def take_over(self, epoch: int, *, reason: str | None = None, by: str | None = None) -> int:
        """Take the runs of another worker; see `stepwell.Engine.take_over`."""
        return await asyncio.to_thread((await self._ready()).take_over, epoch, checked_actor(by, reason))

    async def query(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Return the rows of a query; see `stepwell.Engine.query`."""
        return await asyncio.to_thread((await self._ready()).query, sql, parameters)

    async def backup(
        self, target: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
    ) -> Backup:
        """Make a backup of the file, in a thread; see `stepwell.Engine.backup`. `progress` is called there."""
        session = await self._ready()
        session.check_usable()
        return await asyncio.to_thread(back_up, session.store.location, target, overwrite=overwrite, progress=progress)

    async def archive(
        self,
        target: str | os.PathLike[str],
        filter: str,
        /,
        *,
        progress: Callable[[int], None] | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> Archive:
        """Move runs that have ended into another file; see `stepwell.Engine.archive`."""
        session, loop = await self._ready(), asyncio.get_running_loop()

        def ask(request: Request) -> Any:
            return asyncio.run_coroutine_threadsafe(self._ask(request), loop).result()

        return await asyncio.to_thread(archive, session, ask, target, filter, by, reason, progress)

    async def check(self) -> Check:
        """Replay every run in flight, in a thread, and say which do not go on; see `stepwell.Engine.check`."""
        session = await self._ready()
        return await asyncio.to_thread(session.check)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncTransaction]:
        """Open a transaction; see `stepwell.Engine.transaction`. Other tasks go on; other writers wait."""
        session = await self._ready()
        session.check_usable()
        engine_thread = session.engine_thread
        writers, where = engine_thread.store.writers, f"transaction() at {executing_at()}"
        await acquire_from_loop(writers)
        try:
            engine_thread.check_open()
            token = in_transaction.set(in_transaction.get() | {id(session)})
            try:
                with (
                    writers.holding(where),
                    engine_thread.store.transaction(engine_thread.turn_loop.claimed()) as opened,
                ):
                    enlisted = session.enlisted(opened)
                    yield AsyncTransaction(self, opened.lent, enlisted)
                    enlisted.write()
            finally:
                in_transaction.reset(token)
            # Before others may write: see `Arrivals.message_from_outside`.
            session.after_transaction(enlisted.events())
        finally:
            writers.release()
