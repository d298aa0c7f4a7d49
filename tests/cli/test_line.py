"""What a line may leave out, what is said of a wrong one, what shells are offered, and what a terminal is shown."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest
from tests.support.commands import COMMAND

from stepwell import Engine, Queue, receive, workflow
from stepwell.cli import main
from stepwell.cli.group import COMMANDS, Commands, stepwell
from stepwell.cli.printing import ago, moment


@workflow(name="line.patient")
async def patient() -> None:
    await receive("go")


def make(path: Path, *ids: str) -> Path:
    with Engine(path, workflows=[]) as engine:
        for each in ids:
            engine.start(patient, id=each)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPWELL_DB", raising=False)
    return tmp_path


# --- which file -------------------------------------------------------------------------------------------------------


def listed(capsys: pytest.CaptureFixture[str], *line: str) -> list[str]:
    assert main(["list", *line]) == 0
    return [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:]]


def test_the_only_file_in_the_folder_is_meant(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(folder / "orders.sqlite3", "a")
    (folder / "other.db").write_bytes(b"no database of ours")
    assert listed(capsys) == ["a"]


def test_the_line_comes_before_the_environment_that_before_the_project_and_that_before_the_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder / "only.db", "in the folder")
    below = folder / "src" / "deep"
    below.mkdir(parents=True)
    (folder / "data").mkdir()
    make(folder / "data" / "a.db", "project")
    (folder / "pyproject.toml").write_text('[tool.stepwell]\ndb = "data/a.db"\n')
    monkeypatch.chdir(below)
    assert listed(capsys) == ["project"]
    monkeypatch.setenv("STEPWELL_DB", str(make(folder / "data" / "b.db", "environment")))
    assert listed(capsys) == ["environment"]
    assert listed(capsys, "--db", str(make(folder / "data" / "c.db", "line"))) == ["line"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [((), "No file of Stepwell is in this folder"), (("a.db", "b.db"), "There are a.db, b.db in this folder")],
)
def test_a_file_that_cannot_be_told_is_asked_for(
    folder: Path, names: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        make(folder / name)
    assert main(["list"]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "--db FILE, the variable STEPWELL_DB" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[tool", "cannot be read"), ("[tool.stepwell]\ndb = 7", "must be the path of a file, not 7")],
)
def test_a_project_that_names_no_file_as_it_should_is_named(
    folder: Path, text: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "pyproject.toml").write_text(text)
    assert main(["list"]) == 2
    said = capsys.readouterr().err
    assert f"{folder / 'pyproject.toml'}" in said
    assert expected in said


def test_a_file_that_cannot_be_read_is_told_in_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(folder / "orders.db", "a")
    connection = apsw.Connection(str(path))
    connection.execute("DROP TABLE stepwell_acts")
    connection.close()
    assert main(["show", "a"]) == 1
    assert "no such table: stepwell_acts" in capsys.readouterr().err


# --- mistakes and help ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "meant"), [("lits", "'list'"), ("unpuase", "'unpause'"), ("wroker", "'worker'")])
def test_a_mistyped_command_is_answered_with_the_one_that_may_be_meant(
    wrong: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([wrong]) == 2
    assert f"There is no command {wrong!r}. Did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("stepwell unpa", "unpause"),
        ("stepwell schedules unpa", "unpause"),
        ("stepwell list --status halt", "halted"),
        ("stepwell show some", "some-run"),
        ("stepwell cancel --where worki", ""),
        ("stepwell cancel --where workf", "workflow:"),
    ],
)
def test_a_shell_is_told_what_a_line_could_go_on_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, found: str
) -> None:
    make(folder / "orders.db", "some-run")
    monkeypatch.setenv("_STEPWELL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert main([]) == 0
    assert capsys.readouterr().out.strip() == (f"plain,{found}" if found else "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"  stepwell {name}" in capsys.readouterr().out.partition("Examples:")[2]


def test_the_name_that_a_command_had_still_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(folder / "orders.db", "a")
    assert main(["runs"]) == 0
    assert "a" in capsys.readouterr().out


def test_each_command_is_found_by_its_row_and_shows_lines_that_could_be_entered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stepwell.make_context("stepwell", ["list", "--help"], resilient_parsing=True) as context:
        for name in COMMANDS:
            command = stepwell.get_command(context, name)
            assert command is not None
            assert command.name == name
            if not isinstance(command, Commands):
                assert main([name, "--help"]) == 0
                assert f"stepwell {name}" in capsys.readouterr().out.partition("Examples:")[2]


# --- shells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_STEPWELL_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "typed", "expected"),
    [
        ("stepwell unp", "unp", ["unpause"]),
        ("stepwell list --sta", "--sta", ["--status"]),
        ("stepwell show order", "order", ["order-1", "order-2"]),
        ("stepwell show order-2", "order-2", ["order-2"]),
        # bash takes what follows a colon for a word, and puts only that in
        ("stepwell list status:fa", "fa", ["failed"]),
        (
            "stepwell list status:",
            "",
            ["pending", "running", "waiting", "paused", "halted", "completed", "failed", "cancelled"],
        ),
        ("stepwell list 'status:fa", "status:fa", ["status:failed"]),
        ("stepwell show at:12:0", "0", ["00"]),
        ("stepwell show two\\ ", "two\\ ", ["two\\ words\\ \\&\\ more"]),
        ("stepwell show 'two w", "two w", ["two words & more"]),
        ("stepwell show ", "", ["at:12:00", "order-1", "order-2", "queued", "two\\ words\\ \\&\\ more"]),
        ("stepwell list --workflow li", "li", ["line.patient"]),
        ("stepwell pause orders", "orders", ["orders-queue"]),
        ("stepwell schedules show n", "n", ["nightly"]),
    ],
)
def test_a_shell_is_offered_commands_options_and_names(
    folder: Path, line: str, typed: str, expected: list[str]
) -> None:
    make(folder / "orders.db", "order-1", "order-2", "at:12:00", "two words & more")
    with Engine(folder / "orders.db") as engine:
        engine.start(patient, id="queued", queue=Queue("orders-queue"))
        engine.schedule(patient, id="nightly", cron="0 3 * * *")
    asked = {"_STEPWELL_COMPLETE": "bash_complete", "COMP_LINE": line, "COMP_TYPED": typed}
    done = subprocess.run(COMMAND, env={**os.environ, **asked}, capture_output=True, text=True, check=False, cwd=folder)
    assert sorted(line.partition(",")[2] for line in done.stdout.splitlines()) == sorted(expected)


def test_bash_puts_what_is_offered_in_the_place_of_what_it_replaces(folder: Path) -> None:
    make(folder / "orders.db", "at:12:00")
    script = subprocess.run([*COMMAND, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    asked = """
