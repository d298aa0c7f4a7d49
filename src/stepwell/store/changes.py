"""What a worker may write: frozen values, each of which states one fact about runs; and what became of some of them.

A store applies them as they are (`Store.commit`): times, states and ids come in with them. Those about queues and
limits are in `stepwell.store.queues`, those about who has a run in memory in `stepwell.store.claims`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from stepwell.model.acts import Actor
from stepwell.model.attributes import Description
from stepwell.model.chapters import Beginning
from stepwell.model.journal import Entry, Payload
from stepwell.model.lifecycle import Status
from stepwell.model.run import Remedy, RunRecord
from stepwell.model.start_policy import StartPolicy
from stepwell.store.acts import ActRecorded
from stepwell.store.bulk_acts import BulkAdvanced, BulkBegun, BulksTaken, RunDeleted, RunTerminated
from stepwell.store.claims import NotesTaken, RunsClaimed, RunsReleased, RunVersioned, RunWoken, WorkerServes, WorkTaken
from stepwell.store.forks import RunForked
from stepwell.store.progress import ProgressNoted
from stepwell.store.promises import PromiseAnswered, PromiseMade, PromiseTimedOut
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
    QueueTaken,
    RunRescheduled,
)
from stepwell.store.replacements import Replacement
from stepwell.store.schedules import ScheduleAdvanced, ScheduleDeleted, ScheduleSaved
from stepwell.store.settlements import SettlementTaken, StepSettled
from stepwell.store.streams import StreamSuperseded, StreamTruncated, StreamWritten


class RunCreated(msgspec.Struct, frozen=True, gc=False):
    """A run was asked for. The result is `Created`; where the id exists already nothing is changed.

    A run created ``running`` is owned by the writing worker at once, and its `started_at` is `at`. With `must_be_new`
    an id that exists raises `RunConflict`: the writer looked before, and another worker was faster.

    With `entry` the run, ``pending``, enters a queue, or an existing run takes its place: `Created.joined` says why.
    `told` is appended to the journal of the parent, with the id of the run that there is now as its value, after all
    entries of the unit; but not where the start is to be refused (see `Created.refused`). `ahead`: see `RunRecord`.
    `description` is what a new run is found by, its note is `described_by` somebody; a run that is there already keeps
    its own.

    `policy` says what becomes of the start where its id belongs to a run, if the two are not to be the same: the id is
    used again by another run, at once or when the one that has it has ended, or the start is refused: by `RunConflict`,
    or, with `told`, by `Created.refused`.
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
    description: Description | None = None
    described_by: str = "its parent"
    policy: StartPolicy | None = None


class RunMoved(msgspec.Struct, frozen=True, gc=False):
    """A run that has not ended changed its state, its next wake-up or its reason.

    ``running`` and ``waiting`` make the writing worker its owner, or leave it so: the run is in its memory (``running``
    also sets `started_at` where it was unset). Any other state leaves the run without an owner. Raises `ClaimLost`
    where another worker owns the run, or where it has ended.

    `waiting_on` says what a ``waiting`` one waits for (see `stepwell.model.waits`), `failure` what halted a ``halted``
    one, and `remedy` what is left to do about it.
    """

    run: int
    status: Status
    at: int
    wake_at: int | None = None
    reason: str | None = None
    waiting_on: str | None = None
    failure: Payload = None
    remedy: Remedy | None = None

    @classmethod
    def kept(
        cls, run: int, status: Literal["running", "waiting"], at: int, wake_at: int | None, waiting_on: str | None
    ) -> RunMoved:
        """Return the move of a run that stays in its worker's memory."""
        return cls(run, status, at, wake_at, None, waiting_on)

    @classmethod
    def left(cls, run: int, at: int, reason: str | None = None) -> RunMoved:
        """Return the move of a run that any worker may claim; `reason` says why this one does not execute it."""
        return cls(run, "pending", at, None, reason)

    @classmethod
    def paused(cls, run: int, at: int, waiting_on: str | None = None, failure: Payload = None) -> RunMoved:
        """Return the move of a run that rests until it is unpaused; `failure`: of the step because of which it does."""
        return cls(run, "paused", at, None, None, waiting_on, failure)

    @classmethod
    def halted(cls, run: int, at: int, reason: str, failure: Payload, remedy: Remedy) -> RunMoved:
        """Return the move of a run that cannot go on: why, in words and as a failure, and what is to be done."""
        return cls(run, "halted", at, None, reason, None, failure, remedy)


class RunResumed(msgspec.Struct, frozen=True):
    """Somebody asks that a ``halted`` run be tried again: it becomes ``pending``, and its count of crashes 0.

    Its `resumed` is set until it is halted again. Nothing happens to a run that is not halted.
    """

    run: int
    at: int
    reason: str | None = None


