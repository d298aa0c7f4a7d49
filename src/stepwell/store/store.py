"""What the engine asks of a store: five protocols, of which two are read sides.

- `Store`, here, is the write side. It is one call: `Store.commit` takes units, each a list of changes
  (`stepwell.store.changes`: frozen values that state a fact), and applies all of them in one transaction. It decides
  nothing: times, states and ids come in with the changes.
- `stepwell.store.membership.Membership`: the workers, their ends, their clock.
- `stepwell.store.notifications.Notifications`: what they tell each other.
- `stepwell.store.inspector.Inspector` reads for people, `stepwell.store.worker_reads.WorkerReads` for workers.

*Positions*, of a run's journal entries and of its messages, rise in the order in which they are committed: whoever has
seen one has seen all that will ever stand below it, for that run. Readers go on from where they were, a worker knows by
it what it has heard, and a crash what was progress. One file has one writer at a time, which is why that holds there; a
store whose numbers are given out before the commit has to give them out in turn, run by run.

`stepwell.testing.contract` is the test suite that any store must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from stepwell.errors import StepwellError
from stepwell.model.acts import Actor
from stepwell.model.run import Claim
from stepwell.store.archives import Archived, OpenArchive
from stepwell.store.changes import Change
from stepwell.store.inspector import Inspector
from stepwell.store.membership import Membership
from stepwell.store.notifications import Notifications
from stepwell.store.queues import QueueFacts
from stepwell.store.schedules import ScheduleFacts
from stepwell.store.worker_reads import WorkerReads
from stepwell.values.own_tables import Connection, Parameters, Rows

# --- transactions -----------------------------------------------------------------------------------------------------


class Lent(Connection, Protocol):
    """A connection lent to user code for the length of one transaction."""

    def savepoint(self) -> AbstractContextManager[None]:
        """Return a context manager that undoes what is written inside it when it is left by an exception."""
        ...


class UnitFacts(QueueFacts, ScheduleFacts, Protocol):
    """What a unit may decide from, inside its transaction."""


class Unit(msgspec.Struct):
    """What is applied, or refused, together: a few changes that state one fact.

    `body`, where set, runs first, inside the transaction: it is given the lent connection and returns changes that are
    applied after `changes`. What it wrote to the user's tables stands only if it returns and the changes apply.

    `decide`, where set, runs last, inside the transaction: it sees what `changes` and the units before this one did to
    the queues and to schedules, and returns further changes. It may be called more than once, so it must not do
    anything else.
    """

    changes: list[Change]
    body: Callable[[Lent], list[Change]] | None = None
    decide: Callable[[UnitFacts], list[Change]] | None = None


#: What became of one unit: the result of each of its changes (None for most), or the error for which it was refused.
Outcome: TypeAlias = list[Any] | StepwellError


class StoreTransaction(Protocol):
    """A transaction of code outside of workflows (`engine.transaction()`), open until its context manager exits."""

    lent: Lent

    def apply(self, changes: Sequence[Change], accept: Callable[[list[Any]], None] | None = None) -> list[Any]:
        """Apply `changes` inside the transaction and return their results; raises as the changes do, applying none.

        `accept` is given the results; where it raises, nothing was applied either.
        """
        ...

    def check(self) -> None:
        """Raise `TransactionError` where `apply` would, whatever it is given: the transaction is over, say."""
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


class Store(Protocol):
    """A place that keeps runs, for any number of workers in any number of processes: its write side, and the others.

    `commit`, `transaction`, `purge` and `close` are called with the writers' lock held.
    """

    writers: WritersLock
    #: The workers.
    membership: Membership
    #: What other processes do.
    notifications: Notifications
    #: The read side for workers, and the one for people.
    reads: WorkerReads
    inspector: Inspector
    #: Names the place in messages: the path of the file, say.
    location: str

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

    def upkeep_is_due(self) -> bool:
        """Tell whether one of the next commits may take longer than others, to keep the store in order."""
        ...

    def check_in_place(self) -> None:
        """Raise `FileNotUsable` where the store is no more where its name leads; from any thread."""
        ...

    def purge(self, ended_before: int, limit: int, claim: Claim) -> int:
        """Delete up to `limit` runs that ended before a time, with all that belongs to them; return how many."""
        ...

    def open_archive(self, path: str) -> OpenArchive:
        """Open an archive, a store of the same kind, to move runs into; from any thread. It is made if need be.

        Raises `InvalidArgument` where it is this store itself, and what opening a store raises.
        """
        ...

    def archive(
        self, keys: Sequence[int], into: OpenArchive, actor: Actor, at: int, claim: Claim
    ) -> Archived | StepwellError:
        """Move some of the runs with these keys into an archive; return what was done, or why it could not take them.

        They are in the archive, durably, before they are deleted here. Left out is what has not ended or is still
        needed by others: what `purge` leaves. Raises as `commit` does.
        """
        ...

    def query(self, sql: str, parameters: Parameters) -> Rows:
        """Return the rows of a query of the user's, which only reads, on tables of their own; from any thread.

        It holds up no writer. Raises `TransactionError` for what would do more than read.
        """
        ...

    def close(self, claim: Claim | None, now: int) -> None:
        """Mark the worker as ended, release its runs, fold the write-ahead log into the file and let go of it.

        No crash is counted. The other workers are told that there is work.
        """
        ...
