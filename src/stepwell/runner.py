"""Executing steps: async ones on an event loop, sync ones in threads.

An async step that never waits costs no task and no turn of the loop: its first stretch is executed on the spot, in the name of an
idle task (a *lane*), which takes over only when the step waits for something. `asyncio.current_task()`, and with
it `asyncio.timeout` and cancellation, work from the first line on.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from asyncio import tasks
from collections.abc import Callable, Generator, Iterable, Sequence
from contextvars import Context, copy_context
from typing import Any, Final

from stepwell.clock import MICROSECONDS
from stepwell.codec import Codec
from stepwell.context import StepInfo, enter_step
from stepwell.errors import StepTimeout
from stepwell.resident import Attempts
from stepwell.steps import StepOutcome, record_result

#: What a runner calls with finished attempts, from whichever thread they finished on.
Finished = Callable[[Sequence[tuple[Attempts, StepOutcome]]], None]

#: Idle lanes that are kept for reuse.
_MAX_IDLE_LANES: Final = 256


def _info(attempts: Attempts) -> StepInfo:
    return StepInfo(
        attempts.run_id, attempts.definition.name, attempts.operation, attempts.attempt, attempts.started_at
    )


def _time_limit(attempts: Attempts) -> float | None:
    """Return how many seconds this attempt may take: its timeout, or what is left until the deadline of all attempts."""
    options = attempts.definition.step_options
    limit = options.timeout_seconds
    if options.deadline_seconds is not None:
        spent = (attempts.started_at - attempts.first_started_at) / MICROSECONDS
        left = max(0.0, options.deadline_seconds - spent)
        limit = left if limit is None else min(limit, left)
    return limit


def _timed_out(attempts: Attempts) -> StepTimeout:
    return StepTimeout(
        f"step {attempts.definition.name!r} of run {attempts.run_id!r}: attempt {attempts.attempt} took longer than "
        f"{_time_limit(attempts):g} s"
    )


class _Lane:
    """A task that carries async steps, one after another."""

    def __init__(self, lanes: AsyncLanes) -> None:
        self._lanes = lanes
        self._parked: asyncio.Future[None] | None = None
        self._coroutine: Any = None
        self._yielded: Any = None
        self._carrying = False  # the task itself is inside the step, so cancelling the task reaches the step
        self._cancel_first = False
        self._timer: asyncio.TimerHandle | None = None
        self.timed_out = False
        self.attempts: Attempts | None = None
        self._context: Context = copy_context()
        self._task = lanes.loop.create_task(self._carry())

    def begin(self, attempts: Attempts) -> None:
        """Execute the step up to where it first waits; called outside of any task."""
        self.attempts = attempts
        self.timed_out = False
        self._context = context = copy_context()
        loop = self._lanes.loop
        tasks._enter_task(loop, self._task)
        try:
            self._coroutine = attempts.definition.invoke(attempts.args, attempts.kwargs)
            self._yielded = context.run(_first_stretch, _info(attempts), self._coroutine)
        except StopIteration as end:
            outcome = record_result(self._lanes.codec, attempts, end.value)
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its attempt's outcome
            outcome = StepOutcome(error=error)
        else:
            outcome = None
        finally:
            tasks._leave_task(loop, self._task)
        if outcome is not None:
            self._finish(outcome)
            return
        limit = _time_limit(attempts)
        if limit is not None:
            self._timer = loop.call_later(limit, self._time_out)
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def _finish(self, outcome: StepOutcome) -> None:
        attempts = self.attempts
        assert attempts is not None
        self.attempts = self._coroutine = self._yielded = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if isinstance(outcome.error, asyncio.CancelledError) and self.timed_out:
            outcome = StepOutcome(error=_timed_out(attempts))
        self._lanes.done(self, attempts, outcome)

    def _time_out(self) -> None:
        self.timed_out = True
        self.cancel()

    def cancel(self) -> None:
        """Raise CancelledError in the step where it waits."""
        if self._carrying:
            self._task.cancel()
        else:
            self._cancel_first = True

    async def _carry(self) -> None:
        while not self._lanes.closed:
            if self._coroutine is None:
                self._parked = self._lanes.loop.create_future()
                await self._parked
                continue
            try:
                result = await self
            except BaseException as error:  # noqa: BLE001 - see begin
                outcome = StepOutcome(error=error)
            else:
                assert self.attempts is not None
                outcome = record_result(self._lanes.codec, self.attempts, result)
            while self._task.cancelling():
                self._task.uncancel()
            self._finish(outcome)

    def __await__(self) -> Generator[Any, Any, Any]:
        """Go on with the step from where its first stretch ended."""
        coroutine, context, yielded = self._coroutine, self._context, self._yielded
        self._carrying = True
        try:
            if self._cancel_first:
                self._cancel_first = False
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

    def stop(self) -> None:
        """End the lane's task."""
        self._task.cancel()


