"""Polls: whatever becomes of its workers, a poll knows how often it was tried, and ends with the first that fits."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from proof.sim.plan import Action
from proof.sim.stories.story import Story, acts, tell
from stepwell import poll_until, step, workflow
from stepwell.definitions.definition import Workflow
from stepwell.runtime.serving.requests import Request

if TYPE_CHECKING:
    from proof.sim.callers import Call
    from proof.sim.world import World

_EVERY_SECONDS: Final = 0.02
_TRIES: Final = "SELECT run, op, done, ended FROM stepwell_progress WHERE kind = 'poll'"
_ENTRIES: Final = "SELECT count(*) FROM stepwell_journal WHERE run = ? AND op > 0"


@step(name="story.asked")
async def asked(label: str) -> int:
    """Return how often it was asked."""
    return acts(label).attempt


@workflow(name="story.polls")
async def polls(count: int) -> int:
    """Ask until it was asked so often."""
    return await poll_until(asked, "asked", until=lambda tries: tries >= count, every=_EVERY_SECONDS)


class Polling(Story):
    """See the module."""

    name = "polling"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (polls,)

    def __init__(self, world: World, rows: Any) -> None:
        super().__init__(world, rows)
        self._tries: dict[tuple[int, int], int] = {}

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        return [
            tell(chance.randint(0, horizon // 2), "start", f"p{index}", chance.randint(1, 8))
            for index in range(chance.randint(1, 3))
        ]

    def request(self, call: Call) -> Request:
        """See `Story`."""
        return self.start(call, polls, call.action.number)

    def after_commit(self) -> None:
        """See `Story`."""
        for run, op, done, _ended in self.rows(_TRIES):
            before = self._tries.get((run, op), 0)
            self.require(
                done >= before, "a poll keeps its tries", f"operation {op} of run {run}: {before}, then {done}"
            )
            self._tries[run, op] = done

    def ended(self) -> None:
        """See `Story`."""
        for run in self.runs(polls):
            if run.status == "completed":
                ((entries,),) = self.rows(_ENTRIES, run.key)
                tries = self._tries.get((run.key, 1), 0)
                self.require(run.value() == tries + 1, "a poll keeps its tries", f"{run.id}: {run.value()}, {tries}")
                self.require(entries == 1, "a poll has one entry", f"{run.id} has {entries}")
