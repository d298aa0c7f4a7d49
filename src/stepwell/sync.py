"""The operations for ``def`` workflows: the same names as in `stepwell`, blocking instead of awaited.

Nothing is written twice: each is the async operation, carried to its end on the run's greenlet.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, TypeVarTuple, Unpack, cast, overload

from stepwell.definitions.definition import is_durable
from stepwell.definitions.durable import unwrapped
from stepwell.definitions.saying import MAX_STREAM_ITEMS, say_blocking, speaker_here
from stepwell.definitions.start_options import shows_options
from stepwell.errors import InvalidArgument
from stepwell.model.attributes import AttributeValue
from stepwell.model.clock import to_seconds
from stepwell.model.lifecycle import Status
from stepwell.model.promise import Form
from stepwell.operations import child, timer
from stepwell.operations import describe as describing
from stepwell.operations import map as mapping
from stepwell.operations import other_run as others
from stepwell.operations import poll as polls
from stepwell.operations import promise as promising
from stepwell.operations import publish as publishing
from stepwell.operations import receive as receiving
from stepwell.operations import run_step as inline
from stepwell.operations import schedule as scheduling
from stepwell.operations import send as sending
from stepwell.operations import stream as streaming
from stepwell.operations.calling_run import calling_run, calling_run_or_none
from stepwell.operations.child import CHILD_OPTIONS, ChildOptions
from stepwell.operations.context import current
from stepwell.operations.continue_as_new import continue_as_new
from stepwell.operations.derived import now, random, uuid4
from stepwell.operations.handlers import query, update
from stepwell.operations.patch import patched
from stepwell.operations.run_step import InlineOptions
from stepwell.operations.saga import Compensations
from stepwell.operations.schedule import scheduled_at
from stepwell.replay.operation_issuer import AWAITED_FORM
from stepwell.shown import shown
from stepwell.values.inspection import MISSING

T = TypeVar("T")
D = TypeVar("D")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")

__all__ = [
    "ChildRun",
    "OtherRun",
    "Promise",
    "Saga",
    "Stream",
    "call",
    "continue_as_new",
    "current",
    "get_run",
    "last_failure",
    "last_result",
    "map",
    "now",
    "patched",
    "poll_until",
    "promise",
    "publish",
    "query",
    "random",
    "receive",
    "run_step",
    "saga",
    "scheduled_at",
    "send",
    "set_attributes",
    "sleep",
    "sleep_until",
    "start",
    "stream",
    "update",
    "uuid4",
]


def _wait(what: str, coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        run = calling_run(what)
    except BaseException:
        coroutine.close()
        raise
    return run.block_on(coroutine)


def sleep(duration: float | timedelta) -> None:
    """Wait, durably, for `duration` (seconds or a timedelta)."""
    seconds = to_seconds(duration, "the duration of sleep()")
    _wait("sync.sleep()", asyncio.sleep(seconds))


def sleep_until(when: datetime) -> None:
    """Wait, durably, until `when`; see `stepwell.sleep_until`."""
    _wait("sync.sleep_until()", timer.sleep_until(when))


@overload
def last_result(type: type[T]) -> T | None: ...
@overload
def last_result(type: Any = Any) -> Any: ...


def last_result(type: Any = Any) -> Any:
    """Return what the schedule's last run that completed returned; see `stepwell.last_result`."""
    return _wait("sync.last_result()", scheduling.last_result(type))


def last_failure() -> str | None:
    """Return the error of the schedule's last run, in words, where it failed; see `stepwell.last_failure`."""
    return _wait("sync.last_failure()", scheduling.last_failure())


@overload
def receive(name: str, type: type[T], *, timeout: None = None, default: object = None) -> T: ...
@overload
def receive(name: str, type: type[T], *, timeout: float | timedelta | None, default: None = None) -> T | None: ...
@overload
def receive(name: str, type: type[T], *, timeout: float | timedelta | None, default: D) -> T | D: ...
@overload
def receive(name: str, type: Any = Any, *, timeout: float | timedelta | None = None, default: Any = None) -> Any: ...


