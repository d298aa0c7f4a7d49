"""Schedules, through the API, on a clock that tests move."""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    Engine,
    Every,
    InvalidArgument,
    PermanentError,
    Queue,
    Schedule,
    ScheduleNotFound,
    step,
    sync,
    workflow,
)
from stepwell.model.schedule import Overlap
from stepwell.testing import TestEngine, VirtualClock

START = datetime(2024, 1, 1, 12, tzinfo=UTC)


@workflow(name="schedules.note")
def note(word: str = "") -> str:
    return f"{word}{sync.scheduled_at()}"


@workflow(name="schedules.hold")
def hold() -> str:
    return sync.receive("go", str)


@workflow(name="schedules.clings")
async def clings() -> None:
    try:
        await stepwell.receive("go", str)
    finally:
        await stepwell.receive("go", str)


@workflow(name="schedules.fail")
def fail_on_request() -> str:
    word = sync.receive("go", str)
    if word == "fail":
        raise ValueError(word)
    return word


OUTSIDE = {"down": False}


@step(name="schedules.visit")
def visit() -> None:
    if OUTSIDE["down"]:
        raise PermanentError("it is down")


@workflow(name="schedules.depends")
def depends() -> str:
    visit()
    return sync.receive("go", str)


@workflow(name="schedules.handed")
async def handed() -> str:
    first = await stepwell.last_result(str), await stepwell.last_failure()
    assert first == (await stepwell.last_result(str), await stepwell.last_failure())
    word = await stepwell.receive("go", str)
    if word == "fail":
        raise ValueError("it failed")
    return f"{word} after {first[0]} and {first[1]}"


@pytest.fixture(name="engine")
def _engine(tmp_path: Path) -> Iterator[TestEngine]:
    with TestEngine(tmp_path / "s.db") as engine:
        yield engine


def ids(engine: Engine, prefix: str) -> list[str]:
    return sorted(run.id for run in engine.list(id_prefix=prefix, limit=10_000))


def outcomes(engine: Engine, name: str) -> list[tuple[str, str]]:
    return [(f"{tick.tick:%H:%M}", tick.outcome) for tick in engine.get_schedule(name).info().recent]


def test_each_tick_starts_a_run_that_is_called_after_it(engine: TestEngine) -> None:
    engine.schedule(note, "at ", id="tens", cron="*/10 * * * *")
    engine.advance(1800)
    assert ids(engine, "tens@") == [f"tens@2024-01-01T12:{minute}:00Z" for minute in (10, 20, 30)]
    assert engine.get("tens@2024-01-01T12:20:00Z").result() == "at 2024-01-01 12:20:00+00:00"
    assert engine.get_schedule("tens").info().started == 3


def test_info_names_the_runs_that_go_on_now(engine: TestEngine) -> None:
    schedule = engine.schedule(hold, id="held", cron="*/10 * * * *")
    engine.advance(600)
    assert schedule.info().running == ["held@2024-01-01T12:10:00Z"]
    engine.send("held@2024-01-01T12:10:00Z", "go", "on")
    engine.idle()
    assert schedule.info().running == []


def test_a_schedule_outlives_crashes_and_clocks_that_are_set_back(engine: TestEngine) -> None:
    engine.schedule(note, id="tens", cron="*/10 * * * *")
    engine.advance(1500)
    engine.crash()
    engine.reopen(clock=VirtualClock(START - timedelta(hours=3)))
    engine.idle()
    assert len(ids(engine, "tens@")) == 2
    engine.advance(600)
    assert len(ids(engine, "tens@")) == 3


def test_info_shows_the_next_ten_ticks_and_the_last_ten(engine: TestEngine) -> None:
    schedule = engine.schedule(note, id="tens", cron="*/10 * * * *", every=3600)
    engine.advance(3 * 3600)
    info = schedule.info()
    assert [tick.tick for tick in info.recent] == [START + timedelta(minutes=10 * n) for n in range(9, 19)]
    assert info.next == [START + timedelta(hours=3, minutes=10 * n) for n in range(1, 11)]
    assert info.due_at == info.next[0]
    assert info.every == [(3600.0, 0.0)]


