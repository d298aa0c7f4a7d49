"""Starts of an id that a run has, and steps that are started: of several starts, the last one stands."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from msgspec.structs import replace

import stepwell
from proof.sim.database import text_of
from proof.sim.plan import Action
from proof.sim.stories.pauses import piece
from proof.sim.stories.story import Story, tell
from stepwell import workflow
from stepwell.definitions.definition import Workflow
from stepwell.model.start_policy import StartPolicy
from stepwell.runtime.serving.requests import Request, StartRun

if TYPE_CHECKING:
    from proof.sim.callers import Call

_POLICIES: Final = (
    StartPolicy("replace", "always", "a caller"),
    StartPolicy("replace", "always", "a caller"),
    StartPolicy("attach", "always", "a caller"),
    StartPolicy("reject", "never", "a caller"),
)
_NOTED: Final = "SELECT run, input FROM stepwell_replacements"
_GIVEN: Final = "SELECT key, input FROM stepwell_runs WHERE workflow = 'story.replaced'"


@workflow(name="story.replaced")
async def replaced(number: int) -> int:
    """Take a while."""
    await piece(number)
    await stepwell.receive("word", int, timeout=0.03)
    return await piece(number)


class Starting(Story):
    """See the module."""

    name = "starting"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (replaced,)
    ends_are_final = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seen: set[tuple[int, int]] = set()  # what starts brought: the run, the number
        self._latest: dict[int, set[int]] = {}  # what the last commit brought that brought any to a run

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        found: list[Action] = []
        for index in range(chance.choice((1, 2))):
            at = chance.randint(0, horizon // 2)
            for _ in range(chance.choice((2, 3, 5))):
                found.append(tell(at, "start", f"q{index}", chance.randrange(len(_POLICIES))))
                at += chance.choice((0, 5_000, 60_000, 200_000))
        return found

    def request(self, call: Call) -> Request:
        """See `Story`."""
        start = self.start(call, replaced, call.number)
        return StartRun(replace(start.run, policy=_POLICIES[call.action.number]))

    def after_commit(self) -> None:
        """See `Story`: note what was brought, to begin now or when the run that there is has ended."""
        for sql in (_GIVEN, _NOTED):
            brought: dict[int, set[int]] = {}
            for run, given in self.rows(sql):
                number = json.loads(text_of(given))["args"][0]
                if (run, number) not in self._seen:
                    self._seen.add((run, number))
                    brought.setdefault(run, set()).add(number)
            self._latest |= brought

    def rested(self) -> None:
        """See `Story`: nobody has cancelled any of them for good."""
        for run in self.runs(replaced):
            latest = self._latest[run.key]
            stands = run.status == "completed" and run.value() in latest
            self.require(stands, "the last start stands", f"{run.id} is {run.status}, not {latest}")
