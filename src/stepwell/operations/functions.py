"""What workflow code calls besides its steps and asyncio: messages, values, children, time, randomness.

Each name here is for ``async def`` workflows; `stepwell.sync` has the same names for ``def`` workflows, made from
these.
"""

from __future__ import annotations

import asyncio
import logging
import random as _random
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypedDict, TypeVar, TypeVarTuple, Unpack, cast, overload

import msgspec
from msgspec.structs import replace

from stepwell.definitions.collector import end_clean_up, is_clean_up
from stepwell.definitions.definition import (
    Workflow,
    checked_kwargs,
    how_to_make_it_a_workflow,
    is_durable,
    is_workflow,
    refuse_named,
    workflow_named,
)
from stepwell.definitions.durable import as_definition, current_host, unwrapped
from stepwell.definitions.queues import Queue, queue_entry
from stepwell.definitions.step_info import Current, RunContext, current_here
from stepwell.errors import InvalidArgument, StepwellError
from stepwell.model.clock import MICROSECONDS, datetime_of, to_seconds
from stepwell.model.names import check_name, check_text
from stepwell.replay.divergence import Given
from stepwell.replay.execution import Execution

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
D = TypeVar("D")


def check_id(run_id: str, what: str = "the id of a run") -> str:
    """Return `run_id`, or raise `InvalidArgument` for one that is empty, too long, not text, or not printable."""
    return check_name(run_id, what)


def execution(what: str) -> Execution:
    """Return the run that the current code belongs to; raise `StepwellError` outside of workflow code."""
    host = current_host()
    if host is None:
        end_clean_up()
        raise StepwellError(
            f"{what} was called outside of a workflow. Inside a step, or in code that no workflow runs, use the "
            "engine's own methods (engine.send, engine.start, …) instead"
        )
    return cast("Execution", host)


# --- time -------------------------------------------------------------------------------------------------------------


async def sleep_until(when: datetime) -> None:
    """Wait, durably, until `when`, an aware datetime; return at once where that has passed."""
    run = execution("sleep_until()")
    seconds = _timestamp(when)
    if run.ahead:
        seconds += run.ahead / MICROSECONDS
    if seconds * MICROSECONDS <= run.now:
        return
    to_seconds(seconds - run.now / MICROSECONDS, "the time until `when`")
    future = run.loop.create_future()
    handle = run.loop.call_at(seconds, _set_unless_done, future)
    try:
        await future
    finally:
        handle.cancel()


def _timestamp(when: object) -> float:
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise InvalidArgument(f"sleep_until() needs a datetime with a time zone, not {when!r}")
    return when.timestamp()


def _set_unless_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def now() -> datetime:
    """Return the current time, UTC; in a workflow the time of what the run heard last, the same in every replay."""
    host = current_host()
    if host is None:
        return datetime.now(UTC)
    run = cast("Execution", host)
    return datetime_of(run.now - run.ahead)


# --- randomness -------------------------------------------------------------------------------------------------------


def random() -> float:
    """Return a number from 0 up to, not including, 1; in a workflow the same in every replay."""
    host = current_host()
    return _random.random() if host is None else cast("Execution", host).random().random()  # noqa: S311


def uuid4() -> uuid.UUID:
    """Return a random UUID; in a workflow the same in every replay."""
    host = current_host()
    if host is None:
        return uuid.uuid4()
    return uuid.UUID(int=cast("Execution", host).random().getrandbits(128), version=4)


# --- messages and values ----------------------------------------------------------------------------------------------


@overload
async def receive(name: str, type: type[T], *, timeout: None = None, default: object = None) -> T: ...
@overload
async def receive(name: str, type: type[T], *, timeout: float | timedelta | None, default: None = None) -> T | None: ...
@overload
async def receive(name: str, type: type[T], *, timeout: float | timedelta | None, default: D) -> T | D: ...
@overload
async def receive(
    name: str, type: Any = Any, *, timeout: float | timedelta | None = None, default: Any = None
) -> Any: ...


async def receive(name: str, type: Any = Any, *, timeout: float | timedelta | None = None, default: Any = None) -> Any:
    """Wait for the next message called `name` and return its value, as `type`.

    Messages of one name arrive in the order in which they were sent, each exactly once. After `timeout` (seconds or a
    timedelta) without one, return `default`; use `asyncio.timeout` for an exception instead. A `timeout` of 0 takes
    what is there already.
    """
    run = execution("receive()")
    check_name(name, "the name of a message")
    waiting = run.perform("receive", name, 0, run.codec.converter(type))
    if timeout is None:
        return await waiting
    try:
        seconds = to_seconds(timeout, "timeout of receive()")
    except InvalidArgument:
        waiting.close()
        raise
    if seconds == 0:
        return await _receive_now(run, waiting, default)
    try:
        async with asyncio.timeout(seconds):
            return await waiting
    except TimeoutError:
        return default