def test_the_same_schedule_again_changes_nothing_and_another_one_goes_on_from_now(engine: TestEngine) -> None:
    engine.schedule(note, id="tens", cron="*/10 * * * *")
    before = engine.get_schedule("tens").info()
    engine.advance(60)
    engine.schedule(note, id="tens", cron="*/10 * * * *")
    assert engine.get_schedule("tens").info().acts == before.acts
    engine.advance(1200)
    engine.schedule(note, "x", id="tens", cron="* * * * *")
    engine.idle()
    assert ids(engine, "tens@")[-1] == "tens@2024-01-01T12:20:00Z"
    engine.advance(60)
    assert engine.get(ids(engine, "tens@")[-1]).result() == "x2024-01-01 12:22:00+00:00"


# --- overlap ----------------------------------------------------------------------------------------------------------


def test_skip_leaves_ticks_out_while_a_run_is_under_way(engine: TestEngine) -> None:
    engine.schedule(hold, id="held", cron="*/10 * * * *")
    engine.advance(1800)
    assert outcomes(engine, "held") == [("12:10", "started"), ("12:20", "skipped"), ("12:30", "skipped")]
    engine.send("held@2024-01-01T12:10:00Z", "go", "on")
    engine.advance(600)
    assert ids(engine, "held@")[-1] == "held@2024-01-01T12:40:00Z"


@pytest.mark.parametrize("crash", [False, True])
def test_buffer_one_lets_one_tick_wait_and_starts_it_when_the_run_has_ended(engine: TestEngine, crash: bool) -> None:
    engine.schedule(hold, id="held", cron="*/10 * * * *", overlap="buffer_one")
    engine.advance(1800)
    assert outcomes(engine, "held") == [("12:10", "started"), ("12:20", "buffered"), ("12:30", "skipped")]
    if crash:
        engine.crash()
        engine.reopen()
    engine.send("held@2024-01-01T12:10:00Z", "go", "on")
    engine.idle()
    assert ids(engine, "held@") == ["held@2024-01-01T12:10:00Z", "held@2024-01-01T12:20:00Z"]


def test_buffer_all_lets_all_ticks_wait_and_starts_one_after_the_other(engine: TestEngine) -> None:
    engine.schedule(hold, id="held", cron="*/10 * * * *", overlap="buffer_all", end=START + timedelta(minutes=50))
    engine.advance(3600)
    for minute in (10, 20, 30, 40):
        assert ids(engine, "held@")[-1] == f"held@2024-01-01T12:{minute}:00Z"
        engine.send(f"held@2024-01-01T12:{minute}:00Z", "go", "on")
        engine.idle()
    assert len(ids(engine, "held@")) == 4
    assert engine.get_schedule("held").info().is_over


def test_cancel_running_cancels_and_starts_when_that_has_ended(engine: TestEngine) -> None:
    engine.schedule(hold, id="held", cron="*/10 * * * *", overlap="cancel_running")
    engine.advance(1800)
    assert [engine.get(run).status for run in ids(engine, "held@")] == ["cancelled", "cancelled", "waiting"]


def test_terminate_running_ends_the_run_without_its_code_and_starts_at_once(engine: TestEngine) -> None:
    engine.schedule(clings, id="clung", cron="*/10 * * * *", overlap="terminate_running")
    engine.advance(1800)
    runs = [engine.get(run) for run in ids(engine, "clung@")]
    assert [run.status for run in runs] == ["cancelled", "cancelled", "waiting"]
    assert [[(act.act, act.by) for act in run.acts()] for run in runs] == [
        *([[("terminate", "schedule 'clung'")]] * 2),
        [],
    ]
    engine.crash()
    engine.reopen()
    engine.advance(600)
    assert [engine.get(run).status for run in ids(engine, "clung@")] == [*(["cancelled"] * 3), "waiting"]


def test_allow_starts_runs_beside_each_other(engine: TestEngine) -> None:
    engine.schedule(hold, id="held", cron="*/10 * * * *", overlap="allow")
    engine.advance(1800)
    assert [engine.get(run).status for run in ids(engine, "held@")] == ["waiting"] * 3


