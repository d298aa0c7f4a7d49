"""`stepwell pause` and `unpause` take the id of a run as well as the name of a queue, and say which it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell import Engine, Queue, receive, workflow
from stepwell.cli import main

BOTH = Queue("both")


@workflow(name="pausing.waits")
async def waits() -> int:
    return await receive("answer", int)


@pytest.fixture
def orders(tmp_path: Path) -> str:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[]) as engine:
        engine.start(waits, id="order-1")
        engine.start(waits, id="both", queue=BOTH)
    return str(path)


def status_of(orders: str, run: str) -> str:
    with Engine(orders, workflows=[]) as engine:
        return engine.get(run).status


def test_a_run_is_paused_and_goes_on(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pause", "order-1", "--children", "--reason", "the shop is down", "--db", orders]) == 0
    assert capsys.readouterr().out == "run 'order-1' is paused\n"
    assert status_of(orders, "order-1") == "paused"
    assert main(["show", "order-1", "--db", orders]) == 0
    assert "the shop is down" in capsys.readouterr().out
    assert main(["unpause", "order-1", "--db", orders]) == 0
    assert capsys.readouterr().out == "run 'order-1' goes on\n"
    assert status_of(orders, "order-1") == "pending"


def test_what_is_not_paused_is_refused_in_a_line(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpause", "order-1", "--db", orders]) == 1
    assert "is not paused but pending" in capsys.readouterr().err


def test_where_a_run_and_a_queue_have_one_name_it_must_be_said_which(
    orders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pause", "both", "--db", orders]) == 2
    assert "say --run or --queue" in capsys.readouterr().err
    assert main(["pause", "both", "--queue", "--db", orders]) == 0
    assert capsys.readouterr().out == "queue 'both' is paused\n"
    assert main(["pause", "both", "--run", "--db", orders]) == 0
    assert capsys.readouterr().out == "run 'both' is paused\n"
    assert main(["pause", "both", "--queue", "--children", "--db", orders]) == 2


def test_a_name_that_is_neither_is_an_error(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pause", "ordr-1", "--run", "--db", orders]) == 1
    assert "'ordr-1'" in capsys.readouterr().err
