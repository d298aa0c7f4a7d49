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

from stepwell.api.acts import Act
from stepwell.api.engine_clock import system_clock
from stepwell.api.options import (
    MAX_PAGE,
    Durability,
    Options,
    QueueOptions,
    StartMessage,
    at_least,
    checked_messages,
    checked_statuses,
    checked_workflow,
    deadline_at,
    duration_microseconds,
    retry_filter,
)
from stepwell.api.sortable_ids import SortableIds
from stepwell.api.views import JournalEntry, QueueInfo, RunInfo, WorkerInfo, WorkerState
from stepwell.api.why import Reasons
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
from stepwell.definitions.queues import QueueSlot, batch_count, queue_entry, registered_flows
from stepwell.errors import (
    FORK_ADVICE,
    DefinitionError,
    EngineClosed,
    InvalidArgument,
    QueueNotFound,
    RunNotFound,
    TransactionError,
    WorkflowIOError,
)
from stepwell.executors.child_main import check_may_open
from stepwell.model.acts import Actor
from stepwell.model.clock import Clock, engine_time, to_seconds
from stepwell.model.lifecycle import ENDED, Status
from stepwell.model.names import check_name, check_text
from stepwell.model.run import RunRecord
from stepwell.operations.functions import check_id
from stepwell.runtime.engine_thread import EngineThread
from stepwell.runtime.requests import OutgoingMessage
from stepwell.runtime.stalls import ANSWER_SECONDS
from stepwell.store.changes import MessageSent, RunCreated
from stepwell.store.inspector import RunFilter
from stepwell.store.queues import QueueDeclared
from stepwell.store.store import Answer, Store
from stepwell.values.codec import Codec
from stepwell.values.own_tables import Parameters, Rows
from stepwell.worker.conflicts import conflict_of
from stepwell.worker.queue_policy import entered
from stepwell.worker.unit_of_work import RunOver

#: The engines in whose `transaction()` block the current code is; asking such an engine to write would wait for itself.
in_transaction: Final[ContextVar[frozenset[int]]] = ContextVar("stepwell_in_transaction", default=frozenset())


