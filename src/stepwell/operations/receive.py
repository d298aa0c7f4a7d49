"""`receive`: the next message of a name, from another run or from outside."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from stepwell.errors import InvalidArgument
from stepwell.model.clock import to_seconds
from stepwell.model.journal import EntryForm
from stepwell.model.names import check_name
from stepwell.model.waits import Wait
from stepwell.operations.calling_run import calling_run
from stepwell.operations.timer import set_unless_done
from stepwell.replay.execution import Execution
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork

T = TypeVar("T")
D = TypeVar("D")


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
    timedelta) without one, return `default`; for an exception instead, use `asyncio.timeout`. A `timeout` of 0
    returns a message only if one is there already.
    """
    run = calling_run("receive()")
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
    handle = run.loop.call_later(0, set_unless_done, expired)
    receiver = run.loop.create_task(waiting)
    try:
        await asyncio.wait([receiver, expired], return_when=asyncio.FIRST_COMPLETED)
        return receiver.result() if receiver.done() else default
    finally:
        handle.cancel()
        receiver.cancel()


def _open(_runs: Runs, run: LoadedRun, operation: Operation, _work: UnitOfWork) -> None:
    run.receivers.setdefault(operation.name, deque()).append(operation)


def _waits(operation: Operation) -> Wait:
    return Wait("message", operation.number, operation.name)


RECEIVE: Final = OperationKind(
    name="receive",
    entries=(EntryForm("message"),),
    advice=(
        "The sender gave another type than receive() asks for, or that has changed since. Nothing is lost: receive it "
        "as what it is, or as Any, and resume the run; or cancel the run."
    ),
    open=_open,
    waits=_waits,
)
