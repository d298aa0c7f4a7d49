"""Outcomes that are set by hand: what a caller was told is recorded is what the run goes on with."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from proof.sim.database import text_of
from proof.sim.plan import Action
from proof.sim.stories.story import CALLER, Story, acts, tell
from stepwell import step, workflow
from stepwell.definitions.definition import Workflow
from stepwell.runtime.serving.requests import Request, SettleStep

if TYPE_CHECKING:
    from proof.sim.callers import Call

#: What is said of a step is from here on, which no step returns.
_SAID: Final = 1_000
_FAILED: Final = "SELECT op FROM stepwell_journal WHERE run = ? AND kind = 'step_failed'"
_NOTES: Final = "SELECT value FROM stepwell_settlements WHERE run = ? AND op = ?"
_OUTCOME: Final = "SELECT value FROM stepwell_journal WHERE run = ? AND op = ? AND kind = 'step'"


@step(name="story.once", delivery="at-most-once")
async def once(number: int) -> int:
    """Act at most once."""
    acts(number)
    return number


@workflow(name="story.unsure")
async def unsure(count: int) -> list[int]:
    """Take so many steps of which each may be interrupted."""
    return [await once(number) for number in range(count)]


class Settling(Story):
    """See the module."""

    name = "settling"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (unsure,)
    ends_are_final = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._said: dict[tuple[str, int], set[int]] = {}

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        found: list[Action] = []
        for index in range(chance.choice((1, 2))):
            run_id, at = f"u{index}", chance.randint(0, horizon // 2)
            found.append(tell(at, "start", run_id, chance.randint(1, 4)))
            for _ in range(chance.choice((1, 2, 4))):
                at += chance.randint(0, 150_000)
                found.append(tell(at, "settle", run_id, chance.randint(1, 3)))
        return found

    def request(self, call: Call) -> Request:
        """See `Story`."""
        target, number = call.action.target, call.action.number
        if call.action.name == "start":
            return self.start(call, unsure, number)
        self._said.setdefault((target, number), set()).add(_SAID + call.number)
        return SettleStep(target, number, "step", json.dumps(_SAID + call.number), CALLER)

    def acknowledged(self, call: Call) -> None:
        """See `Story`: it is the outcome, or noted for whoever has the run; or somebody else has said more since."""
        if call.action.name != "settle":
            return
        run, op = self.run(call.action.target), call.action.number
        assert run is not None
        found = {int(text_of(value)) for sql in (_NOTES, _OUTCOME) for (value,) in self.rows(sql, run.key, op)}
        is_there = bool(found & self._said[run.id, op])
        # Or its worker found, when it read the note, that the step had ended by itself.
        self.require(is_there or found, "what is acknowledged is durable", f"{call.action}: {found}")

    def healed(self) -> None:
        """See `Story`: what was interrupted, and failed its run, is settled."""
        for run in self.runs():
            if run.status == "failed":
                for (op,) in self.rows(_FAILED, run.key):
                    self.ask("settle", run.id, op)

    def rested(self) -> None:
        """See `Story`: what was settled has gone on."""
        for run in self.runs():
            self.require(run.status == "completed", "what was said of a step is taken", f"{run.id} is {run.status}")

    def ended(self) -> None:
        """See `Story`."""
        for run in self.runs():
            if run.status != "completed":
                continue
            alone = {
                call.action.number
                for call in self.calls("settle")
                if call.action.target == run.id and not call.action.at
            }
            own = [op for op in alone if run.value()[op - 1] < _SAID]  # though nobody else had the run any more
            self.require(not own, "what was said of a step is taken", f"{run.id}: {run.value()}, settled: {alone}")
            for number, value in enumerate(run.value()):
                fits = value == number or value in self._said.get((run.id, number + 1), ())
                self.require(fits, "a step has the outcome that was said", f"{run.id}: {run.value()}")
