"""Who may write: one at a time, in the order of asking, over all threads, event loops and processes.

First the threads and loops of one process settle who of them is next (`FairLock`); only that one asks the kernel, for
POSIX locks do not tell threads apart. Between processes decides a `Turnstile` of two bytes of the lock file.

Two kinds wait: threads, which block, and event loops, which must not and are notified. A thread that is next gets the
lock handed over. A loop that is next finds it *reserved*: only a `try_acquire` gets it then, so that threads that come
and go cannot starve the loop. A loop may have changed its mind, though, or be busy; so a thread that waits for a
reservation breaks it after `_RESERVED_SECONDS`, and where only loops wait all of them are notified, so that none
depends on another one. Where another process is writing, a helper thread waits in the loop's place, then reserves.

Invariant of `FairLock`, whenever the mutex is free: if the lock is free, nobody waits; if it is reserved, a loop was
notified since the last release, and every thread that waits looks again by itself.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

from stepwell.errors import EngineClosed, FileInUse
from stepwell.store.sqlite import locking
from stepwell.store.sqlite.locking import QUEUE_BYTE, WRITE_BYTE, LockFile

#: How long a notified loop has the lock kept for it before a thread, or another process, may have it.
_RESERVED_SECONDS: Final = 0.02
#: How long `close` waits for the helper, which waits for a process that may have been stopped.
_CLOSE_PATIENCE_SECONDS: Final = 5.0


class _Thread:
    """A blocked thread; `granted` is set once the lock is its own."""

    def __init__(self) -> None:
        self.granted = threading.Event()


class FairLock:
    """A `stepwell.store.base.WritersLock` for the threads and loops of one process."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._state: Literal["free", "held", "reserved"] = "free"
        self._reservation = 0  # counts reservations, so that a thread breaks only the one that it waited for
        self._waiting: deque[_Thread | Callable[[], None]] = deque()

    def acquire(self) -> None:
        """Block until the lock is the caller's. The caller must not hold it already."""
        self.acquire_within(None)

    def acquire_within(self, patience_seconds: float | None) -> bool:
        """Block until the lock is the caller's, and return True; False where that takes longer than given."""
        with self._mutex:
            if self._state == "free":
                self._state = "held"
                return True
            waiter = _Thread()
            self._waiting.append(waiter)
            seen = self._reservation
        give_up_at = None if patience_seconds is None else time.monotonic() + patience_seconds
        try:
            if self._await(waiter, seen, give_up_at):
                return True
        except BaseException:  # an interrupt must leave neither a dead waiter nor a lock that nobody releases
            if not self._leave_line(waiter):
                self.release()
            raise
        return not self._leave_line(waiter)

    def try_acquire(self, notify: Callable[[], None]) -> bool:
        """Take the lock and return True; else return False and have `notify` called once when to try again.

        `notify` is called from the thread that releases the lock and must not block. While it is waiting to be called,
        the same (equal) `notify` is not entered again.
        """
        with self._mutex:
            if self._state != "held":
                self._state = "held"
                if notify in self._waiting:
                    self._waiting.remove(notify)
                return True
            if notify not in self._waiting:
                self._waiting.append(notify)
            return False

    def release(self) -> None:
        """Pass the lock on to whoever waits longest. Raises `RuntimeError` when it is not held."""
        with self._mutex:
            if self._state != "held":
                raise RuntimeError("the writers' lock is released without being held")
            notified = self._pass_on()
        for notify in notified:
            notify()

    def reserve(self, notify: Callable[[], None]) -> int:
        """Turn the lock, which the caller holds, into a reservation for the loop of `notify`; return its number.

        The caller then calls `notify`, and where nobody came, `lapse`.
        """
        with self._mutex:
            self._state = "reserved"
            self._reservation += 1
            if notify in self._waiting:
                self._waiting.remove(notify)
            return self._reservation

    def lapse(self, reservation: int, let_go: Callable[[], None]) -> None:
        """End a reservation that is still the present one: call `let_go`, and pass the lock on."""
        notified: list[Callable[[], None]] = []
        with self._mutex:
            if self._state == "reserved" and self._reservation == reservation:
                let_go()
                notified = self._pass_on()
        for notify in notified:
            notify()

    def _leave_line(self, waiter: _Thread) -> bool:
        """Take `waiter` out of the line; return False where it was granted the lock before that."""
        with self._mutex:
            if waiter.granted.is_set():
                return False
            self._waiting.remove(waiter)
            return True

    def _pass_on(self) -> list[Callable[[], None]]:
        """Give the lock to the next in line; return whom to notify, outside of the mutex."""
        if not self._waiting:
            self._state = "free"
            return []
        following = self._waiting.popleft()
        if isinstance(following, _Thread):
            self._state = "held"
            following.granted.set()
            return []
        self._state = "reserved"
        self._reservation += 1
        notified = [following]
        if not any(isinstance(waiter, _Thread) for waiter in self._waiting):
            notified += [waiter for waiter in self._waiting if not isinstance(waiter, _Thread)]
            self._waiting.clear()
        return notified

    def _await(self, waiter: _Thread, seen: int, give_up_at: float | None) -> bool:
        """Block until `waiter` has the lock or the time is up; break a reservation that outlived its time."""
        while not waiter.granted.wait(timeout=_RESERVED_SECONDS):
            if give_up_at is not None and time.monotonic() >= give_up_at:
                return False
            notified: list[Callable[[], None]] = []
            with self._mutex:
                if self._state == "reserved" and self._reservation == seen:
                    notified = self._pass_on()
                seen = self._reservation
            for notify in notified:
                notify()
        return True


