"""Telling the workers of other processes what a commit means for them.

A word between processes is one byte, for ends with the keys of the runs behind it (8 bytes each, little-endian). It may
be lost: whoever gets none looks at the file every now and then all the same, so words make things quick, not right.

Whom to tell is read after the commit. A worker says that it listens before it reads what it then waits for; so either
its reading finds the commit, or the committer finds it listening.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from stepwell.store.sqlite.changes import Applier

#: There may be runs to claim.
WORK: Final = b"w"
#: Something arrived for a run of the worker that is told.
MAIL: Final = b"m"
#: Runs ended, were halted, or published a value.
ENDS: Final = b"e"
#: With more keys than this the word says only that something did: a datagram has its limits.
MOST_KEYS: Final = 1000


class Seat(NamedTuple):
    """A worker of another process."""

    slot: int
    epoch: int
    takes_work: bool
    listens: bool


class Seats(Protocol):
    """What the store needs of `membership.Membership`."""

    faulty: bool

    def take_seat(self) -> int: ...
    def announce(self, epoch: int, *, takes_work: bool) -> None: ...
    def leave(self) -> None: ...
    def others(self) -> Sequence[Seat]: ...
    def is_seated(self, slot: int, epoch: int) -> bool: ...
    def nudge(self, epoch: int, payload: bytes) -> None: ...


class Alone:
    """Stands in for the membership until there is one: everybody else is dead."""

    def __init__(self) -> None:
        self.faulty = False
        self._epochs: set[int] = set()

    def take_seat(self) -> int:
        return 0

    def announce(self, epoch: int, *, takes_work: bool) -> None:
        self._epochs.add(epoch)

    def leave(self) -> None:
        self._epochs.clear()

    def others(self) -> Sequence[Seat]:
        return ()

    def is_seated(self, slot: int | None, epoch: int) -> bool:
        return epoch in self._epochs

    def nudge(self, epoch: int, payload: bytes) -> None:
        pass


def tell(seats: Seats, applier: Applier) -> None:
    """Tell the others what `applier` has gathered; after the commit."""
    told, ended, made_work = applier.told, applier.ended, applier.made_work
    if not (told or ended or made_work):
        return
    word = b""
    for seat in seats.others():
        if seat.epoch in told:
            seats.nudge(seat.epoch, MAIL)
        if made_work and seat.takes_work:
            seats.nudge(seat.epoch, WORK)
        if ended and seat.listens:
            word = word or _ends(ended)
            seats.nudge(seat.epoch, word)


def _ends(keys: list[int]) -> bytes:
    if len(keys) > MOST_KEYS:
        return ENDS
    return ENDS + struct.pack(f"<{len(keys)}q", *keys)
