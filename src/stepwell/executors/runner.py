"""Executing async steps on an event loop; and what all ways of executing steps share.

An async step that never waits costs no task and no turn of the loop: its first stretch is executed on the spot, in the
name of an idle task (a `_StepTask`), which takes over only when the step waits for something. `asyncio.current_task()`,
and with it `asyncio.timeout` and cancellation, work from the first line on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from asyncio import tasks
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, Final

from stepwell.definitions import invoke
from stepwell.definitions.saying import Outlet
from stepwell.definitions.step_call import StepCall
from stepwell.errors import StepInterrupted
from stepwell.executors.interrupts import ends_process
from stepwell.executors.time_limits import Handle, is_limited, limited, timed_out
from stepwell.model.steady import monotonic
from stepwell.values.codec import Codec
from stepwell.values.large_values import note_value
from stepwell.worker.arriving.step_outcomes import record_result

_log: Final = logging.getLogger("stepwell")

#: What a runner calls with finished attempts, from whichever thread they finished on.
Finished = Callable[[Sequence[StepCall]], None]

#: Idle tasks that are kept for reuse.
_MAX_IDLE_TASKS: Final = 256

#: How long attempts that were handed over together are begun one after another, in seconds, before the loop looks at
#: what else is ready, and after how many it is looked at the time.
_STRETCH_SECONDS: Final = 0.005
_LOOK_EVERY: Final = 16

#: When a step is executed again whose task somebody cancelled, in seconds. `asyncio.run` cancels all tasks when its
#: main one has ended, and closes the loop within this time; the step then goes on with the next engine.
_AGAIN_AFTER_SECONDS: Final = 1.0

#: How often a step is executed again for that reason; one that cancels its own task would be for ever.
_MAX_INTERRUPTIONS: Final = 3


def is_rated(attempts: StepCall) -> bool:
    """Tell whether the store wants to know when an attempt begins."""
    limit = attempts.definition.step_options.limit
    return limit is not None and limit.may_be_rated


def note_beginning(attempts: StepCall, now: Callable[[], int] | None) -> None:
    """Note when the execution of an attempt begins that has a permit."""
    if now is not None:
        attempts.began_at = now()


class _StepTask:
    """A task that carries async steps which wait, one after another."""

    def __init__(self, owner: AsyncTasks) -> None:
        self._owner = owner
        self._parked: asyncio.Future[None] | None = None
        self._attempts: StepCall | None = None
        self._coroutine: Any = None
        self._context: Any = None
        self._yielded: Any = None
        self._carrying = False  # the task itself is inside the step, so cancelling the task reaches the step
        self._cancel_first = False
        self._cancelled = False  # by the engine, that is; whoever else cancels the task wants it to end
        self._timed_out = False
        self._timer: Handle | None = None
        self.task = owner.loop.create_task(self._carry())
        self.task.add_done_callback(self._leave)
        task: Any = self.task
        task._log_destroy_pending = False  # one may be idle, or wait in a step, where the program's loop is closed

    def take_over(self, attempts: StepCall, coroutine: Any, context: Context, yielded: Any) -> None:
        """Go on with a step that waits for `yielded`."""
        self._attempts, self._coroutine, self._context, self._yielded = attempts, coroutine, context, yielded
        self._timed_out = self._cancel_first = self._cancelled = False
        if is_limited(attempts):
            self._timer = limited(self._owner.loop, attempts, self._time_out)
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def _time_out(self) -> None:
        self._timed_out = True
        self.cancel()

    def cancel(self) -> None:
        """Raise CancelledError in the step where it waits."""
        self._cancelled = True
        if self._carrying:
            self.task.cancel()
        else:
            self._cancel_first = True

    async def _carry(self) -> None:
        while not self._owner.closed:
            attempts = self._attempts
            if attempts is None:
                self._parked = self._owner.loop.create_future()
                await self._parked
                continue
            aside = False
            try:
                result = await self
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and self.task.cancelling() and not self._cancelled:
                    raise
                if self._owner.loop.is_closed():  # a coroutine of a loop that is gone, on its way to be freed
                    return
                end = ends_process(error)
                late = self._timed_out and isinstance(error, asyncio.CancelledError)
                attempts.error = timed_out(attempts) if late else error
            else:
                end = None
                aside = note_value(result) and self._owner.records_aside(attempts, result)
                if not aside:
                    record_result(self._owner.codec, attempts, result)
            while self.task.cancelling():
                self.task.uncancel()
            if self._timer is not None:
                self._timer.cancel()
            self._attempts = self._coroutine = self._context = self._yielded = self._timer = None
            self._owner.ended(self, attempts, end, aside=aside)

    def _leave(self, _task: asyncio.Task[None]) -> None:
        """End with the task; a step that it carried was cut off by whoever cancelled it, as by the process's death."""
        attempts, coroutine = self._attempts, self._coroutine
        self._attempts = self._coroutine = self._context = self._yielded = None
        if self._timer is not None:
            self._timer.cancel()
        if attempts is None:
            self._owner.gone(self)
            return
        with suppress(BaseException):  # of a step that cannot be told any more
            coroutine.close()
        self._owner.task_ended(attempts)

    def __await__(self) -> Generator[Any, Any, Any]:
        """Go on with the step from where its first stretch ended."""
        coroutine, context, yielded = self._coroutine, self._context, self._yielded
        self._carrying = True
        try:
            if self._cancel_first:
                if isinstance(yielded, asyncio.Future):
                    yielded._asyncio_future_blocking = False
                    yielded.cancel()
                yielded = context.run(coroutine.throw, asyncio.CancelledError())
            while True:
                try:
                    value = yield yielded
                except BaseException as error:  # noqa: BLE001 - belongs to the step
                    yielded = context.run(coroutine.throw, error)
                else:
                    yielded = context.run(coroutine.send, value)
        except StopIteration as end:
            return end.value
        finally:
            self._carrying = False


