"""What a story is: runs of workflows of its own, beside the programs at random, and a judge of what became of them.

A story is about one feature of the engine that a program at random would rarely come to, or whose promises need a judge
of their own. Its runs live in the same world as all others, among the same faults; the general judge holds them to what
is promised of every run (`proof.sim.judge`), and the story to the rest. One world has one story, or none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from proof.sim.database import text_of
from proof.sim.faults import Violation
from proof.sim.plan import Action
from stepwell import current
from stepwell.definitions.definition import Workflow
from stepwell.definitions.step_info import StepInfo
from stepwell.model.acts import Actor
from stepwell.model.lifecycle import ENDED
from stepwell.runtime.serving.requests import Request, StartRun

if TYPE_CHECKING:
    from proof.sim.callers import Call
    from proof.sim.process import Process
    from proof.sim.world import World

#: The names of the workflows of all stories begin so, and those of jobs with a step's that does.
PREFIX = "story."
CALLER = Actor("a caller", "as the story goes")

_RUNS = (
    "SELECT key, id, workflow, status, result, error, paused, journal_from, reason FROM stepwell_runs "
    "WHERE workflow LIKE '%story.%' ORDER BY key"
)
_RECORDED = (
    "SELECT 1 FROM stepwell_journal AS entry JOIN stepwell_runs AS run ON run.key = entry.run WHERE run.id = ? "
    "AND entry.op = ? AND entry.kind IN ('step', 'step_failed') AND entry.position >= run.journal_from"
)
_ALIVE = "SELECT 1 FROM stepwell_workers WHERE epoch = ? AND ended_at IS NULL"


class Row:
    """A run of the story, as its row is now."""

    __slots__ = ("error", "id", "journal_from", "key", "paused", "reason", "result", "status", "workflow")

    id: str
    workflow: str
    status: str

    def __init__(self, row: Sequence[Any]) -> None:
        self.key, self.id, self.workflow, self.status, self.result, self.error, self.paused = row[:7]
        self.journal_from, self.reason = row[7:]

    def value(self) -> Any:
        """Return the result."""
        return json.loads(text_of(self.result))


class Execution:
    """One execution of a step of the story."""

    __slots__ = ("at", "attempt", "label", "op", "run_id")

    def __init__(self, info: StepInfo, label: Any, at: int) -> None:
        self.run_id, self.op, self.attempt = info.run_id, info.operation, info.attempt
        self.label, self.at = label, at


class Story:
    """A story in one world; `rows` reads the file. What a story has of its own overrides the methods here."""

    name: ClassVar[str]
    #: Who carries it: each worker that serves everything serves these as well.
    workflows: ClassVar[tuple[Workflow[..., Any], ...]]
    #: Who is told of failures.
    hooks: ClassVar[tuple[Workflow[..., Any], ...]] = ()
    #: The states in which its runs may be when nothing happens any more.
    may_rest: ClassVar[frozenset[str]] = ENDED
    #: Whether its runs may go on after an end, or be halted.
    ends_are_final: ClassVar[bool] = True
    may_halt: ClassVar[bool] = False
    #: How long faults go on at least, in microseconds.
    horizon: ClassVar[int] = 0

    def __init__(self, world: World, rows: Callable[..., list[Any]]) -> None:
        self.world = world
        self.rows = rows
        self.log: list[Execution] = []

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """Return what callers ask for, at random: actions of the kind ``tell``, whose `name` says what."""
        raise NotImplementedError

    def surroundings(self) -> AbstractContextManager[None]:
        """Return what the world is lived in."""
        return nullcontext()

    # --- what callers ask for ----------------------------------------------------------------------------------------

    def request(self, call: Call) -> Request | None:
        """Return what is asked for by a call; None where it cannot be said yet."""
        raise NotImplementedError

    def start(self, call: Call, workflow: Workflow[..., Any], given: Any, **changes: Any) -> StartRun:
        """Return the request to start the run that a call is about, with one argument."""
        return StartRun(self.world.callers.created(call, call.action.target, workflow.name, given, **changes))

    def acknowledged(self, call: Call) -> None:
        """Look whether the file holds what a caller was told just now."""

    def runs(self, workflow: Workflow[..., Any] | None = None) -> list[Row]:
        """Return the runs of the story, or of one workflow."""
        found = [Row(row) for row in self.rows(_RUNS)]
        return found if workflow is None else [row for row in found if row.workflow == workflow.name]

    def run(self, run_id: str) -> Row | None:
        """Return a run."""
        return next((row for row in self.runs() if row.id == run_id), None)

    # --- what happens ------------------------------------------------------------------------------------------------

    def executed(self, process: Process, info: StepInfo, label: Any) -> None:
        """Take note that a step is executed just now; it must not have been recorded."""
        self.log.append(Execution(info, label, self.world.now))
        self.world.note(process, f"executes {label} of {info.run_id}:{info.operation}")
        what = f"{info.run_id}:{info.operation}, {label}"
        if self.run(info.run_id) is None:
            raise Violation("a step follows a commit", f"{what}, of a run that is not in the file")
        if not self.is_fenced(process) and self.rows(_RECORDED, info.run_id, info.operation):
            raise Violation("a recorded step is not executed again", what)

    def is_fenced(self, process: Process) -> bool:
        """Tell whether a process is no worker of the file any more, which it need not know yet."""
        return not self.rows(_ALIVE, process.members.epoch)

    def after_commit(self) -> None:
        """Look at what a commit left."""

    def heals(self) -> None:
        """The faults end: what must be, so that the world can come to rest."""

    def healed(self) -> None:
        """Nothing happens any more: what must be, so that every run can end."""

    def rested(self) -> None:
        """Nothing happens any more, though everything could have ended."""
        for run in self.runs():
            if run.status not in self.may_rest:
                raise Violation("a run goes on", f"{run.id} of {run.workflow} is {run.status}: {run.reason}")

    def ended(self) -> None:
        """Everything has ended."""

    # --- helpers -----------------------------------------------------------------------------------------------------

    def ask(self, name: str, target: str = "", number: int = 0) -> None:
        """Have a caller ask for something now."""
        self.world.callers.make(Action(0, "tell", target=target, name=name, number=number))

    def calls(self, name: str, outcome: str = "acknowledged") -> list[Call]:
        """Return the calls of a name that had an outcome."""
        return [
            call
            for call in self.world.calls
            if call.action.kind == "tell" and call.action.name == name and call.outcome == outcome
        ]

    def require(self, holds: object, invariant: str, detail: str) -> None:
        """Raise `Violation` where something does not hold."""
        if not holds:
            raise Violation(invariant, detail)


class Outside:
    """The story in whose world steps act now."""

    world: World


outside = Outside()


def acts(label: Any) -> StepInfo:
    """Have the story take note of the step that calls this; return what the step is told of itself."""
    info = current()
    assert isinstance(info, StepInfo)
    world = outside.world
    assert world.story is not None
    world.story.executed(world.active[-1], info, label)
    return info


def tell(at: int, name: str, target: str = "", number: int = 0) -> Action:
    """Return an action of a story."""
    return Action(at, "tell", target=target, name=name, number=number)
