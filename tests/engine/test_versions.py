"""Versions of a workflow: a run stays with the one that it began with where a worker has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import DefinitionError, DeterminismError, Engine, FailedRun, InvalidArgument, receive, step, workflow
from stepwell.api.reading.querying import query_in_file
from stepwell.cli import main

FOREVER = 60
calls: list[str] = []


@pytest.fixture(autouse=True)
def _as_new() -> None:
    calls.clear()


@step(name="versions.act")
async def act(what: str) -> str:
    calls.append(what)
    return what


@workflow(name="versions.flow", version=1)
async def first() -> str:
    await act("one")
    await receive("go", str)
    return await act("end of 1")


@workflow(name="versions.flow", version=2)
async def fitting() -> str:
    await act("one")
    await receive("go", str)
    return await act("end of 2")


@workflow(name="versions.flow", version=3)
async def diverging() -> str:
    await act("another")
    await receive("go", str)
    return await act("end of 3")


@workflow(name="versions.bare")
async def unversioned() -> str:
    await act("one")
    await receive("go", str)
    return await act("end")


def begun(path: Path, *flows: Any) -> None:
    with Engine(path, workflows=flows) as engine:
        engine.start(flows[-1], id="a")
        while engine.get("a").status != "waiting":
            pass


def version_of(path: Path) -> Any:
    with Engine(path, workflows=[]) as engine:
        return engine.query("SELECT version FROM stepwell_runs WHERE id = 'a'")[0][0]


def ended(path: Path, *flows: Any) -> Any:
    with Engine(path, workflows=flows) as engine:
        engine.send("a", "go", "on")
        return engine.get("a").result(FOREVER)


def test_a_run_stays_with_the_version_that_it_began_with_where_it_is_there(database: Path) -> None:
    begun(database, first)
    assert version_of(database) == 1
    assert ended(database, first, diverging) == "end of 1"
    with Engine(database, workflows=[first, diverging]) as engine:
        run = engine.start(diverging, id="new")  # the highest
        run.send("go", "on")
        assert run.result(FOREVER) == "end of 3"
    assert calls == ["one", "end of 1", "another", "end of 3"]


def test_it_goes_on_with_another_version_that_fits_what_it_recorded(database: Path) -> None:
    begun(database, first)
    assert ended(database, fitting) == "end of 2"
    assert version_of(database) == 2
    assert calls == ["one", "end of 2"]


def test_it_waits_where_another_version_does_not_fit_until_its_own_comes_back(database: Path) -> None:
    begun(database, first)
    with Engine(database, workflows=[diverging]) as engine:
        engine.send("a", "go", "on")
        with pytest.raises(
            DeterminismError, match=r"began with version 1 of 'versions\.flow', which no worker has now"
        ):
            engine.get("a").result(FOREVER)
    assert version_of(database) == 1
    assert ended_alone(database, first) == "end of 1"
    assert calls == ["one", "end of 1"]


def ended_alone(path: Path, *flows: Any) -> Any:
    with Engine(path, workflows=flows) as engine:
        return engine.get("a").result(FOREVER)


def test_runs_of_before_there_were_versions_go_on_if_they_fit(database: Path) -> None:
    begun(database, unversioned)
    assert version_of(database) is None

    @workflow(name="versions.bare", version=1)
    async def counted() -> str:
        await act("one")
        await receive("go", str)
        return await act("end, counted")

    assert ended(database, counted) == "end, counted"
    assert version_of(database) == 1


def test_check_says_which_versions_are_needed_and_which_fit(database: Path, capsys: Any) -> None:
    begun(database, first)
    found = stepwell.check(database, workflows=[first])
    for flows, goes_on, here in [([first, diverging], 1, True), ([fitting], 1, False), ([diverging], 0, False)]:
        found = stepwell.check(database, workflows=flows)
        assert (found.goes_on, [(each.version, each.runs, each.is_here) for each in found.versions]) == (
            *(goes_on, [(1, 1, here)]),
        )
    (problem,) = found.problems
    assert problem.verdict == "diverges"
    assert "began with version 1" in problem.reason
    assert main(["workers", "--db", str(database)]) == 0
    assert "version 1 of versions.flow: 1 run in flight; no worker" in capsys.readouterr().out


OTHER = """
import sys
from tests.engine.test_versions import diverging
from stepwell import Engine
with Engine(sys.argv[1], workflows=[diverging]) as engine:
    run = engine.start(diverging, id="other")
    run.send("go", "on")
    run.result(60)
    engine.send("a", "go", "on")
    print(engine.get("a").result(60), flush=True)
