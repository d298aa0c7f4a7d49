"""What a worker lets out: values that the turn loop takes and carries out, in their order.

A worker touches nothing outside itself, and knows nobody above it. It adds to its list of effects; the turn takes them
after each event and after each commit. Nothing that a commit must justify is added before it (the output gate). Two
things go another way: the steps to start, which the turn asks for when all is committed, and the answers to callers,
which are continuations of their units of work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from stepwell.definitions.step_call import StepCall
from stepwell.worker.state.facts import Fact, StreamGrew, UpdateEnded, ValuePublished
from stepwell.worker.state.run_over import RunOver


class StepsDropped(msgspec.Struct, frozen=True):
    """Nobody wants the results of these attempts any more: cancel them."""

    attempts: list[StepCall]


class RunsOver(msgspec.Struct, frozen=True):
    """These runs have ended, or are halted: tell whoever waits for them."""

    over: list[RunOver]


class EndsRefused(msgspec.Struct, frozen=True):
    """The ends of the runs with these keys were refused: look whether they ended elsewhere."""

    keys: Sequence[int]


class RunsBegunAnew(msgspec.Struct, frozen=True):
    """Another start has taken the ids of the runs with these keys: what was asked of them before is gone."""

    keys: Sequence[int]


class Later(msgspec.Struct, frozen=True):
    """Route a fact soon, as an event of its own."""

    fact: Fact


class TookOn(msgspec.Struct, frozen=True):
    """The event under way has as much to do as so many: what else is queued may have to wait."""

    number: int


Effect: TypeAlias = (
    StepsDropped | RunsOver | EndsRefused | RunsBegunAnew | ValuePublished | StreamGrew | UpdateEnded | Later | TookOn
)
