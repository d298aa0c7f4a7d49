"""How far steps are: what is seen of it from outside, what it costs, and what the next attempt knows of it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

import stepwell
from stepwell import (
    AsyncEngine,
    Connection,
    Engine,
    InvalidArgument,
    Progress,
    Retry,
    StepTimeout,
    StepwellError,
    current,
    publish,
    receive,
    run_step,
    step,
    stream,
    transaction,
    workflow,
)
from stepwell.api.reading.progress_views import ProgressInfo
from stepwell.cli import main
from stepwell.executors.child_reports import ChildReports
from stepwell.testing import TestEngine

AGAIN = Retry(attempts=3, delay=0)


# --- from outside -----------------------------------------------------------------------------------------------------


def said_and_waits(gate: str) -> int:
    current().progress(3, 10, "the third")
    while not Path(gate).exists():
        time.sleep(0.01)
    current().progress(10, 10)
    return 10


@step(name="progress.blocks")
def blocks(gate: str) -> int:
    return said_and_waits(gate)


@step(name="progress.apart", isolate="process")
def apart(gate: str) -> int:
    return said_and_waits(gate)


@step(name="progress.awaits")
async def awaits(gate: str) -> int:
    current().progress(3, 10, "the third")
    await asyncio.to_thread(said_and_waits, gate)  # in its context
    return 10


@workflow(name="progress.under_way")
async def under_way(how: str, gate: str) -> int:
    if how == "run_step":
        return await run_step("inline", lambda: said_and_waits(gate))
    return {"blocks": blocks, "apart": apart}[how](gate) if how != "awaits" else await awaits(gate)


def seen(engine: Engine, run_id: str, *, within_seconds: float = 30) -> list[ProgressInfo]:
    """Wait until a run shows some progress, and return it."""
    ends_at = time.monotonic() + within_seconds
    while not (found := engine.get(run_id).info().progress):
        assert time.monotonic() < ends_at
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("how", ["blocks", "awaits", "apart", "run_step"])
def test_how_far_a_step_is_is_seen_while_it_computes_wherever_it_executes(
    engine: TestEngine, tmp_path: Path, how: str
) -> None:
    gate = tmp_path / "gate"
    run = engine.start(under_way, how, str(gate), id="r")
    (found,) = seen(engine, "r")
    assert (found.operation, found.kind, found.done, found.total, found.note) == (1, "step", 3, 10, "the third")
    assert (found.attempt, found.share, found.words) == (1, 0.3, "3 of 10 (30 %): the third")
    assert [run.info().progress for run in engine.list("status:running")] == [[found]]
    gate.touch()
    assert run.result(30) == 10
    assert run.info().progress == []  # it has ended
    assert rows(engine) == [(1, "step", 10, 10, None, 1)]


def rows(engine: TestEngine) -> list[tuple[Any, ...]]:
    """Return what the file has: operation, kind, done, total, note, ended."""
    reads = engine._session.reads
    found = reads.details("r").progress
    return [(each.operation, each.kind, each.done, each.total, each.note, int(each.ended)) for each in found]


@step(name="progress.often")
def often(number: int) -> None:
    for count in range(number):
        current().progress(count, number)


@workflow(name="progress.says_much")
async def says_much() -> None:
    often(5_000)


def test_thousands_of_reports_cost_few_commits_and_the_last_is_not_lost(engine: TestEngine) -> None:
    engine.start(says_much, id="r").result(60)
    assert rows(engine) == [(1, "step", 4_999, 5_000, None, 1)]
    assert engine._session.engine_thread.turn_loop.commits < 10


def test_a_child_process_sends_some_of_what_is_said_and_always_the_last() -> None:
    sent: list[int | float] = []
    reports = ChildReports(lambda progress: sent.append(progress.done))
    for count in range(10_000):
        reports.say(Progress(count))
    reports.end()
    assert sent[0] == 0
    assert sent[-1] == 9_999
    assert len(sent) < 1_000
    assert sent == sorted(set(sent))
    reports.say(Progress(10_001))
    reports.say(Progress(10_002))
    until(lambda: sent[-1] == 10_002)  # nothing follows


def test_the_last_report_is_written_although_the_step_goes_on_in_silence(database: Path) -> None:
    go = threading.Event()

    @workflow(name="progress.then_silent")
    async def then_silent() -> None:
        def says() -> None:
            for count in (1, 2, 3):
                current().progress(count, 3)
            go.wait(60)

        await run_step("says", says)

    with Engine(database) as engine:  # on the clock of the machine: what came right after the first waits half a second
        run = engine.start(then_silent, id="r")
        until(lambda: [each.done for each in engine.get("r").info().progress] == [3])
        go.set()
        run.result(30)


# --- the next attempt -------------------------------------------------------------------------------------------------


@step(name="progress.fails_at_five", retry=AGAIN)
def fails_at_five() -> list[Any]:
    last = current().last_progress
    begin = 0 if last is None else int(last.done)
    for count in range(begin, 10):
        current().progress(count, 10, f"row {count}")
        if count == 5 and begin == 0:
            raise ValueError("at five")
    assert current().last_progress == last  # what this attempt says is not what an earlier one said
    assert last is not None
    return [begin, last.note, last.attempt]


@step(name="progress.fails_at_five_apart", isolate="process", retry=AGAIN)
def fails_at_five_apart() -> list[Any]:
    return fails_at_five.function()


@workflow(name="progress.repeats")
async def repeats(how: str) -> list[Any]:
    return fails_at_five_apart() if how == "apart" else fails_at_five()


@pytest.mark.parametrize("how", ["thread", "apart"])
def test_another_attempt_goes_on_from_where_the_last_one_was(engine: TestEngine, how: str) -> None:
    assert engine.start(repeats, how, id="r").result(60) == [5, "row 5", 1]
    assert rows(engine) == [(1, "step", 9, 10, "row 9", 1)]


@contextmanager
def held() -> Generator[tuple[threading.Event, threading.Event]]:
    begun, go = threading.Event(), threading.Event()
    try:
        yield begun, go
    finally:
        go.set()


def test_an_attempt_after_a_crash_knows_what_the_one_before_it_said(engine: TestEngine) -> None:
    with held() as (begun, go):

        @workflow(name="progress.crashes")
        async def crashes() -> list[Any]:
            def works() -> list[Any]:
                last = current().last_progress
                if last is not None:
                    return [last.done, last.total, last.note, last.attempt]
                current().progress(7, 9.5, "seven")
                begun.set()
                go.wait(60)
                return []

            return await run_step("works", works)

        engine.start(crashes, id="r")
        assert seen(engine, "r")
        begun.wait(30)
        engine.crash()
        engine.reopen()
        assert engine.get("r").result(30) == [7, 9.5, "seven", 1]


def test_a_retried_run_knows_what_its_step_said_and_a_rewound_one_does_not(engine: TestEngine) -> None:
    known: list[Progress | None] = []

    @step(name="progress.fails")
    def fails() -> None:
        known.append(current().last_progress)
        current().progress(len(known))
        raise LookupError("no")

    @workflow(name="progress.fails_for_good")
    async def fails_for_good() -> None:
        fails()

    run = engine.start(fails_for_good, id="r")
    for again in (run.retry, run.retry, run.restart):
        with pytest.raises(LookupError):
            run.result(30)
        again()
    with pytest.raises(LookupError):
        run.result(30)
    assert known == [None, Progress(1, attempt=1), Progress(2, attempt=1), None]


def test_what_code_does_not_wait_for_any_more_is_told_so_and_says_nothing(engine: TestEngine) -> None:
    refused: list[str] = []
    with held() as (begun, go):

        @step(name="progress.given_up")
        def given_up() -> None:
            current().progress(1)
            begun.set()
            go.wait(60)
            try:
                current().progress(2)
            except StepwellError as error:
                refused.append(str(error))
            begun.set()

        @workflow(name="progress.gives_up")
        async def gives_up() -> None:
            given_up()

        run = engine.start(gives_up, id="r")
        begun.wait(30)
        begun.clear()
        run.cancel()
        with pytest.raises(StepwellError):
            run.result(30)
        go.set()
        begun.wait(30)
    assert "cancelled or its time is up" in refused[0]
    assert rows(engine) == [(1, "step", 1, None, None, 1)]


# --- where, and what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((-1,), "done"),
        ((True,), "done"),
        (("3",), "done"),
        ((float("nan"),), "done"),
        ((2**63,), "done"),
        ((1, float("inf")), "total"),
        ((1, None, 3), "note"),
        ((1, None, "\ud800"), "note"),
        ((1, None, "x" * 1_001), "1000 characters"),
    ],
    ids=repr,
)
def test_what_is_no_amount_is_refused_and_nothing_is_written(
    engine: TestEngine, arguments: tuple[Any, ...], problem: str
) -> None:
    @workflow(name="progress.wrong")
    async def wrong() -> None:
        await run_step("says", lambda: current().progress(*arguments))

    with pytest.raises(InvalidArgument, match=problem):
        engine.start(wrong, id="r").result(30)
    assert rows(engine) == []


def test_workflow_code_has_no_progress_and_outside_of_runs_it_says_nothing(engine: TestEngine) -> None:
    @workflow(name="progress.in_a_workflow")
    async def in_a_workflow() -> list[str]:
        with pytest.raises(AttributeError) as said:
            current().progress(1)
        with pytest.raises(AttributeError) as asked:
            _ = current().last_progress
        return [str(said.value), str(asked.value)]

    for problem in engine.start(in_a_workflow).result(30):
        assert "as it has in a step" in problem
    often(3)  # called as a function

    with pytest.raises(InvalidArgument):
        blocks_wrongly()


@step(name="progress.wrong_outside")
def blocks_wrongly() -> None:
    assert current().last_progress is None
    current().progress(-1)


def test_a_transaction_says_nothing(engine: TestEngine) -> None:
    @transaction(name="progress.transacts")
    def transacts(connection: Connection) -> str:
        connection.execute("SELECT 1")
        current().progress(1, 2)
        return "done"

    @workflow(name="progress.with_transaction")
    async def with_transaction() -> str:
        return transacts()

    assert engine.start(with_transaction, id="r").result(30) == "done"
    assert rows(engine) == []


@step(name="progress.says_three")
async def says_three() -> None:
    current().progress(3)
    await publish("said", True)
    await asyncio.Event().wait()


@workflow(name="progress.says_and_waits")
async def says_and_waits() -> None:
    task = asyncio.create_task(says_three())
    await receive("go")
    task.cancel()


def test_an_engine_for_asyncio_code_shows_it_as_well(database: Path) -> None:
    async def main() -> list[int | float]:
        async with AsyncEngine(database) as engine:
            run = await engine.start(says_and_waits, id="r")
            await run.value("said", timeout=30)
            found = (await run.info()).progress
            await run.send("go")
            await run.result(30)
            return [each.done for each in found]

    assert asyncio.run(main()) == [3]


# --- on the line ------------------------------------------------------------------------------------------------------


def test_the_line_shows_it(engine: TestEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate, db = tmp_path / "gate", str(tmp_path / "test.db")
    run = engine.start(under_way, "blocks", str(gate), id="r")
    seen(engine, "r")
    for options in (["--tree"], ["--table"]):
        assert main(["show", "r", "--db", db, *options]) == 0
        assert "1 progress.blocks: 3 of 10 (30 %): the third" in " ".join(capsys.readouterr().out.split())
    assert main(["list", "--db", db]) == 0
    assert "progress.blocks: 3 of 10" in capsys.readouterr().out
    assert main(["show", "r", "--db", db, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["progress"][0]["done"] == 3
    follower = threading.Thread(target=main, args=(["show", "r", "--db", db, "--follow"],))
    follower.start()
    told = ""
    while "progress progress.blocks  3 of 10 (30 %): the third" not in told:
        told += capsys.readouterr().out
        time.sleep(0.01)
    gate.touch()
    run.result(30)
    follower.join(30)
    assert "is completed" in told + capsys.readouterr().out


def test_a_thread_that_a_step_starts_says_it_for_the_step(engine: TestEngine) -> None:
    @workflow(name="progress.threaded")
    async def threaded() -> None:
        def works() -> None:
            info = current()
            thread = threading.Thread(target=lambda: info.progress(5, 9))
            thread.start()
            thread.join()

        await run_step("works", works)

    engine.start(threaded, id="r").result(30)
    assert rows(engine) == [(1, "step", 5, 9, None, 1)]


# --- silence ----------------------------------------------------------------------------------------------------------


def hangs_once(gate: str) -> int:
    """Say something, and hang in the first attempt, for as long as the test takes."""
    last = current().last_progress
    current().progress(1 if last is None else last.done + 1)
    while last is None and not Path(gate).exists():
        time.sleep(0.01)
    return current().attempt


@step(name="progress.hangs", heartbeat_timeout=0.2, retry=AGAIN)
def hangs(gate: str) -> int:
    return hangs_once(gate)


@step(name="progress.hangs_async", heartbeat_timeout=timedelta(seconds=0.2), retry=AGAIN)
async def hangs_async(_gate: str) -> int:
    if current().attempt == 1:
        current().progress(1)
        await asyncio.Event().wait()
    return current().attempt


@workflow(name="progress.with_heartbeat")
async def with_heartbeat(how: str, gate: str) -> int:
    if how == "run_step":
        return await run_step("hangs", hangs_once, gate, heartbeat_timeout=0.2, retry=AGAIN)
    if how == "options":
        return hangs.options(heartbeat_timeout=0.1)(gate)
    return hangs(gate) if how == "def" else await hangs_async(gate)


@pytest.mark.parametrize("how", ["def", "async", "run_step", "options"])
def test_an_attempt_that_says_nothing_is_given_up_and_repeated_by_its_policy(
    database: Path, tmp_path: Path, how: str
) -> None:
    gate = tmp_path / "gate"
    with Engine(database) as engine:
        run = engine.start(with_heartbeat, how, str(gate))
        assert run.result(30) == 2
        (failed,) = [entry.error for entry in run.journal() if entry.kind == "attempt_failed"]
        gate.touch()
    assert failed is not None
    assert failed.startswith("stepwell.errors.StepTimeout")
    assert "said nothing for 0." in failed


def test_an_isolated_attempt_that_says_nothing_is_ended(database: Path) -> None:
    with Engine(database) as engine:
        run = engine.start(silent_apart)
        with pytest.raises(StepTimeout, match="heartbeat timeout"):
            run.result(60)


@step(name="progress.silent_apart", isolate="process", heartbeat_timeout=0.2)
def waits_apart() -> None:
    threading.Event().wait()


@workflow(name="progress.silent_in_a_process")
async def silent_apart() -> None:
    waits_apart()


@pytest.mark.parametrize("what", ["progress", "stream", "publish"])
def test_whatever_it_says_shows_that_it_lives(database: Path, what: str) -> None:
    @workflow(name="progress.talks")
    async def talks() -> int:
        async def says() -> int:
            ends_at = time.monotonic() + 1.2
            while time.monotonic() < ends_at:
                if what == "progress":
                    current().progress(1)
                elif what == "stream":
                    await stream("words").write("still here")
                else:
                    await publish("word", "still here")
                await asyncio.sleep(0.02)
            return current().attempt

        return await run_step("says", says, heartbeat_timeout=1)

    with Engine(database) as engine:
        assert engine.start(talks).result(30) == 1


@pytest.mark.parametrize("wrong", [0, -1, "soon", float("nan")])
def test_a_heartbeat_timeout_is_a_duration(wrong: Any) -> None:
    with pytest.raises(InvalidArgument, match="heartbeat_timeout"):
        step(name="progress.never", heartbeat_timeout=wrong)


# --- streams on the line ----------------------------------------------------------------------------------------------


@workflow(name="progress.streams")
async def streams() -> None:
    words = stream("words", str)
    await words.write_many(["one", "two"])
    await stream("numbers").write({"n": 1})
    await receive("go")
    await words.write("three")


def test_the_line_prints_streams_as_they_grow(
    engine: TestEngine, database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, db = engine.start(streams, id="r"), str(database)
    engine.idle()
    assert main(["stream", "r", "--db", db]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["STREAM", "ITEMS", "FROM", "STATE"],
        ["numbers", "1", "0"],
        ["words", "2", "0"],
    ]
    assert main(["stream", "r", "words", "--db", db]) == 0
    assert [line.split()[-2:] for line in capsys.readouterr().out.splitlines()] == [["0", "one"], ["1", "two"]]
    assert main(["stream", "r", "numbers", "--db", db, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == {"n": 1}
    assert main(["stream", "r", "wrods", "--db", db]) == 1
    assert "it has 'numbers', 'words'" in capsys.readouterr().err
    follower = threading.Thread(target=main, args=(["stream", "r", "words", "--db", db, "--follow", "--start=-1"],))
    follower.start()
    told = ""
    while "two" not in told:
        told += capsys.readouterr().out
        time.sleep(0.01)
    run.send("go")
    run.result(30)
    follower.join(30)
    assert [line.split()[-1] for line in (told + capsys.readouterr().out).splitlines()] == ["two", "three"]


# --- maps -------------------------------------------------------------------------------------------------------------


@workflow(name="progress.naps")
async def naps(seconds: int) -> int:
    await asyncio.sleep(seconds)
    if seconds == 40:
        raise LookupError("not this one")
    return seconds


@workflow(name="progress.maps")
async def maps(seconds: list[int], tolerate: int | None) -> int:
    return len(await stepwell.map(naps, seconds, tolerate=tolerate))


@workflow(name="progress.maps_blocking")
def maps_blocking(seconds: list[int], tolerate: int | None) -> int:
    return len(stepwell.sync.map(naps, seconds, tolerate=tolerate))


@pytest.mark.parametrize("code", [maps, maps_blocking])
@pytest.mark.parametrize("parked", [False, True])
def test_a_map_that_takes_long_says_how_far_it_is(engine: TestEngine, code: Any, parked: bool) -> None:
    engine.reopen(max_waiting_in_memory=0 if parked else 100)
    run = engine.start(code, [20, 40, 60, 80], 1, id="r")
    engine.idle()
    engine.advance(1)
    (found,) = run.info().progress
    assert (found.kind, found.name, found.operation, found.words) == ("map", "progress.naps", 1, "0 of 4 (0 %)")
    assert found.attempt is None
    engine.advance(21)
    assert run.info().progress[0].words == "1 of 4 (25 %)"
    engine.advance(20)
    assert run.info().progress[0].words == "1 of 4 (50 %), 1 failed"
    engine.crash()
    engine.reopen()
    engine.advance(20)
    (found,) = engine.get("r").info().progress
    assert (found.done, found.failed, found.total) == (2, 1, 4)
    engine.advance(20)
    assert engine.get("r").result(30) == 4
    assert rows(engine) == [(1, "map", 3, 4, None, 1)]


def test_a_map_that_is_cancelled_or_fails_is_over(engine: TestEngine) -> None:
    run = engine.start(maps, [20, 40, 60], None, id="r")
    engine.advance(30)
    assert run.info().progress[0].done == 1
    engine.advance(20)
    with pytest.raises(LookupError):
        run.result(30)
    assert rows(engine) == [(1, "map", 1, 3, None, 1)]
    assert engine._session.reads.details("r").progress[0].failed == 1


def test_two_maps_at_once_are_told_apart_and_a_short_one_writes_nothing(engine: TestEngine) -> None:
    @workflow(name="progress.two_maps")
    async def two_maps() -> None:
        await stepwell.map(naps, [0] * 20)
        await asyncio.gather(stepwell.map(naps, [10, 20]), stepwell.map(naps, [30]))

    run = engine.start(two_maps, id="r")
    engine.advance(5)
    assert [(each.total, each.done) for each in run.info().progress] == [(2, 0), (1, 0)]
    engine.advance(30)
    run.result(30)
    assert [row[3] for row in rows(engine)] == [2, 1]


def test_a_map_of_hundreds_costs_no_commit_an_item(engine: TestEngine) -> None:
    @step(name="progress.one")
    async def one(number: int) -> int:
        return number

    @workflow(name="progress.many")
    async def many(number: int) -> int:
        return len(await stepwell.map(one, range(number), limit=10))

    commits: list[int] = []
    for number in (300, 600):
        before = engine._session.engine_thread.turn_loop.commits
        engine.start(many, number).result(60)
        commits.append(engine._session.engine_thread.turn_loop.commits - before)
    assert commits[1] - commits[0] < 60