async def _receive_now(run: Execution, waiting: Coroutine[Any, Any, T], default: D) -> T | D:
    """Return the message that is there already, or `default`; `asyncio.timeout(0)` would not even look for one."""
    expired = run.loop.create_future()
    handle = run.loop.call_later(0, _set_unless_done, expired)
    receiver = run.loop.create_task(waiting)
    try:
        await asyncio.wait([receiver, expired], return_when=asyncio.FIRST_COMPLETED)
        return receiver.result() if receiver.done() else default
    finally:
        handle.cancel()
        receiver.cancel()


async def send(run_id: str, name: str, value: object = None, *, key: str | None = None) -> None:
    """Send a message to another run, exactly once, together with the progress of this one.

    `key`: a second message with the same key to the same run is dropped. Raises `RunNotFound`, and `RunEnded` for a run
    that is over.
    """
    run = execution("send()")
    check_id(run_id)
    check_name(name, "the name of a message")
    if key is not None:
        check_name(key, "the key of a message")
    where = f"the message {name!r} from run {run.run_id!r} to run {run_id!r}"
    given = Given((run_id, value, key), {})
    payload, fingerprint = run.codec.seal_untyped(value, given.args, where)
    await run.perform("send", name, fingerprint, None, MessageDetail(run_id, payload, key), given)


async def publish(key: str, value: object) -> None:
    """Publish a value under `key`, in place of an earlier one; `Run.value` reads it, or waits for it."""
    run = execution("publish()")
    check_name(key, "the key of a published value")
    where = f"the value published as {key!r} by run {run.run_id!r}"
    payload, fingerprint = run.codec.seal_untyped(value, (value,), where)
    await run.perform("publish", key, fingerprint, None, ValueDetail(payload), Given((value,), {}))


class MessageDetail(msgspec.Struct, frozen=True, gc=False):
    """The detail of a send operation."""

    run_id: str
    value: str | bytes | None
    key: str | None


class CancelDetail(msgspec.Struct, frozen=True, gc=False):
    """The detail of a send operation that cancels another run."""

    run_id: str
    reason: str | None


class ValueDetail(msgspec.Struct, frozen=True, gc=False):
    """The detail of a publish operation."""

    value: str | bytes | None


# --- children ---------------------------------------------------------------------------------------------------------


class ChildRun(Generic[T]):
    """A child run that was started by `start`. `id` names it to the whole file."""

    def __init__(self, run_id: str, definition: Workflow[..., Any]) -> None:
        self.id = run_id
        self._definition = definition

    async def result(self) -> T:
        """Wait for the child's end and return its result; raises what it failed with, or `RunCancelled`."""
        run = execution("ChildRun.result()")
        return cast("T", await run.child_result(self._definition, self.id, cancel_with_caller=False))

    async def send(self, name: str, value: object = None, *, key: str | None = None) -> None:
        """Send the child a message; see `stepwell.send`."""
        await send(self.id, name, value, key=key)

    async def cancel(self, reason: str | None = None) -> None:
        """Ask the child to stop; it ends in its own time."""
        run = execution("ChildRun.cancel()")
        check_text(reason, "reason")
        await run.perform("send", "cancel", 0, None, CancelDetail(self.id, reason))


class ChildOptions(TypedDict, total=False):
    """The keyword arguments of `start`."""

    id: str | None
    kwargs: Mapping[str, Any] | None
    detached: bool
    queue: Queue | str | None
    priority: int
    delay: float | timedelta | datetime | None
    dedup: str | None
    partition: str | None


@overload
async def start(
    workflow: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts, **options: Unpack[ChildOptions]
) -> ChildRun[T]: ...


@overload
async def start(workflow: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[ChildOptions]) -> ChildRun[T]: ...


@overload
async def start(workflow: str, /, *args: Any, **options: Unpack[ChildOptions]) -> ChildRun[Any]: ...


