"""A filter means what it says, or says at which character it goes wrong; and the runs that match are found."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell import AsyncEngine, Engine, InvalidArgument, InvalidFilter, Queue, RunNotFound, start, step, workflow
from stepwell.api.asking.filters import FIELDS, MAX_FILTER_LENGTH, Filter, Moment, parse
from stepwell.model.clock import microseconds_of
from stepwell.testing import TestEngine

MAILS = Queue("filters.mails")
HOUR = 3_600_000_000


@step(name="filters.act")
async def act(*, fails: bool) -> None:
    if fails:
        raise LookupError("nothing there")


@workflow(name="filters.checkout")
async def checkout(fails: bool = False) -> None:
    await act(fails=fails)


@workflow(name="filters.sleeper")
async def sleeper() -> None:
    await asyncio.sleep(10**6)


@workflow(name="my flow")
async def parent() -> None:
    await (await start(checkout, id="child")).result()


# --- the language -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("   \t ", {}),
        ("status:failed", {"statuses": ("failed",)}),
        ("status=failed,paused,failed", {"statuses": ("failed", "paused")}),
        ("workflow:shop.checkout queue:mails", {"workflow": "shop.checkout", "queue": "mails"}),
        ('workflow:"my flow"', {"workflow": "my flow"}),
        (r'workflow:"a \"b\" \\ c"', {"workflow": r'a "b" \ c'}),
        ("id:order-42", {"id": "order-42"}),
        ("id:order-*", {"id_prefix": "order-"}),
        ("parent:order-42", {"parent": "order-42"}),
        ("parent:none", {"roots": True}),
        ("order:-created", {"order": "-created"}),
        ("order:started", {"order": "started"}),
        ("created>-2h", {"created_after": Moment(ago=2 * HOUR)}),
        (
            "created<=-90m started>=7d",
            {"created_before": Moment(ago=3 * HOUR // 2), "started_after": Moment(ago=168 * HOUR)},
        ),
        ("ended>-0.5h ended<-1s", {"ended_after": Moment(ago=HOUR // 2), "ended_before": Moment(ago=1_000_000)}),
        ("started<2026-11-28", {"started_before": Moment(at=microseconds_of(datetime(2026, 11, 28, tzinfo=UTC)))}),
        (
            "started<2026-11-28T09:00+02:00",
            {"started_before": Moment(at=microseconds_of(datetime(2026, 11, 28, 7, tzinfo=UTC)))},
        ),
    ],
)
def test_a_filter_means_what_it_says(text: str, fields: dict[str, Any]) -> None:
    assert parse(text) == Filter(text, **fields)
    assert parse(text).is_empty is not bool(fields.keys() - {"order"})


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("stauts:failed", 0, "there is no field 'stauts' (is 'status' meant?)"),
        ("status:failed wrkflow:x", 14, "(is 'workflow' meant?)"),
        ("status:faild", 7, "there is no state 'faild' (is 'failed' meant?)"),
        ("status:failed,wating", 14, "(is 'waiting' meant?)"),
        ("status:failed,", 14, "there is no state ''"),
        ("status:", 7, "status needs a value: a state, or several"),
        ("status", 0, "write a field, a sign and a value"),
        ("failed", 0, "write a field, a sign and a value"),
        ("status failed", 0, "write a field, a sign and a value"),
        ("status!failed", 6, "behind 'status' stands one of : = < > <= >="),
        ("status:failed status:paused", 14, "status is given twice"),
        ("id:a id:a*x", 5, "id is given twice"),
        ("id:*", 3, "a star alone means every run"),
        ('workflow:"my flow', 9, "a quoted value ends with a quote"),
        ('workflow:"my"flow', 9, "a quoted value ends with a quote"),
        ('workflow:my"flow"', 11, "a quoted value ends with a quote"),
        ("status>failed", 6, "status has no order"),
        ("created:-2h", 7, "of a time one says before or after"),
        ("created>yesterday", 8, "'yesterday' is no time"),
        ("created>-2y", 8, "'-2y' is no time"),
        ("created>-99999999d", 8, "more than a hundred years"),
        ("created>-1h created>-2h", 12, "created is given twice"),
        ("order:stated", 6, "(is 'started' meant?)"),
        ("order:started order:ended", 14, "order is given twice"),
        ("; DROP TABLE stepwell_runs", 0, "is no condition"),
        ("  %", 2, "is no condition"),
    ],
)
def test_a_filter_that_is_wrong_says_at_which_character(text: str, position: int, said: str) -> None:
    with pytest.raises(InvalidFilter) as refused:
        parse(text)
    assert refused.value.position == position
    assert said in str(refused.value)
    assert str(refused.value).splitlines()[-1] == "  " + " " * position + "^"


@pytest.mark.parametrize("text", [None, 3, b"status:failed", ["status:failed"], "a" * (MAX_FILTER_LENGTH + 1)])
def test_what_is_no_text_or_too_long_is_no_filter(text: Any) -> None:
    with pytest.raises(InvalidFilter):
        parse(text)


@given(st.text() | st.lists(st.sampled_from([*FIELDS, ":", ">", '"', "\\", " ", "-2h", "failed", "\0"])).map("".join))
def test_any_text_is_a_filter_or_is_refused_with_a_place_in_it(text: str) -> None:
    try:
        assert parse(text).text == text
    except InvalidFilter as error:
        assert 0 <= error.position <= len(text)  # noqa: PT017 - most texts are refused, and some are not


# --- finding runs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(engine: TestEngine) -> TestEngine:
    for name in ("order-1", "order-2"):
        engine.start(checkout, id=name, queue=MAILS)
    engine.idle()
    engine.advance(3600)
    engine.start(checkout, True, id="bad")
    engine.start(sleeper, id="sleeps")
    engine.start(parent, id="parent")
    engine.idle()
    return engine


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", ["child", "parent", "sleeps", "bad", "order-2", "order-1"]),
        ("status:failed", ["bad"]),
        ("status:failed,waiting", ["sleeps", "bad"]),
        ("workflow:filters.checkout", ["child", "bad", "order-2", "order-1"]),
        ('workflow:"my flow"', ["parent"]),
        ("workflow:filters.checkout status:completed", ["child", "order-2", "order-1"]),
        ("queue:filters.mails", ["order-2", "order-1"]),
        ("queue:nowhere", []),
        ("id:order-*", ["order-2", "order-1"]),
        ("id:order-1", ["order-1"]),
        ("id:order-1 status:failed", []),
        ("id:order", []),
        ("parent:parent", ["child"]),
        ("parent:none workflow:filters.checkout", ["bad", "order-2", "order-1"]),
        ("created>-30m", ["child", "parent", "sleeps", "bad"]),
        ("created<-30m", ["order-2", "order-1"]),
        ("started<-30m", ["order-2", "order-1"]),
        ("ended>-30m", ["child", "parent", "bad"]),
        ("ended<-30m status:completed", ["order-2", "order-1"]),
        ("created>2020-01-01 created<2020-01-02", []),
    ],
)
def test_a_filter_finds_its_runs_newest_first(filled: TestEngine, text: str, ids: list[str]) -> None:
    assert [run.id for run in filled.list(text)] == ids
    assert sum(filled.counts(text).values()) == len(ids)


def test_runs_are_counted_by_state_workflow_and_queue(filled: TestEngine) -> None:
    assert filled.counts() == {"completed": 4, "failed": 1, "waiting": 1}
    assert filled.counts(by="workflow") == {"filters.checkout": 4, "filters.sleeper": 1, "my flow": 1}
    assert filled.counts("status:completed", by="queue") == {"": 2, "filters.mails": 2}
    with pytest.raises(InvalidArgument, match="by status, workflow, queue, not by 'day'"):
        filled.counts(by="day")  # type: ignore[arg-type]


def test_pages_follow_one_another_by_the_last_id(filled: TestEngine) -> None:
    first = filled.list("workflow:filters.checkout", limit=3)
    second = filled.list("workflow:filters.checkout", limit=3, before=first[-1].id)
    assert [run.id for run in (*first, *second)] == ["child", "bad", "order-2", "order-1"]


def test_keywords_go_with_a_filter_and_do_not_contradict_it(filled: TestEngine) -> None:
    assert [run.id for run in filled.list("created<-30m", status="completed", id_prefix="order-2")] == ["order-2"]
    assert [run.id for run in filled.list("status:failed", status="failed")] == ["bad"]
    with pytest.raises(InvalidArgument, match="and so does status="):
        filled.list("status:failed", status="completed")
    with pytest.raises(RunNotFound, match="ghost"):
        filled.list("parent:ghost")


def test_async_code_lists_by_the_same_filters(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database, workflows=[]) as engine:
            await engine.start(checkout, id="a")
            assert [run.id for run in await engine.list("status:pending")] == ["a"]
            assert await engine.counts("id:a*", by="workflow") == {"filters.checkout": 1}
            with pytest.raises(InvalidFilter, match="is 'status' meant"):
                await engine.list("satus:failed")

    asyncio.run(main())


def test_a_listing_reads_no_payloads(database: Path) -> None:
    with Engine(database, workflows=[]) as engine:
        engine.start(checkout, id="a")
        (record,) = engine._session.reads.records("id:a")
    assert (record.input, record.result) == (None, None)
