"""What runs ask people for: a form of its type for each promise, answered once; and the streams of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.support.web import TOKEN, VIEWER_TOKEN, Browser, browser

import stepwell
from stepwell import Engine, InvalidArgument, workflow
from stepwell.model.promise import Form
from stepwell.ui import app
from stepwell.ui.forms import WHOLE, fields_of, value_of


@dataclass
class Verdict:
    granted: bool
    cents: int
    note: str = ""


TYPES: dict[str, Any] = {"bool": bool, "int": int, "verdict": Verdict, "word": Literal["yes", "no"], "str": str}


@workflow(name="ui.asks")
async def asks(kind: str) -> str:
    form = Form(title=f"Refund <b>{kind}</b>?", text="It was 42.", evidence={"secret": "4111"})
    return repr(await stepwell.promise(TYPES[kind], form=form))


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "asks.db", workflows=[asks]) as engine:
        yield engine


def token_of(page: str) -> str:
    return unescape(page.partition('name="token" value="')[2].partition('"')[0])


def asked(engine: Engine, visitor: Browser, kind: str) -> str:
    """Start a run that asks, and return its page of forms as soon as it does."""
    engine.start(asks, kind, id=kind)
    while not engine.promises():
        pass
    text: str = visitor.get("/waiting").text
    return text


@pytest.mark.parametrize(
    ("kind", "fields", "answer"),
    [
        ("bool", {WHOLE: "true"}, "True"),
        ("int", {WHOLE: str(2**60)}, repr(2**60)),
        ("word", {WHOLE: '"no"'}, "'no'"),
        ("str", {WHOLE: "42"}, "'42'"),
        ("verdict", {"field granted": "false", "field cents": "7"}, "Verdict(granted=False, cents=7, note='')"),
    ],
)
def test_a_promise_is_answered_by_the_form_of_its_type(
    asking: Engine, kind: str, fields: dict[str, str], answer: str
) -> None:
    visitor = browser(app(asking, token=TOKEN, redact=["secret"])).log_in()
    page = asked(asking, visitor, kind)
    assert "Refund &lt;b&gt;" in page
    assert "4111" not in page
    assert all(f'name="{name}"' in page for name in fields)
    form = {"token": token_of(page), "act": "resolve", "reason": "as agreed", **fields}
    assert visitor.submit("/waiting/answer", **form).headers["location"] == "/waiting?done=answer"
    assert asking.get(kind).result(timeout=30) == answer
    assert asking.get(kind).acts()[-1].by == "ada (web)"
    assert visitor.submit("/waiting/answer", **form).status_code == 303  # a double click does nothing more
    assert visitor.submit("/waiting/answer", **(form | {"act": "reject"})).status_code == 409  # answered already
    assert visitor.submit("/waiting/answer", **(form | {"token": "another"})).status_code == 404


def test_a_promise_is_refused_and_what_does_not_fit_is_not_taken(asking: Engine) -> None:
    visitor = browser(app(asking, token=TOKEN, viewer_token=VIEWER_TOKEN)).log_in()
    token = token_of(asked(asking, visitor, "int"))
    assert token not in browser(visitor.app).log_in(VIEWER_TOKEN).get("/waiting").text
    for wrong in ("many", "", "1.5", '"1"'):
        assert visitor.submit("/waiting/answer", token=token, act="resolve", **{WHOLE: wrong}).status_code == 400
    assert visitor.submit("/waiting/answer", token=token, act="reject", reason="too much").status_code == 303
    with pytest.raises(stepwell.PromiseRejected, match="too much"):
        asking.get("int").result(timeout=30)


@pytest.mark.parametrize(
    ("schema", "kinds"),
    [
        ({}, ["json"]),
        ({"type": "array", "items": {"type": "integer"}}, ["json"]),
        ({"$ref": "#/$defs/X", "$defs": {"X": {"type": "boolean"}}}, ["yes or no"]),
        ({"enum": ["a", 1]}, ["choice"]),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"type": "number"}}},
            ["number"],
        ),
        ({"type": ["string", "null"]}, ["json"]),
    ],
)
def test_a_schema_makes_fields(schema: dict[str, Any], kinds: list[str]) -> None:
    assert [field.kind for field in fields_of(schema, [])] == kinds


@pytest.mark.parametrize(
    ("choices", "texts"), [(["all", "half"], ["all", "half"]), (["1", 1], ['"1"', "1"]), (["", "a"], ['""', '"a"'])]
)
def test_choices_are_read_as_people_write_them(choices: list[Any], texts: list[str]) -> None:
    (field,) = fields_of({}, choices)
    assert [field.text_of(each) for each in field.choices] == texts
    assert [value_of([field], {WHOLE: each}) for each in field.choices] == choices


def test_a_run_that_asks_leads_to_its_form(asking: Engine) -> None:
    visitor = browser(app(asking, token=TOKEN)).log_in()
    asked(asking, visitor, "bool")
    assert "/waiting?id=bool" in visitor.get("/run?id=bool").text
    assert token_of(visitor.get("/waiting?id=bool").text)
    asking.get("bool").terminate()
    assert "asks nobody" in visitor.get("/waiting?id=bool").text
    assert visitor.get("/waiting?id=another").status_code == 404


def test_the_overview_has_what_is_asked_first(asking: Engine) -> None:
    visitor = browser(app(asking, token=TOKEN)).log_in()
    assert "Waiting for a person" not in visitor.get("/").text
    for number in range(7):
        asking.start(asks, "int", id=f"asks-{number}")
    while len(asking.promises()) < 7:
        pass
    page = visitor.get("/").text
    oldest = [promise.run_id for promise in asking.promises()]
    assert all(f"/waiting?id={run}" in page for run in oldest[:5])
    assert all(f"/waiting?id={run}" not in page for run in oldest[5:])


def test_what_was_not_filled_in_is_left_out() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a"]}
    assert value_of(fields_of(schema, []), {"field a": ""}) == {"a": ""}
    assert value_of(fields_of({}, [[1], "x"]), {WHOLE: "[1]"}) == [1]
    with pytest.raises(InvalidArgument, match="b: 'x' is not a number"):
        value_of(fields_of(schema, []), {"field a": "", "field b": "x"})


@workflow(name="ui.streams")
async def streams() -> None:
    words = stepwell.stream("words", str)
    for number in range(30):
        await words.write(f"<i>word {number}")
    await words.close()


def test_the_last_items_of_a_stream_stand_beside_its_run(tmp_path: Path) -> None:
    with Engine(tmp_path / "streams.db", workflows=[streams]) as engine:
        engine.start(streams, id="streams").result(timeout=30)
        text = browser(app(engine, token=TOKEN)).log_in().get("/run?id=streams").text
    assert "30 items, closed" in text
    assert "&lt;i&gt;word 29" in text
    assert "word 9&#34;" not in text
    assert "<i>word" not in text


@workflow(name="ui.says_how_far")
async def says_how_far() -> None:
    async def works() -> None:
        stepwell.current().progress(3, 4, "<i>the third")
        await asyncio.Event().wait()

    await stepwell.run_step("works", works)


def test_how_far_a_step_is_stands_beside_its_run_and_in_the_list(tmp_path: Path) -> None:
    with Engine(tmp_path / "progress.db", workflows=[says_how_far]) as engine:
        run = engine.start(says_how_far, id="far")
        while not run.info().progress:
            pass
        looking = browser(app(engine, token=TOKEN)).log_in()
        page, listed = looking.get("/run?id=far").text, looking.get("/runs").text
        run.cancel()
    assert '<progress max="1" value="0.75" aria-label="3 of 4 (75 %)">' in page
    assert "3 of 4 (75 %): &lt;i&gt;the third" in page
    assert "works: 3 of 4 (75 %)" in listed
    assert "<i>the third" not in page + listed
