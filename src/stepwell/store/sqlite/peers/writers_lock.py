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

import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final, Literal

from stepwell.errors import EngineClosed, StoreUnavailable
from stepwell.model.steady import monotonic
from stepwell.replay.source_location import executing_in
from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.file.locking import QUEUE_BYTE, WRITE_BYTE, LockFile
from stepwell.store.sqlite.peers import in_words, writer_note
from stepwell.store.store import LOCK_PATIENCE_SECONDS, SLOW_LOCK_SECONDS

_log: Final = logging.getLogger("stepwell")

_ADVICE: Final = "If it is stopped, or hangs, continue it or kill it"
_ADVICE_TO_THIS_PROCESS: Final = (
    "A transaction should be short, and so should workflow code between two steps: do the waiting outside of it"
)
#: How often a thread that waits for another process looks at the time.
_LOOK_SECONDS: Final = 0.5
#: How long `close` waits for the helper, as a rule for a commit of another process; then it is left to end by itself.
_CLOSE_PATIENCE_SECONDS: Final = 0.25
#: How long a notified loop has the lock kept for it before a thread, or another process, may have it.
_RESERVED_SECONDS: Final = 0.02


class _Thread:
    """A blocked thread; `granted` is set once the lock is its own."""

    def __init__(self) -> None:
        self.granted = threading.Event()


