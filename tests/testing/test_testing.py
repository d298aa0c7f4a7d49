"""The tools that are shipped for users' tests: virtual clock, test engine, pytest plugin."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stepwell import Clock, Engine, EngineClosed, InvalidArgument, publish, receive, step, workflow
from stepwell.model.clock import SystemClock
from stepwell.testing import TestEngine, VirtualClock

executed: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step
def note(what: str) -> None:
    executed.append(what)


@workflow
async def naps(times: int) -> int:
    for number in range(times):
        await asyncio.sleep(86400)
        note(str(number))
    return times


@workflow
async def waits() -> Any:
    return await receive("word")


# --- the clock --------------------------------------------------------------------------------------------------------


def test_the_clock_stands_still_until_it_is_moved() -> None:
    clock = VirtualClock(datetime(2030, 5, 6, tzinfo=UTC))
    assert clock.now() == clock.now() == int(datetime(2030, 5, 6, tzinfo=UTC).timestamp()) * 1_000_000
    clock.advance(1.5)
    clock.advance(timedelta(days=1, microseconds=1))
    assert clock.time == datetime(2030, 5, 7, 0, 0, 1, 500001, tzinfo=UTC)
    clock.set(datetime(2031, 1, 1, tzinfo=UTC))
    assert clock.time == datetime(2031, 1, 1, tzinfo=UTC)
    assert "2031-01-01" in repr(clock)


def test_the_clock_never_runs_backwards() -> None:
    clock = VirtualClock()
    before = clock.time
    with pytest.raises(InvalidArgument, match="backwards"):
        clock.set(before - timedelta(seconds=1))
    with pytest.raises(InvalidArgument):
        clock.advance(-1)
    clock.set_floor(0)
    assert clock.time == before


def test_the_clock_needs_a_time_zone() -> None:
    with pytest.raises(InvalidArgument, match="time zone"):
        VirtualClock(datetime(2030, 1, 1))  # noqa: DTZ001 - that is the mistake


def test_the_clock_tells_everyone_that_it_moved_and_real_time_has_no_part_in_it() -> None:
    clock: Clock = VirtualClock()
    told: list[int] = []
    clock.on_jump(lambda: told.append(1))
    clock.on_jump(lambda: told.append(2))
    assert isinstance(clock, VirtualClock)
    clock.advance(1)
    clock.set(clock.time)
    assert told == [1, 2, 1, 2]
    assert clock.seconds_until(clock.now() + 5) is None  # type: ignore[func-returns-value]


def test_many_threads_may_move_the_clock() -> None:
    clock = VirtualClock()
    began = clock.now()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: clock.advance(1), range(400)))
    assert clock.now() == began + 400_000_000


def test_one_clock_serves_several_engines_and_wakes_them(tmp_path: Path) -> None:
    clock = VirtualClock()
    with Engine(tmp_path / "a.db", clock=clock) as left, Engine(tmp_path / "b.db", clock=clock) as right:
        runs = [left.start(naps, 1), right.start(naps, 1)]
        for run in runs:
            with pytest.raises(TimeoutError):
                run.result(0.05)
        clock.advance(timedelta(days=1))
        assert [run.result(60) for run in runs] == [1, 1]


# --- the engine -------------------------------------------------------------------------------------------------------


def test_time_passes_through_everything_that_is_due_in_between(engine: TestEngine) -> None:
    run = engine.start(naps, 10)
    engine.advance(timedelta(days=3, hours=1))
    assert executed == ["0", "1", "2"]
    engine.advance(timedelta(days=7))
    assert run.result(0) == 10


def test_the_clock_alone_jumps(engine: TestEngine) -> None:
    run = engine.start(naps, 2)
    engine.idle()
    engine.clock.advance(timedelta(days=10))
    engine.idle()
    assert executed == ["0"]
    engine.advance(timedelta(days=1))
    assert run.result(0) == 2


def test_idle_waits_for_steps_and_names_them_when_they_take_too_long(engine: TestEngine) -> None:
    release = threading.Event()

    @step(name="hold")
    def hold() -> None:
        release.wait(60)

    @workflow
    async def holds() -> None:
        hold()

    engine.start(holds, id="holder")
    with pytest.raises(TimeoutError, match="'hold' of run 'holder'"):
        engine.idle(timeout=0.05)
    release.set()
    assert engine.idle() is engine
    assert engine.get("holder").result(0) is None


def test_a_crash_loses_what_was_not_committed_and_keeps_the_rest(engine: TestEngine) -> None:
    began, release = threading.Event(), threading.Event()

    @step
    def hold() -> str:
        executed.append("held")
        began.set()
        release.wait(60)
        return "value"

    @workflow
    async def holds() -> str:
        note("before")
        return hold()

    run = engine.start(holds)
    assert began.wait(60)
    engine.crash()
    release.set()
    engine.reopen()
    assert run.result(60) == "value"
    assert executed == ["before", "held", "held"]


def test_no_clean_up_code_of_steps_or_workflows_runs_in_a_crash(engine: TestEngine) -> None:
    began = threading.Event()

    @step
    async def hang() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            executed.append("step")

    @workflow
    async def works() -> None:
        try:
            await publish("began", True)
            await hang()
        finally:
            executed.append("workflow")

    engine.start(works)
    assert began.wait(60)
    engine.crash()
    assert executed == []


def test_a_crashed_engine_refuses_everything_until_it_is_reopened(engine: TestEngine) -> None:
    run = engine.start(waits)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run.result)
        with pytest.raises(TimeoutError):
            run.result(0.05)
        engine.crash()
        engine.crash()
        with pytest.raises(EngineClosed, match="crashed"):
            waiting.result(60)
    with pytest.raises(EngineClosed):
        run.send("word", 1)
    with pytest.raises(EngineClosed):
        engine.idle()
    engine.reopen()
    run.send("word", 1)
    assert run.result(60) == 1


def test_a_crash_leaves_the_file_as_a_killed_process_would(engine: TestEngine, database: Path) -> None:
    engine.start(waits, id="run")
    engine.crash()
    assert database.with_name("test.db-wal").stat().st_size > 0
    engine.reopen()
    engine.close()
    assert not database.with_name("test.db-wal").exists()


def test_an_orderly_reopen_may_change_options(engine: TestEngine) -> None:
    run = engine.start(waits)
    engine.idle()
    assert engine.in_memory == {run.id}
    assert engine.reopen(max_waiting_in_memory=0) is engine
    assert engine.in_memory == frozenset()
    run.send("word", 5)
    assert run.result(60) == 5


def test_an_engine_with_a_clock_of_another_kind_cannot_be_advanced(tmp_path: Path) -> None:
    with TestEngine(tmp_path / "a.db", clock=SystemClock()) as engine:
        engine.start(waits)
        engine.idle()
        with pytest.raises(InvalidArgument, match="SystemClock"):
            engine.advance(1)


# --- the plugin -------------------------------------------------------------------------------------------------------

SUITE = """
import asyncio
import stepwell
from stepwell.testing import TestEngine


