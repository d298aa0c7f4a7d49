"""Ids that sort by the time of their making, for runs that are given none."""

from __future__ import annotations

import os
import secrets
import struct
import threading
import weakref
from typing import Final

_RANDOM_BITS: Final = 64
#: How much of the random part each of two ids of one millisecond is above the one before, at most 32 bits: so that
#: whoever knows one does not know the next.
_STEPS: Final = struct.Struct("<256I")


class SortableIds:
    """Makes ids: 12 hexadecimal digits of milliseconds, then 16 random ones. Those of one maker rise.

    Chance is asked for 256 ids at a time: a call of the system for each took a third of their time. A forked child
    does not go on with what its parent has asked for.
    """

    def __init__(self) -> None:
        self._last = 0
        self._steps: list[int] = []
        self._lock = threading.Lock()
        _makers.add(self)

    def new(self, now: int) -> str:
        """Return an id for the time `now`, in microseconds; above all that were returned before."""
        milliseconds = now // 1000
        with self._lock:
            if milliseconds > self._last >> _RANDOM_BITS:
                made = milliseconds << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS - 1)
            else:
                if not self._steps:
                    self._steps = list(_STEPS.unpack(os.urandom(_STEPS.size)))
                made = self._last + 1 + self._steps.pop()
            self._last = made
        return f"{made:028x}"

    def forget(self) -> None:
        """Ask for chance anew, above another number; in a forked child, whose only thread this is."""
        self._lock = threading.Lock()
        self._steps = []
        self._last += secrets.randbits(_RANDOM_BITS - 1)


_makers: Final[weakref.WeakSet[SortableIds]] = weakref.WeakSet()


def _forget() -> None:
    for maker in list(_makers):
        maker.forget()


os.register_at_fork(after_in_child=_forget)
