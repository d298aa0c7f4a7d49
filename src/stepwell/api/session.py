"""What `Engine` and `AsyncEngine` share: an open file with its engine's thread, and the facts that are read from it.

Nothing here waits. The engines differ only in how they wait for the answers.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from stepwell.api.asking.listing_options import at_least
from stepwell.api.asking.options import (
    Durability,
    Options,
)
from stepwell.api.asking.request_factory import RequestFactory
from stepwell.api.engine_clock import system_clock
from stepwell.api.enlisted import Enlisted
from stepwell.api.reading.overview import EngineTime
from stepwell.api.reading.read_service import ReadService
from stepwell.definitions.definition import (
    Workflow,
)
from stepwell.definitions.durable import current_host
from stepwell.errors import (
    FORK_ADVICE,
    EngineClosed,
    InvalidArgument,
    TransactionError,
    WorkflowIOError,
)
from stepwell.executors.imported_script import check_may_open
from stepwell.importing import without_collector
from stepwell.model.acts import Actor
from stepwell.model.clock import Clock, to_seconds
from stepwell.model.names import check_id
from stepwell.model.retry import MAX_DURATION_SECONDS
from stepwell.model.run import RunRecord
from stepwell.runtime.engine_thread import EngineThread
from stepwell.runtime.serving.requests import StartRun
from stepwell.runtime.stalls import ANSWER_SECONDS
from stepwell.store.store import Lent, Store, StoreTransaction
from stepwell.values.codec import Codec
from stepwell.values.own_tables import Parameters, Rows

if TYPE_CHECKING:  # see `Session.schedules`
    from stepwell.api.asking.schedule_factory import ScheduleFactory
    from stepwell.api.check import Check
    from stepwell.api.reading.querying import Querying

#: The engines in whose `transaction()` block the current code is; asking such an engine to write would wait for itself.
in_transaction: Final[ContextVar[frozenset[int]]] = ContextVar("stepwell_in_transaction", default=frozenset())


def open_store(path: str | os.PathLike[str], durability: Durability) -> Store:
    """Open the store that `path` names, and begin to watch workflow code for I/O."""
    if isinstance(path, str) and path.startswith(("postgres://", "postgresql://")):
        raise InvalidArgument(f"{path.split('@')[-1]!r}: PostgreSQL is not supported yet; give the path of a file")
    check_may_open()
    # Imported here and not at the top: `import stepwell` must stay cheap for those who only define workflows.
    with without_collector():
        from stepwell import audit_hook
        from stepwell.runtime import io_guard
        from stepwell.store.sqlite.store import SqliteStore

    store = SqliteStore.open(path, durability=durability)
    io_guard.listen(audit_hook.add_listener)
    return store


_open_threads: Final[weakref.WeakSet[EngineThread]] = weakref.WeakSet()


@atexit.register
def _close_what_is_open() -> None:
    """Fold the write-ahead logs of engines that nobody closed; a process that cannot even do that loses nothing."""
    for engine_thread in list(_open_threads):
        with contextlib.suppress(Exception):
            engine_thread.close(0.0)


class Session:
    """An open engine, seen from its callers: makes requests, reads facts. Safe from any thread."""

    def __init__(
        self, path: str | os.PathLike[str], options: Options, step_loop: asyncio.AbstractEventLoop | None
    ) -> None:
        store = open_store(path, options.durability)
        try:
            self.codec = Codec(max_payload_bytes=options.max_payload_bytes)
            self.workflows = options.workflows
            self.retention = options.retention if options.takes_work else None
            self.clock: Clock = options.clock or system_clock(store)
            self.engine_thread = EngineThread(
                store,
                self.codec,
                self.clock,
                options.workflows,
                limits=options.limits,
                step_threads=options.step_threads,
                step_processes=options.step_processes,
                step_loop=step_loop,
                retention=options.retention,
                stall_limit_seconds=options.stall_limit_seconds,
                takes_work=options.takes_work,
                queues=options.queues,
            )
            self.engine_thread.worker.runs.on_failure = options.on_failure
            self.engine_thread.start()
        except BaseException:
            store.close(None, 0)
            raise
        self.store = store
        self.requests = RequestFactory(self.codec, self.clock, options.workflows, self.engine_thread.worker)
        self._reads = ReadService(
            store.inspector,
            self.codec,
            location=store.location,
            time_now=lambda: EngineTime(self.clock.now(), self.engine_thread.worker.runs.ahead),
            members=store.membership.members,
            own=self._own_epoch,
            ask=lambda epochs: store.membership.ping(epochs, ANSWER_SECONDS),
        )
        self._pid = os.getpid()
        _open_threads.add(self.engine_thread)

    @cached_property
    def schedules(self) -> ScheduleFactory:
        """What makes requests about schedules; the calendar comes with the first of them."""
        from stepwell.api.asking.schedule_factory import ScheduleFactory

        runs = self.engine_thread.worker.runs
        return ScheduleFactory(self.requests, self.codec, lambda: self.clock.now() - runs.ahead)

    def check_usable(self) -> None:
        """Raise where a request could never be answered.

        That is in a forked child, inside an open transaction, and on the engine's own thread, which would wait for
        itself.
        """
        if os.getpid() != self._pid:
            raise EngineClosed(
                f"{self.store.location}: this engine belongs to process {self._pid}; process {os.getpid()} inherited "
                f"it through fork, and can neither use it nor open its file. {FORK_ADVICE}"
            )
        check_outside_of_runs()
        if threading.get_ident() == self.engine_thread.thread.ident:
            raise WorkflowIOError(
                "the engine was called from an async step or a @transaction, on the thread on which it would have to "
                "answer. In an async step use `await asyncio.to_thread(engine.send, …)`, or make it a `def` step"
            )
        if id(self) in in_transaction.get():
            raise TransactionError(
                "inside `with engine.transaction() as tx:` use tx.start and tx.send; the engine itself cannot write or "
                "answer before the block has ended"
            )

    def _check_may_read(self) -> None:
        """Raise where facts would be read by a forked child, or by workflow code."""
        if os.getpid() != self._pid:
            self.check_usable()
        check_outside_of_runs()

    # --- facts ---------------------------------------------------------------------------------------------------

    @property
    def reads(self) -> ReadService:
        """What answers people's questions about the file; raises in a forked child and in workflow code."""
        self._check_may_read()
        return self._reads

    def _own_epoch(self) -> int | None:
        own = self.engine_thread.turn_loop.claim
        return None if own is None else own.epoch

    def definition_of(self, record: RunRecord) -> Workflow[..., Any]:
        """Return the workflow of a run, or what stands for it where this process does not have it."""
        return self.requests.workflow_called(record.workflow, record.version)

    def in_memory(self, run_id: str) -> Workflow[..., Any] | None:
        """Return the workflow of a run that is in memory, so that nothing need be read to know it; else None."""
        self._check_may_read()
        return self.engine_thread.worker.memory.workflow_of(check_id(run_id))

    def query(self, sql: str, parameters: Parameters) -> Rows:
        """Return the rows of a query; see `stepwell.Engine.query`."""
        self._check_may_read()
        return self.store.query(sql, parameters)

    @cached_property
    def _querying(self) -> Querying:
        from stepwell.api.reading.querying import Querying

        return Querying(self.store.reads, self.codec, self.store.location)

    def query_run(
        self, run_id: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, seconds: float | None
    ) -> Any:
        """Ask a run; see `stepwell.Run.query`."""
        record = self.reads.record(run_id)
        definition = self.definition_of(record)
        return self._querying.ask(record, None if definition.is_named_only else definition, name, args, kwargs, seconds)

    def check(self) -> Check:
        """Replay every run in flight with the workflows of this engine; see `stepwell.check`."""
        from stepwell.api.check import check_with

        self.check_usable()
        return check_with(self.store.location, self.workflows)

    # --- workers -------------------------------------------------------------------------------------------------

    def take_over(self, epoch: int, actor: Actor) -> int:
        """Take the runs of another worker; see `stepwell.Engine.take_over`."""
        self.check_usable()
        at_least(epoch, 1, "the number of a worker")
        if epoch == self.engine_thread.turn_loop.claimed().epoch:
            raise InvalidArgument(f"worker {epoch} is this engine itself; close it instead")
        if not self._reads.has_worker(epoch):
            raise InvalidArgument(f"{self.store.location} has no worker {epoch}, or it has ended; see workers()")
        return self.engine_thread.take_over(epoch, actor)

    # --- transactions --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Generator[tuple[Lent, Enlisted]]:
        """Open a transaction for the calling thread; see `stepwell.Engine.transaction`."""
        engine_thread = self.engine_thread
        with engine_thread.writing():
            engine_thread.check_open()
            token = in_transaction.set(in_transaction.get() | {id(self)})
            try:
                with engine_thread.store.transaction(engine_thread.turn_loop.claimed()) as opened:
                    enlisted = self.enlisted(opened)
                    yield opened.lent, enlisted
                    enlisted.write()
            finally:
                in_transaction.reset(token)
            # Before others may write: see `Arrivals.message_from_outside`.
            self.after_transaction(enlisted.events())

    def enlisted(self, opened: StoreTransaction) -> Enlisted:
        """Return what starts and sends in a transaction of the store."""
        return Enlisted(self.engine_thread.worker, self.codec, self.clock.now, opened)

    def start_all(self, requests: Sequence[StartRun]) -> list[str]:
        """Start all of these runs, or none, in a transaction of their own; return their ids."""
        with self.transaction() as (_, enlisted):
            return enlisted.start(requests)

    def after_transaction(self, events: list[Callable[[], None]]) -> None:
        """Bring to life what a committed transaction started and sent."""
        for event in events:
            self.engine_thread.post(event)

    def close(self, timeout: float | timedelta | None) -> None:
        """Close the engine; see `stepwell.Engine.close`."""
        if os.getpid() != self._pid:
            return
        check_outside_of_runs()
        self.engine_thread.close(closing_seconds(timeout))
        _open_threads.discard(self.engine_thread)


def closing_seconds(timeout: float | timedelta | None) -> float:
    """Return how long steps under way have to end when an engine closes: for None, as long as they need."""
    return MAX_DURATION_SECONDS if timeout is None else to_seconds(timeout, "timeout of close()")


def check_outside_of_runs() -> None:
    """Raise in workflow code: what an engine does or says there is not recorded, so replay would differ."""
    host = current_host()
    if host is not None:
        raise WorkflowIOError(
            f"run {host.run_id!r}: workflow code called an engine, at {host.location()}. What it answers is not "
            "recorded, so a replay would get another answer. To start runs, send and wait use stepwell.start, "
            "stepwell.send, … ; whatever else is to be asked of the engine goes into a @step"
        )
