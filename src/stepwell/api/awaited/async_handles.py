"""Handles for asyncio code: of runs, of queues, of an open transaction; `stepwell.api.blocking.handles`, awaited."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, Self, TypeVar, TypeVarTuple, Unpack, cast, overload

from stepwell.api.asking.acts import Act
from stepwell.api.asking.options import (
    MANY_OPTIONS,
    START_OPTIONS,
    ManyOptions,
    StartOptions,
)
from stepwell.api.awaited.async_repairs import AsyncRepairs
from stepwell.api.awaited.async_streaming import AsyncStreaming
from stepwell.api.awaited.async_talking import AsyncTalking
from stepwell.api.awaited.loop_caller import LoopCaller
from stepwell.api.enlisted import Enlisted
from stepwell.api.promises import AsyncAnswering
from stepwell.api.reading.chapters import ChapterInfo
from stepwell.api.reading.read_service import ReadService
from stepwell.api.reading.views import JournalEntry, QueueInfo, RunInfo, outcome
from stepwell.api.repairs import Make
from stepwell.api.session import Session
from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import UNCHANGED, QueueBounds
from stepwell.definitions.start_options import shows_options
from stepwell.model.attributes import AttributeValue
from stepwell.model.lifecycle import Status
from stepwell.model.promise import PromiseRecord
from stepwell.runtime.serving.requests import AnswerPromise, SendMessage, StartRun
from stepwell.shown import shown
from stepwell.values.own_tables import Connection, Parameters, Rows
from stepwell.worker.state.run_over import RunOver

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")


class AsyncStarter(AsyncAnswering):
    """What starts runs and sends messages; `stepwell.api.blocking.handles.Starter`, awaited."""

    def _caller(self) -> LoopCaller:
        """Return the engine."""
        raise NotImplementedError

    async def _submit(self, request: StartRun | SendMessage | AnswerPromise) -> Any:
        """Have it done, and return the answer."""
        raise NotImplementedError

    async def _answer(self, request: AnswerPromise) -> Any:
        return await self._submit(request)

    async def _promise(self, token: str) -> tuple[Session, PromiseRecord]:
        caller = self._caller()
        return await caller._ready(), await caller._read(ReadService.promise, token)

    async def _submit_all(self, requests: Sequence[StartRun]) -> builtins.list[str]:
        """Have all of it done, or none, and return the ids."""
        raise NotImplementedError

    @overload
    async def start(
        self, workflow: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts, **options: Unpack[StartOptions]
    ) -> AsyncRun[T]: ...

    @overload
    async def start(
        self, workflow: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[StartOptions]
    ) -> AsyncRun[T]: ...

    @overload
    async def start(self, workflow: str, /, *args: Any, **options: Unpack[StartOptions]) -> AsyncRun[Any]: ...

    @shows_options(START_OPTIONS)
    async def start(
        self, workflow: Callable[[*Ts], Any] | str, /, *args: *Ts, **options: Unpack[StartOptions]
    ) -> AsyncRun[Any]:
        """Start a run, in a transaction if, and only if, that commits; see `stepwell.Engine.start`."""
        caller = self._caller()
        requests = (await caller._ready()).requests
        definition = requests.definition(workflow, options)
        return AsyncRun(caller, await self._submit(requests.start(definition, args, options)), definition)

    @overload
    async def start_many(
        self,
        workflow: Callable[[*Ts], Coroutine[Any, Any, T]],
        args: Iterable[tuple[*Ts]],
        /,
        *,
        ids: Iterable[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> builtins.list[AsyncRun[T]]: ...

    @overload
    async def start_many(
        self,
        workflow: Callable[[*Ts], T],
        args: Iterable[tuple[*Ts]],
        /,
        *,
        ids: Iterable[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> builtins.list[AsyncRun[T]]: ...

    @overload
    async def start_many(
        self,
        workflow: str,
        args: Iterable[tuple[Any, ...]],
        /,
        *,
        ids: Iterable[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> builtins.list[AsyncRun[Any]]: ...

    @shows_options(MANY_OPTIONS)
    async def start_many(
        self,
        workflow: Callable[[*Ts], Any] | str,
        args: Iterable[tuple[*Ts]],
        /,
        *,
        ids: Iterable[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> builtins.list[AsyncRun[Any]]:
        """Start a run for each tuple of arguments, all or none; see `stepwell.Engine.start_many`."""
        caller = self._caller()
        requests = (await caller._ready()).requests
        definition = requests.definition(workflow, options)
        found = await self._submit_all(requests.start_many(definition, args, ids, options))
        return [AsyncRun(caller, run_id, definition) for run_id in found]

    async def send(self, id: str, name: str, value: object = None, *, key: str | None = None) -> None:
        """Send the run a message, in a transaction if, and only if, that commits; see `stepwell.Engine.send`."""
        await self._submit((await self._caller()._ready()).requests.send(id, name, value, key))


class AsyncTransaction(AsyncStarter):
    """A transaction of code outside of workflows; see `AsyncEngine.transaction`."""

    def __init__(self, engine: LoopCaller, lent: Connection, enlisted: Enlisted) -> None:
        self._engine = engine
        self._lent = lent
        self._enlisted = enlisted

    def _caller(self) -> LoopCaller:
        return self._engine

    async def _submit(self, request: StartRun | SendMessage | AnswerPromise) -> Any:
        return self._enlisted.submit(request)

    async def _submit_all(self, requests: Sequence[StartRun]) -> builtins.list[str]:
        return self._enlisted.start(requests)

    async def execute(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Execute SQL on the caller's own tables and return all rows; see `stepwell.Connection`."""
        return self._lent.execute(sql, parameters)

    async def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        """Execute SQL once for each of `rows`."""
        self._lent.executemany(sql, rows)


