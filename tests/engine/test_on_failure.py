"""Told when something fails: a run that is started exactly once, in the commit of the failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stepwell import AsyncEngine, Engine, FailedRun, InvalidArgument, PermanentError, Queue, step, workflow
from stepwell.testing import TestEngine

LINE = Queue("on failure.line")
told: list[FailedRun] = []
broken: set[str] = set()


@pytest.fixture(autouse=True)
def _forget() -> None:
    told.clear()
    broken.clear()


@step(name="on failure.page")
async def page(failed: FailedRun) -> None:
    told.append(failed)


@workflow(name="on failure.alert")
async def alert(failed: FailedRun) -> str:
    await page(failed)
    if "alert" in broken:
        raise ValueError("the pager is broken")
    return failed.run_id


@workflow(name="on failure.plain alert")
def plain_alert(failed: Any) -> str:
    return str(failed["run_id"])


@step(name="on failure.pay")
async def pay() -> None:
    raise PermanentError("no money")


@workflow(name="on failure.order")
async def order() -> None:
    await pay()


@workflow(name="on failure.own", on_failure=plain_alert)
async def own() -> None:
    raise ValueError("own")


@workflow(name="on failure.breaks")
async def breaks() -> Any:
    empty: dict[str, str] = {}
    return empty["missing"]


@workflow(name="on failure.late")
async def late() -> None:
    await asyncio.sleep(3600)


@workflow(name="on failure.fine")
async def fine() -> int:
    return 1


@workflow(name="on failure.parent alert")
async def parent_alert(failed: FailedRun) -> None:
    told.append(failed)
    await order()


@pytest.fixture
def hooked(database: Path) -> Iterator[TestEngine]:
    with TestEngine(database, on_failure=alert) as engine:
        yield engine


def hooks(engine: Engine, of: str = "on failure.alert") -> list[str]:
    return [run.id for run in engine.list(workflow=of)]


def test_a_failure_is_told_with_its_facts(hooked: TestEngine) -> None:
    now = datetime.fromtimestamp(hooked.clock.now() / 1e6, UTC)
    hooked.start(order, id="order-42")
    hooked.idle()
    assert told == [
        FailedRun(
            "order-42",
            "on failure.order",
            "failed",
            "stepwell.errors.PermanentError",
            "no money",
            now,
            "on failure.pay",
            1,
        )
    ]
    (hook,) = hooks(hooked)
    assert hook.startswith("order-42:failure:")
    assert hooked.get(hook).result(5) == "order-42"


@pytest.mark.parametrize(("start", "error"), [(breaks, "WorkflowCodeError"), (late, "RunDeadlineExceeded")])
def test_a_halt_and_a_deadline_are_told_as_well(hooked: TestEngine, start: Any, error: str) -> None:
    hooked.start(start, id="run", deadline=60)
    hooked.idle()
    hooked.advance(60)
    assert [(each.run_id, each.status) for each in told] == [("run", "halted" if start is breaks else "failed")]
    assert error in told[0].error_type
    assert told[0].step is None


def test_a_deadline_before_anybody_began_is_told(hooked: TestEngine) -> None:
    hooked.start(fine, id="second", queue=LINE, delay=3600, deadline=60)
    hooked.idle()
    hooked.advance(60)
    assert [(each.run_id, each.status) for each in told] == [("second", "failed")]


def test_what_completes_or_is_cancelled_is_not_told(hooked: TestEngine) -> None:
    hooked.start(fine)
    hooked.start(late, id="late")
    hooked.idle()
    hooked.get("late").cancel()
    hooked.idle()
    assert hooks(hooked) == []


def test_a_workflow_of_its_own_comes_before_the_engines(hooked: TestEngine) -> None:
    hooked.start(own, id="mine")
    hooked.idle()
    (hook,) = hooks(hooked, "on failure.plain alert")
    assert (hooked.get(hook).result(5), hooks(hooked)) == ("mine", [])


def test_a_workflow_of_its_own_needs_no_engine_that_has_one(engine: TestEngine) -> None:
    engine.start(own, id="mine")
    engine.idle()
    assert len(hooks(engine, "on failure.plain alert")) == 1


@pytest.mark.parametrize("how", ["itself", "what it calls"])
def test_nobody_is_told_of_a_hook_that_fails(database: Path, how: str) -> None:
    broken.add("alert")
    hook = alert if how == "itself" else parent_alert
    with TestEngine(database, on_failure=hook) as engine:
        engine.start(order, id="order")
        engine.idle()
        (run,) = hooks(engine, hook.name)
        assert engine.get(run).status == "failed"
    assert len(told) == 1


def test_a_retry_that_fails_again_is_told_again(hooked: TestEngine) -> None:
    run = hooked.start(order)
    hooked.idle()
    run.retry()
    hooked.idle()
    assert len(told) == len(hooks(hooked)) == 2


def test_a_halted_run_that_is_tried_again_and_stops_as_before_is_told_once(hooked: TestEngine) -> None:
    hooked.start(breaks)
    hooked.idle()
    for _ in range(2):
        hooked.crash()
        hooked.reopen().idle()
    assert len(hooks(hooked)) == 1


def test_the_hook_is_committed_with_the_failure_whatever_dies(hooked: TestEngine) -> None:
    for number in range(20):
        hooked.start(order, id=f"run-{number}")
    hooked.crash()
    hooked.reopen().idle()
    failed = {run.id for run in hooked.list("status:failed", workflow=order)}
    assert len(failed) == 20
    assert {name.partition(":")[0] for name in hooks(hooked)} == failed
    assert len(hooks(hooked)) == 20


def test_an_async_engine_tells_as_well(tmp_path: Path) -> None:
    async def main() -> int:
        async with AsyncEngine(tmp_path / "w.db", on_failure=alert) as engine:
            await engine.start(order)
            await engine.run_until_idle(60)
            return len(await engine.list(workflow=alert))

    assert asyncio.run(main()) == 1


def test_an_engine_serves_its_hook_also_where_it_is_not_listed(database: Path) -> None:
    with TestEngine(database, workflows=[order], on_failure=alert) as engine:
        engine.start(order)
        engine.idle()
    assert len(told) == 1


@workflow(name="on failure.takes nothing")
async def takes_nothing() -> None: ...


@pytest.mark.parametrize("hook", [len, "alert", takes_nothing, page])
def test_what_cannot_be_told_is_refused(database: Path, hook: Any) -> None:
    with pytest.raises(InvalidArgument, match="on_failure"):
        Engine(database, on_failure=hook)
    with pytest.raises(InvalidArgument, match="on_failure"):
        workflow(name="on failure.unusable", on_failure=hook)(fine.function)