def receive(name: str, type: Any = Any, *, timeout: float | timedelta | None = None, default: Any = None) -> Any:
    """Wait for the next message called `name`; see `stepwell.receive`."""
    return _wait("sync.receive()", receiving.receive(name, type, timeout=timeout, default=default))


def send(run_id: str, name: str, value: object = None, *, key: str | None = None) -> None:
    """Send a message to another run; see `stepwell.send`."""
    _wait("sync.send()", sending.send(run_id, name, value, key=key))


def set_attributes(
    attributes: Mapping[str, AttributeValue | None] | None = None,
    /,
    *,
    tags: Iterable[str] = (),
    remove_tags: Iterable[str] = (),
    note: str | None = None,
) -> None:
    """Set attributes of this run, add and remove tags, leave a note; see `stepwell.set_attributes`."""
    said = describing.set_attributes(attributes, tags=tags, remove_tags=remove_tags, note=note)
    _wait("sync.set_attributes()", said)


def publish(key: str, value: object) -> None:
    """Publish a value, in a workflow or a step; see `stepwell.publish`."""
    if calling_run_or_none() is None and (speaker := speaker_here()) is not None:
        say_blocking(speaker, "sync.publish()", publishing.of_step(speaker, key, value))
        return
    _wait("sync.publish()", publishing.publish(key, value))


class Stream(streaming.StreamSettings[T]):
    """A stream of the run whose code this is; see `stepwell.Stream`."""

    def write(self, value: T) -> None:
        """Add an item; see `stepwell.Stream.write`."""
        self._write((value,), closes=False)

    def write_many(self, values: Iterable[T]) -> None:
        """Add several items, all or none, in one commit."""
        items = tuple(values)
        if items:
            self._write(items, closes=False)

    def close(self) -> None:
        """Say that nothing more comes."""
        self._write((), closes=True)

    def _write(self, values: tuple[T, ...], *, closes: bool) -> None:
        if calling_run_or_none() is None and (speaker := speaker_here()) is not None:
            say_blocking(speaker, "sync.stream().write()", self._of_step(speaker, values, closes=closes))
            return
        run = calling_run("sync.stream().write()")
        run.block_on(self._perform(run, values, closes=closes))


@overload
def stream(name: str, type: type[T], *, keep: int | None = None, limit: int = MAX_STREAM_ITEMS) -> Stream[T]: ...
@overload
def stream(name: str, type: Any = Any, *, keep: int | None = None, limit: int = MAX_STREAM_ITEMS) -> Stream[Any]: ...


def stream(name: str, type: Any = Any, *, keep: int | None = None, limit: int = MAX_STREAM_ITEMS) -> Stream[Any]:
    """Return the stream of this name to write to, in a workflow or a step; see `stepwell.stream`."""
    return Stream(name, type, keep, limit)


class RunHandle:
    """What workflow code can do with another run; see `stepwell.OtherRun`."""

    def __init__(self, run: others.RunHandle) -> None:
        self.id = run.id
        self._run = run

    def status(self) -> Status:
        """Return the state that it is in; raises `RunNotFound`."""
        return _wait("RunHandle.status()", self._run.status())

    def value(self, key: str, *, type: Any = Any, default: Any = ...) -> Any:
        """Return what it published last under `key`; see `stepwell.OtherRun.value`."""
        return _wait("RunHandle.value()", self._run.value(key, type=type, default=default))

    def send(self, name: str, value: object = None, *, key: str | None = None) -> None:
        """Send it a message; see `stepwell.send`."""
        _wait("RunHandle.send()", self._run.send(name, value, key=key))

    def cancel(self, reason: str | None = None) -> None:
        """Ask it to stop; it ends in its own time."""
        _wait("RunHandle.cancel()", self._run.cancel(reason))


