"""What the web UI may use of a file: reads, each bounded in time, and acts.

It serves an `Engine`, an `AsyncEngine`, or the mere path of a file, which can be looked at and not acted on. Every
question opens the file for itself, for reading only, and lets go of it: so nothing is held between two of them, and a
file that was replaced meanwhile is the one that is shown.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from stepwell.api.async_engine import AsyncEngine
from stepwell.api.engine import Engine
from stepwell.api.reading.file_reads import file_reads
from stepwell.api.reading.read_service import ReadService
from stepwell.api.reading.views import WorkerInfo
from stepwell.definitions.definition import Versioned, registered_workflows
from stepwell.errors import EngineClosed, InvalidArgument, RunNotFound
from stepwell.model.clock import MICROSECONDS
from stepwell.model.names import check_id
from stepwell.model.run import RunRecord
from stepwell.runtime.serving.requests import BulkAct
from stepwell.values.codec import Codec

if TYPE_CHECKING:
    from stepwell.api.doctor import Diagnosis
    from stepwell.api.reading.code_requests import AskedFor, Parameter
    from stepwell.api.reading.time_travel import MomentView
    from stepwell.store.sqlite.limited_query import QueryAnswer

T = TypeVar("T")

#: What a face can be made of.
Shown: TypeAlias = "Engine | AsyncEngine | str | os.PathLike[str]"
#: How long the questions of one page may take, in seconds, all together.
LOOK_SECONDS: Final = 5.0


class Face:
    """A file in front of people. `can_act` tells whether anything can be asked of it but questions."""

    def __init__(self, shown: Shown, *, seconds: float = LOOK_SECONDS) -> None:
        self._engine: Final = shown if isinstance(shown, (Engine, AsyncEngine)) else None
        self._seconds: Final = seconds
        if isinstance(shown, Engine):
            self.path = shown._session.store.location
        elif isinstance(shown, AsyncEngine):
            self.path = os.fspath(shown._path)
        else:
            self.path = os.fspath(shown)

    @property
    def can_act(self) -> bool:
        """Whether there is an engine that acts can be asked of."""
        return self._engine is not None

    # --- questions: from any thread ----------------------------------------------------------------------------------

    def look(self, ask: Callable[[ReadService], T], *, seconds: float | None = None) -> T:
        """Return the answer to a question; raises what it raises, `ReadTooLong`, and as `file_reads`.

        It may take so many `seconds`; None: as many as a page.
        """
        bound = self._seconds if seconds is None else seconds
        self._check_in_place()
        with file_reads(self.path, "the page of runs", "the page of queues", seconds=bound) as reads:
            return ask(reads)

    def _check_in_place(self) -> None:
        """Raise `FileNotUsable` where the engine's file was replaced.

        Asked before the file is read: what lies there now, with the log of the other one, looks damaged, and is not.
        """
        if self._engine is None:
            return
        try:
            session = self._engine._session if isinstance(self._engine, Engine) else self._engine._opened()
        except EngineClosed:
            return  # it has no file that could be another one
        session.store.check_in_place()

    def query(self, sql: str, rows: int) -> QueryAnswer:
        """Return what a query reads that somebody typed, at most so many rows; see `limited_query`."""
        from stepwell.store.sqlite.file.read_only import look_into
        from stepwell.store.sqlite.limited_query import QueryBounds

        with look_into(self.path, self._seconds) as look:
            return look.query(sql, QueryBounds(rows))

    def workers_asked(self) -> list[WorkerInfo] | None:
        """Return the workers of the file, those that live asked whether they answer; None where there is no engine."""
        if self._engine is None:
            return None
        session = self._engine._session if isinstance(self._engine, Engine) else self._engine._opened()
        return session.reads.workers()

    def moment(self, run_id: str, told: int) -> MomentView:
        """Return a run as it was after it was told so many things; see `stepwell.api.reading.time_travel`."""
        from stepwell import audit_hook
        from stepwell.api.reading.time_travel import moment_of
        from stepwell.runtime import io_guard
        from stepwell.store.sqlite.file.read_only import look_into

        io_guard.listen(audit_hook.add_listener)
        with look_into(self.path, self._seconds) as look:
            record = look.run_facts(check_id(run_id))
            if record is None:
                raise RunNotFound(f"{self.path} has no run {run_id!r}")
            return moment_of(look.runs, record, self.workflows(), Codec(), told)

    def asked_for(self, run_id: str, number: int | None) -> list[AskedFor]:
        """Return an operation of a run as its code asks for it, or all that it waits for; see `api.code_requests`."""
        from stepwell import audit_hook
        from stepwell.api.reading.code_requests import asked_for
        from stepwell.runtime import io_guard
        from stepwell.store.sqlite.file.read_only import look_into

        io_guard.listen(audit_hook.add_listener)
        with look_into(self.path, self._seconds) as look:
            record = look.run_facts(check_id(run_id))
            return [] if record is None else asked_for(look.runs, record, self.workflows(), Codec(), number)

    def parameters(self, record: RunRecord) -> list[Parameter] | None:
        """Return what the workflow of a run takes; None where its code is not here, or that cannot be said."""
        from stepwell.api.reading.code_requests import parameters_of

        definition = self.workflows().fitting(record.workflow, record.version)
        return None if definition is None else parameters_of(definition)

    def retention_seconds(self) -> float | None:
        """Return how long the engine keeps runs that ended; None where it deletes none, or is a mere client."""
        if self._engine is None:
            return None
        session = self._engine._session if isinstance(self._engine, Engine) else self._engine._opened()
        return None if session.retention is None else session.retention / MICROSECONDS

    def diagnosis(self) -> Diagnosis:
        """Return what `stepwell doctor` finds."""
        from stepwell.api.doctor import examine

        return examine(self.path)

    def workflows(self) -> Versioned:
        """Return the workflows that the engine serves, by name; where it serves none, all that this process has."""
        if self._engine is None:
            return registered_workflows()
        session = self._engine._session if isinstance(self._engine, Engine) else self._engine._opened()
        return session.workflows or registered_workflows()

    # --- acts: on the loop -------------------------------------------------------------------------------------------

    async def on_run(self, run: str, act: str, *args: Any, **options: Any) -> Any:
        """Call a method of the handle of a run, and return its answer; raises what it raises."""
        if isinstance(self._engine, AsyncEngine):
            return await getattr(await self._engine.get(run), act)(*args, **options)
        engine = self._acting()
        return await asyncio.to_thread(lambda: getattr(engine.get(run), act)(*args, **options))

    async def on_queue(self, queue: str, act: str, **options: Any) -> Any:
        """The same of a queue or limit."""
        if isinstance(self._engine, AsyncEngine):
            return await getattr(self._engine.queue(queue), act)(**options)
        engine = self._acting()
        return await asyncio.to_thread(lambda: getattr(engine.queue(queue), act)(**options))

    async def on_schedule(self, schedule: str, act: str, *args: Any, **options: Any) -> Any:
        """The same of a schedule."""
        if isinstance(self._engine, AsyncEngine):
            return await getattr(await self._engine.get_schedule(schedule), act)(*args, **options)
        engine = self._acting()
        return await asyncio.to_thread(lambda: getattr(engine.get_schedule(schedule), act)(*args, **options))

    async def answer(self, token: str, act: str, answer: Any, *, reason: str | None, by: str) -> None:
        """Resolve or reject a promise; see `stepwell.Engine.resolve`."""
        if isinstance(self._engine, AsyncEngine):
            await getattr(self._engine, act)(token, answer, reason=reason, by=by)
            return
        method = getattr(self._acting(), act)
        await asyncio.to_thread(method, token, answer, reason=reason, by=by)

    async def take_over(self, epoch: int, *, reason: str | None, by: str) -> int:
        """Take the runs of a stalled worker; see `stepwell.Engine.take_over`."""
        if isinstance(self._engine, AsyncEngine):
            return await self._engine.take_over(epoch, reason=reason, by=by)
        return await asyncio.to_thread(self._acting().take_over, epoch, reason=reason, by=by)

    async def begin_bulk(self, act: BulkAct, filter: str, *, reason: str | None, by: str) -> int:
        """Begin an act on all runs that match a filter, and return its number; it goes on by itself."""
        if isinstance(self._engine, AsyncEngine):
            session = await self._engine._ready()
            runs = await asyncio.to_thread(session.reads.bulk_filter, act, filter)
            return int(await self._engine._ask(session.requests.bulk(act, filter, runs, by, reason)))
        engine = self._acting()

        def begin() -> int:
            runs = engine._session.reads.bulk_filter(act, filter)
            return int(engine._ask(engine._session.requests.bulk(act, filter, runs, by, reason)))

        return await asyncio.to_thread(begin)

    def _acting(self) -> Engine:
        if not isinstance(self._engine, Engine):
            raise InvalidArgument(f"{self.path} was opened to be looked at; give an engine to act on it as well")
        return self._engine