# --- downtime ---------------------------------------------------------------------------------------------------------


def test_what_was_due_in_a_downtime_is_done_and_what_is_too_far_back_is_logged(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.schedule(note, id="tens", cron="*/10 * * * *", catch_up=1800, overlap="allow")
    engine.crash()
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        engine.reopen(clock=VirtualClock(START + timedelta(hours=1, seconds=1)))
        engine.idle()
    assert ids(engine, "tens@") == [f"tens@2024-01-01T{time}:00Z" for time in ("12:40", "12:50", "13:00")]
    info = engine.get_schedule("tens").info()
    assert (info.missed, info.recent[0].outcome) == (3, "missed")
    assert "missed 3 ticks, because no worker was there" in caplog.text
    assert "from 2024-01-01T12:10:00Z to 2024-01-01T12:30:00Z" in caplog.text


def test_of_the_ticks_of_a_downtime_the_last_one_is_what_terminate_running_starts(engine: TestEngine) -> None:
    engine.schedule(clings, id="late", cron="*/10 * * * *", overlap="terminate_running")
    engine.advance(600)
    engine.crash()
    engine.reopen(clock=VirtualClock(START + timedelta(minutes=41)))
    engine.idle()
    assert [engine.get(run).status for run in ids(engine, "late@")] == ["cancelled", "waiting"]
    outcomes_of = [("12:10", "started"), ("12:20", "skipped"), ("12:30", "skipped"), ("12:40", "started")]
    assert outcomes(engine, "late") == outcomes_of
    info = engine.get_schedule("late").info()
    assert (info.started, info.skipped) == (2, 2)


def test_years_of_missed_seconds_are_passed_over_at_once(engine: TestEngine) -> None:
    engine.schedule(note, id="seconds", cron="* * * * * *", catch_up=0)
    engine.crash()
    engine.reopen(clock=VirtualClock(START + timedelta(days=3000)))
    engine.idle()
    info = engine.get_schedule("seconds").info()
    assert info.missed == 10_000
    assert info.next[0] > START + timedelta(days=3000)


@pytest.mark.parametrize(("hours", "runs"), [(47, 1), (24, 1), (2, 1)])
def test_after_a_night_off_the_nightly_run_is_made_up_for_once(engine: TestEngine, hours: int, runs: int) -> None:
    engine.schedule(note, id="daily", cron="0 13 * * *")
    engine.crash()
    engine.reopen(clock=VirtualClock(START + timedelta(hours=hours)))
    engine.idle()
    assert len(ids(engine, "daily@")) == runs


# --- pause, trigger, backfill, delete ---------------------------------------------------------------------------------


def test_a_paused_schedule_starts_nothing_says_why_and_goes_on_with_the_next_tick(engine: TestEngine) -> None:
    schedule = engine.schedule(note, id="tens", cron="*/10 * * * *")
    schedule.pause(note="moving house", by="ann")
    engine.advance(3600)
    info = schedule.info()
    assert (info.paused, info.note, info.due_at) == (True, "moving house", None)
    assert info.next[0] == START + timedelta(minutes=70)
    schedule.unpause(by="bob")
    engine.advance(600)
    assert ids(engine, "tens@") == ["tens@2024-01-01T13:10:00Z"]
    assert [(act.act, act.by, act.note) for act in schedule.info().acts][1:] == [
        ("pause", "ann", "moving house"),
        ("unpause", "bob", None),
    ]


def test_a_trigger_runs_now_also_while_it_is_paused_and_takes_no_tick_away(engine: TestEngine) -> None:
    schedule = engine.schedule(note, id="tens", cron="*/10 * * * *", limit=1)
    schedule.pause()
    run = schedule.trigger()
    assert (run.id, run.result()) == ("tens@2024-01-01T12:00:00Z+trigger", "2024-01-01 12:00:00+00:00")
    with pytest.raises(InvalidArgument, match="this very moment"):
        schedule.trigger()
    schedule.unpause()
    engine.advance(600)
    assert ids(engine, "tens@2024-01-01T12:10") == ["tens@2024-01-01T12:10:00Z"]


@pytest.mark.parametrize("crash", [False, True])
def test_a_backfill_does_a_range_one_after_the_other_and_nothing_twice(engine: TestEngine, crash: bool) -> None:
    schedule = engine.schedule(hold, id="held", cron="*/10 * * * *", overlap="allow")
    engine.advance(600)
    schedule.pause()
    schedule.backfill(START - timedelta(minutes=10), START + timedelta(minutes=10))
    engine.idle()
    if crash:
        engine.crash()
        engine.reopen()
        engine.idle()
    assert ids(engine, "held@") == ["held@2024-01-01T12:10:00Z"]  # which has not ended
    engine.send("held@2024-01-01T12:10:00Z", "go", "on")
    engine.idle()
    for time in ("11:50", "12:00"):
        engine.send(f"held@2024-01-01T{time}:00Z", "go", "on")
        engine.idle()
    assert len(ids(engine, "held@")) == 3
    schedule.backfill(START - timedelta(minutes=10), START + timedelta(minutes=10), overlap="allow")
    engine.idle()
    assert len(ids(engine, "held@")) == 3
    assert outcomes(engine, "held")[-2:] == [("11:50", "existing"), ("12:00", "existing")]
    assert schedule.info().backfills == []


def test_a_pause_holds_up_the_backfills_that_were_asked_for_before_it(engine: TestEngine) -> None:
    schedule = engine.schedule(hold, id="held", cron="*/10 * * * *")
    schedule.backfill(START - timedelta(minutes=20), START)
    engine.idle()
    schedule.pause()
    schedule.backfill(START - timedelta(minutes=60), START - timedelta(minutes=50))  # and this one is wanted now
    engine.send("held@2024-01-01T11:40:00Z", "go", "on")
    engine.idle()
    assert ids(engine, "held@") == ["held@2024-01-01T11:00:00Z", "held@2024-01-01T11:40:00Z"]
    engine.send("held@2024-01-01T11:00:00Z", "go", "on")
    engine.idle()
    assert schedule.info().backfills == [(START - timedelta(minutes=10), START)]
    schedule.unpause()
    engine.idle()
    assert ids(engine, "held@")[-1] == "held@2024-01-01T11:50:00Z"


@pytest.mark.parametrize("by", ["hand", "a failure"])
def test_a_pause_holds_up_a_tick_of_a_backfill_that_waits_for_a_run(engine: TestEngine, by: str) -> None:
    schedule = engine.schedule(fail_on_request, id="held", cron="*/10 * * * *", pause_on_failure=by != "hand")
    schedule.backfill(START - timedelta(minutes=20), START, overlap="buffer_one")
    engine.idle()
    assert outcomes(engine, "held") == [("11:40", "started"), ("11:50", "buffered")]
    if by == "hand":
        schedule.pause()
    engine.send("held@2024-01-01T11:40:00Z", "go", "on" if by == "hand" else "fail")
    engine.idle()
    assert schedule.info().paused
    assert ids(engine, "held@") == ["held@2024-01-01T11:40:00Z"]
    assert [start for start, _ in schedule.info().backfills] == [START - timedelta(minutes=10)]
    engine.crash()
    engine.reopen()
    engine.idle()
    engine.get_schedule("held").unpause()
    engine.idle()
    assert ids(engine, "held@") == ["held@2024-01-01T11:40:00Z", "held@2024-01-01T11:50:00Z"]
    assert outcomes(engine, "held") == [("11:40", "started"), ("11:50", "started")]
    assert engine.get_schedule("held").info().backfills == []


def test_a_long_backfill_with_allow_is_done_in_pieces(engine: TestEngine) -> None:
    schedule = engine.schedule(note, id="tens", cron="*/10 * * * *")
    schedule.backfill(START - timedelta(minutes=10 * 250), START, overlap="allow")
    engine.idle()
    assert len(ids(engine, "tens@")) == 250


def test_a_deleted_schedule_starts_nothing_and_its_runs_go_on(engine: TestEngine) -> None:
    schedule = engine.schedule(hold, id="held", cron="*/10 * * * *", overlap="buffer_all")
    engine.advance(1200)
    schedule.delete()
    engine.send("held@2024-01-01T12:10:00Z", "go", "on")
    engine.advance(3600)
    assert [engine.get(run).status for run in ids(engine, "held@")] == ["completed"]
    for ask in (schedule.info, schedule.pause, schedule.trigger, schedule.delete):
        with pytest.raises(ScheduleNotFound, match="held"):
            ask()


def test_a_limit_ends_a_schedule_and_a_higher_one_lets_it_go_on(engine: TestEngine) -> None:
    schedule = engine.schedule(note, id="tens", cron="*/10 * * * *", limit=2)
    engine.advance(3600)
    assert (len(ids(engine, "tens@")), schedule.info().is_over) == (2, True)
    schedule.change(limit=3)
    engine.idle()
    assert (len(ids(engine, "tens@")), schedule.info().is_over) == (3, True)


@pytest.mark.parametrize("overlap", ["buffer_one", "buffer_all", "cancel_running"])
def test_ticks_that_wait_for_a_run_count_towards_the_limit(engine: TestEngine, overlap: Overlap) -> None:
    schedule = engine.schedule(hold, id="held", cron="*/10 * * * *", limit=2, overlap=overlap)
    for _ in range(5):
        engine.advance(1800)
        for run in engine.list(id_prefix="held@", status="waiting"):
            run.send("go", "on")
    engine.idle()
    info = schedule.info()
    assert (len(ids(engine, "held@")), info.started, info.is_over, info.buffered) == (2, 2, True, [])


def test_a_lower_limit_leaves_out_what_waits(engine: TestEngine) -> None:
    schedule = engine.schedule(hold, id="held", cron="*/10 * * * *", overlap="buffer_all")
    engine.advance(1800)
    schedule.change(limit=1)
    engine.send("held@2024-01-01T12:10:00Z", "go", "on")
    engine.advance(1800)
    info = schedule.info()
    assert (ids(engine, "held@"), info.buffered, info.skipped) == (["held@2024-01-01T12:10:00Z"], [], 2)


def test_a_run_that_was_brought_back_is_one_that_has_not_ended(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = engine.schedule(depends, id="d", cron="*/10 * * * *", pause_on_failure=True)
    monkeypatch.setitem(OUTSIDE, "down", True)
    engine.advance(600)
    run = engine.get("d@2024-01-01T12:10:00Z")
    assert (run.status, schedule.info().paused) == ("failed", True)
    OUTSIDE["down"] = False
    run.retry()
    schedule.unpause()
    engine.advance(600)
    assert outcomes(engine, "d") == [("12:10", "started"), ("12:20", "skipped")]
    run.send("go", "on")
    engine.advance(600)
    assert ids(engine, "d@")[1:] == ["d@2024-01-01T12:30:00Z"]


def test_a_run_that_was_brought_back_and_fails_again_pauses_its_schedule_again(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = engine.schedule(depends, id="d", cron="*/10 * * * *", pause_on_failure=True)
    monkeypatch.setitem(OUTSIDE, "down", True)
    engine.advance(600)
    schedule.unpause()
    engine.idle()
    assert not schedule.info().paused
    engine.advance(60)
    engine.get("d@2024-01-01T12:10:00Z").retry()
    engine.advance(540)
    assert (schedule.info().paused, ids(engine, "d@")) == (True, ["d@2024-01-01T12:10:00Z"])


def test_a_change_shows_the_next_ticks_and_leaves_the_rest(engine: TestEngine) -> None:
    schedule = engine.schedule(note, id="tens", cron="*/10 * * * *", exclude="20 * * * *")
    info = schedule.change(cron=["5 * * * *", "20 * * * *"])
    assert info.next[:2] == [START + timedelta(minutes=5), START + timedelta(minutes=65)]
    assert (info.exclude, len(info.next)) == (["20 * * * *"], 10)


# --- failures ---------------------------------------------------------------------------------------------------------


def test_pause_on_failure_pauses_at_the_failure_and_names_the_run(engine: TestEngine) -> None:
    schedule = engine.schedule(fail_on_request, id="f", cron="*/10 * * * *", pause_on_failure=True, overlap="allow")
    engine.advance(600)
    engine.send("f@2024-01-01T12:10:00Z", "go", "fail")
    engine.idle()
    info = schedule.info()
    assert (info.paused, info.note) == (True, "run 'f@2024-01-01T12:10:00Z' failed")
    engine.advance(3600)
    assert len(ids(engine, "f@")) == 1


def test_a_run_is_handed_the_last_result_and_the_last_failure(engine: TestEngine) -> None:
    engine.schedule(handed, id="h", cron="*/10 * * * *")
    for word in ("one", "fail", "three", "four"):
        engine.advance(600)
        engine.send(ids(engine, "h@")[-1], "go", word)
        engine.idle()
    engine.crash()
    engine.reopen()
    results = [engine.get(run) for run in ids(engine, "h@")]
    assert results[0].result() == "one after None and None"
    failed = "three after one after None and None and ValueError: it failed"
    assert results[2].result() == failed
    assert results[3].result() == f"four after {failed} and None"


# --- code -------------------------------------------------------------------------------------------------------------


def test_schedules_of_a_module_are_created_changed_and_removed_where_that_is_asked_for(engine: TestEngine) -> None:
    module = types.ModuleType("shop_schedules")
    vars(module).update(
        a=Schedule(note, "a", id="a", cron="@hourly"), b=Schedule(note, "b", id="b", cron="@daily"), c="no schedule"
    )
    engine.schedule(note, id="others", cron="@daily")
    assert engine.declare_schedules(module).created == ["a", "b"]
    assert engine.declare_schedules(module).unchanged == ["a", "b"]
    vars(module)["a"] = Schedule(note, "a", id="a", cron="@daily")
    del vars(module)["b"]
    found = engine.declare_schedules(module, remove=False)
    assert (found.changed, found.removed) == (["a"], [])
    assert engine.declare_schedules(module, remove=True).removed == ["b"]
    assert [schedule.id for schedule in engine.schedules()] == ["a", "others"]
    with pytest.raises(InvalidArgument, match="two schedules with the id 'x'"):
        engine.declare_schedules([Schedule(note, id="x", every=60), Schedule(note, id="x", every=90)], group="g")
    with pytest.raises(InvalidArgument, match="group"):
        engine.declare_schedules([Schedule(note, id="x", every=60)])


def test_schedules_of_a_module_may_stand_in_a_list(engine: TestEngine) -> None:
    module = types.ModuleType("shop.lists")
    one, two = (Schedule(note, id=name, cron="@daily") for name in ("one", "two"))
    vars(module).update(SCHEDULES=[one, two], again=(one,), other=[1, note])
    assert engine.declare_schedules(module).created == ["one", "two"]


def test_runs_of_a_schedule_can_stand_in_a_queue(engine: TestEngine) -> None:
    engine.schedule(hold, id="q", cron="*/10 * * * *", overlap="allow", queue=Queue("schedules.q", concurrency=1))
    engine.advance(1200)
    assert [engine.get(run).status for run in ids(engine, "q@")] == ["waiting", "pending"]
    assert engine.get_schedule("q").info().queue == "schedules.q"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cron": "0 25 * * *"}, "at character 3: hour is 0 to 23"),
        ({"cron": ["@daily", "x"]}, "cron 'x' is wrong"),
        ({"cron": 5}, "a cron expression is a string"),
        ({}, "at least one cron expression or interval"),
        ({"cron": "@daily", "zone": "Europe/Berlim"}, "no time zone 'Europe/Berlim'"),
        ({"every": 0.5}, "at least one second"),
        ({"every": "often"}, "an interval must be seconds or a timedelta"),
        ({"every": Every(60, phase=60)}, "phase"),
        ({"cron": "@daily", "exclude": "* * * * *"}, "would never tick"),
        ({"cron": "@daily", "end": START - timedelta(1)}, "would never tick"),
        ({"cron": "@daily", "start": datetime(2026, 1, 1)}, "start must be a datetime with a time zone"),  # noqa: DTZ001
        ({"cron": "@daily", "overlap": "maybe"}, "overlap must be one of 'skip'"),
        ({"cron": "@daily", "missing": "no"}, "missing must be one of"),
        ({"cron": "@daily", "repeated": None}, "repeated must be one of"),
        ({"cron": "@daily", "limit": 0}, "limit must be a whole number from 1 up"),
        ({"cron": "@daily", "pause_on_failure": 1}, "pause_on_failure must be True or False"),
        ({"cron": "@daily", "catch_up": -1}, "catch_up must be between 0"),
        ({"cron": "@daily", "jitter": "x"}, "jitter must be seconds"),
        ({"cron": "@daily", "crom": "x"}, "no option 'crom'"),
        ({"cron": "@daily", "priority": 1}, "need a queue"),
        ({"cron": "@daily", "id": ""}, "the id of a schedule must have 1"),
        ({"cron": "@daily", "id": "x" * 230}, "the id of a schedule"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused_before_anything_is_written(
    engine: TestEngine, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        engine.schedule(note, **{"id": "s", **options})
    assert engine.schedules() == []


def test_arguments_that_do_not_fit_and_changes_that_do_not_go_together_are_refused(engine: TestEngine) -> None:
    with pytest.raises(stepwell.DefinitionError):
        engine.schedule(note, 1, 2, 3, id="s", cron="@daily")  # type: ignore[call-arg, arg-type]
    schedule = engine.schedule(note, id="s", cron="@daily")
    before = schedule.info()
    wrong: list[dict[str, Any]] = [
        {},
        {"cron": ()},
        {"exclude": "* * * * *"},
        {"kwargs": {}},
        {"end": START},
        {"cron": "0 0 * *"},
    ]
    for options in wrong:
        with pytest.raises(InvalidArgument):
            schedule.change(**options)
    assert schedule.info() == before
    for start, end in ((START, START), (START, START + timedelta(1)), (START, None)):
        with pytest.raises(InvalidArgument):
            schedule.backfill(start, end)  # type: ignore[arg-type]
    with pytest.raises(ScheduleNotFound, match=r"is 's' meant"):
        engine.get_schedule("ss")


# --- several workers --------------------------------------------------------------------------------------------------


async def use_async_engine(path: Path) -> None:
    async with AsyncEngine(path) as engine:
        schedule = await engine.schedule(note, "x", id="s", cron="@daily")
        run = await schedule.trigger(note="now")
        assert (await run.result()).startswith("x")
        await schedule.pause(note="why")
        info = await schedule.info()
        assert (info.paused, info.note, info.acts[1].note) == (True, "why", "now")
        await schedule.unpause()
        assert len((await schedule.change(every=60)).next) == 10
        assert [each.id for each in await engine.schedules()] == ["s"]
        assert (await (await engine.get_schedule("s")).info()).id == "s"
        await schedule.backfill(datetime.now(UTC) - timedelta(minutes=5), datetime.now(UTC))
        assert (await engine.declare_schedules([Schedule(note, id="t", every=60)], group="g")).created == ["t"]
        assert (await engine.declare_schedules([], group="g", remove=True)).removed == ["t"]
        await schedule.delete()
        with pytest.raises(ScheduleNotFound):
            await schedule.info()


def test_the_async_engine_has_schedules_too(tmp_path: Path) -> None:
    asyncio.run(use_async_engine(tmp_path / "s.db"))


def test_a_client_makes_schedules_that_workers_heed(tmp_path: Path) -> None:
    clock = VirtualClock()
    with TestEngine(tmp_path / "s.db", clock=clock) as engine:
        engine.schedule("schedules.note", "by name ", id="named", every=60)
        engine.advance(60)
        assert engine.get("named@2024-01-01T12:01:00Z").result() == "by name 2024-01-01 12:01:00+00:00"
