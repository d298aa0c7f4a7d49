"""An engine for tests: time passes on demand, and the process can be made to "die" without dying."""

# What a process's death takes away is private to its owners; taking it away from outside is the purpose here.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any, Final, Self, Unpack

from stepwell.api.asking.options import EngineOptions, Options
from stepwell.api.engine import Engine
from stepwell.api.session import Session
from stepwell.errors import EngineClosed, InvalidArgument, StoreFailed
from stepwell.model.clock import MICROSECONDS, to_seconds
from stepwell.runtime.engine_thread import EngineThread
from stepwell.runtime.serving.requests import WaitForIdle
from stepwell.store.sqlite.store import SqliteStore
from stepwell.testing.clock import VirtualClock

#: How long `TestEngine.idle` waits for steps under way, in real seconds.
IDLE_TIMEOUT_SECONDS: Final = 30.0

# What died stays here for good: were it collected, `finally` blocks of its code would run, which a death does not let
# them.
_dead: Final[list[EngineThread]] = []


class TestEngine(Engine):
    """A `stepwell.Engine` on a `VirtualClock`, with the same options, for tests.

    Timers, retries and deadlines of runs follow `clock`, which moves only by `advance`. What executes in real time
    stays so: the steps themselves, and the `timeout` of a step. `crash` and `reopen` show what a run does when its
    process dies; handles of runs stay usable across both.
    """

    __test__ = False  # the name begins as those of test classes do; pytest shall not collect it

    def __init__(self, path: str | os.PathLike[str], **options: Unpack[EngineOptions]) -> None:
        self._path = path
        self._given: EngineOptions = {**options, "clock": options.get("clock") or VirtualClock()}
        super().__init__(path, **self._given)

    @property
    def clock(self) -> VirtualClock:
        """The engine's clock; raises `InvalidArgument` where the engine was opened with one of another kind."""
        clock = self._session.clock
        if not isinstance(clock, VirtualClock):
            raise InvalidArgument(f"this engine was opened with {clock!r}, which only its owner can move")
        return clock

    @property
    def in_memory(self) -> frozenset[str]:
        """The ids of the runs that are in memory; exact only while the engine is idle."""
        return frozenset(run.id for run in list(self._session.engine_thread.worker.memory.runs.values()))

    def idle(self, timeout: float | timedelta | None = IDLE_TIMEOUT_SECONDS) -> Self:
        """Wait until the engine has nothing to do: no step under way, nothing due. Return the engine.

        Raises `TimeoutError`, naming the steps under way, after `timeout` (real seconds or a timedelta).
        """
        self._idle(timeout)
        return self

    def _idle(self, timeout: float | timedelta | None) -> int | None:
        engine_thread = self._session.engine_thread
        try:
            due: int | None = self._wait("the engine is not idle", timeout, WaitForIdle())
        except TimeoutError:
            steps = [
                f"{attempts.definition.name!r} of run {attempts.run_id!r}"
                for attempts in engine_thread.steps.under_way()
            ]
            under_way = ", ".join(steps) or "none"
            seconds = "" if timeout is None else f" after {to_seconds(timeout, 'timeout'):g} s"
            raise TimeoutError(f"the engine is not idle{seconds}; steps under way: {under_way}") from None
        return due

    def advance(self, duration: float | timedelta, *, timeout: float | timedelta | None = IDLE_TIMEOUT_SECONDS) -> None:
        """Let `duration` (seconds or a timedelta) pass, stopping wherever something is due until that is done.

        A run that sleeps a day ten times has ended after ``advance(timedelta(days=10))``. `timeout` as in `idle`, for
        each stop.
        """
        clock = self.clock
        target = clock.now() + round(to_seconds(duration, "the time to advance by") * MICROSECONDS)
        while True:
            due = self._idle(timeout)
            if due is None or due > target:
                break
            clock.set_floor(due)
            self._session.engine_thread.wake()
        clock.set_floor(target)
        clock.advance(0)
        self._idle(timeout)

    def crash(self) -> None:
        """Stop as if the process had died: nothing more is written or tidied up, no ``finally`` of any code runs.

        What was committed stays in the file, for `reopen`. ``def`` steps under way cannot be stopped; their results are
        lost. Threads that wait for results get `EngineClosed`.
        """
        self._session.check_usable()
        _abandon(self._session)

    def reopen(self, **options: Unpack[EngineOptions]) -> Self:
        """Open the file again, after `crash`, `close`, or else in place of `close`; return the engine.

        `options` change those that were given at first: another `clock`, other `workflows`, ….
        """
        self.close()
        self._given.update(options)
        self._session = Session(self._path, Options(self._given), None)
        return self


def _abandon(session: Session) -> None:
    engine_thread, store = session.engine_thread, session.store
    if engine_thread.own_loop.stopped.is_set():
        return
    engine_thread.turn_loop.failure = EngineClosed(f"{store.location}: the engine has crashed; reopen it")
    engine_thread._watchdog.stop()
    _stop_thread(engine_thread)
    engine_thread.steps.abandon()
    _dead.append(engine_thread)
    engine_thread.waiters.refuse(engine_thread.turn_loop.failure)
    engine_thread.turn_loop.refuse_inbox()
    for run in engine_thread.worker.memory.runs.values():
        run.execution.stopped = True
        _silence(run.execution.loop.unfinished_tasks())
    assert isinstance(store, SqliteStore)
    # A store that has failed lets go of the file, and writes nothing into it.
    store._writer.failed = StoreFailed(f"{store.location}: the engine has crashed")
    store.close(None, 0)


def _stop_thread(engine_thread: EngineThread) -> None:
    loop = engine_thread.own_loop.loop

    def stop() -> None:
        _silence(asyncio.all_tasks(loop))
        loop.stop()

    loop.call_soon_threadsafe(stop)
    engine_thread.own_loop.stopped.wait()


def _silence(tasks: Any) -> None:
    for task in tasks:
        task._log_destroy_pending = False  # asyncio's own switch for tasks that are dropped on purpose
