"""Each act is for one run, or for all that a filter matches: counted first, asked about, and done with a reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, receive, step, workflow
from stepwell.cli import main


@step(name="many.number")
def number() -> int:
    return 7


@workflow(name="many.waits")
async def waits() -> int:
    return number() + await receive("answer", int)


@workflow(name="many.fails")
async def fails() -> int:
    raise ValueError(number())


@pytest.fixture
def orders(tmp_path: Path) -> str:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[waits, fails]) as engine:
        for name in ("order-1", "order-2", "other"):
            engine.start(waits, id=name)
        engine.start(fails, id="order-3")
        engine.run_until_idle(60)
    return str(path)


def states(path: str) -> dict[str, str]:
    with Engine(path, workflows=[]) as engine:
        return {run.id: run.status for run in engine.list()}


@pytest.mark.parametrize(
    ("line", "told", "state"),
    [
        (["pause", "--where", "id:order-* workflow:many.waits"], "pause: 2 of 2 runs\n", "paused"),
        (["terminate", "--where", "id:order-* status:waiting"], "terminate: 2 of 2 runs\n", "cancelled"),
        (["rewind", "--where", "id:order-* status:waiting", "1"], "rewind: 2 of 2 runs\n", "pending"),
        (["restart", "--where", "id:order-* status:waiting"], "restart: 2 of 2 runs\n", "pending"),
        (["resume", "--where", "id:order-* status:waiting"], "resume: 2 of 2 runs\n", "waiting"),
    ],
)
def test_an_act_is_done_to_all_that_match(
    orders: str,
    line: list[str],
    told: str,
    state: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = states(orders)
    assert main([*line, "--dry-run", "--db", orders]) == 0
    assert capsys.readouterr().out == f"{line[0]} of 2 runs\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main([*line, "--db", orders]) == 1
    assert f"{line[0]} of 2 runs that match {line[2]!r}. Go on?" in capsys.readouterr().err
    assert states(orders) == before
    assert main([*line, "--yes", "--reason", "down", "--db", orders]) == 0
    assert capsys.readouterr().out == told
    assert states(orders) == {**before, "order-1": state, "order-2": state}
    with Engine(orders, workflows=[]) as engine:
        assert engine.get("order-2").acts()[-1].reason == "down"


def test_forks_of_all_that_match_get_ids_of_their_own(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fork", "--where", "id:order-*", "1", "--yes", "--db", orders]) == 0
    assert capsys.readouterr().out == "fork: 3 of 3 runs\n"
    assert len(states(orders)) == 7
    assert main(["fork", "--where", "id:order-*", "1", "--id", "x", "--db", orders]) == 2


def test_what_some_refuse_is_said_and_hinders_no_other(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "--where", "id:order-* status:waiting,failed,pending", "--yes", "--db", orders]) == 1
    shown = capsys.readouterr()
    assert shown.out == "resume: 2 of 3 runs\n"
    assert shown.err.count("stepwell resume: ") == 1


@pytest.mark.parametrize("act", ["cancel", "pause", "unpause", "terminate", "delete", "resume", "restart"])
def test_an_act_takes_a_run_or_a_filter_and_not_both(orders: str, act: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[list[Any]] = [[], ["order-1", "--where", "id:x"], ["order-1", "--dry-run"]]
    for line in lines:
        assert main([act, *line, "--db", orders]) == 2
    assert "name a run, or say which ones: --where FILTER" in capsys.readouterr().err
    assert main([act, "--where", " ", "--yes", "--db", orders]) == 2
    assert "seldom meant" in capsys.readouterr().err


@pytest.mark.parametrize("act", ["rewind", "fork", "settle"])
def test_an_act_on_an_operation_needs_its_number(orders: str, act: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--result", "1"] if act == "settle" else []
    assert main([act, "order-1", *more, "--db", orders]) == 2
    assert "say which OPERATION" in capsys.readouterr().err
    assert main([act, "--where", "id:x", "one", *more, "--db", orders]) == 2
    assert "OPERATION must be a whole number of at least 1, not 'one'" in capsys.readouterr().err
