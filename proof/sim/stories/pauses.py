"""Pauses: a run that is paused does nothing until it is told to go on, and then it comes to the same end."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

import stepwell
from proof.sim.plan import Action
from proof.sim.stories.story import CALLER, Story, acts, outside, tell
from stepwell import step, workflow
from stepwell.definitions.definition import Workflow
from stepwell.definitions.step_info import StepInfo
from stepwell.model.lifecycle import ENDED
from stepwell.model.retry import Retry
from stepwell.runtime.serving.requests import PauseRun, Request

if TYPE_CHECKING:
    from proof.sim.callers import Call
    from proof.sim.process import Process

_PAUSE: Final = timedelta(milliseconds=15)
_ENTRIES: Final = "SELECT run, max(position) FROM stepwell_journal GROUP BY run"
_STATUS: Final = "SELECT status FROM stepwell_runs WHERE id = ?"


@step(name="story.piece")
async def piece(number: int) -> int:
    """Do a piece of work."""
    acts(number)
    return number


@step(name="story.mended", retry=Retry(attempts=2, delay=0.01, then="pause"))
async def mended(number: int) -> int:
    """Fail until somebody has seen to it: until the faults of the world have ended."""
    acts(number)
    if not outside.world.healing:
        raise OSError("nobody has seen to it")
    return number


@workflow(name="story.pausing")
async def pausing(given: list[int]) -> list[Any]:
    """Do so many pieces of work, with timers between them; and the same as a child's, if it has one."""
    pieces, is_broken, children = given
    found: list[Any] = []
    for number in range(pieces):
        found.append(await piece(number))
        await stepwell.sleep_until(stepwell.now() + _PAUSE)
    if children:
        found.append(await pausing([pieces, 0, children - 1]))
    if is_broken:
        found.append(await mended(pieces))
    return found


def _expected(pieces: int, is_broken: int, children: int) -> list[Any]:
    below = [_expected(pieces, 0, children - 1)] if children else []
    return [*range(pieces), *below, *([pieces] if is_broken else [])]


class Pauses(Story):
    """See the module."""

    name = "pauses"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (pausing,)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._given: dict[str, list[int]] = {}
        self._paused: dict[int, int] = {}  # the runs that were paused after the last commit, and their last entries

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        found: list[Action] = []
        for index in range(chance.choice((1, 2))):
            run_id, at = f"w{index}", chance.randint(0, horizon // 2)
            found.append(tell(at, "start", run_id, chance.getrandbits(20)))
            for _ in range(chance.choice((1, 2, 4))):
                at += chance.randint(0, horizon // 3)
                found.append(tell(at, chance.choice(("pause", "pause", "unpause")), run_id, chance.randint(0, 1)))
        return found

    def request(self, call: Call) -> Request:
        """See `Story`."""
        name, target, number = call.action.name, call.action.target, call.action.number
        if name == "start":
            chance = Random(number)
            given = [chance.randint(1, 4), chance.choice((0, 0, 1)), chance.choice((0, 1))]
            self._given[target] = given
            return self.start(call, pausing, given)
        return PauseRun(target, name == "pause", bool(number), CALLER)

    def executed(self, process: Process, info: StepInfo, label: Any) -> None:
        """See `Story`."""
        super().executed(process, info, label)
        if self.rows(_STATUS, info.run_id) == [("paused",)]:
            self.require(self.is_fenced(process), "a paused run starts nothing", f"{info.run_id}: {label}")

    def after_commit(self) -> None:
        """See `Story`: what was paused, and still is, has come no further."""
        last = dict(self.rows(_ENTRIES))
        paused = {run.key: last.get(run.key, 0) for run in self.runs() if run.status == "paused"}
        for key in paused.keys() & self._paused.keys():
            self.require(paused[key] == self._paused[key], "a paused run does nothing", f"run {key} has another entry")
        self._paused = paused

    def healed(self) -> None:
        """See `Story`: by now each run that was to pause has done so; they all go on."""
        for run in self.runs():
            if run.paused and run.status not in ENDED:
                self.require(run.status == "paused", "a pause reaches its run", f"{run.id} is {run.status}")
                self.ask("unpause", run.id, 0)

    def ended(self) -> None:
        """See `Story`."""
        for run in self.runs():
            if run.id in self._given and run.status == "completed":
                expected = _expected(*self._given[run.id])
                self.require(
                    run.value() == expected, "a run that was paused comes to its end", f"{run.id}: {run.value()}"
                )
