"""The engine's thread: events in, one commit, effects out.

Everything that happens to runs happens in `_pump`, on one thread with one event loop: it takes what is queued, lets the
worker turn it into works, commits them in one transaction, and releases what follows. There is no delay to gather a
group: while one commit is under way, the next group gathers by itself. Committing on this thread rather than on one of
its own saves two hand-overs of 25-35 us for every step of a sequence.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from stepwell.attempts import Attempts
from stepwell.clock import MICROSECONDS, Clock
from stepwell.codec import Codec
from stepwell.definition import Workflow
from stepwell.dispatch import LONG_STEP_SECONDS, Dispatch
from stepwell.errors import EngineClosed, RunConflict, StepwellError, StorageFull, StoreError
from stepwell.journal import Payload
from stepwell.loading import Limits
from stepwell.model import Claim
from stepwell.requests import Message, Requests, check_conflict
from stepwell.store.base import Created, RunCreated, Store
from stepwell.waiting import Waiters
from stepwell.watchdog import Watchdog
from stepwell.work import Reply, RunOver, Work
from stepwell.worker import Worker

_log: Final = logging.getLogger("stepwell")

#: How many events go into one commit at most, so that a flood does not starve the loop.
_MAX_BATCH: Final = 2000
#: How long to wait before a commit is tried again on a full disk, in seconds.
_FULL_DISK_RETRY_SECONDS: Final = 0.25
#: How much longer than asked for `close` waits for the engine's thread, in seconds: for the commit under way.
_CLOSE_GRACE_SECONDS: Final = 10.0
#: How many ended runs are deleted in one transaction, and how often, in seconds, old ones are looked for.
_PURGE_CHUNK: Final = 500
_PURGE_PERIOD_SECONDS: Final = 600.0
#: The longest uninterrupted wait of the timer, in seconds; bounds what a suspended machine can cost.
_MAX_TIMER_SECONDS: Final = 60.0


class Core:
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
        limits: Limits,
        step_threads: int,
        step_loop: asyncio.AbstractEventLoop | None,
        retention: int | None,
    ) -> None:
        self.store = store
        self.codec = codec
        self.clock = clock
        self.claim: Claim | None = None
        self.failure: StepwellError | None = None
        self._inbox: deque[Callable[[], None]] = deque()
        self._loop = asyncio.new_event_loop()
        self._scheduled = False
        # Runs must not see the context variables of whoever happens to wake the engine.
        self._context = contextvars.Context()
        self._closing = False
        self._drained = threading.Event()
        self._stopped = threading.Event()
        self._retention = retention
        self.worker = self._worker = Worker(store.inspector, codec, workflows, self, limits, random.random)
        self.requests = Requests(self._worker, store.inspector, workflows)
        self.waiters = Waiters(store, self._worker.memory, self._worker.batch)
        self.steps = Dispatch(self._loop, step_loop, codec, step_threads, self._finished, self._long_steps)
        self._timer: asyncio.TimerHandle | None = None
        self._full_until: float = 0.0
        self._after_flush: list[Callable[[], None]] = []
        self.thread = threading.Thread(target=self._main, name="stepwell", daemon=True)
        self._watchdog = Watchdog(self.thread)

    # --- the thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register with the store, recover what was running, and begin to serve."""
        self.clock.set_floor(self.store.inspector.last_at())
        now = self._worker.now = self.clock.now()
        self.claim = self.store.register(now)
        recovered = self.store.recover(self.claim, now)
        if recovered:
            _log.info(
                "%s: %d runs were under way when the last engine stopped; they go on", self.store.location, recovered
            )
        self.clock.on_jump(self.wake)
        self.post(self._worker.loader.recover)
        if self._retention is not None:
            self.post(partial(self._purge_now_and_then, self._retention))
        self.thread.start()
        self._watchdog.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            self._stopped.set()

    def post(self, event: Callable[[], None]) -> None:
        """Queue an event; from any thread."""
        self._inbox.append(event)
        if not self._scheduled:
            self.wake()

    def wake(self) -> None:
        """Have the queue looked at; from any thread."""
        self._scheduled = True
        try:
            if threading.get_ident() == self.thread.ident:
                self._loop.call_soon(self._pump, context=self._context)
            else:
                self._loop.call_soon_threadsafe(self._pump, context=self._context)
        except RuntimeError:  # the loop is closed: the engine is, too
            self._scheduled = False

    def _pump(self) -> None:
        self._scheduled = False
        if self.failure is not None:
            self._refuse_inbox()
            return
        worker = self._worker
        worker.now = max(worker.now, self.clock.now())
        with worker.loop.entered():
            handled = self._handle_events()
        if not handled:
            return
        try:
            self._commit()
            with worker.loop.entered():
                worker.evict()
                worker.loader.admit()
        except Exception as error:  # noqa: BLE001 - see _fail
            self._fail(error)
            return
        self._set_timer()
        # What wakes other threads comes last: they need the interpreter, and would only wait for this thread to rest.
        self._flush()
        worker.run_steps()
        if (self._inbox or worker.batch) and not self._scheduled and not self._waiting_for_space():
            self.wake()
        if self.waiters.idle and self._is_idle():
            self.waiters.tell_idle(worker.memory.next_due())
            self._flush()

    def _handle_events(self) -> bool:
        """Take what is due and what is queued; False where the engine failed at it."""
        worker, inbox = self._worker, self._inbox
        try:
            due = worker.memory.next_due()
            if due is not None and due <= worker.now:
                worker.advance()
            for _ in range(min(len(inbox), _MAX_BATCH)):
                inbox.popleft()()
        except Exception as error:  # noqa: BLE001 - see _fail
            self._fail(error)
            return False
        return True

    def _is_idle(self) -> bool:
        if self.steps.count or self._inbox or self._worker.batch:
            return False
        due = self._worker.memory.next_due()
        return due is None or due > self.clock.now()

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - see _fail
            self._fail(error)

    def _commit(self) -> None:
        works = self._worker.batch.take()
        if not works:
            return
        if self._waiting_for_space() or not self.store.writers.try_acquire(self.wake):
            self._worker.batch.put_back(works)
            return
        try:
            plain = [work for work in works if not work.calls_transactions]
            if plain:
                self._commit_together(plain)
            if len(plain) != len(works):
                for work in works:
                    if work.calls_transactions:
                        self._worker.prepare(work)
                        self._commit_together([work])
        finally:
            self.store.writers.release()

    def _commit_together(self, works: list[Work]) -> None:
        assert self.claim is not None
        worker = self._worker
        written = [work for work in works if work.changes or work.body]
        if written:
            try:
                outcomes = self.store.commit(written, self.claim)
            except StorageFull as error:
                self._disk_is_full(works, error)
                return
            with worker.loop.entered():
                worker.settle(written, outcomes)
        if len(written) != len(works):
            rest = [work for work in works if not work.changes and not work.body]
            nothing: list[list[Any]] = [[]] * len(rest)
            worker.settle(rest, nothing)
        self._full_until = 0.0

    # --- trouble -------------------------------------------------------------------------------------------------

    def _waiting_for_space(self) -> bool:
        return self._loop.time() < self._full_until

    def _disk_is_full(self, works: list[Work], error: StorageFull) -> None:
        """Refuse what callers asked for, keep what runs did, and try again until there is space."""
        if not self._full_until:
            _log.error("%s. Work goes on by itself when there is space", error)
        self._worker.disk_full(works, error)
        self._full_until = self._loop.time() + _FULL_DISK_RETRY_SECONDS
        self._loop.call_later(_FULL_DISK_RETRY_SECONDS, self._retry_full_disk)

    def _retry_full_disk(self) -> None:
        if not self._scheduled:
            self.wake()

    def _fail(self, error: Exception) -> None:
        """Stop serving: whoever waits is told, and the file stays as the last commit left it."""
        if self.failure is not None:
            return
        if isinstance(error, StoreError):
            self.failure = error
        else:
            self.failure = EngineClosed(
                f"the engine stopped because of a defect of its own: {type(error).__name__}: {error}"
            )
            self.failure.__cause__ = error
        _log.critical("%s: the engine stopped", self.store.location, exc_info=error)
        self.waiters.refuse(self.failure)
        for work in self._worker.batch.take():
            for reply in work.waiting_callers():
                reply(None, self.failure)
        self._refuse_inbox()
        self._loop.call_soon(self._let_go)

    def _refuse_inbox(self) -> None:
        failure = self.failure or EngineClosed("the engine is closed")
        while self._inbox:
            event = self._inbox.popleft()
            reply = event.args[-1] if isinstance(event, partial) and event.args else None
            if callable(reply):
                reply(None, failure)
        self._flush()

    # --- retention -----------------------------------------------------------------------------------------------

    def purge(self, ended_before: int, reply: Reply, purged: int = 0) -> None:
        """Delete the runs that ended before a time, some at a time; replies with their number; an event."""
        if self._closing or self._waiting_for_space():
            reply(purged, None)
            return
        if not self.store.writers.try_acquire(self.wake):
            self.later(partial(self.purge, ended_before, reply, purged))
            return
        try:
            count = self.store.purge(ended_before, _PURGE_CHUNK, self.claimed())
        except StorageFull as error:
            reply(None, error)
            return
        finally:
            self.store.writers.release()
        if count == _PURGE_CHUNK:
            self.later(partial(self.purge, ended_before, reply, purged + count))
        else:
            reply(purged + count, None)

    def _purge_now_and_then(self, retention: int) -> None:
        def again(_count: Any, _error: BaseException | None) -> None:
            self._loop.call_later(_PURGE_PERIOD_SECONDS, self.post, partial(self._purge_now_and_then, retention))

        self.purge(self.clock.now() - retention, again)

    # --- timers --------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._worker.memory.next_due()
        if due is None or self._closing:
            return
        if due <= self._worker.now:  # of a run that was just read: a clock that stands still would never say so
            if not self._scheduled:
                self.wake()
            return
        seconds = self.clock.seconds_until(due)
        if seconds is not None:
            # A microsecond more, because the loop's clock may be a little ahead of the engine's.
            self._timer = self._loop.call_later(min(seconds + 1e-6, _MAX_TIMER_SECONDS), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._scheduled:
            self.wake()

    def _long_steps(self, under_way: list[Attempts]) -> None:
        """Show in the journal which of the steps under way take long."""
        limit = self.clock.now() - int(LONG_STEP_SECONDS * MICROSECONDS)
        found = [attempts for attempts in under_way if attempts.started_at <= limit and not attempts.visible]
        if found:
            self.post(partial(self._worker.show_long_steps, found))

    # --- what the worker has done outside (see `stepwell.work.Outside`) ---------------------------------------------

    def run_steps(self, attempts: list[Attempts]) -> None:
        """Execute attempts, unless the engine is closing: then the next one does."""
        if not self._closing:
            self.steps.start(attempts)

    def drop_steps(self, attempts: list[Attempts]) -> None:
        """Cancel attempts."""
        self.steps.drop(attempts)

    def _finished(self, ended: Sequence[Attempts]) -> None:
        """Take the ends of attempts; from any thread."""
        self.post(partial(self._steps_finished, ended))

    def _steps_finished(self, ended: Sequence[Attempts]) -> None:
        self.steps.count -= len(ended)
        step_finished = self._worker.step_finished
        for attempts in ended:
            try:
                step_finished(attempts)
            except Exception as error:  # noqa: BLE001 - one run's defect must not stop the others
                _log.critical("run %r: the engine failed to handle a step's end", attempts.run_id, exc_info=error)
                self._guarded(partial(self._worker.halt_broken, attempts.run_key, error))

    def run_over(self, over: list[RunOver]) -> None:
        """Tell whoever waits for these runs."""
        self.waiters.run_over(over)

    def published(self, run: int, key: str, value: Payload) -> None:
        """Tell whoever waits for this value."""
        self.waiters.published(run, key, value)

    def later(self, call: Callable[[], None]) -> None:
        """Queue an event from within another."""
        self._inbox.append(call)

    # --- requests; from any thread ---------------------------------------------------------------------------------

    def request(self, event: Callable[..., None], *args: Any, reply: Reply) -> None:
        """Queue an event that ends in `reply`."""
        if self._closing or self.failure is not None:
            reply(None, self.failure or EngineClosed(f"{self.store.location}: the engine is closed; open another one"))
            return
        self.post(partial(event, *args, reply))

    def start_run(self, run: RunCreated, messages: Sequence[Message], reply: Reply) -> None:
        """Create a run; an event."""
        if self._waiting_for_space():
            reply(None, self._full())
            return
        if messages and (existing := self._worker.find(run.id)) is not None:
            try:  # a start that is refused sends nothing; one that finds its run sends the messages to it
                check_conflict(run, Created(existing.key, existing))
            except RunConflict as error:
                reply(None, error)
                return
        served = self._worker.admits(run.workflow)
        self.requests.start(run if served else self.requests.as_pending(run), messages, reply)

    def send(self, run_id: str, message: Message, reply: Reply) -> None:
        """Send a message; an event."""
        if self._waiting_for_space():
            reply(None, self._full())
            return
        self.requests.send(run_id, message, reply)

    def cancel(self, run_id: str, reason: str | None, reply: Reply) -> None:
        """Ask a run to stop; an event."""
        if self._waiting_for_space():
            reply(None, self._full())
            return
        self.requests.cancel(run_id, reason, reply)

    def resume(self, run_id: str, reply: Reply) -> None:
        """Try a halted run again; an event."""
        self.requests.resume(run_id, reply)

    def _full(self) -> StorageFull:
        return StorageFull(
            f"{self.store.location}: the disk is full; nothing was written. Free some space and try again"
        )

    def at_flush(self, call: Callable[[], None]) -> None:
        """Have `call` called at the end of the current turn; on the engine's thread."""
        self._after_flush.append(call)

    def _flush(self) -> None:
        if self._after_flush:
            calls, self._after_flush = self._after_flush, []
            for call in calls:
                call()

    def check_open(self) -> None:
        """Raise where the engine is closed or has failed."""
        if self._closing or self.failure is not None:
            raise self.failure or EngineClosed(f"{self.store.location}: the engine is closed; open another one")

    def claimed(self) -> Claim:
        """Return the claim of the engine's worker."""
        assert self.claim is not None
        return self.claim

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """Hold the writers' lock, waiting for it; for threads other than the engine's."""
        self.store.writers.acquire()
        try:
            yield
        finally:
            self.store.writers.release()

    # --- the end -------------------------------------------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """Stop taking work, give steps under way `timeout` seconds to end, and let go of the file.

        To be called from another thread.
        """
        if self._stopped.is_set() or not self.thread.is_alive():
            return
        if self.failure is None:
            self.post(partial(self._drain, self._loop.time() + timeout))
        self._drained.wait(timeout + _CLOSE_GRACE_SECONDS)
        self._watchdog.stop()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._stopped.wait(_CLOSE_GRACE_SECONDS)
        with self.writing():
            self.store.close(self.claim, self.clock.now())

    def _drain(self, deadline: float) -> None:
        self._closing = self._worker.draining = True
        if self.steps.under_way() and self._loop.time() < deadline:
            self._loop.call_later(0.01, self.post, partial(self._drain, deadline))
            return
        # One more turn commits what the last steps brought; nothing new was started since.
        self.later(self._end)

    def _end(self) -> None:
        if self._worker.batch and not self._full_until:
            self.later(self._end)
            return
        self.failure = EngineClosed(f"{self.store.location}: the engine is closed; open another one")
        self._let_go()

    def _let_go(self) -> None:
        """Tell whoever still waits, and drop what executes and what is in memory."""
        assert self.failure is not None
        self.waiters.refuse(self.failure)
        self.steps.close()
        self._worker.close()
        self._flush()
        self._drained.set()
