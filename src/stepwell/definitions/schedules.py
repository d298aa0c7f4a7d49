"""Schedules as inert objects: a workflow, its arguments, and when it shall run.

Nothing happens until an engine is given one, or a module that has some; see ``engine.declare_schedules``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any, Final, TypeAlias, TypedDict, TypeVarTuple, Unpack, cast

import msgspec

from stepwell.definitions.queues import Queue
from stepwell.definitions.start_options import shows_options
from stepwell.errors import InvalidArgument
from stepwell.model.calendar_spec import Missing, Repeated
from stepwell.model.names import check_id
from stepwell.model.schedule import Overlap

Ts = TypeVarTuple("Ts")

Duration: TypeAlias = float | timedelta


class Every(msgspec.Struct, frozen=True):
    """An interval of a schedule: a tick each `interval`, counted from the epoch and shifted by `phase`.

    ``Every(3600, phase=300)`` ticks five minutes past each hour in UTC, also when local clocks change.
    """

    interval: Duration
    phase: Duration = 0.0


class ScheduleOptions(TypedDict, total=False):
    """The keyword arguments of a schedule that say when, and how its runs go; see `stepwell.Engine.schedule`."""

    kwargs: Mapping[str, Any] | None
    cron: str | Sequence[str]
    every: Duration | Every | Sequence[Duration | Every]
    exclude: str | Sequence[str]
    zone: str
    missing: Missing
    repeated: Repeated
    start: datetime | None
    end: datetime | None
    jitter: Duration
    overlap: Overlap
    catch_up: Duration | None
    pause_on_failure: bool
    limit: int | None
    deadline: Duration | None
    queue: Queue | str | None
    priority: int
    partition: str | None


#: What holds where an option is left out. A day: what was due while a machine slept, or a deploy went wrong, is done.
SCHEDULE_DEFAULTS: Final[ScheduleOptions] = {
    "kwargs": None,
    "cron": (),
    "every": (),
    "exclude": (),
    "zone": "UTC",
    "missing": "shift",
    "repeated": "once",
    "start": None,
    "end": None,
    "jitter": 0.0,
    "overlap": "skip",
    "catch_up": timedelta(days=1),
    "pause_on_failure": False,
    "limit": None,
    "deadline": None,
    "queue": None,
    "priority": 0,
    "partition": None,
}


#: The longest id: with a tick behind it, it is the id of a run.
_LONGEST_ID: Final = 200


class Schedule:
    """A schedule that code declares: ``nightly = Schedule(report, "eu", id="nightly", cron="0 2 * * *")``.

    The arguments are those of ``engine.schedule``, and are checked when an engine is given it. Raises
    `InvalidArgument` for an id that cannot be one, or an option that does not exist.
    """

    @shows_options(SCHEDULE_DEFAULTS, SCHEDULE_DEFAULTS)
    def __init__(
        self, workflow: Callable[[*Ts], Any] | str, /, *args: *Ts, id: str, **options: Unpack[ScheduleOptions]
    ) -> None:
        self.id = check_id(id, "the id of a schedule")
        if len(id) > _LONGEST_ID:
            raise InvalidArgument(
                f"the id of a schedule has at most {_LONGEST_ID} characters, not {len(id)}: its runs add the tick"
            )
        check_options(options)
        self.workflow: Callable[..., Any] | str = workflow
        self.args: tuple[Any, ...] = args
        self.options = options

    def __repr__(self) -> str:
        """Show the id."""
        return f"<Schedule {self.id!r}>"


def schedules_in(module: ModuleType) -> list[Schedule]:
    """Return the schedules that a module has as its variables, or in lists and tuples that are; each once."""
    found: list[Schedule] = []
    for value in vars(module).values():
        found += [each for each in _each(value) if isinstance(each, Schedule)]
    return list(dict.fromkeys(found))


def _each(value: object) -> Iterable[object]:
    return cast("Iterable[object]", value) if type(value) in (list, tuple) else (value,)


def check_options(options: ScheduleOptions) -> None:
    """Raise `InvalidArgument` where an option does not exist."""
    for name in options:
        if name not in SCHEDULE_DEFAULTS:
            raise InvalidArgument(f"a schedule has no option {name!r}; it has {', '.join(SCHEDULE_DEFAULTS)}")
