"""What the engine asks of a store about queues and limits: the changes, and the facts to decide from.

A queued run is a ``pending`` run with an *entry*; an attempt of a step that needs a permit of a limit is one as well,
beside its run. An entry is delayed until its time comes, then waits in the line of its partition, and is running from
when it is taken until the run ends, or the permit is returned. Who is taken is decided by
`stepwell.worker.rules.queue_policy`, inside the transaction, from the facts that the store reads there (`Unit.decide`);
the store itself decides nothing.

Times are microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from stepwell.definitions.queues import FlowKind, QueueSettings
from stepwell.model.run import RunRecord


class Entered(msgspec.Struct, frozen=True):
    """How a new run stands in a queue; part of `RunCreated`, whose `status` is ``pending`` then.

    - It waits from `ready_at` on, or at once. Entries of a partition are taken by priority, then in order of waiting.
    - `dedup`: while a run of the queue with this key has not ended, no other is created (`Created.joined`); without
      `attach` the start is refused then.
    - `latest_at`, with `dedup`: a *debounced* entry. While it has not been taken, another such start with its key and
      of its workflow replaces the run's input and moves its `ready_at`, but not beyond the first one's `latest_at`.
      Once it is taken its key is free again. A start with its key that is not debounced leaves it as it is.
    - `batch_size`: the run collects the inputs of starts of its workflow and partition, as `RunSnapshot.items`, until
      there are this many items (`count` in this start) or `ready_at` has come.
    """

    queue: str
    partition: str = ""
    priority: int = 0
    ready_at: int | None = None
    dedup: str | None = None
    attach: bool = True
    latest_at: int | None = None
    batch_size: int | None = None
    count: int = 1


class QueueDeclared(msgspec.Struct, frozen=True):
    """Code states what a queue or limit bounds. Where the same was stated before, changes made since then stay.

    `settings` of None: code names it and states nothing, so that it exists afterwards, without bounds if it is new.
    The result is what bounded it before, where that has changed, else None. Raises `InvalidArgument` where the name
    belongs to one of the other kind.
    """

    name: str
    kind: FlowKind
    settings: QueueSettings | None
    at: int


class QueueChanged(msgspec.Struct, frozen=True):
    """Someone changed what a queue or limit bounds, or paused or resumed it; None leaves as it is.

    Raises `QueueNotFound`.
    """

    name: str
    at: int
    settings: QueueSettings | None = None
    paused: bool | None = None


class QueueAdvanced(msgspec.Struct, frozen=True):
    """Time has come to `at`: entries that are due begin to wait, the longest due first, and old starts are forgotten.

    At most `limit` entries begin to wait at a time.
    """

    queue: str
    at: int
    limit: int = 10_000


class QueueTaken(msgspec.Struct, frozen=True):
    """The writing worker takes these waiting runs of a queue, and owns them: they are ``running``.

    `partitions` have had their turn, in this order. For a rate they start `spread` microseconds later than `at`: until
    then the code of each really begins, sooner or later. The result is the list of the keys that were taken: those that
    had no owner and still waited. With `owner` they are given to the worker with that epoch, which is told so as by
    `RunWoken`; it must not have ended.
    """

    queue: str
    runs: list[int]
    partitions: list[str]
    at: int
    spread: int = 0
    owner: int | None = None


class RunRescheduled(msgspec.Struct, frozen=True):
    """Somebody moves when a run that nobody has taken from its queue begins to wait there: to `ready_at`, or at once.

    What it collects is collected until then; a debounced one may be put off further by later starts up to that time at
    least. One that waits already keeps its place where `ready_at` has come. The result is `Rescheduled`; nothing
    happens to a run that does not wait in a queue. Raises `RunNotFound`.
    """

    run_id: str
    ready_at: int
    at: int
    by: str
    reason: str | None = None


class Rescheduled(msgspec.Struct, frozen=True):
    """What became of a `RunRescheduled`: the run as it was, and whether it waited in a queue."""

    before: RunRecord
    moved: bool


class PermitAsked(msgspec.Struct, frozen=True):
    """An operation of a run waits for a permit of a limit. Where it has or awaits one already, nothing changes."""

    run: int
    op: int
    limit: str
    at: int
    priority: int = 0


class PermitsGranted(msgspec.Struct, frozen=True):
    """These operations, each (run, op), get the permits that they wait for.

    The result is the list of those whose runs the writing worker owns; the other runs are woken as by `RunWoken`. Its
    own ones that wait become due: so they are looked at should the worker die before it starts the attempts.
    """

    limit: str
    permits: list[tuple[int, int]]
    at: int


class PermitKept(msgspec.Struct, frozen=True):
    """The writing worker, which has taken up the run, will use the permit that an operation of it has."""

    run: int
    op: int


class PermitStarted(msgspec.Struct, frozen=True):
    """The attempt that a permit was granted for started at `started_at`; matters to limits with a rate."""

    run: int
    op: int
    started_at: int


class PermitReturned(msgspec.Struct, frozen=True):
    """An operation needs its permit no more, or no longer waits for one; harmless where it has none.

    `started_at` is when the attempt started, None where it never did. Nothing changes where another worker owns the
    run: that worker may need the permit for the next attempt.
    """

    run: int
    op: int
    at: int
    started_at: int | None = None


class PermitDetached(msgspec.Struct, frozen=True):
    """Nobody waits any more for an attempt that goes on: its permit stays in use apart from the run.

    It began at `started_at`. The operation may ask for another permit, and the run may end. The permit is free after
    `PermitFreed`, or when the writing worker has ended. Harmless where the operation has none.
    """

    run: int
    op: int
    attempt: int
    started_at: int


class PermitFreed(msgspec.Struct, frozen=True):
    """An attempt of the writing worker that was left with its permit has ended; harmless where there is none."""

    run: int
    op: int
    attempt: int


class QueueState(msgspec.Struct, frozen=True):
    """A queue or limit at one moment. The counts are those of its entries; times are microseconds since the epoch.

    `starts` is how many starts its log holds, `unconfirmed` how many permits were granted under a rate whose attempts
    have not been seen to start. `last_start_at` is the time of the newest start, 0 for none; `first_ready_at` is when
    the first delayed entry is due, `first_opens_at` when the first partition in which something waits is no longer
    blocked by its rate.
    """

    name: str
    kind: FlowKind
    settings: QueueSettings
    paused: bool = False
    delayed: int = 0
    waiting: int = 0
    running: int = 0
    starts: int = 0
    unconfirmed: int = 0
    last_start_at: int = 0
    first_ready_at: int | None = None
    first_opens_at: int | None = None


class Lane(msgspec.Struct, frozen=True, array_like=True):
    """The waiting entries of one workflow in one partition of a queue: `waiting` in number.

    `busy` entries of the partition, of whatever workflow, are running; `started` starts of it are in the window of its
    rate, 0 where it has none. The partition with the lowest `turn` is next.
    """

    turn: int
    partition: str
    workflow: str
    waiting: int
    busy: int
    started: int = 0


class LoneEntry(msgspec.Struct, frozen=True):
    """The only entry that waits in a queue, and the queue: its bounds, and how many of its entries are running."""

    run: int
    partition: str
    workflow: str
    settings: QueueSettings
    paused: bool
    running: int


class Head(msgspec.Struct, frozen=True, array_like=True):
    """A waiting entry. Entries are taken by descending priority, then by ascending place."""

    priority: int
    place: int
    run: int
    op: int


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """An entry of a queue or limit: a run in its queue, or an operation that waits for a permit or has it.

    `state` is ``delayed`` until `ready_at`, then ``waiting``, then ``running``. `latest_at` is set for a debounced one,
    `items` for one that collects the inputs of further starts.
    """

    queue: str
    partition: str
    workflow: str
    state: str
    ready_at: int
    latest_at: int | None
    items: int | None


class QueueFacts(Protocol):
    """What a decision about a queue is made from; valid inside the transaction, or the read, that it belongs to."""

    def state(self, queue: str) -> QueueState | None:
        """Return the queue or limit of this name, or None."""
        ...

    def workflows(self, queue: str) -> list[str]:
        """Return the workflows that have open lanes: something waits, and its partition is not at its bound."""
        ...

    def lanes(self, queue: str, workflow: str, limit: int, without: Sequence[str] = ()) -> list[Lane]:
        """Return open lanes of a workflow in the order of their turns, without those of some partitions."""
        ...

    def partition_start_at(self, queue: str, partition: str, index: int) -> int | None:
        """Return the time of a start in the log of a partition, counted from 0 for the oldest, or None."""
        ...

    def partition_opens_at(self, queue: str, partition: str) -> int | None:
        """Return until when its rate blocks a partition, None where it does not."""
        ...

    def lone_entry(self, queue: str) -> LoneEntry | None:
        """Return the entry that waits in a queue; None where several do, or none."""
        ...

    def idle_workers(self, queue: str, workflow: str) -> list[int]:
        """Return the epochs of the workers that have no run under way, and take runs of a workflow from a queue."""
        ...

    def held(self, queue: str, worker: int) -> dict[str, int]:
        """Return how many runs of each partition of a queue are in the memory of a worker."""
        ...

    def heads(self, queue: str, lanes: Sequence[Lane], limit: int) -> list[list[Head]]:
        """Return, for each lane, its first `limit` entries in the order in which they are taken."""
        ...

    def start_at(self, queue: str, index: int) -> int | None:
        """Return the time of a start in the log, counted from 0 for the oldest, or None."""
        ...


class QueueReads(Protocol):
    """What both read sides tell of queues and limits."""

    def queue_facts(self) -> AbstractContextManager[QueueFacts]:
        """Return facts that agree with each other, for a short look; entries that became due may still be delayed."""
        ...

    def queues(self) -> list[QueueState]:
        """Return all queues and limits, by name."""
        ...
