"""Handles for code that does not use asyncio: of runs, of queues, of an open transaction."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, Self, TypeVar, TypeVarTuple, Unpack, cast, overload

from stepwell.api.asking.acts import Act
from stepwell.api.asking.options import MANY_OPTIONS, START_OPTIONS, ManyOptions, StartOptions
from stepwell.api.blocking.caller import Caller
from stepwell.api.blocking.streaming import Streaming
from stepwell.api.blocking.talking import Talking
from stepwell.api.enlisted import Enlisted
from stepwell.api.promises import Answering
from stepwell.api.reading.chapters import ChapterInfo
from stepwell.api.reading.views import JournalEntry, QueueInfo, RunInfo, outcome
from stepwell.api.repairs import Make, Repairs
from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import UNCHANGED, QueueBounds
from stepwell.definitions.start_options import shows_options
from stepwell.model.attributes import AttributeValue
from stepwell.model.lifecycle import Status
from stepwell.runtime.serving.requests import AnswerPromise, SendMessage, StartRun
from stepwell.shown import shown
from stepwell.values.own_tables import Connection, Parameters, Rows
from stepwell.worker.state.run_over import RunOver

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")


class Starter(Answering):
    """What starts runs and sends messages: an engine, or an open transaction of one.

    The overloads are those of `AsyncStarter` but for what they return, which the type system cannot leave open. Nor can
    the first two be one: of ``Callable[[*Ts], Coroutine[Any, Any, T] | T]`` mypy infers that T is `Never`.
    """

    def _caller(self) -> Caller:
        """Return the engine."""
        raise NotImplementedError

    def _submit(self, request: StartRun | SendMessage | AnswerPromise) -> Any:
        """Have it done, and return the answer."""
        raise NotImplementedError

    def _answer(self, request: AnswerPromise) -> Any:
        return self._submit(request)

    def _submit_all(self, requests: Sequence[StartRun]) -> builtins.list[str]:
        """Have all of it done, or none, and return the ids."""
        raise NotImplementedError

    @overload
    def start(
        self, workflow: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts, **options: Unpack[StartOptions]
    ) -> Run[T]: ...

    @overload
    def start(self, workflow: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[StartOptions]) -> Run[T]: ...

    @overload
    def start(self, workflow: str, /, *args: Any, **options: Unpack[StartOptions]) -> Run[Any]: ...

    @shows_options(START_OPTIONS)
    def start(self, workflow: Callable[[*Ts], Any] | str, /, *args: *Ts, **options: Unpack[StartOptions]) -> Run[Any]:
        """Start a run of `workflow` with `args` (and `kwargs`); when this returns, the run survives power loss.

        A step in its place is executed by itself, as a job: its attempts, limit and delivery are those of the step, the
        run shows as ``step:`` and its name, and returns what it returns. By name as well: ``"step:shop.mail"``.

        In a transaction: if, and only if, that commits. The options, by name:

        - `id`: the run's name; the same id again gives the same run, never a second one. Without it, one is generated
          that sorts by time.
        - `on_conflict`: what the start does where a run has the id: ``"attach"`` returns that run, ``"reject"`` raises
          `RunConflict`, ``"replace"`` has it cancelled and begins when it has ended, its clean-up included. `reuse`:
          whether the id of a run that has ended may be used again: ``"never"``, ``"after-failure"`` (or cancellation),
          ``"always"``, which is what ``"replace"`` means unless something else is said. A run that begins so is another
          chapter of the id, of the same workflow, and knows nothing of the one before.
        - `kwargs`: the arguments that the workflow takes by name, as a mapping.
        - `deadline`: seconds or a timedelta from now, or an aware datetime, after which the run is stopped and fails.
        - `messages`: (name, value) or (name, value, key), sent in the same transaction to the run, new or found. With a
          key, repeating the start does not repeat the message.
        - `attributes`, `tags`, `note`: what the run can be found by; see `Run.set_attributes`. A run that is there
          already keeps its own.
        - `queue`: the `Queue`, or the name of one, in which the run waits for its turn; `priority`: higher goes first;
          `delay`: seconds, a timedelta, or an aware datetime before which it does not begin to wait.
        - `dedup`: a key; while a run of the queue with this key has not ended, the start returns that run, or raises
          `DuplicateRun`: `on_duplicate`, ``"attach"`` or ``"reject"``. `debounce`, `debounce_limit`: seconds or a
          timedelta; a start with the key of such a run that still waits gives that run its own input, and puts it off.
          What is left out of the three is as the queue says. `partition`: a key; partitions of a queue take turns, and
          can be bounded.

        A workflow whose code this program does not have is given by its name: its arguments are checked by the worker
        that executes the run, and its result is plain JSON data.

        Raises `RunConflict` where the id belongs to a run with another workflow or input, `SerializationError` for
        arguments that cannot be recorded, `DefinitionError` for arguments that do not fit, `InvalidArgument`,
        `StorageFull`.
        """
        caller = self._caller()
        requests = caller._session.requests
        definition = requests.definition(workflow, options)
        return Run(caller, self._submit(requests.start(definition, args, options)), definition)

    @overload
    def start_many(
        self,
        workflow: Callable[[*Ts], Coroutine[Any, Any, T]],
        args: Iterable[tuple[*Ts]],
        /,
        *,
        ids: Iterable[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> builtins.list[Run[T]]: ...

    @overload
    def start_many(
        self,
        workflow: Callable[[*Ts], T],
        args: Iterable[tuple[*Ts]],
        /,
        *,
        ids: Iterable[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> builtins.list[Run[T]]: ...

    @overload
    def start_many(
        self,
        workflow: str,
        args: Iterable[tuple[Any, ...]],
        /,
        *,
        ids: Iterable[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> builtins.list[Run[Any]]: ...

    @shows_options(MANY_OPTIONS)
    def start_many(
        self,
        workflow: Callable[[*Ts], Any] | str,
        args: Iterable[tuple[*Ts]],
        /,
        *,
        ids: Iterable[str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> builtins.list[Run[Any]]:
        """Start a run of `workflow` for each tuple of arguments, all or none; return their handles in that order.

        They are started in one transaction, and when this returns they survive power loss: thousands cost one commit.
        `ids`: an id for each, in the same order. The options are those of `start`, and hold for each of the runs. Start
        runs whose options differ one by one in a `transaction`.

        Raises as `start` does; then none of them was started.
        """
        caller = self._caller()
        requests = caller._session.requests
        definition = requests.definition(workflow, options)
        found = self._submit_all(requests.start_many(definition, args, ids, options))
        return [Run(caller, run_id, definition) for run_id in found]

    def send(self, id: str, name: str, value: object = None, *, key: str | None = None) -> None:
        """Send the run a message; when this returns, it is recorded and will be received once.

        In a transaction: if, and only if, that commits. `key`: a second message with the same key to the same run is
        dropped. Raises `RunNotFound` (a message needs a run: start it first, or with ``start(messages=…)``),
        `RunEnded`, `SerializationError`, `StorageFull`.
        """
        self._submit(self._caller()._session.requests.send(id, name, value, key))


class OpenTransaction(Starter):
    """A transaction of code outside of workflows; see `Engine.transaction`."""

    def __init__(self, engine: Caller, lent: Connection, enlisted: Enlisted) -> None:
        self._engine = engine
        self._lent = lent
        self._enlisted = enlisted

    def _caller(self) -> Caller:
        return self._engine

    def _submit(self, request: StartRun | SendMessage | AnswerPromise) -> Any:
        return self._enlisted.submit(request)

    def _submit_all(self, requests: Sequence[StartRun]) -> builtins.list[str]:
        return self._enlisted.start(requests)

    def execute(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Execute SQL on the caller's own tables and return all rows; see `stepwell.Connection`."""
        return self._lent.execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        """Execute SQL once for each of `rows`."""
        self._lent.executemany(sql, rows)


