"""Finds out from the file why runs do not proceed; `stepwell.api.reading.reasons` puts that into words.

What a parked run waits for stands in its row. What else has to do with it (the queue that it stands in, the run that
it waits for, the workers that there are) is looked up when somebody asks, so that it is never out of date. A `Reasons`
serves one listing: it looks at each queue, and at the workers, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from stepwell.api.reading import reasons
from stepwell.api.reading.reasons import QueueFacts
from stepwell.errors import SerializationError
from stepwell.model.acts import ActRecord
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import Member, RunRecord
from stepwell.model.waits import Wait, decode_waits
from stepwell.store.inspector import Inspector
from stepwell.store.queues import QueueState
from stepwell.worker.rules.queue_policy import rate_opens_at

#: How many holders of permits, and unread messages, are looked at.
_LOOKED_AT: Final = 5
#: How many names of unread messages are compared with that of the one that is waited for.
_ALL_NAMES: Final = 1000
#: How far a chain of runs that wait for each other is followed.
_DEPTH: Final = 3
#: A timer is most often the bound of what is waited for beside it.
_TOLD_LAST: Final = {"timer": 1, "more": 2}


class Reasons:
    """Finds reasons; for one moment, `now`. `members` returns the workers of the file; `own` is the asking one.

    `ahead` is how much later engine time is than the wall clock, now: what is shown is told by that.
    """

    def __init__(
        self,
        inspector: Inspector,
        members: Callable[[], list[Member]],
        now: int,
        own: int | None = None,
        ahead: int = 0,
    ) -> None:
        self._inspector = inspector
        self._ask_members = members
        self._now = now
        self._own = own
        self._ahead = ahead
        self._wall = now - ahead
        self._found_members: list[Member] | None = None
        self._states: dict[str, QueueState] | None = None
        self._facts: dict[tuple[str, str, str], QueueFacts] = {}

    def of(self, record: RunRecord) -> str | None:
        """Return why a run is as it is: always for one that is pending, waiting or halted."""
        return self._of(record, 0)

    def _of(self, record: RunRecord, depth: int) -> str | None:
        match record.status:
            case "halted":
                own = record.reason or "the reason is not known"
                return f"{own}\n{reasons.remedy(record.remedy, record.id, record.queue)}"
            case "paused":
                return self._paused(record, depth)
            case "cancelled":
                return record.reason or record.cancel_reason
            case "running":
                cancelling = record.cancel_requested_at
                asked = (
                    None if cancelling is None else reasons.cancelling(cancelling - record.ahead, record.cancel_reason)
                )
                return self._owner_gone(record) or asked or self._pausing(record)
            case "pending" | "waiting":
                found = [self._pending(record) if record.status == "pending" else self._waiting(record, depth)]
                if record.cancel_requested_at is not None:
                    found.insert(0, reasons.cancelling(record.cancel_requested_at - record.ahead, record.cancel_reason))
                if record.paused:
                    found.insert(0, reasons.pausing(self._last_pause(record), record.ahead))
                if record.deadline_at is not None:
                    found.append(reasons.deadline(record.deadline_at - record.ahead))
                return "; ".join(found)
            case _:
                return None

    def halted_in(self, state: QueueState) -> list[str]:
        """Return the ids of the halted runs that keep places in a queue."""
        return self._queue_facts(state, None).halted

    def of_queue(self, state: QueueState) -> str | None:
        """Return why what waits in a queue, or for a limit, is not taken; None where nothing hinders it."""
        facts = self._queue_facts(state, None)
        found = reasons.obstacle(facts, self._wall) if state.waiting or state.paused else None
        bound, rate = state.settings.partition_concurrency, state.settings.partition_rate
        bounded = bound is not None or rate is not None
        if found is None and state.waiting and bounded and not self._open_workflows(state.name):
            found = reasons.all_partitions_full(bound if rate is None else None)
        if facts.halted and not reasons.names_halted(found):
            return reasons.halted_in(facts.halted) if found is None else f"{found}; {reasons.halted_in(facts.halted)}"
        return found

    # --- paused -------------------------------------------------------------------------------------------------------

    def _last_pause(self, record: RunRecord) -> ActRecord | None:
        acts = self._inspector.acts(record.key)
        return next((act for act in reversed(acts) if act.act == "pause"), None)

    def _pausing(self, record: RunRecord) -> str | None:
        return reasons.pausing(self._last_pause(record), record.ahead) if record.paused else None

    def _paused(self, record: RunRecord, depth: int) -> str:
        own = reasons.paused(self._last_pause(record), record.id, record.ahead)
        try:
            waits = [_shown(wait, record) for wait in decode_waits(record.waiting_on) if wait.kind != "retry"]
        except SerializationError as error:
            return f"{own}; {error}"
        return f"{own}; before that, {self._all_of(record, waits, depth)}" if waits else own

    # --- pending ------------------------------------------------------------------------------------------------------

    def _pending(self, record: RunRecord) -> str:
        if record.queued and record.queue is not None:
            return self._queued(record, record.queue)
        taker = self._nobody(record.workflow)
        if taker is not None:
            return taker
        if record.suspect:
            return reasons.suspect(record.crashes, self._inspector.suspect_under_way())
        return reasons.for_room()

    def _queued(self, record: RunRecord, queue: str) -> str:
        standing, state = self._inspector.standing(record.key), self._state(queue)
        if standing is None or state is None:  # it was taken between two reads
            return reasons.for_room()
        facts = self._queue_facts(state, record.workflow, standing.partition)
        standing = replace(standing, ready_at=standing.ready_at - self._ahead)
        return reasons.standing_in(facts, standing, self._wall)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _waiting(self, record: RunRecord, depth: int) -> str:
        gone = self._owner_gone(record)
        if gone is not None:
            return gone
        if record.owner is None and record.wake_at is not None and record.wake_at <= self._now:
            taker = self._nobody(record.workflow)
            if taker is None and record.suspect:
                taker = reasons.suspect(record.crashes, self._inspector.suspect_under_way())
            return self._due(record, record.wake_at - record.ahead, taker, depth)
        try:
            waits = [_shown(wait, record) for wait in decode_waits(record.waiting_on)]
        except SerializationError as error:
            return str(error)
        if not waits:
            return reasons.not_said(
                None if record.wake_at is None else record.wake_at - record.ahead, taken_up=record.owner is not None
            )
        return self._all_of(record, waits, depth)

    def _due(self, record: RunRecord, since: int, taker: str | None, depth: int) -> str:
        """Say what a run waits for that is in no worker's memory and should go on: it need not have come."""
        if record.waiting_on is None:
            return reasons.due(since, taker, parked=False)
        try:
            waits = [_shown(wait, record) for wait in decode_waits(record.waiting_on)]
        except SerializationError as error:
            return str(error)
        has_come = record.deadline_at is not None and record.deadline_at <= self._now
        if has_come or any(self._has_come(record, wait) for wait in waits):
            return reasons.due(since, taker, parked=True)
        return reasons.looked_at_again(self._all_of(record, waits, depth), since, taker)

    def _has_come(self, record: RunRecord, wait: Wait) -> bool:
        match wait.kind:
            case "timer" | "retry" | "poll":
                return wait.until is not None and wait.until <= self._wall
            case "message":
                return wait.name in self._inspector.unreceived_names(record.key, _ALL_NAMES)
            case "run":
                found = self._inspector.run_facts(wait.name)
                return found is None or found.status in ENDED
            case "permit":
                standing = self._inspector.standing(record.key, wait.op)
                return standing is not None and standing.state == "running"
            case "promise":
                return any(found.state != "open" for found in self._inspector.promises_of(record.key, [wait.op]))
            case "nothing" | "more":
                return False

    def _all_of(self, record: RunRecord, waits: list[Wait], depth: int) -> str:
        halted: list[str] = []
        others: list[str] = []
        for wait in sorted(waits, key=lambda wait: _TOLD_LAST.get(wait.kind, 0)):
            found = self._inspector.run_facts(wait.name) if wait.kind == "run" else None
            if found is not None and found.status == "halted":
                is_child = found.parent == record.key
                halted.append(reasons.halted_run(found.id, found.reason, is_child=is_child))
            else:
                others.append(self._one_of(record, wait, found, depth))
        if others:
            return "; ".join([*halted, f"it waits for {', '.join(others)}"])
        return "; ".join(halted)

    def _one_of(self, record: RunRecord, wait: Wait, found: RunRecord | None, depth: int) -> str:
        match wait.kind:
            case "timer":
                return reasons.timer(wait)
            case "message":
                return reasons.message(wait, self._inspector.unreceived_names(record.key, _LOOKED_AT))
            case "run":
                if found is None:
                    return reasons.other_run(wait, None, None)
                why = self._of(found, depth + 1) if depth < _DEPTH and found.status not in ENDED else None
                return reasons.other_run(wait, found.status, why)
            case "permit":
                return self._permit(record, wait)
            case "promise":
                return reasons.promise(wait)
            case "retry":
                return reasons.retry(wait)
            case "poll":
                return reasons.poll(wait)
            case "nothing":
                return reasons.nothing(wait)
            case "more":
                return reasons.more(wait)

    def _permit(self, record: RunRecord, wait: Wait) -> str:
        standing, state = self._inspector.standing(record.key, wait.op), self._state(wait.limit)
        granted = standing is not None and standing.state == "running"
        if granted or state is None:
            return reasons.permit(wait, None, granted=granted)
        return reasons.permit(wait, reasons.obstacle(self._queue_facts(state, None), self._wall), granted=False)

    # --- workers ------------------------------------------------------------------------------------------------------

    def _members(self) -> list[Member]:
        if self._found_members is None:
            self._found_members = self._ask_members()
        return self._found_members

    def _nobody(self, workflow: str) -> str | None:
        return reasons.nobody(self._members(), [workflow], None)

    def _owner_gone(self, record: RunRecord) -> str | None:
        if record.owner is None or record.owner == self._own:
            return None
        owner = next((member for member in self._members() if member.epoch == record.owner), None)
        return None if owner is None else reasons.owner_gone(owner, self._nobody(record.workflow))

    # --- queues -------------------------------------------------------------------------------------------------------

    def _state(self, queue: str) -> QueueState | None:
        if self._states is None:
            self._states = {state.name: state for state in self._inspector.queues()}
        return self._states.get(queue)

    def _open_workflows(self, queue: str) -> list[str]:
        with self._inspector.queue_facts() as facts:
            return facts.workflows(queue)

    def _queue_facts(self, state: QueueState, workflow: str | None, partition: str = "") -> QueueFacts:
        """Look at a queue as the runs of a workflow see it in a partition of it; None: whoever stands in it."""
        place = (state.name, workflow or "", partition)
        if place not in self._facts:
            self._facts[place] = self._look_at(state, workflow, partition)
        return self._facts[place]

    def _look_at(self, state: QueueState, workflow: str | None, partition: str) -> QueueFacts:
        inspector, name = self._inspector, state.name
        with inspector.queue_facts() as read:
            opens_at = rate_opens_at(read, state)
            opens_at = opens_at - self._ahead if opens_at else opens_at
            workflows = [workflow] if workflow is not None else read.workflows(name)
            rated = workflow is not None and state.settings.partition_rate is not None
            partition_opens_at = read.partition_opens_at(name, partition) if rated else None
        if state.kind == "limit":
            holders, apart = inspector.permit_holders(name, _LOOKED_AT), inspector.permits_kept_apart(name)
            return QueueFacts(state, holders=holders, apart=apart, rate_opens_at=opens_at)
        members = self._members()
        bounded = workflow is not None and state.settings.partition_concurrency is not None
        concurrency = state.settings.concurrency
        is_full = concurrency is not None and state.running >= concurrency
        return QueueFacts(
            state,
            partition,
            inspector.partition_busy(name, partition) if bounded else 0,
            inspector.halted_holders(name),
            inspector.halted_holders(name, partition) if bounded else [],
            inspector.place_holders(name, _LOOKED_AT) if is_full else [],
            holders_there=inspector.place_holders(name, _LOOKED_AT, partition) if bounded else [],
            rate_opens_at=opens_at,
            nobody=reasons.nobody(members, workflows, name) if workflows else None,
            full_workers=self._are_full(reasons.takers(members, workflows, name), state),
            partition_opens_at=None if partition_opens_at is None else partition_opens_at - self._ahead,
            full_there=workflow is not None
            and self._are_full_of(reasons.takers(members, workflows, name), state, partition),
        )

    def _are_full(self, able: list[Member], state: QueueState) -> bool:
        bound = state.settings.per_worker
        if bound is None or not able:
            return False
        return all(self._inspector.held_by_worker(member.epoch, state.name) >= bound for member in able)

    def _are_full_of(self, able: list[Member], state: QueueState, partition: str) -> bool:
        bound = state.settings.partition_per_worker
        if bound is None or not able:
            return False
        with self._inspector.queue_facts() as read:
            return all(read.held(state.name, member.epoch).get(partition, 0) >= bound for member in able)


def _shown(wait: Wait, record: RunRecord) -> Wait:
    """Return what a run waits for with its time by the wall clock; see `RunRecord.ahead`."""
    return replace(wait, until=wait.until - record.ahead) if wait.until and record.ahead else wait
