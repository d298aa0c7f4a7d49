"""`stepwell schedules`: what the API does with schedules, from the line."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from tests.support.commands import Command

from stepwell import Engine, workflow
from stepwell.cli import main


@workflow(name="schedules.cli")
def report(region: str, lines: int = 1) -> str:
    return f"{region} {lines}"


@pytest.fixture
def db(tmp_path: Path) -> str:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[]):
        pass
    return str(path)


def schedules(*line: str) -> int:
    return main(["schedules", *line])


def test_a_line_without_a_command_lists_the_schedules(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert schedules("create", "hourly", "schedules.cli", "eu", "--cron", "@hourly", "--db", db) == 0
    capsys.readouterr()
    assert schedules("list", "--json", "--db", db) == 0
    listed = capsys.readouterr().out
    assert schedules("--json", "--db", db) == 0
    assert capsys.readouterr().out == listed
    assert schedules("--help") == 0
    assert "stepwell schedules [OPTIONS] COMMAND" in capsys.readouterr().out


def test_a_schedule_is_made_shown_changed_and_deleted(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    when = ["--cron", "30 2 * * *", "--every", "6h", "--zone", "Europe/Berlin", "--overlap", "buffer_one"]
    assert schedules("create", "nightly", "schedules.cli", "eu", "--kwarg", "lines=2", *when, "--db", db) == 0
    assert "nightly: active, of schedules.cli" in capsys.readouterr().out
    assert schedules("show", "nightly", "--json", "--db", db) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["cron"], shown["every"], shown["zone"]) == (["30 2 * * *"], [[21_600.0, 0.0]], "Europe/Berlin")
    assert (len(shown["next"]), shown["overlap"]) == (10, "buffer_one")
    assert schedules("change", "nightly", "--cron", "@hourly", "--pause-on-failure", "--json", "--db", db) == 0
    changed = json.loads(capsys.readouterr().out)
    assert (changed["cron"], changed["every"], changed["pause_on_failure"]) == (["@hourly"], shown["every"], True)
    assert schedules("list", "--json", "--db", db) == 0
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == ["nightly"]
    assert schedules("list", "--db", db) == 0
    assert "nightly" in capsys.readouterr().out
    assert schedules("delete", "nightly", "--db", db) == 0
    assert schedules("show", "nightly", "--db", db) == 1
    assert "has no schedule 'nightly'" in capsys.readouterr().err


def test_it_is_paused_with_a_note_unpaused_triggered_and_backfilled(
    db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert schedules("create", "h", "schedules.cli", "eu", "--cron", "@hourly", "--db", db) == 0
    assert schedules("pause", "h", "--note", "moving", "--db", db) == 0
    assert schedules("show", "h", "--db", db) == 0
    assert "h: paused (moving)" in capsys.readouterr().out
    assert schedules("trigger", "h", "--db", db) == 0
    run = capsys.readouterr().out.strip()
    assert schedules("backfill", "h", "2024-01-01T00:00Z", "2024-01-01T02:00Z", "--db", db) == 0
    assert schedules("unpause", "h", "--db", db) == 0
    with Engine(db, workflows=[report]) as engine:
        assert engine.get(run).result(60) == "eu 1"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--cron", "0 25 * * *"], "at character 3: hour is 0 to 23"),
        (["--cron", "@daily", "--zone", "Berlin"], "no time zone 'Berlin'"),
        ([], "at least one cron expression or interval"),
        (["--cron", "@daily", "--start", "tomorrow"], "must be like"),
        (["--cron", "@daily", "--overlap", "maybe"], "'maybe' is not one of"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(
    db: str, capsys: pytest.CaptureFixture[str], line: list[str], words: str
) -> None:
    assert schedules("create", "s", "schedules.cli", "eu", *line, "--db", db) == 2
    assert words in capsys.readouterr().err
    with Engine(db, workflows=[]) as engine:
        assert engine.schedules() == []


DECLARING = """
from stepwell import Schedule, workflow

@workflow(name="declared.report")
def report(): ...

NIGHTLY = Schedule(report, id="nightly", cron="0 3 * * *")
"""


def test_a_worker_has_the_schedules_of_its_modules_when_it_starts(tmp_path: Path) -> None:
    (tmp_path / "declaring.py").write_text(DECLARING)
    with Engine(tmp_path / "w.db", workflows=[]) as engine:
        engine.schedule(report, "eu", id="another", cron="@daily")
    worker = Command("worker", "declaring", "--db", "w.db", cwd=tmp_path)
    worker.expect("schedules created by declaring: nightly")
    worker.expect("serves 1 workflow")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    with Engine(tmp_path / "w.db", workflows=[]) as engine:
        assert [each.id for each in engine.schedules()] == ["another", "nightly"]
