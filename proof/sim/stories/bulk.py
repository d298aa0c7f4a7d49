"""Acts on many runs: each run that there was is acted on, though whoever is at it dies in between."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final
from unittest.mock import patch

import stepwell
from proof.sim.plan import Action
from proof.sim.stories.pauses import piece
from proof.sim.stories.story import CALLER, Row, Story, acts, outside, tell
from stepwell import PermanentError, step, workflow
from stepwell.definitions.definition import Workflow
from stepwell.model.lifecycle import ENDED
from stepwell.runtime.serving import bulk_requests
from stepwell.runtime.serving.requests import BulkAct, PauseRun, Request, StartBulk
from stepwell.store.inspector import RunFilter

if TYPE_CHECKING:
    from proof.sim.callers import Call

#: So few runs are a page, so that each act has several.
_PAGE: Final = 2
_ACTS: Final[tuple[BulkAct, ...]] = ("pause", "cancel", "terminate")
#: What is done to runs that have ended, or have failed.
_LATE_ACTS: Final[tuple[BulkAct, ...]] = ("retry", "delete")
_BULKS: Final = "SELECT id, act, total, seen, ended_at, before_key FROM stepwell_bulk_acts"


@workflow(name="story.many")
async def many(number: int) -> int:
    """Wait for a word that does not come, after a piece of work."""
    await piece(number)
    await stepwell.receive("word", int)
    return number


@step(name="story.seen_to")
async def seen_to(number: int) -> int:
    """Fail for every other number, until the faults of the world have ended."""
    acts(number)
    if number % 2 and not outside.world.healing:
        raise PermanentError("nobody has seen to it")
    return number


@workflow(name="story.fleeting")
async def fleeting(number: int) -> list[int]:
    """Do two pieces of work, of which the second one may fail."""
    return [await piece(number), await seen_to(number)]


class Bulk(Story):
    """See the module."""

    name = "bulk acts"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (many, fleeting)
    ends_are_final = False
    may_rest = ENDED | {"waiting"}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._meant: dict[int, set[int]] = {}  # the runs that there were when each act began

    def after_commit(self) -> None:
        """See `Story`."""
        for number, act, *_, before_key in self.rows(_BULKS):
            if number not in self._meant:
                self._meant[number] = {run.key for run in self.runs() if run.key < before_key and _is_meant(act, run)}

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        found = [tell(chance.randint(0, horizon // 3), "start", f"b{index}", index) for index in range(7)]
        found.append(tell(chance.randint(horizon // 3, horizon), "act", chance.choice(_ACTS)))
        found += [tell(chance.randint(0, horizon // 3), "begin", f"c{index}", index) for index in range(5)]
        found += [
            tell(chance.randint(horizon // 3, horizon), "act", act) for act in _LATE_ACTS if chance.random() < 0.5
        ]
        return found

    def request(self, call: Call) -> Request:
        """See `Story`."""
        name, target = call.action.name, call.action.target
        if name == "start":
            return self.start(call, many, call.action.number)
        if name == "begin":
            return self.start(call, fleeting, call.action.number)
        if name == "unpause":
            return PauseRun(target, paused=False, children=False, actor=CALLER)
        if target in _LATE_ACTS:
            late: BulkAct = "retry" if target == "retry" else "delete"
            runs = RunFilter(status=("failed",) if late == "retry" else tuple(ENDED), workflow=fleeting.name)
            return StartBulk(late, f"workflow:{fleeting.name}", runs, CALLER)
        act = next(act for act in _ACTS if act == target)
        return StartBulk(act, f"workflow:{many.name}", RunFilter(workflow=many.name), CALLER)

    @contextmanager
    def surroundings(self) -> Generator[None]:
        """See `Story`."""
        with patch.object(bulk_requests, "_CHUNK", _PAGE):
            yield

    def rested(self) -> None:
        """See `Story`: what was terminated is in no memory any more, and nothing is left of what had failed."""
        super().rested()
        for run in self.runs(fleeting):
            text = f"{run.id} is {run.status}, though what had failed was retried"
            self.require(run.status != "failed", "an act on many runs leaves none out", text)
        self.world.at(1, None, partial(self.ask, "act", "delete"), "asks")
        over = {run.key for run in self.runs() if run.status in ENDED}
        for process in self.world.processes:
            kept = over.intersection(process.turn_loop.worker.memory.runs)
            self.require(not kept, "what has ended leaves memory", f"{process.name} has {kept}")

    def healed(self) -> None:
        """See `Story`: by now each act is done, to all runs that there were; what has failed is brought back."""
        for number, act, total, seen, ended_at, _ in self.rows(_BULKS):
            what = f"act {number}, {act}: {seen} of {total}"
            self.require(ended_at is not None, "an act on many runs goes on", what)
            if act in _LATE_ACTS:
                continue
            for run in self.runs(many):
                is_done = run.status in ENDED or run.paused or run.key not in self._meant[number]
                self.require(is_done, "an act on many runs leaves none out", f"{what}: {run.id}")
            meant = len(self._meant[number])
            text = "an act on many runs acts on each of them once"
            self.require(seen == total == meant, text, f"{what}, of {meant} that there were")
        self.ask("act", "retry")
        for run in self.runs(many):
            if run.paused:
                self.ask("unpause", run.id)

    def ended(self) -> None:
        """See `Story`: no run is there that was deleted, and each act is done."""
        open_acts = [row for row in self.rows(_BULKS) if row[4] is None]
        self.require(not open_acts, "an act on many runs goes on", f"{open_acts}")
        left = [run.id for run in self.runs(fleeting)]
        self.require(not left, "an act on many runs leaves none out", f"{left} were deleted in the end")


def _is_meant(act: str, run: Row) -> bool:
    if act not in _LATE_ACTS:
        return bool(run.workflow == many.name)
    return run.workflow == fleeting.name and (run.status == "failed" if act == "retry" else run.status in ENDED)
