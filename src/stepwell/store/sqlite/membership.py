"""The workers of a SQLite file: rows in the file, seats in the lock file beside it (`peers.membership`)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol, TypeVar

from stepwell.model.acts import Actor
from stepwell.model.run import Claim, Member
from stepwell.store.membership import Answer
from stepwell.store.sql.aftermath import Evidence
from stepwell.store.sql.reading import Reads
from stepwell.store.sql.workers import WorkerReader, WorkerRows
from stepwell.store.sqlite.peers.notifier import Members
from stepwell.store.sqlite.statements import SQL

_SECOND_NANOSECONDS: Final = 1_000_000_000

_T = TypeVar("_T")


class Write(Protocol):
    """Runs an action in a transaction of its own; it returns the result and, where needed, evidence of itself."""

    def __call__(self, claim: Claim | None, action: Callable[[], tuple[_T, Evidence | None]], /) -> _T:
        """Return the result; raise as `Store.commit` does."""
        ...


class SqliteMembership:
    """A `stepwell.store.membership.Membership` of one SQLite file."""

    def __init__(self, members: Members, rows: WorkerRows, reads: Reads, write: Write) -> None:
        self._members = members
        self._rows = rows
        self._reader = WorkerReader(reads, SQL)
        self._reads = reads
        self._write = write

    def register(
        self,
        now: int,
        *,
        takes_work: bool = True,
        workflows: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        versions: Collection[tuple[str, int]] = (),
    ) -> Claim:
        """Enter a worker; return its claim, with an epoch above all earlier ones; see `Membership.register`.

        The seat in the lock file is taken before the row is there, and tells the epoch after it: so a row whose epoch
        no process holds is that of a worker that died.
        """
        process = os.getpid(), os.uname().nodename, self._members.take_seat()

        def enter() -> tuple[int, Evidence]:
            return self._rows.enter(
                process, now, takes_work=takes_work, workflows=workflows, queues=queues, versions=versions
            )

        epoch = self._write(None, enter)
        self._members.announce(epoch, takes_work=takes_work)
        return Claim(epoch)

    def reap(self, claim: Claim, now: int) -> int:
        """End the workers that are dead, and release their runs; return how many runs there were."""

        def end_the_dead() -> tuple[int, None]:
            dead = [
                epoch
                for epoch, slot in self._rows.not_ended()
                if epoch != claim.epoch and not self._is_seated(slot, epoch)
            ]
            return sum(self._rows.died(epoch, now, claim.epoch) for epoch in dead), None

        return self._write(claim, end_the_dead)

    def fence(self, epoch: int, now: int, actor: Actor | None = None) -> int:
        """End the worker with this epoch, dead or not, and release its runs; return how many."""
        return self._write(None, lambda: self._rows.fenced(epoch, now, actor))

    def _is_seated(self, slot: int | None, epoch: int) -> bool:
        # A row without a slot was written by the first schema, whose workers are gone.
        return slot is not None and self._members.is_seated(slot, epoch)

    def is_active(self, epoch: int) -> bool:
        """Tell whether the process of a worker lives, and was not stopped, as far as the kernel knows."""
        slot = next((seat.slot for seat in self._members.others() if seat.epoch == epoch), None)
        return slot is not None and self._is_seated(slot, epoch) and self._members.state_of(slot) == "active"

    def members(self) -> list[Member]:
        """Return the workers that have not ended, oldest first, with what the kernel says of their processes."""
        return self._reader.members(
            lambda seats: {
                epoch: self._members.state_of(slot) if self._members.is_seated(slot, epoch) else "dead"
                for epoch, slot in seats
            }
        )

    def ping(self, epochs: Sequence[int], timeout_seconds: float) -> dict[int, Answer]:
        """Ask workers whether they still work; see `Membership.ping`."""
        return self._members.ask(epochs, timeout_seconds)

    def agree_on_clock(self, offset: int) -> int:
        """Return the nanoseconds from the steady clock to the wall clock that all workers here use.

        They are those of the first one: `offset` where no other is alive.
        """
        return self._members.shared_offset(offset)

    def wall_clock(self) -> int:
        """Return the machine's wall clock, in nanoseconds since the epoch; see `Membership.wall_clock`."""
        ((seconds,),) = self._reads.read(lambda execute: execute(SQL["wall_clock"]).fetchall())
        seen, real = time.clock_gettime_ns(time.CLOCK_REALTIME), int(seconds * _SECOND_NANOSECONDS)
        # SQLite asks the machine itself, but knows milliseconds only.
        return seen if abs(seen - real) < _SECOND_NANOSECONDS else real

    def last_at(self) -> int:
        """Return the newest time in the file, 0 for an empty one."""
        return self._reader.last_at()
