"""Sagas: what did not get through is undone, all of it, in reverse, whatever dies in between."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

import stepwell
from proof.sim.database import text_of
from proof.sim.plan import Action
from proof.sim.stories.story import CALLER, Story, acts, tell
from stepwell import step, workflow
from stepwell.definitions.definition import Workflow
from stepwell.runtime.serving.requests import CancelRun, Request

if TYPE_CHECKING:
    from proof.sim.callers import Call

_STEPS: Final = "SELECT name, value FROM stepwell_journal WHERE run = ? AND kind = 'step' ORDER BY position"


class NoStockError(Exception):
    """Why a saga does not get through."""


@step(name="story.do")
async def do(number: int) -> int:
    """Do something."""
    acts(number)
    return number


@step(name="story.undo")
async def undo(number: int) -> int:
    """Undo it."""
    acts(number)
    return number


@workflow(name="story.saga")
async def trip(given: list[int]) -> int:
    """Do so many things, failing after some, without a way back from some on; -1: never."""
    count, fails_after, pivot = given
    async with stepwell.saga() as saga:
        for number in range(count):
            if number == pivot:
                saga.pivot()
            saga.undo(undo, await do(number))
            if number == fails_after:
                raise NoStockError
    return count


class Sagas(Story):
    """See the module."""

    name = "sagas"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (trip,)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._given: dict[str, list[int]] = {}

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        found: list[Action] = []
        for index in range(chance.choice((1, 2, 3))):
            run_id, at = f"t{index}", chance.randint(0, horizon // 2)
            found.append(tell(at, "start", run_id, chance.getrandbits(20)))
            if chance.random() < 0.4:
                found.append(tell(at + chance.randint(0, 200_000), "cancel", run_id))
        return found

    def request(self, call: Call) -> Request:
        """See `Story`."""
        target, number = call.action.target, call.action.number
        if call.action.name == "cancel":
            return CancelRun(target, CALLER)
        chance = Random(number)
        count = chance.randint(1, 5)
        fails_after = chance.choice((-1, count - 1, count - 1, chance.randrange(count)))
        self._given[target] = [count, fails_after, chance.choice((-1, -1, chance.randrange(count)))]
        return self.start(call, trip, self._given[target])

    def ended(self) -> None:
        """See `Story`: compare what was undone with what was done."""
        for run in self.runs(trip):
            steps = [(name, json.loads(text_of(value))) for name, value in self.rows(_STEPS, run.key)]
            done = [number for name, number in steps if name == do.name]
            undone = [number for name, number in steps if name == undo.name]
            pivot = self._given[run.id][2]
            # It is passed before the thing of its number is done: without a trace where nothing was done since.
            is_past = pivot >= 0 and len(done) >= pivot
            wanted = [] if run.status == "completed" or is_past else done[::-1]
            self.require(undone == wanted, "a saga is undone in reverse", f"{run.id} {run.status}: {done}, {undone}")
