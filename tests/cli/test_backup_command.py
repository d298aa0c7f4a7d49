"""`stepwell backup` and `stepwell verify`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import apsw
import pytest
from tests.support.commands import Desk
from tests.support.programs.flows import sum_up

from stepwell.cli import main


def test_a_backup_is_made_beside_a_worker_and_found_whole(desk: Desk) -> None:
    desk.start_runs(("a", sum_up, [1, 2]))
    desk.worker()
    made = desk.run("backup", "copy.db.gz")
    assert made.returncode == 0
    assert "copy.db.gz: 1 run, " in made.stdout
    done = desk.begin("verify", "copy.db.gz")
    done.expect(r"^copy\.db\.gz is whole: 1 run, \d+ journal entries, schema \d+$")
    assert done.end() == 0


def test_a_row_of_backups_keeps_the_newest(desk: Desk) -> None:
    desk.start_runs(("a", sum_up, [1, 2]))
    (desk.folder / "kept").mkdir()
    (desk.folder / "kept" / "orders.db-notes.txt").write_text("of somebody else")
    row = desk.begin("backup", "kept", "--every", "0.01s", "--keep", "2", "--compress", "--db", "orders.db")
    names = [Path(row.expect(r"^(.*): 1 run, ").group(1)).name for _ in range(4)]
    row.signal(signal.SIGINT)
    assert row.end() == 128 + signal.SIGINT
    left = sorted(path.name for path in (desk.folder / "kept").iterdir() if "partial" not in path.name)
    assert "orders.db-notes.txt" in left
    assert names[0] not in left
    assert len([name for name in left if name.endswith("Z.gz")]) <= 3  # one may have come before the signal


@pytest.mark.parametrize("option", [["--keep", "2"], ["--every", "1h"], ["--compress"]])
def test_what_is_said_of_a_row_needs_a_folder(desk: Desk, option: list[str]) -> None:
    desk.start_runs(("a", sum_up, [1, 2]))
    done = desk.run("backup", "copy.db", *option)
    assert done.returncode == 2
    assert "let TARGET be one" in done.stderr


@pytest.mark.parametrize("span", ["soon", "-1h", "0s", "2026-01-01"])
def test_a_span_that_is_none_is_refused(desk: Desk, span: str) -> None:
    assert main(["backup", str(desk.folder), "--every", span, "--db", "x"]) == 2


def test_a_damaged_file_is_told_with_what_is_wrong(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.start_runs(("a", sum_up, [1, 2]))
    connection = apsw.Connection(str(desk.database))
    connection.execute("UPDATE stepwell_runs SET input = '{'")
    connection.close()
    assert main(["verify", str(desk.database)]) == 1
    assert f"{desk.database} is damaged:\n  runs have payloads that are not JSON: a" in capsys.readouterr().out
    assert main(["verify", str(desk.database), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == ["runs have payloads that are not JSON: a"]
    assert main(["backup", str(desk.folder / "copy.db"), "--db", str(desk.database)]) == 1
    assert "No backup of" in capsys.readouterr().err
