"""The mistakes of others that must not be repeated, as far as they concern one process: one test for each.

The list is section 9 of the design. What a whole file of tests is about (crashes, replay, cancellation, the disk) is
here in its plainest form only.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

import stepwell
from stepwell import (
    Engine,
    ResultNotSerializable,
    Retry,
    RunCancelled,
    StepFailed,
    Workflow,
    publish,
    receive,
    send,
    step,
    sync,
    transaction,
    workflow,
)
from stepwell.testing import TestEngine

executed: list[Any] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step(name="note")
async def note(what: Any) -> Any:
    executed.append(what)
    return what


def made(source: str, name: str = "edited") -> Workflow[..., Any]:
    """Return the workflow that `source` defines, as a deployed module of another version would."""
    namespace: dict[str, Any] = {each: getattr(stepwell, each) for each in stepwell.__all__} | {"__name__": name}
    namespace.update(asyncio=asyncio, note=note, executed=executed)
    exec(compile(source, f"<{name}>", "exec", dont_inherit=True), namespace)
    return namespace[name]  # type: ignore[no-any-return]  # whatever the source made


# --- results ----------------------------------------------------------------------------------------------------------


def test_gathered_branches_keep_their_results_when_they_are_recovered_in_another_order(engine: TestEngine) -> None:
    events = {name: threading.Event() for name in ("slow", "quick")}
    both = threading.Barrier(3)

    @step
    def fetch(name: str, part: int) -> str:
        if part == 1 and len(executed) < 2:
            executed.append(name)
            both.wait(60)
            events[name].wait(60)
        return f"{name} {part}"

    async def branch(name: str) -> list[str]:
        return [await asyncio.to_thread(fetch, name, part) for part in range(3)]

    @workflow
    async def gathers() -> list[list[str]]:
        return list(await asyncio.gather(branch("slow"), branch("quick")))

    run = engine.start(gathers)
    both.wait(60)
    events["quick"].set()  # the second branch is a step ahead when the process dies
    until(lambda: len(run.journal()) >= 4)
    engine.crash()
    events["slow"].set()
    engine.reopen()
    assert run.result(timeout=60) == [[f"{name} {part}" for part in range(3)] for name in ("slow", "quick")]


def test_a_result_that_cannot_be_recorded_is_reported_with_its_step_and_the_run_stays_repairable(
    engine: TestEngine,
) -> None:
    broken = made("@step(name='fetch')\ndef fetch(): return {'socket': object()}\n"
                  "@workflow(name='edited')\nasync def edited(): return [await note(1), fetch()]")  # fmt: skip
    mended = made("@step(name='fetch')\ndef fetch(): return {'socket': 'closed'}\n"
                  "@workflow(name='edited')\nasync def edited(): return [await note(1), fetch()]")  # fmt: skip
    engine.reopen(workflows=[broken])
    run = engine.start(broken)
    with pytest.raises(ResultNotSerializable, match=r"'fetch'.*\$\.socket"):
        run.result(timeout=60)
    engine.reopen(workflows=[mended])
    assert run.result(timeout=60) == [1, {"socket": "closed"}]
    assert executed == [1]


class CardDeclined(Exception):
    """Pickles, but cannot be made again from its `args`."""

    def __init__(self, card: str, *, amount: int) -> None:
        super().__init__(f"{card} was declined for {amount}")
        self.card = card
        self.amount = amount


def test_an_exception_that_could_not_be_unpickled_comes_back_the_same_on_replay(engine: TestEngine) -> None:
    @step
    async def charge() -> None:
        executed.append("charge")
        raise CardDeclined("4242", amount=7)

    @workflow
    async def buys() -> list[Any]:
        try:
            await charge()
        except CardDeclined as error:
            found = [str(error), error.card, error.amount]
            return [*found, await receive("go")]
        return []

    run = engine.start(buys)
    engine.idle().crash()
    engine.reopen()
    run.send("go", "on")
    assert run.result(timeout=60) == ["4242 was declined for 7", "4242", 7, "on"]
    assert executed == ["charge"]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_reading_a_file_executes_and_imports_nothing_that_it_names(tmp_path: Path) -> None:
    database, bait = tmp_path / "orders.db", tmp_path / "bait.py"
    bait.write_text(
        "import pathlib, stepwell\n"
        f"pathlib.Path({str(tmp_path / 'sprung')!r}).touch()\n"
        "class Trap(Exception):\n    def __reduce__(self): return print, ('sprung',)\n"
        "@stepwell.step(name='bait')\ndef bait(): raise Trap('x')\n"
        "@stepwell.workflow(name='baited')\ndef baited(): return bait()\n"
    )
    make = (
        "import sys, stepwell; sys.path.insert(0, sys.argv[2]); import bait\n"
        "with stepwell.Engine(sys.argv[1]) as engine:\n"
        "    try: engine.start(bait.baited, id='baited').result(60)\n"
        "    except bait.Trap: pass\n"
    )
    read = (
        "import sys, stepwell\n"
        "with stepwell.Engine(sys.argv[1]) as engine:\n"
        "    run, = engine.list(); run.info(); print(run.journal())\n"
        "    try: run.result(60)\n"
        "    except stepwell.RunFailed as error: print(error.type_name)\n"
        "assert 'bait' not in sys.modules and 'pickle' not in dir(stepwell)\n"
    )
    subprocess.run([sys.executable, "-c", make, database, tmp_path], check=True, timeout=30)
    (tmp_path / "sprung").unlink()
    shown = subprocess.run(
        [sys.executable, "-c", read, database, tmp_path], check=True, timeout=30, capture_output=True, text=True
    )
    assert "bait.Trap" in shown.stdout
    assert not (tmp_path / "sprung").exists()


def test_nothing_in_the_file_is_a_pickle_and_a_person_can_read_it(database: Path) -> None:
    @workflow
    async def plain(value: Any) -> Any:
        await publish("key", value)
        return await note(value)

    with Engine(database) as engine:
        engine.start(plain, {"who": "Ada", "when": [2030, 1, 2]}).result(timeout=60)
    with closing(sqlite3.connect(database)) as connection:
        cells = [
            cell
            for query in ("SELECT input, result, error FROM stepwell_runs", "SELECT value FROM stepwell_journal")
            for row in connection.execute(query)
            for cell in row
            if cell is not None
        ]
        mode = connection.execute("PRAGMA journal_mode").fetchall()
    assert len(cells) == 3
    assert all(isinstance(cell, str) for cell in cells)
    assert any('"who":"Ada"' in cell for cell in cells)
    assert mode == [("wal",)]


# --- time -------------------------------------------------------------------------------------------------------------


def test_timers_are_exact_to_the_microsecond_and_never_early(engine: TestEngine) -> None:
    delays = [0.000_001, 0.001_5, 0.25, 1.999_999]

    @workflow
    async def sleeps() -> list[int]:
        slept = []
        for delay in delays:
            before = stepwell.now()
            await asyncio.sleep(delay)
            slept.append((stepwell.now() - before) // timedelta(microseconds=1))
        return slept

    run = engine.start(sleeps)
    engine.advance(10)
    assert run.result(timeout=60) == [1, 1500, 250_000, 1_999_999]


def test_a_timer_of_the_real_clock_is_not_rounded_to_a_poll(database: Path) -> None:
    @workflow
    async def naps() -> list[float]:
        times = [time.monotonic()]
        for _ in range(20):
            await asyncio.sleep(0.002)
            times.append(time.monotonic())
        return [after - before for before, after in pairwise(times)]

    with Engine(database) as engine:
        took = engine.start(naps).result(timeout=60)
    # However busy the machine is, it will not be late each time. A poll would be: the file is looked at every 100 ms.
    assert min(took) < 0.05
    assert sum(took) > 0.03


def test_retries_are_counted_across_crashes(engine: TestEngine) -> None:
    @step(retry=Retry(attempts=4, delay=1, jitter=0))
    async def hopeless() -> None:
        executed.append(stepwell.current().attempt)
        raise ConnectionError

    @workflow
    async def tries() -> None:
        await hopeless()

    run = engine.start(tries)
    for _ in range(4):
        engine.idle().crash()
        engine.reopen()
        engine.advance(10)
    with pytest.raises(ConnectionError):
        run.result(timeout=60)
    assert executed == [1, 2, 3, 4]


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_thousand_waiting_runs_hold_no_thread_and_little_memory(database: Path) -> None:
    @workflow(name="waits")
    async def waits() -> Any:
        return await receive("go")

    @workflow(name="waits sync")
    def waits_sync() -> Any:
        return sync.receive("go")

    with TestEngine(database, max_waiting_in_memory=50, durability="normal") as engine:
        engine.start(waits).send("go")
        engine.idle()
        before = threading.active_count()
        runs = [engine.start(waits if number % 2 else waits_sync, id=f"run-{number}") for number in range(1000)]
        engine.idle()
        assert threading.active_count() <= before
        assert {run.info().status for run in runs[::100]} == {"waiting"}
        assert len(engine._session.engine_thread.worker.memory.runs) <= 50
        for number, run in enumerate(runs):
            run.send("go", number)
        assert [run.result(timeout=60) for run in runs] == list(range(1000))
        assert threading.active_count() <= before


def test_an_idle_engine_writes_nothing_and_hardly_computes(database: Path) -> None:
    @workflow
    async def waits() -> Any:
        return await receive("go", timeout=3600)

    with Engine(database) as engine:
        run = engine.start(waits)
        until(lambda: run.info().status == "waiting")
        content, began = (Path(f"{database}-wal").stat().st_size, database.stat().st_mtime_ns), time.process_time()
        with pytest.raises(TimeoutError):
            run.result(timeout=1)
        assert (Path(f"{database}-wal").stat().st_size, database.stat().st_mtime_ns) == content
        assert time.process_time() - began < 0.2  # of one second, with room for whatever else this process does


def test_cancelling_reaches_a_sleep_at_once(database: Path) -> None:
    @workflow
    async def sleeps() -> None:
        await publish("asleep", value=True)
        await asyncio.sleep(3600)

    with Engine(database) as engine:
        run = engine.start(sleeps)
        run.value("asleep", timeout=60)
        run.cancel("wake up")
        with pytest.raises(RunCancelled, match="wake up"):
            run.result(timeout=60)


def test_the_blocks_of_a_run_that_leaves_memory_do_not_act(engine: TestEngine) -> None:
    @transaction
    def count(tx: Any) -> int:
        executed.append("transaction")
        return len(tx.execute("SELECT 1"))

    @workflow
    async def other() -> None: ...

    @workflow
    async def guarded() -> str:
        try:
            return str(await receive("go"))
        except BaseException as error:
            await note(f"except {type(error).__name__}")
            raise
        finally:
            await note("finally")
            await publish("closing", value=True)
            await send("guarded", "stray", 1)
            await stepwell.start(other, id="stray")
            count()

    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(guarded, id="guarded")
    engine.idle()
    assert engine._session.engine_thread.worker.memory.by_id("guarded") is None
    engine.close()
    assert executed == []
    engine.reopen()
    assert [each.id for each in engine.list()] == ["guarded"]
    assert run.journal() == []
    assert run.info().cancel_requested_at is None
    run.send("go", "on")
    assert run.result(timeout=60) == "on"
    assert executed == ["finally", "transaction"]


# --- code -------------------------------------------------------------------------------------------------------------


def test_a_bug_in_workflow_code_is_shown_once_and_is_not_retried(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def buggy() -> None:
        executed.append("ran")
        await note("before")
        raise ZeroDivisionError("a bug")

    with caplog.at_level(logging.DEBUG, logger="stepwell"):
        run = engine.start(buggy)
        with pytest.raises(ZeroDivisionError, match="a bug") as raised:
            run.result(timeout=60)
        engine.advance(3600)
        engine.reopen().advance(3600)
    assert executed == ["ran", "before"]
    assert "in buggy" in "\n".join(raised.value.__notes__)
    assert run.info().error == "ZeroDivisionError: a bug"
    assert sum("a bug" in record.getMessage() for record in caplog.records) <= 1


BEFORE = """
@workflow(name="edited")
async def edited(order):
    first = await note("first")
    answer = await receive("go")
    return [first, answer]
