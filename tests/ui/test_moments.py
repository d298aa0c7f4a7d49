"""Time travel: a run as it was after each thing that it was told, nothing executed; two runs beside each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec
import pytest
from tests.support.web import TOKEN, Browser, browser, charge, checkout

from stepwell import Engine, sync, workflow
from stepwell.api.face import Face
from stepwell.api.reading.time_travel import plain
from stepwell.ui import app


@workflow(name="ui.plain")
def in_plain_code(order: str) -> str:
    first = sync.receive("first", str)
    second = sync.receive("second", str)
    return f"{order} {first} {second}"


def variables(face: Face, run: str, told: int) -> dict[str, Any]:
    return face.moment(run, told).tasks[0][0].variables


def test_a_run_is_seen_after_each_thing_that_it_was_told(made: Any) -> None:
    face = Face(made)
    moments = [face.moment("order-1", told) for told in range(5)]
    assert [each.told for each in moments] == [0, 1, 2, 3, 4]
    assert "receipt" not in moments[0].tasks[0][0].variables
    assert moments[1].tasks[0][0].variables["receipt"]["cents"] == 2**63 + 1
    assert [line.text.strip() for line in moments[0].tasks[0][0].source if line.waits] == [
        "receipt = await charge(order)"
    ]
    assert [each.name for each in moments[0].pending] == [charge.name]
    assert [len(each.pending) for each in moments] == [1, 2, 1, 1, 0]
    assert moments[4].has_ended
    assert face.moment("order-1", 99).told == 4


def test_plain_code_is_seen_as_well(tmp_path: Any) -> None:
    with Engine(tmp_path / "plain.db", workflows=[in_plain_code]) as engine:
        run = engine.start(in_plain_code, "x", id="plain")
        run.send("first", "a")
        run.send("second", "b")
        assert run.result(timeout=30) == "x a b"
        face = Face(engine)
        assert variables(face, "plain", 1) == {"order": "x", "first": "a"}
        assert variables(face, "plain", 0) == {"order": "x"}


def test_nothing_of_a_value_is_called() -> None:
    class Trap:
        def __init__(self) -> None:
            self.inside = 1

        def __repr__(self) -> str:
            raise AssertionError

        __str__ = __repr__

        @property
        def outside(self) -> str:
            raise AssertionError

        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

    class Colour(Enum):
        RED = 1

        def __str__(self) -> str:
            raise AssertionError

    class Data(msgspec.Struct):
        name: str

    @dataclass
    class Deep:
        items: list[Any] = field(default_factory=list)

    deep = Deep([[[[[1]]]]])
    assert plain(Trap()) == {f"<{Trap.__qualname__}>": {"inside": 1}}
    assert plain([Data("x"), {"k": (1, None)}, {1}, len, int]) == [
        {f"<{Data.__qualname__}>": {"name": "x"}},
        {"k": [1, None]},
        [1],
        "<builtin_function_or_method>",
        "<type>",
    ]
    assert plain(deep) == {f"<{Deep.__qualname__}>": {"items": [[["<list>"]]]}}
    assert plain([Colour.RED]) == [f"{Colour.__qualname__}.RED"]
    assert len(plain("x" * 5_000)) == 2_001


def test_the_page_leads_forwards_and_backwards(looking: Browser) -> None:
    first = looking.get("/run/moment?id=order-1").text
    assert "told 0 of 4" in first
    assert 'rel="prev"' not in first
    last = looking.get("/run/moment?id=order-1&told=4").text
    assert 'rel="next"' not in last
    assert "it had ended" in last
    assert looking.get("/run/moment?id=nobody").status_code == 404


def test_variables_hide_what_is_hidden(made: Any) -> None:
    hiding = browser(app(made, token=TOKEN, redact=["number"])).log_in()
    assert "4111" not in hiding.get("/run/moment?id=order-1&told=1").text


def test_without_the_code_it_is_said_what_is_missing(tmp_path: Any) -> None:
    with Engine(tmp_path / "other.db", workflows=[checkout]) as engine:
        engine.start(checkout, "x", id="x").result(timeout=30)
    with Engine(tmp_path / "other.db", workflows=[in_plain_code]) as engine:
        visitor = browser(app(engine, token=TOKEN)).log_in()
        assert "stepwell ui MODULE" in visitor.get("/run/moment?id=x").text


@pytest.mark.parametrize(("other", "differing"), [("order-2", 0), ("bad/../order?&#", 1), ("approval-1", 4)])
def test_two_runs_are_compared(looking: Browser, other: str, differing: int) -> None:
    text = looking.get("/run/compare", params={"id": "order-1", "other": other}).text
    assert text.count('class="differs"') == differing
    assert f"{differing or 'None'} of " in text
