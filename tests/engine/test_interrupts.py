"""What a signal handler raises while a step computes ends the process: the step has not failed, and is repeated."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from stepwell import Engine, RunFailed, step, workflow
from stepwell.testing import TestEngine

PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "interrupted.py"
#: How long the process may take to end after the signal, in seconds: much less than the step would compute.
END_SECONDS = 30

EXIT_CODES = {"interrupt": -signal.SIGINT, "exit": 7, "method": 1, "object": 1, "hard": 1, "inner": 1}


def start(database: Path, kind: str, host: str, handler: str, *, again: bool) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "AGAIN"}
    if again:
        environment["AGAIN"] = "1"
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(database), kind, host, handler],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def interrupt(database: Path, kind: str, host: str, handler: str) -> tuple[int, str]:
    """Have the program told by a signal while its step computes; return its exit code and what it said on stderr."""
    with start(database, kind, host, handler, again=False) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "in\n"
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=END_SECONDS)
        finally:
            process.kill()
    assert output == "", errors
    return process.returncode, errors


def ends_of_attempts(database: Path) -> list[str]:
    with Engine(database, workflows=[]) as engine:
        return [entry.kind for entry in engine.get("x").journal() if entry.kind != "step_started"]


def assert_goes_on(database: Path, kind: str, host: str, result: str = "done") -> None:
    with start(database, kind, host, "exit", again=True) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, f"{result}\n"), errors


CUT_OFF = [
    ("first", "asyncio.run", "interrupt"),
    ("first", "run_until_complete", "exit"),
    ("first", "asyncio.run", "method"),
    ("first", "run_until_complete", "object"),
    ("later", "asyncio.run", "exit"),
    ("later", "run_until_complete", "interrupt"),
    ("later", "asyncio.run", "inner"),
    ("later", "run_until_complete", "hard"),
    ("group", "asyncio.run", "exit"),
    ("group", "run_until_complete", "interrupt"),
    ("gathered", "asyncio.run", "interrupt"),
    ("gathered", "run_until_complete", "exit"),
]
ELSEWHERE = [
    ("thread", "Engine", "interrupt"),
    ("thread", "Engine", "exit"),
    ("thread", "asyncio.run", "exit"),
    ("isolated", "Engine", "interrupt"),
    ("isolated", "run_until_complete", "exit"),
    ("writes", "Engine", "exit"),
]


@pytest.mark.parametrize(("kind", "host", "handler"), CUT_OFF)
def test_a_step_that_a_signal_handler_cut_off_in_the_main_thread_is_repeated_by_the_next_start(
    database: Path, kind: str, host: str, handler: str
) -> None:
    code, errors = interrupt(database, kind, host, handler)
    assert code == EXIT_CODES[handler], errors
    assert ends_of_attempts(database) == []
    assert_goes_on(database, kind, host)


@pytest.mark.parametrize(("kind", "host", "handler"), ELSEWHERE)
def test_a_signal_handler_that_raises_while_steps_execute_elsewhere_ends_the_process(
    database: Path, kind: str, host: str, handler: str
) -> None:
    code, errors = interrupt(database, kind, host, handler)
    assert code == EXIT_CODES[handler], errors
    if kind != "writes":  # which may have come to its end
        assert ends_of_attempts(database) == []
        assert_goes_on(database, kind, host)


@pytest.mark.parametrize("host", ["asyncio.run", "run_until_complete"])
def test_signals_while_workflow_code_computes_end_the_process_and_are_no_failure_of_the_run(
    database: Path, host: str
) -> None:
    with start(database, "code", host, "exit", again=False) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "in\n"
            while process.poll() is None:  # the first one waits for the code, a later one cuts it off
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            _, errors = process.communicate(timeout=END_SECONDS)
        finally:
            process.kill()
    assert process.returncode in {7, -signal.SIGTERM}, errors  # where one came after Python had put handlers away
    assert ends_of_attempts(database) == []  # what led to the code that was cut off is not recorded either
    assert_goes_on(database, "code", host)


def test_a_step_of_at_most_once_that_was_cut_off_is_not_repeated(database: Path) -> None:
    code, errors = interrupt(database, "once", "asyncio.run", "exit")
    assert code == 7, errors
    assert ends_of_attempts(database) == []
    assert_goes_on(database, "once", "asyncio.run", result="interrupted")


@pytest.mark.parametrize("kind", ["first", "later"])
def test_a_loop_that_goes_on_after_an_interrupt_executes_the_step_again(database: Path, kind: str) -> None:
    with start(database, kind, "notebook", "interrupt", again=False) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "in\n"
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=END_SECONDS)
        finally:
            process.kill()
    assert output == "KeyboardInterrupt\ndone\n", errors
    assert ends_of_attempts(database) == ["step"]


# --- sys.exit() in a step that no main thread executes --------------------------------------------------------------


async def leaves() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


@step
async def gathers() -> None:
    await asyncio.gather(leaves(), asyncio.sleep(0.001))


@step
async def groups() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(leaves())


@step
async def leaves_at_once() -> None:
    sys.exit(3)


@step
async def leaves_later() -> None:
    await leaves()


@step
def leaves_in_a_thread() -> None:
    sys.exit(3)


@step
async def has_a_task_that_leaves() -> str:
    task = asyncio.create_task(leaves())
    await asyncio.wait([task])
    return type(task.exception()).__name__


@step
async def has_a_callback_that_leaves() -> str:
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(0.001)
    return "goes on"


@workflow
async def calls_one(name: str) -> str:
    result = globals()[name]()
    return str(result if result is None else await result)


@pytest.mark.parametrize("name", ["gathers", "groups", "leaves_at_once", "leaves_later", "leaves_in_a_thread"])
def test_a_step_that_calls_exit_fails_and_the_engine_goes_on(engine: TestEngine, name: str) -> None:
    with pytest.raises(RunFailed, match="3") as raised:
        engine.start(calls_one, name).result(60)
    assert raised.value.type_name == "SystemExit"
    assert engine.start(calls_one, "has_a_callback_that_leaves").result(60) == "goes on"


@pytest.mark.parametrize(
    ("name", "result"), [("has_a_task_that_leaves", "SystemExit"), ("has_a_callback_that_leaves", "goes on")]
)
def test_what_a_step_started_and_does_not_wait_for_cannot_end_the_engine(
    engine: TestEngine, name: str, result: str
) -> None:
    for _ in range(2):
        assert engine.start(calls_one, name).result(60) == result