class RunFinished(msgspec.Struct, frozen=True, gc=False):
    """A run ended: ``completed`` with `result`, ``failed`` with `error`, or ``cancelled`` with both unset.

    The runs that watch it (see `WatchAdded`) are woken as by `RunWoken`; the result is the list of the keys of all its
    watchers. Its unreceived messages are deleted if it completed; else a retry may want them. Where another start of
    its id waits for the end, that begins in the same transaction, and the result is `Succeeded`. Raises `ClaimLost` as
    `RunMoved` does, and with `unstarted` also where a worker has begun the run meanwhile: its code must hear of it.
    """

    run: int
    status: Status
    at: int
    result: Payload = None
    error: Payload = None
    reason: str | None = None
    unstarted: bool = False


class RunContinued(msgspec.Struct, frozen=True):
    """The code of a run goes on as new: with `input`, in another chapter, whose journal is empty.

    The run stays ``running``, in the memory of the writing worker, and everything but its journal stays as it is:
    unreceived messages, keys of messages, children, published values, its place in a queue, its deadline. Its
    operations are counted on from `ops_before`. With `heard_cancel` its code was told of a request to cancel it, which
    is forgotten. Raises `ClaimLost` as `RunMoved` does.
    """

    run: int
    at: int
    input: Payload
    ops_before: int
    heard_cancel: bool = False


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


class PauseRequested(msgspec.Struct, frozen=True):
    """Somebody pauses a run and, with `children`, those of its children that have not ended, theirs, and so on.

    One that nobody owns is ``paused`` at once, one in a queue keeps its place in the line. One that a worker owns is
    marked (`RunRecord.paused`), and its worker moves it when its steps under way have ended; another worker is told as
    by `RunWoken`. The result is `Paused`. Nothing happens to what is paused, halted or over, and nothing at all where
    the first is halted or over. Who did it is recorded for each. Raises `RunNotFound`.
    """

    run_id: str
    at: int
    by: str
    reason: str | None = None
    children: bool = False


class PauseEnded(msgspec.Struct, frozen=True):
    """Somebody lets a paused run go on, and those below it as `PauseRequested`: each is ``pending``.

    One that was only marked goes on as if it had not been. The result is `Paused`. Raises `RunNotFound`.
    """

    run_id: str
    at: int
    by: str
    reason: str | None = None
    children: bool = False


class RunRewound(msgspec.Struct, frozen=True):
    """A run begins another chapter, with some of the entries of the present one: it is ``pending``, without an owner.

    One that is paused, or to be paused, is ``paused``.

    It must be as it was looked at: in the state `status`, its last entry at `seen` (0: it has none), and not in the
    memory of another worker; else this raises `RunNotEnded`, which says what it is now.

    The entries at the positions `kept` are told to its code in their order, `replaced` in place of some. `how` is
    ``rewound``, then clock and random numbers of the chapter are those of the one before; or ``restarted``, then they
    begin anew, and its operations are counted on from `ops_before`. `input` is what its code is given, where
    `has_input` is set. The messages `returned`, `deadline_at`, `stays_cancelled`, `uncancelled` and what becomes of a
    place in a queue: as in `RunRetried`. A run that has not ended keeps its place, but loses its permits.
    """

    run: int
    status: Status
    seen: int
    at: int
    how: Beginning
    kept: list[int] = []
    replaced: list[Replacement] = []
    returned: list[tuple[str, Payload, int]] = []
    has_input: bool = False
    input: Payload = None
    ops_before: int = 0
    deadline_at: int | None = None
    stays_cancelled: bool = False
    uncancelled: list[int] = []


class CancelRequested(msgspec.Struct, frozen=True):
    """Someone asked to cancel a run. The result is the run's `RunRecord` afterwards.

    A run that has ended is left as it is, a paused one is let go on; the first request's time and reason stay. The run
    is woken as by `RunWoken`.
    Raises `RunNotFound`.
    """

    run_id: str
    at: int
    reason: str | None = None


class ChildrenCancelled(msgspec.Struct, frozen=True):
    """A parent ended: its attached children that have not ended get a cancel request. The result is their keys.

    Those that are paused are let go on.
    """

    parent: int
    at: int
    reason: str | None = None


class MessageSent(msgspec.Struct, frozen=True, gc=False):
    """A message for a run. The result is `Sent`. A `key` that the run has seen before changes nothing.

    The run is woken as by `RunWoken`. Raises `RunNotFound`, or `RunEnded` for a run that is over. One that goes
    `with_start` stands behind a `RunCreated` of the same unit; it is sent to nobody where that was refused, or has come
    to a run that is over.
    """

    run_id: str
    name: str
    value: Payload
    at: int
    key: str | None = None
    with_start: bool = False


