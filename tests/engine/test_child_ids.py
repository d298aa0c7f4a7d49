"""Ids that the engine makes for children are free, and can always be used; ids that show as nothing are refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwell
from stepwell import Engine, InvalidArgument, Queue, RunConflict, StepwellError, receive, start, step, workflow
from stepwell.cli import main
from stepwell.model.names import MAX_NAME_LENGTH
from stepwell.testing import TestEngine
from stepwell.worker.state import child_ids
from stepwell.worker.state.child_ids import prefix_of_children

LINE = Queue("child-ids")


@workflow
async def quick(number: int) -> int:
    return number


@workflow
async def waits(number: int) -> int:
    return number + await receive("go", int)


@step
def note(number: int) -> int:
    return number


async def called() -> list[Any]:
    return ["", await quick(5)]


async def started() -> list[Any]:
    child = await start(quick, 5)
    return [child.id, await child.result()]


async def queued() -> list[Any]:
    child = await start(quick, 5, queue=LINE)
    return [child.id, await child.result()]


@workflow
def plainly() -> list[Any]:
    child = stepwell.sync.start(quick, 5)
    return [child.id, child.result()]


WAYS: dict[str, Any] = {
    "called": workflow(name="child_ids.called")(called),
    "started": workflow(name="child_ids.started")(started),
    "in a queue": workflow(name="child_ids.queued")(queued),
    "from a def workflow": plainly,
}

#: What a user has started under the id that the child of run "p" would have.
TAKEN: dict[str, Callable[[Engine], Any]] = {
    "with the same input": lambda engine: engine.start(quick, 5, id="p/1").result(60),
    "with other input": lambda engine: engine.start(quick, 9, id="p/1").result(60),
    "of another workflow": lambda engine: engine.start(waits, 9, id="p/1"),
    "and has not ended": lambda engine: engine.start(quick, 5, id="p/1", delay=1e6, queue=LINE),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("taken", TAKEN)
def test_a_child_gets_an_id_of_its_own_where_the_first_choice_is_taken(
    engine: TestEngine, way: str, taken: str
) -> None:
    TAKEN[taken](engine)
    child_id, result = engine.start(WAYS[way], id="p").result(60)
    assert result == 5
    ids = {run.id for run in engine.list()}
    assert ids == {"p", "p/1", *(found for found in ids if found.startswith("p/1~"))}
    assert len(ids) == 3
    assert child_id in {"", *(ids - {"p", "p/1"})}


def test_a_start_beside_a_parent_that_takes_its_childs_id_hinders_neither(engine: TestEngine) -> None:
    with engine.transaction() as tx:  # both begin in one batch
        parent = tx.start(WAYS["called"], id="p")
        other = tx.start(quick, 9, id="p/1")
    assert parent.result(60) == ["", 5]
    assert other.result(60) == 9


def test_an_id_that_is_taken_after_the_look_is_noticed_when_it_is_written(database: Path) -> None:
    @workflow
    async def twice() -> list[int]:
        first = await start(quick, 1, detached=True)
        await receive("go")
        return [await first.result(), await quick(2)]

    with Engine(database) as engine:
        run = engine.start(twice, id="p")
        engine.start(quick, 9, id="p/3").result(60)
        run.send("go")
        assert run.result(60) == [1, 2]
        assert engine.get("p/3").result(60) == 9


def test_an_id_is_used_again_although_a_detached_child_was_left_over(engine: TestEngine) -> None:
    @workflow
    async def leaves(number: int) -> str:
        return (await start(waits, number, detached=True)).id

    first = engine.start(leaves, 1, id="p").result(60)
    engine.advance(1)
    for number in (1, 2):
        engine.purge(0)
        second = engine.start(leaves, number, id="p").result(60)
        engine.advance(1)
        assert second not in (first, "p")
        assert engine.get(second).info().status == "waiting"
    engine.send(first, "go", 10)
    assert engine.get(first).result(60) == 11


def test_a_child_whose_ids_are_all_taken_is_a_conflict_in_the_code(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_ids, "_MOST_CHILDREN", 1)

    @workflow
    async def parent() -> str:
        await receive("go")
        try:
            return str(await quick(5))
        except RunConflict as error:
            return str(error)

    run = engine.start(parent, id="p")
    engine.idle()
    key = engine._session.reads.record("p").key
    for taken in ("p/2", f"p/2~{key}"):
        engine.start(quick, 9, id=taken).result(60)
    run.send("go")
    assert f"'p/2', 'p/2~{key}' and so on, are taken" in run.result(60)


# --- how long they grow -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [200, 214, 215, 216, 253, 254, 255])
@pytest.mark.parametrize("way", WAYS)
def test_children_of_a_run_with_a_long_id_can_be_addressed(engine: TestEngine, length: int, way: str) -> None:
    engine.start(WAYS[way], id="x" * length).result(60)
    (child,) = (run for run in engine.list() if run.id != "x" * length)
    assert len(child.id) <= MAX_NAME_LENGTH
    assert engine.get(child.id).result(60) == 5
    assert child.id.startswith("x" * 190)


def test_children_of_children_can_be_addressed_however_deep_they_are(engine: TestEngine) -> None:
    @workflow
    async def chain(depth: int) -> int:
        return await receive("go", int) if depth == 0 else await chain(depth - 1)

    root = engine.start(chain, 150, id="c")
    engine.idle()
    runs = engine.list(limit=1000)
    assert len(runs) == 151
    deepest = runs[0].id
    assert max(len(run.id) for run in runs) <= MAX_NAME_LENGTH
    engine.send(deepest, "go", 7)
    assert root.result(60) == 7


def test_a_handle_of_a_child_with_a_cut_id_sends_and_cancels(engine: TestEngine) -> None:
    @workflow
    async def parent() -> list[Any]:
        hears, stops = await start(waits, 1), await start(waits, 2)
        await hears.send("go", 10)
        await stops.cancel()
        (stopped,) = await asyncio.gather(stops.result(), return_exceptions=True)
        return [await hears.result(), type(stopped).__name__]

    assert engine.start(parent, id="y" * 255).result(60) == [11, "RunCancelled"]


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_the_ids_of_different_parents_children_differ(one: str, other: str) -> None:
    prefixes = [prefix_of_children(parent.encode(errors="replace").decode()) for parent in (one, other)]
    assert all(len(prefix) <= MAX_NAME_LENGTH - 40 for prefix in prefixes)
    if one.encode(errors="replace") != other.encode(errors="replace"):
        assert prefixes[0] != prefixes[1]


@given(st.integers(0, 60), st.text("ab", min_size=1, max_size=3), st.text("ab", min_size=1, max_size=3))
def test_long_ids_that_differ_at_their_ends_have_children_that_differ(length: int, one: str, other: str) -> None:
    prefixes = {prefix_of_children("x" * (195 + length) + end) for end in (one, other)}
    assert len(prefixes) == len({one, other})


# --- what no id is ----------------------------------------------------------------------------------------------------

BLANK = ["", " ", "   ", "\t", "\n", "\u00a0", "\u3000", "\u200b", "\u2800", "\u3164", " \u1160 ", "\ufeff"]


@pytest.mark.parametrize("blank", BLANK)
def test_a_blank_id_is_refused_before_anything_is_written(engine: TestEngine, blank: str) -> None:
    @workflow
    async def parent() -> None:
        await start(quick, 1, id=blank)

    with pytest.raises(InvalidArgument, match="the id of a run"):
        engine.start(quick, 1, id=blank)
    with pytest.raises(InvalidArgument, match="the id of a run"), engine.transaction() as tx:
        tx.start(quick, 1, id=blank)
    with pytest.raises(InvalidArgument, match="the id of a run"):
        engine.send(blank, "go")
    with pytest.raises(InvalidArgument, match="the name of a message"):
        engine.send("p", blank)
    assert engine.list() == []
    with pytest.raises(InvalidArgument, match="the id of a run"):
        engine.start(parent).result(60)
    assert len(engine.list()) == 1


@pytest.mark.parametrize("key", [" ", "\u2800"])
def test_a_blank_key_of_a_queue_is_refused(engine: TestEngine, key: str) -> None:
    with pytest.raises(InvalidArgument, match="dedup"):
        engine.start(quick, 1, queue=LINE, dedup=key)
    with pytest.raises(InvalidArgument, match="partition"):
        engine.start(quick, 1, queue=LINE, partition=key)
    assert engine.list() == []


# --- from the command line --------------------------------------------------------------------------------------------

ODD = [
    "-x",
    "--db",
    "a b",
    " led",
    "trailed ",
    "e\u0301",
    "\u00e9",
    "a/b/../c",
    "*",
    "'\"\\$(true)",
    "\u202fx"[1:],
    "日本",
]


@pytest.mark.parametrize("odd", ODD)
def test_a_run_with_an_odd_id_is_found_from_the_command_line(
    database: Path, capsys: pytest.CaptureFixture[str], odd: str
) -> None:
    with Engine(database, workflows=[quick]) as engine:
        engine.start(quick, 3, id=odd).result(60)
    assert main(["show", "--db", str(database), "--json", "--", odd]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == odd


def test_ids_are_compared_as_they_are_written(engine: TestEngine) -> None:
    for number, name in enumerate(ODD):
        engine.start(quick, number, id=name)
    assert [engine.get(name).result(60) for name in ODD] == list(range(len(ODD)))
    with pytest.raises(StepwellError):
        engine.get("led")