class QueueHandle:
    """A queue or limit in the file. `name` is the one that code gave it."""

    def __init__(self, engine: Caller, name: str) -> None:
        self.name = name
        self._engine = engine

    def info(self) -> QueueInfo:
        """Return the facts about the queue as they are now; raises `QueueNotFound`."""
        return self._engine._session.reads.queue(self.name)

    def pause(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Pause the queue: nothing starts until `unpause`. Runs under way go on. `reason`, `by`: as in `Run.retry`."""
        self._engine._ask(self._engine._session.requests.pause_queue(self.name, True, by, reason))

    def unpause(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Let waiting runs start again."""
        self._engine._ask(self._engine._session.requests.pause_queue(self.name, False, by, reason))

    def resume(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Do the same as `unpause`, which had this name."""
        self.unpause(reason=reason, by=by)

    @shows_options(UNCHANGED, UNCHANGED)
    def change(self, **bounds: Unpack[QueueBounds]) -> None:
        """Change the bounds, for all workers at once. None removes a bound; bounds that are not given stay.

        Runs under way go on, even if they exceed a new bound. The change outlives restarts, until code states other
        bounds than it does now. Raises `QueueNotFound`, `InvalidArgument`.
        """
        self._engine._ask(self._engine._session.requests.change_queue(self.name, bounds))

    def cancel_waiting(self, *, partition: str | None = None, reason: str | None = None, by: str | None = None) -> int:
        """Cancel the runs that wait in the queue, or in one partition of it; return how many there were."""
        request = self._engine._session.requests.cancel_waiting(self.name, partition, by, reason)
        return cast("int", self._engine._ask(request))

    def acts(self) -> builtins.list[Act]:
        """Return who paused and resumed the queue, when and why, the oldest first; raises `QueueNotFound`."""
        return self._engine._session.reads.acts_of_queue(self.name)

    def __repr__(self) -> str:
        """Show the name."""
        return f"<QueueHandle {self.name!r}>"


class Run(Talking, Streaming, Repairs, Generic[T]):
    """A handle of a run. `id` identifies the run."""

    def __init__(self, engine: Caller, run_id: str, definition: Workflow[..., Any]) -> None:
        super().__init__(engine, run_id)
        self._definition = definition

    def _asked(self, make: Make) -> Any:
        return self._engine._ask(make(self._engine._session.requests, self._definition))

    def _other(self, run_id: str) -> Self:
        return type(self)(self._engine, run_id, self._definition)

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

        Raises the workflow's own exception if it failed (`RunFailed` if that class is not imported here),
        `RunCancelled`, `RunHalted` if it has to be repaired, `TimeoutError` after `timeout` (seconds or a timedelta),
        `EngineClosed`.
        """
        session = self._engine._session
        # A look at the file costs less than asking the engine's thread, and who waits for many runs finds most ended.
        session.check_usable()
        over: RunOver = session.reads.end_of(self.id) or self._engine._wait(
            f"run {self.id!r} has not ended", timeout, session.requests.wait_for_run(self.id)
        )
        return cast("T", outcome(over, self._definition, session.codec))

    def info(self) -> RunInfo:
        """Return the facts about the run as they are now."""
        return self._engine._session.reads.info(self.id)

    def cancel(self, reason: str | None = None, *, by: str | None = None) -> bool:
        """Ask the run to stop; when this returns, the request is recorded.

        `by` names who asks; None stands for this process and its user. `acts` shows it, with the reason. Returns False
        if there was nothing to stop, because the run had completed or failed before.
        """
        return cast("bool", self._engine._ask(self._engine._session.requests.cancel(self.id, by, reason)))

    def retry(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Bring back a run that failed or was cancelled, with the code as it is now; a halted run is resumed.

        It goes on from the step that failed, or from where it was when it was cancelled: later entries of its journal
        are removed and done again; earlier ones are kept. Children that ended because it ended, or whose failure made
        it fail, are brought back as well. A deadline that has passed no longer applies. `acts` shows `reason` and `by`
        (as in `cancel`).

        Raises `RunEnded` for a completed run, `RunNotEnded` for a run that has not ended, or whose children have not
        ended yet, `RunUndone` for one whose saga has undone its work since (rewind that), `RunNotFound`.
        """
        self._engine._ask(self._engine._session.requests.retry(self.id, by, reason))

    def set_attributes(
        self,
        attributes: Mapping[str, AttributeValue | None] | None = None,
        /,
        *,
        tags: Iterable[str] = (),
        remove_tags: Iterable[str] = (),
        note: str | None = None,
        by: str | None = None,
    ) -> None:
        """Set attributes of the run, add and remove tags, leave a note; in any state, even when it has ended.

        `attributes` is a mapping of names to values: str, int, float, bool or an aware datetime; None removes one. `by`
        as in `cancel`: `acts` shows who wrote a note, and who changed attributes and tags. Raises `InvalidArgument`,
        `RunNotFound`.
        """
        requests = self._engine._session.requests
        self._engine._ask(requests.describe(self.id, attributes, tags, remove_tags, note, by))

    def terminate(self, reason: str | None = None, *, by: str | None = None) -> None:
        """End the run at once, without executing its code: no `finally` block, no clean-up, no further step.

        It is ``cancelled``, even if its worker hangs: what that worker still writes for it is refused. Steps under way
        in this engine are cancelled as by `cancel`; elsewhere their results are dropped. Attached children are
        cancelled. `reason` and `by` as in `retry`. Raises `RunEnded`, `RunNotFound`.
        """
        self._engine._ask(self._engine._session.requests.terminate(self.id, by, reason))

    def reschedule(
        self, delay: float | timedelta | datetime, *, reason: str | None = None, by: str | None = None
    ) -> None:
        """Change when the run, which waits in a queue, begins to wait for its turn.

        `delay`: seconds or a timedelta from now, or an aware datetime; 0, or a time that has passed, means at once. So
        a delayed run begins earlier or later, a run that waits for its turn leaves the line until that time, and a
        batch is closed. Later starts can still postpone a debounced run, at least up to that time. `reason` and `by` as
        in `retry`. Raises `RunNotQueued` for a run that does not wait in a queue, because it was started without one or
        has been taken from it, `RunEnded`, `RunNotFound`, `InvalidArgument`.
        """
        self._engine._ask(self._engine._session.requests.reschedule(self.id, delay, by, reason))

    def delete(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Delete the run, with its journal, messages and values; its id is free again.

        The run must have ended, or no worker has begun it: then it leaves its queue in the same commit, its `dedup` key
        is free, and callers that wait for its result get an error. Only the log says who deleted it. Raises
        `RunNotEnded` for a run that is under way (`cancel` or `terminate` it first), or that another run waits for or
        may ask for, such as its parent while that has not ended; `RunNotFound`.
        """
        self._engine._ask(self._engine._session.requests.delete(self.id, by, reason))

    def pause(self, reason: str | None = None, *, children: bool = False, by: str | None = None) -> None:
        """Pause the run: it starts no step, receives no message, and its timers do not fire, until `unpause`.

        Steps under way end, and their results are recorded; then the run is ``paused``. You can read it and send
        messages to it as always. Cancelling it ends the pause. `children`: also pause all runs below it that have not
        ended. `reason` and `by` as in `retry`. Pausing a paused run does nothing. Raises `RunEnded`, `RunNotFound`,
        `RunHalted` for a halted run.
        """
        self._engine._ask(self._engine._session.requests.pause(self.id, True, children, by, reason))

    def unpause(self, reason: str | None = None, *, children: bool = False, by: str | None = None) -> None:
        """Let a paused run go on, with the code as it is now; `children`: also the paused runs below it.

        Timers that became due meanwhile fire at once. A step whose last attempt had failed (``Retry(then="pause")``) is
        tried again, with all its attempts. Raises `RunNotPaused`, `RunEnded`, `RunNotFound`.
        """
        self._engine._ask(self._engine._session.requests.pause(self.id, False, children, by, reason))

    def resume(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Try a halted run again, with the code as it is now; a waiting run that is not in memory is replayed.

        For a pending or running run it does nothing. `reason` and `by` as in `retry`. Raises `RunEnded` for a run that
        has ended, `RunNotFound`.
        """
        self._engine._ask(self._engine._session.requests.resume(self.id, by, reason))

    def send(self, name: str, value: object = None, *, key: str | None = None) -> None:
        """Send the run a message; see `Engine.send`."""
        self._engine._ask(self._engine._session.requests.send(self.id, name, value, key))

    @overload
    def value(self, key: str, timeout: float | timedelta | None = None, *, type: type[U]) -> U: ...
    @overload
    def value(self, key: str, timeout: float | timedelta | None = None, *, type: Any = ...) -> Any: ...

    def value(self, key: str, timeout: float | timedelta | None = None, *, type: Any = Any) -> Any:
        """Return the last value that the run published under `key`, as `type`; wait for it if there is none yet.

        Without `type`, only values that JSON itself has are read: None, text, numbers, lists, dicts; others raise
        `SerializationError`. Raises `RunEnded` if the run ended without publishing it, `TimeoutError` after `timeout`.
        """
        session = self._engine._session
        payload = self._engine._wait(
            f"run {self.id!r} has not published {shown(key)}", timeout, session.requests.wait_for_value(self.id, key)
        )
        return session.codec.decode(payload, type, f"the value {key!r} of run {self.id!r}")

    def journal(self, chapter: int | None = None) -> builtins.list[JournalEntry]:
        """Return everything that was delivered to the run so far, in order; in its present chapter, or a given one.

        Raises `InvalidArgument` where there is no such chapter.
        """
        return self._engine._session.reads.journal(self.id, chapter)

    def chapters(self) -> builtins.list[ChapterInfo]:
        """Return the chapters of the run, the oldest first; most runs have one. See `stepwell.continue_as_new`."""
        return self._engine._session.reads.chapters(self.id)

    def acts(self) -> builtins.list[Act]:
        """Return who cancelled, resumed, retried the run or took it over, when and why; the oldest first."""
        return self._engine._session.reads.acts(self.id)

    def __repr__(self) -> str:
        """Show the id."""
        return f"<Run {self.id!r}>"