def _first_stretch(info: StepInfo, coroutine: Any) -> Any:
    enter_step(info)
    return coroutine.send(None)


class AsyncLanes:
    """Executes async steps on one event loop. All methods are for that loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, codec: Codec, finished: Finished) -> None:
        self.loop = loop
        self.codec = codec
        self.closed = False
        self._finished = finished
        self._idle: list[_Lane] = []
        self._busy: dict[Attempts, _Lane] = {}
        self._at_once: list[tuple[Attempts, StepOutcome]] | None = None  # collects ends while `start` executes

    def start(self, batch: Iterable[Attempts]) -> None:
        """Begin to execute attempts."""
        ended = self._at_once = []
        try:
            for attempts in batch:
                lane = self._idle.pop() if self._idle else _Lane(self)
                self._busy[attempts] = lane
                lane.begin(attempts)
        finally:
            self._at_once = None
        if ended:
            self._finished(ended)

    def done(self, lane: _Lane, attempts: Attempts, outcome: StepOutcome) -> None:
        """Take a lane back whose step has ended."""
        self._busy.pop(attempts, None)
        if len(self._idle) < _MAX_IDLE_LANES and not self.closed:
            self._idle.append(lane)
        else:
            lane.stop()
        if self._at_once is not None:
            self._at_once.append((attempts, outcome))
        else:
            self._finished([(attempts, outcome)])

    def drop(self, batch: Iterable[Attempts]) -> None:
        """Cancel attempts that are still under way."""
        for attempts in batch:
            lane = self._busy.get(attempts)
            if lane is not None:
                lane.cancel()

    def close(self) -> None:
        """Cancel everything and end the lanes."""
        self.closed = True
        for lane in list(self._busy.values()):
            lane.cancel()
        for lane in self._idle:
            lane.stop()
        self._idle.clear()


class ThreadLanes:
    """Executes sync steps in daemon threads, so that one that hangs cannot keep the process from ending.

    (`concurrent.futures` joins its threads at exit.) Threads are made as needed, up to `limit`.
    """

    def __init__(self, codec: Codec, finished: Finished, limit: int) -> None:
        self._codec = codec
        self._finished = finished
        self._limit = limit
        self._queue: queue.SimpleQueue[Attempts | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unserved = 0  # queued attempts minus idle threads
        self._busy: dict[Attempts, StepInfo] = {}

    def start(self, batch: Iterable[Attempts]) -> None:
        """Queue attempts for execution."""
        for attempts in batch:
            self._busy[attempts] = _info(attempts)
            with self._lock:
                self._unserved += 1
                grow = self._unserved > 0 and self._threads < self._limit
                if grow:
                    self._threads += 1
            self._queue.put(attempts)
            if grow:
                threading.Thread(target=self._serve, name=f"stepwell-step-{self._threads}", daemon=True).start()

    def _serve(self) -> None:
        with self._lock:
            self._unserved -= 1  # this thread is idle
        while True:
            attempts = self._queue.get()
            if attempts is None:
                return
            info = self._busy.get(attempts)
            if info is not None and not info.cancelled:
                outcome = copy_context().run(self._call, attempts, info)
                self._busy.pop(attempts, None)
                self._finished([(attempts, outcome)])
            else:
                self._busy.pop(attempts, None)
            with self._lock:
                self._unserved -= 1

    def _call(self, attempts: Attempts, info: StepInfo) -> StepOutcome:
        enter_step(info)
        try:
            result = attempts.definition.invoke(attempts.args, attempts.kwargs)
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its attempt's outcome
            return StepOutcome(error=error)
        return record_result(self._codec, attempts, result)

    def time_limit(self, attempts: Attempts) -> float | None:
        """Return the seconds after which `expire` must be called, or None."""
        return _time_limit(attempts)

    def expire(self, attempts: Attempts) -> None:
        """Give up on an attempt that takes too long: it is told, and its result will be ignored."""
        info = self._busy.pop(attempts, None)
        if info is not None:
            info.cancel()
            self._finished([(attempts, StepOutcome(error=_timed_out(attempts)))])

    def drop(self, batch: Iterable[Attempts]) -> None:
        """Tell attempts that nobody wants their result."""
        for attempts in batch:
            info = self._busy.get(attempts)
            if info is not None:
                info.cancel()

    def close(self) -> None:
        """Let idle threads end; busy ones end after their step."""
        for info in list(self._busy.values()):
            info.cancel()
        for _ in range(self._threads):
            self._queue.put(None)
