"""`stepwell promises`, `resolve` and `reject`: a person answers on the command line."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

import stepwell
from stepwell import Engine, Form, PromiseRejected, workflow
from stepwell.cli import main


@workflow(name="promises command.ask")
async def ask() -> dict[str, int]:
    form = Form(title="How many?", text="Count them", evidence={"box": 7})
    return await stepwell.promise(dict[str, int], timeout=timedelta(days=1), form=form)


@pytest.fixture
def orders(tmp_path: Path) -> str:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[ask]) as engine:
        engine.start(ask, id="run")
        while not engine.promises():
            pass
    return str(path)


def token(orders: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["promises", "--json", "--db", orders]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    return str(found["token"])


def test_promises_are_shown_and_answered_without_the_code(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["promises", "--db", orders]) == 0
    shown = capsys.readouterr().out
    for part in ("How many?", "Count them", "run (promises command.ask), operation 1", "PromiseTimedOut", "token"):
        assert part in shown
    answered = token(orders, capsys)
    assert main(["resolve", answered, '{"a": "b"}', "--db", orders]) == 2
    assert "must be integer" in capsys.readouterr().err
    assert main(["resolve", answered, '{"a": 1}', "--reason", "counted", "--db", orders]) == 0
    assert "stepwell worker MODULE" in capsys.readouterr().out
    assert main(["resolve", answered, '{"a": 2}', "--db", orders]) == 1
    assert "resolved already" in capsys.readouterr().err
    assert main(["promises", "--db", orders]) == 0
    assert "no run waits for an answer" in capsys.readouterr().out
    with Engine(orders, workflows=[ask]) as engine:
        assert engine.get("run").result(60) == {"a": 1}
        assert [act.reason for act in engine.get("run").acts()][:1] == ["counted"]


def test_a_promise_is_rejected_with_a_text(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reject", token(orders, capsys), "nobody counts", "--db", orders]) == 0
    with Engine(orders, workflows=[ask]) as engine, pytest.raises(PromiseRejected, match="nobody counts"):
        engine.get("run").result(60)
