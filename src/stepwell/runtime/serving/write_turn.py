"""One engine's turns to write: taken when the writers' lock is free, waited for, given up when it takes too long."""

from __future__ import annotations

from collections.abc import Callable

from stepwell.runtime.serving.requests import Event
from stepwell.store.store import WritersLock


class WriteTurn:
    """Whether an engine may write. `wake` has `TurnLoop.turn` called when somebody else has stopped writing."""

    def __init__(self, lock: WritersLock, wake: Callable[[], None]) -> None:
        self._lock = lock
        self._wake = wake
        #: Whether something is to be written, and somebody else is writing; and the how manieth time that is.
        self.waits = False
        self.number = 0
        #: Whether the engine is writing.
        self.is_taken = False
        #: What could not have its turn, and is tried again in the next turn of the engine.
        self.postponed: list[Event] = []

    def take(self) -> bool:
        """Take the lock if it is free; else have the engine woken when it is."""
        if self._lock.try_acquire(self._wake):
            self.waits = False
            self.is_taken = True
            return True
        if not self.waits:
            self.waits = True
            self.number += 1
        return False

    def take_or_postpone(self, event: Event) -> bool:
        """Take the lock if it is free; else have the event tried again in a later turn of the engine."""
        if self.take():
            return True
        self.postponed.append(event)
        return False

    def release(self) -> None:
        """Let others write."""
        self.is_taken = False
        self._lock.release()

    def wait_on(self, more: bool) -> None:
        """Note whether something is still to be written, after callers were refused: that is another wait."""
        self.waits = more
        self.number += 1

    def give_up(self) -> None:
        """Note that nothing is to be written any more."""
        self.waits = False