class FairLock:
    """A `stepwell.store.store.WritersLock` for the threads and loops of one process."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._state: Literal["free", "held", "reserved"] = "free"
        self._reservation = 0  # counts reservations, so that a thread breaks only the one that it waited for
        self._waiting: deque[_Thread | Callable[[], None]] = deque()

    def acquire(self) -> None:
        """Block until the lock is the caller's. The caller must not hold it already."""
        self.acquire_within(None)

    def acquire_within(self, patience_seconds: float | None, look: Callable[[], None] = lambda: None) -> bool:
        """Block until the lock is the caller's, and return True; False where that takes longer than given.

        `look` is called now and then meanwhile.
        """
        with self._mutex:
            if self._state == "free":
                self._state = "held"
                return True
            waiter = _Thread()
            self._waiting.append(waiter)
            seen = self._reservation
        give_up_at = None if patience_seconds is None else monotonic() + patience_seconds
        try:
            if self._await(waiter, seen, give_up_at, look):
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

    def take(self) -> bool:
        """Take the lock where nobody holds it, reserved or not; return whether that was so. For who was notified."""
        with self._mutex:
            if self._state == "held":
                return False
            self._state = "held"
            return True

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

    def _await(self, waiter: _Thread, seen: int, give_up_at: float | None, look: Callable[[], None]) -> bool:
        """Block until `waiter` has the lock or the time is up; break a reservation that outlived its time."""
        while not waiter.granted.wait(timeout=_RESERVED_SECONDS):
            look()
            if give_up_at is not None and monotonic() >= give_up_at:
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
    """A `stepwell.store.store.WritersLock` for the threads and loops of all processes that have the file open."""

    def __init__(self, lock_file: LockFile) -> None:
        self._line = FairLock()
        self._turnstile = Turnstile(lock_file)
        self._file = lock_file
        self._location = lock_file.database_path
        # Whether the reservation in the line includes the turnstile. Only who holds the line reads or writes it.
        self._kept = False
        self._taken = threading.Event()
        self._mutex = threading.Lock()
        self._wanted: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._helper: threading.Thread | None = None
        self._closed = False
        self._helper_is_over = False
        self._when_over: Callable[[], None] | None = None
        # Which thread of this process has the lock, for messages; and where in the user's code it took it.
        self._holder = 0
        self._place: str | None = None

    def acquire(self, timeout_seconds: float | None = None) -> None:
        """Block until the lock is the caller's. The caller must not hold it already.

        Says in the log who holds it where that takes `SLOW_LOCK_SECONDS`. Raises `StoreUnavailable`, naming the holder,
        where it takes longer than `timeout_seconds` (None: `LOCK_PATIENCE_SECONDS`).
        """
        patience = LOCK_PATIENCE_SECONDS if timeout_seconds is None else timeout_seconds
        if not self.acquire_within(patience):
            raise StoreUnavailable(f"{self.describe_holder(patience)}. Nothing was written")

    def acquire_within(self, patience_seconds: float) -> bool:
        """As `acquire`, but return False where it takes longer."""
        began_at = monotonic()
        slow_at = began_at + SLOW_LOCK_SECONDS

        def look() -> None:
            nonlocal slow_at
            if monotonic() >= slow_at:
                slow_at = math.inf
                _log.warning("%s. Waiting", self.describe_holder(SLOW_LOCK_SECONDS))

        if not self._line.acquire_within(patience_seconds, look):
            return False
        free = threading.Event()
        while not self._enter(free.set):
            while not free.wait(max(0.0, min(_LOOK_SECONDS, began_at + patience_seconds - monotonic()))):
                look()
                if monotonic() >= began_at + patience_seconds:
                    return False
            free.clear()
            left_seconds = began_at + patience_seconds - monotonic()
            if not (self._line.take() or self._line.acquire_within(left_seconds, look)):
                return False
        return True

    def try_acquire(self, notify: Callable[[], None]) -> bool:
        """Take the lock and return True; else return False and have `notify` called when to try again.

        `notify` is called from any thread, once, and must not block. Who was notified has the lock kept for
        `_RESERVED_SECONDS`, then it goes to the next.
        """
        return self._line.try_acquire(notify) and self._enter(notify)

    def _enter(self, notify: Callable[[], None]) -> bool:
        """Pass the turnstile, for who has the line; else leave both to the helper, which calls `notify`."""
        if not (self._kept and self._take_over()):
            try:
                self._check_open()
                if not self._turnstile.try_enter():
                    # The line stays held, on behalf of the helper.
                    self._fetch(notify)
                    return False
            except BaseException:
                self._line.release()
                raise
        self._holder = threading.get_ident()
        return True

    @contextmanager
    def holding(self, where: str) -> Generator[None]:
        """Say, for the length of the block, where the user's code holds the lock, which the caller has."""
        self._place = where
        writer_note.write(self._file.descriptor, where)
        try:
            yield
        finally:
            self._place = None
            if not self._closed:
                writer_note.clear(self._file.descriptor)

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

    def describe_holder(self, waited_seconds: float) -> str:
        """Return who has the lock, or is next, after the caller waited for so long; and what to do about it."""
        who, advice = self._who_holds()
        waited = f"for more than {waited_seconds:g} s, and nobody else can write meanwhile"
        return f"{self._location!r}: {who} {waited}. {advice}"

    def _who_holds(self) -> tuple[str, str]:
        pid = self.holder()
        if pid is not None:
            note = writer_note.read(self._file.descriptor, pid)
            who = in_words.describe_process(pid)
            if note is not None:
                who = note.describe() if pid == 0 else f"{who}, {note.describe_place()},"
            return f"{who} has been writing", _ADVICE
        if self._turnstile.is_inside or self._closed:
            return (
                f"{self._own_holder()} has been writing",
                _ADVICE_TO_THIS_PROCESS,
            )
        pid = self._turnstile.next_in_line()
        return (
            f"{'this process' if pid is None else in_words.describe_process(pid)} has been the next to write",
            _ADVICE,
        )

    def _own_holder(self) -> str:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        name = names.get(self._holder, "one that has ended")
        where = self._place or executing_in(self._holder)
        return f"this process (thread {name!r}, in {where})"

    def close(self) -> None:
        """Refuse whoever asks from now on with `EngineClosed`; what is held may still be released."""
        with self._mutex:
            self._closed = True
            self._wanted.put(None)
        if self._helper is not None:
            self._helper.join(_CLOSE_PATIENCE_SECONDS)

    def when_over(self, call: Callable[[], None]) -> None:
        """Have `call` called when nothing touches the lock file any more; after `close`.

        That is at once, or by the helper, which may wait for another process that writes. Until then the file must stay
        open: a wait that outlived its descriptor would, in the end, let go of what the next engine of this process
        holds on that file.
        """
        with self._mutex:
            if self._helper is not None and not self._helper_is_over:
                self._when_over = call
                return
        call()

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
        """Wait for the turnstile in place of loops and threads, one at a time."""
        while (notify := self._wanted.get()) is not None:
            try:
                self._turnstile.enter()
                if self._closed:
                    self._turnstile.leave()
            except (OSError, ValueError):
                # The locks fail: who tries again is told so.
                self._line.release()
                _tell(notify)
                continue
            if self._closed:
                self._line.release()
                _tell(notify)
                continue
            self._taken.clear()
            self._kept = True
            reservation = self._line.reserve(notify)
            _tell(notify)
            if not self._taken.wait(_RESERVED_SECONDS):
                self._line.lapse(reservation, self._let_go)
        with self._mutex:
            self._helper_is_over = True
        if self._when_over is not None:
            self._when_over()

    def _let_go(self) -> None:
        self._kept = False
        with suppress(OSError, ValueError):
            self._turnstile.leave()


def _tell(notify: Callable[[], None]) -> None:
    # A loop that was closed meanwhile says so in its own way; its reservation lapses.
    with suppress(RuntimeError):
        notify()
