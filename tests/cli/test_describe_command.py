"""`stepwell describe` and the options of `stepwell start` say what a run is found by, as it is meant."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stepwell import Engine
from stepwell.cli import main


@pytest.fixture
def orders(tmp_path: Path) -> str:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[]):
        pass
    return str(path)


def test_what_is_written_on_the_line_is_found_again(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--attribute", "customer=acme", "--attribute", "amount=42", "--tag", "vip", "--note", "by phone"]
    assert main(["start", "described.flow", "--id", "a", *given, "--db", orders]) == 0
    line = ["vip=true", "rate=0.5", "due=2026-12-24T09:00Z", 'code="42"', "day=2026-12-24", "--remove", "amount"]
    assert main(["describe", "a", *line, "--tag", "late", "--remove-tag", "vip", "--db", orders]) == 0
    assert "rate=0.5" in capsys.readouterr().out
    with Engine(orders, workflows=[]) as engine:
        run = engine.get("a")
        assert run.info().attributes == {
            "customer": "acme",
            "vip": True,
            "rate": 0.5,
            "code": "42",
            "day": "2026-12-24",
            "due": datetime(2026, 12, 24, 9, tzinfo=UTC),
        }
        assert run.info().tags == ["late"]
        assert [act.act for act in run.acts()] == ["note", "describe"]
    assert main(["list", 'code="42"', "tag:late", "due>2026-12-01", "--db", orders]) == 0
    assert "described.flow" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "code"),
    [(["a", "x"], 2), (["a", "x=[1]"], 2), (["a", "status=x"], 2), (["a"], 2), (["ghost", "x=1"], 1)],
)
def test_what_makes_no_sense_is_refused(orders: str, line: list[str], code: int) -> None:
    assert main(["start", "described.flow", "--id", "a", "--db", orders]) == 0
    assert main(["describe", *line, "--db", orders]) == code
    with Engine(orders, workflows=[]) as engine:
        assert engine.get("a").info().attributes == {}
