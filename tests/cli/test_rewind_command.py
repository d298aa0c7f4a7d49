"""`stepwell rewind` and `stepwell restart`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, step, workflow
from stepwell.cli import main

CALLS: list[tuple[str, Any]] = []


@step(name="rewound.first")
def first(number: int) -> int:
    CALLS.append(("first", number))
    return number + 1


@step(name="rewound.second")
def second(number: int) -> int:
    CALLS.append(("second", number))
    return number * 10


@workflow(name="rewound.both")
async def both(number: int) -> int:
    return second(first(number))


@pytest.fixture
def orders(tmp_path: Path) -> str:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[both]) as engine:
        assert engine.start(both, 1, id="a").result(60) == 20
    CALLS.clear()
    return str(path)


def went_on(orders: str) -> int:
    with Engine(orders, workflows=[both]) as engine:
        return int(engine.get("a").result(60))


def test_a_run_goes_on_from_an_operation(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewind", "a", "2", "--yes", "--reason", "again", "--db", orders]) == 0
    assert "run 'a' goes on from operation 2; " in capsys.readouterr().out
    assert went_on(orders) == 20
    assert CALLS == [("second", 2)]
    assert main(["show", "a", "--db", orders, "--json"]) == 0
    (act,) = json.loads(capsys.readouterr().out)["acts"]
    assert (act["act"], act["reason"]) == ("rewind", "again")


def test_an_operation_is_given_another_result(orders: str) -> None:
    assert main(["rewind", "a", "1", "--result", "1=7", "--yes", "--db", orders]) == 0
    assert went_on(orders) == 70
    assert CALLS == [("second", 7)]


def test_a_run_begins_again_with_other_arguments(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["restart", "a", "--arg", "4", "--yes", "--db", orders]) == 0
    assert "run 'a' begins again; " in capsys.readouterr().out
    assert went_on(orders) == 50
    assert CALLS == [("first", 4), ("second", 5)]


def test_another_run_begins_from_an_operation(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fork", "a", "2", "--id", "b", "--result", "1=7", "--reason", "what if", "--db", orders]) == 0
    assert "run 'b' goes on from operation 2 of 'a'" in capsys.readouterr().out
    with Engine(orders, workflows=[both]) as engine:
        assert engine.get("b").result(60) == 70
        assert engine.get("a").result(60) == 20
    assert CALLS == [("second", 7)]


@pytest.mark.parametrize("line", [["rewind", "a", "2"], ["restart", "a"]])
def test_nothing_is_done_unless_somebody_agrees(
    orders: str, line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.readline", lambda: "", raising=False)
    assert main([*line, "--db", orders]) == 1
    assert "nothing was done" in capsys.readouterr().err
    assert went_on(orders) == 20
    assert CALLS == []


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        (["rewind", "a", "9", "--yes"], 2, "9"),
        (["rewind", "a", "0", "--yes"], 2, "0"),
        (["rewind", "a", "1", "--result", "x=1", "--yes"], 2, "must be OP=VALUE"),
        (["rewind", "zoe", "1", "--yes"], 1, "has no run 'zoe'"),
        (["fork", "a", "9"], 2, "no operation 9"),
        (["fork", "a", "2", "--id", "a"], 1, "choose another id"),
        (["restart", "zoe", "--yes"], 1, "has no run 'zoe'"),
    ],
)
def test_what_cannot_be_is_refused(
    orders: str, line: list[str], code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line, "--db", orders]) == code
    assert expected in capsys.readouterr().err
    assert went_on(orders) == 20
    assert CALLS == []
