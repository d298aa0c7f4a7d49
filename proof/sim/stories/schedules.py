"""Schedules: each tick has one run, from the commit that decides on it, whoever decides, and however often.

So has each tick of a backfill, and a run that somebody asked for now; a limit is never exceeded, and a schedule that is
to pause on failure starts nothing after one.
"""

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
from stepwell.model.schedule import OVERLAPS, Overlap, ScheduleDefinition, run_id_of
from stepwell.runtime.serving.requests import Request
from stepwell.runtime.serving.schedule_requests import (
    BackfillSchedule,
    DeleteSchedule,
    PauseSchedule,
    PutSchedule,
    TriggerSchedule,
)

if TYPE_CHECKING:
    from proof.sim.callers import Call

#: The time between two ticks, and how late one may be done, in microseconds.
_EVERY: Final = 1_000_000
_CATCH_UP: Final = 5_000_000
#: Backfills are about ticks of the day before, which nothing else is about: half a minute of it.
_DAY_BEFORE: Final = 1_763_713_600_000_000
_BACKFILLED: Final = 30
_DAY_AFTER: Final = _DAY_BEFORE + 60 * _EVERY
#: How long what is backfilled may take in the end, one run after the other.
_LONG: Final = 60 * _EVERY
_SCHEDULES: Final = "SELECT id, definition, state FROM stepwell_schedules"


@workflow(name="story.ticked")
async def ticked(milliseconds: int) -> int:
    """Take so long, which may be longer than the time to the next tick; fail after it, where that is below zero."""
    await piece(milliseconds)
    await stepwell.receive("nothing", int, timeout=abs(milliseconds) / 1000)
    if milliseconds < 0:
        raise ValueError(milliseconds)
    return milliseconds


class _Watched:
    """What is known of one schedule after the last commit."""

    def __init__(self) -> None:
        self.runs: set[str] = set()
        self.failed: set[str] = set()
        self.unpaused = 0
        self.must_rest = False  # a run has failed, and nobody has let it go on since


