"""`stepwell retry`: by ids, or for all that match, counted first."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import stepwell
from stepwell import Engine, step, workflow
from stepwell.cli import main

down: list[bool] = []


@step
async def reach() -> str:
    if down:
        raise OSError("no route")
    return "reached"


@workflow(name="cli.checkout")
async def checkout() -> str:
    return await reach()


@pytest.fixture
def failed(tmp_path: Path) -> str:
    """Return the path of a file with three failed runs and a completed one."""
    path = str(tmp_path / "orders.db")
    down[:] = []
    with Engine(path) as engine:
        engine.start(checkout, id="done").result(timeout=60)
        down.append(True)
        for run_id in ("ada", "bob", "cyd"):
            with pytest.raises(OSError, match="no route"):
                engine.start(checkout, id=run_id).result(timeout=60)
    down.clear()
    return path


@workflow(name="cli.trip")
async def trip() -> str:
    async with stepwell.saga() as saga:
        saga.undo(give_back)
        return await reach()


@step(name="cli.give-back")
async def give_back() -> None:
    pass


@pytest.fixture
def undone(failed: str) -> str:
    """Return the path of such a file, with one failed run more, whose saga has undone its work."""
    down.append(True)
    with Engine(failed) as engine, pytest.raises(OSError, match="no route"):
        engine.start(trip, id="trip").result(timeout=60)
    down.clear()
    return failed


def run_main(*line: str) -> int:
    try:
        return main(line)
    except SystemExit as end:
        return int(end.code or 0)


def statuses(path: str) -> dict[str, str]:
    with Engine(path, workflows=[]) as engine:
        return {run.id: run.status for run in engine.list()}


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_named_runs_are_brought_back_and_who_carries_them_on_is_said(
    failed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("retry", "ada", "bob", "--db", failed) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"run {run_id!r} is to be carried on; no worker has the file open: start one that has the workflow "
        f"'cli.checkout' (`stepwell worker MODULE --db {failed}`)"
        for run_id in ("ada", "bob")
    ]
    assert statuses(failed) == {"ada": "pending", "bob": "pending", "cyd": "failed", "done": "completed"}
    with Engine(failed) as engine:
        assert engine.get("ada").result(timeout=60) == "reached"


def test_what_cannot_be_retried_is_said_and_the_others_are_retried(
    failed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("retry", "done", "ada", "--db", failed) == 1
    said = capsys.readouterr()
    assert "'done' has completed" in said.err
    assert "'ada'" in said.out
    assert run_main("retry", "ada", "--db", failed) == 1
    assert "'ada' has not ended (pending)" in capsys.readouterr().err


def test_a_run_whose_saga_has_undone_its_work_is_refused_and_the_rest_goes_on(
    undone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("retry", "trip", "ada", "--db", undone) == 1
    said = capsys.readouterr()
    assert "'trip' cannot be retried" in said.err
    assert "'ada' is to be carried on" in said.out
    assert run_main("retry", "--status", "failed", "--yes", "--db", undone) == 1
    said = capsys.readouterr()
    assert "2 runs retried" in said.out
    assert "1 run cannot be brought back now: the log says why" in said.err
    assert run_main("retry", "--where", "status:failed", "--yes", "--db", undone) == 1
    assert "retry: 0 of 1 runs, 1 refused: the log says why" in capsys.readouterr().out
    assert statuses(undone)["trip"] == "failed"


def test_an_unknown_run_stops_the_command_before_it_does_anything(
    failed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("retry", "ada", "nobody", "--db", failed) == 1
    assert "has no run 'nobody'" in capsys.readouterr().err
    assert statuses(failed)["ada"] == "failed"


def test_all_that_match_are_counted_and_asked_about(
    failed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, "\n")
    assert run_main("retry", "--workflow", "cli.checkout", "--db", failed) == 1
    said = capsys.readouterr()
    assert "3 runs to retry" in said.out
    assert "Go on? [y/N]" in said.err
    assert set(statuses(failed).values()) == {"completed", "failed"}
    answer(monkeypatch, "y\n")
    assert run_main("retry", "--workflow", "cli.checkout", "--id-prefix", "a", "--db", failed) == 0
    assert "1 run retried" in capsys.readouterr().out
    assert statuses(failed)["ada"] == "pending"


def test_nothing_is_asked_with_yes_and_nothing_done_with_dry_run(
    failed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, "")
    assert run_main("retry", "--status", "failed", "--started-since", "1h", "--dry-run", "--db", failed) == 0
    assert capsys.readouterr().out == "3 runs would be retried\n"
    assert run_main("retry", "--status", "failed", "--started-since", "1h", "--yes", "--db", failed) == 0
    assert set(statuses(failed).values()) == {"completed", "pending"}
    assert run_main("retry", "--status", "cancelled", "--db", failed) == 0
    assert "0 runs to retry" in capsys.readouterr().out


@pytest.mark.parametrize("since", ["2000-01-01", "2000-01-01T00:00Z", "2000-01-01T00:00+02:00", "30d", "90m", "10000s"])
def test_a_time_is_given_in_several_ways(failed: str, since: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("retry", "--started-since", since, "--dry-run", "--db", failed) == 0
    assert "3 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["--yes"],
        ["ada", "--workflow", "cli.checkout"],
        ["ada", "--dry-run"],
        ["--status", "completed"],
        ["--status", "running"],
        ["--started-since", "soon"],
        ["--started-since", "-1h"],
        ["--id-prefix", ""],
    ],
)
def test_a_line_that_says_too_little_or_too_much_is_refused(failed: str, line: list[str]) -> None:
    assert run_main("retry", *line, "--db", failed) == 2
    assert set(statuses(failed).values()) == {"completed", "failed"}


def test_resume_of_a_failed_run_tells_of_retry(failed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("resume", "ada", "--db", failed) == 1
    assert "stepwell retry ada" in capsys.readouterr().err
