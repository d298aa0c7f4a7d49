"""A backup is put in place of a file: nothing of it is executed again in silence, and what was there is kept."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from tests.support.commands import COMMAND, Desk

from stepwell import (
    Engine,
    FileInUse,
    FileNotUsable,
    InvalidArgument,
    receive,
    restore,
    step,
    verify,
    workflow,
)
from stepwell.api.restore import InFlight, Restoration
from stepwell.cli import main
from stepwell.testing import TestEngine

CHARGED: list[str] = []


@step(name="restored.charge")
def charge(order: str) -> str:
    CHARGED.append(order)
    return order


@workflow(name="restored.checkout")
async def checkout(order: str) -> str:
    await receive("go")
    return charge(order)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """Return a file with a backup beside it, since which two runs went on and another began."""
    CHARGED.clear()
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[checkout]) as engine:
        for name in ("over", "a", "b"):
            engine.start(checkout, name, id=name, messages=[("go", None)] if name == "over" else [])
        engine.get("over").result(60)
        engine.backup(tmp_path / "copy.db")
        engine.backup(tmp_path / "copy.db.gz")
        for name in ("a", "b"):
            engine.send(name, "go")
            engine.get(name).result(60)
        engine.start(checkout, "new", id="new")
    CHARGED.clear()
    return path


def states(path: Path) -> dict[str, str]:
    with Engine(path, workflows=[]) as engine:
        return {run.id: run.status for run in engine.list()}


@pytest.mark.parametrize("name", ["copy.db", "copy.db.gz"])
def test_what_had_not_ended_is_paused_and_nothing_is_executed_again_before_somebody_says_so(
    orders: Path, name: str
) -> None:
    backup = orders.with_name(name)
    before = backup.read_bytes()
    done = restore(backup, orders, reason="the disk broke", by="ada")
    assert done == Restoration(str(orders), str(backup), done.previous, runs=3, in_flight=2, paused=2, schedules=0)
    assert backup.read_bytes() == before
    assert states(orders) == {"over": "completed", "a": "paused", "b": "paused"}
    with Engine(orders, workflows=[checkout]) as engine:
        engine.send("a", "go")
        engine.start(checkout, "c", id="c", messages=[("go", None)]).result(60)
        assert CHARGED == ["c"]
        act = engine.get("a").acts()[-1]
        assert (act.act, act.by, act.reason) == ("pause", "ada", "the disk broke")
        engine.get("a").unpause()
        assert engine.get("a").result(60) == "a"
    assert CHARGED == ["c", "a"]


def test_only_runs_that_match_are_paused_where_that_is_said(
    orders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = orders.with_name("copy.db")
    assert restore(backup, orders, only="id:a").paused == 1
    assert states(orders)["b"] in {"pending", "waiting"}
    for wrong, text in (("", "it is empty"), ("stauts:x", "status")):
        with pytest.raises(InvalidArgument, match=text):
            restore(backup, orders, only=wrong)
    with pytest.raises(InvalidArgument, match="goes with"):
        restore(backup, orders, only="id:a", in_flight="go-on")
    for answer, paused in (("\n", 2), ("g\n", 0), ("id:b\n", 1)):
        monkeypatch.setattr("sys.stdin", Terminal(f"y\n{answer}"))
        assert main(["restore", str(backup), "--db", str(orders)]) == 0
        assert list(states(orders).values()).count("paused") == paused
        assert "What becomes of them? [p]" in capsys.readouterr().err


class Terminal(io.StringIO):
    """Somebody who types these lines."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("in_flight", ["pause", "go-on"])
def test_schedules_start_nothing_before_somebody_says_so(tmp_path: Path, in_flight: InFlight) -> None:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[]) as engine:
        engine.schedule(checkout, "tick", id="often", every=3600)
        engine.schedule(checkout, "tick", id="resting", every=3600).pause(note="before")
        engine.backup(tmp_path / "copy.db")
    pauses = in_flight == "pause"
    assert restore(tmp_path / "copy.db", path, in_flight=in_flight, reason="the disk broke").schedules == int(pauses)
    with Engine(path, workflows=[]) as engine:
        infos = {schedule.id: schedule.info() for schedule in engine.schedules()}
        assert (infos["often"].paused, infos["often"].note) == (pauses, "the disk broke" if pauses else None)
        assert (infos["resting"].paused, infos["resting"].note) == (True, "before")


