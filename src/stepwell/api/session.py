"""What `Engine` and `AsyncEngine` share: options, opening, and requests in the form that the engine's thread takes.

Nothing here waits. The engines differ only in how they wait for the answers.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from stepwell.api.engine_clock import system_clock
from stepwell.api.options import (
    Durability,
    Options,
    QueueOptions,
    StartMessage,
    checked_messages,
    deadline_at,
    duration_microseconds,
    retry_filter,
)
from stepwell.api.read_service import EngineTime, ReadService
from stepwell.api.sortable_ids import SortableIds
from stepwell.definitions.definition import (
    Workflow,
    checked_kwargs,
    how_to_make_it_a_workflow,
    is_workflow,
    refuse_named,
    registered_workflows,
    workflow_named,
)
from stepwell.definitions.durable import as_definition, current_host
from stepwell.definitions.namesakes import are_different, place_of
from stepwell.definitions.queues import QueueSlot, batch_count, queue_entry
from stepwell.errors import (
    FORK_ADVICE,
    DefinitionError,
    EngineClosed,
    InvalidArgument,
    TransactionError,
    WorkflowIOError,
)
from stepwell.executors.child_main import check_may_open
from stepwell.model.acts import Actor
from stepwell.model.clock import Clock, engine_time, to_seconds
from stepwell.model.lifecycle import Status
from stepwell.model.names import check_name
from stepwell.model.run import RunRecord
from stepwell.operations.functions import check_id
from stepwell.runtime.engine_thread import EngineThread
from stepwell.runtime.requests import OutgoingMessage
from stepwell.runtime.stalls import ANSWER_SECONDS
from stepwell.store.changes import MessageSent, RunCreated
from stepwell.store.inspector import RunFilter
from stepwell.store.queues import QueueDeclared
from stepwell.store.store import Store
from stepwell.values.codec import Codec
from stepwell.values.own_tables import Parameters, Rows
from stepwell.worker.conflicts import conflict_of
from stepwell.worker.queue_policy import entered

#: The engines in whose `transaction()` block the current code is; asking such an engine to write would wait for itself.
in_transaction: Final[ContextVar[frozenset[int]]] = ContextVar("stepwell_in_transaction", default=frozenset())


def open_store(path: str | os.PathLike[str], durability: Durability) -> Store:
    """Open the store that `path` names, and begin to watch workflow code for I/O."""
    if isinstance(path, str) and path.startswith(("postgres://", "postgresql://")):
        raise InvalidArgument(f"{path.split('@')[-1]!r}: PostgreSQL is not supported yet; give the path of a file")
    check_may_open()
    # Imported here and not at the top: `import stepwell` must stay cheap for those who only define workflows.
    from stepwell import audit_hook
    from stepwell.runtime import io_guard
    from stepwell.store.sqlite.store import SqliteStore

    store = SqliteStore.open(path, durability=durability)
    io_guard.listen(audit_hook.add_listener)
    return store


_open_cores: Final[weakref.WeakSet[EngineThread]] = weakref.WeakSet()


@atexit.register
def _close_what_is_open() -> None:
    """Fold the write-ahead logs of engines that nobody closed; a process that cannot even do that loses nothing."""
    for core in list(_open_cores):
        with contextlib.suppress(Exception):
            core.close(0.0)


class Session:
    """An open engine, seen from its callers: makes requests, reads facts. Safe from any thread."""

    def __init__(
        self, path: str | os.PathLike[str], options: Options, step_loop: asyncio.AbstractEventLoop | None
    ) -> None:
        store = open_store(path, options.durability)
        try:
            self.codec = Codec(max_payload_bytes=options.max_payload_bytes)
            self.workflows = options.workflows
            self._ids = SortableIds()
            self.clock: Clock = options.clock or system_clock(store)
            self.core = EngineThread(
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
            self.core.start()
        except BaseException:
            store.close(None, 0)
            raise
        self.store = store
        self._reads = ReadService(
            store.inspector,
            self.codec,
            location=store.location,
            time_now=lambda: EngineTime(self.clock.now(), self.core.worker.ahead),
            members=store.members,
            own=self._own_epoch,
            ask=lambda epochs: store.ask(epochs, ANSWER_SECONDS),
        )
        self._pid = os.getpid()
        _open_cores.add(self.core)

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
        if threading.get_ident() == self.core.thread.ident:
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

    # --- requests ------------------------------------------------------------------------------------------------

    def definition(self, workflow: Callable[..., Any] | str, named: Mapping[str, object]) -> Workflow[..., Any]:
        """Return the workflow that is meant by an object or a name; raises `InvalidArgument` for anything else.

        `named`: keyword arguments that are no options of a start, which is refused.
        """
        refuse_named(workflow, named)
        if isinstance(workflow, str):
            return self.workflows.get(workflow) or registered_workflows().get(workflow) or workflow_named(workflow)
        found = as_definition(workflow)
        if not is_workflow(found):
            raise InvalidArgument(
                f"start() needs a @workflow, or the name of one, as its first argument, not {workflow!r}; "
                f"{how_to_make_it_a_workflow(found)}"
            )
        return found

    def creation(
        self,
        workflow: Workflow[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        run_id: str | None,
        deadline: float | timedelta | datetime | None,
        entry: QueueSlot | None,
    ) -> RunCreated:
        """Return the change that creates a run; raises for anything about it that is not acceptable."""
        served = self.workflows.get(workflow.name)
        if served is not None and not workflow.is_named_only and are_different(served, workflow):
            raise DefinitionError(
                f"this engine executes {place_of(served)} under the name {workflow.name!r}, not {place_of(workflow)}, "
                "which start() was given: give one of them another name="
            )
        if workflow.is_bound:
            workflow.check_can_be_started(is_served=served is not None and served.is_bound_like(workflow))
        named = checked_kwargs(kwargs)
        workflow.signature.bind_check(args, named)
        workflow.converter(self.codec)  # raises where no result could ever be read
        run_id = self._ids.new(self.clock.now()) if run_id is None else check_id(run_id)
        where = f"the input of workflow {workflow.name!r} for run {run_id!r}"
        is_typed = not workflow.is_named_only
        payload, fingerprint = self.codec.seal_input(args, named, workflow.signature, where, is_typed=is_typed)
        now = self.clock.now()
        ends_at = deadline_at(deadline, now)
        if ends_at is not None and isinstance(deadline, datetime):
            ends_at = engine_time(self.clock, ends_at)
        return RunCreated(
            run_id,
            workflow.name,
            payload,
            fingerprint,
            "running" if entry is None else "pending",
            now,
            deadline_at=ends_at,
            entry=None if entry is None else entered(entry, now, count=batch_count(entry.queue, args, named)),
            ahead=self.core.worker.ahead,
        )

    def message(self, run_id: str, name: str, value: object, key: str | None) -> OutgoingMessage:
        """Return a message for a run, encoded; raises for anything about it that is not acceptable."""
        check_id(run_id)
        check_name(name, "the name of a message")
        if key is not None:
            check_name(key, "the key of a message")
        return OutgoingMessage(name, self.codec.encode_untyped(value, f"the message {name!r} to run {run_id!r}"), key)

    def messages(self, run_id: str, messages: Sequence[StartMessage]) -> list[OutgoingMessage]:
        """Return the messages that go with a start, encoded."""
        return [self.message(run_id, name, value, key) for name, value, key in checked_messages(messages)]

    def purge_before(self, older_than: float | timedelta) -> int:
        """Return the time before which a run must have ended to be purged."""
        return self.clock.now() - duration_microseconds(older_than, "older_than")

    def retried(
        self,
        status: Status | Sequence[Status] | None,
        workflow: Workflow[..., Any] | str | None,
        started_since: datetime | timedelta | float | None,
        id_prefix: str | None,
    ) -> RunFilter:
        """Return which runs are to be retried."""
        return retry_filter(status, workflow, started_since, id_prefix, self.clock)

    def entry(self, run_id: str | None, messages: Sequence[StartMessage], options: QueueOptions) -> QueueSlot | None:
        """Return how a start wants to stand in a queue; None where it goes into none."""
        entry = queue_entry(run_id=run_id, **options)
        if entry is not None and entry.ready_at is not None:
            entry = replace(entry, ready_at=engine_time(self.clock, entry.ready_at))
        if messages and entry is not None and (entry.dedup is not None or entry.queue.batch is not None):
            raise InvalidArgument("messages cannot go with a start whose run may turn out to be another one")
        return entry

    # --- facts ---------------------------------------------------------------------------------------------------

    @property
    def reads(self) -> ReadService:
        """What answers people's questions about the file; raises in a forked child and in workflow code."""
        self._check_may_read()
        return self._reads

    def _own_epoch(self) -> int | None:
        own = self.core.machine.claim
        return None if own is None else own.epoch

    def definition_of(self, record: RunRecord) -> Workflow[..., Any]:
        """Return the workflow of a run, or what stands for it where this process does not have it."""
        return self.definition(record.workflow, {})

    def query(self, sql: str, parameters: Parameters) -> Rows:
        """Return the rows of a query; see `stepwell.Engine.query`."""
        self._check_may_read()
        return self.store.query(sql, parameters)

    # --- workers -------------------------------------------------------------------------------------------------

    def take_over(self, epoch: int, actor: Actor) -> int:
        """Take the runs of another worker; see `stepwell.Engine.take_over`."""
        self.check_usable()
        if epoch == self.core.machine.claimed().epoch:
            raise InvalidArgument(f"worker {epoch} is this engine itself; close it instead")
        if not self._reads.has_worker(epoch):
            raise InvalidArgument(f"{self.store.location} has no worker {epoch}, or it has ended; see workers()")
        return self.core.take_over(epoch, actor)

    # --- transactions --------------------------------------------------------------------------------------------

    def after_transaction(self, events: list[Callable[[], None]]) -> None:
        """Bring to life what a committed transaction started and sent."""
        for event in events:
            self.core.post(event)

    def close(self, timeout: float | timedelta) -> None:
        """Close the engine; see `stepwell.Engine.close`."""
        if os.getpid() != self._pid:
            return
        check_outside_of_runs()
        self.core.close(to_seconds(timeout, "timeout of close()"))
        _open_cores.discard(self.core)


