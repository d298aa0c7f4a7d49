"""A run among others: children within the picture of their parent, where a failure began, and a part drawn larger."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.web import TOKEN, Browser, browser

import stepwell
from stepwell import Engine, step, workflow
from stepwell.api.face import Face
from stepwell.api.reading.failure_path import FailedPart, failure_path
from stepwell.ui import app
from stepwell.ui.waterfall import Axis, window_of


@step(name="ui.break")
async def breaks() -> None:
    raise OSError("the disk is full")


@workflow(name="ui.child")
async def child(is_well: bool) -> str:
    if not is_well:
        await breaks()
    return "well"


@workflow(name="ui.middle")
async def middle() -> str:
    return await (await stepwell.start(child, False, id="lowest")).result()


@workflow(name="ui.top")
async def top() -> str:
    return await (await stepwell.start(middle, id="middle")).result()


@workflow(name="ui.raising")
async def raising() -> None:
    raise OSError("no disk at all")


@workflow(name="ui.above_it")
async def above_it() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task((await stepwell.start(raising, id="by itself")).result())


@workflow(name="ui.many")
async def many(count: int) -> None:
    for number in range(count):
        await stepwell.start(child, True, id=f"child-{number}")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path: Path = tmp_path_factory.mktemp("family") / "family.db"
    with Engine(path, workflows=[child, middle, top, many, raising, above_it]) as engine:
        with pytest.raises(OSError, match="disk"):
            engine.start(top, id="top").result(timeout=30)
        with pytest.raises(ExceptionGroup):
            engine.start(above_it, id="above it").result(timeout=30)
        engine.start(many, 5, id="many").result(timeout=30)
        engine.start(child, True, id="alone").result(timeout=30)
        yield engine


@pytest.fixture
def looking(family: Engine) -> Browser:
    return browser(app(family, token=TOKEN)).log_in()


@pytest.mark.parametrize("asked", ["top", "middle", "lowest"])
def test_a_failure_is_followed_to_where_it_began_and_to_what_it_brought_down(family: Engine, asked: str) -> None:
    path = Face(family).look(lambda reads: failure_path(reads, asked))
    assert [(each.id, each.name) for each in path] == [("lowest", "ui.break"), ("middle", "lowest"), ("top", "middle")]
    assert path[0] == FailedPart("lowest", "ui.child", 1, "ui.break")


def test_a_failure_that_no_operation_had_began_in_the_code_of_its_run(looking: Browser) -> None:
    text = looking.get("/run?id=above it").text
    assert "It began in the code of run" in text
    assert text.index("by itself") < text.index("Behind it went: this run")
    assert "It began in the code of run" in looking.get("/run?id=by itself").text


def test_a_run_that_is_well_has_no_such_path(family: Engine) -> None:
    assert Face(family).look(lambda reads: failure_path(reads, "alone")) == []


def test_the_page_says_where_a_failure_began_first(looking: Browser) -> None:
    text = looking.get("/run?id=top").text
    assert text.index("It began in operation") < text.index("Traceback")
    assert "/run?id=lowest&amp;op=1" in text
    assert "Behind it went" not in looking.get("/run?id=alone").text


def test_children_stand_within_their_parent_and_are_opened_and_closed(looking: Browser) -> None:
    text = looking.get("/run?id=top").text
    assert "Close the child middle" in text  # one of a few is opened by itself
    assert "/run?id=middle&amp;op=1" in text
    text = looking.get("/run?id=many").text
    assert text.count("Open the child child-") == 5
    text = looking.get("/run?id=many&children=2,4").text
    assert text.count("Close the child child-") == 2
    assert "children=4" in text  # what closes the first of the two


def test_a_part_of_a_run_is_drawn_larger(looking: Browser) -> None:
    whole = looking.get("/run?id=many").text
    assert 'data-key="5"' in whole
    text = looking.get("/run?id=many&zoom=999999998-999999999").text
    assert 'data-key="5"' not in text
    assert "zoomed" in text
    assert "Zoom to it" in looking.get("/run?id=many&op=3").text


@pytest.mark.parametrize(
    ("text", "window"),
    [("5-9", (5, 9)), ("", None), ("9-5", None), ("-1-5", None), ("a-b", None), ("1-" + "9" * 60, None), ("0-0", None)],
)
def test_only_a_part_that_makes_sense_is_drawn(text: str, window: object) -> None:
    assert window_of(text) == window


def test_a_place_has_its_time() -> None:
    assert Axis(10, 30, [(10, 30)], folds=True, zero=5).scale() == "0.0:5 1000.0:25"
