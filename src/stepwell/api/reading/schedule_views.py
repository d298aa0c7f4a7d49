"""What users see of a schedule: what was asked for, how far it has come, what it did and will do."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from stepwell.model.clock import MICROSECONDS, datetime_of
from stepwell.model.schedule import KEPT, ScheduleRecord, TickKind, TickOutcome, TickRecord


class TickInfo(msgspec.Struct, frozen=True):
    """The outcome of a tick, decided at `at`. `run` is the id of its run; None if it has none (yet).

    `kind`: a ``tick`` of the calendar, a ``trigger`` or a ``backfill``. `outcome`: it ``started`` a run,
    found an ``existing`` one with its id, was ``skipped`` because of the overlap policy, is ``buffered`` until
    the run before it ends, or was ``missed``: no worker was there, and it is beyond the catch-up window.
    """

    tick: datetime
    kind: TickKind
    outcome: TickOutcome
    at: datetime
    run: str | None

    @classmethod
    def of(cls, record: TickRecord) -> TickInfo:
        """Make it from what the file keeps."""
        return cls(datetime_of(record.tick), record.kind, record.outcome, datetime_of(record.at), record.run)


class ScheduleActInfo(msgspec.Struct, frozen=True):
    """Who did what to a schedule, and why."""

    act: str
    at: datetime
    by: str
    note: str | None


class ScheduleInfo(msgspec.Struct, frozen=True):
    """The facts about a schedule.

    - `next`: the next ten ticks, `recent`: the last ten. `due_at`: when a worker next looks at it; with a jitter, this
      is later than the tick. `note`: why it is paused.
    - `started`, `skipped` and `missed` count ticks since it was made. `running`: the ids of its runs that have not
      ended; `buffered`: ticks that wait for them; `backfills`: ranges that are being done.
    - `is_over`: it has no further tick, or has reached its `limit`.
    - The others are as they were given; durations are seconds.
    """

    id: str
    workflow: str
    paused: bool
    note: str | None
    is_over: bool
    due_at: datetime | None
    next: list[datetime]
    recent: list[TickInfo]
    started: int
    skipped: int
    missed: int
    running: list[str]
    buffered: list[datetime]
    backfills: list[tuple[datetime, datetime]]
    cron: list[str]
    every: list[tuple[float, float]]
    exclude: list[str]
    zone: str
    missing: str
    repeated: str
    start: datetime | None
    end: datetime | None
    jitter: float
    overlap: str
    catch_up: float | None
    pause_on_failure: bool
    limit: int | None
    deadline: float | None
    queue: str | None
    acts: list[ScheduleActInfo]
    created_at: datetime
    changed_at: datetime

    @classmethod
    def of(cls, record: ScheduleRecord, now: int, running: Iterable[str]) -> ScheduleInfo:
        """Make it from its row; `now` is the time by the wall clock, `running` those of its runs that go on now."""
        # Here, because an engine that nobody asks about schedules does without the calendar.
        from stepwell.model.calendar import calendar_of  # noqa: PLC0415

        definition, state, spec = record.definition, record.state, record.definition.calendar
        over = record.is_over
        coming = [] if over else calendar_of(spec).some_after(max(state.decided_to, now if record.paused else 0), KEPT)
        return cls(
            id=record.id,
            workflow=record.workflow,
            paused=record.paused,
            note=record.note,
            is_over=over or not coming,
            due_at=None if record.due_at is None else datetime_of(record.due_at or now),
            next=[datetime_of(tick) for tick in coming],
            recent=[TickInfo.of(tick) for tick in state.recent],
            started=state.started,
            skipped=state.skipped,
            missed=state.missed,
            running=list(running),
            buffered=[datetime_of(tick) for tick, _ in state.buffered],
            backfills=[(datetime_of(each.next), datetime_of(each.end)) for each in state.backfills],
            cron=list(spec.crons),
            every=[(each.every / MICROSECONDS, each.phase / MICROSECONDS) for each in spec.intervals],
            exclude=list(spec.excluded),
            zone=spec.zone,
            missing=spec.missing,
            repeated=spec.repeated,
            start=None if spec.start_at is None else datetime_of(spec.start_at),
            end=None if spec.end_at is None else datetime_of(spec.end_at),
            jitter=spec.jitter / MICROSECONDS,
            overlap=definition.overlap,
            catch_up=_seconds(definition.catch_up),
            pause_on_failure=definition.pause_on_failure,
            limit=definition.limit,
            deadline=_seconds(definition.deadline),
            queue=None if definition.place is None else definition.place.queue,
            acts=[ScheduleActInfo(act.act, datetime_of(act.at), act.by, act.note) for act in state.acts],
            created_at=datetime_of(record.created_at),
            changed_at=datetime_of(record.changed_at),
        )


def _seconds(duration: int | None) -> float | None:
    return None if duration is None else duration / MICROSECONDS
