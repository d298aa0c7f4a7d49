"""Which of the other members died: told by the kernel, not by a clock.

A member is seated while it holds the lock on its slot's byte (`membership`). Who holds that lock is known to the kernel
by process id, and a descriptor of that process (pidfd, Linux) becomes readable when it ends; by then its locks are
free. A process id may be used again by another process, so the lock is asked once more after the descriptor was
opened. Where there are no such descriptors, or the process lives in a container and has no id here, or on another boot
(`places`), the lock itself is asked again and again (`POLL_SECONDS`).
"""

from __future__ import annotations

import os
import selectors
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.file.locking import SLOT_BASE, LockFile

#: How often a lock is asked whose holder cannot be watched.
POLL_SECONDS: Final = 0.025

#: A member by slot and epoch.
Key = tuple[int, int]


class Deaths:
    """Watches members; used by one thread. Descriptors to wait for are in `selector`, with the `Key` as data.

    `is_here` tells by a slot whether process ids of its holder mean something here.
    """

    def __init__(
        self,
        lock_file: LockFile,
        selector: selectors.BaseSelector,
        *,
        pidfds: bool = True,
        is_here: Callable[[int], bool] = lambda _slot: True,
    ) -> None:
        self._file = lock_file
        self._selector = selector
        self._pidfds = pidfds
        self._is_here = is_here
        self._watched: dict[Key, int] = {}
        self._polled: set[Key] = set()

    @property
    def polls(self) -> bool:
        """Whether `poll` must be called every `POLL_SECONDS`."""
        return bool(self._polled)

    @property
    def watches_nobody(self) -> bool:
        """Whether no other member is alive, as far as is known."""
        return not self._watched and not self._polled

    def update(self, members: Mapping[Key, bool]) -> list[Key]:
        """Watch the `members` (whether each is still there, or has left in order) and no others; return the dead.

        A member that is not mentioned any more is dead as well: it was killed, and another one has taken its slot.
        """
        dead: list[Key] = []
        for key in [*self._watched, *self._polled]:
            if not members.get(key):
                self._forget(key)
                if key not in members:
                    dead.append(key)
        for key, is_there in members.items():
            if is_there and key not in self._watched and key not in self._polled and not self._watch(key):
                dead.append(key)
        return dead

    def ended(self, key: Key) -> None:
        """Note the death of a member whose descriptor is readable."""
        self._forget(key)

    def poll(self) -> list[Key]:
        """Ask the locks whose holders cannot be watched; return the dead."""
        dead = [key for key in self._polled if self._holder(key) is None]
        self._polled.difference_update(dead)
        return dead

    def close(self) -> None:
        """Watch nobody any more."""
        for key in list(self._watched):
            self._forget(key)
        self._polled.clear()

    def _watch(self, key: Key) -> bool:
        """Watch a member from now on; return False where it is dead."""
        pid = self._holder(key)
        if pid is None:
            return False
        descriptor = self._open(pid) if self._is_here(key[0]) else None
        if descriptor is None:
            self._polled.add(key)
            return True
        if self._holder(key) != pid:
            # Ended in between: the descriptor may be another process's.
            os.close(descriptor)
            return False
        self._watched[key] = descriptor
        self._selector.register(descriptor, selectors.EVENT_READ, key)
        return True

    def _open(self, pid: int) -> int | None:
        if sys.platform == "linux" and self._pidfds and pid > 0:
            # Refused where it ended just now (the lock will tell), where that is forbidden, or without descriptors.
            with suppress(OSError):
                return os.pidfd_open(pid)
        return None

    def _holder(self, key: Key) -> int | None:
        found = locking.holder(self._file.descriptor, SLOT_BASE + key[0])
        return None if found is None else found.pid

    def _forget(self, key: Key) -> None:
        self._polled.discard(key)
        descriptor = self._watched.pop(key, None)
        if descriptor is not None:
            self._selector.unregister(descriptor)
            os.close(descriptor)