class Turnstile:
    """Two bytes of the lock file that let one process write at a time, and the next one stand ready.

    Who writes holds the write byte. Who is next holds the queue byte and waits for the write byte; so whoever has just
    written finds the queue taken and cannot overtake. One thread of a process at a time may use it.
    """

    def __init__(self, lock_file: LockFile) -> None:
        self._file = lock_file
        #: This process writes.
        self.is_inside = False

    def try_enter(self) -> bool:
        """Enter where nobody writes or is next; return whether that was so."""
        descriptor = self._file.descriptor
        if not locking.try_lock(descriptor, QUEUE_BYTE, 2):
            return False
        locking.unlock(descriptor, QUEUE_BYTE)
        self.is_inside = True
        return True

    def enter(self) -> None:
        """Enter, however long that takes."""
        descriptor = self._file.descriptor
        try:
            locking.lock(descriptor, QUEUE_BYTE)
            locking.lock(descriptor, WRITE_BYTE)
            locking.unlock(descriptor, QUEUE_BYTE)
        except BaseException:
            self._leave_both(descriptor)
            raise
        self.is_inside = True

    def enter_within(self, patience_seconds: float) -> bool:
        """Enter, or return False where that takes longer than `patience_seconds`."""
        descriptor = self._file.descriptor
        give_up_at = time.monotonic() + patience_seconds
        entered = False
        try:
            entered = locking.lock_within(descriptor, QUEUE_BYTE, patience_seconds) and locking.lock_within(
                descriptor, WRITE_BYTE, give_up_at - time.monotonic()
            )
            if entered:
                locking.unlock(descriptor, QUEUE_BYTE)
        finally:
            if not entered:
                self._leave_both(descriptor)
        self.is_inside = entered
        return entered

    def leave(self) -> None:
        """Let the next process in."""
        self.is_inside = False
        locking.unlock(self._file.descriptor, WRITE_BYTE)

    def holder(self) -> int | None:
        """Return which other process writes, None where none does; 0 where the process is not visible from here."""
        found = locking.holder(self._file.descriptor, WRITE_BYTE)
        return None if found is None else found.pid

    def next_in_line(self) -> int | None:
        """Return which other process is next; as `holder`. One that was stopped there lets nobody pass."""
        found = locking.holder(self._file.descriptor, QUEUE_BYTE)
        return None if found is None else found.pid

    @staticmethod
    def _leave_both(descriptor: int) -> None:
        with suppress(OSError):
            locking.unlock(descriptor, QUEUE_BYTE, 2)