def _first_stretch(attempts: StepCall, outlet: Outlet) -> tuple[Any, Any]:
    """Begin a step in its own context; return its coroutine and what that waits for, or raise its StopIteration."""
    coroutine: Any = invoke.step(attempts, attempts.definition, attempts.args, attempts.kwargs, outlet)
    return coroutine, coroutine.send(None)


class AsyncTasks:
    """Executes async steps on one event loop. All methods but `busy` are for that loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, codec: Codec, finished: Finished, outlet: Outlet) -> None:
        self.loop = loop
        self.codec = codec
        self.closed = False
        self.now: Callable[[], int] | None = None
        self._finished = finished
        self._outlet = outlet
        self._idle: list[_StepTask] = []
        self._busy: dict[StepCall, _StepTask] = {}

    def start(self, batch: Sequence[StepCall]) -> None:
        """Begin to execute attempts, some now and some later where they take long; called outside of any task."""
        ended: list[StepCall] = []
        loop = self.loop
        rests_at = monotonic() + _STRETCH_SECONDS
        task = self._next_task()
        tasks._enter_task(loop, task.task)
        try:
            for number, attempts in enumerate(batch):
                if number % _LOOK_EVERY == _LOOK_EVERY - 1 and monotonic() > rests_at:
                    loop.call_soon(self._go_on, batch[number:])
                    break
                context = attempts.context.copy()
                if attempts.permit is not None:
                    note_beginning(attempts, self.now)
                if not attempts.wanted:  # looked at after the beginning was noted: see `Permits.leave`
                    attempts.error = asyncio.CancelledError()
                    ended.append(attempts)
                    continue
                try:
                    coroutine, yielded = context.run(_first_stretch, attempts, self._outlet)
                except StopIteration as end:
                    if note_value(end.value) and self.records_aside(attempts, end.value):
                        continue
                    record_result(self.codec, attempts, end.value)
                    ended.append(attempts)
                    continue
                except BaseException as error:  # noqa: BLE001 - whatever a step raises is its attempt's outcome
                    if (process_end := ends_process(error)) is not None:
                        self.cut_off(attempts, process_end)
                        loop.call_soon(self._go_on, batch[number + 1 :])
                        break
                    attempts.error = error
                    ended.append(attempts)
                    continue
                self._busy[attempts] = task
                task.take_over(attempts, coroutine, context, yielded)
                tasks._leave_task(loop, task.task)
                task = self._next_task()
                tasks._enter_task(loop, task.task)
        finally:
            tasks._leave_task(loop, task.task)
            self._idle.append(task)
        if ended:
            self._finished(ended)

    def _go_on(self, batch: Sequence[StepCall]) -> None:
        if not self.closed:
            self.start(batch)

    def _next_task(self) -> _StepTask:
        while self._idle:
            task = self._idle.pop()
            if not task.task.done():
                return task
        return _StepTask(self)

    def gone(self, task: _StepTask) -> None:
        """Forget an idle task that has ended."""
        if task in self._idle:
            self._idle.remove(task)

    def cut_off(self, attempts: StepCall, end: BaseException) -> None:
        """Let what is to end the process out of the loop; a step that it came through was cut off, and has not failed.

        Whoever made the loop may go on with it all the same, as a notebook does after Ctrl-C.
        """
        what = type(end.__cause__ or end).__name__
        _log.warning(
            "run %r: %s, of a signal handler or of the step itself, came while step %r executed in the main thread. "
            "The process is to end, and the attempt does not count",
            attempts.run_id,
            what,
            attempts.definition.name,
            exc_info=end.__cause__,
        )
        self.loop.call_soon(_let_out, end)
        self._busy.pop(attempts, None)
        self._interrupted(attempts, "the process was to end", wait_seconds=_AGAIN_AFTER_SECONDS)

    def task_ended(self, attempts: StepCall) -> None:
        """Execute a step again whose task was cancelled by the program and not by the engine."""
        del self._busy[attempts]
        _log.warning(
            "run %r: the task of step %r was cancelled by the program, as asyncio.run does with all tasks at its end",
            attempts.run_id,
            attempts.definition.name,
        )
        self._interrupted(attempts, "the program cancelled its task")

    def _interrupted(self, attempts: StepCall, why: str, *, wait_seconds: float = 0.0) -> None:
        """Execute a step again that was cut off; not if at most once, and not for ever.

        What is decided for it is made known after `wait_seconds`: not at all, that is, where the process ends.
        """
        attempts.interruptions += 1
        if attempts.definition.step_options.delivery == "at-most-once":
            attempts.error = StepInterrupted(
                f"step {attempts.definition.name!r} of run {attempts.run_id!r}: {why}; it is delivered at most once, "
                "so it is not repeated. Find out whether it took effect, then decide in the workflow"
            )
        elif attempts.interruptions > _MAX_INTERRUPTIONS:
            attempts.error = asyncio.CancelledError(f"{why} {attempts.interruptions} times")
        else:
            self.loop.call_later(_AGAIN_AFTER_SECONDS, self._again, attempts)
            return
        if wait_seconds:
            self.loop.call_later(wait_seconds, self._finished, [attempts])
        else:
            self._finished([attempts])

    def _again(self, attempts: StepCall) -> None:
        if self.closed:
            return
        if attempts.wanted:
            self.start([attempts])
        else:
            attempts.error = asyncio.CancelledError()
            self._finished([attempts])

    def records_aside(self, attempts: StepCall, result: object) -> bool:
        """Record a large result in a thread of its own, which tells the end; False where there can be none.

        To look at large values takes long, and the loop has others to serve.
        """

        def record() -> None:
            record_result(self.codec, attempts, result)
            self._finished([attempts])

        try:
            threading.Thread(target=record, name="stepwell-large-result", daemon=True).start()
        except RuntimeError:  # there are too many, or Python is ending
            return False
        return True

    def ended(
        self, task: _StepTask, attempts: StepCall, process_end: BaseException | None, *, aside: bool = False
    ) -> None:
        """Take a task back whose step has ended, or was cut off by what is to end the process."""
        self._busy.pop(attempts, None)
        if len(self._idle) < _MAX_IDLE_TASKS and not self.closed:
            self._idle.append(task)
        else:
            task.task.cancel()
        if aside:
            return
        if process_end is None:
            self._finished([attempts])
        else:
            attempts.error = None
            self.cut_off(attempts, process_end)

    def drop(self, batch: Iterable[StepCall]) -> None:
        """Cancel attempts that are still under way."""
        for attempts in batch:
            task = self._busy.get(attempts)
            if task is not None:
                task.cancel()

    def busy(self) -> list[StepCall]:
        """Return the attempts under way, oldest first; from any thread."""
        return list(self._busy)

    def close(self) -> None:
        """Cancel everything and end the tasks."""
        self.closed = True
        for task in list(self._busy.values()):
            task.cancel()
        for task in self._idle:
            task.task.cancel()
        self._idle.clear()


def _let_out(end: BaseException) -> None:
    """Raise what is to end the process in a callback of the loop, which lets it out."""
    raise end
