"""Executing sync steps in threads."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from functools import partial

from stepwell.attempts import Attempts
from stepwell.codec import Codec
from stepwell.context import enter_step
from stepwell.runner import Finished, note_beginning, time_limit, timed_out
from stepwell.steps import record_result


class ThreadLanes:
    """Executes sync steps in daemon threads, so that one that hangs cannot keep the process from ending.

    (`concurrent.futures` joins its threads at exit.) Threads are made as needed, up to `limit`.
    """

    def __init__(
        self,
        codec: Codec,
        finished: Finished,
        limit: int,
        bound: Callable[[Attempts, int, float], None],
        over: Callable[[Attempts, int], None],
    ) -> None:
        self.now: Callable[[], int] | None = None
        self._codec = codec
        self._finished = finished
        self._bound = bound  # called when an attempt with a time limit begins; must lead to `expire`
        self._over = over  # called when an attempt that timed out, and was left with its permit, has really ended
        self._limit = limit
        self._queue: queue.SimpleQueue[tuple[Attempts, int] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unserved = 0  # queued attempts minus idle threads
        self._busy: dict[Attempts, int] = {}  # which attempt of each call is under way; others' results are ignored

    def start(self, batch: Iterable[Attempts]) -> None:
        """Queue attempts for execution."""
        for attempts in batch:
            self._busy[attempts] = attempts.attempt
            with self._lock:
                self._unserved += 1
                grow = self._unserved > 0 and self._threads < self._limit
                if grow:
                    self._threads += 1
                    self._unserved -= 1  # the new thread serves it
            self._queue.put((attempts, attempts.attempt))
            if grow:
                threading.Thread(target=self._serve, name=f"stepwell-step-{self._threads}", daemon=True).start()

    def _serve(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                return
            attempts, number = job
            end: Callable[[Attempts], None] = self._end_of_unwanted
            has_permit = attempts.permit is not None
            if attempts.wanted and self._busy.get(attempts) == number:
                end = copy_context().run(self._call, attempts)
            if self._take(attempts, number):
                end(attempts)
                self._finished([attempts])
            elif has_permit:
                self._over(attempts, number)
            with self._lock:
                self._unserved -= 1

    def _take(self, attempts: Attempts, number: int) -> bool:
        """Remove an attempt from those under way; False where that has happened already."""
        with self._lock:
            if self._busy.get(attempts) != number:
                return False
            del self._busy[attempts]
            return True

    def _call(self, attempts: Attempts) -> Callable[[Attempts], None]:
        """Execute an attempt; return what records its end, which must not happen once the attempt is given up."""
        enter_step(attempts)
        if attempts.permit is not None:
            note_beginning(attempts, self.now)
        if not attempts.wanted:  # looked at after the beginning was noted: see `Permits.leave`
            return self._end_of_unwanted
        limit = time_limit(attempts)
        if limit is not None:
            self._bound(attempts, attempts.attempt, limit)
        try:
            result = attempts.definition.invoke(attempts.args, attempts.kwargs)
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its attempt's outcome
            return partial(_record_error, error)
        return partial(self._record, result)

    def _record(self, result: object, attempts: Attempts) -> None:
        record_result(self._codec, attempts, result)

    def _end_of_unwanted(self, attempts: Attempts) -> None:
        attempts.error = asyncio.CancelledError()

    def expire(self, attempts: Attempts, number: int) -> None:
        """Give up on an attempt that takes too long; its result will be ignored."""
        with self._lock:  # so that its thread, should it end just now, says so after this
            # One that was left with its permit is waited for by nobody, and its thread returns that.
            if self._busy.get(attempts) != number or attempts.permit == "left":
                return
            del self._busy[attempts]
            attempts.error = timed_out(attempts)
            attempts.lingers = attempts.permit is not None
            self._finished([attempts])

    def busy(self) -> list[Attempts]:
        """Return the attempts that are queued or under way, oldest first."""
        return list(self._busy)

    def close(self) -> None:
        """Let idle threads end; busy ones end after their step."""
        for _ in range(self._threads):
            self._queue.put(None)


def _record_error(error: BaseException, attempts: Attempts) -> None:
    attempts.error = error