"""

PLAIN = """
from stepwell import sync

@workflow(name="edited")
def edited(order):
    first = sync.call(note, "first")
    return [first, sync.receive("go")]
"""

#: Edits that change what the code will do, or how it is written, but not what it has done.
HARMLESS = {
    "a step at the end": (
        BEFORE.replace("return [first, answer]", "return [first, answer, await note('new')]"), ["first", "now", "new"]
    ),
    "locals renamed": (BEFORE.replace("first =", "erster =").replace("[first,", "[erster,"), ["first", "now"]),
    "comments, types and lines": (
        BEFORE.replace("(order)", "(order: str) -> list[object]").replace("    first =", "    # why\n\n\n    first ="),
        ["first", "now"],
    ),
    "a helper extracted": (
        "async def ask():\n    return await receive('go')\n" + BEFORE.replace("await receive('go')", "await ask()"),
        ["first", "now"],
    ),
    "a parameter with a default": (BEFORE.replace("(order)", "(order, rush=False)"), ["first", "now"]),
    "a step's body": (
        "@step(name='note')\nasync def note(what): return 'another body'\n" + BEFORE, ["first", "now"]
    ),
    "a step's options": (
        "@step(name='note', retry=Retry(attempts=9), timeout=5)\nasync def note(what): return what\n" + BEFORE,
        ["first", "now"],
    ),
    "the function renamed, its name kept": (
        BEFORE.replace("async def edited(", "async def moved(") + "edited = moved\n", ["first", "now"]
    ),
    "made a plain def": (PLAIN, ["first", "now"]),
}  # fmt: skip


@pytest.mark.parametrize("edit", HARMLESS)
def test_a_harmless_edit_strands_no_run(engine: TestEngine, edit: str) -> None:
    source, expected = HARMLESS[edit]
    engine.reopen(workflows=[made(BEFORE)])
    run = engine.start(made(BEFORE), "order-1", id="run")
    engine.idle()
    engine.reopen(workflows=[made(source)])
    run.send("go", "now")
    assert run.result(timeout=60) == expected
    assert executed.count("first") == 1


def test_a_moved_function_keeps_its_runs_where_its_name_is_fixed(tmp_path: Path, engine: TestEngine) -> None:
    for folder, module in (("one", "shop"), ("two", "store")):
        package = tmp_path / folder
        package.mkdir()
        (package / f"{module}.py").write_text(
            "from stepwell import receive, step, workflow\n"
            "@step(name='stamp')\ndef stamp(): return 'stamped'\n"
            "@workflow(name='checkout')\nasync def checkout(): return [stamp(), await receive('go')]\n"
        )
    run_code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import stepwell, {module}\n"
        "with stepwell.Engine(sys.argv[1]) as engine:\n    {act}\n"
    )
    engine.close()
    start = run_code.format(
        module="shop", act="engine.start(shop.checkout, id='run', messages=[]); print(engine.get('run').status)"
    )
    finish = run_code.format(module="store", act="run = engine.get('run'); run.send('go', 1); print(run.result(60))")
    arguments = [str(tmp_path / "moved.db"), str(tmp_path / "one")]
    subprocess.run([sys.executable, "-c", start, *arguments], check=True, timeout=30)
    arguments[1] = str(tmp_path / "two")
    found = subprocess.run(
        [sys.executable, "-c", finish, *arguments], check=True, timeout=30, capture_output=True, text=True
    )
    assert found.stdout.strip() == "['stamped', 1]"
    engine.reopen()


def test_an_exception_class_that_is_gone_fails_as_itself_by_name(engine: TestEngine) -> None:
    raises = "class Gone(Exception): pass\n@step(name='raises')\ndef raises(): raise Gone('lost')\n"
    source = raises + (
        "@workflow(name='edited')\nasync def edited():\n    try: raises()\n"
        "    except Exception as error: caught = error\n"
        "    await receive('go')\n    return [type(caught).__name__, str(caught), getattr(caught, 'type_name', '')]\n"
    )
    engine.reopen(workflows=[made(source)])
    run = engine.start(made(source), id="run")
    engine.idle().reopen(workflows=[made(source)])
    run.send("go")
    name, text, type_name = run.result(timeout=60)
    assert name == StepFailed.__name__
    assert text == "edited.Gone: lost"
    assert type_name.endswith("Gone")