class OtherRun(RunHandle):
    """A run of the file, whoever started it; see `stepwell.OtherRun`."""

    def __init__(self, run: others.OtherRun) -> None:
        super().__init__(run)
        self._other = run

    def result(self, timeout: float | timedelta | None = None, *, type: Any = Any) -> Any:
        """Wait for its end and return its result as `type`; raises `TimeoutError` after `timeout`."""
        return _wait("OtherRun.result()", self._other.result(timeout, type=type))


def get_run(id: str) -> OtherRun:
    """Return the handle of another run; see `stepwell.get_run`."""
    return OtherRun(others.get_run(id))


def list(
    *,
    status: Status | Sequence[Status] | None = None,
    workflow: object = None,
    id_prefix: str | None = None,
    limit: int = 100,
) -> builtins.list[OtherRun]:
    """Return handles of the runs of the file that match; see `stepwell.list`."""
    found = others.list(status=status, workflow=workflow, id_prefix=id_prefix, limit=limit)
    return [OtherRun(each) for each in _wait("sync.list()", found)]


class ChildRun(RunHandle, Generic[T]):
    """A child run that was started by `start`. `id` identifies it in the whole file."""

    def __init__(self, started: child.ChildRun[T]) -> None:
        super().__init__(started)
        self._child = started

    def result(self, timeout: float | timedelta | None = None) -> T:
        """Wait for the child's end and return its result; see `stepwell.ChildRun.result`."""
        return _wait("ChildRun.result()", self._child.result(timeout))


@overload
def start(
    workflow: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts, **options: Unpack[ChildOptions]
) -> ChildRun[T]: ...
@overload
def start(workflow: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[ChildOptions]) -> ChildRun[T]: ...


@overload
def start(workflow: str, /, *args: Any, **options: Unpack[ChildOptions]) -> ChildRun[Any]: ...


@shows_options(CHILD_OPTIONS)
def start(workflow: Callable[[*Ts], Any] | str, /, *args: *Ts, **options: Unpack[ChildOptions]) -> ChildRun[Any]:
    """Start a child run; see `stepwell.start`."""
    return ChildRun(_wait("sync.start()", child.start(workflow, *args, **options)))


class Promise(promising.PendingPromise[T]):
    """A value that comes from outside. `token` is what `Engine.resolve` and `Engine.reject` take."""

    __slots__ = ()

    def result(self) -> T:
        """Wait for the answer; raises what it was rejected with, or `PromiseTimedOut`."""
        return _wait("Promise.result()", promising.answer_of(self))


@overload
def promise(type: type[T], *, timeout: float | timedelta | None = None, form: Form | None = None) -> Promise[T]: ...
@overload
def promise(
    type: type[T], *, timeout: float | timedelta | None, default: D, form: Form | None = None
) -> Promise[T | D]: ...
@overload
def promise(
    type: Any = Any, *, timeout: float | timedelta | None = None, default: Any = ..., form: Form | None = None
) -> Promise[Any]: ...


def promise(
    type: Any = Any,
    *,
    timeout: float | timedelta | None = None,
    default: Any = MISSING,
    form: Form | None = None,
) -> Promise[Any]:
    """Promise a value that somebody outside gives; see `stepwell.promise`."""
    return Promise(*promising.begin("sync.promise()", type, timeout, default, form))


@overload
def map(  # type: ignore[overload-overlap] # as in stepwell.operations.map
    function: Callable[[T], Coroutine[Any, Any, D]],
    items: Iterable[T],
    /,
    *,
    limit: int | None = None,
    tolerate: None = None,
    enough: None = None,
) -> builtins.list[D]: ...
@overload
def map(
    function: Callable[[T], D],
    items: Iterable[T],
    /,
    *,
    limit: int | None = None,
    tolerate: None = None,
    enough: None = None,
) -> builtins.list[D]: ...
@overload
def map(
    function: Callable[[T], Coroutine[Any, Any, D]],
    items: Iterable[T],
    /,
    *,
    limit: int | None = None,
    tolerate: int | str | None = None,
    enough: int | None = None,
) -> builtins.list[mapping.ItemResult[T, D]]: ...
@overload
def map(
    function: Callable[[T], D],
    items: Iterable[T],
    /,
    *,
    limit: int | None = None,
    tolerate: int | str | None = None,
    enough: int | None = None,
) -> builtins.list[mapping.ItemResult[T, D]]: ...


