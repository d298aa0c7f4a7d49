"""Going on as new: one id, chapter after chapter, and nothing that was said to it is lost or heard twice."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

import stepwell
from proof.sim.plan import Action
from proof.sim.stories.pauses import piece
from proof.sim.stories.story import Story, tell
from stepwell import workflow
from stepwell.definitions.definition import Workflow
from stepwell.runtime.serving.requests import OutgoingMessage, Request, SendMessage

if TYPE_CHECKING:
    from proof.sim.callers import Call

_CHAPTERS: Final = "SELECT number FROM stepwell_chapters WHERE run = ? ORDER BY number"
#: The word after which nothing more is heard.
_LAST: Final = -1


@workflow(name="story.rounds")
async def rounds(given: list[Any]) -> list[int]:
    """Go round so often, each time as new; return what was heard."""
    left, heard = given
    heard = [*heard, *await _hear(0.01)]
    await piece(left)
    if left:
        stepwell.continue_as_new([left - 1, heard])
    while (word := await stepwell.receive("word", int)) != _LAST:
        heard.append(word)
    return heard


async def _hear(patience: float) -> list[int]:
    heard: list[int] = []
    while (word := await stepwell.receive("word", int, timeout=patience)) is not None:
        heard.append(word)
    return heard


class Chapters(Story):
    """See the module."""

    name = "chapters"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (rounds,)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._rounds: dict[str, int] = {}

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`."""
        found: list[Action] = []
        for index in range(chance.choice((1, 2))):
            run_id, at = f"c{index}", chance.randint(0, horizon // 2)
            found.append(tell(at, "start", run_id, chance.randint(1, 4)))
            found += [tell(at + chance.randint(0, 150_000), "send", run_id) for _ in range(chance.randint(1, 6))]
        return found

    def request(self, call: Call) -> Request:
        """See `Story`; a message has a key, so that it can be sent again where nobody knows what became of it."""
        name, target = call.action.name, call.action.target
        if name == "send":
            word = _LAST if call.action.number else call.number
            return SendMessage(target, OutgoingMessage("word", json.dumps(word), f"k{call.number}"))
        self._rounds[target] = call.action.number
        return self.start(call, rounds, [call.action.number, []])

    def healed(self) -> None:
        """See `Story`: whatever was sent is there by now; after that comes the last word."""
        for run in self.runs():
            self.ask("send", run.id, 1)

    def ended(self) -> None:
        """See `Story`."""
        for run in self.runs(rounds):
            if run.status != "completed":
                continue
            numbers = [number for (number,) in self.rows(_CHAPTERS, run.key)]
            wanted = list(range(1, self._rounds[run.id] + 2))
            self.require(numbers == wanted, "a chapter follows another one once", f"{run.id}: {numbers}")
            heard = run.value()
            self.require(len(heard) == len(set(heard)), "a message is received once", f"{run.id}: {heard}")
            sent = {call.number for call in self.calls("send") if call.action.target == run.id}
            sent -= {call.number for call in self.calls("send") if call.action.number}
            self.require(sent <= set(heard), "no message is lost", f"{run.id}: {heard} of {sent}")