class Schedules(Story):
    """See the module."""

    name = "schedules"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (ticked,)
    horizon = 4 * _EVERY

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._watched: dict[str, _Watched] = {}
        self._ranges: dict[str, list[tuple[int, int]]] = {}  # the backfills of each schedule that were acknowledged

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        found: list[Action] = []
        for index in range(chance.choice((1, 2))):
            name = f"tick{index}"
            at = chance.randint(0, 1_000_000)
            found.append(tell(at, "put", name, chance.getrandbits(20)))
            for _ in range(chance.choice((0, 1, 3))):
                act = chance.choice(("trigger", "trigger", "pause_schedule", "go_on", "backfill"))
                found.append(tell(at + chance.randint(0, horizon), act, name, chance.getrandbits(20)))
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
        if name == "backfill":
            start, end, policy = _range_of(call.action)
            return BackfillSchedule(target, start, end, policy, CALLER)
        chance = Random(call.action.number)
        calendar = CalendarSpec(intervals=(Interval(_EVERY),))
        overlap: Any = chance.choice(OVERLAPS)
        given = [chance.choice((1, 300, 1_400, 3_200)) * chance.choice((1, 1, 1, -1))]
        where = f"the input of schedule {target!r}"
        payload, fingerprint = self.world.codec.seal_input(tuple(given), {}, ticked.signature, where, is_typed=True)
        definition = ScheduleDefinition(
            ticked.name,
            calendar,
            fingerprint,
            overlap=overlap,
            catch_up=_CATCH_UP,
            limit=chance.choice((None, None, 1, 2, 3)),
            pause_on_failure=chance.choice((False, True)),
        )
        return PutSchedule(target, definition, payload, CALLER)

    def acknowledged(self, call: Call) -> None:
        """See `Story`: a run that was asked for now is there, and a backfill is known of."""
        name, target = call.action.name, call.action.target
        if name == "trigger":
            told = sum(each.action.target == target for each in self.calls("trigger"))
            there = [run.id for run in self.runs(ticked) if run.id.startswith(f"{target}@") and _is_trigger(run.id)]
            self.require(told <= len(there), "what is acknowledged is durable", f"{told} triggers: {there}")
        elif name == "backfill":
            start, end, _ = _range_of(call.action)
            self._ranges.setdefault(target, []).append((start, end))

    def after_commit(self) -> None:
        """See `Story`: a schedule has as many runs as it says, and one at a time where it shall."""
        found = self.rows(_SCHEDULES)
        if not found:
            return
        of_all = self.runs(ticked)
        for name, definition, encoded in found:
            everything = [run for run in of_all if run.id.startswith(f"{name}@")]
            own = [run for run in everything if not _is_trigger(run.id) and run.id > run_id_of(name, _DAY_AFTER)]
            state, asked = json.loads(encoded), json.loads(definition)
            started, overlap = state.get("started", 0), asked.get("overlap", "skip")
            self.require(started == len(own), "a tick has one run", f"{name}: {started} of {[run.id for run in own]}")
            active = [run.id for run in own if run.status not in ENDED]
            is_alone = overlap == "allow" or len(active) <= 1
            self.require(is_alone, "the runs of a schedule do not overlap", f"{name}, {overlap}: {active}")
            limit = asked.get("limit", len(own))
            self.require(len(own) <= limit, "the limit of a schedule is kept", f"{name}: {len(own)} of {limit}")
            ids = {run.id for run in everything}
            self._look_at_backfills(name, state, ids)
            failed = {run.id for run in everything if run.status == "failed"}
            unpaused = sum(act["act"] == "unpause" for act in state.get("acts", ()))
            self._look_at_failures(name, {run.id for run in own}, failed, unpaused, asked)

    def _look_at_backfills(self, name: str, state: dict[str, Any], ids: set[str]) -> None:
        """Look whether each tick that somebody was told is done has its run, or is still to be done."""
        left = state.get("backfills", ())
        for start, end in self._ranges.get(name, ()):
            for tick in range(start, end, _EVERY):
                is_left = any(each["next"] <= tick < each["end"] for each in left)
                run_id = run_id_of(name, tick)
                self.require(is_left or run_id in ids, "a backfill does each tick", f"{run_id}, of {left}")

    def _look_at_failures(
        self, name: str, runs: set[str], failed: set[str], unpaused: int, asked: dict[str, Any]
    ) -> None:
        """Look whether a schedule that is to pause has started anything in a commit after that of a failure."""
        last = self._watched.setdefault(name, _Watched())
        if unpaused != last.unpaused:
            last.must_rest = False
        fresh = runs - last.runs
        is_kept = not (last.must_rest and fresh and asked.get("pause_on_failure"))
        self.require(is_kept, "a failure pauses its schedule", f"{name} starts {fresh} after {last.failed}")
        last.must_rest = last.must_rest or bool(failed - last.failed)
        last.runs, last.failed, last.unpaused = runs, failed, unpaused

    def heals(self) -> None:
        """See `Story`: no schedule ticks for ever; before it goes, all is done that was due."""
        for name in ("tick0", "tick1"):
            if self._ranges.get(name):
                self.world.at(3 * _EVERY, None, partial(self.ask, "pause_schedule", name), "asks")
                self.world.at(_LONG, None, partial(self._look_at_the_end, name), "looks")
            wait = _LONG if self._ranges.get(name) else 3 * _EVERY
            self.world.at(wait, None, partial(self.ask, "delete", name), "asks")

    def _look_at_the_end(self, name: str) -> None:
        """Look whether what is backfilled has been done, but for what a pause holds up."""
        for found, _, encoded in self.rows(_SCHEDULES):
            left = [each for each in json.loads(encoded).get("backfills", ()) if not each.get("held")]
            self.require(found != name or not left, "a backfill comes to its end", f"{name}: {left}")


def _range_of(action: Action) -> tuple[int, int, Overlap]:
    chance = Random(action.number)
    start = _DAY_BEFORE + chance.randrange(_BACKFILLED) * _EVERY
    policy: Overlap = chance.choice(("buffer_all", "buffer_all", "allow"))
    return start, start + chance.randint(1, 3) * _EVERY, policy


def _is_trigger(run_id: str) -> bool:
    return run_id.endswith("+trigger")
