"""Engine time is anchored to the wall clock once, is steady afterwards, and knows how far apart the two are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepwell import InvalidArgument
from stepwell.model import clock as clocks
from stepwell.model.clock import SystemClock, datetime_of, engine_time, microseconds_of, to_seconds
from stepwell.model.retry import MAX_DURATION_SECONDS
from stepwell.testing import VirtualClock


@dataclass
class Machine:
    """A machine's two clocks, in nanoseconds: `steady` counts from its start, `wall` from the epoch."""

    steady: int = 5_000_000_000
    wall: int = 1_700_000_000_000_000_000
    CLOCK_MONOTONIC: int = 0

    def clock_gettime_ns(self, _which: int) -> int:
        return self.steady

    def time_ns(self) -> int:
        return self.wall

    def pass_(self, nanoseconds: int) -> None:
        self.steady += nanoseconds
        self.wall += nanoseconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(clocks, "time", machine)
    return machine


def test_engine_time_begins_with_the_wall_clock_and_then_passes_whatever_becomes_of_that(machine: Machine) -> None:
    clock = SystemClock(machine.time_ns)
    began = machine.wall // 1000
    assert clock.now() == began
    machine.pass_(7_000)
    assert clock.now() == began + 7
    machine.wall -= 10**18
    assert clock.now() == began + 7


def test_of_three_readings_the_one_during_which_least_time_passed_is_believed(machine: Machine) -> None:
    passed = iter([(40_000, 9_000), (2_000, 4_000), (30_000, 20_000)])

    def wall() -> int:
        before, after = next(passed)
        machine.pass_(before)
        read = machine.wall
        machine.pass_(after)
        return read

    # In the middle of a reading of 6 µs, of which 2 have passed when the wall clock is read, it is taken for 1 µs less.
    clock = SystemClock(wall)
    assert clock.now() == machine.wall // 1000 - 1
    assert next(passed, None) is None


@pytest.mark.parametrize(("behind", "moved"), [(-5, 0), (-1, 0), (0, 0), (1, 1), (3_600_000_000, 3_600_000_000)])
def test_a_floor_moves_the_clock_forward_exactly_to_it_and_never_back(
    machine: Machine, behind: int, moved: int
) -> None:
    clock = SystemClock(machine.time_ns)
    began = clock.now()
    clock.set_floor(began + behind)
    assert clock.now() == began + moved


def test_workers_of_one_store_share_the_anchor_that_they_agree_on(machine: Machine) -> None:
    offered: list[int] = []

    def agree(offset: int) -> int:
        offered.append(offset)
        return offset + 9_000

    clock = SystemClock.shared(agree, machine.time_ns, machine.wall // 1000 + 50)
    assert offered == [machine.wall + 50_000 - machine.steady]
    assert clock.now() == machine.wall // 1000 + 59


@pytest.mark.parametrize(
    ("after", "seconds"), [(-2_000_000, 0.0), (-1, 0.0), (0, 0.0), (1, 0.000001), (2_500_000, 2.5)]
)
def test_the_time_until_a_moment_is_told_in_seconds_and_is_never_negative(
    machine: Machine, after: int, seconds: float
) -> None:
    clock = SystemClock(machine.time_ns)
    assert clock.seconds_until(clock.now() + after) == seconds


@pytest.mark.parametrize(
    ("moved", "ahead"),
    [
        (0, 0),
        (99_999_999, 0),
        (-99_999_000, 0),
        (100_000_000, -100_000),
        (-100_000_000, 100_000),
        (-3_600_000_000_000, 3_600_000_000),
    ],
)
def test_clocks_that_differ_by_less_than_a_tenth_of_a_second_are_taken_for_equal(
    machine: Machine, moved: int, ahead: int
) -> None:
    clock = SystemClock(machine.time_ns)
    machine.wall += moved
    assert clock.ahead() == ahead
    assert engine_time(clock, 1_000) == 1_000 + ahead


@pytest.mark.parametrize(("moved", "ahead"), [(99_999_000, 0), (100_000_000, -100_000), (-100_000_000, 100_000)])
def test_a_date_is_reckoned_by_the_clock_that_the_callers_code_sees(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, moved: int, ahead: int
) -> None:
    clock = SystemClock(lambda: 1_700_000_000_000_000_000)
    monkeypatch.setattr(machine, "time_ns", lambda: 1_700_000_000_000_000_000 + moved)
    assert engine_time(clock, 1_000) == 1_000 + ahead


def test_a_clock_of_a_test_has_dates_of_its_own(machine: Machine) -> None:
    machine.wall = 0
    assert engine_time(VirtualClock(), 123) == 123


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (0, 0.0),
        (1, 1.0),
        (0.5, 0.5),
        (MAX_DURATION_SECONDS, MAX_DURATION_SECONDS),
        (timedelta(0), 0.0),
        (timedelta(1), 86_400.0),
    ],
)
def test_durations_are_seconds_or_timedeltas_from_0_to_100_years(duration: Any, seconds: float) -> None:
    found = to_seconds(duration, "it")
    assert (found, type(found)) == (seconds, float)


@pytest.mark.parametrize(
    "duration",
    [-1, -1e-9, MAX_DURATION_SECONDS * 1.001, 10**400, float("nan"), float("inf"), timedelta(-1), timedelta.max],
)
def test_durations_beyond_that_are_refused(duration: Any) -> None:
    with pytest.raises(InvalidArgument, match="it must be between 0 seconds and 100 years"):
        to_seconds(duration, "it")


@pytest.mark.parametrize("duration", [True, False, "1", None, 1j])
def test_what_is_no_duration_is_refused(duration: Any) -> None:
    with pytest.raises(InvalidArgument, match="it must be seconds or a timedelta, not"):
        to_seconds(duration, "it")


@pytest.mark.parametrize("at", [0, 1, -1, 1_700_000_000_123_456, 253_402_300_799_999_999])
def test_dates_are_exact_to_the_microsecond(at: int) -> None:
    when = datetime_of(at)
    assert when.tzinfo is UTC
    assert microseconds_of(when) == at


def test_the_epoch_is_the_unix_one() -> None:
    assert datetime_of(0) == datetime(1970, 1, 1, tzinfo=UTC)
