"""Timers: `sleep_until`, and whatever of asyncio waits for a time (`asyncio.sleep`, `asyncio.timeout`, `call_later`).

The loop of the run issues them (`stepwell.replay.loop`), and replay wakes the callback that a timer has in place of a
future. One without an operation (`TICK`) tells code that goes round without waiting how late it is.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Final

from stepwell.errors import InvalidArgument
from stepwell.model.clock import MICROSECONDS, to_seconds
from stepwell.model.journal import EntryForm
from stepwell.model.waits import Wait
from stepwell.operations.calling_run import calling_run
from stepwell.shown import shown
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork


async def sleep_until(when: datetime) -> None:
    """Wait, durably, until `when`, an aware datetime; return at once if that has passed."""
    run = calling_run("sleep_until()")
    seconds = _timestamp(when)
    if run.ahead:
        seconds += run.ahead / MICROSECONDS
    if seconds * MICROSECONDS <= run.now:
        return
    to_seconds(seconds - run.now / MICROSECONDS, "the time until `when`")
    future = run.loop.create_future()
    handle = run.loop.call_at(seconds, set_unless_done, future)
    try:
        await future
    finally:
        handle.cancel()


def _timestamp(when: object) -> float:
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise InvalidArgument(f"sleep_until() needs a datetime with a time zone, not {shown(when)}")
    return when.timestamp()


def set_unless_done(future: asyncio.Future[None]) -> None:
    """Wake whoever waits for a future of a timer."""
    if not future.done():
        future.set_result(None)


def _open(_runs: Runs, run: LoadedRun, operation: Operation, _work: UnitOfWork) -> None:
    run.add_timer(operation.detail, operation.number)


def _waits(operation: Operation) -> Wait:
    return Wait("timer", operation.number, until=operation.detail)


TIMER: Final = OperationKind(
    name="timer", entries=(EntryForm("timer", has_value=False),), words="a timer", open=_open, waits=_waits
)
