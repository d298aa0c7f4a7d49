"""Change under running runs: which go on with the code of today is known before it is deployed."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    Batch,
    Engine,
    FileNotUsable,
    Queue,
    get_logger,
    patched,
    receive,
    step,
    sync,
    workflow,
)
from stepwell.testing import TestEngine

executed: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step(name="check-charge")
async def charge(order: str) -> str:
    executed.append(f"charge {order}")
    return order


@step(name="check-ship")
def ship(order: str) -> str:
    executed.append(f"ship {order}")
    return order


async def helper(order: str) -> None:
    if stepwell.patched("in-a-helper"):
        await charge(order)


def versions() -> SimpleNamespace:
    """Return the code of one workflow as it was, and as it becomes."""

    @workflow(name="check-flow")
    async def before(order: str) -> str:
        await charge(order)
        await receive("go")
        return ship(order)

    @workflow(name="check-flow")
    async def ships_first(order: str) -> str:
        ship(order)
        await charge(order)
        await receive("go")
        return order

    @workflow(name="check-flow")
    async def asks_more(order: str) -> str:
        await charge(order)
        get_logger("stepwell.checked").error("past the charge")
        await receive("go")
        await charge("more")
        return ship(order)

    @workflow(name="check-flow")
    async def broken(order: str) -> str:
        prices: dict[str, int] = {}
        await charge(order)
        return str(prices[order])

    @workflow(name="check-flow")
    async def takes_other_input(order: str, currency: str) -> str:
        return await charge(order + currency)

    @workflow(name="check-flow")
    async def with_patches(order: str) -> str:
        if patched("audit-first"):
            await charge(f"audit {order}")
        await charge(order)
        await receive("go")
        await helper(order)
        return ship(order)

    @workflow(name="check-flow")
    def with_a_blocking_patch(order: str) -> str:
        if sync.patched("blocking"):
            ship(order)
        return order

    @workflow(name="check-publishes")
    async def publishes(order: str) -> str:
        await stepwell.publish("state", order)
        await receive("go")
        return order

    return SimpleNamespace(**locals())


CODE: Any = versions()


def serve(engine: TestEngine, *flows: Any) -> None:
    """Have the engine execute this code from now on: each name is that of several functions here."""
    engine.close()
    engine.reopen(workflows=flows)


def under_way(engine: TestEngine, flow: Any = CODE.before, number: int = 3) -> None:
    serve(engine, flow)
    for each in range(number):
        engine.start(flow, f"o{each}", id=f"run-{each}")
    engine.idle()
    executed.clear()


def test_runs_that_fit_go_on_and_nothing_is_executed(
    engine: TestEngine, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    under_way(engine)
    journals = [engine.get(f"run-{each}").journal() for each in range(3)]
    with caplog.at_level(logging.DEBUG, "stepwell.checked"):
        found = stepwell.check(database, workflows=[CODE.asks_more])
    assert (found.runs, found.goes_on, found.ok, found.problems) == (3, 3, True, [])
    assert executed == [], "a check executes no step"
    assert caplog.messages == [], "what has been logged is not logged again"
    assert [engine.get(f"run-{each}").journal() for each in range(3)] == journals
    assert engine.get("run-0").status == "waiting"


def test_a_run_that_diverges_is_shown_with_what_was_recorded_what_the_code_does_and_the_line(
    engine: TestEngine,
    database: Path,
) -> None:
    under_way(engine, number=1)
    (problem,) = stepwell.check(database, workflows=[CODE.ships_first]).problems
    assert (problem.id, problem.workflow, problem.status) == ("run-0", "check-flow", "waiting")
    assert (problem.verdict, problem.operation) == ("diverges", 1)
    assert "'check-charge'" in (problem.expected or "")
    assert "'check-ship'" in (problem.actual or "")
    line = CODE.ships_first.function.__code__.co_firstlineno + 2
    assert f"{__file__}:{line} in versions.<locals>.ships_first" in (problem.location or "")
    assert engine.get("run-0").status == "waiting", "a check halts nothing"


@pytest.mark.parametrize(
    ("given", "verdict", "said"),
    [
        (CODE.broken, "breaks", "KeyError"),
        (CODE.takes_other_input, "breaks", "currency"),
        (None, "no code", "'check-flow'"),
    ],
    ids=["mistake", "input", "no code"],
)
def test_a_run_that_cannot_be_given_to_the_code_says_why(
    engine: TestEngine, database: Path, given: Any, verdict: str, said: str
) -> None:
    under_way(engine, number=1)
    other = workflow(name="check-other")(CODE.before.function)
    found = stepwell.check(database, workflows=[given or other])
    assert [(problem.verdict, found.goes_on) for problem in found.problems] == [(verdict, 0)]
    assert said in found.problems[0].reason


def test_runs_that_have_ended_are_not_checked_and_those_that_have_not_begun_are(
    engine: TestEngine, database: Path
) -> None:
    queue = Queue("check-queue", concurrency=1)
    under_way(engine, number=1)
    engine.send("run-0", "go")
    engine.idle()
    assert stepwell.check(database, workflows=[CODE.ships_first]).runs == 0
    engine.start(CODE.before, "first", id="first", queue=queue)
    engine.start(CODE.before, "second", id="second", queue=queue)
    engine.idle()
    executed.clear()
    assert engine.get("second").status == "pending"
    found = stepwell.check(database, workflows=[CODE.takes_other_input])
    assert sorted(problem.id for problem in found.problems) == ["first", "second"]
    assert executed == []


def test_a_halted_run_that_the_code_was_mended_for_goes_on(engine: TestEngine, database: Path) -> None:
    serve(engine, CODE.broken)
    engine.start(CODE.broken, "o", id="one")
    engine.idle()
    assert engine.get("one").status == "halted"
    assert stepwell.check(database, workflows=[CODE.broken]).goes_on == 0
    assert stepwell.check(database, workflows=[CODE.before]).ok


def test_def_workflows_batches_and_continued_runs_are_checked(engine: TestEngine, database: Path) -> None:
    @workflow(name="check-def")
    def plain(order: str) -> str:
        ship(order)
        sync.receive("go")
        return ship(order)

    @workflow(name="check-batch")
    async def collects(orders: list[str]) -> int:
        await charge(str(len(orders)))
        await receive("go")
        return len(orders)

    @workflow(name="check-chapters")
    async def chapters(number: int) -> int:
        await charge(str(number))
        if number < 3:
            stepwell.continue_as_new(number + 1)
        await receive("go")
        return number

    queue = Queue("check-batches", batch=Batch(2, within=60))
    engine.start(plain, "o", id="def")
    for _ in range(2):
        engine.start(collects, ["o"], queue=queue)
    engine.start(chapters, 1)
    engine.idle()
    executed.clear()
    found = stepwell.check(database, workflows=[plain, collects, chapters])
    assert (found.runs, found.problems) == (3, [])
    assert executed == []


# --- patches ----------------------------------------------------------------------------------------------------------


def patches(found: stepwell.Check) -> dict[str, tuple[int, int, int]]:
    return {patch.name: (patch.old, patch.new, patch.unknown) for patch in found.patches}


def test_a_check_says_which_patches_are_needed_by_whom(engine: TestEngine) -> None:
    under_way(engine, number=2)  # CODE.before the patch
    serve(engine, CODE.with_patches)
    engine.start(CODE.with_patches, "new", id="new")
    engine.idle()
    found = engine.check()
    assert found.ok
    assert patches(found) == {"audit-first": (2, 1, 0), "in-a-helper": (0, 0, 0)}
    assert [patch.name for patch in found.unneeded_patches] == ["in-a-helper"]
    for each in ("run-0", "run-1"):
        engine.send(each, "go")
    engine.idle()
    found = engine.check()
    assert patches(found) == {"audit-first": (0, 1, 0), "in-a-helper": (0, 0, 0)}
    engine.send("new", "go")
    engine.idle()
    assert {patch.name for patch in engine.check().unneeded_patches} == {"audit-first", "in-a-helper"}


def test_a_patch_of_a_run_that_does_not_go_on_may_be_needed(engine: TestEngine, database: Path) -> None:
    under_way(engine, CODE.ships_first, number=1)
    assert patches(stepwell.check(database, workflows=[CODE.with_patches]))["in-a-helper"] == (0, 0, 1)


@pytest.mark.usefixtures("engine")
def test_patches_of_def_workflows_are_found(database: Path) -> None:
    assert patches(stepwell.check(database, workflows=[CODE.with_a_blocking_patch])) == {"blocking": (0, 0, 0)}


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_engine_checks_its_own_file_with_what_it_serves(engine: TestEngine) -> None:
    under_way(engine)
    assert (engine.check().runs, engine.check().goes_on) == (3, 3)


def test_an_async_engine_checks_without_holding_up_its_loop(database: Path) -> None:
    async def main() -> tuple[int, int]:
        async with AsyncEngine(database, workflows=[CODE.publishes]) as engine:
            run = await engine.start(CODE.publishes, "o")
            await run.value("state", timeout=60)
            found = await engine.check()
            return found.runs, found.goes_on

    assert asyncio.run(main()) == (1, 1)


def test_a_client_has_no_code(database: Path) -> None:
    with Engine(database, workflows=[]) as engine:
        engine.start(CODE.before, "o")
        assert [problem.verdict for problem in engine.check().problems] == ["no code"]


def test_a_file_without_workers_a_backup_and_a_read_only_copy_are_checked(
    engine: TestEngine, database: Path, tmp_path: Path
) -> None:
    under_way(engine)
    engine.backup(tmp_path / "backup.db.gz")
    engine.backup(tmp_path / "read-only.db")
    (tmp_path / "read-only.db").chmod(0o400)
    engine.close()
    copy = tmp_path / "copy.db"
    shutil.copy(database, copy)
    contents = copy.read_bytes()
    for path in (database, tmp_path / "backup.db.gz", tmp_path / "read-only.db", copy):
        found = stepwell.check(path, workflows=[CODE.before])
        assert (found.runs, found.ok) == (3, True), path
    assert copy.read_bytes() == contents
    assert not os.path.exists(f"{copy}-wal")


def test_an_archive_is_checked_and_has_no_run_in_flight(engine: TestEngine, tmp_path: Path) -> None:
    under_way(engine)
    engine.get("run-0").terminate()
    engine.archive(tmp_path / "archive.db", "id:run-0")
    engine.close()
    found = stepwell.check(tmp_path / "archive.db", workflows=[CODE.before])
    assert (found.runs, found.ok) == (0, True)


def test_what_is_no_file_of_stepwell_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all, only text" * 100)
    with gzip.open(tmp_path / "text.db.gz", "wb") as packed:
        packed.write(b"nor this")
    for name in ("missing.db", "text.db", "text.db.gz"):
        with pytest.raises(FileNotUsable):
            stepwell.check(tmp_path / name, workflows=[CODE.before])


def test_progress_is_told(engine: TestEngine, database: Path) -> None:
    under_way(engine)
    told: list[tuple[int, int]] = []
    stepwell.check(database, workflows=[CODE.before], progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
