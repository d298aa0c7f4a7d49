"""What the engine asks of a store.

The write side is one call: `Store.commit` takes units, each a list of changes (`stepwell.store.changes`: frozen values
that state a fact), and applies all of them in one transaction. The store decides nothing: times, states and ids come in
with the changes. The read side is `stepwell.store.inspector.Inspector`, which never writes. `stepwell.testing.contract`
is the test suite that any store must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from stepwell.errors import StepwellError
from stepwell.model.acts import Actor
from stepwell.model.run import Claim, Member
from stepwell.store.changes import Change
from stepwell.store.inspector import Inspector
from stepwell.store.queues import (
    QueueFacts,
)
from stepwell.values.own_tables import Connection, Parameters, Rows

#: From how many crashes in a row, without progress in between, a run is taken up only while no other such run is under
#: way: so that the one that kills workers is found, and its neighbours are not blamed.
SUSPECT_CRASHES: Final = 2

# --- transactions -----------------------------------------------------------------------------------------------------


class Lent(Connection, Protocol):
    """A connection lent to user code for the length of one transaction."""

    def savepoint(self) -> AbstractContextManager[None]:
        """Return a context manager that undoes what is written inside it when it is left by an exception."""
        ...


class Unit(msgspec.Struct):
    """What is applied, or refused, together: a few changes that state one fact.

    `body`, where set, runs first, inside the transaction: it is given the lent connection and returns changes that are
    applied after `changes`. What it wrote to the user's tables stands only if it returns and the changes apply.

    `decide`, where set, runs last, inside the transaction: it sees what `changes` and the units before this one did to
    the queues, and returns further changes. It may be called more than once, so it must not do anything else.
    """

    changes: list[Change]
    body: Callable[[Lent], list[Change]] | None = None
    decide: Callable[[QueueFacts], list[Change]] | None = None


#: What became of one unit: the result of each of its changes (None for most), or the error for which it was refused.
Outcome: TypeAlias = list[Any] | StepwellError


class StoreTransaction(Protocol):
    """A transaction of code outside of workflows (`engine.transaction()`), open until its context manager exits."""

    lent: Lent

    def apply(self, changes: Sequence[Change]) -> list[Any]:
        """Apply `changes` inside the transaction and return their results; raises as the changes do, applying none."""
        ...


#: How long the writers' lock is waited for before the log says who holds it, in seconds.
SLOW_LOCK_SECONDS: Final = 3.0
#: How long it is waited for, if nothing else is said, in seconds; then whoever wants to write is told that it cannot.
LOCK_PATIENCE_SECONDS: Final = 30.0


class WritersLock(Protocol):
    """Who may write now: one at a time, in the order of asking."""

    def acquire(self, timeout_seconds: float | None = None) -> None:
        """Wait for the lock; for threads that may block. Raises `StoreUnavailable`, naming the holder, in the end.

        That is after `timeout_seconds`, or after some time that the store chooses.
        """
        ...

    def try_acquire(self, notify: Callable[[], None]) -> bool:
        """Take the lock if it is free; else have `notify` called once, from any thread, when to try again."""
        ...

    def release(self) -> None:
        """Give the lock to whoever waits longest."""
        ...

    def holding(self, where: str) -> AbstractContextManager[None]:
        """Say where the caller, which has the lock, holds it for longer than a commit takes; for messages."""
        ...

    def describe_holder(self, waited_seconds: float) -> str:
        """Return who has the lock, where, and what to do about it, for someone who has waited for so long."""
        ...


# --- the protocol -----------------------------------------------------------------------------------------------------


class Notification(NamedTuple):
    """That something happened in another process.

    - ``work``: there may be runs to claim, in queues or not; ``turn``: in queues only.
    - ``mail``: something arrived for runs of this worker (`Inspector.news`).
    - ``ends``: the runs with these `keys` ended or published a value; only where `Store.listen` was asked for.
    - ``death``: a worker died; `Store.bury` is due.
    - ``anything``: the store changed, or workers came or went, and nothing more is known. Told as well where a more
      precise word was lost, so whoever acts on ``anything`` as on all of the others misses nothing.
    - ``alive``: somebody asks whether the worker still works; `reply` must be called from where the work is done.
    """

    kind: Literal["work", "turn", "mail", "ends", "death", "anything", "alive"]
    keys: tuple[int, ...] = ()
    reply: Callable[[], None] | None = None


#: What became of the question whether a worker still works; see `Store.ask`.
Answer: TypeAlias = Literal["answered", "silent", "unreachable"]


class Store(Protocol):
    """A place that keeps runs, for any number of workers in any number of processes.

    All methods but `inspector`'s, `query`, `watch`, `listen` and `members` are called with the writers' lock held, or
    at open and close. After each commit the store tells the workers of other processes whom it concerns (see
    `Notification`).
    """

    writers: WritersLock
    inspector: Inspector
    #: Names the place in messages: the path of the file, say.
    location: str

    def query(self, sql: str, parameters: Parameters) -> Rows:
        """Return the rows of a query of the user's, which only reads, on his own tables; from any thread.

        It holds up no writer. Raises `TransactionError` for what would do more than read.
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

    def register(
        self,
        now: int,
        *,
        takes_work: bool = True,
        workflows: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
    ) -> Claim:
        """Enter a worker; return its claim, with an epoch above all earlier ones.

        `takes_work` says whether it claims runs at all; a mere client does not. A process that was fenced registers
        once more, on the same store. `workflows` are those that it has, and `queues` those that it takes runs from
        (None: all), for whoever asks why a run waits (`Member`).
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

    def commit(self, units: Sequence[Unit], claim: Claim) -> list[Outcome]:
        """Apply all units in one transaction and make it durable; return one outcome for each unit.

        A unit that is refused does not hinder the others. When this raises, nothing of any unit was applied:
        `StoreUnavailable` (try again later; a full disk is one), `ClaimLost` (the worker was fenced), `StoreFailed`
        (the store is unusable now).
        """
        ...

    def transaction(self, claim: Claim) -> AbstractContextManager[StoreTransaction]:
        """Open a transaction for code outside of workflows. The caller holds the writers' lock for its length.

        Leaving it normally commits; by an exception, rolls back. Raises as `commit` does.
        """
        ...

    def purge(self, ended_before: int, limit: int, claim: Claim) -> int:
        """Delete up to `limit` runs that ended before a time, with all that belongs to them; return how many."""
        ...

    def watch(self, callback: Callable[[Notification], None]) -> None:
        """Have `callback` called, from a thread of the store's, with what happens in other processes."""
        ...

    def listen(self, on: bool) -> None:
        """Say whether this worker wants to hear of ``ends``. Read the run's state after saying so, not before."""
        ...

    def members(self) -> list[Member]:
        """Return the workers that have not ended, oldest first, with what the kernel says of their processes."""
        ...

    def ask(self, epochs: Sequence[int], timeout_seconds: float) -> dict[int, Answer]:
        """Ask workers whether they still work: their engines, not merely their processes.

        ``silent`` is a worker that had the question, and did not answer in time: it is stopped, or hangs.
        ``unreachable`` is one of which nothing is known but that it lives.
        """
        ...

    def close(self, claim: Claim | None, now: int) -> None:
        """Mark the worker as ended, release its runs, fold the write-ahead log into the file and let go of it.

        No crash is counted. The other workers are told that there is work.
        """
        ...
