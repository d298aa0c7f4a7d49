"""Executing sync steps in threads.

At most so many execute at once, of those that somebody waits for. A thread whose attempt was given up (its time is up,
its run is cancelled) cannot be stopped; it does not count any more, or a few that hang would keep all others waiting.
Nor does one whose step waits for a run: that run may have steps that need a thread.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Final

from stepwell.definitions import invoke
from stepwell.definitions.saying import Outlet
from stepwell.definitions.step_call import StepCall
from stepwell.executors.congestion import Congestion
from stepwell.executors.runner import Finished, note_beginning
from stepwell.executors.time_limits import is_limited, timed_out
from stepwell.model.steady import monotonic
from stepwell.values.codec import Codec
from stepwell.worker.arriving.step_outcomes import record_result

_log: Final = logging.getLogger("stepwell")

#: After how many seconds the log names a thread that goes on although its attempt was given up.
_LINGERING_SECONDS: Final = 1.0

_Job = tuple[StepCall, int]


class _Thread:
    """A thread, as those that it belongs to see it. `counts` says whether it takes one of the places."""

    __slots__ = ("counts", "given_up_at", "threads", "told")

    def __init__(self, threads: StepThreads) -> None:
        self.threads = threads
        self.counts = True
        self.given_up_at: float | None = None  # on the monotonic clock; None: somebody waits for its attempt
        self.told = False  # the log has named it


_here: Final = threading.local()


@contextmanager
def lent() -> Generator[None]:
    """Let another step have the place of this thread meanwhile, if it executes a step: that step waits for a run."""
    thread: _Thread | None = getattr(_here, "thread", None)
    if thread is None:
        yield
        return
    thread.threads.lend(thread)
    try:
        yield
    finally:
        thread.threads.take_back(thread)


class StepThreads:
    """Executes sync steps in daemon threads, so that one that hangs cannot keep the process from ending.

    (`concurrent.futures` joins its threads at exit.) Threads are made as needed, up to `limit` that count.
    """

    def __init__(
        self,
        codec: Codec,
        finished: Finished,
        limit: int,
        bound: Callable[[StepCall, int], None],
        over: Callable[[StepCall, int], None],
        outlet: Outlet,
    ) -> None:
        self.now: Callable[[], int] | None = None
        self._codec = codec
        self._finished = finished
        self._outlet = outlet
        self._bound = bound  # called when an attempt with a time limit begins; must lead to `expire`
        self._over = over  # called when an attempt that timed out, and was left with its permit, has really ended
        self._limit = limit
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0  # that count
        self._made = 0
        self._unserved = 0  # queued attempts minus idle threads
        self._busy: dict[StepCall, int] = {}  # which attempt of each call is under way; others' results are ignored
        self._executing: dict[_Job, _Thread] = {}
        self._closed = False
        self._congestion = Congestion("thread", "step_threads", limit)

    def start(self, batch: Iterable[StepCall]) -> None:
        """Queue attempts for execution."""
        for attempts in batch:
            self._busy[attempts] = attempts.attempt
            with self._lock:
                self._unserved += 1
                grow = self._takes_place()
            self._queue.put((attempts, attempts.attempt))
            if grow:
                self._grow()

    # --- places --------------------------------------------------------------------------------------------------

    def _takes_place(self) -> bool:
        """Take a place for another thread where one is needed and may be made; `_grow` must follow. Holds the lock."""
        if self._unserved <= 0 or self._threads >= self._limit:
            return False
        self._threads += 1
        self._unserved -= 1  # the new thread serves it
        return True

    def _grow(self) -> None:
        self._made += 1
        thread = threading.Thread(
            target=self._serve, args=(_Thread(self),), name=f"stepwell-step-{self._made}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # there are too many, or Python is ending
            with self._lock:
                self._threads -= 1
                self._unserved += 1
            _log.error("no thread can be started for a step (%s); %d others serve all steps", error, self._threads)

    def lend(self, thread: _Thread) -> None:
        """Let others have the place of a thread whose step waits for a run."""
        with self._lock:
            grow = self._leaves_place(thread)
        if grow:
            self._grow()

    def take_back(self, thread: _Thread) -> None:
        """Have the thread count again; for a while there may be one too many."""
        with self._lock:
            if thread.given_up_at is None:
                thread.counts = True
                self._threads += 1

    def _leaves_place(self, thread: _Thread) -> bool:
        """Have a thread not count any more; tell whether `_grow` must follow. Holds the lock."""
        if not thread.counts:
            return False
        thread.counts = False
        self._threads -= 1
        return self._takes_place()

    def _gives_up(self, job: _Job) -> bool:
        """Have the thread that executes an attempt not count any more; tell whether `_grow` must follow.

        Holds the lock.
        """
        thread = self._executing.get(job)
        if thread is None or thread.given_up_at is not None:
            return False
        thread.given_up_at = monotonic()
        return self._leaves_place(thread)

    def _stays(self, thread: _Thread) -> bool:
        """Tell whether a thread that has come to the end of its attempt serves others."""
        with self._lock:
            if thread.counts and self._threads > self._limit:
                thread.counts = False
                self._threads -= 1
            elif not thread.counts and self._threads < self._limit:
                thread.counts = True
                self._threads += 1
            if thread.counts:
                self._unserved -= 1
            return thread.counts and not self._closed

    # --- attempts ------------------------------------------------------------------------------------------------

    def _serve(self, thread: _Thread) -> None:
        _here.thread = thread
        while True:
            job = self._queue.get()
            if job is None:
                return
            attempts, number = job
            end: Callable[[StepCall], None] = self._end_of_unwanted
            has_permit = attempts.permit is not None
            self._executing[job] = thread
            if attempts.wanted and self._busy.get(attempts) == number:
                end = attempts.context.copy().run(self._call, attempts)
            with self._lock:
                del self._executing[job]
                taken = self._busy.get(attempts) == number
                if taken:
                    del self._busy[attempts]
                thread.given_up_at, thread.told = None, False
            if taken:
                end(attempts)
                self._finished([attempts])
            elif has_permit:
                self._over(attempts, number)
            del job, attempts, end
            if not self._stays(thread):
                return

    def _call(self, attempts: StepCall) -> Callable[[StepCall], None]:
        """Execute an attempt; return what records its end, which must not happen once the attempt is given up."""
        if attempts.permit is not None:
            note_beginning(attempts, self.now)
        if not attempts.wanted:  # looked at after the beginning was noted: see `Permits.leave`
            return self._end_of_unwanted
        if is_limited(attempts):
            self._bound(attempts, attempts.attempt)
        try:
            result = invoke.step(attempts, attempts.definition, attempts.args, attempts.kwargs, self._outlet)
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its attempt's outcome
            return partial(_record_error, error)
        return partial(self._record, result)

    def _record(self, result: object, attempts: StepCall) -> None:
        record_result(self._codec, attempts, result)

    def _end_of_unwanted(self, attempts: StepCall) -> None:
        attempts.error = asyncio.CancelledError()

    def expire(self, attempts: StepCall, number: int) -> None:
        """Give up on an attempt that takes too long; its result will be ignored."""
        with self._lock:  # so that its thread, should it end just now, says so after this
            # One that was left with its permit is waited for by nobody, and its thread returns that.
            if self._busy.get(attempts) != number or attempts.permit == "left":
                return
            del self._busy[attempts]
            grow = self._gives_up((attempts, number))
            attempts.error = timed_out(attempts)
            attempts.lingers = attempts.permit is not None
            self._finished([attempts])
        if grow:
            self._grow()

    def drop(self, batch: Iterable[StepCall]) -> None:
        """Take note that nobody waits for these attempts any more; their ends are told all the same."""
        if not self._executing:
            return
        for attempts in batch:
            with self._lock:
                grow = self._gives_up((attempts, attempts.attempt))
            if grow:
                self._grow()

    def is_under_way(self, attempts: StepCall, number: int) -> bool:
        """Tell whether this attempt of a call is queued or under way, and not given up."""
        return self._busy.get(attempts) == number

    def busy(self) -> list[StepCall]:
        """Return the attempts that are queued or under way, oldest first."""
        return list(self._busy)

    def close(self) -> None:
        """Let idle threads end; busy ones end after their step."""
        self._closed = True
        for _ in range(self._threads):
            self._queue.put(None)

    # --- what the log is told ------------------------------------------------------------------------------------

    @property
    def must_report(self) -> bool:
        """Whether `report` has something to look at."""
        return bool(self._busy) or any(thread.given_up_at and not thread.told for thread in self._given_up().values())

    def report(self, at: float, now: int) -> None:
        """Name in the log the threads that go on for nobody, and the steps that wait for a thread; once a second.

        For `at` and `now` see `Congestion.look`.
        """
        given_up = self._given_up()
        for (attempts, number), thread in given_up.items():
            since = thread.given_up_at
            if since is not None and not thread.told and at - since >= _LINGERING_SECONDS:
                thread.told = True
                _log.warning(
                    "run %r: attempt %d of step %r was given up, because its time was up or its run was cancelled, and "
                    "its thread goes on (threads like that: %d). A `def` step cannot be stopped: have it call "
                    "current().check_cancelled(), or declare it with isolate='process'",
                    attempts.run_id,
                    number,
                    attempts.name,
                    len(given_up),
                )
        executing = {attempts: None for attempts, _ in list(self._executing) if attempts.wanted}
        waiting = [attempts for attempts in self.busy() if attempts not in executing and attempts.wanted]
        self._congestion.look(waiting, list(executing), at, now)

    def _given_up(self) -> dict[_Job, _Thread]:
        return {job: thread for job, thread in list(self._executing.items()) if thread.given_up_at is not None}


def _record_error(error: BaseException, attempts: StepCall) -> None:
    attempts.error = error
