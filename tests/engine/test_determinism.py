"""Replay is silent, repeats what was, and says where code differs from the journal."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import random as plain_random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    DeterminismError,
    Engine,
    Run,
    RunHalted,
    Workflow,
    WorkflowIOError,
    current,
    get_logger,
    now,
    patched,
    publish,
    random,
    receive,
    start,
    step,
    uuid4,
    workflow,
)
from stepwell.definitions.step_info import RunContext
from stepwell.testing import TestEngine

executed: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step
def first(value: int = 0) -> str:
    executed.append("first")
    return f"first {value}"


@step
def second(value: int = 0) -> str:
    executed.append("second")
    return f"second {value}"


def replay(run: Run[Any], engine: TestEngine) -> None:
    """Crash, and have the run brought back to memory: a run that waits is not read before something happens to it."""
    engine.idle()
    engine.crash()
    engine.reopen()
    run.send("poke")
    engine.idle()


# --- time and chance --------------------------------------------------------------------------------------------------


def test_time_and_chance_are_the_same_in_every_replay(engine: TestEngine) -> None:
    seen: list[list[str]] = []

    @workflow
    async def look() -> list[str]:
        found = [str(now()), str(random()), str(uuid4())]
        await asyncio.sleep(5)
        found += [str(now()), str(random()), str(uuid4()), str(asyncio.get_running_loop().time())]
        seen.append(found)
        await receive("go on")
        return found

    run = engine.start(look)
    engine.advance(5)
    for _ in range(3):
        engine.advance(100)
        replay(run, engine)
    run.send("go on")
    result = run.result(60)
    assert len(seen) == 4
    assert all(found == result for found in seen)


def test_now_is_the_time_of_what_the_run_heard_last(engine: TestEngine) -> None:
    @workflow
    async def look() -> list[datetime]:
        found = [now()]
        await asyncio.sleep(60)
        found += [now(), now()]
        first()
        return found

    started_at = engine.clock.time
    run = engine.start(look)
    engine.advance(60)
    assert run.result(60) == [started_at, *[started_at + timedelta(seconds=60)] * 2]


def test_runs_draw_different_numbers(engine: TestEngine) -> None:
    @workflow
    async def draw() -> str:
        return f"{random()} {uuid4()}"

    assert len({engine.start(draw).result(60) for _ in range(20)}) == 20


def test_random_numbers_and_uuids_are_well_formed(engine: TestEngine) -> None:
    @workflow
    async def draw() -> tuple[list[float], uuid.UUID]:
        return [random() for _ in range(200)], uuid4()

    numbers, identifier = engine.start(draw).result(60)
    assert all(0 <= number < 1 for number in numbers)
    assert len(set(numbers)) == 200
    assert identifier.version == 4


def test_outside_of_a_run_time_and_chance_are_real() -> None:
    before = datetime.now(UTC)
    assert before <= now() <= datetime.now(UTC)
    assert random() != random()
    assert uuid4() != uuid4()


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_logger_says_everything_once_and_names_the_run(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    log = get_logger("shop")

    @workflow
    async def talk() -> None:
        log.warning("began")
        await asyncio.sleep(1)
        log.warning("slept %d", 1, extra={"more": True})
        await asyncio.sleep(1)
        log.warning("ended")

    with caplog.at_level(logging.WARNING, logger="shop"):
        run = engine.start(talk, id="talker")
        for _ in range(2):
            replay(run, engine)
            engine.advance(1)
        run.result(60)
        log.warning("outside")
    records = [record for record in caplog.records if record.name == "shop"]
    assert [record.getMessage() for record in records] == ["began", "slept 1", "ended", "outside"]
    assert [record.__dict__["run_id"] for record in records] == ["talker", "talker", "talker", None]
    assert records[1].__dict__["more"] is True


def test_code_that_turns_out_to_block_is_started_anew_without_saying_or_doing_anything_twice(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    log = get_logger("shop")
    out_of_sight = {"first": first}
    began = threading.Event()
    stopped: list[str] = []

    @step
    async def hang() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("hang")

    @workflow
    async def talk() -> list[str]:
        log.warning("began")
        hanging = asyncio.create_task(hang())
        await receive("go on")
        hanging.cancel()
        await asyncio.sleep(0)
        log.warning("blocks")
        found = [out_of_sight["first"](1)]
        log.warning("blocked")
        await receive("end")
        return found

    with caplog.at_level(logging.WARNING, logger="shop"):
        run = engine.start(talk)
        assert began.wait(60)
        run.send("go on")
        engine.idle()
        assert stopped == ["hang"]
        assert run.status == "waiting"
        run.send("end")
        assert run.result(60) == ["first 1"]
    records = [record.getMessage() for record in caplog.records if record.name == "shop"]
    assert records == ["began", "blocks", "blocked"]
    assert executed == ["first"]


def test_current_tells_the_run_and_whether_it_replays(engine: TestEngine) -> None:
    seen: list[RunContext] = []

    @workflow(name="curious")
    async def look() -> None:
        found = current()
        assert isinstance(found, RunContext)
        seen.append(found)
        await receive("go on")

    run = engine.start(look, id="run")
    replay(run, engine)
    run.send("go on")
    run.result(60)
    assert seen == [RunContext("run", "curious", replaying=False), RunContext("run", "curious", replaying=True)]


# --- changed code -----------------------------------------------------------------------------------------------------


def body(function: Callable[[], Any]) -> Workflow[[], Any]:
    """Declare what is, to the engine, always the same workflow."""
    workflow(name="changing")(function)
    return stepwell.definitions.definition.registered_workflows()["changing"]


async def original() -> list[str]:
    found = [first(1)]
    await asyncio.sleep(10)
    found.append(second(2))
    await receive("go on")
    return found


async def swapped() -> list[str]:
    found = [second(2)]
    await asyncio.sleep(10)
    found.append(first(1))
    await receive("go on")
    return found


async def other_argument() -> list[str]:
    found = [first(111)]
    await asyncio.sleep(10)
    found.append(second(2))
    await receive("go on")
    return found


async def longer() -> list[str]:
    found = [first(1), first(1)]
    await asyncio.sleep(10)
    found.append(second(2))
    await receive("go on")
    return found


async def shorter() -> list[str]:
    return [first(1)]


async def step_became_timer() -> list[str]:
    await asyncio.sleep(10)
    await asyncio.sleep(10)
    return []


async def different_child() -> list[str]:
    await start(body_child)
    return []


async def raises_early() -> list[str]:
    raise ValueError("new check")


@workflow
async def body_child() -> None:
    return


CHANGES: dict[Callable[[], Any], tuple[str, str, str]] = {
    swapped: ("step", "first", "second"),
    other_argument: ("step", "first", "first"),
    longer: ("timer", "timer", "first"),
    shorter: ("", "timer", "ended"),
    step_became_timer: ("step", "first", "timer"),
    different_child: ("step", "first", "body_child"),
    raises_early: ("", "first", "ended with ValueError: new check"),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_code_halts_the_run_showing_expected_and_actual_with_the_line(
    engine: TestEngine, change: Callable[[], Any]
) -> None:
    run = engine.start(body(original), id="run-9")
    engine.advance(10)
    before = run.journal()
    executed.clear()
    body(change)
    replay(run, engine)
    with pytest.raises(DeterminismError) as caught:
        run.result(60)
    error = caught.value
    _, expected, actual = CHANGES[change]
    assert expected in error.expected
    assert actual in error.actual
    assert "run-9" in str(error)
    assert error.expected in str(error)
    assert error.actual in str(error)
    if actual == "ended":
        assert error.location == "changing"
    else:
        assert error.location.partition(":")[0] == __file__
        assert error.location.endswith(change.__name__)
    if change is other_argument:
        assert error.actual.endswith(": (111,)")  # the arguments, where nothing but them differs
    assert executed == []
    assert run.journal() == before
    info = run.info()
    assert info.status == "halted"
    assert info.reason is not None
    assert "DeterminismError" in info.reason


def test_the_line_that_differs_is_named(engine: TestEngine) -> None:
    run = engine.start(body(original))
    engine.idle()
    body(swapped)
    replay(run, engine)
    with pytest.raises(DeterminismError) as caught:
        run.result(60)
    line = swapped.__code__.co_firstlineno + 1
    assert caught.value.location == f"{__file__}:{line} in swapped"


@pytest.mark.parametrize("by", ["resume", "reopen"])
def test_a_halted_run_goes_on_when_the_code_is_mended(engine: TestEngine, by: str) -> None:
    run = engine.start(body(original))
    engine.advance(10)
    body(swapped)
    replay(run, engine)
    with pytest.raises(DeterminismError):
        run.result(60)
    executed.clear()
    body(original)
    if by == "resume":
        run.resume()
    else:
        engine.reopen()
    run.send("go on")
    assert run.result(60) == ["first 1", "second 2"]
    assert executed == []


def test_a_message_to_a_halted_run_waits_for_it(engine: TestEngine) -> None:
    run = engine.start(body(original))
    engine.advance(10)
    body(swapped)
    replay(run, engine)
    assert run.status == "halted"
    run.send("go on")
    body(original)
    engine.reopen()
    assert run.result(60) == ["first 1", "second 2"]


def test_a_resume_with_code_that_still_differs_halts_again(engine: TestEngine) -> None:
    run = engine.start(body(original))
    engine.advance(10)
    body(swapped)
    replay(run, engine)
    run.resume()
    with pytest.raises(DeterminismError):
        run.result(60)


def test_resuming_a_run_that_is_not_halted_changes_nothing(engine: TestEngine) -> None:
    run = engine.start(body(original))
    engine.idle()
    run.resume()
    engine.advance(10)
    run.send("go on")
    assert run.result(60) == ["first 1", "second 2"]


async def waits_for_another_name() -> list[str]:
    found = [first(1)]
    await asyncio.sleep(10)
    found.append(second(2))
    await receive("go onn")
    return found


def test_a_run_that_waited_for_the_wrong_thing_looks_again_when_it_is_resumed(engine: TestEngine) -> None:
    run = engine.start(body(original))
    engine.advance(10)
    engine.crash()
    body(waits_for_another_name)
    engine.reopen()
    run.send("go on")
    engine.idle()
    body(original)
    engine.reopen()
    run.resume()
    assert run.result(60) == ["first 1", "second 2"]


def test_the_command_resume_does_that_as_well(database: Path) -> None:
    async def right() -> str:
        return str(await receive("go on", str))

    async def wrong() -> str:
        return str(await receive("go onn", str))

    with Engine(database, workflows=[body(wrong)]) as engine:
        engine.start(body(wrong), id="waits", messages=[("go on", "went")])
    with Engine(database, workflows=[body(right)]) as engine:
        run = engine.get("waits")
        command = [sys.executable, "-m", "stepwell", "resume", run.id, "--db", str(database)]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        assert run.result(60) == "went"


def test_code_behind_the_journals_end_may_change_freely(engine: TestEngine) -> None:
    async def other_tail() -> list[str]:
        found = [first(1)]
        await asyncio.sleep(10)
        found.append("no second")
        return found

    run = engine.start(body(original))
    engine.idle()
    engine.crash()
    body(other_tail)
    engine.reopen()
    engine.advance(10)
    assert run.result(60) == ["first 1", "no second"]


def test_a_run_whose_input_no_longer_fits_halts_and_is_repairable(engine: TestEngine) -> None:
    @workflow(name="typed")
    async def takes_text(value: str) -> str:
        await receive("go on")
        return value

    run = engine.start(takes_text, "text")
    engine.idle()

    @workflow(name="typed")
    async def takes_number(value: int) -> int:
        await receive("go on")
        return value

    replay(run, engine)
    with pytest.raises(RunHalted, match="typed"):
        run.result(60)
    workflow(name="typed")(takes_text.function)
    engine.reopen()
    run.send("go on")
    assert run.result(60) == "text"


def test_a_run_that_lacks_an_argument_of_todays_code_halts_and_says_which(engine: TestEngine) -> None:
    @workflow(name="taking")
    async def takes_one(value: str) -> str:
        await receive("go on")
        return value

    run = engine.start(takes_one, "text")
    engine.idle()

    @workflow(name="taking")
    async def takes_two(value: str, other: str) -> str:
        await receive("go on")
        return value + other

    replay(run, engine)
    with pytest.raises(RunHalted, match="missing a required argument: 'other'"):
        run.result(60)
    workflow(name="taking")(takes_one.function)
    engine.reopen()
    run.send("go on")
    assert run.result(60) == "text"


def test_other_runs_are_not_disturbed_by_one_that_halts(engine: TestEngine) -> None:
    @workflow
    async def bystander() -> str:
        await asyncio.sleep(10)
        return "fine"

    run, other = engine.start(body(original)), engine.start(bystander)
    engine.idle()
    engine.crash()
    body(swapped)
    engine.reopen()
    engine.advance(10)
    with pytest.raises(DeterminismError):
        run.result(60)
    assert other.result(60) == "fine"


# --- patched ----------------------------------------------------------------------------------------------------------


async def before_the_patch() -> list[str]:
    found = [first(1)]
    await receive("go on")
    return found


async def with_the_patch() -> list[str]:
    found = [second(2)] if patched("greet") else []
    found.append(first(1))
    await receive("go on")
    if patched("part"):
        found.append(second(3))
    return found


def test_old_runs_keep_the_old_path_and_new_runs_take_the_new_one(engine: TestEngine) -> None:
    old = engine.start(body(before_the_patch))
    engine.idle()
    engine.crash()
    definition = body(with_the_patch)
    engine.reopen()
    new = engine.start(definition)
    for _ in range(2):
        replay(old, engine)
        replay(new, engine)
    old.send("go on")
    new.send("go on")
    assert old.result(60) == ["first 1", "second 3"]
    assert new.result(60) == ["second 2", "first 1", "second 3"]


def test_a_patch_that_is_asked_twice_answers_the_same(engine: TestEngine) -> None:
    async def asks() -> list[bool]:
        found = [patched("a")]
        await receive("go on")
        return [*found, patched("a"), patched("a")]

    run = engine.start(body(asks))
    replay(run, engine)
    run.send("go on")
    assert run.result(60) == [True, True, True]


# --- reaching outside -------------------------------------------------------------------------------------------------


def open_a_file() -> None:
    open(os.devnull).close()


def open_a_path() -> None:
    Path(os.devnull).read_bytes()


def open_a_socket() -> None:
    socket.socket().close()


def look_up_a_host() -> None:
    socket.getaddrinfo("localhost", 80)


def start_a_thread() -> None:
    threading.Thread(target=print).start()


def sleep_for_real() -> None:
    time.sleep(0.001)


def run_a_program() -> None:
    subprocess.run([sys.executable, "-c", ""], check=False)


def list_a_folder() -> None:
    os.listdir(".")


def use_an_executor() -> None:
    _ = asyncio.get_running_loop().run_in_executor(None, print)


def connect_out() -> None:
    asyncio.get_running_loop().create_connection(object, "localhost", 80)  # type: ignore[type-var, unused-coroutine]


@pytest.mark.parametrize(
    "reach",
    [
        open_a_file,
        open_a_path,
        open_a_socket,
        look_up_a_host,
        start_a_thread,
        sleep_for_real,
        run_a_program,
        list_a_folder,
        use_an_executor,
        connect_out,
    ],
    ids=lambda reach: reach.__name__,
)
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_workflow_that_reaches_outside_is_told_at_the_line_where_it_does(
    engine: TestEngine, reach: Callable[[], None], kind: str
) -> None:
    @workflow
    async def reaches() -> None:
        reach()

    @workflow
    def reaches_plainly() -> None:
        reach()

    run = engine.start(reaches if kind == "async" else reaches_plainly, id="run-3")
    with pytest.raises(WorkflowIOError, match="run-3") as caught:
        run.result(60)
    line = reach.__code__.co_firstlineno + 1
    assert f"{__file__}:{line} in {reach.__name__}" in str(caught.value)
    assert "step" in str(caught.value)


def test_the_same_things_are_fine_in_a_step(engine: TestEngine) -> None:
    @step
    def reach() -> bool:
        for function in (open_a_file, open_a_socket, list_a_folder, sleep_for_real, run_a_program):
            function()
        thread = threading.Thread(target=executed.clear)
        thread.start()
        thread.join()
        return True

    @workflow
    async def calls() -> bool:
        return reach()

    assert engine.start(calls).result(60)


def test_imports_logging_and_time_zones_are_fine_in_a_workflow(
    engine: TestEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_module_for_a_workflow.py").write_text("VALUE = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    handler = logging.FileHandler(tmp_path / "log.txt", delay=True)
    logger = logging.getLogger("test of workflow logging")
    logger.addHandler(handler)
    logger.propagate = False

    @workflow
    async def uses() -> list[Any]:
        import zoneinfo

        module = importlib.import_module("a_module_for_a_workflow")
        logger.error("from a workflow", exc_info=ValueError("x"))
        zone = zoneinfo.ZoneInfo.no_cache("Asia/Tokyo")
        return [module.VALUE, str(datetime(2024, 1, 1, tzinfo=zone).utcoffset())]

    try:
        assert engine.start(uses).result(60) == [5, "9:00:00"]
    finally:
        handler.close()
    assert "from a workflow" in (tmp_path / "log.txt").read_text()


def test_other_threads_may_do_io_while_a_workflow_executes(engine: TestEngine) -> None:
    @workflow
    async def busy() -> int:
        return sum(plain_random.Random(1).random() > 2 for _ in range(50_000))

    runs = [engine.start(busy) for _ in range(5)]
    for _ in range(50):
        open_a_file()
    assert [run.result(60) for run in runs] == [0] * 5


def test_a_caught_refusal_does_not_break_the_run(engine: TestEngine) -> None:
    @workflow
    async def tries() -> str:
        try:
            open_a_file()
        except WorkflowIOError:
            return first(5)
        return ""

    assert engine.start(tries).result(60) == "first 5"


# --- the watchdog -----------------------------------------------------------------------------------------------------


def test_the_watchdog_names_a_run_whose_code_blocks_the_engine(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    warned = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "busy" in record.getMessage():
                warned.set()

    @workflow
    async def spins() -> str:
        while not warned.is_set():
            pass
        return "done"

    listener = Listener(logging.WARNING)
    logging.getLogger("stepwell").addHandler(listener)
    try:
        assert engine.start(spins, id="spinner").result(60) == "done"
    finally:
        logging.getLogger("stepwell").removeHandler(listener)
    message = next(record.getMessage() for record in caplog.records if "busy" in record.getMessage())
    assert "'spinner'" in message
    assert "spins" in message


def test_a_value_is_published_once_per_change_not_per_replay(engine: TestEngine) -> None:
    @workflow
    async def counts() -> None:
        for number in range(3):
            await publish("count", number)
            await asyncio.sleep(1)

    run = engine.start(counts)
    for expected in range(3):
        replay(run, engine)
        assert run.value("count", 60) == expected
        engine.advance(1)
    run.result(60)
    assert [entry.kind for entry in run.journal()].count("published") == 3
