"""Forms about a run that know the types of its code; and what the code asked for, which no journal has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.support.web import TOKEN, browser, checkout

from stepwell import Engine, receive, step, workflow
from stepwell.api.face import Face
from stepwell.ui import app


@dataclass
class Price:
    cents: int
    currency: Literal["EUR", "USD"] = "EUR"


@step(name="ui.price")
async def price(order: str, *, factor: int = 1) -> Price:
    return Price(factor * len(order))


@workflow(name="ui.priced")
async def priced(order: str, secret: str = "", rush: bool = False) -> int:
    first = await price(order, factor=2)
    second = await receive("discount", Price)
    return first.cents - second.cents + rush + len(secret) * 0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "forms.db", workflows=[priced]) as opened:
        yield opened


def waiting(engine: Engine, run_id: str = "run") -> Any:
    run = engine.start(priced, "abc", "hush", id=run_id)
    while not run.info().waiting_on:
        pass
    return run


def test_an_operation_has_its_arguments_its_type_and_its_line(engine: Engine) -> None:
    waiting(engine)
    (asked,) = Face(engine).asked_for("run", 1)
    assert asked.arguments == {"order": "abc", "factor": 2}
    assert asked.type == "Price"
    assert asked.line == "first = await price(order, factor=2)"
    (asked,) = Face(engine).asked_for("run", None)
    assert (asked.kind, asked.name, asked.type) == ("receive", "discount", "Price")
    assert Face(engine).asked_for("run", 99) == []
    text = unescape(browser(app(engine, token=TOKEN)).log_in().get("/run?id=run&op=1").text)
    assert '"factor": 2' in text
    assert "first = await price(order, factor=2)" in text


def test_a_message_is_sent_by_a_form_of_its_type(engine: Engine) -> None:
    run, visitor = waiting(engine), browser(app(engine, token=TOKEN)).log_in()
    assert 'name="field currency"' in visitor.get("/run?id=run").text
    sent = {"act": "send", "typed": "yes", "name": "discount"}
    wrong = visitor.submit("/run/act?id=run", **sent, **{"field cents": "1.5"})
    assert wrong.status_code == 400
    assert "Price" in wrong.text
    assert run.info().status == "waiting"  # nothing was sent
    assert visitor.submit("/run/act?id=run", **sent, **{"field cents": "4"}).status_code == 303
    assert run.result(timeout=30) == 2


def test_an_operation_is_given_another_result_and_its_run_other_arguments(engine: Engine) -> None:
    run, visitor = waiting(engine), browser(app(engine, token=TOKEN)).log_in()
    page = visitor.get("/run?id=run&op=1").text
    assert 'name="field cents" inputmode="decimal" value="6"' in page  # what it is now
    assert 'name="argument order" value="abc"' in page
    run.send("discount", Price(0))
    assert run.result(timeout=30) == 6
    fields = {"to": "1", "instead": "result", "field cents": "40", "input": "these"}
    arguments = {"argument order": "abc", "argument rush": "true"}
    assert visitor.submit("/run/act?id=run", act="rewind", **fields, **arguments).status_code == 303
    assert run.result(timeout=30) == 41
    fork = visitor.submit("/run/act?id=run", act="fork", new_id="fork", **fields, **arguments)
    assert fork.headers["location"] == "/run?id=fork&done=fork"


@pytest.mark.parametrize(
    ("act", "fields", "fault"),
    [
        ("rewind", {"to": "1", "instead": "result", "field cents": "many"}, "is not a number"),
        ("rewind", {"to": "1", "instead": "result", "field cents": "1", "field currency": '"DM"'}, "Price"),
        ("fork", {"to": "0"}, "by its number"),
        ("settle", {"to": "x"}, "by its number"),
        ("restart", {"input": "these", "argument order": "a", "argument rush": "perhaps"}, "rush"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_done(
    engine: Engine, act: str, fields: dict[str, str], fault: str
) -> None:
    run, visitor = waiting(engine), browser(app(engine, token=TOKEN)).log_in()
    answer = visitor.submit("/run/act?id=run", act=act, **fields)
    assert answer.status_code == 400
    assert fault in answer.text
    assert (run.acts(), len(engine.list())) == ([], 1)


def test_a_form_is_not_filled_in_with_what_is_hidden(engine: Engine) -> None:
    waiting(engine)
    visitor = browser(app(engine, token=TOKEN, redact=["secret", "cents"])).log_in()
    page = visitor.get("/run?id=run&op=1").text
    assert "hush" not in page
    assert 'name="argument secret" value=""' in page
    assert 'name="field cents" inputmode="decimal" value=""' in page


def test_without_the_code_values_are_typed_as_json(tmp_path: Path) -> None:
    with Engine(tmp_path / "forms.db", workflows=[priced]) as engine:
        waiting(engine).send("discount", Price(0))
        assert engine.get("run").result(timeout=30) == 6
    with Engine(tmp_path / "forms.db", workflows=[checkout]) as other:
        visitor = browser(app(other, token=TOKEN)).log_in()
        page = visitor.get("/run?id=run&op=1").text
        assert 'name="arguments"' in page
        assert 'name="answer"' in page
        fields = {"to": "1", "instead": "result", "answer": '{"cents": 9}', "input": "these", "arguments": '["x"]'}
        assert visitor.submit("/run/act?id=run", act="fork", new_id="other", **fields).status_code == 303
        assert visitor.submit("/run/act?id=run", act="restart", input="these", arguments="{}").status_code == 400