COMP_LINE="stepwell list status:fa"; COMP_POINT=${#COMP_LINE}
_stepwell_completion ASKED fa status
printf '%s\\n' "${COMPREPLY[@]}"
""".replace("ASKED", shlex.quote(str(folder / "asked")))
    (folder / "asked").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    (folder / "asked").chmod(0o755)
    done = subprocess.run(
        ["bash", "--norc", "-c", script + asked], capture_output=True, text=True, check=True, cwd=folder
    )
    assert done.stdout == "failed\n"


# --- what is shown ----------------------------------------------------------------------------------------------------


def on_a_terminal(*line: str, cwd: Path) -> str:
    """Return what a command writes to a terminal of 80 columns."""
    reader, writer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    done = subprocess.Popen([*COMMAND, *line], stdout=writer, cwd=cwd, env=environment)
    os.close(writer)
    shown = b""
    try:
        while piece := os.read(reader, 10_000):
            shown += piece
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(reader)
    assert done.wait() == 0
    return shown.decode()


def test_a_terminal_is_shown_colours_and_how_long_ago(folder: Path) -> None:
    make(folder / "orders.db", "a")
    shown = on_a_terminal("list", cwd=folder)
    assert "\x1b[" in shown
    assert " ago" in shown or "now" in shown


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "now"), (59, "59 s ago"), (61, "1 min ago"), (7200, "2 h ago"), (200_000, "2 d ago"), (-90, "in 1 min")],
)
def test_how_long_ago_is_said_in_one_unit(seconds: float, expected: str) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert ago(now - timedelta(seconds=seconds), now) == expected


@pytest.mark.parametrize(
    ("zone", "expected"),
    [("UTC", "2026-03-01 12:00:00.250Z"), ("Asia/Kathmandu", "2026-03-01 17:45:00.250 +05:45")],
)
def test_times_are_local_and_say_how_far_from_utc(zone: str, expected: str) -> None:
    program = (
        "from datetime import UTC, datetime; from stepwell.cli.printing import moment; "
        "print(moment(datetime(2026, 3, 1, 12, microsecond=250_000, tzinfo=UTC)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TZ": zone}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{expected}\n"
    assert moment(datetime(2026, 3, 1, tzinfo=UTC)).startswith("2026-0")
