"""The limit of a journal: a run that has reached it is halted, whoever has it, and however often it was read again."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from proof.sim.plan import Action
from proof.sim.stories.pauses import piece
from proof.sim.stories.story import Story, tell
from stepwell import workflow
from stepwell.definitions.definition import Workflow
from stepwell.runtime.serving.requests import Request

if TYPE_CHECKING:
    from proof.sim.callers import Call

_LIMIT: Final = 6
_LENGTH: Final = "SELECT count(*) FROM stepwell_journal WHERE run = ?"


@workflow(name="story.too_long", max_journal_entries=_LIMIT)
async def too_long(count: int) -> int:
    """Do so many pieces of work."""
    for number in range(count):
        await piece(number)
    return count


class LongJournals(Story):
    """See the module."""

    name = "long journals"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (too_long,)
    may_halt = True
    may_rest = Story.may_rest | {"halted"}

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        return [
            tell(chance.randint(0, horizon // 2), "start", f"l{index}", chance.randint(_LIMIT - 2, _LIMIT + 4))
            for index in range(chance.choice((1, 2)))
        ]

    def request(self, call: Call) -> Request:
        """See `Story`."""
        return self.start(call, too_long, call.action.number)

    def after_commit(self) -> None:
        """See `Story`."""
        for run in self.runs(too_long):
            ((length,),) = self.rows(_LENGTH, run.key)
            # A cancellation, in the end, is heard all the same.
            self.require(length <= _LIMIT + 1, "a journal keeps to its limit", f"{run.id} has {length} entries")
            is_right = run.status != "halted" or length >= _LIMIT
            self.require(is_right, "a journal keeps to its limit", f"{run.id} is halted with {length} entries")
