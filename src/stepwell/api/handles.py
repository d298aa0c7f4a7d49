"""What code that does not use asyncio holds of an engine: runs, queues, an open transaction.

`Caller` is what they need of the engine, and its base: how a thread asks and waits for the answer.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar, TypeVarTuple, Unpack, cast, overload

from stepwell.api.acts import Act, checked_actor
from stepwell.api.options import QueueOptions, StartMessage, StartOptions
from stepwell.api.session import Enlisted, Session
from stepwell.api.views import JournalEntry, QueueInfo, RunInfo, outcome
from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import UNSET, Queue, Rate, Unset, changed_settings, check_key
from stepwell.executors.threads import lent
from stepwell.model.clock import to_seconds
from stepwell.model.lifecycle import Status
from stepwell.model.names import check_name
from stepwell.values.own_tables import Connection, Parameters, Rows
from stepwell.worker.unit_of_work import RunOver

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")


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


class Caller:
    """Asks an engine's thread, and waits. `_client` is the open session."""

    _client: Session

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


class OpenTransaction:
    """A transaction of code outside of workflows; see `Engine.transaction`."""

    def __init__(self, engine: Caller, lent: Connection, enlisted: Enlisted) -> None:
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

    def __init__(self, engine: Caller, name: str) -> None:
        self.name = name
        self._engine = engine

    def info(self) -> QueueInfo:
        """Return the facts about it as they are now; raises `QueueNotFound`."""
        return self._engine._client.reads.queue(self.name)

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
        return self._engine._client.reads.acts_of_queue(self.name)

    def __repr__(self) -> str:
        """Show the name."""
        return f"<QueueHandle {self.name!r}>"


class Run(Generic[T]):
    """A handle of a run. `id` names it."""

    def __init__(self, engine: Caller, run_id: str, definition: Workflow[..., Any]) -> None:
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
        client.check_usable()
        over: RunOver = client.reads.end_of(self.id) or self._engine._wait(
            f"run {self.id!r} has not ended", timeout, client.core.waiters.run, self.id
        )
        return cast("T", outcome(over, self._definition, client.codec))

    def info(self) -> RunInfo:
        """Return the facts about the run as they are now."""
        return self._engine._client.reads.info(self.id)

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
        client = self._engine._client
        self._engine._ask(client.core.machine.send, self.id, client.message(self.id, name, value, key))

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
        return self._engine._client.reads.journal(self.id)

    def acts(self) -> builtins.list[Act]:
        """Return what somebody did to the run, the oldest first: cancelled, resumed, retried it, or took it over."""
        return self._engine._client.reads.acts(self.id)

    def __repr__(self) -> str:
        """Show the id."""
        return f"<Run {self.id!r}>"