def check_outside_of_runs() -> None:
    """Raise in workflow code: what an engine does or says there is not recorded, so replay would differ."""
    host = current_host()
    if host is not None:
        raise WorkflowIOError(
            f"run {host.run_id!r}: workflow code called an engine, at {host.location()}. What it answers is not "
            "recorded, so a replay would get another answer. To start runs, send and wait use stepwell.start, "
            "stepwell.send, … ; whatever else is to be asked of the engine goes into a @step"
        )


class Enlisted:
    """What `tx.start` and `tx.send` do inside an open transaction, and what must happen after its commit."""

    def __init__(self, client: Session, apply: Callable[[Sequence[Any]], list[Any]]) -> None:
        self._client = client
        self._apply = apply
        self._started: list[int] = []
        self._events: list[Callable[[], None]] = []

    def start(self, run: RunCreated, messages: list[OutgoingMessage]) -> str:
        """Create a run and send it messages; return the id of the run that there is. Raises as `Engine.start`."""
        worker = self._client.core.worker
        declaration: list[QueueDeclared] = []
        if run.entry is not None:
            declaration = worker.turns.declaration(run.entry.queue, self._client.clock.now())
        elif run.workflow not in self._client.workflows:
            run = self._client.core.machine.requests.as_pending(run)
        *before, created = self._apply([*declaration, run])
        refusal = conflict_of(self._client.codec, run, created)
        if refusal is not None:
            raise refusal
        for declared, settings in zip(declaration, before, strict=True):
            self._events.append(partial(worker.turns.declared, declared, settings))
        if created.existing is None:
            if run.status == "running":
                self._started.append(created.key)
            else:
                self._events.append(partial(worker.child_created, run, created))
        for message in messages:
            self.send(run.id, message)
        return run.id if created.existing is None else created.existing.id

    def send(self, run_id: str, message: OutgoingMessage) -> None:
        """Send a message; raises `RunNotFound` and `RunEnded`."""
        change = MessageSent(run_id, message.name, message.value, self._client.clock.now(), message.key)
        sent = self._apply([change])[0]
        self._events.append(partial(self._client.core.worker.message_sent_outside, change, sent))

    def events(self) -> list[Callable[[], None]]:
        """Return what the engine's thread has to do after the commit."""
        if not self._started:
            return self._events
        # All at once, and first: what the transaction sent them is read with them.
        return [partial(self._client.core.worker.started_outside, self._started), *self._events]
