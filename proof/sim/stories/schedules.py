"""Schedules: each tick has one run, from the commit that decides on it, whoever decides, and however often."""

from __future__ import annotations

import json
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

import stepwell
from proof.sim.plan import Action
from proof.sim.stories.pauses import piece
from proof.sim.stories.story import CALLER, Story, tell
from stepwell import workflow
from stepwell.definitions.definition import Workflow
from stepwell.model.calendar_spec import CalendarSpec, Interval
from stepwell.model.lifecycle import ENDED
from stepwell.model.schedule import OVERLAPS, ScheduleDefinition
from stepwell.runtime.requests import Request
from stepwell.runtime.schedule_requests import DeleteSchedule, PauseSchedule, PutSchedule, TriggerSchedule

if TYPE_CHECKING:
    from proof.sim.callers import Call

#: The time between two ticks, and how late one may be done, in microseconds.
_EVERY: Final = 1_000_000
_CATCH_UP: Final = 5_000_000
_SCHEDULES: Final = "SELECT id, definition, state FROM stepwell_schedules"


@workflow(name="story.ticked")
async def ticked(milliseconds: int) -> int:
    """Take so long, which may be longer than the time to the next tick."""
    await piece(milliseconds)
    await stepwell.receive("nothing", int, timeout=milliseconds / 1000)
    return milliseconds


class Schedules(Story):
    """See the module."""

    name = "schedules"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (ticked,)
    horizon = 4 * _EVERY

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        found: list[Action] = []
        for index in range(chance.choice((1, 2))):
            name = f"tick{index}"
            at = chance.randint(0, 1_000_000)
            found.append(tell(at, "put", name, chance.getrandbits(20)))
            for _ in range(chance.choice((0, 1, 3))):
                act = chance.choice(("trigger", "trigger", "pause_schedule", "go_on"))
                found.append(tell(at + chance.randint(0, horizon), act, name))
        for _ in range(chance.choice((0, 2, 4))):
            kind = chance.choice(("crash", "crash_soon", "crash_soon", "fence"))
            tick = _EVERY * chance.randint(1, 4) - chance.choice(
                (-1_000, 0, 1_000)
            )  # the world begins at a whole second
            found.append(Action(tick, kind, place=chance.randrange(2), number=chance.randint(0, 8)))
        return found

    def request(self, call: Call) -> Request:
        """See `Story`."""
        name, target = call.action.name, call.action.target
        if name == "trigger":
            return TriggerSchedule(target, CALLER)
        if name == "delete":
            return DeleteSchedule(target, CALLER)
        if name in ("pause_schedule", "go_on"):
            return PauseSchedule(target, name == "pause_schedule", CALLER)
        chance = Random(call.action.number)
        calendar = CalendarSpec(intervals=(Interval(_EVERY),))
        overlap: Any = chance.choice(OVERLAPS)
        given = [chance.choice((1, 300, 1_400, 3_200))]
        where = f"the input of schedule {target!r}"
        payload, fingerprint = self.world.codec.seal_input(tuple(given), {}, ticked.signature, where, is_typed=True)
        definition = ScheduleDefinition(ticked.name, calendar, fingerprint, overlap=overlap, catch_up=_CATCH_UP)
        return PutSchedule(target, definition, payload, CALLER)

    def after_commit(self) -> None:
        """See `Story`: a schedule has as many runs as it says, and one at a time where it shall."""
        found = self.rows(_SCHEDULES)
        if not found:
            return
        runs = [run for run in self.runs(ticked) if not run.id.endswith("+trigger")]
        for name, definition, encoded in found:
            own = [run for run in runs if run.id.startswith(f"{name}@")]
            state, overlap = json.loads(encoded), json.loads(definition).get("overlap", "skip")
            started = state.get("started", 0)
            self.require(started == len(own), "a tick has one run", f"{name}: {started} of {[run.id for run in own]}")
            active = [run.id for run in own if run.status not in ENDED]
            is_alone = overlap == "allow" or len(active) <= 1
            self.require(is_alone, "the runs of a schedule do not overlap", f"{name}, {overlap}: {active}")

    def heals(self) -> None:
        """See `Story`: no schedule ticks for ever; before it goes, all is done that was due."""
        for name in ("tick0", "tick1"):
            self.world.at(3 * _EVERY, None, partial(self.ask, "delete", name), "asks")
