"""Steps that are started by themselves: a job is recorded before it is executed, and its result is that of the step."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from proof.sim.plan import Action
from proof.sim.stories.story import Story, acts, tell
from stepwell import step
from stepwell.definitions.definition import Workflow
from stepwell.definitions.jobs import job_of
from stepwell.model.retry import Retry
from stepwell.runtime.serving.requests import Request

if TYPE_CHECKING:
    from proof.sim.callers import Call

_ATTEMPTS: Final = 3


@step(name="story.job", retry=Retry(attempts=_ATTEMPTS, delay=0.01))
async def alone(fails: int) -> int:
    """Fail so often."""
    if acts(fails).attempt <= fails:
        raise OSError("in vain")
    return fails


JOB: Final = job_of(alone)


class Jobs(Story):
    """See the module."""

    name = "jobs"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (JOB,)

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        return [
            tell(chance.randint(0, horizon // 2), "start", f"j{index}", chance.choice((0, 0, 1, _ATTEMPTS)))
            for index in range(chance.randint(1, 5))
        ]

    def request(self, call: Call) -> Request:
        """See `Story`."""
        return self.start(call, JOB, call.action.number)

    def ended(self) -> None:
        """See `Story`."""
        for run in self.runs(JOB):
            mine = [one.label for one in self.log if one.run_id == run.id]
            fails = mine[-1] if mine else -1
            wanted = "failed" if fails >= _ATTEMPTS else "completed"
            self.require(mine and run.status == wanted, "a job ends as its step does", f"{run.id} is {run.status}")
            if run.status == "completed":
                self.require(run.value() == fails, "a job ends as its step does", f"{run.id}: {run.value()}")
