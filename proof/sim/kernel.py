"""What the kernel does for processes that share a file, as one simulated process sees it: the lock and the seats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from stepwell.store.membership import Answer
from stepwell.store.sqlite.peers.membership import Seat

if TYPE_CHECKING:
    from proof.sim.process import Process


class SimLock:
    """The writers' lock as one process sees it; the kernel's part is `World.lock_holder`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world

    def acquire(self, timeout_seconds: float | None = None) -> None:  # noqa: ARG002 - part of the protocol
        """Take the lock; callers look first whether it is free."""
        assert self._world.lock_holder is None
        self._world.lock_holder = self._process

    def try_acquire(self, notify: Callable[[], None]) -> bool:
        """Take the lock if it is free."""
        world, process = self._world, self._process
        process.point("lock")
        if world.lock_holder is not None:
            world.lock_waiters.append((process, notify))
            return False
        if process.chance.random() < world.plan.weather.busy:
            world.at(process.chance.randint(10, 2_000), process, notify, "the lock may be free")
            return False
        world.lock_holder = process
        return True

    def release(self) -> None:
        """Let the next one have it."""
        if self._world.lock_holder is self._process:
            self._world.release_lock()


class SimMembers:
    """The membership as one process sees it; the kernel's part is `World.seats`."""

    faulty = False

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self._slot = self._world.free_slot()
        self.epoch = 0
        self.takes_work = False
        self.listens = False

    def mark_fault(self) -> None:
        """The simulated disk does not fail in that way."""

    def clear_fault(self) -> None:
        """As above."""

    def take_seat(self) -> int:
        """Return the slot of this process."""
        return self._slot

    def announce(self, epoch: int, *, takes_work: bool) -> None:
        """Be seated as the worker with this epoch."""
        self.epoch, self.takes_work = epoch, takes_work
        self._world.seats[self._slot] = self
        self._world.members_changed(self._process)

    def leave(self) -> None:
        """Give up the seat."""
        if self._world.seats.get(self._slot) is self:
            del self._world.seats[self._slot]
            self._world.members_changed(self._process)

    def listen(self, on: bool) -> None:
        """Say whether ends are of interest."""
        self.listens = on

    def others(self) -> list[Seat]:
        """Return the other members."""
        return [
            Seat(slot, members.epoch, members.takes_work, members.listens)
            for slot, members in sorted(self._world.seats.items())
            if members is not self
        ]

    def is_seated(self, slot: int, epoch: int) -> bool:
        """Tell whether a worker lives."""
        found = self._world.seats.get(slot)
        return found is not None and found.epoch == epoch

    def state_of(self, slot: int) -> Literal["active", "stopped"]:
        """Tell whether a process is stalled."""
        found = self._world.seats.get(slot)
        return "stopped" if found is not None and found._process.is_stalled() else "active"

    def nudge(self, kind: bytes, epochs: Iterable[int], keys: Sequence[int] = ()) -> None:
        """Send letters."""
        wanted = set(epochs)
        for members in list(self._world.seats.values()):
            if members.epoch in wanted and members is not self:
                self._world.send_letter(self._process, members._process, kind, tuple(keys))

    def watch(self, callback: Callable[[bytes, tuple[int, ...]], None], _readers: object = None) -> None:
        """Hear of others from now on."""
        self._process.hears = callback

    def answer_pings(self, post: Callable[[Callable[[], None]], None]) -> None:
        """Nobody pings here."""

    def ask(self, epochs: Sequence[int], timeout_seconds: float) -> dict[int, Answer]:  # noqa: ARG002 - as above
        """Tell which workers answer."""
        return dict.fromkeys(epochs, "answered")

    def shared_offset(self, own_offset_ns: int) -> int:
        """Return the offset of the clock that all share."""
        return own_offset_ns
