"""Going back: runs are rewound, restarted and forked; what was to be kept is there, and nothing else is."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

import stepwell
from proof.sim.plan import Action
from proof.sim.stories.story import CALLER, Row, Story, acts, outside, tell
from stepwell import step, workflow
from stepwell.definitions.definition import Workflow
from stepwell.runtime.serving.requests import ForkRun, Request, RewindRun

if TYPE_CHECKING:
    from proof.sim.callers import Call

_ENTRIES: Final = (
    "SELECT op, kind, name, value, attempt FROM stepwell_journal WHERE run = ? AND position >= ? ORDER BY position"
)
_WRITTEN: Final = (
    "SELECT item.op FROM stepwell_stream_items AS item JOIN stepwell_streams AS stream ON stream.key = item.stream "
    "WHERE stream.run = ? AND item.superseded = 0 ORDER BY item.number"
)

Entry = tuple[Any, ...]


@step(name="story.counted")
async def counted(number: int) -> int:
    """Return what nobody could know: how many steps there were before in this world."""
    acts(number)
    story = outside.world.story
    assert story is not None
    return len(story.log)


@workflow(name="story.long_way")
async def long_way(count: int) -> list[int]:
    """Take so many steps, and write each to a stream."""
    found: list[int] = []
    for number in range(count):
        found.append(await counted(number))
        await stepwell.stream("way").write(found[-1])
    return found


class Rewinding(Story):
    """See the module."""

    name = "rewinding"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (long_way,)
    ends_are_final = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._from: dict[str, int] = {}  # where the present chapter of each run begins in the journal
        self._entries: dict[str, list[Entry]] = {}  # of the present chapter, as they were after the last commit
        self._asked: dict[
            str, set[int]
        ] = {}  # to which operations each run was to go back; a fork: with which it begins

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        found: list[Action] = []
        for index in range(chance.choice((1, 2))):
            run_id, at = f"g{index}", chance.randint(0, horizon // 3)
            found.append(tell(at, "start", run_id, chance.randint(2, 5)))
            for _ in range(chance.choice((1, 2, 3))):
                at += chance.randint(0, horizon // 2)
                name = chance.choice(("rewind", "rewind", "fork", "fork", "restart"))
                found.append(tell(at, name, run_id, chance.randint(1, 9)))
        return found

    def request(self, call: Call) -> Request:
        """See `Story`."""
        name, target, number = call.action.name, call.action.target, call.action.number
        if name == "start":
            return self.start(call, long_way, number)
        if name == "fork":
            fork_id = f"{target}-fork-{call.number}"
            self._asked.setdefault(fork_id, set()).add(number)
            return ForkRun(target, number, fork_id, CALLER)
        self._asked.setdefault(target, set()).add(number if name == "rewind" else 0)
        return RewindRun(target, number if name == "rewind" else None, CALLER)

    def healed(self) -> None:
        """See `Story`: now that they rest, some of them go back for certain."""
        for run in self.runs():
            self.ask("rewind", run.id, 3)
            self.ask("fork", run.id, 4)

    def after_commit(self) -> None:
        """See `Story`: look at each chapter that has begun."""
        runs = self.runs()
        now = {run.id: self.rows(_ENTRIES, run.key, run.journal_from) for run in runs}
        for run in runs:
            before = self._from.get(run.id)
            source = (run.id.rpartition("-fork-")[0] or run.id) if before is None else run.id
            if (before is None and source != run.id) or (before is not None and before != run.journal_from):
                sources = [self._entries.get(source, [])]
                if source != run.id:  # which may have come further in the commit that has the fork
                    sources.append(now.get(source, []))
                self._check(run, now[run.id], sources)
            self._from[run.id] = run.journal_from
        self._entries = now

    def _check(self, run: Row, kept: list[Entry], sources: list[list[Entry]]) -> None:
        """Look whether what a chapter begins with is what the one before has of the operations that were to stay."""
        wanted = [
            [entry for entry in source if 0 < entry[0] < to] for to in self._asked.get(run.id, ()) for source in sources
        ]
        found = [entry for entry in kept if entry[0] > 0]
        self.require(found in wanted, "what a rewind keeps is what there was", f"{run.id}: {found}, not of {wanted}")

    def ended(self) -> None:
        """See `Story`: each result is what the steps of the present chapter returned, as is the stream."""
        for run in self.runs(long_way):
            if run.status != "completed":
                continue
            entries = self.rows(_ENTRIES, run.key, run.journal_from)
            steps = [int(value) for _, kind, _, value, _ in entries if kind == "step"]
            self.require(run.value() == steps, "a result is that of the chapter", f"{run.id}: {run.value()}, {steps}")
            written = [op for (op,) in self.rows(_WRITTEN, run.key)]
            recorded = [op for op, kind, *_ in entries if kind == "streamed"]
            if "-fork-" in run.id:
                recorded = [op for op in recorded if op in written]
            self.require(written == recorded, "an item of a stream is written once", f"{run.id}: {written}, {recorded}")