def map(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    /,
    *,
    limit: int | None = None,
    tolerate: int | str | None = None,
    enough: int | None = None,
) -> builtins.list[Any]:
    """Call a step or a workflow on each of `items`; see `stepwell.map`."""
    return _wait("sync.map()", mapping.map(function, items, limit=limit, tolerate=tolerate, enough=enough))


def poll_until(
    step: Callable[[*Ts], Coroutine[Any, Any, T]] | Callable[[*Ts], T],
    *args: *Ts,
    until: Callable[[T], object],
    every: float | timedelta,
    timeout: float | timedelta | None = None,
) -> T:
    """Call a step again and again until what it returns fits, and return that; see `stepwell.poll_until`."""
    coroutine: Coroutine[Any, Any, Any] = polls.poll_until(step, *args, until=until, every=every, timeout=timeout)
    result: T = _wait("sync.poll_until()", coroutine)
    return result


def call(function: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts) -> T:
    """Call an ``async def`` step or workflow from a ``def`` workflow and wait for its result."""
    run = calling_run("sync.call()")
    definition, positional, named = unwrapped(function, args, {})
    if not is_durable(definition):
        raise InvalidArgument(f"sync.call() needs a @step or a @workflow, not {shown(function)}")
    return cast("T", run.block_on(run.call_async(definition, positional, named)))


@overload
def run_step(
    name: str,
    function: Callable[[*Ts], Any],
    /,
    *args: *Ts,
    type: type[U],
    **options: Unpack[InlineOptions],
) -> U: ...


@overload
def run_step(
    name: str,
    function: Callable[[*Ts], Coroutine[Any, Any, T]],
    /,
    *args: *Ts,
    **options: Unpack[InlineOptions],
) -> T: ...


@overload
def run_step(
    name: str,
    function: Callable[[*Ts], T],
    /,
    *args: *Ts,
    **options: Unpack[InlineOptions],
) -> T: ...


@overload
def run_step(
    name: str,
    function: Callable[[*Ts], Any],
    /,
    *args: *Ts,
    type: Any,
    **options: Unpack[InlineOptions],
) -> Any: ...


@shows_options(InlineOptions.__annotations__, {"delivery": "at-least-once"})
def run_step(
    name: str,
    function: Callable[[*Ts], Any],
    /,
    *args: *Ts,
    type: Any = inline.ANNOTATED,
    **options: Unpack[InlineOptions],
) -> Any:
    """Execute any callable as a step and wait for its result; see `stepwell.run_step`.

    In ``async def`` code: ``await asyncio.to_thread(stepwell.sync.run_step, "name", function)``.
    """
    return _wait("sync.run_step()", inline.run_step(name, function, *args, type=type, **options))


setattr(run_step, AWAITED_FORM, inline.run_step)


class Saga(Compensations):
    """A block of work that is undone where it does not get through: ``with stepwell.sync.saga() as saga``."""

    __slots__ = ()

    def __enter__(self) -> Self:
        """Begin the block."""
        return self._enter("stepwell.sync.saga()")

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """End the block; undo its work where an exception or a cancellation ended it, which goes on after that."""
        undoing = self._leave(error)
        if undoing is not None:
            _wait("the end of a saga", undoing)


def saga() -> Saga:
    """Make a block of work that is undone where it does not get through; see `stepwell.saga`."""
    calling_run("sync.saga()")
    return Saga()
