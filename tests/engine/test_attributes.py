"""Runs are found by what was said of them: attributes, tags and notes, from outside and from their own code."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    AsyncEngine,
    Engine,
    InvalidArgument,
    Queue,
    RunNotFound,
    continue_as_new,
    receive,
    set_attributes,
    start,
    step,
    sync,
    workflow,
)
from stepwell.model.attributes import AttributeValue, described
from stepwell.model.clock import microseconds_of
from stepwell.testing import TestEngine

MAILS = Queue("attributes.mails")
DUE = datetime(2026, 11, 28, 9, 30, 0, 123_456, tzinfo=UTC)
GIVEN: dict[str, AttributeValue] = {"customer": "acme", "amount": 42, "rate": 1.0, "vip": True, "due": DUE}


class Colour(enum.StrEnum):
    RED = "red"


class Number(int):
    pass


@workflow(name="attributes.waits")
async def waits() -> None:
    await receive("go")


@workflow(name="attributes.says")
async def says() -> str:
    await set_attributes({"stage": "paid", "amount": 7}, tags=["vip", "eu"])
    await receive("go")
    await set_attributes({"stage": "sent", "amount": None}, remove_tags=["eu"], note="on its way")
    return "done"


@workflow(name="attributes.says_plainly")
def says_plainly() -> None:
    sync.set_attributes({"stage": "plain"})
    sync.receive("go")


@workflow(name="attributes.parent")
async def parent() -> None:
    await start(waits, id="child", attributes={"customer": "child"}, tags=["small"], note="why not", detached=True)


@workflow(name="attributes.goes_on")
async def goes_on(rounds: int) -> None:
    await set_attributes({"round": rounds})
    if rounds:
        continue_as_new(rounds - 1)
    await receive("go")


@step(name="attributes.fails")
async def fails() -> None:
    raise LookupError("not there")


@workflow(name="attributes.failing")
async def failing() -> None:
    await set_attributes({"seen": 1})
    await fails()


def ids(engine: Engine, text: str) -> list[str]:
    return [run.id for run in engine.list(text)]


def test_what_is_given_at_the_start_comes_back_as_it_was(engine: TestEngine) -> None:
    run = engine.start(waits, id="a", attributes=GIVEN, tags=["vip", "eu", "vip"], note="by phone")
    info = run.info()
    assert info.attributes == GIVEN
    assert {name: type(value) for name, value in info.attributes.items()} == {
        name: type(value) for name, value in GIVEN.items()
    }
    assert info.tags == ["eu", "vip"]
    assert [(act.act, act.reason) for act in run.acts()] == [("note", "by phone")]
    assert "@" in run.acts()[0].by
    assert engine.start(waits, id="a", attributes={"customer": "other"}, tags=["x"]).info().attributes == GIVEN


def test_its_own_code_says_it_once_whatever_dies_in_between(engine: TestEngine) -> None:
    run = engine.start(says, id="a")
    engine.idle()
    assert (run.info().attributes, run.info().tags) == ({"amount": 7, "stage": "paid"}, ["eu", "vip"])
    run.set_attributes({"stage": "by hand"}, by="mia")  # a replay must not say again what was said before that
    engine.crash()
    engine.reopen()
    engine.idle()
    run = engine.get("a")
    assert run.info().attributes == {"amount": 7, "stage": "by hand"}
    run.send("go")
    engine.idle()
    assert run.result(timeout=10) == "done"
    assert (run.info().attributes, run.info().tags) == ({"stage": "sent"}, ["vip"])
    assert [(act.act, act.by, act.reason) for act in run.acts() if act.act != "takeover"] == [
        ("describe", "mia", "stage"),
        ("note", "its code", "on its way"),
    ]
    entries = [entry for entry in run.journal() if entry.kind == "described"]
    assert [entry.name for entry in entries] == ["stage, amount, tag eu, tag vip", "stage, -amount, -tag eu, note"]


def test_blocking_code_says_it_too(engine: TestEngine) -> None:
    run = engine.start(says_plainly, id="a")
    engine.idle()
    assert run.info().attributes == {"stage": "plain"}


def test_somebody_else_changes_it_also_when_the_run_has_ended(engine: TestEngine) -> None:
    run = engine.start(failing, id="a", tags=["new"])
    engine.idle()
    assert run.status == "failed"
    run.set_attributes(
        {"seen": None, "owner_team": "core"}, tags=["triaged"], remove_tags=["new"], note="disk", by="mia"
    )
    assert (run.info().attributes, run.info().tags) == ({"owner_team": "core"}, ["triaged"])
    assert [(act.act, act.by, act.reason) for act in run.acts()] == [
        ("note", "mia", "disk"),
        ("describe", "mia", "owner_team, -seen, tag triaged, -tag new"),
    ]
    with pytest.raises(InvalidArgument, match="say what is to be set"):
        run.set_attributes()
    run.delete()
    with pytest.raises(RunNotFound):
        run.set_attributes({"x": 1})


def test_chapters_rewinds_and_restarts_keep_what_was_said_and_children_have_their_own(engine: TestEngine) -> None:
    run = engine.start(goes_on, 2, id="long", attributes={"customer": "acme"})
    engine.idle()
    assert (run.info().chapter, run.info().attributes) == (3, {"customer": "acme", "round": 0})
    run.set_attributes({"customer": "by hand", "round": "by hand"})
    run.rewind(3)
    engine.idle()
    assert run.info().attributes == {"customer": "by hand", "round": 0}
    run.restart(1)
    engine.idle()
    assert (run.info().attributes, run.info().attempts) == ({"customer": "by hand", "round": 0}, 3)
    fork = run.fork(5, id="fork")
    assert fork.info().attributes["customer"] == "by hand"
    engine.start(parent, id="parent", attributes={"customer": "parent"})
    engine.idle()
    child = engine.get("child")
    assert (child.info().attributes, child.info().tags, child.info().parent) == (
        {"customer": "child"},
        ["small"],
        "parent",
    )
    assert [(act.act, act.by, act.reason) for act in child.acts()] == [("note", "its parent", "why not")]


def test_what_was_said_goes_with_its_run(engine: TestEngine) -> None:
    for name in ("deleted", "purged"):
        engine.start(failing, id=name, tags=["gone"], note="x")
    engine.idle()
    engine.get("deleted").delete()
    engine.advance(10)
    assert engine.purge(timedelta(seconds=1)) == 1
    left = "SELECT (SELECT count(*) FROM stepwell_attributes) + (SELECT count(*) FROM stepwell_tags)"
    assert engine.query(left) == [(0,)]


FOUND: dict[str, list[str]] = {
    'customer="acme"': ["b", "a"],
    "customer=acme": ["b", "a"],
    "customer=acme vip=true": ["a"],
    "customer=acme vip=false": [],
    "tag:vip": ["c", "a"],
    "tag:vip tag:eu": ["a"],
    "tag:vi": [],
    "amount=42": ["b", "a"],
    "amount=42.0": ["a"],
    'amount="42"': ["b"],
    "amount>42": ["c"],
    "amount>=42 amount<50": ["a"],
    "amount>-1e3": ["c", "a"],
    "due<2026-11-28T09:31Z": ["a"],
    "due>2026-11-28T09:31Z": [],
    "due>-2h": ["a"],
    "due<-2h": [],
    "due<-30m": ["a"],
    "customer>=b": ["c"],
    'customer="two words"': ["c"],
    r'customer="it\"s"': [],
    'customer=""': [],
    "nobody=1": [],
    "tag:vip status:waiting workflow:attributes.waits amount<100": ["c", "a"],
    "id:a customer=acme": ["a"],
    "id:a customer=other": [],
    "id:a* tag:eu": ["a"],
    "status:failed customer=acme": [],
}


def test_runs_are_found_by_what_was_said_of_them(engine: TestEngine) -> None:
    due = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
    engine.start(waits, id="a", attributes=GIVEN, tags=["vip", "eu"])
    engine.start(waits, id="b", attributes={"customer": "acme", "amount": "42", "vip": 1, "due": "2026-11-28"})
    engine.start(waits, id="c", attributes={"customer": "two words", "amount": 50}, tags=["vip"])
    engine.idle()
    engine.clock.set_floor(microseconds_of(due + timedelta(hours=1)))
    assert {text: ids(engine, text) for text in FOUND} == FOUND
    assert {text: sum(engine.counts(text).values()) for text in FOUND} == {text: len(FOUND[text]) for text in FOUND}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("", 1, "is a letter, then letters"),
        ("1st", 1, "is a letter, then letters"),
        ("two words", 1, "is a letter, then letters"),
        ("a" * 65, 1, "at most 64 in all"),
        ("status", "x", "which filters call a fact"),
        ("tag", "x", "which filters call a fact"),
        ("x", 2**63, "at most 64 bits"),
        ("x", float("nan"), "must be a finite number"),
        ("x", float("inf"), "must be a finite number"),
        ("x", "a" * 501, "and may have 500"),
        ("x", "\ud800", "lone surrogates"),
        ("x", "a\0b", "NUL"),
        ("x", datetime(2026, 1, 1), "needs a time zone"),  # noqa: DTZ001 - the subject
        ("x", [1], "must be a str, an int"),
        ("x", b"bytes", "must be a str, an int"),
        ("x", Colour.RED, "must be a str, an int"),
        ("x", Number(1), "must be a str, an int"),
    ],
)
def test_an_attribute_that_nobody_could_look_for_is_refused(name: Any, value: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        described({name: value})


REFUSED: list[Any] = [
    {"attributes": [("a", 1)]},
    {"attributes": {f"a{number}": 1 for number in range(65)}},
    {"tags": "vip"},
    {"tags": [1]},
    {"tags": ["two words"]},
    {"tags": ["a:b"]},
    {"tags": [""]},
    {"tags": ["a" * 65]},
    {"note": ""},
    {"note": "a" * 2001},
    {"note": 3},
]


def test_what_is_no_attributes_tags_or_note_is_refused_before_anything_is_written(engine: TestEngine) -> None:
    for options in REFUSED:
        with pytest.raises(InvalidArgument):
            engine.start(waits, id="a", **options)
    assert not engine.list()


def test_info_says_where_a_run_stands_and_what_it_was_given_and_a_listing_reads_no_payloads(engine: TestEngine) -> None:
    engine.queue(MAILS)
    run = engine.start(goes_on, 0, id="a", queue=MAILS, partition="acme", priority=3, dedup="one")
    engine.idle()
    engine.advance(5)
    info = run.info()
    assert (info.queue, info.partition, info.priority, info.dedup) == ("attributes.mails", "acme", 3, "one")
    assert (info.input, info.result, info.parent, info.attempts) == ({"args": [0]}, None, None, 1)
    assert (info.waited_seconds, info.took_seconds) == (0.0, None)
    run.send("go")
    engine.idle()
    assert run.info().took_seconds == 5.0
    (listed,) = engine._session.reads.infos("id:a")
    assert "input" not in repr(listed).replace("input=UNSET", "")


STARTS: list[Callable[[AsyncEngine], Any]] = [
    lambda engine: engine.start(waits, id="a", attributes=GIVEN, tags=["vip"]),
    lambda engine: engine.start_many(waits, [()], ids=["a"], attributes=GIVEN, tags=["vip"]),
]


@pytest.mark.parametrize("begin", STARTS)
def test_async_code_says_the_same(database: Path, begin: Callable[[AsyncEngine], Any]) -> None:
    async def main() -> None:
        async with AsyncEngine(database, workflows=[]) as engine:
            await begin(engine)
            run = await engine.get("a")
            await run.set_attributes({"amount": 43}, note="one more", by="mia")
            assert (await run.info()).attributes == {**GIVEN, "amount": 43}
            assert [found.id for found in await engine.list("amount=43 tag:vip")] == ["a"]
            assert [act.reason for act in await run.acts()] == ["one more", "amount"]

    asyncio.run(main())


def test_a_transaction_says_it_if_it_commits(database: Path) -> None:
    with Engine(database, workflows=[]) as engine:
        with engine.transaction() as tx:
            tx.start(waits, id="a", attributes=GIVEN, tags=["vip"], note="with it")
        with pytest.raises(InvalidArgument), engine.transaction() as tx:
            tx.start(waits, id="b", attributes={**GIVEN, "status": "x"})
        assert engine.get("a").info().attributes == GIVEN
        assert ids(engine, "customer=acme") == ["a"]
