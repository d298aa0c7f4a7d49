"""The engine for code that does not use asyncio, and its run handles.

`stepwell.api.async_engine` is the awaited twin.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, TypeVarTuple, Unpack, cast, overload

from stepwell.api.acts import Act, checked_actor
from stepwell.api.options import Durability, Options, QueueOptions, StartMessage, StartOptions, flow_name
from stepwell.api.session import Enlisted, Session, in_transaction
from stepwell.api.views import JournalEntry, QueueInfo, RunInfo, WorkerInfo, outcome
from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import UNSET, Limit, Queue, Rate, Unset, changed_settings, check_key
from stepwell.executors.threads import lent
from stepwell.model.clock import Clock, to_seconds
from stepwell.model.lifecycle import Status
from stepwell.model.names import check_name
from stepwell.values.own_tables import Connection, Parameters, Rows
from stepwell.values.payload import MAX_PAYLOAD_BYTES
from stepwell.worker.unit_of_work import RunOver

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")

#: How long `close` gives steps under way, in seconds.
CLOSE_TIMEOUT_SECONDS: Final = 5.0


class _Answer:
    """A reply that a thread waits for."""

    def __init__(self) -> None:
        self._future: Future[Any] = Future()

    def __call__(self, value: Any, error: BaseException | None, /) -> None:
        if error is None:
            self._future.set_result(value)
        else:
            self._future.set_exception(error)

    def wait(self, timeout: float | None) -> Any:
        return self._future.result(timeout)

    def has_come(self) -> bool:
        return self._future.done()


class Engine:
    """Runs durable workflows whose state is the SQLite file at `path`; made if missing. Thread-safe.

    - `workflows`: the workflows to serve; None serves every workflow that this process defines.
    - `durability`: ``"full"`` survives power loss; ``"normal"`` survives the death of the process, but may lose the
      last moments at power loss.
    - `max_payload_bytes`: the limit for one argument list, result, message or value.
    - `max_waiting_in_memory`: how many waiting runs stay in memory for a quick reaction; the others are read again when
      something happens to them.
    - `max_running`: how many runs may be under way at once; further ones are pending.
    - `max_crashes`: a run that was under way, without progress, at so many deaths of its worker in a row is halted,
      and not tried again by itself (`RunCrashed`).
    - `step_threads`: how many ``def`` steps execute at once.
    - `step_processes`: how many steps with ``isolate="process"`` execute at once; None: as many as there are CPUs.
    - `retention`: how long after its end a run is kept, in seconds or as a timedelta; None keeps runs for ever.
    - `take_over_stalled_after`: seconds, or a timedelta, after which the runs of another worker that does not answer
      (it is stopped, or hangs) are taken over; None never does that by itself.
    - `queues`: the queues to take runs from, as objects or names; None takes from all.
    - `clock`: where time comes from; for tests.

    Any number of processes may open the file, one engine each; every run is carried on by one of them at a time.
    Opening continues the runs of workers that are gone. With ``workflows=[]`` the engine is a client: it starts, sends
    and waits, and leaves the work to others. Use it as a context manager, or call `close`. Raises `FileNotUsable`,
    `FileInUse` or `SchemaTooNew` where the file cannot be used, `InvalidArgument` for unusable options.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        workflows: Iterable[Workflow[..., Any]] | None = None,
        durability: Durability = "full",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        max_waiting_in_memory: int = 1_000,
        max_running: int = 10_000,
        max_crashes: int = 5,
        step_threads: int = 32,
        step_processes: int | None = None,
        retention: float | timedelta | None = None,
        take_over_stalled_after: float | timedelta | None = None,
        queues: Iterable[Queue | str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        options = Options(
            workflows=workflows,
            durability=durability,
            max_payload_bytes=max_payload_bytes,
            max_waiting_in_memory=max_waiting_in_memory,
            max_running=max_running,
            max_crashes=max_crashes,
            step_threads=step_threads,
            step_processes=step_processes,
            retention=retention,
            take_over_stalled_after=take_over_stalled_after,
            queues=queues,
            clock=clock,
        )
        self._client = Session(path, options, None)

    def __enter__(self) -> Self:
        """Return the engine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()

    def close(self, timeout: float | timedelta = CLOSE_TIMEOUT_SECONDS) -> None:
        """Stop: take no more work, give steps under way `timeout` (seconds or a timedelta) to end, and close the file.

        Steps that need longer are cancelled, or, in threads, abandoned; they are executed again by the next engine.
        A transaction of this engine that is open then is named in the log, and rolled back.
        Runs that have not ended go on with the next engine. Calling it again does nothing.
        """
        self._client.close(timeout)

    def _ask(self, event: Callable[..., None], *args: Any) -> Any:
        self._client.check_usable()
        answer = _Answer()
        self._client.core.request(event, *args, reply=answer)
        return answer.wait(None)

    def _wait(self, what: str, timeout: float | timedelta | None, event: Callable[..., None], *args: Any) -> Any:
        self._client.check_usable()
        seconds = None if timeout is None else to_seconds(timeout, "timeout")
        answer = _Answer()
        self._client.core.request(event, *args, reply=answer)
        try:
            with lent():
                return answer.wait(seconds)
        except TimeoutError:
            if answer.has_come():  # the run itself failed with a TimeoutError
                raise
            self._client.core.post(lambda: self._client.core.waiters.forget(answer))
            raise TimeoutError(f"{what} after {seconds:g} s; it goes on, so you can wait again") from None

    @overload
    def start(
        self, workflow: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts, **options: Unpack[StartOptions]
    ) -> Run[T]: ...

    @overload
    def start(self, workflow: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[StartOptions]) -> Run[T]: ...

    @overload
    def start(self, workflow: str, /, *args: Any, **options: Unpack[StartOptions]) -> Run[Any]: ...

    def start(
        self,
        workflow: Callable[[*Ts], Any] | str,
        /,
        *args: *Ts,
        id: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        deadline: float | timedelta | datetime | None = None,
        messages: Sequence[StartMessage] = (),
        queue: Queue | str | None = None,
        priority: int = 0,
        delay: float | timedelta | datetime | None = None,
        dedup: str | None = None,
        partition: str | None = None,
        **named: Any,
    ) -> Run[Any]:
        """Start a run of `workflow` with `args` (and `kwargs`); when this returns, the run survives power loss.

        - `id`: the run's name; the same id again gives the same run, never a second one. Without it, one is generated
          that sorts by time.
        - `deadline`: seconds or a timedelta from now, or an aware datetime, after which the run is stopped and fails.
        - `messages`: (name, value) or (name, value, key), sent in the same transaction to the run, new or found. With a
          key, repeating the start does not repeat the message.
        - `queue`: the `Queue`, or the name of one, in which the run waits for its turn; `priority`: higher goes first;
          `delay`: seconds, a timedelta, or an aware datetime before which it does not begin to wait.
        - `dedup`: a key; while a run of the queue with this key has not ended, the start returns that run, or raises
          `DuplicateRun`, as the queue says. `partition`: a key; partitions of a queue take turns, and can be bounded.

        A workflow whose code this program does not have is given by its name: its arguments are checked by the worker
        that executes the run, and its result is plain JSON data.

        Raises `RunConflict` where the id belongs to a run with another workflow or input, `SerializationError` for
        arguments that cannot be recorded, `DefinitionError` for arguments that do not fit, `InvalidArgument`,
        `StorageFull`.
        """
        client = self._client
        definition = client.definition(workflow, named)
        options = QueueOptions(queue=queue, priority=priority, delay=delay, dedup=dedup, partition=partition)
        run = client.creation(definition, args, kwargs, id, deadline, client.entry(id, messages, options))
        run_id = self._ask(client.core.machine.start_run, run, client.messages(run.id, messages))
        return Run(self, run_id, definition)

    def get(self, id: str) -> Run[Any]:
        """Return the handle of a run; raises `RunNotFound`."""
        record = self._client.record(id)
        return Run(self, record.id, self._client.definition_of(record))

    def list(
        self,
        *,
        status: Status | Sequence[Status] | None = None,
        workflow: Workflow[..., Any] | str | None = None,
        id_prefix: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> builtins.list[Run[Any]]:
        """Return the handles of the runs that match all filters, newest first.

        `before`: the id of the last run of the page before, to continue after it.
        """
        records = self._client.list_records(status, workflow, id_prefix, limit, before)
        return [Run(self, record.id, self._client.definition_of(record)) for record in records]

    def send(self, id: str, name: str, value: object = None, *, key: str | None = None) -> None:
        """Send the run a message; when this returns, it is recorded and will be received once.

        `key`: a second message with the same key to the same run is dropped. Raises `RunNotFound` (a message needs a
        run: start it first, or with ``start(messages=…)``), `RunEnded`, `SerializationError`, `StorageFull`.
        """
        self._ask(self._client.core.machine.send, id, self._client.message(id, name, value, key))

    def retry_all(
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
        """Retry the runs that match all filters (see `Run.retry`), and return how many there were.

        `status`: ``"failed"``, ``"cancelled"``, ``"halted"`` or several of them; without it the failed ones.
        `started_since`: an aware datetime, or how long ago, in seconds or as a timedelta; what never began is left out.
        With `dry_run` they are counted, and nothing is done. A run that cannot be brought back now is left out, and the
        log says why. Raises `InvalidArgument` where no filter is given.
        """
        client = self._client
        wanted = client.retried(status, workflow, started_since, id_prefix)
        if dry_run:
            return client.count(wanted)
        return cast("int", self._ask(client.core.machine.retry_all, wanted, checked_actor(by, reason)))

    def purge(self, older_than: float | timedelta) -> int:
        """Delete the runs that ended more than `older_than` (seconds or a timedelta) ago; return how many there were.

        With them go their journals and values, and their ids become free. A child stays as long as its parent has not
        ended. `retention` does the same by itself.
        """
        client = self._client
        return cast("int", self._ask(client.core.machine.purge, client.purge_before(older_than)))

    def queue(self, queue: Queue | Limit | str) -> QueueHandle:
        """Return the handle of a queue or limit, given as an object or by its name, to look at it and to change it."""
        return QueueHandle(self, flow_name(queue))

    def queues(self) -> builtins.list[QueueHandle]:
        """Return the handles of all queues and limits that the file knows, by name."""
        return [QueueHandle(self, info.name) for info in self._client.queues()]

    def workers(self) -> builtins.list[WorkerInfo]:
        """Return the workers that have the file open, this one among them, and those that died just now, oldest first.

        A worker that is stopped, or has a question before its eyes and does not answer it within two seconds, shows as
        ``stalled``; one of which no more is known than that it lives, as ``unreachable``.
        """
        return self._client.workers()

    def take_over(self, epoch: int, *, reason: str | None = None, by: str | None = None) -> int:
        """Take the runs of another worker, a stalled one (see `workers`), and let others carry them on.

        Whatever it still tries to write is refused; when it comes to, it goes on as a new worker. Returns how many runs
        it had. Raises `InvalidArgument` where there is no such worker, `StoreUnavailable` where it was stopped in the
        midst of a write, so that nobody can write until it is continued or killed.
        """
        return self._client.take_over(epoch, checked_actor(by, reason))

    def query(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Return the rows of a query, on the caller's own tables or on those of the file's schema.

        It reads what was committed, on a connection that cannot write, and holds up nobody. Keep it short all the same:
        the log cannot be cut while it reads. Raises `TransactionError` for what would do more than read; SQLite's own
        errors come through as apsw raises them.
        """
        return self._client.query(sql, parameters)

    @contextmanager
    def transaction(self) -> Generator[OpenTransaction]:
        """Open a transaction on the file, for the caller's own tables and for starting and sending, all or nothing.

        It holds up every other writer: keep it short. Leaving the block commits; an exception rolls back.
        Raises `TransactionError` for what a lent connection must not do, `StorageFull`.
        """
        client = self._client
        client.check_usable()
        core = client.core
        with core.writing():
            core.check_open()
            token = in_transaction.set(in_transaction.get() | {id(client)})
            try:
                with core.store.transaction(core.machine.claimed()) as opened:
                    enlisted = Enlisted(client, opened.apply)
                    yield OpenTransaction(self, opened.lent, enlisted)
            finally:
                in_transaction.reset(token)
            # Before others may write: see `Worker.message_sent_outside`.
            client.after_transaction(enlisted.events())


class OpenTransaction:
    """A transaction of code outside of workflows; see `Engine.transaction`."""

    def __init__(self, engine: Engine, lent: Connection, enlisted: Enlisted) -> None:
        self._engine = engine
        self._lent = lent
        self._enlisted = enlisted

    def execute(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Execute SQL on the caller's own tables and return all rows; see `stepwell.Connection`."""
        return self._lent.execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        """Execute SQL once for each of `rows`."""
        self._lent.executemany(sql, rows)

    @overload
    def start(
        self, workflow: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts, **options: Unpack[StartOptions]
    ) -> Run[T]: ...

    @overload
    def start(self, workflow: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[StartOptions]) -> Run[T]: ...

    @overload
    def start(self, workflow: str, /, *args: Any, **options: Unpack[StartOptions]) -> Run[Any]: ...

    def start(
        self,
        workflow: Callable[[*Ts], Any] | str,
        /,
        *args: *Ts,
        id: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        deadline: float | timedelta | datetime | None = None,
        messages: Sequence[StartMessage] = (),
        queue: Queue | str | None = None,
        priority: int = 0,
        delay: float | timedelta | datetime | None = None,
        dedup: str | None = None,
        partition: str | None = None,
        **named: Any,
    ) -> Run[Any]:
        """Start a run if, and only if, the transaction commits; see `Engine.start`."""
        client = self._engine._client
        definition = client.definition(workflow, named)
        options = QueueOptions(queue=queue, priority=priority, delay=delay, dedup=dedup, partition=partition)
        run = client.creation(definition, args, kwargs, id, deadline, client.entry(id, messages, options))
        run_id = self._enlisted.start(run, client.messages(run.id, messages))
        return Run(self._engine, run_id, definition)

    def send(self, id: str, name: str, value: object = None, *, key: str | None = None) -> None:
        """Send a message if, and only if, the transaction commits; see `Engine.send`."""
        self._enlisted.send(id, self._engine._client.message(id, name, value, key))


class QueueHandle:
    """A queue or limit in the file. `name` is the one that code gave it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self._engine = engine

    def info(self) -> QueueInfo:
        """Return the facts about it as they are now; raises `QueueNotFound`."""
        return self._engine._client.queue_info(self.name)

    def pause(self, *, reason: str | None = None, by: str | None = None) -> None:
        """Let nothing start from it until `resume`; what is under way goes on. `reason`, `by`: as in `Run.retry`."""
        self._pause(True, by, reason)

    def resume(self, *, reason: str | None = None, by: str | None = None) -> None:
        """Let what waits start again."""
        self._pause(False, by, reason)

    def change(
        self,
        *,
        concurrency: int | Unset | None = UNSET,
        per_worker: int | Unset | None = UNSET,
        partition_concurrency: int | Unset | None = UNSET,
        rate: Rate | Unset | None = UNSET,
    ) -> None:
        """Change what it bounds, for all workers at once; None takes a bound away, what is not given stays.

        What is under way goes on, also above a new bound. The change outlives restarts, until code declares other
        bounds than it does now. Raises `QueueNotFound`, `InvalidArgument`.
        """
        settings = changed_settings(concurrency, per_worker, partition_concurrency, rate)
        self._engine._ask(self._engine._client.core.machine.change_queue, self.name, settings)

    def _pause(self, paused: bool, by: str | None, reason: str | None) -> None:
        request = self._engine._client.core.machine.pause_queue
        self._engine._ask(request, self.name, paused, checked_actor(by, reason))

    def cancel_waiting(self, *, partition: str | None = None, reason: str | None = None, by: str | None = None) -> int:
        """Cancel the runs that wait in it, or in one partition of it; return how many there were."""
        request = self._engine._client.core.machine.cancel_waiting
        chosen = check_key(partition, "partition"), checked_actor(by, reason)
        return cast("int", self._engine._ask(request, self.name, *chosen))

    def acts(self) -> builtins.list[Act]:
        """Return who paused it and let it go on, and why, the oldest first; raises `QueueNotFound`."""
        return self._engine._client.acts_of_queue(self.name)

    def __repr__(self) -> str:
        """Show the name."""
        return f"<QueueHandle {self.name!r}>"


class Run(Generic[T]):
    """A handle of a run. `id` names it."""

    def __init__(self, engine: Engine, run_id: str, definition: Workflow[..., Any]) -> None:
        self.id = run_id
        self._engine = engine
        self._definition = definition

    @property
    def workflow(self) -> str:
        """The name of the run's workflow."""
        return self._definition.name

    @property
    def status(self) -> Status:
        """The run's state now; see `stepwell.model.lifecycle`."""
        return self.info().status

    def result(self, timeout: float | timedelta | None = None) -> T:
        """Wait for the run's end and return its result.

        Raises the workflow's own exception where it failed (`RunFailed` where that class is not imported here),
        `RunCancelled`, `RunHalted` where it needs a repair, `TimeoutError` after `timeout` (seconds or a timedelta),
        `EngineClosed`.
        """
        client = self._engine._client
        # A look at the file costs less than asking the engine's thread, and who waits for many runs finds most ended.
        over: RunOver = client.end_of(self.id) or self._engine._wait(
            f"run {self.id!r} has not ended", timeout, client.core.waiters.run, self.id
        )
        return cast("T", outcome(over, self._definition, client.codec))

    def info(self) -> RunInfo:
        """Return the facts about the run as they are now."""
        return self._engine._client.info(self.id)

    def cancel(self, reason: str | None = None, *, by: str | None = None) -> bool:
        """Ask the run to stop; when this returns, the request is recorded.

        `by` says who asks, None for this process and its user; `acts` shows it, with the reason. Returns False where
        there was nothing to stop, because the run had completed or failed before.
        """
        request = self._engine._client.core.machine.cancel
        return cast("bool", self._engine._ask(request, self.id, checked_actor(by, reason)))

    def retry(self, *, reason: str | None = None, by: str | None = None) -> None:
        """Bring a run back that failed or was cancelled, with the code as it is now; a halted one is resumed.

        It goes on from the step that failed, or from where it was when it was cancelled: what came after that in its
        journal is undone, and done again; what came before is kept. Of its children those come back that ended with it,
        or whose failure was its own. A deadline that has passed is gone. `reason` and `by` (as in `cancel`) are kept
        for whoever asks: see `acts`.

        Raises `RunEnded` for a completed run, `RunNotEnded` for one that goes on anyway, or whose children have not
        ended yet, `RunNotFound`.
        """
        self._engine._ask(self._engine._client.core.machine.retry, self.id, checked_actor(by, reason))

    def resume(self, *, reason: str | None = None, by: str | None = None) -> None:
        """Try a halted run again, with the code as it is now; a waiting one that is not in memory is read again.

        One that is pending or running goes on anyway. `reason` and `by` as in `retry`. Raises `RunEnded` for a run that
        has ended, `RunNotFound`.
        """
        self._engine._ask(self._engine._client.core.machine.resume, self.id, checked_actor(by, reason))

    def send(self, name: str, value: object = None, *, key: str | None = None) -> None:
        """Send the run a message; see `Engine.send`."""
        self._engine.send(self.id, name, value, key=key)

    @overload
    def value(self, key: str, timeout: float | timedelta | None = None) -> Any: ...
    @overload
    def value(self, key: str, timeout: float | timedelta | None = None, *, type: type[U]) -> U: ...
    @overload
    def value(self, key: str, timeout: float | timedelta | None = None, *, type: Any) -> Any: ...

    def value(self, key: str, timeout: float | timedelta | None = None, *, type: Any = Any) -> Any:
        """Return what the run published last under `key`, as `type`; wait for it where there is nothing yet.

        Without `type`, only what JSON has itself: None, text, numbers, lists, dicts; else a `SerializationError`.
        Raises `RunEnded` where the run ended without publishing it, `TimeoutError` after `timeout`.
        """
        check_name(key, "the key of a published value")
        client = self._engine._client
        payload = self._engine._wait(
            f"run {self.id!r} has not published {key!r}", timeout, client.core.waiters.value, self.id, key
        )
        return client.codec.decode(payload, type, f"the value {key!r} of run {self.id!r}")

    def journal(self) -> builtins.list[JournalEntry]:
        """Return everything that the run was told so far, in order."""
        return self._engine._client.journal(self.id)

    def acts(self) -> builtins.list[Act]:
        """Return what somebody did to the run, the oldest first: cancelled, resumed, retried it, or took it over."""
        return self._engine._client.acts(self.id)

    def __repr__(self) -> str:
        """Show the id."""
        return f"<Run {self.id!r}>"
