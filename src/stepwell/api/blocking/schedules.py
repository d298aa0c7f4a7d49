"""Schedules for code that does not use asyncio: what an engine does with them, and the handle of one.

`stepwell.api.awaited.async_schedules` is the awaited twin.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from datetime import datetime
from types import ModuleType
from typing import Any, TypeVarTuple, Unpack, overload

import msgspec

from stepwell.api.blocking.caller import Caller
from stepwell.api.blocking.handles import Run
from stepwell.api.reading.schedule_views import ScheduleInfo
from stepwell.definitions.schedules import SCHEDULE_DEFAULTS, Schedule, ScheduleOptions
from stepwell.definitions.start_options import shows_options
from stepwell.model.schedule import Overlap

Ts = TypeVarTuple("Ts")


class DeclaredSchedules(msgspec.Struct, frozen=True):
    """What became of schedules that code declares: their ids."""

    created: list[str]
    changed: list[str]
    unchanged: list[str]
    removed: list[str]


class Scheduling(Caller):
    """What an engine does with schedules."""

    @overload
    def schedule(self, schedule: Schedule, /, *, by: str | None = None) -> ScheduleHandle: ...

    @overload
    def schedule(
        self,
        workflow: Callable[[*Ts], Any],
        /,
        *args: *Ts,
        id: str,
        by: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleHandle: ...

    @overload
    def schedule(
        self, workflow: str, /, *args: Any, id: str, by: str | None = None, **options: Unpack[ScheduleOptions]
    ) -> ScheduleHandle: ...

    # Of the first overload, which takes no arguments, mypy thinks that the implementation would not take it.
    @shows_options(SCHEDULE_DEFAULTS, SCHEDULE_DEFAULTS)  # type: ignore[misc]
    def schedule(
        self,
        workflow: Callable[[*Ts], Any] | str | Schedule,
        /,
        *args: *Ts,
        id: str = "",
        by: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleHandle:
        """Have `workflow` run with `args` again and again; when this returns, that survives power loss.

        `id` names the schedule. The same id again changes the schedule to be as this says, and it goes on from where it
        is. The run of a tick has the id ``{id}@{tick in UTC}``, so there is never a second one.

        When it ticks:

        - `cron`: one expression or several, of five fields, or of six with seconds in front.
        - `every`: one interval or several, in seconds, as timedeltas, or as `Every` with a phase.
        - `exclude`: cron expressions; no tick at a time that matches one of them.
        - `zone`: the name of the time zone of `cron` and `exclude`.
        - `missing`: what becomes of a time that a clock leaves out: ``"shift"`` to the moment of the change, or
          ``"skip"``. `repeated`: … of one that it shows twice: ``"first"``, ``"last"``, ``"both"``, or ``"once"``: the
          first, but a cron expression for every hour goes on evenly.
        - `start`, `end`: aware datetimes; no tick before the one, none at or after the other.
        - `jitter`: each run begins up to so many seconds later than its tick, but before the next one.

        What a tick does:

        - `overlap`, while an earlier run has not ended: ``"skip"`` the tick, ``"buffer_one"`` or ``"buffer_all"`` until
          that has ended, ``"cancel_running"`` and start then, ``"terminate_running"`` (without its code, as
          `Run.terminate`) and start at once, or ``"allow"`` both.
        - `catch_up`: ticks that nobody was there for are done later, if they are not further back than this; what is
          left out is logged. None: however far back.
        - `pause_on_failure`: pause when a run fails. `limit`: after so many runs the schedule is over.
        - `kwargs`, `deadline` (from its beginning), `queue`, `priority`, `partition` of each run: as for ``start``.

        Raises `InvalidArgument` with the place of the fault for a wrong expression, zone or option, `DefinitionError`
        or `SerializationError` for arguments that do not fit, before anything is written.
        """
        made = workflow if isinstance(workflow, Schedule) else Schedule(workflow, *args, id=id, **options)
        self._ask(self._session.schedules.put(made, by))
        return ScheduleHandle(self, made.id)

    def get_schedule(self, id: str) -> ScheduleHandle:
        """Return the handle of a schedule; raises `ScheduleNotFound`."""
        return ScheduleHandle(self, self._session.reads.schedule(id).id)

    def schedules(self) -> builtins.list[ScheduleHandle]:
        """Return the handles of all schedules, by id."""
        return [ScheduleHandle(self, name) for name in self._session.reads.schedule_ids()]

    def declare_schedules(
        self, source: ModuleType | Iterable[Schedule], *, remove: bool = False, group: str | None = None
    ) -> DeclaredSchedules:
        """Have the schedules that code declares: a module's `Schedule` objects, or those given.

        Those that the file does not know are created, those that differ changed. With `remove`, those that were
        declared before under the same `group` (for a module: its name) and are no more among them are deleted.
        """
        factory = self._session.schedules
        name, requests = factory.declared(source, group)
        found: dict[str, builtins.list[str]] = {"created": [], "changed": [], "unchanged": []}
        for request in requests:
            _, outcome = self._ask(request)
            found[outcome].append(request.id)
        removed: builtins.list[str] = []
        if remove:
            kept = {request.id for request in requests}
            removed = [each for each in self._session.reads.schedule_ids(declared=name) if each not in kept]
            for each in removed:
                self._ask(factory.delete(each, None))
        return DeclaredSchedules(**found, removed=removed)


class ScheduleHandle:
    """A schedule in the file. `id` identifies it. Its methods raise `ScheduleNotFound` if it has been deleted."""

    def __init__(self, engine: Caller, id: str) -> None:
        self.id = id
        self._engine = engine

    def info(self) -> ScheduleInfo:
        """Return the facts about the schedule as they are now, with its next ten ticks and its last ten."""
        return self._engine._session.reads.schedule(self.id)

    def pause(self, note: str | None = None, *, by: str | None = None) -> None:
        """Let no tick start a run until `unpause`; runs under way go on. `note` says why, for people."""
        self._engine._ask(self._engine._session.schedules.pause(self.id, True, note, by))

    def unpause(self, note: str | None = None, *, by: str | None = None) -> None:
        """Let it go on with its next tick; the ticks during the pause are left out (see `backfill`)."""
        self._engine._ask(self._engine._session.schedules.pause(self.id, False, note, by))

    def trigger(self, note: str | None = None, *, by: str | None = None) -> Run[Any]:
        """Start a run now, whatever else is under way, even while the schedule is paused; return its handle."""
        run_id = self._engine._ask(self._engine._session.schedules.trigger(self.id, note, by))
        session = self._engine._session
        return Run(self._engine, run_id, session.definition_of(session.reads.record(run_id)))

    def backfill(
        self,
        start: datetime,
        end: datetime,
        *,
        overlap: Overlap = "buffer_all",
        note: str | None = None,
        by: str | None = None,
    ) -> None:
        """Start the runs of the ticks from `start` until before `end`, aware datetimes in the past; works while paused.

        A tick that already has a run gets no second one. `overlap`: as for ``engine.schedule``, for these ticks; by
        default one run after the other.
        """
        session = self._engine._session
        self._engine._ask(session.schedules.backfill(self.id, start, end, overlap, note, by))

    @shows_options(SCHEDULE_DEFAULTS, SCHEDULE_DEFAULTS)
    def change(self, *, by: str | None = None, **options: Unpack[ScheduleOptions]) -> ScheduleInfo:
        """Change the given options, leave the others, and return the schedule as it is now, with its next ten ticks.

        To change the arguments of the workflow, call ``engine.schedule`` with the same id.
        """
        self._engine._ask(self._engine._session.schedules.change(self.id, options, by))
        return self.info()

    def delete(self, *, by: str | None = None) -> None:
        """Delete the schedule; its runs stay, and go on."""
        self._engine._ask(self._engine._session.schedules.delete(self.id, by))

    def __repr__(self) -> str:
        """Show the id."""
        return f"<ScheduleHandle {self.id!r}>"
