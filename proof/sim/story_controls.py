"""Engines that are broken in what stories are about (see `proof.sim.stories`); a part of `proof.sim.controls`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from stepwell.operations import map as operation_map
from stepwell.operations.table import OPERATIONS
from stepwell.store.changes import RunCreated
from stepwell.store.sqlite.statements import SQL
from stepwell.worker import failure_hooks
from stepwell.worker.runs import Runs
from stepwell.worker.starting import add_start
from stepwell.worker.unit_of_work import UnitOfWork


class Break(NamedTuple):
    """A way to break the engine, and the promises of which one must be seen broken: anything else proves nothing.

    `story`: what happens beside in the worlds in which it must be seen.
    """

    apply: Callable[[ExitStack], None]
    reasons: tuple[str, ...]
    story: str = ""


def broken_sql(stack: ExitStack, name: str, before: str, after: str) -> None:
    """Have a statement differ. Raises where it has no such part."""
    sql = SQL[name]
    assert before in sql, name
    stack.enter_context(patch.dict(SQL, {name: sql.replace(before, after)}))


def _answer_twice(stack: ExitStack) -> None:
    broken_sql(stack, "promise_answered", "AND state = 'open'", "")


def _do_not_look_for_answers(stack: ExitStack) -> None:
    """A run that is read again is not told what has become of its promises meanwhile."""
    stack.enter_context(patch.dict(OPERATIONS.looks, {"promise": lambda *_arguments: []}))


def _tell_of_failures_later(stack: ExitStack) -> None:
    """Whoever is to hear of a failure is started by the commit after that of the failure."""

    def broken(runs: Runs, start: RunCreated, work: UnitOfWork, on_commit: Any) -> None:
        work.afterwards(lambda: add_start(runs, start, runs.batch.lone_work(), on_commit))

    stack.enter_context(patch.object(failure_hooks, "add_start", broken))


def _bear_one_more(stack: ExitStack) -> None:
    bearable = operation_map._bearable
    stack.enter_context(patch.object(operation_map, "_bearable", lambda *arguments: bearable(*arguments) + 1))


STORY_CONTROLS: Final[dict[str, Break]] = {
    "a promise is answered twice": Break(
        _answer_twice, ("what is acknowledged is durable", "a run is told the answer"), "promises"
    ),
    "an answer is not looked for after a crash": Break(_do_not_look_for_answers, ("a run goes on",), "promises"),
    "a failure is told of by a commit of its own": Break(
        _tell_of_failures_later, ("each failure has one run that is told",), "failures"
    ),
    "one failure too many is borne": Break(_bear_one_more, ("so many failures are borne",), "fan-out"),
}
