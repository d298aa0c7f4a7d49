"""What the commands say to somebody who has to act: which worker is missing, what to enter, and nothing twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import Desk
from tests.support.programs.flows import file_appears

from stepwell import Engine, Limit, Queue, Retry, start, step, sync, workflow
from stepwell.cli import main
from stepwell.testing import TestEngine


@step(limit=Limit("bank", concurrency=1), retry=Retry(attempts=3, delay=0.01))
def charge() -> None:
    raise ConnectionError("the bank is down")


@workflow(name="advice.child")
def child() -> None:
    charge()


@workflow(name="advice.parent")
def parent() -> None:
    try:
        sync.start(child, id="child").result()
    except ConnectionError as error:
        raise RuntimeError("cannot charge") from error


@workflow(name="advice.mistaken")
async def mistaken() -> Any:
    return object()


@workflow(name="advice.starts")
async def starts() -> None:
    for _ in range(3):
        await start(nothing)


@workflow(name="advice.nothing")
async def nothing() -> None: ...


@pytest.fixture
def orders(database: Path) -> str:
    """Return a file with a failed run and its child, a halted one, one in a queue; no worker has it open."""
    with TestEngine(database) as engine:
        engine.start(parent, id="parent")
        engine.start(mistaken, id="mistaken")
        engine.start(nothing, id="queued", queue=Queue("mails", concurrency=1), delay=600)
        engine.idle()
        engine.advance(10)
    return str(database)


def said(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(line)
    both = capsys.readouterr()
    return code, both.out + both.err


@pytest.mark.parametrize(
    ("line", "workflow"),
    [
        (["retry", "child"], "advice.child"),
        (["retry", "--workflow", "advice.child", "--yes"], "advice.child"),
        (["retry", "--status", "failed", "--yes"], None),
        (["resume", "mistaken"], "advice.mistaken"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_no_worker_can_carry_out_says_which_one_to_start(
    orders: str, capsys: pytest.CaptureFixture[str], line: list[str], workflow: str | None
) -> None:
    code, text = said(capsys, *line, "--db", orders)
    assert code == 0
    which = "one" if workflow is None else f"one that has the workflow '{workflow}'"
    assert f"no worker has the file open: start {which} (`stepwell worker MODULE --db {orders}`)" in text


def test_what_a_worker_is_there_for_says_that(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    worker = desk.worker()
    worker.expect("waiting for signal")
    assert desk.run("cancel", "a").stdout == "run 'a': cancellation requested; a worker sees to that\n"


def test_a_run_that_nobody_has_to_clean_up_is_cancelled_at_once(
    orders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run_id in ("queued", "mistaken"):
        assert said(capsys, "cancel", run_id, "--db", orders) == (0, f"run {run_id!r} is cancelled\n")


def test_workers_says_that_there_is_none(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"start one: `stepwell worker MODULE --db {orders}`" in said(capsys, "workers", "--db", orders)[1]
    assert said(capsys, "workers", "--json", "--db", orders) == (0, "[]\n")


def test_commands_in_reasons_can_be_entered_as_they_stand(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "pause", "mails", "--db", orders)
    for line in (["runs"], ["queues"], ["show", "mistaken"], ["show", "queued"]):
        for command in re.findall(r"`(stepwell [^`]*)`", said(capsys, *line, "--db", orders)[1]):
            assert command.endswith(f" --db {orders}"), command
    assert f"`stepwell resume mistaken --db {orders}`" in said(capsys, "show", "mistaken", "--db", orders)[1]
    assert f"`stepwell unpause mails --db {orders}`" in said(capsys, "runs", "--db", orders)[1]


@pytest.mark.parametrize("command", ["pause", "unpause"])
def test_an_unknown_queue_is_told_in_words_of_the_command_line(
    orders: str, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, text = said(capsys, command, "mail", "--db", orders)
    assert code == 1
    assert text == (
        f"stepwell {command}: {orders} has no queue or limit 'mail' (is 'mails' meant?); "
        f"`stepwell queues --db {orders}` lists them\n"
    )
    assert said(capsys, command, "bank", "--db", orders)[1].startswith("limit 'bank' is ")


@pytest.mark.parametrize("run_id", ["parent", "child"])
def test_a_traceback_is_printed_once(orders: str, capsys: pytest.CaptureFixture[str], run_id: str) -> None:
    text = said(capsys, "show", run_id, "--db", orders)[1]
    assert text.count("in charge") == 1
    assert "see the run's failure, above" in text


def test_attempts_that_failed_alike_are_printed_once(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TestEngine(database) as engine:

        @workflow(name="advice.survives")
        def survives() -> None:
            try:
                charge()
            except ConnectionError:
                return

        engine.start(survives, id="run")
        engine.idle()
        engine.advance(10)
    text = said(capsys, "show", "run", "--db", str(database))[1]
    assert text.count("in charge") == 1
    assert text.count("attempt 2: the same as OP 1 attempt_failed") == 1
    assert text.count("attempt 3: the same as OP 1 attempt_failed") == 1


def test_the_last_lines_of_a_journal_are_shown_on_demand(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TestEngine(database) as engine:
        engine.start(starts, id="run")
        engine.idle()
    text = said(capsys, "show", "run", "--tail", "2", "--db", str(database))[1]
    assert "1 line of the journal before these is left out" in text
    assert [line.split()[0] for line in text.partition("left out\n")[2].splitlines()] == ["OP", "2", "3"]
    assert (
        len(json.loads(said(capsys, "show", "run", "--tail", "2", "--json", "--db", str(database))[1])["journal"]) == 2
    )
    assert "left out" not in said(capsys, "show", "run", "--tail", "3", "--db", str(database))[1]


@pytest.mark.parametrize(
    "options",
    [[], ["--status", "completed"], ["--id-prefix", "r"], ["--status", "completed", "--workflow", "advice.starts"]],
)
def test_children_are_left_out_of_a_list_on_demand(
    database: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    with TestEngine(database) as engine:
        engine.start(starts, id="run")
        engine.idle()
    runs = json.loads(said(capsys, "runs", "--roots", "--json", *options, "--db", str(database))[1])
    assert [run["id"] for run in runs] == ["run"]


def test_a_run_is_shown_with_the_worker_that_has_it(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    worker = desk.worker()
    worker.expect("waiting for signal")
    found = desk.read("show", "a")["worker"]
    assert (found["pid"], found["state"]) == (worker.process.pid, "active")
    assert re.search(
        rf"^worker: +{found['epoch']} \(process {worker.process.pid} on {found['host']}\), active$",
        desk.run("show", "a").stdout,
        re.MULTILINE,
    )


def test_a_run_that_no_worker_has_is_shown_without_one(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine(database, workflows=[]) as engine:
        engine.start(nothing, id="run")
    assert "worker" not in json.loads(said(capsys, "show", "run", "--json", "--db", str(database))[1])
