"""Who did what to a run or a queue, and why, is recorded with what it did, and can be read by everybody."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import Desk
from tests.support.programs.flows import file_appears

from stepwell import Act, AsyncEngine, Engine, InvalidArgument, Queue, QueueNotFound, RunNotFound, start, step, workflow
from stepwell.api.asking.acts import user_at_host
from stepwell.cli import main
from stepwell.testing import TestEngine

LINE = Queue("acts.line", concurrency=1)
down: list[bool] = []


@pytest.fixture(autouse=True)
def _shop_is_down() -> None:
    down[:] = [True]


@step
async def reach() -> str:
    if down:
        raise OSError("no route")
    return "reached"


@workflow(name="acts.waits")
async def waits() -> None:
    await asyncio.sleep(10**6)


@workflow(name="acts.checkout")
async def checkout() -> str:
    return await reach()


@workflow(name="acts.halting")
async def halting() -> None:
    prices: dict[str, int] = {} if down else {"tea": 3}
    assert prices["tea"]


@workflow(name="acts.parent")
async def parent() -> None:
    await (await start(halting, id="child")).result()


def shown(acts: list[Act]) -> list[tuple[str, str, str | None]]:
    return [(act.act, act.by, act.reason) for act in acts]


def test_a_cancellation_says_who_when_and_why(engine: TestEngine) -> None:
    run = engine.start(waits)
    assert run.acts() == []
    assert run.cancel("too late", by="mia")
    (act,) = run.acts()
    assert (act.act, act.by, act.reason, act.verb) == ("cancel", "mia", "too late", "cancelled")
    requested_at = run.info().cancel_requested_at
    assert act.at == requested_at
    assert act.at.tzinfo is UTC


@pytest.mark.parametrize("state", ["in memory", "parked", "halted", "queued", "of no worker"])
def test_a_cancellation_is_recorded_once_whatever_state_the_run_is_in(engine: TestEngine, state: str) -> None:
    match state:
        case "halted":
            run = engine.start(halting)
        case "queued":
            run = engine.start(waits, queue=LINE, delay=3600)
        case "of no worker":
            run = engine.start("acts.nobody_has_it")
        case _:
            run = engine.start(waits)
    engine.idle()
    if state == "parked":
        engine.reopen(max_waiting_in_memory=0)
        engine.idle()
    run = engine.get(run.id)
    assert run.cancel("too late", by="mia")
    engine.idle()
    assert (run.status, shown(run.acts())) == ("cancelled", [("cancel", "mia", "too late")])


def test_without_a_name_it_is_the_user_the_host_and_the_process(engine: TestEngine) -> None:
    run = engine.start(waits)
    run.cancel()
    assert shown(run.acts()) == [("cancel", f"{user_at_host()} pid {os.getpid()}", None)]
    assert os.uname().nodename in user_at_host()


def test_each_request_is_recorded_even_where_the_first_one_stands(engine: TestEngine) -> None:
    run = engine.start(waits, queue=LINE, delay=3600)
    other = engine.start(waits)
    engine.start(waits, id="third")
    run.cancel("first", by="mia")
    run.cancel("second", by="bob")
    assert shown(run.acts()) == [("cancel", "mia", "first")]  # it ended at once: the second one did nothing
    other.cancel("why", by="mia")
    assert shown(other.acts()) == [("cancel", "mia", "why")]
    assert engine.get("third").acts() == []


def test_a_retry_keeps_what_was_done_before_it(engine: TestEngine) -> None:
    run = engine.start(checkout)
    engine.idle()
    run.retry(reason="perhaps", by="mia")
    engine.idle()
    down.clear()
    run.retry(reason="the shop is back", by="bob")
    assert run.result(60) == "reached"
    assert shown(run.acts()) == [("retry", "mia", "perhaps"), ("retry", "bob", "the shop is back")]
    engine.reopen()
    assert len(engine.get(run.id).acts()) == 2


def test_a_retry_of_many_is_recorded_for_each(engine: TestEngine) -> None:
    runs = [engine.start(checkout) for _ in range(3)]
    engine.idle()
    assert engine.retry_all(workflow=checkout, reason="all of them", by="mia") == 3
    assert {tuple(shown(run.acts())) for run in runs} == {(("retry", "mia", "all of them"),)}
    assert engine.retry_all(workflow=checkout, dry_run=True) >= 0
    assert {len(run.acts()) for run in runs} == {1}


def test_a_resume_is_recorded_for_the_run_and_for_the_halted_ones_below_it(engine: TestEngine) -> None:
    run = engine.start(parent)
    engine.idle()
    child = engine.get("child")
    assert child.status == "halted"
    down.clear()
    run.resume(reason="mended", by="mia")
    run.result(60)
    assert shown(run.acts()) == shown(child.acts()) == [("resume", "mia", "mended")]


def test_a_halted_run_that_is_retried_is_resumed(engine: TestEngine) -> None:
    run = engine.start(halting)
    engine.idle()
    down.clear()
    run.retry(reason="mended", by="mia")
    run.result(60)
    assert shown(run.acts()) == [("resume", "mia", "mended")]


def test_a_run_that_cancels_another_is_named(engine: TestEngine) -> None:
    @workflow
    async def changes_its_mind() -> None:
        child = await start(waits, id="cancelled-child", detached=True)
        await child.cancel("no longer needed")

    engine.start(changes_its_mind, id="boss").result(60)
    engine.idle()
    assert shown(engine.get("cancelled-child").acts()) == [("cancel", "run 'boss'", "no longer needed")]


def test_a_queue_remembers_who_paused_it(engine: TestEngine) -> None:
    queue = engine.queue(LINE)
    run = engine.start(waits, queue=LINE)
    queue.pause(reason="the printer is out of paper", by="mia")
    waiting = engine.start(waits, queue=LINE)
    assert queue.cancel_waiting(reason="another day", by="bob") == 1
    queue.unpause(by="mia")
    assert shown(queue.acts()) == [("pause", "mia", "the printer is out of paper"), ("unpause", "mia", None)]
    assert shown(waiting.acts()) == [("cancel", "bob", "another day")]
    assert run.acts() == []
    queue.change(concurrency=2)
    assert len(queue.acts()) == 2


def test_what_is_refused_is_not_recorded(engine: TestEngine) -> None:
    run = engine.start(checkout)
    engine.idle()
    assert not run.cancel(by="mia")
    for wrong in ("", " ", "a\nb", "x" * 300, 7):
        bad: Any = wrong
        for ask in (run.retry, run.cancel, run.resume, engine.queue(LINE).pause):
            with pytest.raises(InvalidArgument, match=r"^by "):
                ask(by=bad)
    with pytest.raises(InvalidArgument, match="reason"):
        run.retry(reason="\ud800")
    assert (run.acts(), run.status) == ([], "failed")
    with pytest.raises(QueueNotFound):
        engine.queue("ghost").acts()


def test_acts_go_with_their_run(engine: TestEngine) -> None:
    run = engine.start(waits)
    run.cancel(by="mia")
    engine.idle()
    engine.advance(10)
    assert engine.purge(5) == 1
    with pytest.raises(RunNotFound):
        run.acts()
    assert engine.query("SELECT count(*) FROM stepwell_acts").fetchall() == [(0,)]


def test_the_async_engine_has_the_same(database: Path) -> None:
    asyncio.run(act_from_a_loop(database))


async def act_from_a_loop(database: Path) -> None:
    async with AsyncEngine(database) as engine:
        run = await engine.start(waits, queue=LINE)
        await engine.queue(LINE).pause(reason="lunch", by="mia")
        await engine.queue(LINE).unpause(by="mia")
        assert await run.cancel("too late", by="bob")
        assert shown(await run.acts()) == [("cancel", "bob", "too late")]
        assert shown(await engine.queue(LINE).acts()) == [("pause", "mia", "lunch"), ("unpause", "mia", None)]
        await (await engine.get(run.id)).retry(by="bob")
        assert [act.act for act in await run.acts()] == ["cancel", "retry"]


# --- takeovers --------------------------------------------------------------------------------------------------------


def test_whoever_takes_runs_over_from_a_dead_worker_is_named_with_it(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "never"))
    dead = desk.worker()
    dead.expect("waiting for never")
    dead.signal(signal.SIGKILL)
    dead.process.wait()
    heir = desk.worker()
    heir.expect("waiting for never")
    (act,) = desk.read("show", "a")["acts"]
    host = re.escape(os.uname().nodename)
    assert act["act"] == "takeover"
    assert re.fullmatch(rf"worker \d+ \(process {heir.process.pid} on {host}\)", act["by"])
    assert re.fullmatch(rf"worker \d+ \(process {dead.process.pid} on {host}\) died", act["reason"])


def test_who_has_a_worker_fenced_is_named_with_its_runs(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "never"))
    worker = desk.worker()
    worker.expect("waiting for never")
    (info,) = desk.read("workers")
    done = desk.run("takeover", str(info["epoch"]), "--yes", "--reason", "it hangs")
    assert done.returncode == 0
    act = desk.read("show", "a")["acts"][0]
    named = f"worker {info['epoch']} (process {worker.process.pid} on {os.uname().nodename})"
    assert (act["act"], act["by"], act["reason"]) == ("takeover", user_at_host(), f"{named} was fenced: it hangs")


# --- the command line -------------------------------------------------------------------------------------------------


def run_main(*line: str) -> int:
    return main(line)


def test_show_prints_the_last_acts_and_says_that_there_are_more(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Engine(database) as engine:
        run = engine.start(waits, id="a")
        for number in range(12):
            run.resume(reason=f"try {number}", by="mia")
    assert run_main("show", "a", "--db", str(database)) == 0
    out = capsys.readouterr().out
    assert "2 before these are left out; --json has all" in out
    assert re.findall(r"resumed by mia at \S+ \S+Z: try (\d+)", out) == [str(number) for number in range(2, 12)]
    assert run_main("show", "a", "--db", str(database), "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["acts"]) == 12


def test_the_commands_name_the_user_and_show_tells_it(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = str(database)
    with Engine(database) as engine:
        engine.start(halting, id="a")
        engine.start(checkout, id="b")
        engine.start(waits, id="c", queue=LINE, delay=3600)
        with pytest.raises(OSError, match="no route"):
            engine.get("b").result(60)
        with pytest.raises(Exception, match="KeyError"):
            engine.get("a").result(60)
    assert run_main("resume", "a", "--db", db, "--reason", "mended") == 0
    assert run_main("retry", "b", "--db", db, "--reason", "the shop is back") == 0
    assert run_main("cancel", "c", "--db", db) == 0
    assert run_main("pause", "acts.line", "--db", db, "--reason", "lunch") == 0
    capsys.readouterr()
    for run, expected in (
        ("a", rf"resumed by {user_at_host()} at .*Z: mended"),
        ("b", rf"retried by {user_at_host()} at .*Z: the shop is back"),
        ("c", rf"cancelled by {user_at_host()} at .*Z\n"),
    ):
        assert run_main("show", run, "--db", db) == 0
        line = next(line for line in capsys.readouterr().out.splitlines(keepends=True) if line.startswith("acts:"))
        assert re.search(expected, line), line
    assert run_main("show", "b", "--db", db, "--json") == 0
    (act,) = json.loads(capsys.readouterr().out)["acts"]
    assert (act["act"], act["by"], act["reason"]) == ("retry", user_at_host(), "the shop is back")
    assert datetime.fromisoformat(act["at"]).tzinfo is not None
    assert run_main("queues", "--db", db) == 0
    assert f"acts.line: paused by {user_at_host()} at" in capsys.readouterr().out
