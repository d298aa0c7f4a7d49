"""Being told of failures: each failure of a run has one run of the hook, from the very commit that has the failure."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from proof.sim.plan import Action
from proof.sim.stories.story import CALLER, Story, acts, tell
from stepwell import step, workflow
from stepwell.definitions.definition import Workflow
from stepwell.model.failed_run import FailedRun
from stepwell.runtime.serving.requests import Request, RetryRun

if TYPE_CHECKING:
    from proof.sim.callers import Call

_ALL: Final = "SELECT id, status FROM stepwell_runs"


@step(name="story.try_it")
async def try_it(label: str) -> None:
    """Fail."""
    acts(label)
    raise OSError("in vain")


@step(name="story.alarm")
async def alarm(run_id: str) -> str:
    """Tell somebody."""
    acts(run_id)
    return run_id


@workflow(name="story.failing")
async def failing(depth: int) -> None:
    """Fail, or have a child that does."""
    if depth:
        await failing(depth - 1)
    await try_it(f"depth {depth}")


@workflow(name="story.hook")
async def hook(failed: FailedRun) -> str:
    """Hear of a failure."""
    return await alarm(failed.run_id)


class Failures(Story):
    """See the module."""

    name = "failures"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (failing, hook)
    hooks: ClassVar[tuple[Workflow[..., Any], ...]] = (hook,)
    ends_are_final = False  # they are retried

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._status: dict[str, str] = {}
        self._failures: Counter[str] = Counter()

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        found: list[Action] = []
        for index in range(chance.choice((1, 2, 3))):
            run_id = f"f{index}"
            found.append(tell(chance.randint(0, horizon // 2), "start", run_id, chance.choice((0, 0, 1))))
            if chance.random() < 0.5:
                found.append(tell(chance.randint(0, horizon), "retry", run_id))
        return found

    def request(self, call: Call) -> Request:
        """See `Story`."""
        if call.action.name == "start":
            return self.start(call, failing, call.action.number)
        return RetryRun(call.action.target, CALLER)

    def after_commit(self) -> None:
        """See `Story`: count the failures, and the runs that are told."""
        for run_id, status in self.rows(_ALL):  # the programs at random fail as well
            if status == "failed" != self._status.get(run_id):
                self._failures[run_id] += 1
            self._status[run_id] = status
        told = Counter(run.id.partition(":failure:")[0] for run in self.runs(hook))
        for run_id in self._failures | told:
            self.require(
                self._failures[run_id] == told[run_id],
                "each failure has one run that is told",
                f"{run_id} failed {self._failures[run_id]} times, and {told[run_id]} runs were told",
            )

    def ended(self) -> None:
        """See `Story`: what was to be told was told."""
        for run in self.runs(hook):
            told = run.id.partition(":failure:")[0]
            fits = run.status == "completed" and run.value() == told
            self.require(fits, "who is told of a failure hears which", f"{run.id}: {run.status}")
