"""`stepwell bulk`, `terminate` and `delete`: counted, asked about, done, and said in a line; `list` takes a filter."""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from stepwell import Engine, receive, workflow
from stepwell.cli import main


@workflow(name="bulky.waits")
async def waits() -> int:
    return await receive("answer", int)


@pytest.fixture
def orders(tmp_path: Path) -> str:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[]) as engine:
        for name in ("order-1", "order-2", "other"):
            engine.start(waits, id=name)
    return str(path)


def test_runs_are_listed_by_a_filter(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "status:pending", "id:order-*", "--json", "--db", orders]) == 0
    assert [run["id"] for run in json.loads(capsys.readouterr().out)] == ["order-2", "order-1"]
    assert main(["list", "stauts:pending", "--db", orders]) == 2
    assert "is 'status' meant" in capsys.readouterr().err


def test_a_failure_that_cannot_be_read_hides_no_other_run(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(apsw.Connection(orders)) as connection:
        change = "status = 'failed', started_at = 1, ended_at = 1, error = x'7f00'"
        connection.execute(f"UPDATE stepwell_runs SET {change} WHERE id = 'other'")
    assert main(["list", "--db", orders]) == 0
    shown = capsys.readouterr().out
    assert "order-2" in shown
    assert "SerializationError: Cannot read a recorded failure" in shown


def test_an_act_on_many_is_counted_and_asked_about(
    orders: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["bulk", "pause", "id:order-*", "--dry-run", "--db", orders]) == 0
    assert capsys.readouterr().out == "pause of 2 runs\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(["bulk", "pause", "id:order-*", "--db", orders]) == 1
    assert "pause of 2 runs that match 'id:order-*'. Go on?" in capsys.readouterr().err
    assert main(["bulk", "pause", "id:order-*", "--yes", "--reason", "down", "--db", orders]) == 0
    assert capsys.readouterr().out == "pause: 2 of 2 runs\n"
    with Engine(orders, workflows=[]) as engine:
        assert engine.counts() == {"paused": 2, "pending": 1}
        assert engine.get("order-1").acts()[0].reason == "down"


def test_an_act_on_all_there_is_is_refused(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bulk", "cancel", " ", "--yes", "--db", orders]) == 2
    assert "seldom meant" in capsys.readouterr().err


def test_a_run_is_terminated_and_deleted(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["terminate", "order-1", "--db", orders]) == 0
    assert main(["delete", "order-1", "--yes", "--db", orders]) == 0
    assert capsys.readouterr().out == "run 'order-1' is terminated\nrun 'order-1' is deleted\n"
    assert main(["delete", "order-2", "--yes", "--db", orders]) == 0  # nobody has begun it
    with Engine(orders, workflows=[]) as engine:
        assert engine.counts() == {"pending": 1}
