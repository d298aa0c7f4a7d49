"""What users see of a run from outside: facts about it, its journal, its end. Shared by all who show runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from stepwell.api.asking.acts import Act
from stepwell.api.reading.progress_views import ProgressInfo
from stepwell.definitions.queues import FlowKind, Rate
from stepwell.errors import (
    DeterminismError,
    JournalTooLong,
    ResultNotSerializable,
    RunCancelled,
    RunCrashed,
    RunFailed,
    RunHalted,
    SerializationError,
)
from stepwell.model.attributes import AttributeValue, value_of
from stepwell.model.chapters import number_of_chapter
from stepwell.model.clock import MICROSECONDS, datetime_of
from stepwell.model.journal import Entry, EntryKind
from stepwell.model.lifecycle import ENDED, Status
from stepwell.model.progress import ProgressRow
from stepwell.model.run import Member, MemberState, RunRecord
from stepwell.model.waits import Wait, WaitKind, decode_waits
from stepwell.store.inspector import RunAbout
from stepwell.store.membership import Answer
from stepwell.store.queues import QueueState
from stepwell.values.codec import Codec
from stepwell.values.failure_info import FailureInfo, failure_info
from stepwell.worker.state.run_over import RunOver

if TYPE_CHECKING:
    from stepwell.definitions.definition import Workflow

_NO_SUMMARIES: Final[Mapping[int, str]] = {}


def to_datetime(at: int | None, ahead: int = 0) -> datetime | None:
    """Return engine time, which is `ahead` of the wall clock, as an aware datetime, UTC; None for None."""
    return None if at is None else datetime_of(at - ahead)


class WaitInfo(msgspec.Struct, frozen=True):
    """One thing that a waiting run waits for. Which fields are set depends on its `kind`.

    - ``timer``: until `until`.
    - ``message``: called `name`.
    - ``run``: the end of the run `name`.
    - ``permit``: of the limit `limit`, for the step `name`.
    - ``promise``: that the promise `name` is answered, at the latest at `until`.
    - ``retry``: attempt number `attempt` of the step `name`, at `until`; the one before failed with `error`.
    - ``poll``: a result of the step `name` that satisfies a condition; `attempt` calls did not, the next is at `until`.
    - ``nothing``: something inside its own code that nothing can bring about; `at` is the line.
    - ``more``: `count` further operations.

    `operation` is the number of the operation in the run, as its journal has it.
    """

    kind: WaitKind
    operation: int | None = None
    name: str | None = None
    until: datetime | None = None
    limit: str | None = None
    attempt: int | None = None
    error: str | None = None
    at: str | None = None
    count: int | None = None

    @classmethod
    def of(cls, wait: Wait, ahead: int = 0) -> WaitInfo:
        """Make it from what the row says; `ahead` is that of the run (see `RunRecord`)."""
        return cls(
            wait.kind,
            operation=wait.op or None,
            name=wait.name or None,
            until=to_datetime(wait.until, ahead),
            limit=wait.limit or None,
            attempt=wait.attempt or None,
            error=wait.error or None,
            at=wait.at or None,
            count=wait.count or None,
        )


class RunInfo(msgspec.Struct, frozen=True):
    """A run at one moment. Times are aware datetimes, UTC.

    `reason` says why a run is pending, waiting, halted or cancelled, in words, and what is wrong with the worker of a
    running one; `waiting_on` is what its code waits for, while it waits. `error` is the type and message that a failed
    run ended with; `wake_at` is when a waiting run goes on by itself, None for "only when something arrives". `chapter`
    is the number of the present one, 1 for a run that never continued as new.

    It can be found by its `attributes` and `tags` (see `Run.set_attributes`). `queue` is the queue that it was started
    in; `partition`, `priority` and `dedup` are known while it is there (the first two also if it failed or was
    cancelled). `parent` is the id of the run that started it. `attempts` counts how often it was begun: once, and
    with each retry, rewind and restart. `waited_seconds` is the time until it began, `took_seconds` the time from
    there to its end. `input` and `result` are plain JSON data; they are unset in listings, which read no payloads, and
    if they are damaged. `progress` has the reports of its steps and maps under way, in the order of their calls.
    """

    id: str
    workflow: str
    status: Status
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    wake_at: datetime | None
    deadline_at: datetime | None
    cancel_requested_at: datetime | None
    reason: str | None
    error: str | None
    waiting_on: list[WaitInfo]
    chapter: int = 1
    attributes: dict[str, AttributeValue] = {}
    tags: list[str] = []
    queue: str | None = None
    partition: str | None = None
    priority: int | None = None
    dedup: str | None = None
    parent: str | None = None
    attempts: int = 1
    waited_seconds: float | None = None
    took_seconds: float | None = None
    input: Any = msgspec.UNSET
    result: Any = msgspec.UNSET
    progress: list[ProgressInfo] = []

    @classmethod
    def of(
        cls,
        record: RunRecord,
        reason: str | None,
        codec: Codec,
        about: RunAbout,
        progress: Sequence[ProgressRow] = (),
    ) -> RunInfo:
        """Make it from a row, from why it is as it is, and from how far its operations are that have not ended."""
        error = None
        if record.error is not None:
            try:
                type_name, message = codec.failure_summary(record.error)
            except SerializationError as unreadable:  # a list with one such run shows all the others
                type_name, message = type(unreadable).__name__, str(unreadable)
            error = f"{type_name}: {message}"
        created_at = to_datetime(record.created_at, record.ahead)
        updated_at = to_datetime(record.updated_at, record.ahead)
        assert created_at is not None
        assert updated_at is not None
        return cls(
            id=record.id,
            workflow=record.workflow,
            status=record.status,
            created_at=created_at,
            updated_at=updated_at,
            started_at=to_datetime(record.started_at, record.ahead),
            ended_at=to_datetime(record.ended_at, record.ahead),
            wake_at=to_datetime(record.wake_at, record.ahead),
            deadline_at=to_datetime(record.deadline_at, record.ahead),
            cancel_requested_at=to_datetime(record.cancel_requested_at, record.ahead),
            reason=reason,
            error=error,
            waiting_on=_waits(record),
            chapter=number_of_chapter(record.chapter),
            attributes={each.name: value_of(each) for each in about.attributes},
            tags=list(about.tags),
            queue=record.queue,
            partition=about.partition,
            priority=about.priority,
            dedup=about.dedup,
            parent=about.parent,
            attempts=about.attempts,
            waited_seconds=_seconds(record.created_at, record.started_at),
            took_seconds=_seconds(record.started_at, record.ended_at),
            progress=[] if record.status in ENDED else [ProgressInfo.of(row, record.ahead) for row in progress],
        )

    @property
    def remark(self) -> str:
        """The most important fact about the run in its state, in one line; may be empty."""
        found = self.error or self.reason
        if not found and self.progress:
            return f"{self.progress[0].name}: {self.progress[0].words}"
        return (found or "").partition("\n")[0]


def _seconds(begin: int | None, end: int | None) -> float | None:
    return None if begin is None or end is None else max(0, end - begin) / MICROSECONDS


class OwnerInfo(msgspec.Struct, frozen=True):
    """The worker in whose memory a run is, as far as it is known: of one that has ended, only its number."""

    epoch: int
    pid: int | None
    host: str | None
    state: MemberState

    @classmethod
    def of(cls, epoch: int, members: Iterable[Member]) -> OwnerInfo:
        """Find it among the workers of the file."""
        for member in members:
            if member.epoch == epoch:
                return cls(epoch, member.pid, member.host, member.state)
        return cls(epoch, None, None, "dead")


class ChildInfo(msgspec.Struct, frozen=True):
    """A child that has not ended; `remark` is the first line of why."""

    id: str
    workflow: str
    status: Status
    remark: str

    @classmethod
    def of(cls, info: RunInfo) -> ChildInfo:
        """Make it from all that is known of it."""
        return cls(info.id, info.workflow, info.status, info.remark)


class RunDetails(msgspec.Struct, frozen=True):
    """Everything that the file has of a run, values as plain JSON data.

    `failure` is what it failed with, or what halted it; `published` are its values by key; `children` those that have
    not ended, the halted ones first, at most twenty. `progress` is that of operations that have ended as well.
    """

    info: RunInfo
    owner: OwnerInfo | None
    input: Any
    failure: FailureInfo | None
    result: Any
    published: dict[str, Any]
    children: list[ChildInfo]
    acts: list[Act]
    journal: list[JournalEntry]
    progress: list[ProgressInfo] = []


def _waits(record: RunRecord) -> list[WaitInfo]:
    try:
        return [WaitInfo.of(wait, record.ahead) for wait in decode_waits(record.waiting_on)]
    except SerializationError:  # the reason says so
        return []


WorkerState: TypeAlias = Literal["active", "stalled", "unreachable", "dead"]

#: What a worker that seemed active turned out to be when it was asked.
_STATES: Final[dict[Answer, WorkerState]] = {
    "answered": "active",
    "silent": "stalled",
    "unreachable": "unreachable",
}


class WorkerInfo(msgspec.Struct, frozen=True):
    """A worker at one moment: an engine, in process `pid` on `host`, that has the file open.

    `epoch` is its number in the file. A ``stalled`` one is stopped, or had a question in the file and did not answer;
    an ``unreachable`` one holds its lock, so it lives, and more is not known; a ``dead`` one is about to be noticed by
    the others. `takes_work` is false for a mere client. `runs` is how many runs it has in memory, under way or waiting.
    `versions` are those that it has, of workflows that have versions.
    """

    epoch: int
    pid: int
    host: str
    state: WorkerState
    takes_work: bool
    runs: int
    started_at: datetime
    versions: list[tuple[str, int]] = []

    @classmethod
    def of(cls, member: Member, answer: Answer, ahead: int = 0) -> WorkerInfo:
        """Make it from what the store knows, and from what it answered where it seemed to be active.

        `ahead` is how much later engine time is than the wall clock.
        """
        state: WorkerState
        match member.state:
            case "active":
                state = _STATES[answer]
            case "stopped":
                state = "stalled"
            case "dead":
                state = "dead"
        started_at = to_datetime(member.started_at, ahead)
        assert started_at is not None
        facts = member.takes_work, member.runs, started_at, sorted(member.versions)
        return cls(member.epoch, member.pid, member.host, state, *facts)


class QueueInfo(msgspec.Struct, frozen=True):
    """A queue or limit at one moment.

    `waiting` entries wait for their turn, `delayed` ones for their time; `running` ones have been taken and have not
    ended (or are permits in use). `oldest_wait_seconds` is how long the oldest waiting run has waited for its turn. A
    bound of None does not bound. `halted` is how many of the running ones are halted, and keep their slots until
    somebody resumes or cancels them. `reason` says why nothing is taken now, None if nothing prevents it.
    """

    name: str
    kind: FlowKind
    paused: bool
    waiting: int
    delayed: int
    running: int
    oldest_wait_seconds: float | None
    concurrency: int | None
    per_worker: int | None
    partition_concurrency: int | None
    rate: Rate | None
    halted: int
    reason: str | None
    partition_per_worker: int | None = None
    partition_rate: Rate | None = None

    @classmethod
    def of(
        cls,
        state: QueueState,
        *,
        oldest_wait: int | None = None,
        now: int = 0,
        halted: int = 0,
        reason: str | None = None,
    ) -> QueueInfo:
        """Make it from what the store holds, and what was found out about it; `oldest_wait` and `now` are times."""
        settings = state.settings
        return cls(
            name=state.name,
            kind=state.kind,
            paused=state.paused,
            waiting=state.waiting,
            delayed=state.delayed,
            running=state.running,
            oldest_wait_seconds=None if oldest_wait is None else max(0, now - oldest_wait) / MICROSECONDS,
            concurrency=settings.concurrency,
            per_worker=settings.per_worker,
            partition_concurrency=settings.partition_concurrency,
            partition_per_worker=settings.partition_per_worker,
            partition_rate=settings.partition_rate,
            rate=settings.rate,
            halted=halted,
            reason=reason,
        )


class JournalEntry(msgspec.Struct, frozen=True):
    """One line of a run's journal, decoded.

    `operation` numbers the operations of the run; `value` is what was delivered, as plain JSON data; `error` is the
    type and message of a failure, `failure` all that was recorded of it; `attempt` and `started_at` are set for steps,
    and `summary` where the call has one.
    """

    position: int
    operation: int
    kind: EntryKind
    name: str
    at: datetime
    value: Any
    error: str | None
    attempt: int | None
    started_at: datetime | None
    failure: FailureInfo | None = None
    summary: str | None = None

    @classmethod
    def of(
        cls, entry: Entry, codec: Codec, ahead: int = 0, summaries: Mapping[int, str] = _NO_SUMMARIES
    ) -> JournalEntry:
        """Make it from a row; `ahead` is that of the run (see `RunRecord`), `summaries` are those of its step calls."""
        at = to_datetime(entry.at, ahead)
        assert at is not None
        value: Any = None
        failure: FailureInfo | None = None
        from stepwell.operations.table import OPERATIONS

        if entry.kind in OPERATIONS.kinds.with_failures:
            failure = codec.show_failure(entry.value)
        elif entry.kind == "attempt_failed":
            failure = failure_info(bytes(codec.decode_attempt(entry.value).failure))
        else:
            value = codec.show(entry.value, f"the journal entry {entry.position}")
        return cls(
            position=entry.position,
            operation=entry.op,
            kind=entry.kind,
            name=entry.name,
            at=at,
            value=value,
            error=None if failure is None else f"{failure.type}: {failure.message}",
            attempt=entry.attempt or None,
            started_at=to_datetime(entry.started_at or None, ahead),
            failure=failure,
            summary=summaries.get(entry.op),
        )


def outcome(over: RunOver, definition: Workflow[..., Any], codec: Codec) -> Any:
    """Return what a run ended with, typed by its workflow, or raise what it ended with."""
    match over.status:
        case "completed":
            annotation = definition.signature.return_annotation
            return codec.decode(over.result, annotation, f"the result of run {over.id!r}")
        case "failed":
            raise codec.failure_to_raise(over.error, RunFailed)
        case "cancelled":
            reason = f": {over.reason}" if over.reason else ""
            raise RunCancelled(f"run {over.id!r} was cancelled{reason}")
        case _:
            raise halted_error(over.reason or f"RunHalted: run {over.id!r} is {over.status}")


def halted_error(reason: str) -> RunHalted:
    """Return the error that a halted run's reason (its class name, a colon, its message) stands for."""
    name, _, message = reason.partition(": ")
    if name == "DeterminismError":
        parts = dict(line.strip().split(":", 1) for line in message.splitlines()[1:] if line.startswith("  "))
        return DeterminismError(
            message,
            expected=parts.get("expected", "").strip(),
            actual=parts.get("actual", "").strip(),
            location=parts.get("at", "").strip(),
        )
    if name == "ResultNotSerializable":
        return ResultNotSerializable(message)
    if name == "WorkflowCodeError":
        from stepwell.replay.code_errors import as_raised

        return as_raised(message)
    if name == "JournalTooLong":
        return JournalTooLong(message)
    if name == "RunCrashed":
        return RunCrashed(message)
    return RunHalted(message if name == "RunHalted" else reason)
