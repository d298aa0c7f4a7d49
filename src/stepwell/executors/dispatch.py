"""Which steps are under way, and where: async ones on a loop, sync ones in threads, isolated ones in processes.

The loop of the async steps is the engine's own for an `Engine` and the caller's for an `AsyncEngine`; calls to another
loop go through `call_soon_threadsafe`, all steps of a turn at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Final

from stepwell.definitions.saying import Outlet
from stepwell.definitions.step_call import StepCall
from stepwell.executors.runner import AsyncTasks, is_rated
from stepwell.executors.threads import StepThreads
from stepwell.executors.time_limits import Handle, limited
from stepwell.values.codec import Codec

if TYPE_CHECKING:
    from stepwell.executors.process_pool import ProcessPool

_log: Final = logging.getLogger("stepwell")

#: A step that takes longer than this is shown in the journal while it runs, in seconds.
LONG_STEP_SECONDS: Final = 1.0


#: How soon the store is told that an attempt under a rate has begun, in seconds; most have ended by then.
_START_TOLD_SECONDS: Final = 0.05


class Dispatch:
    """Executes steps for one engine; for its thread. `finished` is called from whichever thread a step ends on.

    `threads` and `processes` bound how many steps execute in them at once; None: as many processes as there are CPUs.
    What steps say while they execute goes to `outlet`. `long_steps` is called, on the engine's thread, with the steps
    under way once a second while there are any; `thread_over`, from any thread, when an attempt (with its number) has
    really ended that timed out with a permit.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        step_loop: asyncio.AbstractEventLoop | None,
        codec: Codec,
        threads: int,
        finished: Callable[[Sequence[StepCall]], None],
        long_steps: Callable[[list[StepCall]], None],
        thread_over: Callable[[StepCall, int], None],
        outlet: Outlet,
        processes: int | None = None,
    ) -> None:
        self._loop = loop
        self._step_loop = step_loop
        self._long_steps = long_steps
        self._long_timer: asyncio.TimerHandle | None = None
        self._async_tasks = AsyncTasks(step_loop or loop, codec, finished, outlet)
        self._threads = StepThreads(codec, finished, threads, self._bound, thread_over, outlet)
        self._make_processes = partial(_process_pool, loop, codec, finished, processes, outlet)
        self._processes: ProcessPool | None = None
        self._closed = False
        self._starts_timer: asyncio.TimerHandle | None = None
        self._starts_seen: Callable[[list[StepCall]], None] | None = None
        self._now: Callable[[], int] | None = None
        self._context = Context()
        # What is to be called on the step loop, while a turn is taken on that loop itself.
        self._calls: list[Callable[[], None]] | None = None
        self._watch_is_asked = False
        self._limits: dict[StepCall, Handle] = {}  # of those in threads
        #: How many attempts were handed out whose end has not come back.
        self.count = 0

    def watch_starts(self, now: Callable[[], int], seen: Callable[[list[StepCall]], None]) -> None:
        """Note when attempts of steps under a rate begin, and have `seen` called soon with those under way."""
        self._async_tasks.now = self._threads.now = self._now = now
        self._starts_seen = seen

    def start(self, attempts: list[StepCall]) -> None:
        """Execute attempts."""
        if self._closed:
            return
        self.count += len(attempts)
        coroutines = [attempt for attempt in attempts if attempt.definition.on_loop]
        if self._starts_timer is None:
            permitted = [attempt for attempt in attempts if attempt.permit is not None]
            if permitted and any(is_rated(attempt) for attempt in permitted):
                self._on_own_loop(self._watch_starts)
        if len(coroutines) != len(attempts):
            self._start_others([attempt for attempt in attempts if not attempt.definition.on_loop])
        if coroutines:
            self._on_step_loop(self._async_tasks.start, coroutines)
        if self._long_timer is None and not self._watch_is_asked:
            self._watch_is_asked = True
            self._on_own_loop(self._watch)

    def collect(self, calls: list[Callable[[], None]] | None) -> None:
        """Collect what is to be called on the loop of the async steps: the turn is taken there. None: hand it over."""
        self._calls = calls

    def _on_own_loop(self, call: Callable[[], None]) -> None:
        if self._calls is None:
            call()
            return
        with suppress(RuntimeError):  # closed: nobody starts anything any more
            self._loop.call_soon_threadsafe(call)

    def _start_others(self, attempts: list[StepCall]) -> None:
        isolated = [attempt for attempt in attempts if attempt.definition.step_options.isolate is not None]
        if len(isolated) != len(attempts):
            self._threads.start([attempt for attempt in attempts if attempt.definition.step_options.isolate is None])
        if isolated:
            self._on_own_loop(partial(self._start_isolated, isolated))

    def _start_isolated(self, attempts: list[StepCall]) -> None:
        if self._closed:
            return
        if self._processes is None:
            self._processes = self._make_processes()
            self._processes.now = self._now
        self._processes.start(attempts)

    def drop(self, attempts: list[StepCall]) -> None:
        """Cancel async attempts, end isolated ones; sync ones see for themselves that they are not wanted any more."""
        self._threads.drop(attempts)
        if self._processes is not None:
            self._on_own_loop(partial(self._processes.drop, attempts))
        self._on_step_loop(self._async_tasks.drop, attempts)

    def under_way(self) -> list[StepCall]:
        """Return the attempts that somebody waits for, oldest first."""
        return [attempts for attempts in self._all_busy() if attempts.wanted]

    def _all_busy(self) -> list[StepCall]:
        isolated = [] if self._processes is None else self._processes.busy()
        return [*self._async_tasks.busy(), *self._threads.busy(), *isolated]

    def drain(self) -> None:
        """Take note that the engine is closing."""
        if self._processes is not None:
            self._processes.draining = True

    def pids(self) -> list[int]:
        """Return the ids of the processes in which isolated steps execute; from any thread."""
        return [] if self._processes is None else self._processes.pids()

    def close(self) -> None:
        """Cancel what can be cancelled, end the processes, and let go of the rest."""
        self._closed = True
        self._threads.close()
        self._on_step_loop(lambda _: self._async_tasks.close(), [])
        if self._processes is not None:
            self._processes.close()

    def abandon(self) -> None:
        """Kill the processes, as the death of this one would, and let idle threads end; when the loop has stopped."""
        self._threads.close()
        if self._processes is not None:
            self._processes.close(0.0)

    def _bound(self, attempts: StepCall, number: int) -> None:
        """Give up on a sync attempt when its time is up; called from the thread that begins it."""
        try:
            # Not in the attempt's context, which a timer keeps, even a cancelled one.
            self._loop.call_soon_threadsafe(self._limit, attempts, number, context=self._context)
        except RuntimeError:  # the engine is closed; nobody waits for the attempt
            return

    def _limit(self, attempts: StepCall, number: int) -> None:
        if self._threads.is_under_way(attempts, number):  # most have ended by now
            limit = limited(self._loop, attempts, partial(self._threads.expire, attempts, number))
            if limit is not None:
                self._limits[attempts] = limit

    def ended(self, attempts: Sequence[StepCall]) -> None:
        """Take note that the ends of attempts have come back."""
        self.count -= len(attempts)
        if self._limits:
            for each in attempts:
                limit = self._limits.pop(each, None)
                if limit is not None:
                    limit.cancel()  # else it would hold the step, and its arguments, until the time is up

    def _on_step_loop(self, call: Callable[[list[StepCall]], None], attempts: list[StepCall]) -> None:
        if self._step_loop is None:
            call(attempts)
            return
        if self._calls is not None:
            self._calls.append(partial(call, attempts))
            return
        try:
            self._step_loop.call_soon_threadsafe(call, attempts)
        except RuntimeError:
            _log.warning("the loop of the async steps is closed; their runs go on with the next engine")

    def _watch_starts(self) -> None:
        if self._starts_timer is None and not self._closed:
            self._starts_timer = self._loop.call_later(_START_TOLD_SECONDS, self._tell_starts)

    def _tell_starts(self) -> None:
        self._starts_timer = None
        rated = [attempts for attempts in self.under_way() if is_rated(attempts) and not attempts.start_told]
        began = [attempts for attempts in rated if attempts.began_at]
        if began and self._starts_seen is not None:
            self._starts_seen(began)
        if len(began) != len(rated) and not self._closed:
            self._starts_timer = self._loop.call_later(_START_TOLD_SECONDS, self._tell_starts)

    def _watch(self) -> None:
        self._watch_is_asked = False
        if self._long_timer is None and (self.count or self._threads.must_report) and not self._closed:
            self._long_timer = self._loop.call_later(LONG_STEP_SECONDS, self._look)

    def _look(self) -> None:
        self._long_timer = None
        self._long_steps(self.under_way())
        now = 0 if self._now is None else self._now()
        self._threads.report(self._loop.time(), now)
        if self._processes is not None:
            self._processes.report(self._loop.time(), now)
        self._watch()


def _process_pool(
    loop: asyncio.AbstractEventLoop,
    codec: Codec,
    finished: Callable[[Sequence[StepCall]], None],
    limit: int | None,
    outlet: Outlet,
) -> ProcessPool:
    """Make what executes isolated steps. Most programs have none, and need not load it."""
    from stepwell.executors.process_pool import ProcessPool  # noqa: PLC0415 - as above

    return ProcessPool(loop, codec, finished, limit, outlet)
