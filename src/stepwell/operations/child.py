"""Children: `start`, and the call of a workflow in workflow code.

How the end of a child is waited for is `stepwell.operations.result`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, TypeVarTuple, Unpack, cast, overload

from msgspec.structs import replace

from stepwell.definitions.definition import (
    Workflow,
    checked_kwargs,
    how_to_make_it_a_workflow,
    is_step,
    is_workflow,
    refuse_named,
    workflow_named,
)
from stepwell.definitions.durable import as_definition
from stepwell.definitions.jobs import job_of
from stepwell.definitions.queue_slots import QueueSlot, batch_count
from stepwell.definitions.start_options import ConflictOptions, QueueOptions, shows_options, slot_of, start_policy
from stepwell.errors import InvalidArgument, RunConflict, RunFailed
from stepwell.model.attributes import AttributeValue, Description, described
from stepwell.model.journal import EntryForm
from stepwell.model.lifecycle import ENDED
from stepwell.model.names import check_id
from stepwell.model.start_policy import StartPolicy
from stepwell.operations.calling_run import calling_run
from stepwell.operations.other_run import RunHandle, within
from stepwell.operations.result import result_of
from stepwell.operations.start_messages import Outgoing, StartMessage, StartUpdate, deadline_of, outgoing
from stepwell.replay.divergence import Given
from stepwell.shown import shown
from stepwell.store.changes import MessageSent, RunCreated
from stepwell.worker.rules.conflicts import conflict_with
from stepwell.worker.rules.queue_policy import entered
from stepwell.worker.running.starting import add_start
from stepwell.worker.state.facts import ChildEntered, MessageArrived, RunStarted
from stepwell.worker.state.opening import reopen_later
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.model.journal import Entry, Payload
    from stepwell.model.run import RunRecord
    from stepwell.replay.execution import Execution
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ChildRun(RunHandle, Generic[T]):
    """A child run that was started by `start`. `id` identifies it in the whole file."""

    def __init__(self, run_id: str, definition: Workflow[..., Any]) -> None:
        super().__init__(run_id)
        self._definition = definition

    async def result(self, timeout: float | timedelta | None = None) -> T:
        """Wait for the child's end and return its result; raises what it failed with, or `RunCancelled`.

        Raises `TimeoutError` after `timeout` (seconds or a timedelta); the child goes on.
        """
        run = calling_run("ChildRun.result()")
        waits = partial(result_of, run, self._definition, self.id, cancel_with_caller=False)
        return cast("T", await within(run, self.id, timeout, waits))


class ChildOptions(ConflictOptions, QueueOptions, total=False):
    """The keyword arguments of `start`."""

    id: str | None
    kwargs: Mapping[str, Any] | None
    detached: bool
    attributes: Mapping[str, AttributeValue] | None
    tags: Iterable[str]
    note: str | None
    deadline: float | timedelta | datetime | None
    messages: Sequence[StartMessage]
    updates: Sequence[StartUpdate]


_FIRST: Final = ("id", "kwargs", "detached")
#: In the order in which `help` shows them.
CHILD_OPTIONS: Final = [*_FIRST, *(name for name in ChildOptions.__annotations__ if name not in _FIRST)]


@overload
async def start(
    workflow: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts, **options: Unpack[ChildOptions]
) -> ChildRun[T]: ...


@overload
async def start(workflow: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[ChildOptions]) -> ChildRun[T]: ...


@overload
async def start(workflow: str, /, *args: Any, **options: Unpack[ChildOptions]) -> ChildRun[Any]: ...


@shows_options(CHILD_OPTIONS)
async def start(workflow: Callable[[*Ts], Any] | str, /, *args: *Ts, **options: Unpack[ChildOptions]) -> ChildRun[Any]:
    """Start a child run and return its handle at once; to wait for the child right away, just call its workflow.

    A step instead of a workflow makes it a job, as `stepwell.Engine.start` does.

    A workflow may be given by its name, if its code is elsewhere; its result is plain JSON data then. `id`: the child's
    id; without it, the parent's id and a number. An attached child is cancelled when its parent ends; a `detached` one
    goes on. Raises `RunConflict` where the id is taken by a run of another workflow or other input.

    `on_conflict`, `reuse`, `queue` and what belongs to it, `deadline`, `messages`, `updates`, `attributes`, `tags` and
    `note`: as for `stepwell.Engine.start`. The handle may be of a run that was there already.
    """
    run = calling_run("start()")
    refuse_named(workflow, {name: value for name, value in options.items() if name not in CHILD_OPTIONS})
    definition, child_id = _named_by(workflow), options.get("id")
    if child_id is not None:
        check_id(child_id)
    sent = outgoing(run, options.get("messages", ()), options.get("updates", ()))
    entry = slot_of(options, has_id=child_id is not None, sends=bool(sent))
    if entry is not None and entry.ready_at is not None and run.ahead:
        entry = replace(entry, ready_at=entry.ready_at + run.ahead)
    policy = start_policy(
        options.get("on_conflict", "attach"),
        options.get("reuse"),
        by=lambda: f"run {run.run_id!r}",
        has_id=child_id is not None,
        dedup=options.get("dedup"),
    )
    child_id = await _start(
        run,
        definition,
        args,
        checked_kwargs(options.get("kwargs")),
        child_id=child_id,
        attached=not options.get("detached", False),
        entry=entry,
        said=described(options.get("attributes"), options.get("tags", ()), (), options.get("note")),
        policy=policy,
        deadline_at=deadline_of(run, options.get("deadline")),
        sent=sent,
    )
    return ChildRun(child_id, definition)


def _named_by(workflow: object) -> Workflow[..., Any]:
    """Return what a start means, which may be a step or a name; raises `InvalidArgument`."""
    # A name means the same in every process that replays this, also in one that has the workflow.
    definition: object = workflow_named(workflow) if isinstance(workflow, str) else as_definition(workflow)
    if is_step(definition):
        definition = job_of(definition)
    if not is_workflow(definition):
        raise InvalidArgument(
            f"start() needs a @workflow or a @step, or the name of one, not {shown(workflow)}; "
            f"{how_to_make_it_a_workflow(workflow)}"
        )
    return definition


# --- what the code asks for -------------------------------------------------------------------------------------------


class ChildStart:
    """The detail of a start operation: which run to create. `child_id` is None where the engine shall choose it.

    `entry` says how it stands in a queue, `count` how many items it brings to a batch, `said` what it is found by,
    `sent` what is sent to it in the same commit.
    """

    __slots__ = (
        "attached",
        "child_id",
        "count",
        "deadline_at",
        "entry",
        "input",
        "policy",
        "said",
        "sent",
        "workflow",
    )

    def __init__(
        self,
        workflow: str,
        payload: Payload,
        *,
        child_id: str | None,
        attached: bool,
        entry: QueueSlot | None = None,
        count: int = 1,
        said: Description | None = None,
        policy: StartPolicy | None = None,
        deadline_at: int | None = None,
        sent: tuple[Outgoing, ...] = (),
    ) -> None:
        self.workflow = workflow
        self.input = payload
        self.child_id = child_id
        self.attached = attached
        self.entry = entry
        self.count = count
        self.said = said
        self.policy = policy
        self.deadline_at = deadline_at
        self.sent = sent


async def _start(
    run: Execution,
    workflow: Workflow[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    child_id: str | None,
    attached: bool,
    entry: QueueSlot | None = None,
    said: Description | None = None,
    policy: StartPolicy | None = None,
    deadline_at: int | None = None,
    sent: tuple[Outgoing, ...] = (),
) -> str:
    """Create a child run and return its id."""
    if child_id == run.run_id:
        raise InvalidArgument(f"run {run.run_id!r} cannot be a child of its own, which it would wait for for ever")
    workflow.check_can_be_started()
    workflow.signature.bind_check(args, kwargs)
    workflow.converter(run.codec)  # raises where no result could ever be read
    where = f"the input of workflow {workflow.name!r}, a child of run {run.run_id!r}"
    recorded = run.recorded_next()
    is_new = recorded is None or recorded.name != workflow.name or run.kinds.of_entry(recorded.kind).name != "start"
    # A child that exists may be of an older signature: that is no concern of its parent's.
    payload, fingerprint = run.codec.seal_input(
        args, kwargs, workflow.signature, where, is_typed=not workflow.is_named_only, is_checked=is_new
    )
    count = 1 if entry is None else batch_count(entry.queue, args, kwargs)
    said = None if said is None or said.is_empty else said
    detail = ChildStart(
        workflow.name,
        payload,
        child_id=child_id,
        attached=attached,
        entry=entry,
        count=count,
        said=said,
        policy=policy,
        deadline_at=deadline_at,
        sent=sent,
    )
    given = Given(args, kwargs, workflow.signature)
    result = await run.perform("start", workflow.name, fingerprint, run.codec.converter(str), detail, given)
    return str(result)


async def _call(run: Execution, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Start a child and wait for it: the call of a workflow."""
    child_id = await _start(run, workflow, args, kwargs, child_id=None, attached=True)
    return await result_of(run, workflow, child_id, cancel_with_caller=True)


