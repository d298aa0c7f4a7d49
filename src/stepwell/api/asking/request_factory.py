"""Makes requests from the arguments of callers: the only place where these are checked and encoded.

Nothing here waits, and nothing is written: what is not acceptable is refused before the engine hears of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec.structs import replace

from stepwell.api.asking.acts import checked_actor
from stepwell.api.asking.listing_options import at_least
from stepwell.api.asking.options import (
    START_OPTIONS,
    ManyOptions,
    StartOptions,
    checked_messages,
    checked_updates,
    deadline_at,
    duration_microseconds,
    retry_filter,
)
from stepwell.api.asking.repair_requests import RepairRequestFactory
from stepwell.api.asking.sortable_ids import SortableIds
from stepwell.api.asking.start_plan import StartPlan, argument_lists, given_ids
from stepwell.definitions.arguments import encoded_arguments
from stepwell.definitions.definition import (
    Versioned,
    Workflow,
    checked_kwargs,
    how_to_make_it_a_workflow,
    is_step,
    is_workflow,
    refuse_named,
    workflow_named,
)
from stepwell.definitions.durable import as_definition
from stepwell.definitions.jobs import Served, job_of
from stepwell.definitions.namesakes import are_different, place_of
from stepwell.definitions.queue_slots import QueueSlot, start_time
from stepwell.definitions.queues import Queue, QueueBounds, changed_settings, check_key
from stepwell.definitions.start_options import slot_of, start_policy
from stepwell.errors import DefinitionError, InvalidArgument
from stepwell.model.attributes import AttributeValue, Description, described
from stepwell.model.clock import Clock, engine_time
from stepwell.model.lifecycle import Status
from stepwell.model.names import check_id, check_name
from stepwell.model.start_policy import StartPolicy
from stepwell.model.updates import marked
from stepwell.runtime.serving.requests import (
    BulkAct,
    CancelRun,
    CancelWaiting,
    ChangeQueue,
    DeleteRun,
    DescribeRun,
    OutgoingMessage,
    PauseQueue,
    PauseRun,
    Purge,
    RescheduleRun,
    ResumeRun,
    RetryRun,
    RetryRuns,
    SendMessage,
    StartBulk,
    StartRun,
    TerminateRun,
    TruncateStream,
    UpdateRun,
    WaitForRun,
    WaitForValue,
)
from stepwell.shown import shown
from stepwell.store.inspector import RunFilter
from stepwell.values.codec import Codec
from stepwell.worker.worker import Worker

_START_OPTIONS: Final = frozenset(START_OPTIONS)
_QUEUE_ONLY: Final = frozenset({"queue"})
_SAYING: Final = frozenset({"attributes", "tags", "note"})


class RequestFactory(RepairRequestFactory):
    """Makes the requests of one engine's callers; safe from any thread. Each method raises for what it refuses."""

    def __init__(self, codec: Codec, clock: Clock, workflows: Versioned, worker: Worker) -> None:
        self._codec = codec
        self._clock = clock
        self._workflows = workflows
        self._worker = worker
        self._ids = SortableIds()
        self._last_plan: tuple[Workflow[..., Any] | None, ManyOptions, StartPlan | None] = (None, {}, None)

    # --- starts and messages ---------------------------------------------------------------------------------------

    def definition(self, workflow: Callable[..., Any] | str, options: ManyOptions) -> Workflow[..., Any]:
        """Return the workflow that is meant by an object or a name; raises `InvalidArgument` for anything else.

        `options` are the keyword arguments of the start: those that are none of its options are refused.
        """
        if not options.keys() <= _START_OPTIONS:
            refuse_named(workflow, {name: value for name, value in options.items() if name not in START_OPTIONS})
        if isinstance(workflow, str):
            return self.workflow_called(workflow)
        found = as_definition(workflow)
        if is_step(found):
            return job_of(found)
        if not is_workflow(found):
            raise InvalidArgument(
                f"start() needs a @workflow or a @step, or the name of one, as its first argument, not "
                f"{shown(workflow)}; {how_to_make_it_a_workflow(found)}"
            )
        return found

    def workflow_called(self, name: str, version: int | None = None) -> Workflow[..., Any]:
        """Return the workflow for runs of this name, and version, or what stands for it where it is not here."""
        return self._workflows.fitting(name, version) or Served().fitting(name, version) or workflow_named(name)

    def start(self, workflow: Workflow[..., Any], args: tuple[Any, ...], options: StartOptions) -> StartRun:
        """Return the request to start a run; see `stepwell.Engine.start` for the options."""
        given, now = options.get("id"), self._clock.now()
        plan = self._plan(workflow, options, now, has_ids=given is not None)
        run_id = self._ids.new(now) if given is None else check_id(given)
        run = plan.run(run_id, args, now, self._worker.runs.ahead)
        return StartRun(run, self._messages(run.id, options) if options else (), given is None)

    def start_many(
        self,
        workflow: Workflow[..., Any],
        args: Iterable[tuple[Any, ...]],
        ids: Iterable[str] | None,
        options: ManyOptions,
    ) -> list[StartRun]:
        """Return the requests to start many runs; see `stepwell.Engine.start_many`."""
        if "id" in options:
            raise InvalidArgument("start_many() takes ids=, one for each run, and no id=")
        now, ahead = self._clock.now(), self._worker.runs.ahead
        plan = self._plan(workflow, options, now, has_ids=ids is not None)
        given = argument_lists(args)
        names = [self._ids.new(now) for _ in given] if ids is None else given_ids(ids, len(given))
        runs = [plan.run(name, each, now, ahead) for name, each in zip(names, given, strict=True)]
        return [StartRun(run, self._messages(run.id, options)) for run in runs]

    def _plan(self, workflow: Workflow[..., Any], options: ManyOptions, now: int, *, has_ids: bool) -> StartPlan:
        """Return the plan for starts; of a burst of those that only go into a queue, that of the one before."""
        self._check_served(workflow)
        last, last_options, plan = self._last_plan
        if plan is not None and last is workflow and last_options == options and not has_ids:
            return plan
        deadline, named = options.get("deadline"), checked_kwargs(options.get("kwargs"))
        slot = self._slot(options, has_ids=has_ids)
        workflow.converter(self._codec)  # raises where no result could ever be read
        ends_at = deadline_at(deadline, now)
        if ends_at is not None and isinstance(deadline, datetime):
            ends_at = engine_time(self._clock, ends_at)
        said = _said(options)
        by = "" if said is None or said.note is None else checked_actor(None, None).by
        plan = StartPlan(self._codec, workflow, named, slot, ends_at, said, by, _policy(options, has_ids=has_ids))
        if not has_ids and (not options or (options.keys() == _QUEUE_ONLY and isinstance(options.get("queue"), Queue))):
            self._last_plan = workflow, options, plan
        return plan

    def _check_served(self, workflow: Workflow[..., Any]) -> None:
        """Raise `DefinitionError` for a workflow that the engine could not start, or would take for another one."""
        served = self._workflows.get(workflow.name)
        if served is not None and not workflow.is_named_only and are_different(served, workflow):
            raise DefinitionError(
                f"this engine executes {place_of(served)} under the name {workflow.name!r}, not {place_of(workflow)}, "
                "which start() was given: give one of them another name="
            )
        if workflow.is_bound:
            workflow.check_can_be_started(is_served=served is not None and served.is_bound_like(workflow))

    def _slot(self, options: ManyOptions, *, has_ids: bool) -> QueueSlot | None:
        """Return how a start wants to stand in a queue; None where it goes into none."""
        sends = bool(options.get("messages") or options.get("updates"))
        slot = slot_of(options, has_id=has_ids, sends=sends)
        if slot is not None and slot.ready_at is not None:
            slot = replace(slot, ready_at=engine_time(self._clock, slot.ready_at))
        return slot

    def _messages(self, run_id: str, options: ManyOptions) -> tuple[OutgoingMessage, ...]:
        """Return what is sent to a run together with its start, updates among it."""
        if "messages" not in options and "updates" not in options:
            return ()
        messages, updates = checked_messages(options.get("messages", ())), checked_updates(options.get("updates", ()))
        return (
            *(self._message(run_id, name, value, key) for name, value, key in messages),
            *(self._update(run_id, name, tuple(args), None, key) for name, args, key in updates),
        )

    def _message(self, run_id: str, name: str, value: object, key: str | None) -> OutgoingMessage:
        check_id(run_id)
        check_name(name, "the name of a message")
        if key is not None:
            check_name(key, "the key of a message")
        return OutgoingMessage(name, self._codec.encode_untyped(value, f"the message {name!r} to run {run_id!r}"), key)

    def send(self, run_id: str, name: str, value: object, key: str | None) -> SendMessage:
        """Return the request to send a message."""
        return SendMessage(run_id, self._message(run_id, name, value, key))

    def update(
        self, run_id: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, key: str | None
    ) -> UpdateRun:
        """Return the request to have a run answer an update; without a key it gets one of its own."""
        check_id(run_id)
        given = self._ids.new(self._clock.now()) if key is None else key
        return UpdateRun(run_id, self._update(run_id, name, args, kwargs, given), key is None)

    def _update(
        self, run_id: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, key: str
    ) -> OutgoingMessage:
        check_name(name, "the name of an update")
        check_name(key, "the key of an update")
        where = f"the arguments of update {name!r} of run {run_id!r}"
        payload = encoded_arguments(self._codec, args, kwargs, where)
        return OutgoingMessage(marked(name), payload, marked(key))

    # --- runs ------------------------------------------------------------------------------------------------------

    def cancel(self, run_id: str, by: str | None, reason: str | None) -> CancelRun:
        """Return the request to cancel a run."""
        return CancelRun(run_id, checked_actor(by, reason))

    def resume(self, run_id: str, by: str | None, reason: str | None) -> ResumeRun:
        """Return the request to resume a run."""
        return ResumeRun(run_id, checked_actor(by, reason))

    def pause(self, run_id: str, paused: bool, children: bool, by: str | None, reason: str | None) -> PauseRun:
        """Return the request to pause a run, or to let it go on."""
        return PauseRun(run_id, paused, bool(children), checked_actor(by, reason))

    def terminate(self, run_id: str, by: str | None, reason: str | None) -> TerminateRun:
        """Return the request to end a run without its code."""
        return TerminateRun(run_id, checked_actor(by, reason))

    def delete(self, run_id: str, by: str | None, reason: str | None) -> DeleteRun:
        """Return the request to delete a run."""
        return DeleteRun(run_id, checked_actor(by, reason))

    def bulk(self, act: BulkAct, filter: str, runs: RunFilter, by: str | None, reason: str | None) -> StartBulk:
        """Return the request to act on many runs."""
        return StartBulk(act, filter, runs, checked_actor(by, reason))

    def describe(
        self,
        run_id: str,
        attributes: Mapping[str, AttributeValue | None] | None,
        tags: Iterable[str],
        remove_tags: Iterable[str],
        note: str | None,
        by: str | None,
    ) -> DescribeRun:
        """Return the request to set attributes, tags or a note of a run."""
        said = described(attributes, tags, remove_tags, note)
        if said.is_empty:
            raise InvalidArgument(f"say what is to be set of run {run_id!r}: attributes, tags, remove_tags or a note")
        return DescribeRun(run_id, said, checked_actor(by, None))

    def retry(self, run_id: str, by: str | None, reason: str | None) -> RetryRun:
        """Return the request to retry a run."""
        return RetryRun(run_id, checked_actor(by, reason))

    def retry_all(
        self,
        status: Status | Sequence[Status] | None,
        workflow: Workflow[..., Any] | str | None,
        started_since: datetime | timedelta | float | None,
        id_prefix: str | None,
        by: str | None,
        reason: str | None,
    ) -> RetryRuns:
        """Return the request to retry the runs that match."""
        runs = retry_filter(status, workflow, started_since, id_prefix, self._clock)
        return RetryRuns(runs, checked_actor(by, reason))

    def purge(self, older_than: float | timedelta) -> Purge:
        """Return the request to delete runs that ended so long ago."""
        return Purge(self._clock.now() - duration_microseconds(older_than, "older_than"))

    def wait_for_run(self, run_id: str) -> WaitForRun:
        """Return the request to be told of a run's end."""
        return WaitForRun(run_id)

    def truncate_stream(self, run_id: str, name: str, before: int) -> TruncateStream:
        """Return the request to delete the items of a stream before an offset."""
        check_name(name, "the name of a stream")
        return TruncateStream(check_id(run_id), name, at_least(before, 0, "before"))

    def wait_for_value(self, run_id: str, key: str) -> WaitForValue:
        """Return the request to be told what a run publishes."""
        return WaitForValue(run_id, check_name(key, "the key of a published value"))

    # --- queues ----------------------------------------------------------------------------------------------------

    def change_queue(self, queue: str, bounds: QueueBounds) -> ChangeQueue:
        """Return the request to change what a queue or limit bounds."""
        return ChangeQueue(queue, changed_settings(**bounds))

    def pause_queue(self, queue: str, paused: bool, by: str | None, reason: str | None) -> PauseQueue:
        """Return the request to pause a queue or limit, or to let it go on."""
        return PauseQueue(queue, paused, checked_actor(by, reason))

    def reschedule(
        self, run_id: str, delay: float | timedelta | datetime | None, by: str | None, reason: str | None
    ) -> RescheduleRun:
        """Return the request to move when a run begins to wait in its queue."""
        if delay is None:
            raise InvalidArgument(f"say how long run {run_id!r} is to be delayed, or until when; 0 for not at all")
        after, ready_at = start_time(delay, "the delay of a run")
        ready_at = None if ready_at is None else engine_time(self._clock, ready_at)
        return RescheduleRun(check_id(run_id), after, ready_at, checked_actor(by, reason))

    def cancel_waiting(self, queue: str, partition: str | None, by: str | None, reason: str | None) -> CancelWaiting:
        """Return the request to cancel what waits in a queue."""
        return CancelWaiting(queue, check_key(partition, "partition"), checked_actor(by, reason))


def _policy(options: ManyOptions, *, has_ids: bool) -> StartPolicy | None:
    """Return what is to be done where a run has the id; None where that run is meant. Raises `InvalidArgument`."""
    if "on_conflict" not in options and "reuse" not in options:
        return None
    return start_policy(
        options.get("on_conflict", "attach"),
        options.get("reuse"),
        by=lambda: checked_actor(None, None).by,
        has_id=has_ids,
        dedup=options.get("dedup"),
    )


def _said(options: ManyOptions) -> Description | None:
    """Return what a start says of its runs; None where it says nothing. Raises `InvalidArgument`."""
    if not options.keys() & _SAYING:
        return None
    said = described(options.get("attributes"), options.get("tags", ()), (), options.get("note"))
    return None if said.is_empty else said