class SharedLock:
    """A `stepwell.store.base.WritersLock` for the threads and loops of all processes that have the file open."""

    def __init__(self, lock_file: LockFile) -> None:
        self._line = FairLock()
        self._turnstile = Turnstile(lock_file)
        self._location = lock_file.database_path
        # Whether the reservation in the line includes the turnstile. Only who holds the line reads or writes it.
        self._kept = False
        self._taken = threading.Event()
        self._mutex = threading.Lock()
        self._wanted: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._helper: threading.Thread | None = None
        self._closed = False

    def acquire(self, timeout_seconds: float | None = None) -> None:
        """Block until the lock is the caller's. The caller must not hold it already.

        Raises `FileInUse`, naming the holder, where it takes longer than `timeout_seconds`.
        """
        if timeout_seconds is not None:
            if not self.acquire_within(timeout_seconds):
                raise FileInUse(self._describe_holder(timeout_seconds))
            return
        self._line.acquire()
        if not (self._kept and self._take_over()):
            try:
                self._check_open()
                self._turnstile.enter()
            except BaseException:
                self._line.release()
                raise

    def acquire_within(self, patience_seconds: float) -> bool:
        """As `acquire`, but return False where it takes longer: a process that writes may be stopped, see `holder`."""
        give_up_at = time.monotonic() + patience_seconds
        if not self._line.acquire_within(patience_seconds):
            return False
        if self._kept and self._take_over():
            return True
        entered = False
        try:
            self._check_open()
            entered = self._turnstile.enter_within(give_up_at - time.monotonic())
        finally:
            if not entered:
                self._line.release()
        return entered

    def try_acquire(self, notify: Callable[[], None]) -> bool:
        """Take the lock and return True; else return False and have `notify` called when to try again.

        `notify` is called from any thread, once, and must not block. Who was notified has the lock kept for
        `_RESERVED_SECONDS`, then it goes to the next.
        """
        if not self._line.try_acquire(notify):
            return False
        if self._kept and self._take_over():
            return True
        try:
            self._check_open()
            if self._turnstile.try_enter():
                return True
            # The line stays held, on behalf of the helper.
            self._fetch(notify)
        except BaseException:
            self._line.release()
            raise
        return False

    def release(self) -> None:
        """Pass the lock on: to the process that waits, or else to whoever waits longest in this one."""
        try:
            self._turnstile.leave()
        except (OSError, ValueError):
            # Closed meanwhile, and with the file all its locks are gone.
            if not self._closed:
                raise
        self._line.release()

    def holder(self) -> int | None:
        """Return which other process writes now, None where none does; 0 where it is not visible from here."""
        return None if self._closed else self._turnstile.holder()

    def _describe_holder(self, waited_seconds: float) -> str:
        pid, what = self.holder(), "been writing"
        if pid is None and not self._turnstile.is_inside and not self._closed:
            pid, what = self._turnstile.next_in_line(), "been the next to write"
        who = f"process {pid}" if pid else "this process" if pid is None else "another process"
        return (
            f"{self._location!r}: {who} has {what} for more than {waited_seconds:g} s, and nobody else can write "
            "meanwhile. If it is stopped, or hangs, continue it or kill it"
        )

    def close(self) -> None:
        """End the helper. Whoever asks from now on gets `EngineClosed`; what is held may still be released.

        Called before the lock file is closed: a helper that waited on would, in the end, let go of what the next engine
        of this process holds on that file. It waits no longer than another process writes.
        """
        with self._mutex:
            self._closed = True
            self._wanted.put(None)
        if self._helper is not None:
            self._helper.join(_CLOSE_PATIENCE_SECONDS)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosed(f"{self._location}: the file is closed; open the engine again to write")

    def _take_over(self) -> bool:
        """Take what the helper has brought and kept; called by whoever holds the line."""
        self._kept = False
        self._taken.set()
        return True

    # --- the helper
    # -----------------------------------------------------------------------------------------------------

    def _fetch(self, notify: Callable[[], None]) -> None:
        with self._mutex:
            self._check_open()
            if self._helper is None:
                helper = threading.Thread(target=self._help, name="stepwell-writers-lock", daemon=True)
                helper.start()
                self._helper = helper
            self._wanted.put(notify)

    def _help(self) -> None:
        """Wait for the turnstile in place of loops, one at a time."""
        while (notify := self._wanted.get()) is not None:
            try:
                self._turnstile.enter()
            except (OSError, ValueError):
                # Closed meanwhile, or the locks fail: who tries again is told so.
                self._line.release()
                _tell(notify)
                continue
            self._taken.clear()
            self._kept = True
            reservation = self._line.reserve(notify)
            _tell(notify)
            if not self._taken.wait(_RESERVED_SECONDS):
                self._line.lapse(reservation, self._let_go)

    def _let_go(self) -> None:
        self._kept = False
        with suppress(OSError, ValueError):
            self._turnstile.leave()


def _tell(notify: Callable[[], None]) -> None:
    # A loop that was closed meanwhile says so in its own way; its reservation lapses.
    with suppress(RuntimeError):
        notify()
