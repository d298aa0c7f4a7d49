"""A stand-in for the membership: several workers of one process, each alive until it is said to be dead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast

from stepwell.store.membership import Answer
from stepwell.store.sqlite.file.opening import open_database
from stepwell.store.sqlite.peers.membership import Seat
from stepwell.store.sqlite.store import SqliteStore
from stepwell.testing.contract import Worker


class Company:
    """A `stepwell.store.sqlite.peers.notifier.Members`. The letters that were sent are in `letters`."""

    def __init__(self) -> None:
        self.seats: list[Seat] = []
        self.letters: list[tuple[bytes, list[int], list[int]]] = []
        self.faulty = False
        self.listens = False
        self.hear: Callable[[bytes, tuple[int, ...]], None] | None = None
        self.post: Callable[[Callable[[], None]], None] | None = None
        self._slot = -1

    def mark_fault(self) -> None:
        self.faulty = True

    def clear_fault(self) -> None:
        self.faulty = False

    def take_seat(self) -> int:
        self._slot += 1
        return self._slot

    def announce(self, epoch: int, *, takes_work: bool) -> None:
        self.seats.append(Seat(self._slot, epoch, takes_work, listens=False))

    def listen(self, on: bool) -> None:
        self.listens = on

    def others(self) -> list[Seat]:
        """Return all seats: in these tests each worker is another process to the others."""
        return self.seats

    def is_seated(self, slot: int, epoch: int) -> bool:
        return any((seat.slot, seat.epoch) == (slot, epoch) for seat in self.seats)

    def state_of(self, _slot: int) -> Literal["active", "stopped"]:
        return "active"

    def nudge(self, kind: bytes, epochs: Iterable[int], keys: Sequence[int] = ()) -> None:
        if told := list(epochs):
            self.letters.append((kind, told, list(keys)))

    def watch(self, callback: Callable[[bytes, tuple[int, ...]], None], _readers: object = None) -> None:
        self.hear = callback

    def answer_pings(self, post: Callable[[Callable[[], None]], None]) -> None:
        self.post = post

    def ask(self, epochs: Sequence[int], _timeout_seconds: float) -> dict[int, Answer]:
        return dict.fromkeys(epochs, "unreachable")

    def shared_offset(self, own_offset_ns: int) -> int:
        return own_offset_ns

    def kill(self, epoch: int) -> None:
        """Have the worker with `epoch` be dead from now on."""
        self.seats = [seat for seat in self.seats if seat.epoch != epoch]


def open_with_company(path: Any) -> SqliteStore:
    """Return a store in which several workers may register, each of which `company_of` can kill."""
    # Behaviour does not depend on the durability, and without a sync at every commit the tests are quick.
    return SqliteStore(open_database(path, durability="normal"), members=Company())


def company_of(worker: Worker) -> Company:
    """Return the stand-in in the worker's store."""
    return cast("Company", cast("Any", worker.store)._members)