_STATES: Final[dict[Answer, WorkerState]] = {
    "answered": "active",
    "silent": "stalled",
    "unreachable": "unreachable",
}


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

    def count(self, run_filter: RunFilter) -> int:
        """Return how many runs match."""
        self._check_may_read()
        return self.store.inspector.count_runs(run_filter)

    def entry(self, run_id: str | None, messages: Sequence[StartMessage], options: QueueOptions) -> QueueSlot | None:
        """Return how a start wants to stand in a queue; None where it goes into none."""
        entry = queue_entry(run_id=run_id, **options)
        if entry is not None and entry.ready_at is not None:
            entry = replace(entry, ready_at=engine_time(self.clock, entry.ready_at))
        if messages and entry is not None and (entry.dedup is not None or entry.queue.batch is not None):
            raise InvalidArgument("messages cannot go with a start whose run may turn out to be another one")
        return entry

    # --- facts ---------------------------------------------------------------------------------------------------

    def record(self, run_id: str) -> RunRecord:
        """Return a run's row, without its input and its result; raises `RunNotFound`."""
        self._check_may_read()
        record = self.store.inspector.run_facts(check_id(run_id))
        if record is None:
            raise RunNotFound(f"{self.store.location} has no run {run_id!r}; start it, or look for it with list()")
        return record

    def end_of(self, run_id: str) -> RunOver | None:
        """Return how a run ended; None where it has not ended, or does not exist."""
        self.check_usable()
        record = self.store.inspector.run_by_id(run_id)
        if record is None or record.status not in ENDED:
            return None
        return RunOver.of(record)

    def info(self, run_id: str) -> RunInfo:
        """Return the facts about a run."""
        return RunInfo.of(self.record(run_id), self.reasons())

    def reasons(self) -> Reasons:
        """Return what finds reasons, now."""
        own = self.core.machine.claim
        members, epoch = self.store.members, None if own is None else own.epoch
        return Reasons(self.store.inspector, members, self.clock.now(), epoch, self.core.worker.ahead)

    def journal(self, run_id: str) -> list[JournalEntry]:
        """Return a run's journal, in order."""
        record = self.record(run_id)
        entries: list[JournalEntry] = []
        after = 0
        while page := self.store.inspector.journal(record.key, after=after):
            entries += [JournalEntry.of(entry, self.codec, record.ahead) for entry in page]
            after = page[-1].position
        return entries

    def acts(self, run_id: str) -> list[Act]:
        """Return what somebody did to a run, the oldest first."""
        record = self.record(run_id)
        return [Act.of(act, record.ahead) for act in self.store.inspector.acts(record.key)]

    def list_records(
        self,
        status: Status | Sequence[Status] | None,
        workflow: Workflow[..., Any] | str | None,
        id_prefix: str | None,
        limit: int,
        before: str | None,
    ) -> list[RunRecord]:
        """Return the rows of the runs that match, newest first."""
        self._check_may_read()
        return self.store.inspector.list_runs(
            RunFilter(
                status=checked_statuses(status),
                workflow=checked_workflow(workflow),
                id_prefix=check_text(id_prefix, "id_prefix"),
                before_key=None if before is None else self.record(before).key,
                limit=min(at_least(limit, 1, "limit"), MAX_PAGE),
            )
        )

    def definition_of(self, record: RunRecord) -> Workflow[..., Any]:
        """Return the workflow of a run, or what stands for it where this process does not have it."""
        return self.definition(record.workflow, {})

    def query(self, sql: str, parameters: Parameters) -> Rows:
        """Return the rows of a query; see `stepwell.Engine.query`."""
        self._check_may_read()
        return self.store.query(sql, parameters)

    # --- workers -------------------------------------------------------------------------------------------------

    def workers(self) -> list[WorkerInfo]:
        """Return the workers of the file; see `stepwell.Engine.workers`."""
        self.check_usable()
        members = self.store.members()
        own = self.core.machine.claimed().epoch
        states: dict[int, WorkerState] = {own: "active"}
        asked = [member.epoch for member in members if member.state == "active" and member.epoch != own]
        for epoch, answer in self.store.ask(asked, ANSWER_SECONDS).items():
            states[epoch] = _STATES[answer]
        for member in members:
            if member.state != "active":
                states[member.epoch] = "dead" if member.state == "dead" else "stalled"
        return [WorkerInfo.of(member, states[member.epoch], self.core.worker.ahead) for member in members]

    def take_over(self, epoch: int, actor: Actor) -> int:
        """Take the runs of another worker; see `stepwell.Engine.take_over`."""
        self.check_usable()
        if epoch == self.core.machine.claimed().epoch:
            raise InvalidArgument(f"worker {epoch} is this engine itself; close it instead")
        if all(member.epoch != epoch for member in self.store.members()):
            raise InvalidArgument(f"{self.store.location} has no worker {epoch}, or it has ended; see workers()")
        return self.core.take_over(epoch, actor)

    # --- queues --------------------------------------------------------------------------------------------------

    def queue_info(self, name: str) -> QueueInfo:
        """Return the facts about a queue or limit; raises `QueueNotFound` for one that nobody knows."""
        self._check_may_read()
        for state in self.store.inspector.queues():
            if state.name == name:
                return QueueInfo.of(state, self.store.inspector, self.reasons(), self.clock.now())
        flow = registered_flows().get(name)
        if flow is None:
            raise QueueNotFound(
                f"{self.store.location} knows no queue or limit {name!r}; see queues() for those it knows"
            )
        return QueueInfo.of_declared(flow)

    def acts_of_queue(self, name: str) -> list[Act]:
        """Return what somebody did to a queue or limit, the oldest first; raises as `queue_info`."""
        self.queue_info(name)
        ahead = self.core.worker.ahead
        return [Act.of(act, ahead) for act in self.store.inspector.acts_of_queue(name)]

    def queues(self) -> list[QueueInfo]:
        """Return the facts about all queues and limits that the file knows."""
        self._check_may_read()
        inspector, reasons, now = self.store.inspector, self.reasons(), self.clock.now()
        return [QueueInfo.of(state, inspector, reasons, now) for state in inspector.queues()]

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
