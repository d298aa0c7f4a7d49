"""Queries and updates of runs that another process carries on, and what becomes of them when that one is killed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.processes import child, line
from tests.support.programs import asked
from tests.support.programs.asked import basket
from tests.support.waiting import until

from stepwell import Engine, QueryFailed
from stepwell.cli import main


@contextmanager
def worker(database: Path) -> Iterator[subprocess.Popen[str]]:
    with child(Path(asked.__file__).read_text(encoding="utf-8"), database) as process:
        assert line(process) == "serves"
        yield process


def test_runs_that_wait_or_execute_in_another_process_are_asked_by_a_client(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = database.with_name("gate")
    with worker(database):
        with Engine(database, workflows=[]) as client:
            parked, busy = client.start(basket, "", id="parked"), client.start(basket, str(gate), id="busy")
            until(lambda: parked.status == "waiting" and gate.with_name("gate.begun").exists())
            assert (parked.query("content"), busy.query("content")) == (["first"], [])
            assert (parked.update("add", "fig"), busy.update("add", "fig")) == (2, 1)
            assert (parked.query("content"), busy.query("content")) == (["first", "fig"], ["fig"])
            gate.touch()
            busy.send("close")
            assert busy.result(60) == ["fig", "first"]
        for arguments, says in (
            (("update", "parked", "add", "pear", "--wait", "60"), "3"),
            (("query", "parked", "content", "--module", asked.__name__), '"pear"'),
        ):
            assert main([*arguments, "--db", str(database)]) == 0
            assert says in capsys.readouterr().out


def test_a_run_whose_code_is_in_another_process_alone_is_updated_there_and_not_queried_here(database: Path) -> None:
    with worker(database), Engine(database, workflows=[]) as client:
        run = client.get("elsewhere")
        assert run.update("add", "pear") == "pear"
        with pytest.raises(QueryFailed, match=r"'asked.elsewhere' is not defined in this process\. Import the module"):
            run.query("content")


def test_an_update_whose_worker_is_killed_before_the_answer_is_answered_once_by_the_next(database: Path) -> None:
    gate = database.with_name("gate")
    with Engine(database, workflows=[]) as client, ThreadPoolExecutor() as pool:
        run = client.start(basket, "", id="b")
        with worker(database) as first:
            answer = pool.submit(run.update, "add", "pear", str(gate), key="k", timeout=60)
            until(gate.with_name("gate.begun").exists)
            first.kill()
            first.wait()
        assert [entry.kind for entry in run.journal() if entry.kind != "step"] == ["update"]
        assert run.query("content") == ["first"]
        gate.touch()
        with worker(database):
            assert answer.result(60) == 2
            assert run.update("add", "pear", str(gate), key="k") == 2
            run.send("close")
            assert run.result(60) == ["first", "pear"]
        assert sorted(entry.kind for entry in run.journal()) == ["answered", "message", "step", "step", "update"]
