"""Progress: what a step says of how far it is outlives its attempts and its workers, and never goes back."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

import stepwell
from proof.sim.plan import Action
from proof.sim.stories.story import Story, acts, tell
from stepwell import step, workflow
from stepwell.definitions.definition import Workflow
from stepwell.model.retry import Retry
from stepwell.runtime.serving.requests import Request

if TYPE_CHECKING:
    from proof.sim.callers import Call

#: Some attempts follow within half a second, which is how often the file is told, and some do not.
_RETRY: Final = Retry(attempts=6, delay=0.1, backoff=2.0, jitter=0)
_SAID: Final = "SELECT run, op, done, ended FROM stepwell_progress WHERE kind = 'step'"


@step(name="story.says", retry=_RETRY)
async def says(fails: int) -> int:
    """Go on where the last attempt was, by one, and fail so often."""
    info = acts(fails)
    last = info.last_progress
    done = 1 if last is None else int(last.done) + 1
    info.progress(done, note=f"attempt {info.attempt}")
    if info.attempt <= fails:
        raise OSError("not yet")
    return done


@workflow(name="story.far")
async def far(fails: int) -> list[int]:
    """Call such a step, wait, and call it again."""
    first = await says(fails)
    await stepwell.receive("word", int, timeout=0.2)
    return [first, await says(1)]


class Progress(Story):
    """See the module."""

    name = "progress"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (far,)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._said: dict[tuple[int, int], int] = {}

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        return [
            tell(chance.randint(0, horizon // 2), "start", f"f{index}", chance.randint(0, 4))
            for index in range(chance.randint(1, 4))
        ]

    def request(self, call: Call) -> Request:
        """See `Story`."""
        return self.start(call, far, call.action.number)

    def after_commit(self) -> None:
        """See `Story`."""
        for run, op, done, _ended in self.rows(_SAID):
            before = self._said.get((run, op), 0)
            self.require(
                done >= before, "progress outlives attempts", f"operation {op} of run {run}: {before}, then {done}"
            )
            self._said[run, op] = done

    def ended(self) -> None:
        """See `Story`."""
        fails = {(one.run_id, one.op): one.label for one in self.log}
        over = {(run, op): ended for run, op, _, ended in self.rows(_SAID)}
        for run in self.runs(far):
            if run.status == "completed":
                said = [self._said[place] for place in sorted(over) if place[0] == run.key]
                for (run_id, op), number in fails.items():
                    if run_id == run.id:  # each attempt that failed went on by one
                        at = self._said[run.key, op]
                        what = f"operation {op} of {run_id} failed {number} times, and is at {at}"
                        self.require(at > number, "progress outlives attempts", what)
                text = "what a step said last stands with its end"
                self.require(said == run.value(), text, f"{run.id}: {run.value()}, in the file {said}")
                self.require(all(over[place] for place in over if place[0] == run.key), text, f"{run.id}: {over}")
