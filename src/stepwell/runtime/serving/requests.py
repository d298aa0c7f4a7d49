"""What callers ask of an engine, as values: what is asked, and nothing about who asks or how the answer is waited for.

`stepwell.api.asking.request_factory` makes them from what a caller wrote. `Engine`, `AsyncEngine`, a transaction, the
worker command and the simulator hand in the same ones, and `stepwell.runtime.serving.request_gate` serves them. A
request that is served in pieces is followed by another of its kind, which says how far that one came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from stepwell.definitions.queues import SettingsChange
from stepwell.definitions.saying import Said
from stepwell.model.acts import Actor
from stepwell.model.attributes import Description
from stepwell.model.journal import EntryKind, Payload
from stepwell.runtime.serving.schedule_requests import ScheduleRequest
from stepwell.store.archives import OpenArchive
from stepwell.store.changes import RunCreated
from stepwell.store.inspector import RunFilter
from stepwell.worker.repair.rewinding import NewInput
from stepwell.worker.state.unit_of_work import Reply


class OutgoingMessage(msgspec.Struct, frozen=True):
    """A message as a caller hands it in."""

    name: str
    value: Payload
    key: str | None


class StartRun(msgspec.Struct, frozen=True):
    """Create a run, or find the one that has its id, and send it `messages`. Answered with the id of that run.

    Or with `RunConflict` where the id is taken, `DuplicateRun` where the dedup key is.
    """

    run: RunCreated
    messages: tuple[OutgoingMessage, ...] = ()
    is_new: bool = False  # its id was made just now, so no run can have it


class SendMessage(msgspec.Struct, frozen=True):
    """Send a message. Answered when it is recorded, or with `RunNotFound` or `RunEnded`."""

    run_id: str
    message: OutgoingMessage


class AnswerPromise(msgspec.Struct, frozen=True):
    """Answer a promise. Answered when that is recorded, or was before with the same answer.

    Else with `PromiseNotFound`, `PromiseEnded` or `RunEnded`.
    """

    token: str
    state: Literal["resolved", "rejected"]
    answer: Payload
    actor: Actor


class UpdateRun(msgspec.Struct, frozen=True):
    """Have the code of a run answer an update, which is a message with a key (see `stepwell.model.updates`).

    Answered with its `UpdateAnswer` once there is one, by whatever worker; or at once with `RunNotFound`,
    `HandlerNotFound`, `UpdateRefused`, with `RunEnded` where the run has ended, or ends first, and with
    `InvalidArgument` where the key is that of another update. With `is_new` nobody has used its key before.
    """

    run_id: str
    message: OutgoingMessage
    is_new: bool


class CancelRun(msgspec.Struct, frozen=True):
    """Ask a run to stop. Answered when the request is recorded, or with `RunNotFound`.

    The answer says whether the run still had to stop: False where it had ended already, otherwise than cancelled.
    """

    run_id: str
    actor: Actor


class PauseRun(msgspec.Struct, frozen=True):
    """Pause a run or, where `paused` is false, let it go on; with `children`, all runs below it as well.

    Answered when that is recorded, and the runs of this engine that were at rest are paused. Or with `RunNotFound`,
    `RunEnded`, `RunHalted` for a run that is halted anyway, `RunNotPaused` for one that is not and should go on.
    """

    run_id: str
    paused: bool
    children: bool
    actor: Actor


class ResumeRun(msgspec.Struct, frozen=True):
    """Try a halted run again, and have a waiting one read again, with the code as it is now.

    The halted ones that a run waits for, directly or not, are tried again as well: the run cannot go on without them.
    One that is pending or running goes on by itself. Answered with `RunEnded` for one that has ended, or `RunNotFound`.
    """

    run_id: str
    actor: Actor


class DescribeRun(msgspec.Struct, frozen=True):
    """Set attributes, tags or a note of a run, whatever it is at. Answered when recorded, or with `RunNotFound`."""

    run_id: str
    description: Description
    actor: Actor


class RetryRun(msgspec.Struct, frozen=True):
    """Bring a failed or cancelled run back, or resume a halted one. Answered when that is recorded.

    Or with `RunNotFound`, `RunEnded` for a completed run, `RunNotEnded` for one that goes on anyway.
    """

    run_id: str
    actor: Actor


class RewindRun(msgspec.Struct, frozen=True):
    """Have a run go on in another chapter, from operation `to`, or from its beginning (None). Answered when recorded.

    `results` are what operations deliver in place of what is recorded, `given` is the input of the chapter where it is
    another one. Answered with `RunNotFound`, with `RunNotEnded` for one that is under way, with `InvalidArgument` where
    it has no such operation, or its code would not go on with what it is given.
    """

    run_id: str
    to: int | None
    actor: Actor
    results: tuple[tuple[int, Payload], ...] = ()
    given: NewInput | None = None


class ForkRun(msgspec.Struct, frozen=True):
    """Create a run, `fork_id`, that begins with what run `run_id` has up to operation `to`. Answered with its id.

    `results` and `given` as in `RewindRun`. A run of that id that is the same fork is found again. Answered with
    `RunConflict` where the id is taken otherwise, with `InvalidArgument` and `RunNotFound` as `RewindRun` is.
    """

    run_id: str
    to: int
    fork_id: str
    actor: Actor
    results: tuple[tuple[int, Payload], ...] = ()
    given: NewInput | None = None


class SettleStep(msgspec.Struct, frozen=True):
    """Say how operation `op` of a run ended, a step whose outcome is not known: an entry of `kind` with `value`.

    Answered when that is recorded. Or with `RunNotFound`, with `InvalidArgument` where no such step is open, or the
    value is not of its type, with `RunEnded` for a run that has completed or was cancelled.
    """

    run_id: str
    op: int
    kind: EntryKind
    value: Payload
    actor: Actor


class RetryRuns(msgspec.Struct, frozen=True):
    """Bring back, or resume, the runs that match. Answered with how many there were, once that is recorded.

    A run that is not to be brought back (any more), because it came along with its parent, say, is left out. `retried`
    is how many there were so far.
    """

    runs: RunFilter
    actor: Actor
    retried: int = 0


#: What is done to all runs that match a filter.
BulkAct: TypeAlias = Literal["pause", "unpause", "cancel", "retry", "terminate", "delete"]


class TerminateRun(msgspec.Struct, frozen=True):
    """End a run at once, without its code. Answered when that is recorded, or with `RunNotFound`, `RunEnded`."""

    run_id: str
    actor: Actor


class DeleteRun(msgspec.Struct, frozen=True):
    """Delete a run that has ended, or that nobody has begun. Answered when that is committed.

    Or with `RunNotFound`, `RunNotEnded`.
    """

    run_id: str
    actor: Actor


class StartBulk(msgspec.Struct, frozen=True):
    """Act on all runs that match. Answered with the number of the act, once it is recorded."""

    act: BulkAct
    filter: str
    runs: RunFilter
    actor: Actor


class ContinueBulk(msgspec.Struct, frozen=True):
    """Act on the next page of runs; `refused` is of how many of the page before that was refused."""

    bulk: int
    refused: int = 0


class ChangeQueue(msgspec.Struct, frozen=True):
    """Change what a queue or limit bounds. Answered when that is recorded, or with `QueueNotFound`."""

    queue: str
    change: SettingsChange


class PauseQueue(msgspec.Struct, frozen=True):
    """Pause a queue or limit or, where `paused` is false, let it go on. Answered as `ChangeQueue`."""

    queue: str
    paused: bool
    actor: Actor


class RescheduleRun(msgspec.Struct, frozen=True):
    """Move when a run begins to wait in its queue: to `ready_at`, or, where that is None, so long from now.

    Answered when that is recorded. Or with `RunNotFound`, `RunEnded`, `RunNotQueued` for one that does not wait there.
    """

    run_id: str
    delay: int
    ready_at: int | None
    actor: Actor


class CancelWaiting(msgspec.Struct, frozen=True):
    """Cancel the runs that wait in a queue, or in one partition of it. Answered with how many there were.

    `after` is the key of the run that was looked at last, `cancelled` how many there were so far.
    """

    queue: str
    partition: str | None
    actor: Actor
    after: int = 0
    cancelled: int = 0


class Purge(msgspec.Struct, frozen=True):
    """Delete the runs that ended before a time. Answered with how many there were; `purged` is how many so far."""

    ended_before: int
    purged: int = 0


class ArchiveRuns(msgspec.Struct, frozen=True):
    """Move the runs with these keys into an archive, as far as they have ended.

    Answered with how many were moved, and the ids of those of which the archive has another run; `moved` and `there`
    are those so far.
    """

    keys: list[int]
    into: OpenArchive
    actor: Actor
    moved: int = 0
    there: tuple[str, ...] = ()


class WaitForRun(msgspec.Struct, frozen=True):
    """Answered with the `RunOver` of a run as soon as there is one, or with `RunNotFound`."""

    run_id: str


class WaitForValue(msgspec.Struct, frozen=True):
    """Answered with what a run publishes, or has published, under `key`; with `RunNotFound`, or `RunEnded`."""

    run_id: str
    key: str


class WaitForStream(msgspec.Struct, frozen=True):
    """Answered when a stream of a run has an item with the offset `after` or a later one, or can get none any more.

    Or with `RunNotFound`.
    """

    run_id: str
    name: str
    after: int


class TruncateStream(msgspec.Struct, frozen=True):
    """Delete the items of a stream before an offset. Answered with how many there were, or with `RunNotFound`."""

    run_id: str
    name: str
    before: int


class FromStep(msgspec.Struct, frozen=True, eq=False):
    """Record what attempt `number` of a step says while it executes. Answered when that is recorded.

    Or with `StepwellError` where nobody waits for that attempt any more, `StreamClosed`, `StreamFull`.
    """

    attempts: Any
    number: int
    said: Said


class WaitForIdle(msgspec.Struct, frozen=True):
    """Answered once nothing is to be done, with the time at which that changes by itself, or None."""


#: What changes nothing in the file, and so is served also while nothing can be written.
Waiting: TypeAlias = WaitForRun | WaitForValue | WaitForStream | WaitForIdle

Request: TypeAlias = (
    StartRun
    | SendMessage
    | AnswerPromise
    | UpdateRun
    | CancelRun
    | PauseRun
    | ResumeRun
    | DescribeRun
    | RetryRun
    | RetryRuns
    | RewindRun
    | ForkRun
    | SettleStep
    | TerminateRun
    | DeleteRun
    | StartBulk
    | ContinueBulk
    | ChangeQueue
    | PauseQueue
    | CancelWaiting
    | RescheduleRun
    | Purge
    | ArchiveRuns
    | ScheduleRequest
    | TruncateStream
    | FromStep
    | Waiting
)


class Asked(msgspec.Struct, frozen=True, eq=False):
    """A request and where its answer goes, which is called once."""

    request: Request
    reply: Reply


#: What an engine's thread handles one at a time: a request, or something that happened.
Event: TypeAlias = Asked | Callable[[], None]
