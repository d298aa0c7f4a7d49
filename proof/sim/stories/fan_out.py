"""Fan-out that bears failures: as many as it may, and what is said of each item is what became of it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import stepwell
from proof.sim.plan import Action
from proof.sim.stories.story import Story, acts, tell
from stepwell import step, workflow
from stepwell.definitions.definition import Workflow
from stepwell.errors import MapFailed
from stepwell.model.retry import Retry
from stepwell.runtime.serving.requests import Request

if TYPE_CHECKING:
    from proof.sim.callers import Call

#: How often the step of an item is tried.
_ATTEMPTS = 2


@step(name="story.item", retry=Retry(attempts=_ATTEMPTS, delay=0.01))
async def each(item: list[int]) -> int:
    """Do one item: its number, and how many attempts of it fail."""
    number, fails = item
    if acts(number).attempt <= fails:
        raise OSError("in vain")
    return number


@workflow(name="story.fan_out")
async def fan_out(given: list[Any]) -> list[Any]:
    """Do all items, as far as they are wanted; return what became of each."""
    items, tolerate, enough, limit = given
    try:
        found = await stepwell.map(each, items, tolerate=tolerate, enough=enough, limit=limit)
    except MapFailed as failed:
        return ["failed", len(failed.exceptions)]
    return ["done", [[one.index, one.status, one.value] for one in found]]


class FanOut(Story):
    """See the module."""

    name = "fan-out"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (fan_out,)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._given: dict[str, list[Any]] = {}

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        return [
            tell(chance.randint(0, horizon // 2), "start", f"m{index}", chance.getrandbits(30))
            for index in range(chance.choice((1, 2)))
        ]

    def request(self, call: Call) -> Request:
        """See `Story`: the items follow from the number of the action."""
        chance = Random(call.action.number)
        items = [[index, chance.choice((0, 0, 1, _ATTEMPTS))] for index in range(chance.randint(1, 6))]
        tolerate = chance.randint(0, 3)
        enough = chance.choice((None, None, chance.randint(1, len(items))))
        given = [items, tolerate, enough, chance.choice((None, 1, 2))]
        self._given[call.action.target] = given
        return self.start(call, fan_out, given)

    def ended(self) -> None:
        """See `Story`: compare each result with the items."""
        for run in self.runs(fan_out):
            items, tolerate, enough, _ = self._given[run.id]
            if run.status == "completed":
                self._check(run.id, run.value(), items, tolerate, enough)

    def _check(self, run_id: str, value: list[Any], items: list[Any], tolerate: int, enough: int | None) -> None:
        doomed = {number for number, fails in items if fails >= _ATTEMPTS}
        bearable = tolerate if enough is None else min(tolerate, len(items) - enough)
        what = f"{run_id}: {items}, {tolerate}, {enough}: {value}"
        if value[0] == "failed":
            self.require(bearable < value[1] <= len(doomed), "so many failures are borne", what)
            return
        failed = {number for number, status, _ in value[1] if status == "failed"}
        done = {number for number, status, result in value[1] if status == "done" and result == number}
        skipped = {number for number, status, _ in value[1] if status == "skipped"}
        self.require(len(failed) <= bearable, "so many failures are borne", what)
        is_whole = failed <= doomed and not done & doomed and len(failed | done | skipped) == len(items)
        self.require(is_whole, "what is said of an item is what became of it", what)
        enough_done = len(done) >= enough if enough is not None else not skipped
        self.require(enough_done, "what is said of an item is what became of it", what)
        executed = {one.label for one in self.log if one.run_id == run_id}
        self.require(done | failed <= executed, "what is said of an item is what became of it", what)
