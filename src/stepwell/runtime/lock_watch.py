"""Says who is writing where an engine's thread waits long for its turn, and gives up in the end.

The thread itself does not block: it hears requests, carries out steps, and keeps what is to be written. So nothing
would show why no call returns.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from stepwell.errors import StoreUnavailable
from stepwell.runtime.turn import TurnLoop
from stepwell.store.store import LOCK_PATIENCE_SECONDS, SLOW_LOCK_SECONDS, Store, WritersLock

_log: Final = logging.getLogger("stepwell")


class LockWatch:
    """Watches the turns to write of one engine; belongs to the thread of `loop`."""

    def __init__(self, turn_loop: TurnLoop, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._turn = turn_loop.write_turn
        self._turn_loop = turn_loop
        self._store = store
        self._loop = loop
        self._seen = 0

    def look(self) -> None:
        """Begin to count where the engine waits for its turn; to be called after each turn of its loop."""
        if self._turn.waits and self._turn.number != self._seen:
            self._seen = self._turn.number
            self._loop.call_later(SLOW_LOCK_SECONDS, self._slow, self._seen)

    def _still_waits(self, number: int) -> bool:
        return self._turn.waits and self._turn.number == number and self._turn_loop.failure is None

    def _slow(self, number: int) -> None:
        if self._still_waits(number):
            _log.warning("%s. Waiting", self._store.writers.describe_holder(SLOW_LOCK_SECONDS))
            self._loop.call_later(LOCK_PATIENCE_SECONDS - SLOW_LOCK_SECONDS, self._stuck, number)

    def _stuck(self, number: int) -> None:
        if self._still_waits(number):
            holder = self._store.writers.describe_holder(LOCK_PATIENCE_SECONDS)
            self._turn_loop.give_up_waiting(StoreUnavailable(f"{holder}. Nothing was written"))
            self.look()


def _resolve_one(free: asyncio.Future[None]) -> None:
    if not free.done():
        free.set_result(None)


async def acquire_from_loop(lock: WritersLock) -> None:
    """Take the writers' lock without blocking the loop; raises `StoreUnavailable`, naming the holder, in the end."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + LOCK_PATIENCE_SECONDS
    slow_at = loop.time() + SLOW_LOCK_SECONDS
    while True:
        free: asyncio.Future[None] = loop.create_future()

        def notify(free: asyncio.Future[None] = free) -> None:
            loop.call_soon_threadsafe(_resolve_one, free)

        if lock.try_acquire(notify):
            return
        while not (await asyncio.wait([free], timeout=min(slow_at, give_up_at) - loop.time()))[0]:
            if loop.time() >= give_up_at:
                raise StoreUnavailable(f"{lock.describe_holder(LOCK_PATIENCE_SECONDS)}. Nothing was written")
            _log.warning("%s. Waiting", lock.describe_holder(SLOW_LOCK_SECONDS))
            slow_at = give_up_at