"""


def test_a_worker_leaves_runs_to_the_worker_that_has_their_version(database: Path, capsys: Any) -> None:
    with Engine(database, workflows=[first], max_waiting_in_memory=0) as engine:
        engine.start(first, id="a")
        while engine.get("a").status != "waiting":
            pass
        (own,) = engine.workers()
        assert own.versions == [("versions.flow", 1)]
        said = subprocess.run(
            [sys.executable, "-c", OTHER, str(database)],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
    assert said.stdout == "end of 1\n"
    assert version_of(database) == 1
    assert main(["workers", "--db", str(database)]) == 0
    assert "versions.flow" not in capsys.readouterr().out


def test_what_is_no_version_is_refused() -> None:
    async def nothing() -> None: ...

    wrong: list[Any] = [0, -1, "2", 1.5, True]
    for version in wrong:
        with pytest.raises(InvalidArgument, match="version of a workflow must be a whole number of at least 1"):
            workflow(name="versions.wrong", version=version)(nothing)
    twin = workflow(name="versions.twin", version=1)(nothing)
    with pytest.raises(InvalidArgument, match="two of the name"):
        Engine("never.db", workflows=[twin, workflow(name="versions.twin", version=1)(nothing)])


def test_the_same_version_of_two_functions_of_modules_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twice_versioned.py").write_text(
        "from stepwell import workflow\n"
        "@workflow(name='twice', version=1)\ndef one(): ...\n"
        "@workflow(name='twice', version=2)\ndef two(): ...\n"
        "@workflow(name='twice', version=2)\ndef three(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DefinitionError, match="twice"):
        __import__("twice_versioned")


def test_workflows_with_versions_steps_and_an_on_failure_are_served_together(database: Path) -> None:
    @workflow(name="versions.hook", version=1)
    async def hook(failed: FailedRun) -> None:
        await act(failed.workflow)

    @workflow(name="versions.failing", version=1)
    async def failing() -> None:
        raise ValueError("no")

    served: list[Any] = [[first, diverging, failing], None]
    for flows in served:
        calls.clear()
        with Engine(database, workflows=flows, on_failure=hook) as engine:
            (own,) = engine.workers()
            assert {("versions.flow", 1), ("versions.flow", 3), ("versions.hook", 1)} <= set(own.versions)
            assert engine.start(act, "a step").result(FOREVER) == "a step"
            with pytest.raises(Exception, match="no"):
                engine.start(failing).result(FOREVER)
            for told in engine.list(workflow="versions.hook"):
                engine.get(told.id).result(FOREVER)
        assert calls == ["a step", "versions.failing"]


def test_a_run_is_asked_with_the_version_that_it_has(database: Path) -> None:
    @workflow(name="versions.asked", version=1)
    async def asked() -> None:
        @stepwell.query
        def stage() -> str:
            return "of 1"

        await act("one")

    @workflow(name="versions.asked", version=2)
    async def asked_differently() -> None:
        await act("another")

    with Engine(database, workflows=[asked]) as engine:
        engine.start(asked, id="a").result(FOREVER)
    with Engine(database, workflows=[asked, asked_differently]) as engine:
        assert engine.get("a").query("stage") == "of 1"
    assert query_in_file(database, "a", "stage", (), {}) == "of 1"


def test_a_start_that_uses_an_id_again_begins_with_the_code_of_today(database: Path) -> None:
    begun(database, first)
    assert ended(database, first) == "end of 1"
    with Engine(database, workflows=[first, fitting]) as engine:
        again = engine.start(fitting, id="a", reuse="always")
        again.send("go", "on")
        assert again.result(FOREVER) == "end of 2"
        assert engine.query("SELECT version FROM stepwell_runs WHERE id = 'a'")[0][0] == 2