class MessageTaken(msgspec.Struct, frozen=True, gc=False):
    """The run received the message at `position`; its value now stands in the journal. Its key stays known.

    `op` is the operation that an update is (see `stepwell.model.updates`).
    """

    run: int
    position: int
    at: int
    op: int | None = None


class UpdateTakenOn(msgspec.Struct, frozen=True, gc=False):
    """The run took on an update as operation `op` as it came; what it was asked with stands in the journal.

    It is what a `MessageSent` and a `MessageTaken` are together. Raises `ClaimLost` where the run has seen the key
    meanwhile: what this worker made of the update must not count.
    """

    run: int
    name: str
    key: str
    at: int
    op: int


class UpdateAnswered(msgspec.Struct, frozen=True, gc=False):
    """An update of the run was answered with `payload`, a failure where `failed` is set.

    It is the one that the run took on as operation `op`, or, refused, the one at `position`. The result is its key;
    None, and nothing is changed, where the run has no such update that is not answered.
    """

    run: int
    at: int
    payload: Payload
    op: int | None = None
    position: int | None = None
    failed: bool = False


class StepSummarized(msgspec.Struct, frozen=True):
    """A step call of a run says what it is about, in a line for people, before its first attempt starts."""

    run: int
    op: int
    summary: str


class ValuePublished(msgspec.Struct, frozen=True, gc=False):
    """The run published `value` under `key`, in place of what it published there before.

    With `owner` set a step of it did, and this raises `ClaimLost` where that worker does not own the run any more.
    """

    run: int
    key: str
    value: Payload
    at: int
    owner: int | None = None


class RunDescribed(msgspec.Struct, frozen=True, gc=False):
    """Attributes, tags or a note of a run were set: by its own code or, where there is an actor, by somebody else.

    Raises `RunNotFound`.
    """

    run: int
    description: Description
    at: int
    actor: Actor | None = None


class WatchAdded(msgspec.Struct, frozen=True, gc=False):
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
    | RunContinued
    | RunRetried
    | PauseRequested
    | PauseEnded
    | RunRewound
    | RunForked
    | StepSettled
    | SettlementTaken
    | RunsClaimed
    | WorkTaken
    | RunsReleased
    | NotesTaken
    | WorkerServes
    | RunVersioned
    | RunWoken
    | CancelRequested
    | ChildrenCancelled
    | MessageSent
    | MessageTaken
    | StepSummarized
    | UpdateTakenOn
    | UpdateAnswered
    | ValuePublished
    | RunDescribed
    | WatchAdded
    | ActRecorded
    | RunTerminated
    | RunDeleted
    | BulkBegun
    | BulkAdvanced
    | BulksTaken
    | QueueDeclared
    | QueueChanged
    | QueueAdvanced
    | QueueTaken
    | RunRescheduled
    | PermitAsked
    | PermitsGranted
    | PermitKept
    | PermitStarted
    | PermitReturned
    | PermitDetached
    | PermitFreed
    | ScheduleSaved
    | ScheduleAdvanced
    | ScheduleDeleted
    | ProgressNoted
    | StreamWritten
    | StreamSuperseded
    | StreamTruncated
    | PromiseMade
    | PromiseAnswered
    | PromiseTimedOut
)

#: Why a start made no run of its own: a run with its dedup key has not ended; such a run still waited, and has the
#: start's input now; a run that still waited collects the start's input. Or what became of it by its policy: the id is
#: used again, by a run that is ``pending``; its run is to be cancelled, and followed by another one; it is refused.
Joined: TypeAlias = Literal["attached", "debounced", "batched", "reused", "replaced", "rejected"]


class Created(msgspec.Struct, frozen=True, gc=False):
    """What became of a `RunCreated`: the run's key and, where no run was created, the one that exists instead.

    That run has the id, unless `joined` says what else it has to do with the start. `refused` says that the start must
    not have it: it is of another workflow, was given other input under the same id, or has the dedup key of an entry
    that attaches to none.
    """

    key: int
    existing: RunRecord | None = None
    joined: Joined | None = None
    refused: bool = False


class Succeeded(msgspec.Struct, frozen=True):
    """What became of a `RunFinished` or `RunContinued`, where a start was to follow: the run has begun again at once.

    It is ``pending``, in `queue` or in none, with `deadline_at`. Nobody was woken: who waits for the id goes on
    waiting.
    """

    run: int
    queue: str | None
    deadline_at: int | None


class Paused(msgspec.Struct, frozen=True):
    """What became of a `PauseRequested` or `PauseEnded`: the run as it was before, and the keys of those it changed."""

    before: RunRecord
    keys: list[int]


class Sent(msgspec.Struct, frozen=True, gc=False):
    """What became of a `MessageSent`: the receiver's key, state and owner, the message's position (0: a duplicate)."""

    run: int
    status: Status
    position: int
    owner: int | None = None
