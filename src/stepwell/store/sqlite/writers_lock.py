"""Who may write: one at a time, in the order of asking.

Two kinds wait: threads, which block, and event loops, which must not and are notified. A thread that is next gets the
lock handed over. A loop that is next finds it *reserved*: only a `try_acquire` gets it then, so that threads that come
and go cannot starve the loop. A loop may have changed its mind, though, or be busy; so a thread that waits for a
reservation breaks it after `_RESERVED_SECONDS`, and where only loops wait all of them are notified, so that none
depends on another one.

Invariant, whenever the mutex is free: if the lock is free, nobody waits; if it is reserved, a loop was notified since
the last release, and every thread that waits looks again by itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

#: How long a notified loop has the lock kept for it before a thread may break the reservation.
_RESERVED_SECONDS: Final = 0.02


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
        waiter = _Thread()
        with self._mutex:
            if self._state == "free":
                self._state = "held"
                return
            self._waiting.append(waiter)
            seen = self._reservation
        try:
            self._await(waiter, seen)
        except BaseException:  # an interrupt must leave neither a dead waiter nor a lock that nobody releases
            with self._mutex:
                granted = waiter.granted.is_set()
                if not granted:
                    self._waiting.remove(waiter)
            if granted:
                self.release()
            raise

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

    def _await(self, waiter: _Thread, seen: int) -> None:
        """Block until `waiter` has the lock; break a reservation that is still number `seen` after the time."""
        while not waiter.granted.wait(timeout=_RESERVED_SECONDS):
            notified: list[Callable[[], None]] = []
            with self._mutex:
                if self._state == "reserved" and self._reservation == seen:
                    notified = self._pass_on()
                seen = self._reservation
            for notify in notified:
                notify()
