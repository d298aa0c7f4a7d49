"""Waiting in line: runs that stand in a queue, by partition, are brought forward, put off, or deleted unbegun."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from proof.sim.plan import Action
from proof.sim.stories.pauses import piece
from proof.sim.stories.story import CALLER, Story, tell
from stepwell import workflow
from stepwell.definitions.definition import Workflow
from stepwell.model.lifecycle import ENDED
from stepwell.runtime.serving.requests import DeleteRun, Request, RescheduleRun

if TYPE_CHECKING:
    from proof.sim.callers import Call

LINE: Final = "story.line"
_PARTITIONS: Final = ("a", "a", "b")
_RUNS: Final = 6
#: Delays, in milliseconds.
_DELAYS: Final = (0, 0, 5, 300, 60_000)
_STANDS: Final = (
    "SELECT entry.ready_at FROM stepwell_entries AS entry JOIN stepwell_runs AS run ON run.key = entry.run "
    "WHERE run.id = ? AND entry.op = 0 AND entry.state <> 'running'"
)
_BEGUN: Final = "SELECT key FROM stepwell_runs WHERE workflow = 'story.stands' AND started_at IS NOT NULL"


@workflow(name="story.stands")
async def stands(number: int) -> int:
    """Do two pieces of work."""
    return await piece(number) + await piece(number)


class Lines(Story):
    """See the module."""

    name = "lines"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (stands,)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._moved_to: dict[int, int] = {}  # by the number of a call
        self._begun: set[int] = set()

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`: each run is moved once, or deleted, or left alone."""
        found: list[Action] = []
        for index in range(_RUNS):
            at = chance.randint(0, horizon // 4)
            found.append(tell(at, "start", f"l{index}", chance.randrange(len(_DELAYS))))
            act = chance.choice(("move", "move", "delete", "delete", ""))
            if act:
                found.append(tell(at + chance.randint(0, horizon // 2), act, f"l{index}", chance.choice((0, 50_000))))
        return found

    def request(self, call: Call) -> Request:
        """See `Story`."""
        name, target, number = call.action.name, call.action.target, call.action.number
        if name == "start":
            place = [LINE, _PARTITIONS[int(target[1:]) % len(_PARTITIONS)], 0, _DELAYS[number]]
            return self.start(call, stands, number, place=place)
        if name == "delete":
            return DeleteRun(target, CALLER)
        self._moved_to[call.number] = self.world.now + number
        return RescheduleRun(target, 0, self._moved_to[call.number], CALLER)

    def acknowledged(self, call: Call) -> None:
        """See `Story`."""
        name, target = call.action.name, call.action.target
        if name == "move" and not call.unknown:
            for (ready_at,) in self.rows(_STANDS, target):
                at = self._moved_to[call.number]
                waits = ready_at <= at <= self.world.now  # it waits already, and goes on doing so
                self.require(
                    ready_at == at or waits, "what is acknowledged is durable", f"{target}: {ready_at}, moved to {at}"
                )
        starts = [each for each in self.calls("start") if each.action.target == target]
        if name == "delete" and starts:  # else its start is repeated, and may be again
            self.require(self.run(target) is None, "what is acknowledged is durable", f"{target} is not deleted")

    def after_commit(self) -> None:
        """See `Story`: a run that was begun, and has not ended, is not deleted."""
        now = {key for (key,) in self.rows(_BEGUN)}
        gone = self._begun - now
        self.require(not gone, "what has begun is not deleted", f"runs {gone}")
        self._begun = {run.key for run in self.runs(stands) if run.key in now and run.status not in ENDED}
