"""Promises: each is answered once, by whoever comes first, and its run is told that answer and no other."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import stepwell
from proof.sim.database import text_of
from proof.sim.plan import Action
from proof.sim.stories.story import CALLER, Story, acts, outside, tell
from stepwell import step, workflow
from stepwell.definitions.definition import Workflow
from stepwell.errors import PromiseTimedOut
from stepwell.runtime.serving.requests import AnswerPromise, Request

if TYPE_CHECKING:
    from proof.sim.callers import Call


class NoError(Exception):
    """What promises are rejected with."""


@step(name="story.hand_out")
async def hand_out(token: str, number: int) -> None:
    """Tell whoever is to answer."""
    info = acts(number)
    story = outside.world.story
    assert isinstance(story, Promises)
    story.tokens[info.run_id, number] = token


@workflow(name="story.asking")
async def asking(limits: list[int | None]) -> list[Any]:
    """Promise one value after the other; the limits are in milliseconds."""
    found: list[Any] = []
    for number, limit in enumerate(limits):
        promise = stepwell.promise(int, timeout=None if limit is None else limit / 1000)
        await hand_out(promise.token, number)
        try:
            found.append(await promise)
        except PromiseTimedOut:
            found.append("timed_out")
        except NoError:
            found.append("rejected")
    return found


class Promises(Story):
    """See the module."""

    name = "promises"
    workflows: ClassVar[tuple[Workflow[..., Any], ...]] = (asking,)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tokens: dict[tuple[str, int], str] = {}
        self.given: dict[int, tuple[str, str, str]] = {}  # by the number of a call: token, state, answer
        self._limits: dict[str, list[int | None]] = {}

    @staticmethod
    def actions(chance: Random, horizon: int) -> list[Action]:
        """See `Story`: several callers answer each promise, at about the same time."""
        found: list[Action] = []
        for index in range(chance.choice((1, 2))):
            run_id, begin = f"p{index}", chance.randint(0, horizon // 3)
            found.append(tell(begin, "start", run_id, chance.randint(0, 2)))
            for number in range(2):
                at = chance.randint(begin, horizon)
                for _ in range(chance.choice((1, 2, 3))):
                    name = chance.choice(("resolve", "reject"))
                    found += [tell(at + chance.randint(0, 2_000), name, run_id, number)]
        return found

    def request(self, call: Call) -> Request | None:
        """See `Story`."""
        run_id, number = call.action.target, call.action.number
        if call.action.name == "start":
            limits: list[int | None] = [None, 100] if number else [None, None]
            return self.start(call, asking, limits)
        token = self.tokens.get((run_id, number))
        if token is None:
            return None
        codec = self.world.codec
        if call.action.name == "resolve":
            answer = codec.encode_untyped(call.number, "an answer")
            request = AnswerPromise(token, "resolved", answer, CALLER)
        else:
            request = AnswerPromise(token, "rejected", codec.encode_failure(NoError("no")), CALLER)
        self.given[call.number] = token, request.state, text_of(request.answer)
        return request

    def acknowledged(self, call: Call) -> None:
        """See `Story`."""
        if call.number in self.given:
            self._check(call)

    def _check(self, call: Call) -> None:
        token, state, answer = self.given[call.number]
        found = [
            (s, text_of(a)) for s, a in self.rows("SELECT state, answer FROM stepwell_promises WHERE token = ?", token)
        ]
        same = found and found[0][0] == state and (state == "rejected" or found[0][1] == answer)
        self.require(same, "what is acknowledged is durable", f"{call.action}: {found}, not {state} {answer}")

    def healed(self) -> None:
        """See `Story`: what nobody has answered is answered now."""
        for run_id, number in sorted(self.tokens):
            self.ask("resolve", run_id, number)
            self.ask("resolve", run_id, number + 1)

    def rested(self) -> None:
        """See `Story`."""
        super().rested()
        for call in self.calls("resolve") + self.calls("reject"):
            self._check(call)

    def ended(self) -> None:
        """See `Story`: compare what the runs were told with the rows."""
        for run in self.runs():
            found = self.rows(
                "SELECT state, answer, deadline_at, ended_at FROM stepwell_promises WHERE run = ? ORDER BY number",
                run.key,
            )
            for state, _, deadline_at, ended_at in found:
                early = state == "timed_out" and ended_at < deadline_at
                self.require(not early, "a timer is never early", f"{run.id}: {deadline_at}, {ended_at}")
            if run.status == "completed":
                rows = [json.loads(text_of(answer)) if state == "resolved" else state for state, answer, _, _ in found]
                self.require(
                    rows == run.value(), "a run is told the answer", f"{run.id}: {run.value()}, the rows: {rows}"
                )
