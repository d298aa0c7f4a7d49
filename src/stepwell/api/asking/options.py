"""The options of an engine, a start, a retry of many runs; each is checked before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, TypedDict, cast

from stepwell.api.asking.listing_options import MAX_PAGE, at_least, checked_statuses, checked_workflow
from stepwell.definitions.definition import (
    Versioned,
    Workflow,
    failure_workflow,
    how_to_make_it_a_workflow,
    is_workflow,
)
from stepwell.definitions.durable import as_definition
from stepwell.definitions.jobs import Served
from stepwell.definitions.queues import Limit, Queue, used
from stepwell.definitions.start_options import ConflictOptions, QueueOptions
from stepwell.definitions.versions import Chosen
from stepwell.errors import InvalidArgument
from stepwell.model.attributes import AttributeValue
from stepwell.model.clock import MICROSECONDS, Clock, engine_time, microseconds_of, to_seconds
from stepwell.model.failed_run import FailedRun
from stepwell.model.lifecycle import Status
from stepwell.model.names import check_name, check_text
from stepwell.shown import is_one_of, shown
from stepwell.store.inspector import RunFilter
from stepwell.values.payload import MAX_PAYLOAD_BYTES
from stepwell.worker.state.journal_length import MAX_JOURNAL_ENTRIES
from stepwell.worker.state.runs import Capacity

Durability = Literal["full", "normal"]

#: A message that goes with a start: its name and value, or name, value and key.
StartMessage: TypeAlias = tuple[str, object] | tuple[str, object, str]

#: An update that goes with a start: its name, its arguments, and its key, by which the answer is asked for.
StartUpdate: TypeAlias = tuple[str, Sequence[Any], str]

#: What one row of a file may have at most: SQLITE_MAX_LENGTH, see https://www.sqlite.org/limits.html.
MAX_ROW_BYTES: Final = 1_000_000_000

#: The shortest `take_over_stalled_after`, in seconds.
MIN_STALL_SECONDS: Final = 1.0


#: How long the handler of a query may take, by default: it reads a few variables.
QUERY_SECONDS: Final = 10.0

#: The states of runs that can be retried; a halted one is resumed.
_RETRIED: Final = ("failed", "cancelled", "halted")

_CLOCK_METHODS: Final = ("now", "set_floor", "seconds_until", "on_jump")


class ManyOptions(QueueOptions, ConflictOptions, total=False):
    """The keyword arguments of `start_many`, which hold for each of the runs; see `stepwell.Engine.start`."""

    kwargs: Mapping[str, Any] | None
    deadline: float | timedelta | datetime | None
    messages: Sequence[StartMessage]
    attributes: Mapping[str, AttributeValue] | None
    tags: Iterable[str]
    note: str | None
    updates: Sequence[StartUpdate]


class StartOptions(ManyOptions, total=False):
    """The keyword arguments of `start`; see `stepwell.Engine.start`."""

    id: str | None


#: Their names.
MANY_OPTIONS: Final = [
    "kwargs",
    "deadline",
    "messages",
    "updates",
    "attributes",
    "tags",
    "note",
    *ConflictOptions.__annotations__,
    *QueueOptions.__annotations__,
]
START_OPTIONS: Final = ["id", *MANY_OPTIONS]


class EngineOptions(TypedDict, total=False):
    """The keyword arguments of an engine; see `stepwell.Engine`."""

    workflows: Iterable[Workflow[..., Any]] | None
    durability: Durability
    max_payload_bytes: int
    max_waiting_in_memory: int
    max_running: int
    max_crashes: int
    max_journal_entries: int
    step_threads: int
    step_processes: int | None
    retention: float | timedelta | None
    take_over_stalled_after: float | timedelta | None
    queues: Iterable[Queue | str] | None
    clock: Clock | None
    on_failure: Callable[[FailedRun], Any] | None


#: What holds where an option is left out.
ENGINE_DEFAULTS: Final[EngineOptions] = {
    "workflows": None,
    "durability": "full",
    "max_payload_bytes": MAX_PAYLOAD_BYTES,
    "max_waiting_in_memory": 1_000,
    "max_running": 10_000,
    "max_crashes": 5,
    "max_journal_entries": MAX_JOURNAL_ENTRIES,
    "step_threads": 32,
    "step_processes": None,
    "retention": None,
    "take_over_stalled_after": None,
    "queues": None,
    "clock": None,
    "on_failure": None,
}


class Options:
    """The checked options of an engine. Raises `InvalidArgument`, and `TypeError` for what is no option."""

    def __init__(self, given: EngineOptions) -> None:
        for name in given:
            if name not in ENGINE_DEFAULTS:
                raise TypeError(f"an engine has no option {name!r}; it has {', '.join(ENGINE_DEFAULTS)}")
        options: dict[str, Any] = {**ENGINE_DEFAULTS, **given}
        durability, workflows = options["durability"], options["workflows"]
        if not is_one_of(durability, ("full", "normal")):
            raise InvalidArgument(f"durability must be 'full' or 'normal', not {shown(durability)}")
        self.durability: Durability = durability
        self.workflows = checked_workflows(workflows)
        self.on_failure = failure_workflow(options["on_failure"], "on_failure of an engine")
        if self.on_failure is not None and isinstance(self.workflows, Served):
            self.workflows = self.workflows.with_one(self.on_failure)
        self.queues = _served_queues(options["queues"])
        #: Whether the engine carries runs on. One that was given an empty list is a mere client of others.
        self.takes_work = workflows is None or bool(self.workflows)
        self.max_payload_bytes = at_least(options["max_payload_bytes"], 1, "max_payload_bytes")
        if self.max_payload_bytes > MAX_ROW_BYTES:
            raise InvalidArgument(
                f"max_payload_bytes must be at most {MAX_ROW_BYTES:,}, which is what SQLite keeps in one row, "
                f"not {shown(self.max_payload_bytes)}"
            )
        self.limits = Capacity(
            running=at_least(options["max_running"], 1, "max_running"),
            waiting=at_least(options["max_waiting_in_memory"], 0, "max_waiting_in_memory"),
            crashes=at_least(options["max_crashes"], 1, "max_crashes"),
            entries=at_least(options["max_journal_entries"], 1, "max_journal_entries"),
        )
        processes, retention = options["step_processes"], options["retention"]
        self.step_threads = at_least(options["step_threads"], 1, "step_threads")
        self.step_processes = None if processes is None else at_least(processes, 1, "step_processes")
        self.retention = None if retention is None else duration_microseconds(retention, "retention")
        self.stall_limit_seconds = _stall_limit(options["take_over_stalled_after"])
        self.clock = clock = options["clock"]
        if clock is not None and not all(callable(getattr(clock, name, None)) for name in _CLOCK_METHODS):
            raise InvalidArgument(
                f"clock must have {', '.join(_CLOCK_METHODS)}, as stepwell.Clock says, not {shown(clock)}"
            )


def _stall_limit(duration: float | timedelta | None) -> float | None:
    """Return after how many seconds a worker that does not answer has stalled, None: never by itself."""
    if duration is None:
        return None
    seconds = to_seconds(duration, "take_over_stalled_after")
    if seconds < MIN_STALL_SECONDS:
        raise InvalidArgument(
            f"take_over_stalled_after must be at least {MIN_STALL_SECONDS:g} s: a worker that is merely busy would "
            "lose its runs"
        )
    return seconds


def duration_microseconds(duration: float | timedelta, what: str) -> int:
    """Return a duration in microseconds; raises `InvalidArgument`."""
    return int(to_seconds(duration, what) * MICROSECONDS)


def checked_workflows(workflows: Iterable[Workflow[..., Any]] | None) -> Versioned:
    """Return the workflows that are given, by name, and the steps; of None, all of this process, also later ones."""
    if workflows is None:
        return Served()
    if isinstance(workflows, (str, bytes, Mapping)) or not isinstance(workflows, Iterable):
        raise InvalidArgument(f"workflows must be a list of @workflow objects, not {shown(workflows)}")
    chosen: list[Workflow[..., Any]] = []
    for given in workflows:
        workflow = as_definition(given)
        if not is_workflow(workflow):
            raise InvalidArgument(
                f"workflows must be a list of @workflow objects, not {shown(given)}: {how_to_make_it_a_workflow(given)}"
            )
        workflow = workflow.resolved()
        if workflow.is_bound:
            workflow.note_served()
        chosen.append(workflow)
    return Served(Chosen(chosen)) if chosen else Chosen()


def _served_queues(queues: Iterable[Queue | str] | None) -> frozenset[str] | None:
    if queues is None:
        return None
    if isinstance(queues, (str, bytes, Mapping)) or not isinstance(queues, Iterable):
        raise InvalidArgument(f"queues must be a list of Queue objects or their names, not {shown(queues)}")
    return frozenset(flow_name(queue) for queue in queues)


def flow_name(flow: object) -> str:
    """Return the name of a queue or limit that was given as an object or by its name."""
    if isinstance(flow, (Queue, Limit)):
        return used(flow).name
    return check_name(cast("str", flow), "the name of a queue")


def checked_messages(messages: Sequence[StartMessage]) -> Sequence[tuple[str, object, str | None]]:
    """Return name, value and key of the messages that go with a start; raises `InvalidArgument`."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise InvalidArgument(f"messages must be a list of (name, value) or (name, value, key), not {shown(messages)}")
    checked: list[tuple[str, object, str | None]] = []
    for message in messages:
        match message:
            case (name, value):
                checked.append((name, value, None))
            case (name, value, key):
                checked.append((name, value, key))
            case _:
                raise InvalidArgument(
                    f"each of the messages must be (name, value) or (name, value, key), not {shown(message)}"
                )
    return checked