@stepwell.workflow
async def naps():
    await asyncio.sleep(3600)
    return "rested"


def test_engine_and_clock(stepwell_engine, stepwell_clock, tmp_path):
    assert stepwell_engine.clock is stepwell_clock
    run = stepwell_engine.start(naps)
    stepwell_engine.advance(3600)
    assert run.result(0) == "rested"
    assert (tmp_path / "stepwell.db").exists()


def test_each_test_has_a_file_of_its_own(stepwell_engine):
    assert stepwell_engine.list() == []
"""


def run_pytest(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=60)


def test_the_plugin_offers_an_engine_and_its_clock_and_is_silent_under_strict_warnings(tmp_path: Path) -> None:
    (tmp_path / "test_naps.py").write_text(SUITE)
    # The entry point is blocked, so that this works where the package is not installed as well.
    done = run_pytest(tmp_path, "-p", "no:stepwell", "-p", "stepwell.testing.plugin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "warning" not in done.stdout


PRELUDE = """
import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from stepwell import receive, step, workflow

charges = []


@dataclass
class Order:
    id: str


@step
async def charge(order: Order) -> None:
    charges.append(order.id)


@step
def ship(order: Order) -> str:
    return f"parcel-of-{order.id}"


async def old_checkout(order: Order) -> str:
    await charge(order)
    await asyncio.sleep(24 * 3600)
    if not await receive("approval", bool, timeout=timedelta(days=3)):
        return "refused"
    return ship(order)


async def new_checkout(order: Order) -> str:
    result = await old_checkout(order)
    return result.lower()


checkout = workflow(old_checkout)
"""


def test_the_examples_of_the_how_to_page_pass(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "test-workflows.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for number, block in enumerate(blocks):
        (tmp_path / f"test_{number}.py").write_text(PRELUDE + block)
    done = run_pytest(tmp_path, "-p", "no:stepwell", "-p", "stepwell.testing.plugin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(block.count('def test_') for block in blocks)} passed" in done.stdout


def test_the_plugin_costs_nothing_where_it_is_not_used(tmp_path: Path) -> None:
    program = "import sys, stepwell.testing.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert not {"apsw", "stepwell.runtime.engine_thread", "stepwell.testing.engine"} & set(done.stdout.split())
