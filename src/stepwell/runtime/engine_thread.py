"""The engine's thread: it drives the turn loop with real time, and executes steps.

Everything that happens to runs happens in `_pump`, on one thread with one event loop. There is no delay to gather a
group: while one commit is under way, the next group gathers by itself. Committing on this thread rather than on one of
its own saves two hand-overs of 25-35 us for every step of a sequence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import registered_flows
from stepwell.definitions.step_call import StepCall
from stepwell.errors import EngineClosed, FileInUse, StoreError, StoreUnavailable
from stepwell.executors.dispatch import LONG_STEP_SECONDS, Dispatch
from stepwell.model.acts import Actor
from stepwell.model.clock import MICROSECONDS, Clock, SystemClock
from stepwell.model.steady import monotonic
from stepwell.replay.closing import silence
from stepwell.replay.source_location import executing_at
from stepwell.runtime.in_line import InLineTurns, TurnLock, timed_turn
from stepwell.runtime.light_turns import StepsEnded
from stepwell.runtime.lock_watch import LockWatch
from stepwell.runtime.own_loop import OwnLoop
from stepwell.runtime.retention import Retention
from stepwell.runtime.serving.requests import FromStep, Request
from stepwell.runtime.stalls import StallWatch
from stepwell.runtime.step_outlet import StepOutlet
from stepwell.runtime.time_bound import VALIDATOR_SECONDS, StandingBound
from stepwell.runtime.tokens import new_token
from stepwell.runtime.turn import TurnLoop
from stepwell.runtime.wake_ups import WakeUps
from stepwell.runtime.watchdog import Watchdog
from stepwell.store.notifications import Notification
from stepwell.store.store import Store
from stepwell.values.codec import Codec
from stepwell.worker.pace import Pace
from stepwell.worker.state.runs import Capacity
from stepwell.worker.state.unit_of_work import Reply

_log: Final = logging.getLogger("stepwell")

#: How long to wait before a commit is tried again on a full disk, in seconds.
_STORE_RETRY_SECONDS: Final = 0.25
#: How much longer than asked for `close` waits for the engine's thread, and then for the writers' lock, in seconds.
_CLOSE_GRACE_SECONDS: Final = 1.0
#: How long it waits for a commit that is under way on the engine's thread, in seconds: for the disk.
_COMMIT_GRACE_SECONDS: Final = 10.0
#: How often `close` looks whether steps under way have ended, and others have stopped writing, in seconds.
_DRAIN_LOOK_SECONDS: Final = 0.01
#: How long taking over waits for the writers' lock, in seconds: the stalled worker itself may hold it.
_TAKE_OVER_PATIENCE_SECONDS: Final = 5.0
#: How much later than it was noted an attempt may begin: twice the interpreter's switch interval.
_BEGINNING_MICROSECONDS: Final = 10_000
#: Within which time runs that were taken from a queue begin their first steps, so that their rate holds for these too.
_START_SPREAD_MICROSECONDS: Final = 50_000
#: How many turns follow one another before the loop, on which steps execute, looks at what else is ready: its own work
#: for each costs 8 us.
_MAX_TURNS: Final = 4
#: How often, in seconds, runs that somebody waits for are looked at: whether they can go on.
_STUCK_PERIOD_SECONDS: Final = 5.0


class EngineThread:
    """One engine's thread and all that lives on it.

    `post`, and whatever else says so, may be used from any thread.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec,
        clock: Clock,
        workflows: Mapping[str, Workflow[..., Any]],
        *,
        limits: Capacity,
        step_threads: int,
        step_processes: int | None,
        step_loop: asyncio.AbstractEventLoop | None,
        retention: int | None,
        stall_limit_seconds: float | None,
        takes_work: bool,
        queues: frozenset[str] | None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.own_loop = OwnLoop()
        self.thread = self.own_loop.thread
        self._loop = self.own_loop.loop
        self._wake_ups = WakeUps(self.own_loop, clock)
        self._wake_ups.begin(self._pump)
        self._pace = Pace()
        self.turns = TurnLock()
        self._retention = retention
        self.turn_loop = TurnLoop(
            store,
            codec,
            workflows,
            limits=limits,
            chance=random.random,
            driver=self,
            takes_work=takes_work,
            flows=registered_flows(),
            queues=queues,
            tokens=new_token,
        )
        self.worker = self.turn_loop.worker
        self._validators = StandingBound(VALIDATOR_SECONDS)
        self.worker.runs.bounded = self._validators.bounded
        if clock.seconds_until(clock.now()) is not None:
            self.worker.scheduler.start_spread = _START_SPREAD_MICROSECONDS
        self.waiters = self.turn_loop.waiters
        self._lock_watch = LockWatch(self.turn_loop, store, self._loop)
        self.steps = Dispatch(
            self._loop,
            step_loop,
            codec,
            step_threads,
            self._finished,
            self._long_steps,
            self._thread_over,
            StepOutlet(codec, self._said, self.own_loop.later),
            step_processes,
        )
        self.steps.watch_starts(self._beginning, self._starts_seen)
        self.in_line: InLineTurns | None = None
        if step_loop is not None:
            self.in_line = InLineTurns(self.turn_loop, clock, self.steps, self.turns, self._wake_ups, step_loop)
        turns = frozenset({EngineThread._pump.__code__, InLineTurns.pump.__code__})
        self._watchdog = Watchdog(self._who_turns, turns, self._each_second)
        self._stalls: StallWatch | None = None
        if stall_limit_seconds is not None:
            why = f"it had not answered for {stall_limit_seconds:g} s"
            self._stalls = StallWatch(
                store.membership, stall_limit_seconds, self._epoch, partial(self._take_over_stalled, why)
            )

    # --- the thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register with the store, take up what is to be carried on, and begin to serve."""
        try:
            self._start()
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        """Leave neither a thread nor a loop behind where the engine could not be opened."""
        if self.thread.is_alive():
            self.turn_loop.failure = self._closed()
            self.own_loop.soon(self._let_go)
            self.own_loop.stop()
            self.own_loop.stopped.wait(_CLOSE_GRACE_SECONDS)
        else:
            self._loop.close()
        self._watchdog.stop()

    def _start(self) -> None:
        self.clock.set_floor(self.store.membership.last_at())
        self._look_at_clock()
        try:
            self.store.writers.acquire()
        except StoreUnavailable as error:
            raise FileInUse(str(error)) from error
        try:
            self.turn_loop.open(self.clock.now())
        finally:
            self.store.writers.release()
        self.clock.on_jump(self.wake)
        self.wake()
        if self._retention is not None:
            self.worker.due.add(Retention(self._retention, self.turn_loop.submit))
        self._loop.call_later(_STUCK_PERIOD_SECONDS, self._look_at_stuck)
        self.thread.start()
        self.store.notifications.watch(self._hear, self.own_loop)
        self._hear(Notification("anything"))  # for what others did since the first look, and told nobody
        self._watchdog.start()
        if self._stalls is not None:
            self._stalls.start()

    def post(self, event: Callable[[], None]) -> None:
        """Queue an event; from any thread."""
        self.turn_loop.post(event)
        self._wake_ups.wake_if_asleep()

    def _ask(self) -> None:
        """Have a turn soon for what was queued, on the caller's loop if this is called there and that is the place."""
        if not self._wake_ups.scheduled and not (self.in_line is not None and self.in_line.ask()):
            self.wake()

    def _who_turns(self) -> int | None:
        """Return the thread that takes turns now, or would; from any thread."""
        in_line = self.in_line
        return in_line.ident if in_line is not None and in_line.is_turning else self.thread.ident

    def _hear(self, news: Notification) -> None:
        self.post(partial(self.turn_loop.notified, news))

    def wake(self) -> None:
        """Have the queue looked at; from any thread."""
        self._wake_ups.wake()

    def _pump(self) -> None:
        if not self.turns.take_for_thread():
            return  # whoever has it wakes this thread
        try:
            self._take_turns()
        finally:
            self.turns.release()
        # What was queued on a caller's loop since `_take_turns` looked for the last time, where the lock was taken.
        if self.in_line is not None and self.turn_loop.has_more():
            self._wake_ups.wake_if_asleep()

    def _take_turns(self) -> None:
        turn_loop = self.turn_loop
        for _ in range(_MAX_TURNS):  # while this is set, nobody wakes the loop for what the next turn takes anyway
            timed_turn(turn_loop, self._pace, self.turns, self.clock.now(), light=False)
            if turn_loop.failure is not None or not turn_loop.has_more():
                break
        self._wake_ups.scheduled = False
        if turn_loop.failure is not None:
            turn_loop.refuse_inbox()  # what came meanwhile, and woke nobody
            return
        due = None if turn_loop.closing else self.worker.due.due_at()
        self._wake_ups.set_timer(due, self.worker.now)
        self._lock_watch.look()
        if turn_loop.has_more():
            self._wake_ups.wake_if_asleep()
        if self.waiters.idle and not self.steps.count and turn_loop.is_idle(self.clock.now()):
            self.waiters.tell_idle(self.worker.due.due_at())
            turn_loop.flush()

    def time(self) -> int:
        """Return the time as it is now."""
        return self.clock.now()

    def store_unavailable(self) -> None:
        """Try again a little later."""
        self.own_loop.later(_STORE_RETRY_SECONDS, self._retry_store)

    def _retry_store(self) -> None:
        self.turn_loop.try_store_again()
        self._wake_ups.wake_if_asleep()

    def failed(self) -> None:
        """Let go of everything soon, outside of the turn that failed."""
        self.own_loop.soon(self._let_go)

    def _each_second(self) -> None:
        self._look_at_clock()
        self._validators.look()

    def _look_at_clock(self) -> None:
        """See how far engine time is from the wall clock, which somebody may set at any time."""
        if isinstance(self.clock, SystemClock):
            with contextlib.suppress(StoreError, EngineClosed):
                self.worker.runs.ahead = self.clock.ahead()

    def _look_at_stuck(self) -> None:
        if not self.turn_loop.closing and self.turn_loop.failure is None:
            self.post(self.waiters.look_at_stuck)
            self._loop.call_later(_STUCK_PERIOD_SECONDS, self._look_at_stuck)

    # --- other workers -------------------------------------------------------------------------------------------

    def _epoch(self) -> int:
        return self.turn_loop.claimed().epoch

    def _take_over_stalled(self, why: str, epoch: int) -> int:
        own = f"worker {self._epoch()} (process {os.getpid()} on {os.uname().nodename})"
        return self.take_over(epoch, Actor(own, why))

    def take_over(self, epoch: int, actor: Actor) -> int:
        """Fence another worker and release its runs; return how many there were. Not for the engine's own thread."""
        self.store.writers.acquire(_TAKE_OVER_PATIENCE_SECONDS)
        try:
            released = self.store.membership.fence(epoch, self.clock.now(), actor)
        finally:
            self.store.writers.release()
        self._hear(Notification("work"))
        return released

    # --- steps ---------------------------------------------------------------------------------------------------

    def run_steps(self, attempts: list[StepCall]) -> None:
        """Execute attempts."""
        self.steps.start(attempts)

    def drop_steps(self, attempts: list[StepCall]) -> None:
        """Cancel attempts."""
        self.steps.drop(attempts)

    def _finished(self, ended: Sequence[StepCall]) -> None:
        """Take the ends of attempts; from any thread."""
        self.turn_loop.post(StepsEnded(ended, self._steps_finished))
        self._ask()

    def _steps_finished(self, ended: Sequence[StepCall]) -> None:
        self.steps.ended(ended)
        self.turn_loop.steps_finished(ended)

    def _thread_over(self, attempts: StepCall, attempt: int) -> None:
        """Take note that an attempt which timed out has really ended; from any thread."""
        self.post(partial(self.worker.steps.permit_free, attempts, attempt))

    def _beginning(self) -> int:
        """Return when an attempt begins for sure that begins now.

        Its function is called a little later, by as much as the interpreter wants for others meanwhile; a rate must not
        be exceeded by that.
        """
        now = self.clock.now()
        return now if self.clock.seconds_until(now) is None else now + _BEGINNING_MICROSECONDS

    def _starts_seen(self, under_way: list[StepCall]) -> None:
        """Tell the store which attempts under a rate have begun."""
        self.post(partial(self.worker.scheduler.starts_seen, under_way))

    def _long_steps(self, under_way: list[StepCall]) -> None:
        """Show in the journal which of the steps under way take long."""
        limit = self.clock.now() - int(LONG_STEP_SECONDS * MICROSECONDS)
        found = [attempts for attempts in under_way if attempts.started_at <= limit and not attempts.visible]
        if found:
            self.post(partial(self.worker.show_long_steps, found))

    # --- requests; from any thread ---------------------------------------------------------------------------------

    def submit(self, request: Request, reply: Reply) -> None:
        """Hand in a request; `reply` is called once, with the answer to it."""
        turn_loop = self.turn_loop
        if turn_loop.closing or turn_loop.failure is not None:
            reply(None, turn_loop.failure or self._closed())
            return
        turn_loop.submit(request, reply)
        self._ask()

    def _said(self, request: FromStep, reply: Reply) -> None:
        """Hand in what a step says, also while the engine closes; from any thread."""
        if self.turn_loop.failure is not None:
            reply(None, self.turn_loop.failure)
            return
        self.turn_loop.submit(request, reply)
        self._ask()

    def forget(self, reply: Reply) -> None:
        """Take note that nobody waits for this answer any more."""
        self.post(partial(self.waiters.forget, reply))

    def _closed(self) -> EngineClosed:
        return EngineClosed(f"{self.store.location}: the engine is closed; open another one")

    def check_open(self) -> None:
        """Raise where the engine is closed or has failed."""
        if self.turn_loop.closing or self.turn_loop.failure is not None:
            raise self.turn_loop.failure or self._closed()

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """Hold the writers' lock, waiting for it; for threads other than the engine's."""
        where = f"transaction() at {executing_at()}"
        self.store.writers.acquire()
        try:
            with self.store.writers.holding(where):
                yield
        finally:
            self.store.writers.release()

    # --- the end -------------------------------------------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """Stop taking work, give steps under way `timeout` seconds to end, and let go of the file.

        To be called from another thread.
        """
        if self.own_loop.stopped.is_set() or not self.thread.is_alive():
            return
        give_up_at = monotonic() + timeout
        if self.turn_loop.failure is None:
            self.post(partial(self._drain, self._loop.time() + timeout))
        self._wait_for(self.own_loop.drained, timeout + _CLOSE_GRACE_SECONDS)
        self._watchdog.stop()
        if self._stalls is not None:
            self._stalls.stop()
        self.own_loop.stop()
        self._wait_for(self.own_loop.stopped, _CLOSE_GRACE_SECONDS)
        if not self.own_loop.stopped.is_set():
            self._leave_code_behind()
        try:
            self.store.writers.acquire(max(_CLOSE_GRACE_SECONDS, give_up_at - monotonic()))
        except StoreError as error:
            # A process that is stopped, say, or a transaction of this engine's own.
            _log.warning("%s: the engine closes without a last write; others take over its runs", error)
            self.store.close(None, self.clock.now())
            return
        try:
            self.store.close(self.turn_loop.claim, self.clock.now())
        finally:
            self.store.writers.release()

    def _leave_code_behind(self) -> None:
        _log.warning(
            "%s: the engine closes although workflow code still executes that does not end; its run goes on when the "
            "file is opened again",
            self.store.location,
        )
        if self.turn_loop.failure is None:
            self.turn_loop.failure = EngineClosed(f"{self.store.location}: the engine is closed")
        for run in list(self.worker.memory.runs.values()):  # nobody closes them any more: that is told above, once
            for task in run.execution.loop.unfinished_tasks():
                silence(task)
        self.own_loop.leave()

    def _wait_for(self, event: threading.Event, seconds: float) -> None:
        """Wait for what the engine's thread does, and longer where it is writing, which ends; user code may not."""
        if not event.wait(seconds) and self.turn_loop.write_turn.is_taken and not self._watchdog.is_in_users_code():
            event.wait(_COMMIT_GRACE_SECONDS)

    def _drain(self, deadline: float) -> None:
        self.turn_loop.closing = self.worker.runs.draining = True
        self.steps.drain()
        if self.steps.under_way() and self._loop.time() < deadline:
            self._loop.call_later(_DRAIN_LOOK_SECONDS, self.post, partial(self._drain, deadline))
            return
        # One more turn commits what the last steps brought; nothing new was started since.
        self.turn_loop.post(partial(self._end, deadline))

    def _end(self, deadline: float) -> None:
        if (self.worker.batch or self.turn_loop.starts) and not self.turn_loop.is_held_back:
            if not self.turn_loop.write_turn.waits:
                self.turn_loop.post(partial(self._end, deadline))
                return
            if self._loop.time() < deadline:
                self._loop.call_later(_DRAIN_LOOK_SECONDS, self.post, partial(self._end, deadline))
                return
        self.turn_loop.failure = self._closed()
        self._let_go()

    def _let_go(self) -> None:
        """Tell whoever still waits, and drop what executes and what is in memory."""
        self.turns.wait()
        try:
            self.steps.close()
            self.turn_loop.close()
        finally:
            self.turns.release()
        self.own_loop.drained.set()
