"""`stepwell show`, and `--json`: of what failed they have all that the file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepwell import Retry, step, workflow
from stepwell.cli import main
from stepwell.testing import TestEngine


def with_cause() -> None:
    try:
        raise OSError("the cable is cut")
    except OSError as error:
        raise ValueError("outer") from error


def with_context() -> None:
    try:
        raise OSError("the cable is cut")
    except OSError:
        raise ValueError("outer")  # noqa: B904 - the context is what is looked at


def with_notes() -> None:
    error = ValueError("outer")
    error.add_note("the cable is cut\non both sides")
    raise error


def with_members() -> None:
    def plain() -> None:
        raise OSError("the cable is cut")

    members: list[Exception] = []
    for part in (plain, with_notes):
        try:
            part()
        except (OSError, ValueError) as error:
            members.append(error)
    raise ExceptionGroup("outer", [ExceptionGroup("inner", members), KeyError("third")])


def show(capsys: pytest.CaptureFixture[str], database: Path, run_id: str) -> tuple[str, dict[str, Any]]:
    assert main(["show", run_id, "--db", str(database)]) == 0
    text = capsys.readouterr().out
    assert main(["show", run_id, "--db", str(database), "--json"]) == 0
    return text, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("raises", [with_cause, with_context, with_notes, with_members])
@pytest.mark.parametrize("where", ["step", "workflow"])
def test_a_failed_run_is_shown_with_tracebacks_causes_notes_and_members(
    database: Path, capsys: pytest.CaptureFixture[str], raises: Any, where: str
) -> None:
    @step(name="raising")
    def raising() -> None:
        raises()

    @workflow(name="fails")
    async def fails() -> None:
        if where == "step":
            raising()
        raises()

    with TestEngine(database) as engine:
        run = engine.start(fails, id="order-1")
        with pytest.raises((ValueError, ExceptionGroup)):
            run.result(timeout=60)
    text, shown = show(capsys, database, "order-1")
    facts, _, journal = text.partition("\nOP ")
    failures = [(facts, shown["failure"])]
    if where == "step":
        failures.append((facts, shown["journal"][0]["failure"]))  # the text has it once
        assert "see the run's failure" in journal
    for part, failure in failures:
        assert "the cable is cut" in part
        assert f'{Path(__file__).name}", line ' in part
        assert f"in {raises.__name__}" in part
        told = json.dumps(failure)
        assert "the cable is cut" in told
        assert "line " in failure["traceback"]
    assert shown["failure"]["message"].startswith("outer")


def test_what_was_raised_meanwhile_is_not_shown_where_it_was_suppressed(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @workflow(name="suppresses")
    async def suppresses() -> None:
        try:
            raise OSError("the cable is cut")
        except OSError:
            raise ValueError("outer") from None

    with TestEngine(database) as engine:
        engine.start(suppresses, id="order-1")
        engine.idle()
    text, shown = show(capsys, database, "order-1")
    assert "the cable" not in text + json.dumps(shown)


def test_each_attempt_is_shown_with_its_own_traceback(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []

    @step(name="raising", retry=Retry(attempts=20, delay=1.0, backoff=1.0, jitter=0))
    def raising() -> None:
        calls.append(1)
        raise ValueError(f"failure number {len(calls)}")

    @workflow(name="tries")
    async def tries() -> None:
        raising()

    with TestEngine(database) as engine:
        engine.start(tries, id="order-1")
        for _ in range(13):
            engine.advance(1.0)
    text, shown = show(capsys, database, "order-1")
    assert [entry["failure"]["message"] for entry in shown["journal"]] == [
        f"failure number {number}" for number in range(1, len(calls) + 1)
    ]
    left_out = len(calls) - 10
    assert f"{left_out} failures before these are left out" in text
    tracebacks = text.partition("left out")[2]
    assert f"failure number {left_out}\n" not in tracebacks
    assert tracebacks.count(", in raising") == 10