class AsyncQueueHandle:
    """A queue or limit in the file; `stepwell.QueueHandle`, awaited."""

    def __init__(self, engine: LoopCaller, name: str) -> None:
        self.name = name
        self._engine = engine

    async def info(self) -> QueueInfo:
        """Return the facts about the queue as they are now; raises `QueueNotFound`."""
        return await self._engine._read(ReadService.queue, self.name)

    async def pause(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Pause the queue: nothing starts from it until `unpause`. Runs under way go on."""
        await self._engine._ask((await self._engine._ready()).requests.pause_queue(self.name, True, by, reason))

    async def unpause(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Let waiting runs start again."""
        await self._engine._ask((await self._engine._ready()).requests.pause_queue(self.name, False, by, reason))

    async def resume(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Do the same as `unpause`, which had this name."""
        await self.unpause(reason=reason, by=by)

    @shows_options(UNCHANGED, UNCHANGED)
    async def change(self, **bounds: Unpack[QueueBounds]) -> None:
        """Change the bounds; see `stepwell.QueueHandle.change`."""
        await self._engine._ask((await self._engine._ready()).requests.change_queue(self.name, bounds))

    async def cancel_waiting(
        self, *, partition: str | None = None, reason: str | None = None, by: str | None = None
    ) -> int:
        """Cancel the runs that wait in the queue, or in one partition of it; return how many there were."""
        requests = (await self._engine._ready()).requests
        return cast("int", await self._engine._ask(requests.cancel_waiting(self.name, partition, by, reason)))

    async def acts(self) -> builtins.list[Act]:
        """Return who paused and resumed the queue, when and why; see `stepwell.QueueHandle.acts`."""
        return await self._engine._read(ReadService.acts_of_queue, self.name)

    def __repr__(self) -> str:
        """Show the name."""
        return f"<AsyncQueueHandle {self.name!r}>"


class AsyncRun(AsyncTalking, AsyncStreaming, AsyncRepairs, Generic[T]):
    """A handle of a run; `stepwell.Run`, awaited."""

    def __init__(self, engine: LoopCaller, run_id: str, definition: Workflow[..., Any]) -> None:
        super().__init__(engine, run_id)
        self._definition = definition

    async def _asked(self, make: Make) -> Any:
        return await self._engine._ask(make((await self._engine._ready()).requests, self._definition))

    def _other(self, run_id: str) -> Self:
        return type(self)(self._engine, run_id, self._definition)

    @property
    def workflow(self) -> str:
        """The name of the run's workflow."""
        return self._definition.name

    @property
    def status(self) -> Coroutine[Any, Any, Status]:
        """The run's state now: ``await run.status``; see `stepwell.model.lifecycle`."""
        return self._status()

    async def _status(self) -> Status:
        return (await self.info()).status

    async def result(self, timeout: float | timedelta | None = None) -> T:
        """Wait for the run's end and return its result; raises as `stepwell.Run.result` does."""
        session, over = await self._engine._ready(), None
        session.check_usable()
        if session.in_memory(self.id) is None:  # a look costs less than to ask the engine, and most have ended then
            over = await self._engine._session.look_up(ReadService.end_of, self.id)
        if over is None:
            request = session.requests.wait_for_run(self.id)
            over = await self._engine._wait(f"run {self.id!r} has not ended", timeout, request)
        return cast("T", outcome(cast("RunOver", over), self._definition, session.codec))

    async def info(self) -> RunInfo:
        """Return the facts about the run as they are now."""
        return await self._engine._read(ReadService.info, self.id)

    async def cancel(self, reason: str | None = None, *, by: str | None = None) -> bool:
        """Ask the run to stop; see `stepwell.Run.cancel`."""
        requests = (await self._engine._ready()).requests
        return cast("bool", await self._engine._ask(requests.cancel(self.id, by, reason)))

    async def retry(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Bring a run back that failed or was cancelled; see `stepwell.Run.retry`."""
        await self._engine._ask((await self._engine._ready()).requests.retry(self.id, by, reason))

    async def set_attributes(
        self,
        attributes: Mapping[str, AttributeValue | None] | None = None,
        /,
        *,
        tags: Iterable[str] = (),
        remove_tags: Iterable[str] = (),
        note: str | None = None,
        by: str | None = None,
    ) -> None:
        """Set attributes of the run, add and remove tags, leave a note; see `stepwell.Run.set_attributes`."""
        requests = (await self._engine._ready()).requests
        await self._engine._ask(requests.describe(self.id, attributes, tags, remove_tags, note, by))

    async def terminate(self, reason: str | None = None, *, by: str | None = None) -> None:
        """End the run at once, without its code; see `stepwell.Run.terminate`."""
        await self._engine._ask((await self._engine._ready()).requests.terminate(self.id, by, reason))

    async def reschedule(
        self, delay: float | timedelta | datetime, *, reason: str | None = None, by: str | None = None
    ) -> None:
        """Change when the run begins to wait for its turn in its queue; see `stepwell.Run.reschedule`."""
        await self._engine._ask((await self._engine._ready()).requests.reschedule(self.id, delay, by, reason))

    async def delete(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Delete the run, which has ended or not begun; see `stepwell.Run.delete`."""
        await self._engine._ask((await self._engine._ready()).requests.delete(self.id, by, reason))

    async def pause(self, reason: str | None = None, *, children: bool = False, by: str | None = None) -> None:
        """Pause the run; see `stepwell.Run.pause`."""
        await self._engine._ask((await self._engine._ready()).requests.pause(self.id, True, children, by, reason))

    async def unpause(self, reason: str | None = None, *, children: bool = False, by: str | None = None) -> None:
        """Let a paused run go on; see `stepwell.Run.unpause`."""
        await self._engine._ask((await self._engine._ready()).requests.pause(self.id, False, children, by, reason))

    async def resume(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Try a halted run again; see `stepwell.Run.resume`."""
        await self._engine._ask((await self._engine._ready()).requests.resume(self.id, by, reason))

    async def send(self, name: str, value: object = None, *, key: str | None = None) -> None:
        """Send the run a message; see `stepwell.Engine.send`."""
        await self._engine._ask((await self._engine._ready()).requests.send(self.id, name, value, key))

    @overload
    async def value(self, key: str, timeout: float | timedelta | None = None, *, type: type[U]) -> U: ...
    @overload
    async def value(self, key: str, timeout: float | timedelta | None = None, *, type: Any = ...) -> Any: ...

    async def value(self, key: str, timeout: float | timedelta | None = None, *, type: Any = Any) -> Any:
        """Return what the run published last under `key`, as `type`, or wait for it; see `stepwell.Run.value`."""
        session = await self._engine._ready()
        payload = await self._engine._wait(
            f"run {self.id!r} has not published {shown(key)}", timeout, session.requests.wait_for_value(self.id, key)
        )
        return session.codec.decode(payload, type, f"the value {key!r} of run {self.id!r}")

    async def journal(self, chapter: int | None = None) -> builtins.list[JournalEntry]:
        """Return everything that was delivered to the run so far, in order; see `stepwell.Run.journal`."""
        return await self._engine._read(ReadService.journal, self.id, chapter)

    async def chapters(self) -> builtins.list[ChapterInfo]:
        """Return the chapters of the run, the oldest first; see `stepwell.Run.chapters`."""
        return await self._engine._read(ReadService.chapters, self.id)

    async def acts(self) -> builtins.list[Act]:
        """Return what somebody did to the run, the oldest first; see `stepwell.Run.acts`."""
        return await self._engine._read(ReadService.acts, self.id)

    def __repr__(self) -> str:
        """Show the id."""
        return f"<AsyncRun {self.id!r}>"
