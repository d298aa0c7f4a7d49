"""Makes the requests about schedules from the arguments of callers; see `stepwell.api.asking.request_factory`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from types import ModuleType
from typing import Any

from stepwell.api.asking.acts import checked_actor
from stepwell.api.asking.request_factory import RequestFactory
from stepwell.api.asking.schedule_options import calendar_changes, changed, check_ticks, definition_changes, moment_of
from stepwell.definitions.definition import Workflow, checked_kwargs
from stepwell.definitions.schedules import SCHEDULE_DEFAULTS, Schedule, ScheduleOptions, check_options, schedules_in
from stepwell.errors import InvalidArgument
from stepwell.model.calendar_spec import CalendarSpec
from stepwell.model.names import check_id, check_text
from stepwell.model.schedule import OVERLAPS, Overlap, ScheduleDefinition
from stepwell.runtime.serving.schedule_requests import (
    BackfillSchedule,
    ChangeSchedule,
    DeleteSchedule,
    PauseSchedule,
    PutSchedule,
    TriggerSchedule,
)
from stepwell.shown import is_one_of, shown
from stepwell.values.codec import Codec


class ScheduleFactory:
    """Makes the requests of one engine's callers. `wall` returns the time by the wall clock, in microseconds."""

    def __init__(self, requests: RequestFactory, codec: Codec, wall: Callable[[], int]) -> None:
        self._requests = requests
        self._codec = codec
        self.wall = wall

    def put(self, schedule: Schedule, by: str | None, *, declared: str | None = None) -> PutSchedule:
        """Return the request to have a schedule as this object says."""
        options: ScheduleOptions = {**SCHEDULE_DEFAULTS, **schedule.options}
        workflow = self._requests.definition(schedule.workflow, {})
        payload, fingerprint = self._input(workflow, schedule.args, options, schedule.id)
        blank = ScheduleDefinition(workflow.name, CalendarSpec(), fingerprint, declared=declared)
        definition = changed(blank, calendar_changes(options), definition_changes(options))
        check_ticks(definition.calendar, self.wall())
        return PutSchedule(schedule.id, definition, payload, checked_actor(by, None))

    def _input(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], options: ScheduleOptions, schedule: str
    ) -> tuple[Any, int]:
        named = checked_kwargs(options.get("kwargs"))
        workflow.signature.bind_check(args, named)
        workflow.converter(self._codec)  # raises where no result could ever be read
        where = f"the input of workflow {workflow.name!r} for schedule {schedule!r}"
        return self._codec.seal_input(args, named, workflow.signature, where, is_typed=not workflow.is_named_only)

    def change(self, schedule: str, options: ScheduleOptions, by: str | None) -> ChangeSchedule:
        """Return the request to change what a schedule does, as far as it is given."""
        check_options(options)
        if "kwargs" in options:
            raise InvalidArgument("arguments are changed together: make the schedule again, with engine.schedule(…)")
        if not options:
            raise InvalidArgument(f"nothing of schedule {schedule!r} is to change: give at least one option")
        calendar, others = calendar_changes(options), definition_changes(options)
        return ChangeSchedule(schedule, calendar, others, checked_actor(by, None))

    @staticmethod
    def pause(schedule: str, paused: bool, note: str | None, by: str | None) -> PauseSchedule:
        """Return the request to pause a schedule, or to let it go on."""
        return PauseSchedule(schedule, paused, checked_actor(by, check_text(note, "note")))

    @staticmethod
    def trigger(schedule: str, note: str | None, by: str | None) -> TriggerSchedule:
        """Return the request to run a schedule's workflow now."""
        return TriggerSchedule(schedule, checked_actor(by, check_text(note, "note")))

    def backfill(
        self, schedule: str, start: datetime, end: datetime, overlap: Overlap, note: str | None, by: str | None
    ) -> BackfillSchedule:
        """Return the request to do the ticks of a range."""
        if not is_one_of(overlap, OVERLAPS):
            raise InvalidArgument(f"overlap must be one of {', '.join(map(repr, OVERLAPS))}, not {shown(overlap)}")
        first, last = moment_of(start, "start"), moment_of(end, "end")
        if first < 0:
            raise InvalidArgument(f"a backfill starts in 1970 or later, not at {start}")
        if last <= first:
            raise InvalidArgument(f"a backfill ends after it starts: {end} is not after {start}")
        if last > self.wall():
            raise InvalidArgument(f"a backfill is about ticks that are over; {end} has not come yet")
        return BackfillSchedule(schedule, first, last, overlap, checked_actor(by, check_text(note, "note")))

    @staticmethod
    def delete(schedule: str, by: str | None) -> DeleteSchedule:
        """Return the request to delete a schedule."""
        return DeleteSchedule(schedule, checked_actor(by, None))

    def declared(self, source: ModuleType | Iterable[Schedule], group: str | None) -> tuple[str, list[PutSchedule]]:
        """Return the name under which schedules are declared together, and the requests to make them."""
        if isinstance(source, ModuleType):
            found = schedules_in(source)
            group = group or source.__name__
        else:
            if not isinstance(source, Iterable):
                raise InvalidArgument(
                    f"declare_schedules() takes a module, or a list of Schedule objects, not {shown(source)}"
                )
            found = list(source)
        if group is None:
            raise InvalidArgument(
                "schedules that are no module's need a group=, the name under which they belong together"
            )
        check_id(group, "group")
        seen: dict[str, Schedule] = {}
        for schedule in found:
            if not isinstance(schedule, Schedule):
                raise InvalidArgument(f"declare_schedules() needs Schedule objects, not {shown(schedule)}")
            if seen.setdefault(schedule.id, schedule) is not schedule:
                raise InvalidArgument(
                    f"{group} has two schedules with the id {schedule.id!r}; give one of them another"
                )
        return group, [self.put(schedule, None, declared=group) for schedule in seen.values()]
