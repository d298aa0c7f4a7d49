"""When schedules tick: a pure function of their calendar, also where clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import InvalidArgument
from stepwell.model.calendar import Calendar
from stepwell.model.calendar_spec import CalendarSpec, Interval, Repeated
from stepwell.model.clock import MICROSECONDS, datetime_of, microseconds_of
from stepwell.model.cron import cron_of
from stepwell.model.schedule import TickKind, run_id_of, tick_of

NEW_YEAR = datetime(2026, 1, 1)  # noqa: DTZ001 - hypothesis wants it without a zone
DAY = 86_400 * MICROSECONDS
BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
SANTIAGO, APIA = "America/Santiago", "Pacific/Apia"


def at(text: str) -> int:
    return microseconds_of(datetime.fromisoformat(text).astimezone(UTC))


def shown(ticks: list[int], zone: str) -> list[str]:
    return [datetime_of(tick).astimezone(ZoneInfo(zone)).isoformat() for tick in ticks]


def ticks_of(spec: CalendarSpec, start: str, end: str) -> list[str]:
    found = []
    for tick in Calendar(spec).ticks(at(start) - 1):
        if tick >= at(end):
            break
        found.append(tick)
    return shown(found, spec.zone)


#: A cron, from, to; and the ticks with `missing` shift and skip.
FORWARD = [
    pytest.param(
        BERLIN,
        "30 2 * * *",
        ("2026-03-28T00:00+01:00", "2026-03-31T00:00+02:00"),
        ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
        ["2026-03-28T02:30:00+01:00", "2026-03-30T02:30:00+02:00"],
        id="Berlin",
    ),
    pytest.param(
        NEW_YORK,
        "15 2 * * *",
        ("2026-03-08T00:00-05:00", "2026-03-10T00:00-04:00"),
        ["2026-03-08T03:00:00-04:00", "2026-03-09T02:15:00-04:00"],
        ["2026-03-09T02:15:00-04:00"],
        id="New York",
    ),
    pytest.param(
        LORD_HOWE,
        "15 2 * * *",
        ("2026-10-04T00:00+10:30", "2026-10-06T00:00+11:00"),
        ["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"],
        ["2026-10-05T02:15:00+11:00"],
        id="Lord Howe, by half an hour",
    ),
    pytest.param(
        SANTIAGO,
        "0 0 * * *",
        ("2026-09-05T00:00-04:00", "2026-09-08T00:00-03:00"),
        ["2026-09-05T00:00:00-04:00", "2026-09-06T01:00:00-03:00", "2026-09-07T00:00:00-03:00"],
        ["2026-09-05T00:00:00-04:00", "2026-09-07T00:00:00-03:00"],
        id="Santiago, at midnight",
    ),
    pytest.param(
        APIA,
        "0 12 * * *",
        ("2011-12-29T00:00-10:00", "2012-01-01T00:00+14:00"),
        ["2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"],
        ["2011-12-29T12:00:00-10:00", "2011-12-31T12:00:00+14:00"],
        id="Apia, a whole day",
    ),
    pytest.param(
        APIA,
        "0 3 24 9 *",
        ("2011-09-23T00:00-11:00", "2011-09-26T00:00-10:00"),
        ["2011-09-24T04:00:00-10:00"],
        [],
        id="Apia, an hour",
    ),
    pytest.param(
        BERLIN,
        "*/10 2 * * *",
        ("2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ["2026-03-29T03:00:00+02:00"],
        [],
        id="several at one moment are one",
    ),
    pytest.param(
        BERLIN,
        "0 2,3 * * *",
        ("2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ["2026-03-29T03:00:00+02:00"],
        ["2026-03-29T03:00:00+02:00"],
        id="one that is due at the moment of the change is no second one",
    ),
    pytest.param(
        BERLIN,
        "0 */2 * * *",
        ("2026-03-29T00:00+01:00", "2026-03-29T05:00+02:00"),
        ["2026-03-29T00:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"],
        ["2026-03-29T00:00:00+01:00", "2026-03-29T04:00:00+02:00"],
        id="every other hour",
    ),
    pytest.param(
        BERLIN,
        "30 30 2 * * *",
        ("2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ["2026-03-29T03:00:00+02:00"],
        [],
        id="with seconds",
    ),
]


@pytest.mark.parametrize(("zone", "cron", "between", "shifted", "skipped"), FORWARD)
def test_a_time_that_a_clock_leaves_out_is_at_the_change_or_not_at_all(
    zone: str, cron: str, between: tuple[str, str], shifted: list[str], skipped: list[str]
) -> None:
    spec = CalendarSpec(crons=(cron,), zone=zone)
    assert ticks_of(spec, *between) == shifted
    assert ticks_of(CalendarSpec(crons=(cron,), zone=zone, missing="skip"), *between) == skipped


#: A cron, from, to, the repeated time as it is first and last.
BACK = [
    pytest.param(
        BERLIN,
        "30 2 * * *",
        ("2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ["2026-10-25T02:30:00+02:00"],
        ["2026-10-25T02:30:00+01:00"],
        id="Berlin",
    ),
    pytest.param(
        NEW_YORK,
        "0,30 1 * * *",
        ("2026-11-01T00:00-04:00", "2026-11-02T00:00-05:00"),
        ["2026-11-01T01:00:00-04:00", "2026-11-01T01:30:00-04:00"],
        ["2026-11-01T01:00:00-05:00", "2026-11-01T01:30:00-05:00"],
        id="New York",
    ),
    pytest.param(
        LORD_HOWE,
        "45 1 * * *",
        ("2026-04-05T00:00+11:00", "2026-04-06T00:00+10:30"),
        ["2026-04-05T01:45:00+11:00"],
        ["2026-04-05T01:45:00+10:30"],
        id="Lord Howe, by half an hour",
    ),
    pytest.param(
        SANTIAGO,
        "59 23 4 4 *",
        ("2026-04-04T00:00-03:00", "2026-04-05T12:00-04:00"),
        ["2026-04-04T23:59:00-03:00"],
        ["2026-04-04T23:59:00-04:00"],
        id="Santiago, before midnight",
    ),
    pytest.param(
        APIA,
        "30 3 2 4 *",
        ("2011-04-02T00:00-10:00", "2011-04-03T00:00-11:00"),
        ["2011-04-02T03:30:00-10:00"],
        ["2011-04-02T03:30:00-11:00"],
        id="Apia",
    ),
    pytest.param(
        BERLIN,
        "15 30 2 * * *",
        ("2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ["2026-10-25T02:30:15+02:00"],
        ["2026-10-25T02:30:15+01:00"],
        id="with seconds",
    ),
]


@pytest.mark.parametrize(("zone", "cron", "between", "first", "last"), BACK)
def test_a_time_that_a_clock_shows_twice_is_taken_once_unless_both_are_asked_for(
    zone: str, cron: str, between: tuple[str, str], first: list[str], last: list[str]
) -> None:
    assert ticks_of(CalendarSpec(crons=(cron,), zone=zone), *between) == first
    assert ticks_of(CalendarSpec(crons=(cron,), zone=zone, repeated="first"), *between) == first
    assert ticks_of(CalendarSpec(crons=(cron,), zone=zone, repeated="last"), *between) == last
    assert ticks_of(CalendarSpec(crons=(cron,), zone=zone, repeated="both"), *between) == first + last


@pytest.mark.parametrize(("repeated", "day"), [("last", "2026-10-25"), ("both", "2026-10-25"), ("first", "2026-10-26")])
def test_who_looks_during_the_repeated_hour_finds_what_comes_again_in_it(repeated: Repeated, day: str) -> None:
    spec = CalendarSpec(crons=("30 2 * * *",), zone=BERLIN, repeated=repeated)
    tick = Calendar(spec).next_after(at("2026-10-25T02:35+02:00"))
    assert tick is not None
    assert shown([tick], BERLIN) == [f"{day}T02:30:00+01:00"]


@pytest.mark.parametrize(
    ("zone", "between"),
    [
        (BERLIN, ("2026-03-28T22:00+00:00", "2026-03-29T06:00+00:00")),
        (BERLIN, ("2026-10-24T22:00+00:00", "2026-10-25T06:00+00:00")),
        (NEW_YORK, ("2026-03-08T04:00+00:00", "2026-03-08T10:00+00:00")),
        (NEW_YORK, ("2026-11-01T04:00+00:00", "2026-11-01T10:00+00:00")),
        (LORD_HOWE, ("2026-04-04T12:00+00:00", "2026-04-04T18:00+00:00")),
        (LORD_HOWE, ("2026-10-03T12:00+00:00", "2026-10-03T18:00+00:00")),
        (SANTIAGO, ("2026-04-05T00:00+00:00", "2026-04-05T06:00+00:00")),
        (SANTIAGO, ("2026-09-06T00:00+00:00", "2026-09-06T06:00+00:00")),
        (APIA, ("2011-04-02T10:00+00:00", "2011-04-02T18:00+00:00")),
        (APIA, ("2011-12-30T06:00+00:00", "2011-12-30T14:00+00:00")),
    ],
)
@pytest.mark.parametrize(("cron", "step"), [("*/10 * * * *", 600), ("*/20 * * * * *", 20)])
def test_what_ticks_every_few_minutes_goes_on_evenly_through_each_change(
    zone: str, between: tuple[str, str], cron: str, step: int
) -> None:
    start, end = (at(time) for time in between)
    spec = CalendarSpec(crons=(cron,), zone=zone)
    expected = list(range(start, end, step * MICROSECONDS))
    assert list(islice(Calendar(spec).ticks(start - 1), len(expected))) == expected


ZONES = [BERLIN, NEW_YORK, LORD_HOWE, SANTIAGO, "UTC", "Asia/Kathmandu"]


@given(
    zone=st.sampled_from(ZONES),
    cron=st.sampled_from(["30 2 * * *", "15 1,2 * * MON-FRI", "0 0 1 * *", "45 1 * * 0", "*/7 * * * *", "0 0 L * *"]),
    start=st.datetimes(NEW_YEAR, NEW_YEAR.replace(year=2030)),
)
def test_the_default_agrees_with_what_cronsim_does_with_five_fields(zone: str, cron: str, start: datetime) -> None:
    begin = start.replace(microsecond=0, tzinfo=UTC)
    theirs = islice(CronSim(cron, begin.astimezone(UTC if zone == "UTC" else ZoneInfo(zone))), 12)
    expected = sorted({microseconds_of(tick.astimezone(UTC)) for tick in theirs if tick.astimezone(UTC) > begin})
    mine = Calendar(CalendarSpec(crons=(cron,), zone=zone)).some_after(microseconds_of(begin), len(expected))
    # In a repeated hour cronsim begins with what the clock shows, and leaves out what came before.
    assert [tick for tick in mine if tick in expected] == mine


@given(
    zone=st.sampled_from(ZONES),
    cron=st.sampled_from(["30 2 * * *", "*/5 1-3 * * *", "0 0 * * *", "*/20 * * * *", "5 59 23 * * *"]),
    repeated=st.sampled_from(["once", "first", "last", "both"]),
    missing=st.sampled_from(["shift", "skip"]),
    start=st.datetimes(NEW_YEAR, NEW_YEAR.replace(year=2027)),
    ahead=st.integers(0, 200),
)
def test_wherever_one_begins_the_ticks_that_follow_are_the_same(
    zone: str, cron: str, repeated: str, missing: str, start: datetime, ahead: int
) -> None:
    spec = CalendarSpec(crons=(cron,), zone=zone, repeated=repeated, missing=missing)  # type: ignore[arg-type]
    calendar = Calendar(spec)
    begin = microseconds_of(start.replace(tzinfo=UTC))
    ticks = calendar.some_after(begin, 30)
    assert ticks == sorted(set(ticks))
    later = begin + ahead * 60 * MICROSECONDS
    assert (
        calendar.some_after(later, 5)
        == [tick for tick in ticks + calendar.some_after(ticks[-1], 300) if tick > later][:5]
    )


def test_several_crons_and_intervals_tick_together_and_a_moment_of_two_is_one_tick() -> None:
    spec = CalendarSpec(
        crons=("0 * * * *", "30 12 * * *"), intervals=(Interval(DAY // 4, DAY // 24), Interval(DAY // 24, 0))
    )
    ticks = ticks_of(spec, "2026-01-01T11:00+00:00", "2026-01-01T14:00+00:00")
    assert ticks == [
        "2026-01-01T11:00:00+00:00",
        "2026-01-01T12:00:00+00:00",
        "2026-01-01T12:30:00+00:00",
        "2026-01-01T13:00:00+00:00",
    ]


def test_two_sources_tick_both() -> None:
    spec = CalendarSpec(crons=("0 12 * * *", "30 12 * * *"))
    ticks = ticks_of(spec, "2026-01-01T12:00+00:00", "2026-01-01T13:00+00:00")
    assert ticks == ["2026-01-01T12:00:00+00:00", "2026-01-01T12:30:00+00:00"]


def test_an_interval_counts_from_the_epoch_and_is_put_off_by_its_phase() -> None:
    spec = CalendarSpec(intervals=(Interval(3_600 * MICROSECONDS, 300 * MICROSECONDS),), zone=BERLIN)
    ticks = ticks_of(spec, "2026-03-29T00:00+00:00", "2026-03-29T03:00+00:00")
    assert ticks == ["2026-03-29T01:05:00+01:00", "2026-03-29T03:05:00+02:00", "2026-03-29T04:05:00+02:00"]


def test_what_is_excluded_does_not_tick() -> None:
    spec = CalendarSpec(crons=("0 9 * * *",), excluded=("* * 24-26 12 *", "* * * * SUN"), zone=BERLIN)
    ticks = ticks_of(spec, "2026-12-22T00:00+01:00", "2026-12-30T00:00+01:00")
    assert [tick[:10] for tick in ticks] == ["2026-12-22", "2026-12-23", "2026-12-28", "2026-12-29"]


def test_long_stretches_of_excluded_seconds_are_passed_over_at_once() -> None:
    spec = CalendarSpec(crons=("* * * * * *",), excluded=("* * * 4-9 *", "* 0-22 * * *"), zone=BERLIN)
    assert ticks_of(spec, "2026-04-01T00:00+02:00", "2026-10-01T23:00:02+02:00") == [
        "2026-10-01T23:00:00+02:00",
        "2026-10-01T23:00:01+02:00",
    ]


def test_an_exclusion_with_seconds_excludes_single_seconds() -> None:
    spec = CalendarSpec(crons=("*/20 0 0 1 1 *",), excluded=("20 * * * * *",))
    ticks = ticks_of(spec, "2026-01-01T00:00+00:00", "2026-01-02T00:00+00:00")
    assert [tick[17:19] for tick in ticks] == ["00", "40"]


def test_a_schedule_whose_every_tick_is_excluded_has_none() -> None:
    spec = CalendarSpec(crons=("0 9 * * SUN",), excluded=("* * * * SUN",))
    assert Calendar(spec).next_after(at("2026-01-01T00:00+00:00")) is None


@pytest.mark.parametrize(("most", "found"), [(2, None), (3, "2026-01-05T09:00:00+00:00")])
def test_so_many_excluded_ticks_are_passed_over_and_no_more(
    monkeypatch: pytest.MonkeyPatch, most: int, found: str | None
) -> None:
    monkeypatch.setattr("stepwell.model.calendar._MAX_EXCLUDED", most)
    spec = CalendarSpec(crons=("0 9 * * *",), excluded=("0 9 2-4 1 *",))
    tick = Calendar(spec).next_after(at("2026-01-01T09:00+00:00"))
    assert (None if tick is None else shown([tick], "UTC")[0]) == found


def test_those_that_are_passed_over_are_counted_anew_from_each_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.model.calendar._MAX_EXCLUDED", 2)
    spec = CalendarSpec(crons=("0 9 * * *",), excluded=("0 9 2-3,5-7 1 *",))
    ticks = Calendar(spec).some_after(at("2026-01-01T08:00+00:00"), 5)
    assert [tick[:10] for tick in shown(ticks, "UTC")] == ["2026-01-01", "2026-01-04"]


def test_an_excluded_minute_is_passed_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.model.calendar._MAX_EXCLUDED", 1)
    spec = CalendarSpec(intervals=(Interval(MICROSECONDS),), excluded=("30 12 * * *",))
    tick = Calendar(spec).next_after(at("2026-01-01T12:29:59+00:00"))
    assert tick == at("2026-01-01T12:31+00:00")


@pytest.mark.parametrize(
    "run_id", ["daily@2026-01-01T00:00:00", "@2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "daily@soonZ"]
)
def test_an_id_of_another_form_names_no_tick(run_id: str) -> None:
    assert tick_of(run_id) is None


@pytest.mark.parametrize("kind", ["tick", "trigger"])
@pytest.mark.parametrize("moment", ["2026-01-01T00:00:00", "2026-01-01T00:00:00.250000"])
def test_the_id_of_a_run_names_its_schedule_and_its_tick(kind: TickKind, moment: str) -> None:
    tick = at(f"{moment}+00:00")
    run_id = run_id_of("a@b", tick, kind)
    assert run_id.removesuffix("+trigger") == f"a@b@{moment}Z"
    assert tick_of(run_id) == ("a@b", datetime_of(tick))


def test_no_tick_lies_before_the_start_or_at_the_end() -> None:
    start, end = at("2026-01-02T00:00+00:00"), at("2026-01-04T00:00+00:00")
    spec = CalendarSpec(crons=("0 0 * * *",), start_at=start, end_at=end)
    assert Calendar(spec).some_after(0, 9) == [start, start + DAY]
    assert Calendar(spec).next_after(start + DAY) is None


@given(jitter=st.integers(0, 10**9), tick=st.integers(0, 10**16), gap=st.integers(1, 10**9), name=st.text(max_size=5))
def test_jitter_is_the_same_for_a_tick_each_time_and_stays_before_the_next_tick(
    jitter: int, tick: int, gap: int, name: str
) -> None:
    calendar = Calendar(CalendarSpec(intervals=(Interval(10**6),), jitter=jitter))
    late = calendar.late_by(name, tick, tick + gap)
    assert 0 <= late < gap
    assert late < jitter or jitter == 0
    assert late == calendar.late_by(name, tick, tick + gap)


def test_jitter_spreads_what_is_due_at_one_time() -> None:
    calendar = Calendar(CalendarSpec(crons=("0 0 * * *",), jitter=DAY))
    late = [calendar.late_by(f"s{number}", 0, DAY) for number in range(1000)]
    quarters = [sum(1 for by in late if by * 4 // DAY == quarter) for quarter in range(4)]
    assert all(150 < count < 350 for count in quarters)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("0 25 * * *", 3, "hour is 0 to 23, not '25'"),
        ("60 * * * *", 1, "minute is 0 to 59, not '60'"),
        ("60 * * * * *", 1, "second is 0 to 59"),
        ("* * * *", 8, "it has 4 fields"),
        ("* * * * * * *", 13, "it has 7 fields"),
        ("", 1, "it has 0 fields"),
        ("*/0 * * * *", 3, "a step of minute is a number from 1 up, not '0'"),
        ("*/x * * * *", 3, "a step of minute"),
        ("*/ * * * *", 3, "a step of minute"),
        ("1,,2 * * * *", 3, "a value of minute is missing beside the comma"),
        ("5-3 * * * *", 1, "a range of minute rises: 5 is after 3"),
        ("0 0 * * FRI-SUN", 9, "write the days after Saturday as SUN or 7"),
        ("0 0 1 XYZ *", 7, "month is 1 to 12, or JAN to DEC, not 'XYZ'"),
        ("0 0 1 0 *", 7, "month is 1 to 12"),
        ("0 0 0 * *", 5, "day of month is 1 to 31"),
        ("0 0 * * 8", 9, "day of week is 0 to 7, or SUN to SAT"),
        ("0 0 * * 1#6", 11, "1 to 5 occurrences"),
        ("1-99 * * * *", 3, "minute is 0 to 59, not '99'"),
        ("0 0 1 JAN-XYZ *", 11, "month is 1 to 12, or JAN to DEC, not 'XYZ'"),
        ("0 0 * * 1,MON#0", 15, "1 to 5 occurrences"),
        ("0 0 * * L", 9, "day of week"),
        ("0 1.5 * * *", 3, "hour is 0 to 23"),
        ("0 -1 * * *", 3, "hour is 0 to 23"),
        ("0 0 30 2 *", 5, "there is no such day"),
        ("0 0 0 31 4,6 *", 7, "there is no such day"),
        ("  0 24 * * *", 5, "hour is 0 to 23"),
        ("@sometimes", 1, "known words are"),
        ("0 0 ² * *", 5, "day of month is"),
    ],
)
def test_a_wrong_expression_is_refused_with_the_place_of_the_fault(text: str, place: int, words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        cron_of(text)
    message = str(refused.value)
    assert f"at character {place}:" in message
    assert words in message
    assert message.splitlines()[-1].index("^") == place - 1 + 2


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("@daily", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
        (" @weekly ", "0 0 * * sun"),
        ("@yearly", "0 0 1 jan *"),
        ("0\t0  *  * 7", "0 0 * * SUN"),
    ],
)
def test_words_and_names_stand_for_numbers(text: str, same: str) -> None:
    one, two = (Calendar(CalendarSpec(crons=(cron,))).some_after(0, 20) for cron in (text, same))
    assert one == two


def test_the_last_day_and_the_nth_weekday_of_a_month_are_found() -> None:
    assert ticks_of(CalendarSpec(crons=("0 0 L 2 *",)), "2028-01-01T00:00Z", "2029-01-01T00:00Z") == [
        "2028-02-29T00:00:00+00:00"
    ]
    assert ticks_of(CalendarSpec(crons=("0 0 * 2 TUE#2",)), "2026-01-01T00:00Z", "2027-01-01T00:00Z") == [
        "2026-02-10T00:00:00+00:00"
    ]
    assert ticks_of(CalendarSpec(crons=("0 0 * 2 SUN#1",)), "2026-01-01T00:00Z", "2027-01-01T00:00Z") == [
        "2026-02-01T00:00:00+00:00"
    ]
    assert ticks_of(CalendarSpec(crons=("0 0 * * THU#5",)), "2026-01-01T00:00Z", "2026-05-01T00:00Z") == [
        "2026-01-29T00:00:00+00:00",
        "2026-04-30T00:00:00+00:00",
    ]
    assert ticks_of(CalendarSpec(crons=("0 0 * 2 5L",)), "2026-01-01T00:00Z", "2027-01-01T00:00Z") == [
        "2026-02-27T00:00:00+00:00"
    ]


@pytest.mark.parametrize("zone", ["Europe/Berlim", "", "../etc/passwd", "Europe", "\x00", "europe/", 7, None])
def test_an_unknown_zone_is_refused(zone: object) -> None:
    with pytest.raises(InvalidArgument, match="zone"):
        Calendar(CalendarSpec(crons=("0 0 * * *",), zone=zone))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (CalendarSpec(), "at least one cron expression or interval"),
        (CalendarSpec(intervals=(Interval(0),)), "at least one second"),
        (CalendarSpec(intervals=(Interval(10**7, 10**7),)), "phase"),
        (CalendarSpec(intervals=(Interval(10**7, -1),)), "phase"),
        (CalendarSpec(crons=("* * * * *",), start_at=5, end_at=5), "ends after it starts"),
        (CalendarSpec(crons=("* * * * *",), missing="never"), "missing must be one of"),  # type: ignore[arg-type]
        (CalendarSpec(crons=("* * * * *",), repeated="never"), "repeated must be one of"),  # type: ignore[arg-type]
        (CalendarSpec(crons=("* * * * *",), excluded=("x",)), "cron 'x' is wrong"),
    ],
)
def test_a_calendar_that_cannot_be_kept_is_refused(spec: CalendarSpec, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Calendar(spec)


def test_the_calendar_ends_with_the_year_9999() -> None:
    late = microseconds_of(datetime(9999, 12, 31, 22, tzinfo=UTC))
    assert shown(Calendar(CalendarSpec(crons=("0 * * * *",))).some_after(late, 9), "UTC") == [
        "9999-12-31T23:00:00+00:00"
    ]
    assert Calendar(CalendarSpec(crons=("30 23 31 12 *",), zone=NEW_YORK)).some_after(late, 9) == []


def test_a_day_of_seconds_is_found_second_by_second() -> None:
    start = at("2026-10-25T00:00+02:00")
    ticks = list(islice(Calendar(CalendarSpec(crons=("* * * * * *",), zone=BERLIN)).ticks(start - 1), 90_000))
    assert ticks == list(range(start, start + 90_000 * MICROSECONDS, MICROSECONDS))
    assert timedelta(seconds=90_000) == timedelta(hours=25)
