"""Who works on a store: workers come and go, die and are noticed, and share a clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Literal, Protocol, TypeAlias

from stepwell.model.acts import Actor
from stepwell.model.run import Claim, Member

#: From how many crashes in a row, without progress in between, a run is taken up only while no other such run is under
#: way: so that the one that kills workers is found, and its neighbours are not blamed.
SUSPECT_CRASHES: Final = 2

#: What became of the question whether a worker still works; see `Membership.ping`.
Answer: TypeAlias = Literal["answered", "silent", "unreachable"]


class Membership(Protocol):
    """The workers of a store, of any number of processes.

    `register`, `reap` and `fence` write: they are called with the writers' lock held. All others are safe from any
    thread. How the end of a worker is noticed is the store's: a kernel's lock, or a lease.
    """

    def register(
        self,
        now: int,
        *,
        takes_work: bool = True,
        workflows: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        versions: Collection[tuple[str, int]] = (),
    ) -> Claim:
        """Enter a worker; return its claim, with an epoch above all earlier ones.

        `takes_work` says whether it claims runs at all; a mere client does not. A process that was fenced registers
        once more, on the same store. `workflows` are those that it has, and `queues` those that it takes runs from
        (None: all), for whoever asks why a run waits (`Member`). `versions` are names and versions of those of the
        workflows that have one: runs of them are left to it by workers that have not.
        """
        ...

    def reap(self, claim: Claim, now: int) -> int:
        """End the workers that are dead, and release their runs; return how many runs there were.

        Dead is decided by the kernel, not by time. A released run has no owner; one that was ``running`` is
        ``waiting``; it is due at `now`, and so is one for which there was news, a message or a request to cancel it
        that it may not have looked at. Where it was ``running`` or due, its count of crashes rises: it becomes 1 where
        the journal grew since the last crash. (A run that is claimed goes on waiting until its code has said something,
        and that may be what kills the worker.) With `SUSPECT_CRASHES` or more it is a suspect. For each run it is
        recorded that the worker with `claim` took it over. The other workers are told that there is work.
        """
        ...

    def fence(self, epoch: int, now: int, actor: Actor | None = None) -> int:
        """End the worker with this epoch, dead or not, and release its runs as `reap` does, without counting a crash.

        Every later commit with its claim raises `ClaimLost`. Returns how many runs it had. For each it is recorded that
        `actor`, if there is one, took it over.
        """
        ...

    def is_active(self, epoch: int) -> bool:
        """Tell whether the process of a worker lives, and was not stopped, as far as the kernel knows."""
        ...

    def members(self) -> list[Member]:
        """Return the workers that have not ended, oldest first, with what the kernel says of their processes."""
        ...

    def ping(self, epochs: Sequence[int], timeout_seconds: float) -> dict[int, Answer]:
        """Ask workers whether they still work: their engines, not merely their processes.

        ``silent`` is a worker that had the question, and did not answer in time: it is stopped, or hangs.
        ``unreachable`` is one of which nothing is known but that it lives.
        """
        ...

    def agree_on_clock(self, offset: int) -> int:
        """Return the offset, in nanoseconds, of wall time to the machine's steady clock that all workers here use.

        It is that of the first of them: `offset` where no other is alive.
        """
        ...

    def wall_clock(self) -> int:
        """Return the machine's wall clock, in nanoseconds since the epoch; from any thread.

        As the machine has it: tools for tests that freeze or move Python's clock make no difference.
        """
        ...

    def last_at(self) -> int:
        """Return the newest time in the store, 0 where it is empty: the floor of the clock."""
        ...