async def start(
    workflow: Callable[[*Ts], Any] | str,
    /,
    *args: *Ts,
    id: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    detached: bool = False,
    queue: Queue | str | None = None,
    priority: int = 0,
    delay: float | timedelta | datetime | None = None,
    dedup: str | None = None,
    partition: str | None = None,
    **named: Any,
) -> ChildRun[Any]:
    """Start a child run and return its handle at once; to wait for the child right away, just call its workflow.

    A workflow may be given by its name, if its code is elsewhere; its result is plain JSON data then. `id`: the child's
    id; without it, the parent's id and a number. An attached child is cancelled when its parent ends; a `detached` one
    goes on. Raises `RunConflict` where the id is taken by a run of another workflow or other input.

    `queue` and what belongs to it: as for `stepwell.Engine.start`. The handle may be of a run that was there already.
    """
    run = execution("start()")
    refuse_named(workflow, named)
    # A name means the same in every process that replays this, also in one that has the workflow.
    definition: object = workflow_named(workflow) if isinstance(workflow, str) else as_definition(workflow)
    if not is_workflow(definition):
        raise InvalidArgument(
            f"start() needs a @workflow, or the name of one, not {workflow!r}; {how_to_make_it_a_workflow(workflow)}"
        )
    if id is not None:
        check_id(id)
    entry = queue_entry(queue, priority=priority, delay=delay, dedup=dedup, partition=partition, run_id=id)
    if entry is not None and entry.ready_at is not None and run.ahead:
        entry = replace(entry, ready_at=entry.ready_at + run.ahead)
    child_id = await run.start_child(
        definition, args, checked_kwargs(kwargs), child_id=id, attached=not detached, entry=entry
    )
    return ChildRun(child_id, definition)


@overload
async def map(
    function: Callable[[T], Coroutine[Any, Any, D]],
    items: Iterable[T],
    /,
    *,
    limit: int | None = None,
) -> list[D]: ...


@overload
async def map(function: Callable[[T], D], items: Iterable[T], /, *, limit: int | None = None) -> list[D]: ...


async def map(function: Callable[[Any], Any], items: Iterable[Any], /, *, limit: int | None = None) -> list[Any]:
    """Call a step or a workflow on each of `items`, at most `limit` at a time, and return the results in order.

    The first failure cancels what is under way and is raised, alone.
    """
    run = execution("map()")
    definition, first, named = unwrapped(function, (), {})
    if not is_durable(definition):
        raise InvalidArgument(f"map() needs a @step or a @workflow, not {function!r}")
    work = list(items)
    at_once = len(work) if limit is None else _checked_limit(limit)
    results: list[Any] = [None] * len(work)
    queue = iter(range(len(work)))

    async def take() -> None:
        for index in queue:
            results[index] = await run.call_async(definition, (*first, work[index]), named)

    tasks = [run.loop.create_task(take()) for _ in range(min(at_once, len(work)))]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return results


def _checked_limit(limit: object) -> int:
    if not isinstance(limit, int) or limit < 1:
        raise InvalidArgument(f"limit of map() must be a whole number of at least 1, not {limit!r}")
    return limit


# --- code that changes under running runs -----------------------------------------------------------------------------


def patched(name: str) -> bool:
    """Tell whether this run takes the new path of a change to the workflow's code.

    Guard what you add, remove or reorder with ``if patched("what-changed"):``. Runs that had passed this place
    before the change get False for ever and replay as they were recorded; all others get True, which is recorded.
    """
    run = execution("patched()")
    return run.patched(check_name(name, "the name of a patch"))


# --- who am I ---------------------------------------------------------------------------------------------------------


def current() -> Current:
    """Return what is executing: a `RunContext` in workflow code, a `StepInfo` in a step.

    That is so as well where they were called outside of any run. Raises `StepwellError` anywhere else.
    """
    host = current_host()
    if host is not None:
        run = cast("Execution", host)
        return RunContext(run.run_id, run.definition.name, run.replaying)
    end_clean_up()
    found = current_here()
    if found is None:
        raise StepwellError("current() was called outside of workflows and steps")
    return found


class ReplaySilentLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger for workflow code: says everything once, and nothing on replay or while its run leaves memory."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name that logging gave it
        """Return False during replay, and while code is closed because its run leaves memory or has ended."""
        host = current_host()
        if host is None:
            if is_clean_up():
                return False
        elif cast("Execution", host).replaying or cast("Execution", host).stopped:
            return False
        return self.logger.isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the run's id to the record, as ``run_id``."""
        host = current_host()
        run_id = None if host is None else cast("Execution", host).run_id
        kwargs["extra"] = {"run_id": run_id, **(kwargs.get("extra") or {})}
        return msg, kwargs


def get_logger(name: str) -> ReplaySilentLogger:
    """Return a logger that is silent on replay and while a run leaves memory, and adds ``run_id`` to each record.

    It works outside of runs as well.
    """
    return ReplaySilentLogger(logging.getLogger(name), {})
