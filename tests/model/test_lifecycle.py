"""The table of states is complete and consistent, and real runs move only along it.

That the schema and the diagram of the documentation agree with the table is tested where those are, in
test_sqlite_schema.py and test_project.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

import pytest

from stepwell import Retry, receive, step, workflow
from stepwell.model.lifecycle import (
    ENDED,
    MOVES,
    RETRIABLE,
    STATUSES,
    TRANSITIONS,
    IllegalTransition,
    Status,
    check_transition,
    mermaid,
)
from stepwell.store.changes import RunCreated, RunFinished, RunMoved
from stepwell.store.store import Store, Unit
from stepwell.testing import TestEngine

ALIVE = [status for status in STATUSES if status not in ENDED]


def test_the_table_names_every_state_once() -> None:
    assert set(TRANSITIONS) == set(STATUSES) == set(get_args(Status))
    assert len(set(STATUSES)) == len(STATUSES)
    assert all(targets <= set(STATUSES) for targets in TRANSITIONS.values())


def test_a_run_that_ended_moves_again_only_when_somebody_brings_it_back() -> None:
    assert {"completed", "failed", "cancelled"} == ENDED
    assert {"failed", "cancelled"} == RETRIABLE
    for status in ENDED:
        for target in STATUSES:
            if target not in (status, "pending"):
                with pytest.raises(IllegalTransition, match=rf"'run'.*{status}.*{target}"):
                    check_transition("run", status, target)


def test_every_move_of_the_table_is_allowed_and_every_other_is_not() -> None:
    for source in STATUSES:
        check_transition("run", source, source)
        for target in set(STATUSES) - {source}:
            if target in TRANSITIONS[source]:
                check_transition("run", source, target)
            else:
                with pytest.raises(IllegalTransition):
                    check_transition("run", source, target)


@pytest.mark.parametrize("status", ALIVE)
def test_from_every_state_a_run_can_still_be_cancelled_and_reach_an_end(status: Status) -> None:
    reached, todo = set[Status](), [status]
    while todo:
        found = todo.pop()
        if found not in reached:
            reached.add(found)
            todo += TRANSITIONS[found]
    assert reached >= ENDED
    assert "cancelled" in TRANSITIONS[status]


def test_every_state_can_be_reached() -> None:
    assert {target for targets in TRANSITIONS.values() for target in targets} == set(STATUSES)


def test_the_diagram_shows_each_move_once() -> None:
    lines = [line.strip() for line in mermaid().splitlines()]
    assert lines[0] == "stateDiagram-v2"
    moves = [line.partition(":")[0] for line in lines[1:] if "[*]" not in line]
    assert sorted(moves) == sorted(f"{source} --> {target}" for source in STATUSES for target in TRANSITIONS[source])
    labels = [name.strip() for line in lines[1:] if "[*]" not in line for name in line.partition(":")[2].split(",")]
    assert set(labels) == set(MOVES)
    assert [line for line in lines if line.endswith("--> [*]")] == [f"{status} --> [*]" for status in STATUSES[-3:]]


class Watch:
    """Notes the states that a store is told of, by run."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[int, list[Status]] = {}
        self._keys: dict[str, int] = {}
        commit = store.commit

        def watched(units: Any, claim: Any) -> Any:
            outcomes = commit(units, claim)
            for unit, outcome in zip(units, outcomes, strict=True):
                if isinstance(outcome, list):
                    self.note(unit, outcome)
            return outcomes

        monkeypatch.setattr(store, "commit", watched)

    def note(self, unit: Unit, results: list[Any]) -> None:
        for change, result in zip(unit.changes, results, strict=False):
            if isinstance(change, RunCreated) and result.existing is None:
                self.seen[result.key] = [change.status]
            elif isinstance(change, (RunMoved, RunFinished)):
                self.seen[change.run].append(change.status)


@pytest.fixture
def watch(engine: TestEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Yield a record of all moves; afterwards each must have been legal, and each run at its end or at rest."""
    found = Watch(engine._session.store, monkeypatch)
    yield found
    assert found.seen
    for path in found.seen.values():
        for source, target in pairwise(path):
            check_transition("a run", source, target)


@step(retry=Retry(attempts=3, delay=1))
async def flaky() -> None:
    raise OSError


@workflow
async def child() -> str:
    return str(await receive("word"))


@workflow
async def lives(ending: str) -> Any:
    await asyncio.sleep(1)
    try:
        await flaky()
    except OSError:
        await receive("go on")
    if ending == "halts":
        return object()
    if ending == "fails":
        raise ValueError
    return await child()


@pytest.mark.parametrize(
    ("ending", "expected"),
    [("completes", "completed"), ("fails", "failed"), ("is cancelled", "cancelled"), ("halts", "halted")],
)
def test_runs_move_along_the_table(engine: TestEngine, watch: Watch, ending: str, expected: Status) -> None:
    run = engine.start(lives, ending, id="run")
    engine.advance(60)
    if ending == "is cancelled":
        run.cancel()
    else:
        run.send("go on")
    engine.idle()
    if ending == "completes":
        engine.send(engine.list(workflow=child)[0].id, "word", "hello")
        engine.idle()
    assert run.status == expected
    assert watch.seen[1][-1] == expected
    assert {"running", "waiting"} <= set(watch.seen[1])
