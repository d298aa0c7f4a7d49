"""A schedule as the file keeps it: what was asked for, and how far it has come.

Times are microseconds since the epoch *by the wall clock*, because a schedule's ticks are dates; see
`stepwell.model.clock`. A tick never comes twice: `ScheduleState.decided_to` only rises, whatever the clock does, and
the id of a tick's run follows from the schedule and the tick, so that the file would refuse a second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias, get_args

import msgspec
from msgspec.structs import replace

from stepwell.model.calendar_spec import CalendarSpec
from stepwell.model.clock import MICROSECONDS, datetime_of
from stepwell.model.journal import Payload

#: What a tick does while a run of an earlier one has not ended.
Overlap: TypeAlias = Literal["skip", "buffer_one", "buffer_all", "cancel_running", "terminate_running", "allow"]
OVERLAPS: Final[tuple[str, ...]] = get_args(Overlap)
#: Why there is a run, or would have been one.
TickKind: TypeAlias = Literal["tick", "trigger", "backfill"]
#: What became of a tick. ``existing``: there was a run with its id already. ``missed``: it was due too
#: long ago, see `ScheduleDefinition.catch_up`.
TickOutcome: TypeAlias = Literal["started", "existing", "skipped", "buffered", "missed"]

#: How many ticks and acts are kept for people to look at.
KEPT: Final = 10
#: How many ticks may wait for the run before them to end.
MAX_BUFFERED: Final = 1000
#: How many runs of a schedule are watched; of more, the oldest are forgotten.
MAX_WATCHED: Final = 100
#: The names of the messages that hand a run what became of the runs before it.
LAST_RESULT: Final = "stepwell.last_result"
LAST_FAILURE: Final = "stepwell.last_failure"


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the runs of a schedule stand in a queue."""

    queue: str
    priority: int = 0
    partition: str = ""


class ScheduleDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody asked for. Durations are microseconds; `catch_up` and `limit` of None: without bound.

    `fingerprint` is that of the runs' input. `declared` names the module whose `Schedule` object it is.
    """

    workflow: str
    calendar: CalendarSpec
    fingerprint: int = 0
    overlap: Overlap = "skip"
    catch_up: int | None = None
    pause_on_failure: bool = False
    limit: int | None = None
    deadline: int | None = None
    place: Place | None = None
    declared: str | None = None


class TickRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a tick; `run` is the id of its run, if it has one."""

    tick: int
    outcome: TickOutcome
    at: int
    kind: TickKind = "tick"
    run: str | None = None


class ScheduleAct(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who did what to the schedule."""

    act: str
    at: int
    by: str
    note: str | None = None


class Backfill(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ticks from `next` until before `end` are still to be done, with an overlap policy of their own.

    `held`: its schedule was paused since it was asked for, so it goes on when that does.
    """

    next: int
    end: int
    overlap: Overlap
    held: bool = False


class ScheduleState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a schedule has come. All ticks up to `decided_to` are done with.

    - `started` counts the runs of ticks, `skipped` and `missed` those that got none.
    - `running` are the ids of runs that had not ended when last looked at; `buffered` the ticks that wait for them.
    - `last_completed` and `last_failed` are the runs whose outcome the next one is handed; `failed_at` is when the last
      failure was that the schedule has dealt with.
    - `over`: the limit is reached.
    """

    decided_to: int
    started: int = 0
    skipped: int = 0
    missed: int = 0
    recent: tuple[TickRecord, ...] = ()
    running: tuple[str, ...] = ()
    buffered: tuple[tuple[int, TickKind], ...] = ()
    last_completed: str | None = None
    last_failed: str | None = None
    backfills: tuple[Backfill, ...] = ()
    acts: tuple[ScheduleAct, ...] = ()
    over: bool = False
    failed_at: int = 0


def held_up(state: ScheduleState) -> ScheduleState:
    """Return a state as a pause leaves it: what backfills are to do, and have waiting for a run, is done after it."""
    waiting = [tick for tick, kind in state.buffered if kind == "backfill"]
    ticks = (Backfill(tick, tick + 1, "buffer_all", held=True) for tick in waiting)
    return replace(
        state,
        backfills=(*ticks, *(replace(each, held=True) for each in state.backfills)),
        buffered=tuple(each for each in state.buffered if each[1] != "backfill"),
        recent=tuple(each for each in state.recent if (each.kind, each.outcome) != ("backfill", "buffered")),
    )


def let_go_on(state: ScheduleState) -> ScheduleState:
    """Return a state as the end of a pause leaves it."""
    return replace(state, backfills=tuple(replace(each, held=False) for each in state.backfills))


class ScheduleRecord(msgspec.Struct, frozen=True):
    """A schedule's row."""

    id: str
    workflow: str
    due_at: int | None
    paused: bool
    note: str | None
    created_at: int
    changed_at: int
    definition: ScheduleDefinition
    state: ScheduleState
    input: Payload = None

    @property
    def is_over(self) -> bool:
        """Whether the limit leaves no tick: its runs have been started, or wait for the run before them."""
        return self.state.over or is_spent(self.definition.limit, self.state.started, self.state.buffered)


def is_spent(limit: int | None, started: int, buffered: Sequence[tuple[int, TickKind]]) -> bool:
    """Tell whether the ticks that have their runs, and those that wait for one, are as many as a limit allows."""
    return limit is not None and started + sum(kind == "tick" for _, kind in buffered) >= limit


def text_of(tick: int) -> str:
    """Return a moment as ids have it: ISO 8601 in UTC, to the second where it is one."""
    moment = datetime_of(tick)
    return moment.isoformat(timespec="microseconds" if tick % MICROSECONDS else "seconds").replace("+00:00", "Z")


def run_id_of(schedule: str, tick: int, kind: TickKind = "tick") -> str:
    """Return the id of a tick's run. A backfilled tick has the same: what has run does not run again."""
    return f"{schedule}@{text_of(tick)}{'+trigger' if kind == 'trigger' else ''}"


def tick_of(run_id: str) -> tuple[str, datetime] | None:
    """Return the schedule and the tick that a run's id names; None for an id of another form."""
    schedule, mark, moment = run_id.removesuffix("+trigger").rpartition("@")
    if not schedule or not mark or not moment.endswith("Z"):
        return None
    try:
        found = datetime.fromisoformat(moment.removesuffix("Z") + "+00:00")
    except ValueError:
        return None
    return schedule, found.astimezone(UTC)