def checked_updates(updates: Sequence[StartUpdate]) -> Sequence[StartUpdate]:
    """Return name, arguments and key of the updates that go with a start; raises `InvalidArgument`."""
    if isinstance(updates, (str, bytes, Mapping)) or not isinstance(updates, Iterable):
        raise InvalidArgument(f"updates must be a list of (name, arguments, key), not {shown(updates)}")
    checked: list[StartUpdate] = []
    for update in updates:
        match update:
            case (name, list() | tuple() as args, key):
                checked.append((name, args, key))
            case _:
                raise InvalidArgument(
                    "each of the updates must be (name, arguments, key), the arguments a list or tuple, not "
                    f"{shown(update)}"
                )
    return checked


def retry_filter(
    status: Status | Sequence[Status] | None,
    workflow: Workflow[..., Any] | str | None,
    started_since: datetime | timedelta | float | None,
    id_prefix: str | None,
    clock: Clock,
) -> RunFilter:
    """Return which runs to retry; raises `InvalidArgument` for all of them, and for states that nobody retries."""
    if status is None and workflow is None and started_since is None and id_prefix is None:
        raise InvalidArgument(
            "retrying everything that ever failed is seldom meant: say which runs, by status, workflow, started_since "
            "or id_prefix"
        )
    statuses = ("failed",) if status is None else checked_statuses(status)
    for each in statuses or ():
        if each not in _RETRIED:
            raise InvalidArgument(f"only runs that are {', '.join(_RETRIED)} are retried, not those that are {each}")
    if not statuses:
        raise InvalidArgument("status names no state; leave it out for failed runs")
    since: int | None = None
    if isinstance(started_since, datetime):
        if started_since.tzinfo is None:
            raise InvalidArgument(f"started_since needs a time zone: {started_since!r}")
        since = engine_time(clock, microseconds_of(started_since))
    elif started_since is not None:
        since = clock.now() - duration_microseconds(started_since, "started_since")
    prefix = check_text(id_prefix, "id_prefix")
    if prefix == "":
        raise InvalidArgument("id_prefix is empty, which is the beginning of every id; leave it out")
    return RunFilter(
        status=statuses, workflow=checked_workflow(workflow), id_prefix=prefix, started_since=since, limit=MAX_PAGE
    )


def deadline_at(deadline: float | timedelta | datetime | None, now: int) -> int | None:
    """Return when a run that starts `now` is too late, in microseconds; raises `InvalidArgument`."""
    if deadline is None:
        return None
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise InvalidArgument(f"deadline needs a time zone: {deadline!r}")
        return microseconds_of(deadline)
    return now + int(to_seconds(deadline, "deadline of a run") * MICROSECONDS)
