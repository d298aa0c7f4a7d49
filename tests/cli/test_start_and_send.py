"""`stepwell start` and `stepwell send`: what is written on the line arrives in the workflow as it is meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, Queue, query, receive, update, workflow
from stepwell.cli import main

LINE = Queue("started.line")


@workflow(name="started.echo")
async def echo(*arguments: Any, **named: Any) -> Any:
    return {"arguments": list(arguments), "named": named}


@workflow(name="started.waits")
async def waits() -> Any:
    return await receive("answer")


@workflow(name="started.fails")
async def fails() -> None:
    raise ValueError("no luck")


@workflow(name="started.slow")
async def slow() -> None:
    raise TimeoutError("the bank took too long")


@pytest.fixture
def orders(tmp_path: Path) -> str:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[]):
        pass
    return str(path)


def carried_on(orders: str, run: str) -> Any:
    with Engine(orders, workflows=[echo, waits, fails]) as engine:
        return engine.get(run).result(60)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("42", 42),
        ("'42'", "'42'"),
        ('"42"', "42"),
        ("true", True),
        ("plain text", "plain text"),
        ("", ""),
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("{broken", "{broken"),
        ("9223372036854775809", 2**63 + 1),
    ],
)
def test_an_argument_is_json_or_else_a_text(orders: str, written: str, meant: Any) -> None:
    assert main(["start", "started.echo", "--id", "a", "--kwarg", f"b={written}", "--db", orders, "--", written]) == 0
    assert carried_on(orders, "a") == {"arguments": [meant], "named": {"b": meant}}


def test_a_start_prints_the_id_and_says_that_no_worker_is_there(
    orders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["start", "started.echo", "--db", orders]) == 0
    said = capsys.readouterr()
    assert carried_on(orders, said.out.strip()) == {"arguments": [], "named": {}}
    assert f"stepwell worker MODULE --db {orders}" in said.err


def test_a_start_has_a_place_in_a_queue(orders: str) -> None:
    line = ["--queue", "started.line", "--priority", "3", "--delay", "1h", "--dedup", "x", "--partition", "p"]
    assert main(["start", "started.echo", "--id", "a", *line, "--db", orders]) == 0
    with Engine(orders, workflows=[]) as engine:
        info = engine.queue(LINE).info()
        assert (info.delayed, info.waiting) == (1, 0)
        rows = engine.query("SELECT partition, priority, dedup FROM stepwell_entries")
        assert list(rows) == [("p", 3, "x")]


def test_a_start_says_what_a_second_one_with_its_dedup_key_does(
    orders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--queue", "started.line", "--dedup", "x", "--db", orders]
    calm = ["--debounce", "1h", "--debounce-limit", "2h"]
    assert main(["start", "started.echo", "1", "--id", "a", *line, *calm]) == 0
    assert main(["start", "started.echo", "2", *line, *calm]) == 0
    assert main(["start", "started.echo", "3", *line, "--on-duplicate", "reject"]) == 1
    assert "'x'" in capsys.readouterr().err
    with Engine(orders, workflows=[]) as engine:
        assert engine.get("a").info().input == {"args": [2]}


def test_the_result_of_a_start_can_be_waited_for(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine(orders, workflows=[echo, fails, slow]) as engine:
        engine.start(echo, 1, id="a").result(60)
        with pytest.raises(ValueError, match="no luck"):
            engine.start(fails, id="b").result(60)
        with pytest.raises(TimeoutError, match="the bank"):
            engine.start(slow, id="slow").result(60)
    assert main(["start", "started.echo", "1", "--id", "a", "--wait", "60", "--db", orders]) == 0
    assert json.loads(capsys.readouterr().out) == {"arguments": [1], "named": {}}
    assert main(["start", "started.fails", "--id", "b", "--wait", "60", "--db", orders]) == 1
    assert "run 'b': ValueError: no luck" in capsys.readouterr().err
    assert main(["start", "started.slow", "--id", "slow", "--wait", "60", "--db", orders]) == 1
    assert "run 'slow': TimeoutError: the bank took too long" in capsys.readouterr().err
    assert main(["start", "started.waits", "--id", "c", "--wait", "0.01", "--db", orders]) == 1
    assert "run 'c' has not ended after 0.01 s; it goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        (["started.echo", "--kwarg", "b"], 2, "must be NAME=ARG"),
        (["started.echo", "--kwarg", "1b=2"], 2, "must be NAME=ARG"),
        (["started.echo", "--priority", "3"], 2, "queue"),
        (["started.echo", "--id", ""], 2, "id"),
    ],
)
def test_a_start_that_cannot_be_is_refused_and_nothing_is_recorded(
    orders: str, line: list[str], code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["start", *line, "--db", orders]) == code
    assert expected in capsys.readouterr().err
    with Engine(orders, workflows=[]) as engine:
        assert engine.list() == []


def test_a_second_start_of_an_id_with_other_arguments_is_refused(
    orders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["start", "started.echo", "1", "--id", "a", "--db", orders]) == 0
    assert main(["start", "started.echo", "1", "--id", "a", "--db", orders]) == 0
    assert main(["start", "started.echo", "2", "--id", "a", "--db", orders]) == 1
    assert "stepwell start: " in capsys.readouterr().err


@pytest.mark.parametrize(("value", "meant"), [(["true"], True), (["no"], "no"), ([], None)])
def test_a_message_arrives_once(orders: str, value: list[str], meant: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "started.waits", "--id", "a", "--db", orders]) == 0
    for _ in range(2):
        assert main(["send", "a", "answer", *value, "--key", "k", "--db", orders]) == 0
    assert "run 'a': message 'answer' is recorded; " in capsys.readouterr().out
    assert carried_on(orders, "a") == meant
    assert main(["send", "a", "answer", "--db", orders]) == 1
    assert "has ended" in capsys.readouterr().err or "completed" in capsys.readouterr().err
    assert main(["send", "zoe", "answer", "--db", orders]) == 1


@workflow(name="started.basket")
async def basket(prices: list[int]) -> int:
    @query
    def total(least: int = 0) -> int:
        if least < 0:
            raise ValueError("below zero")
        return sum(price for price in prices if price >= least)

    await receive("close")
    return total()


def test_a_run_is_asked_from_a_file_that_is_only_read(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "started.basket", "[3, 4]", "--id", "basket-7", "--db", orders]) == 0
    capsys.readouterr()
    for arguments, code, says in (
        (("basket-7", "total"), 0, "7"),
        (("b", "total"), 0, "7"),  # a beginning that no other id has
        (("b", "total", "--kwarg", "least=4"), 0, "4"),
        (("b", "totl"), 1, "it has: total"),
        (("b", "total", "--kwarg", "least=-1"), 1, "ValueError: below zero"),
        (("b", "total", "--module", "no.where"), 2, "No module named"),
        (("c", "total"), 1, "has no run 'c'"),
    ):
        assert main(["query", *arguments, "--module", __name__, "--db", orders]) == code
        assert says in "".join(capsys.readouterr())


@workflow(name="started.answers")
async def answers() -> None:
    @update
    async def add(one: int, *, other: int = 1) -> int:
        if one < 0:
            raise ValueError("below zero")
        if one > 1_000:
            raise TimeoutError("counting took too long")
        return one + other

    await receive("close")


def test_an_update_prints_the_answer_of_the_run(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine(orders, workflows=[answers]) as engine:
        run = engine.start(answers, id="b")
        assert run.update("add", 2, key="k") == 3
        with pytest.raises(ValueError, match="below zero"):
            run.update("add", -2, key="low")
        with pytest.raises(TimeoutError, match="counting"):
            run.update("add", 1_001, key="many")
    for arguments, code, says in (
        (("b", "add", "2", "--key", "k"), 0, "3"),
        (("b", "add", "--key", "low", "--", "-2"), 1, "ValueError: below zero"),
        (("b", "add", "1001", "--key", "many"), 1, "TimeoutError: counting took too long\n"),
        (("b", "add", "5", "--wait", "0"), 1, "has not answered update 'add'"),
        (("c", "add"), 1, "has no run 'c'"),
    ):
        assert main(["update", *arguments[:2], "--db", orders, *arguments[2:]]) == code
        assert says in "".join(capsys.readouterr())
