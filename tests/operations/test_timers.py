"""Durable timers: never early, late only by downtime, exact to the microsecond, however the clock is treated."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest

from stepwell import Engine, InvalidArgument, StepwellError, now, receive, sleep_until, step, sync, workflow
from stepwell.testing import TestEngine, VirtualClock

executed: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step
def note(what: str) -> None:
    executed.append(what)


@workflow
async def naps(*seconds: float) -> list[datetime]:
    found = []
    for each in seconds:
        await asyncio.sleep(each)
        note(str(each))
        found.append(now())
    return found


@workflow
async def waits_until(when: datetime) -> datetime:
    await sleep_until(when)
    return now()


def test_a_timer_fires_at_its_time_and_not_a_microsecond_before(engine: TestEngine) -> None:
    started_at = engine.clock.time
    run = engine.start(naps, 3600.25)
    engine.advance(3600.249999)
    assert run.status == "waiting"
    assert executed == []
    engine.advance(0.000001)
    assert run.result(60) == [started_at + timedelta(seconds=3600.25)]


def test_durations_are_not_rounded(engine: TestEngine) -> None:
    durations = (0.000001, 0.0015, 0.1, 1.75, 59.999999)
    started_at = engine.clock.time
    run = engine.start(naps, *durations)
    engine.advance(120)
    expected, at = [], started_at
    for duration in durations:
        at += timedelta(seconds=duration)
        expected.append(at)
    assert run.result(60) == expected


def test_years_pass_in_no_time(engine: TestEngine) -> None:
    started_at = engine.clock.time
    run = engine.start(naps, *[365 * 24 * 3600] * 80)
    engine.advance(timedelta(days=365 * 80))
    assert run.result(60)[-1] == started_at + timedelta(days=365 * 80)


def test_timers_fire_in_the_order_of_their_times_whatever_the_order_of_setting(engine: TestEngine) -> None:
    @workflow
    async def many() -> list[int]:
        order: list[int] = []

        async def one(number: int) -> None:
            await asyncio.sleep(number)
            order.append(number)

        await asyncio.gather(*(one(number) for number in (5, 1, 4, 2, 3, 0)))
        return order

    run = engine.start(many)
    engine.advance(10)
    assert run.result(60) == [0, 1, 2, 3, 4, 5]


def test_after_a_downtime_overdue_timers_fire_at_once_in_order(engine: TestEngine) -> None:
    @workflow
    async def many() -> list[int]:
        order: list[int] = []

        async def one(number: int) -> None:
            await asyncio.sleep(number)
            order.append(number)

        await asyncio.gather(*(one(number) for number in (5, 1, 4, 2, 3)))
        return order

    runs = [engine.start(many) for _ in range(3)]
    engine.idle()
    engine.crash()
    engine.clock.advance(1000)
    engine.reopen().idle()
    assert [run.result(60) for run in runs] == [[1, 2, 3, 4, 5]] * 3


def test_a_timer_goes_on_across_crashes_and_is_not_set_anew(engine: TestEngine) -> None:
    started_at = engine.clock.time
    run = engine.start(naps, 100)
    for _ in range(9):
        engine.advance(11)
        engine.crash()
        engine.reopen()
    assert run.status == "waiting"
    engine.advance(1)
    assert run.result(60) == [started_at + timedelta(seconds=100)]
    assert executed == ["100.0"]


def test_a_clock_that_was_set_back_between_two_runs_fires_no_timer_twice_and_none_early(engine: TestEngine) -> None:
    first = engine.start(naps, 10, 50)
    engine.advance(10)
    before = engine.clock.time
    engine.crash()
    engine.reopen(clock=VirtualClock(before - timedelta(days=400)))
    assert engine.clock.time >= before
    engine.advance(49)
    assert executed == ["10.0"]
    assert first.status == "waiting"
    engine.advance(1)
    found = first.result(60)
    assert found == sorted(found)
    assert executed == ["10.0", "50.0"]


def test_a_clock_that_was_set_forward_between_two_runs_fires_what_is_due_once(engine: TestEngine) -> None:
    run = engine.start(naps, 10, 50)
    engine.idle()
    later = engine.clock.time + timedelta(days=400)
    engine.crash()
    engine.reopen(clock=VirtualClock(later)).idle()
    assert executed == ["10.0"]
    engine.advance(50)
    assert run.result(60) == [later, later + timedelta(seconds=50)]
    assert executed == ["10.0", "50.0"]


def test_now_never_runs_backwards_in_a_run_even_if_the_clock_does(engine: TestEngine) -> None:
    @workflow
    async def looks() -> list[datetime]:
        found = []
        for _ in range(4):
            found.append(now())
            await receive("go on")
        return found

    run = engine.start(looks)
    for days in (0, 3, -300, 5):
        clock = VirtualClock(engine.clock.time + timedelta(days=days))
        engine.idle()
        engine.crash()
        engine.reopen(clock=clock)
        run.send("go on")
    found = run.result(60)
    assert found == sorted(found)


def test_sleep_until_waits_for_a_time_in_any_zone(engine: TestEngine) -> None:
    when = engine.clock.time + timedelta(days=2, microseconds=7)
    runs = [engine.start(waits_until, when.astimezone(timezone(timedelta(hours=hours)))) for hours in (-7, 0, 9)]
    engine.advance(timedelta(days=2, microseconds=6))
    assert {run.status for run in runs} == {"waiting"}
    engine.advance(0.000001)
    assert [run.result(60) for run in runs] == [when] * 3


def test_sleep_until_a_time_that_has_passed_returns_at_once(engine: TestEngine) -> None:
    assert engine.start(waits_until, datetime(1999, 1, 1, tzinfo=UTC)).result(60) == engine.clock.time


def test_sleep_until_needs_a_time_zone(engine: TestEngine) -> None:
    @workflow
    async def careless() -> None:
        await sleep_until(datetime(2030, 1, 1))  # noqa: DTZ001 - that is the mistake

    with pytest.raises(InvalidArgument, match="time zone"):
        engine.start(careless).result(60)


@pytest.mark.parametrize("seconds", [0, -5, float("-inf")])
def test_a_sleep_of_nothing_or_less_returns_without_a_timer_as_in_asyncio(engine: TestEngine, seconds: float) -> None:
    @workflow
    async def blinks() -> bool:
        await asyncio.sleep(seconds)
        return True

    run = engine.start(blinks)
    assert run.result(60)
    assert run.journal() == []


@pytest.mark.parametrize("seconds", [4e9, 1e300])
def test_a_sleep_of_centuries_is_refused_as_a_mistake_of_units(engine: TestEngine, seconds: float) -> None:
    @workflow
    async def hibernates() -> None:
        await asyncio.sleep(seconds)

    with pytest.raises(InvalidArgument, match="100 years") as caught:
        engine.start(hibernates, id="bear").result(60)
    assert "'bear'" in str(caught.value)
    assert f"{__file__}:" in str(caught.value)


@pytest.mark.parametrize("seconds", [4e9])
def test_a_timeout_of_centuries_is_refused_as_well(engine: TestEngine, seconds: float) -> None:
    @workflow
    async def hibernates() -> None:
        async with asyncio.timeout(seconds):
            await receive("never")

    with pytest.raises(InvalidArgument, match="100 years"):
        engine.start(hibernates).result(60)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 4e9, "5"])
def test_sync_sleep_refuses_what_is_no_duration(engine: TestEngine, seconds: Any) -> None:
    @workflow
    def dozes() -> None:
        sync.sleep(seconds)

    with pytest.raises(InvalidArgument):
        engine.start(dozes).result(60)


def test_a_timer_that_was_cancelled_does_not_wake_the_run(engine: TestEngine) -> None:
    @workflow
    async def changes_its_mind() -> str:
        task = asyncio.create_task(asyncio.sleep(100))
        await asyncio.sleep(1)
        task.cancel()
        return str(await receive("word"))

    run = engine.start(changes_its_mind)
    engine.advance(1)
    assert run.info().wake_at is None
    engine.advance(1000)
    run.send("word", "hello")
    assert run.result(60) == "hello"


def test_a_timeout_is_a_durable_timer(engine: TestEngine) -> None:
    @workflow
    async def limits() -> str:
        try:
            async with asyncio.timeout(3600):
                await receive("never")
        except TimeoutError:
            return "timeout"
        return "message"

    run = engine.start(limits)
    engine.advance(1800)
    engine.crash()
    engine.reopen()
    engine.advance(1799)
    assert run.status == "waiting"
    engine.advance(1)
    assert run.result(60) == "timeout"


def test_the_real_clock_fires_no_timer_early(database: Any) -> None:
    with Engine(database) as engine:
        runs = [engine.start(naps, 0.01, 0.002, 0.03) for _ in range(20)]
        for run in runs:
            times = [run.info().started_at, *run.result(60)]
            for (earlier, later), pause in zip(pairwise(times), (0.01, 0.002, 0.03), strict=True):
                assert earlier is not None
                assert later is not None
                assert later - earlier >= timedelta(seconds=pause)


def test_sleep_until_outside_of_a_workflow_is_refused() -> None:
    with pytest.raises(StepwellError, match="outside"):
        asyncio.run(sleep_until(datetime.now(UTC)))