# --- what is done about it --------------------------------------------------------------------------------------------


def _open(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    detail: ChildStart = operation.detail
    run.has_children = True
    child_id = detail.child_id
    if child_id is None:
        before = runs.child_ids.of_before(run, operation.number, detail.workflow, operation.fingerprint)
        if before is not None:
            run.deliverable.append(_existing(runs, run, operation, before, work))
            return
        try:
            child_id = runs.child_ids.free(run, operation.number)
        except RunConflict as error:
            failure = runs.codec.encode_failure(error)
            run.deliverable.append(operation.answer(run.key, "child_failed", runs.now, failure))
            return
    elif runs.being_created(child_id) is not None:
        reopen_later(run, operation, work)
        return
    elif detail.policy is None and (existing := runs.find(child_id)) is not None:
        run.deliverable.append(_existing(runs, run, operation, existing, work))
        return
    slot, policy = detail.entry, detail.policy
    is_told = slot is not None or policy is not None  # another run may take its place: which, is known with the commit
    start = RunCreated(
        child_id,
        detail.workflow,
        detail.input,
        operation.fingerprint,
        "running",
        runs.now,
        detail.deadline_at,
        parent=run.key,
        parent_op=operation.number,
        attached=detail.attached,
        must_be_new=not is_told or detail.child_id is None,
        entry=None if slot is None else entered(slot, runs.now, count=detail.count),
        told=operation.answer(run.key, "child", runs.now) if is_told else None,
        ahead=runs.ahead,
        description=detail.said,
        policy=policy,
    )
    if not is_told:
        add_start(runs, start, work, RunStarted)
        run.deliverable.append(operation.answer(run.key, "child", runs.now, runs.codec.encode(child_id, "an id")))
    else:
        run.awaits_commit += 1
        add_start(runs, start, work, partial(ChildEntered, run))
    _send_all(runs, child_id, detail, work)


def _send_all(runs: Runs, child_id: str, detail: ChildStart, work: UnitOfWork) -> None:
    """Send a child what goes with its start."""
    child = runs.loaded(child_id)
    for message in detail.sent:
        change = MessageSent(child_id, message.name, message.value, runs.now, message.key, with_start=True)
        if child is not None:
            child.sending[message.name] = child.sending.get(message.name, 0) + 1
        work.then(change, partial(MessageArrived, change))


def _existing(runs: Runs, run: LoadedRun, operation: Operation, existing: RunRecord, work: UnitOfWork) -> Entry:
    detail: ChildStart = operation.detail
    codec = runs.codec
    if existing.chapter is not None:
        existing = replace(existing, input=runs.reads.first_input(existing.key))
    error = conflict_with(
        codec, existing, existing.id, detail.workflow, detail.input, operation.fingerprint, parent=run.id
    )
    if error is None:
        if existing.status not in ENDED:  # what has ended receives nothing, as it would not if it were sent to later
            _send_all(runs, existing.id, detail, work)
        return operation.answer(run.key, "child", runs.now, codec.encode(existing.id, "an id"))
    return operation.answer(run.key, "child_failed", runs.now, runs.codec.encode_failure(error))


START: Final = OperationKind(
    name="start",
    entries=(EntryForm("child"), EntryForm("child_failed", fails_as=RunFailed)),
    shows_arguments=True,
    open=_open,
    calls={"workflow": _call},
)
