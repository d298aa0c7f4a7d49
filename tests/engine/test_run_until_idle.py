"""Run to idle: all that is due is done, and what is due next by itself is said."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stepwell import AsyncEngine, Engine, Queue, Retry, receive, step, workflow
from stepwell.cli import main
from stepwell.testing import TestEngine

LINE = Queue("idle.line", concurrency=1)
gate = threading.Event()


@step(name="idle.work")
def work(number: int) -> int:
    return number + 1


@workflow(name="idle.chain")
async def chain(length: int) -> int:
    number = 0
    for _ in range(length):
        number = await asyncio.to_thread(work, number)
    return number


@workflow(name="idle.sleeps")
async def sleeps(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "woken"


@workflow(name="idle.waits")
async def waits() -> Any:
    return await receive("go")


@step(name="idle.fails", retry=Retry(attempts=2, delay=300, jitter=0))
def fails() -> None:
    raise OSError("no route")


@workflow(name="idle.retries")
def retries() -> None:
    fails()


@step(name="idle.held")
def held() -> None:
    assert gate.wait(30)


@workflow(name="idle.hangs")
def hangs() -> None:
    held()


def test_nothing_is_due_in_an_empty_file(engine: TestEngine) -> None:
    assert engine.run_until_idle() is None


def test_all_that_is_due_is_done_queues_included(database: Path) -> None:
    with Engine(database, workflows=[]) as client:
        runs = [client.start(chain, 3, id=f"run-{number}", queue=LINE) for number in range(5)]
        client.start(waits)
        assert client.run_until_idle(60) is None
        assert {run.status for run in runs} == {"pending"}
    with Engine(database) as engine:
        assert engine.run_until_idle(60) is None
        assert [engine.get(run.id).status for run in runs] == ["completed"] * 5


@pytest.mark.parametrize("seconds", [60, 86_400])
def test_the_next_timer_is_said(engine: TestEngine, seconds: int) -> None:
    engine.start(sleeps, 90_000)
    engine.start(sleeps, seconds)
    due = engine.run_until_idle()
    now = datetime.fromtimestamp(engine.clock.now() / 1e6, UTC)
    assert due == now + timedelta(seconds=seconds)


def test_another_attempt_is_said(engine: TestEngine) -> None:
    engine.start(retries)
    due = engine.run_until_idle()
    assert due == datetime.fromtimestamp(engine.clock.now() / 1e6, UTC) + timedelta(seconds=300)


def test_a_delay_and_a_schedule_are_said(engine: TestEngine) -> None:
    now = datetime.fromtimestamp(engine.clock.now() / 1e6, UTC)
    engine.start(chain, 1, queue=LINE, delay=7200)
    assert engine.run_until_idle() == now + timedelta(hours=2)
    engine.schedule(chain, 1, id="idle.each", every=timedelta(hours=1))
    due = engine.run_until_idle()
    assert due is not None
    assert now < due <= now + timedelta(hours=1)


def test_a_timeout_names_what_goes_on(database: Path) -> None:
    gate.clear()
    with Engine(database) as engine:
        engine.start(hangs)
        with pytest.raises(TimeoutError, match="not idle after"):
            engine.run_until_idle(timeout=0.05)
        gate.set()
        assert engine.run_until_idle(60) is None


def test_an_async_engine_runs_to_idle(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "w.db") as engine:
            run = await engine.start(chain, 2)
            due = await engine.run_until_idle(60)
            assert (await run.status, due) == ("completed", None)

    asyncio.run(main())


def test_the_command_does_what_is_due_and_says_what_comes_next(
    database: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    module = tmp_path / "idle_flows.py"
    module.write_text("from stepwell import workflow\n@workflow(name='idle command')\ndef flow() -> int: return 1\n")
    with Engine(database, workflows=[]) as client:
        client.start("idle command", id="a")
        client.start("idle.sleeps", 3600)
    assert main(["run", str(module), "--until-idle", "--db", str(database)]) == 0
    assert capsys.readouterr().out.startswith("nothing is due before ")
    assert main(["run", str(module), "--until-idle", "--json", "--db", str(database)]) == 0
    due = datetime.fromisoformat(json.loads(capsys.readouterr().out)["next_due_at"])
    assert timedelta() < due - datetime.now(UTC) <= timedelta(hours=1)
    with Engine(database, workflows=[]) as client:
        assert client.get("a").status == "completed"


def test_code_that_never_ends_is_left_behind_when_the_time_is_up(tmp_path: Path) -> None:
    database, module = tmp_path / "spins.db", tmp_path / "spins.py"
    module.write_text(
        "from stepwell import step, workflow\n"
        "@step(name='spins.first')\n"
        "def first() -> int: return 1\n"
        "@workflow(name='spins')\n"
        "async def spins() -> None:\n"
        "    first()\n"
        "    while True: pass\n"
    )
    with Engine(database, workflows=[]) as client:
        client.start("spins")
    command = [sys.executable, "-m", "stepwell", "run", str(module), "--until-idle", "--timeout", "0.5"]
    ended = subprocess.run([*command, "--db", str(database)], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (
        1,
        "stepwell run: the engine is not idle after 0.5 s; it goes on, so you can wait again",
    )


@pytest.mark.parametrize(("line", "code"), [(["run", "no_such_module", "--until-idle"], 2), (["run", "json"], 2)])
def test_what_makes_no_sense_is_a_mistake_on_the_line(database: Path, line: list[str], code: int) -> None:
    assert main([*line, "--db", str(database)]) == code


def test_a_program_whose_workflow_code_never_ends_ends_all_the_same(tmp_path: Path) -> None:
    """The code executes in a greenlet below the step; without an end of its own the interpreter's would be a crash."""
    program = tmp_path / "spins.py"
    program.write_text(
        "import threading\n"
        "from stepwell import Engine, step, workflow\n"
        "spinning = threading.Event()\n"
        "@step\n"
        "def first() -> int: return 1\n"
        "@workflow\n"
        "async def spins() -> None:\n"
        "    first()\n"
        "    spinning.set()\n"
        "    while True: pass\n"
        f"engine = Engine({str(tmp_path / 'spins.db')!r})\n"
        "engine.start(spins)\n"
        "spinning.wait()\n"
        "engine.close(timeout=0)\n"
    )
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=60)
    said = ended.stderr.splitlines()[-1]
    assert (ended.returncode, "the engine closes although workflow code still executes" in said) == (0, True), said
