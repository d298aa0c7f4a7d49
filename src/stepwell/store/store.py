"""What the engine asks of a store.

The write side is one call: `Store.commit` takes units, each a list of *changes* (frozen values that state a fact), and
applies all of them in one transaction. The store decides nothing: times, states and ids come in with the changes. The
read side is `stepwell.store.inspector.Inspector`, which never writes. `stepwell.testing.contract` is the test suite
that any store must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from stepwell.errors import StepwellError
from stepwell.model.acts import Actor
from stepwell.model.journal import Entry, Payload
from stepwell.model.lifecycle import Status
from stepwell.model.run import Claim, Member, RunRecord
from stepwell.store.acts import ActRecorded
from stepwell.store.inspector import Inspector
from stepwell.store.queues import (
    Entered,
    PermitAsked,
    PermitDetached,
    PermitFreed,
    PermitKept,
    PermitReturned,
    PermitsGranted,
    PermitStarted,
    QueueAdvanced,
    QueueChanged,
    QueueDeclared,
    QueueFacts,
    QueueTaken,
)
from stepwell.values.own_tables import Connection, Parameters, Rows

#: From how many crashes in a row, without progress in between, a run is taken up only while no other such run is under
#: way: so that the one that kills workers is found, and its neighbours are not blamed.
SUSPECT_CRASHES: Final = 2

# --- changes ----------------------------------------------------------------------------------------------------------


class RunCreated(msgspec.Struct, frozen=True):
    """A run was asked for. The result is `Created`; where the id exists already nothing is changed.

    A run created ``running`` is owned by the writing worker at once, and its `started_at` is `at`. With `must_be_new`
    an id that exists raises `RunConflict`: the writer looked before, and another worker was faster.

    With `entry` the run, ``pending``, enters a queue, or an existing run takes its place: `Created.joined` says why.
    `told` is appended to the journal of the parent, with the id of the run that there is now as its value, after all
    entries of the unit; but not where the start is to be refused (see `Created.refused`). `ahead`: see `RunRecord`.
    """

    id: str
    workflow: str
    input: Payload
    fingerprint: int
    status: Status
    at: int
    deadline_at: int | None = None
    parent: int | None = None
    parent_op: int | None = None
    attached: bool = False
    reason: str | None = None
    must_be_new: bool = False
    entry: Entered | None = None
    told: Entry | None = None
    ahead: int = 0


class RunMoved(msgspec.Struct, frozen=True):
    """A run that has not ended changed its state, its next wake-up or its reason.

    ``running`` and ``waiting`` make the writing worker its owner, or leave it so: the run is in its memory (``running``
    also sets `started_at` where it was unset). Any other state leaves the run without an owner. Raises `ClaimLost`
    where another worker owns the run, or where it has ended.

    `waiting_on` says what a ``waiting`` one waits for (see `stepwell.model.waits`), `failure` what halted a ``halted``
    one.
    """

    run: int
    status: Status
    at: int
    wake_at: int | None = None
    reason: str | None = None
    waiting_on: str | None = None
    failure: Payload = None


class RunResumed(msgspec.Struct, frozen=True):
    """Somebody asks that a ``halted`` run be tried again: it becomes ``pending``, and its count of crashes 0.

    Its `resumed` is set until it is halted again. Nothing happens to a run that is not halted.
    """

    run: int
    at: int
    reason: str | None = None


class RunFinished(msgspec.Struct, frozen=True):
    """A run ended: ``completed`` with `result`, ``failed`` with `error`, or ``cancelled`` with both unset.

    The runs that watch it (see `WatchAdded`) are woken as by `RunWoken`; the result is the list of the keys of all its
    watchers. Its unreceived messages are deleted if it completed; else a retry may want them. Raises `ClaimLost` as
    `RunMoved` does, and with `unstarted` also where a worker has begun the run meanwhile: its code must hear of it.
    """

    run: int
    status: Status
    at: int
    result: Payload = None
    error: Payload = None
    reason: str | None = None
    unstarted: bool = False


class RunRetried(msgspec.Struct, frozen=True):
    """A run that failed or was cancelled, at `ended_at`, is brought back: it is ``pending``, and has crashed 0 times.

    The entries at the positions `undone` are deleted; they are of this run. The messages `returned`, each (name, value,
    when it was taken), can be received again, in this order and before those that nobody received. `deadline_at` is its
    deadline from now on. A request to cancel it is forgotten, unless `stays_cancelled`, and so are the requests to
    cancel `uncancelled`, runs without an owner. One that stood in a queue enters it again, in its partition and with
    its priority. Raises `RunNotEnded` where the run is in another state, or ended at another time.
    """

    run: int
    ended_at: int
    at: int
    undone: list[int] = []
    returned: list[tuple[str, Payload, int]] = []
    deadline_at: int | None = None
    stays_cancelled: bool = False
    uncancelled: list[int] = []


class RunsClaimed(msgspec.Struct, frozen=True):
    """The writing worker wants these runs: it becomes the owner of those that have none and have not ended.

    The result is the list of the keys that it owns now, in the order of `keys`. Those that were ``pending`` or
    ``halted``, or are suspects (see `Store.bury`), become ``running``; the others stay as they were. What arrives from
    then on is noted for the owner, so the snapshot must be read after the commit.
    """

    keys: list[int]
    at: int


class WorkTaken(msgspec.Struct, frozen=True):
    """The writing worker wants work: up to `limit` runs of `workflows` without an owner that are due, or pending.

    Due is a ``waiting`` run whose `wake_at` is not after `at`; a ``pending`` one must not stand in a queue. The longest
    due come first, then pending ones by age. The result is the list of their keys; they are claimed as by
    `RunsClaimed`. Of *suspects* (see `Store.bury`) at most one is taken, and only while none is under way anywhere.
    """

    workflows: list[str]
    at: int
    limit: int


class RunsReleased(msgspec.Struct, frozen=True):
    """These waiting runs leave the memory of the writing worker, which owns them: now anyone may claim them.

    The result is the list of those for which something arrived that the worker has not seen; they stay its own. One
    that made progress since it was last blamed for a crash (see `Store.bury`) has its count of crashes set to 0.
    """

    keys: list[int]


class NotesTaken(msgspec.Struct, frozen=True):
    """The owner will look at these runs: forget that something arrived for them (see `RunWoken`).

    Those that wait are due until they move: should the owner die before it has looked, the next one does.
    """

    keys: list[int]


class WorkerServes(msgspec.Struct, frozen=True):
    """The writing worker has these workflows now; see `Store.register`."""

    workflows: list[str]


class RunWoken(msgspec.Struct, frozen=True):
    """Something arrived for a run that whoever carries it on should look at.

    - A run without an owner that waits becomes due: its `wake_at` becomes `at` where it was later or unset.
    - So does a waiting run of the writing worker. The worker knows, and says what the run waits for next; but should it
      die before it has acted, whoever takes its runs over finds that this one has something to look at.
    - For a run that another worker owns a note is left (`Inspector.news`), and that worker is told after the commit.
    - Nothing is done about a run of its own that is running, or about any that is pending, halted or over.

    `MessageSent`, `CancelRequested`, `ChildrenCancelled` and `RunFinished` (for watchers) do the same to the runs that
    they concern.
    """

    run: int
    at: int


class CancelRequested(msgspec.Struct, frozen=True):
    """Someone asked to cancel a run. The result is the run's `RunRecord` afterwards.

    A run that has ended is left as it is; the first request's time and reason stay. The run is woken as by `RunWoken`.
    Raises `RunNotFound`.
    """

    run_id: str
    at: int
    reason: str | None = None


class ChildrenCancelled(msgspec.Struct, frozen=True):
    """A parent ended: its attached children that have not ended get a cancel request. The result is their keys."""

    parent: int
    at: int
    reason: str | None = None


class MessageSent(msgspec.Struct, frozen=True):
    """A message for a run. The result is `Sent`. A `key` that the run has seen before changes nothing.

    The run is woken as by `RunWoken`. Raises `RunNotFound`, or `RunEnded` for a run that is over.
    """

    run_id: str
    name: str
    value: Payload
    at: int
    key: str | None = None


class MessageTaken(msgspec.Struct, frozen=True):
    """The run received the message at `position`; its value now stands in the journal. Its key stays known."""

    run: int
    position: int
    at: int


class ValuePublished(msgspec.Struct, frozen=True):
    """The run published `value` under `key`, in place of what it published there before."""

    run: int
    key: str
    value: Payload
    at: int


class WatchAdded(msgspec.Struct, frozen=True):
    """`watcher`, a run that is not the parent of `run`, waits for the end of `run`. Saying it twice is harmless.

    The result is the `Status` of `run`: where it has ended already, nothing is kept and no wake-up will come. Raises
    `RunNotFound`.
    """

    run: int
    watcher: int


Change: TypeAlias = (
    Entry
    | RunCreated
    | RunMoved
    | RunResumed
    | RunFinished
    | RunRetried
    | RunsClaimed
    | WorkTaken
    | RunsReleased
    | NotesTaken
    | WorkerServes
    | RunWoken
    | CancelRequested
    | ChildrenCancelled
    | MessageSent
    | MessageTaken
    | ValuePublished
    | WatchAdded
    | ActRecorded
    | QueueDeclared
    | QueueChanged
    | QueueAdvanced
    | QueueTaken
    | PermitAsked
    | PermitsGranted
    | PermitKept
    | PermitStarted
    | PermitReturned
    | PermitDetached
    | PermitFreed
)

#: Why a start made no run of its own: a run with its dedup key has not ended; such a run still waited, and has the
#: start's input now; a run that still waited collects the start's input.
Joined: TypeAlias = Literal["attached", "debounced", "batched"]


class Created(msgspec.Struct, frozen=True):
    """What became of a `RunCreated`: the run's key and, where no run was created, the one that exists instead.

    That run has the id, unless `joined` says what else it has to do with the start. `refused` says that the start must
    not have it: it is of another workflow, was given other input under the same id, or has the dedup key of an entry
    that attaches to none.
    """

    key: int
    existing: RunRecord | None = None
    joined: Joined | None = None
    refused: bool = False


class Sent(msgspec.Struct, frozen=True):
    """What became of a `MessageSent`: the receiver's key, state and owner, the message's position (0: a duplicate)."""

    run: int
    status: Status
    position: int
    owner: int | None = None


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
