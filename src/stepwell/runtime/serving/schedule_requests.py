"""What callers ask about schedules: the requests, and who serves them.

Each is decided on inside the transaction, from the row as it is then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from stepwell.errors import InvalidArgument, ScheduleNotFound
from stepwell.model.acts import Actor
from stepwell.model.journal import Payload
from stepwell.model.schedule import (
    KEPT,
    Overlap,
    Place,
    ScheduleAct,
    ScheduleDefinition,
    ScheduleRecord,
    ScheduleState,
    held_up,
    let_go_on,
)
from stepwell.store.changes import Change
from stepwell.store.schedules import ScheduleDeleted, ScheduleSaved
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker

if TYPE_CHECKING:
    from stepwell.store.store import UnitFacts
    from stepwell.worker.rules.schedule_policy import Advance


class PutSchedule(msgspec.Struct, frozen=True):
    """Create a schedule, or change it to be like this. Answered with its `ScheduleRecord` and what became of it.

    That is ``created``, ``changed`` or ``unchanged``.
    """

    id: str
    definition: ScheduleDefinition
    input: Payload
    actor: Actor


class ChangeSchedule(msgspec.Struct, frozen=True):
    """Change fields of a schedule's calendar, and of its definition. Answered with its `ScheduleRecord`.

    Or with `ScheduleNotFound`, and `InvalidArgument` where the fields do not go together.
    """

    id: str
    calendar: dict[str, Any]
    others: dict[str, Any]
    actor: Actor


class PauseSchedule(msgspec.Struct, frozen=True):
    """Pause a schedule or, where `paused` is false, let it go on with its next tick. Answered with its record."""

    id: str
    paused: bool
    actor: Actor


class TriggerSchedule(msgspec.Struct, frozen=True):
    """Run a schedule's workflow now. Answered with the id of the run, or with `ScheduleNotFound`."""

    id: str
    actor: Actor


class BackfillSchedule(msgspec.Struct, frozen=True):
    """Do the ticks of a schedule from `start` until before `end`, by the wall clock. Answered when that is recorded."""

    id: str
    start: int
    end: int
    overlap: Overlap
    actor: Actor


class DeleteSchedule(msgspec.Struct, frozen=True):
    """Delete a schedule; its runs stay. Answered when that is recorded, or with `ScheduleNotFound`."""

    id: str
    actor: Actor


ScheduleRequest: TypeAlias = (
    PutSchedule | ChangeSchedule | PauseSchedule | TriggerSchedule | BackfillSchedule | DeleteSchedule
)

#: From the row to the row as it shall be, and the answer; None: it is deleted.
_Edit: TypeAlias = Callable[[ScheduleRecord], ScheduleRecord | None]