@pytest.mark.parametrize("in_flight", ["pause", "go-on"])
def test_an_act_on_many_runs_does_not_go_on_before_somebody_says_so(
    orders: Path, in_flight: InFlight, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = orders.with_name("copy.db")
    copy = apsw.Connection(str(backup))  # as where it was made between the second page of runs and the third
    copy.execute(
        "INSERT INTO stepwell_bulk_acts (act, filter, bounds, by, created_at, total, seen, before_key, worker) "
        "VALUES ('terminate', 'workflow:restored.checkout', '{}', 'ada', 1, 203, 200, 1000, 0)"
    )
    copy.close()
    pauses = in_flight == "pause"
    assert main(["restore", str(backup), "--db", str(orders), "--yes", "--in-flight", in_flight]) == 0
    assert ("1 act on many runs was under way and ended where it stood" in capsys.readouterr().out) == pauses
    assert ("had come to 200 of 203 when the backup was made, and ends there" in caplog.text) == pauses
    with TestEngine(orders, workflows=[checkout]) as engine:
        engine.idle()
        (act,) = engine.bulks()
        assert (act.seen == 200, act.ended_at is not None) == (pauses, True)
        assert {engine.get(each).status for each in ("a", "b")} == {"paused" if pauses else "cancelled"}


def test_what_was_there_is_kept_whole_under_another_name(orders: Path) -> None:
    done = restore(orders.with_name("copy.db"), orders)
    assert done.previous is not None
    assert verify(done.previous).ok
    assert states(Path(done.previous)) == {"over": "completed", "a": "completed", "b": "completed", "new": "waiting"}


def test_a_restore_beside_which_nothing_is_left_over(orders: Path) -> None:
    done = restore(orders.with_name("copy.db"), orders)
    assert done.previous is not None
    expected = {"orders.db", "orders.db-lock", "copy.db", "copy.db.gz", Path(done.previous).name}
    assert {path.name for path in orders.parent.iterdir()} == expected


def test_two_restores_within_a_second_keep_both_files(orders: Path) -> None:
    first = restore(orders.with_name("copy.db"), orders).previous
    second = restore(orders.with_name("copy.db"), orders).previous
    assert first is not None
    assert second is not None
    assert "new" in states(Path(first))
    assert "new" not in states(Path(second))


def test_runs_go_on_where_that_is_said(orders: Path) -> None:
    assert restore(orders.with_name("copy.db"), orders, in_flight="go-on").paused == 0
    with Engine(orders, workflows=[checkout]) as engine:
        engine.send("a", "go")
        assert engine.get("a").result(60) == "a"


def test_a_file_that_is_not_there_any_more_comes_back(orders: Path) -> None:
    for path in orders.parent.glob("orders.db*"):
        path.unlink()
    assert restore(orders.with_name("copy.db"), orders).previous is None
    assert states(orders)["a"] == "paused"


def test_a_damaged_file_is_kept_as_it_is(orders: Path) -> None:
    orders.write_bytes(b"nonsense" * 1000)
    done = restore(orders.with_name("copy.db"), orders)
    assert done.previous is not None
    assert Path(done.previous).read_bytes() == b"nonsense" * 1000
    assert states(orders)["a"] == "paused"


def test_while_a_worker_has_the_file_open_nothing_is_restored(desk: Desk) -> None:
    desk.start_runs()
    with Engine(desk.database, workflows=[]) as engine:
        engine.backup(desk.folder / "copy.db")
        with pytest.raises(FileInUse):
            restore(desk.folder / "copy.db", desk.database)
    worker = desk.worker()
    before = desk.database.read_bytes()
    done = desk.run("restore", "copy.db", "--yes")
    assert (done.returncode, f"is open in process {worker.process.pid}" in done.stderr) == (1, True), done.stderr
    assert desk.database.read_bytes() == before


@pytest.mark.parametrize("name", ["copy.db", "copy.db.gz"])
def test_a_damaged_backup_is_refused_and_the_file_stays(orders: Path, name: str) -> None:
    backup = orders.with_name(name)
    backup.write_bytes(backup.read_bytes()[:9000])
    with pytest.raises(FileNotUsable):
        restore(backup, orders)
    assert "new" in states(orders)
    assert not list(orders.parent.glob("*partial*"))


def test_the_file_itself_and_what_is_no_choice_are_refused(orders: Path) -> None:
    with pytest.raises(InvalidArgument, match="is the file itself"):
        restore(orders, orders)
    with pytest.raises(InvalidArgument, match="in_flight"):
        restore(orders.with_name("copy.db"), orders, in_flight="maybe")  # type: ignore[arg-type]
    with pytest.raises(FileNotUsable, match="There is no file"):
        restore(orders.with_name("nowhere.db"), orders)


KILLED = """
import os, signal, sys
from stepwell import restore
seen = 0
def kill(event, _arguments):
    global seen
    if event in ("open", "os.rename", "os.link", "os.remove", "os.rmdir"):
        seen += 1
        if seen == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
import stepwell.api.engine, stepwell.store.sqlite.backup, stepwell.store.sqlite.store
sys.addaudithook(kill)
restore(sys.argv[1], sys.argv[2])
print(seen)
"""


def test_a_restore_that_is_killed_anywhere_leaves_the_old_file_or_the_new_one(orders: Path) -> None:
    old = {"over": "completed", "a": "completed", "b": "completed", "new": "waiting"}
    new = {"over": "completed", "a": "paused", "b": "paused"}
    seen: set[bool] = set()
    steps = 0
    at = 1
    while True:
        folder = orders.parent / str(at)
        folder.mkdir()
        for path in (orders, orders.with_name("copy.db")):
            (folder / path.name).write_bytes(path.read_bytes())
        line = [sys.executable, "-c", KILLED, str(folder / "copy.db"), str(folder / "orders.db"), str(at)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        found = states(folder / "orders.db")
        assert found in (old, new), (at, found)
        seen.add(found == new)
        assert restore(folder / "copy.db", folder / "orders.db").paused == 2
        assert states(folder / "orders.db") == new
        if done.returncode == 0:
            steps = int(done.stdout)
            break
        at += max(1, at // 4)
    assert seen == {False, True}
    assert steps > 10


def test_the_command_says_what_it_did_and_asks_first(orders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backup = str(orders.with_name("copy.db"))
    done = subprocess.run(
        [*COMMAND, "restore", backup, "--db", str(orders)], input="n\n", capture_output=True, text=True, check=False
    )
    assert (done.returncode, "nothing was done" in done.stderr) == (1, True)
    assert "new" in states(orders)
    assert main(["restore", backup, "--db", str(orders), "--yes"]) == 0
    shown = capsys.readouterr().out
    assert f"{orders} is {backup} now: 3 runs, of which 2 had not ended" in shown
    assert "2 runs paused: look at each" in shown
    assert main(["list", "--db", str(orders), "--json"]) == 0
    assert [run["status"] for run in json.loads(capsys.readouterr().out)] == ["paused", "paused", "completed"]