class ScheduleRequests:
    """Turns requests about schedules into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker: Final = worker

    def serve(self, request: ScheduleRequest, reply: Reply) -> None:
        """Serve one."""
        match request:
            case PutSchedule():
                self._put(request, reply)
            case ChangeSchedule():
                self._edit(request.id, partial(_changed, request, self._wall), reply, request.others.get("place"))
            case PauseSchedule():
                self._edit(request.id, partial(_paused, request, self._wall), reply)
            case TriggerSchedule():
                self._trigger(request, reply)
            case BackfillSchedule():
                self._edit(request.id, partial(_backfilled, request, self._wall), reply)
            case DeleteSchedule():
                self._edit(request.id, lambda _record: None, reply)

    @property
    def _wall(self) -> int:
        return self._worker.now - self._worker.runs.ahead

    def _put(self, request: PutSchedule, reply: Reply) -> None:
        from stepwell.worker.rules.schedule_policy import next_due  # noqa: PLC0415 - see `Schedules`

        now, made = self._wall, list[tuple[ScheduleRecord, str]]()

        def decide(facts: UnitFacts) -> list[Change]:
            found = facts.schedule(request.id)
            record = _put(found, request, now)
            if record is found:
                made[:] = [(record, "unchanged")]
                return []
            record = replace(record, due_at=_due(record, next_due(record)))
            made[:] = [(record, "created" if found is None else "changed")]
            return [ScheduleSaved(record)]

        self._commit(decide, lambda: made[0], reply, request.definition.place)

    def _edit(self, name: str, edit: _Edit, reply: Reply, place: Place | None = None) -> None:
        from stepwell.worker.rules.schedule_policy import next_due  # noqa: PLC0415 - see `Schedules`

        made: list[ScheduleRecord | None] = []

        def decide(facts: UnitFacts) -> list[Change]:
            found = _found(facts, name)
            record = edit(found)
            if record is None:
                made[:] = [None]
                return [ScheduleDeleted(name)]
            made[:] = [replace(record, due_at=_due(record, next_due(record)))]
            return [ScheduleSaved(one) for one in made if one is not None]

        self._commit(decide, lambda: made[0], reply, place)

    def _commit(
        self,
        decide: Callable[[UnitFacts], list[Change]],
        answer: Callable[[], Any],
        reply: Reply,
        place: Place | None,
    ) -> None:
        work = self._worker.batch.lone_work()
        if place is not None:  # so that the file knows the queue, whoever is there when the schedule is due
            self._worker.runs.declare(place.queue, work)
        work.decide = decide

        def committed() -> None:
            reply(answer(), None)
            self._worker.schedules.look()

        work.afterwards(committed, partial(reply, None))

    def _trigger(self, request: TriggerSchedule, reply: Reply) -> None:
        from stepwell.worker.rules.schedule_policy import trigger  # noqa: PLC0415 - see `Schedules`

        now, started = self._wall, list[str]()

        def choose(facts: UnitFacts) -> Advance:
            record = _found(facts, request.id)
            advance = trigger(_noted(record, "trigger", now, request.actor), facts, now)
            started[:] = [start.run_id for start in advance.starts]
            if not started:
                raise InvalidArgument(f"schedule {request.id!r} was triggered at this very moment already; try again")
            return advance

        work = self._worker.batch.lone_work()
        self._worker.schedules.add(work, choose)

        def committed() -> None:
            reply(started[0], None)
            self._worker.schedules.look()

        work.afterwards(committed, partial(reply, None))


def _found(facts: UnitFacts, name: str) -> ScheduleRecord:
    record = facts.schedule(name)
    if record is None:
        raise ScheduleNotFound(f"the file has no schedule {name!r}: it was never made, or has been deleted")
    return record


def _due(record: ScheduleRecord, following: int | None) -> int | None:
    """Return when a schedule is due that somebody changed: at once, where anything waits."""
    state = record.state
    return 0 if any(not each.held for each in state.backfills) or (state.buffered and not record.paused) else following


def _noted(record: ScheduleRecord, act: str, now: int, actor: Actor) -> ScheduleRecord:
    acts = (*record.state.acts, ScheduleAct(act, now, actor.by, actor.reason))[-KEPT:]
    return replace(record, state=replace(record.state, acts=acts))


def _put(found: ScheduleRecord | None, request: PutSchedule, now: int) -> ScheduleRecord:
    """Return the row that is asked for; `found` itself where nothing changes."""
    definition = request.definition
    if found is None:
        state = ScheduleState(decided_to=now)
        record = ScheduleRecord(
            request.id, definition.workflow, None, False, None, now, now, definition, state, request.input
        )
        return _noted(record, "create", now, request.actor)
    if found.definition == definition and found.input == request.input:
        return found
    return _noted(_redefined(replace(found, input=request.input), definition, now), "change", now, request.actor)


def _redefined(record: ScheduleRecord, definition: ScheduleDefinition, now: int) -> ScheduleRecord:
    """Return a schedule with another definition: a new calendar is about what comes, not about what was."""
    state = record.state
    if definition.calendar != record.definition.calendar:
        state = replace(state, decided_to=max(state.decided_to, now))
    state = replace(state, over=definition.limit is not None and state.started >= definition.limit)
    return replace(record, workflow=definition.workflow, definition=definition, state=state, changed_at=now)


def _changed(request: ChangeSchedule, now: int, record: ScheduleRecord) -> ScheduleRecord:
    from stepwell.model.calendar import calendar_of  # noqa: PLC0415 - as above

    calendar = replace(record.definition.calendar, **request.calendar)
    if calendar_of(calendar).next_after(now) is None:
        raise InvalidArgument(f"schedule {record.id!r} would never tick again with this change; nothing is changed")
    definition = replace(record.definition, calendar=calendar, **request.others)
    return _noted(_redefined(record, definition, now), "change", now, request.actor)


def _paused(request: PauseSchedule, now: int, record: ScheduleRecord) -> ScheduleRecord:
    note = request.actor.reason if request.paused else None
    # Ticks while it is paused are nobody's: it goes on with the next one.
    decided_to = max(record.state.decided_to, now) if record.paused else record.state.decided_to
    state = replace(held_up(record.state) if request.paused else let_go_on(record.state), decided_to=decided_to)
    act = "pause" if request.paused else "unpause"
    return _noted(replace(record, paused=request.paused, note=note, state=state), act, now, request.actor)


def _backfilled(request: BackfillSchedule, now: int, record: ScheduleRecord) -> ScheduleRecord:
    from stepwell.worker.rules.schedule_policy import with_backfill  # noqa: PLC0415 - as above

    record = with_backfill(record, request.start, request.end, request.overlap)
    return _noted(record, "backfill", now, request.actor)
