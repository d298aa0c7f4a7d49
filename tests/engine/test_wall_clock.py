"""A wall clock that is wrong, or was, or is frozen by a tool for tests, rules nothing: dates and durations are kept."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import freezegun
import pytest
import time_machine

import stepwell
from stepwell import AsyncEngine, Engine, Queue, Rate, RunDeadlineExceeded, current, receive, step, workflow
from stepwell.api.asking.sortable_ids import SortableIds
from stepwell.cli import main
from stepwell.store.sqlite.membership import SqliteMembership
from stepwell.testing import TestEngine

DEADLINE_SECONDS = 60
QUEUE = Queue("wall-clock")
SOON = timedelta(seconds=0.4)
YEARS = timedelta(days=13 * 365)

seen: list[Any] = []


class Machine:
    """The machine's wall clock, which anyone may set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wrong_by = timedelta(0)
        right = time.time_ns

        def wall() -> int:
            return right() + self.wrong_by // timedelta(microseconds=1) * 1000

        monkeypatch.setattr(SqliteMembership, "wall_clock", lambda _store: wall())
        monkeypatch.setattr(time, "time_ns", wall)
        monkeypatch.setattr(time, "time", lambda: wall() / 1e9)

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time_ns() / 1e9, UTC)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    seen.clear()
    return Machine(monkeypatch)  # type: ignore[return-value]


@workflow
async def quick() -> int:
    return 1


@workflow
async def until(when: datetime) -> datetime:
    await stepwell.sleep_until(when)
    return stepwell.now()


@workflow
async def an_instant_later(seconds: float) -> datetime:
    await stepwell.sleep_until(stepwell.now() + timedelta(seconds=seconds))
    return stepwell.now()


@workflow
async def sleeps(seconds: float) -> None:
    await asyncio.sleep(seconds)


@workflow
async def waits() -> Any:
    return await receive("go")


@step
def note(when: datetime) -> None:
    seen.append((when, current().started_at))


@workflow
async def dates() -> list[datetime]:
    first = stepwell.now()
    note(first)
    await receive("go")
    second = stepwell.now()
    note(second)
    await stepwell.sleep_until(second - timedelta(days=1))  # passed: returns at once
    await receive("go")
    return [first, second, stepwell.now()]


@workflow
async def starts_later(when: datetime) -> None:
    await (await stepwell.start(quick, queue=QUEUE, delay=when)).result()


def open_while_wrong(database: Path, machine: Machine, wrong_by: timedelta) -> None:
    machine.wrong_by = wrong_by
    with Engine(database) as engine:
        engine.start(quick, id="old").result(DEADLINE_SECONDS)
    machine.wrong_by = timedelta(0)


#: How a start is to take effect soon, and no earlier: by a date, or by a duration.
WAYS: dict[str, Callable[[Engine, datetime], Any]] = {
    "sleep_until": lambda engine, when: engine.start(until, when),
    "sleep_until a moment after now()": lambda engine, _when: engine.start(an_instant_later, SOON.total_seconds()),
    "sleep": lambda engine, _when: engine.start(sleeps, SOON.total_seconds()),
    "delay to a date": lambda engine, when: engine.start(quick, queue=QUEUE, delay=when),
    "delay": lambda engine, _when: engine.start(quick, queue=QUEUE, delay=SOON),
    "delay of a child to a date": lambda engine, when: engine.start(starts_later, when),
    "deadline at a date": lambda engine, when: engine.start(waits, deadline=when),
    "deadline": lambda engine, _when: engine.start(waits, deadline=SOON),
}


def takes_its_time(engine: Engine, machine: Machine, way: str) -> None:
    began = time.perf_counter()
    run = WAYS[way](engine, machine.now() + SOON)
    if way.startswith("deadline"):
        with pytest.raises(RunDeadlineExceeded):
            run.result(DEADLINE_SECONDS)
    else:
        run.result(DEADLINE_SECONDS)
    assert time.perf_counter() - began >= SOON.total_seconds() - 0.15  # what counts as no difference of clocks


@pytest.mark.parametrize(
    "wrong_by", [YEARS, timedelta(hours=1), -YEARS], ids=["years ahead", "an hour", "years behind"]
)
@pytest.mark.parametrize("way", WAYS)
def test_dates_and_durations_are_kept_in_a_file_that_was_written_to_while_a_clock_was_wrong(
    database: Path, machine: Machine, way: str, wrong_by: timedelta
) -> None:
    open_while_wrong(database, machine, wrong_by)
    with Engine(database) as engine:
        takes_its_time(engine, machine, way)


@pytest.mark.parametrize("way", WAYS)
def test_dates_and_durations_are_kept_when_the_clock_is_set_right_while_the_engine_is_open(
    database: Path, machine: Machine, way: str
) -> None:
    machine.wrong_by = YEARS
    with Engine(database) as engine:
        engine.start(quick).result(DEADLINE_SECONDS)
        machine.wrong_by = timedelta(0)
        engine._session.engine_thread._look_at_clock()  # as it does once a second
        takes_its_time(engine, machine, way)


def test_opening_says_by_how_much_the_file_is_ahead_and_how_to_mend_that(
    database: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    open_while_wrong(database, machine, YEARS)
    assert "this machine's clock" not in caplog.text
    with Engine(database) as engine:
        (said,) = [text for text in caplog.messages if "ahead of this machine's clock" in text]
        assert said.startswith(f"{database}: its times are 474")
        assert "4744 days, 23:59" in said or "4745 days" in said
        assert f"{machine.now():%Y-%m-%d %H}" in said
        assert "engine.purge(0)" in said
        time.sleep(0.002)  # the run that was ended "just now" is older than nothing
        assert engine.purge(0) == 1
    caplog.clear()
    with Engine(database) as engine:
        assert "this machine's clock" not in caplog.text
        assert abs(engine.start(quick).info().created_at - machine.now()) < timedelta(minutes=1)


def test_nothing_is_said_of_a_clock_that_is_right(
    database: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        open_while_wrong(database, machine, timedelta(0))
    assert "this machine's clock" not in caplog.text


def test_what_is_shown_of_new_runs_is_by_the_clock_as_it_is_now(database: Path, machine: Machine) -> None:
    open_while_wrong(database, machine, YEARS)
    with Engine(database) as engine:
        run = engine.start(dates)
        run.send("go")
        run.send("go")
        found = run.result(DEADLINE_SECONDS)
        info, journal = run.info(), run.journal()
        shown = [info.created_at, info.updated_at, info.started_at, info.ended_at, *found]
        shown += [entry.at for entry in journal] + [entry.started_at for entry in journal if entry.started_at]
        shown += [worker.started_at for worker in engine.workers()]
        shown += [moment for noted in seen for moment in noted]
        wrong = [moment for moment in shown if moment is None or abs(moment - machine.now()) > timedelta(minutes=1)]
        assert wrong == []


def test_a_runs_dates_are_the_same_in_every_replay_however_the_clocks_differ_then(
    database: Path, machine: Machine
) -> None:
    open_while_wrong(database, machine, YEARS)
    with Engine(database, max_waiting_in_memory=0) as engine:
        run = engine.start(dates, id="dates")
        begun = run.info().created_at
        run.send("go")
        until_it_waits(run, 3)
    # The file is less ahead than before, by the time that has passed meanwhile.
    machine.wrong_by = timedelta(hours=3)
    with Engine(database) as engine:
        engine.send("dates", "go")
        found = engine.get("dates").result(DEADLINE_SECONDS)
    assert len(seen) == 2
    assert [when for when, _ in seen] == found[:2]
    assert all(earlier <= later for earlier, later in pairwise(found))
    assert abs(found[0] - begun) < timedelta(minutes=1)


def until_it_waits(run: Any, entries: int) -> None:
    give_up_at = time.perf_counter() + DEADLINE_SECONDS
    while run.status != "waiting" or len(run.journal()) < entries:
        assert time.perf_counter() < give_up_at
        time.sleep(0.001)


def test_runs_that_were_under_way_while_the_clock_was_wrong_go_on_at_their_time(
    database: Path, machine: Machine
) -> None:
    machine.wrong_by = YEARS
    with Engine(database) as engine:
        sleeping = engine.start(sleeps, SOON.total_seconds(), id="sleeping")
        engine.start(an_instant_later, SOON.total_seconds(), id="dated")
        engine.start(waits, id="waiting")
        until_it_waits(sleeping, 0)
    machine.wrong_by = timedelta(0)
    with Engine(database) as engine:
        engine.send("waiting", "go", 7)
        assert engine.get("waiting").result(DEADLINE_SECONDS) == 7
        for name in ("sleeping", "dated"):
            engine.get(name).result(DEADLINE_SECONDS)


def test_runs_are_kept_as_long_as_asked_whatever_the_clock_did(database: Path, machine: Machine) -> None:
    open_while_wrong(database, machine, YEARS)
    with Engine(database, retention=timedelta(hours=1)) as engine:
        engine.start(quick, id="new").result(DEADLINE_SECONDS)
        assert engine.purge(timedelta(hours=1)) == 0
        assert [run.id for run in engine.list()] == ["new", "old"]


def test_generated_ids_sort_by_the_order_of_starting_whatever_the_clock_did(database: Path, machine: Machine) -> None:
    started: list[str] = []
    for wrong_by in (timedelta(0), YEARS, timedelta(0), -YEARS):
        machine.wrong_by = wrong_by
        with Engine(database) as engine:
            started += [engine.start(quick).id for _ in range(5)]
    assert started == sorted(started)


def test_ids_of_one_instant_rise_and_are_not_guessed_from_one_another() -> None:
    ids = SortableIds()
    made = [ids.new(now) for now in [1_000_000_000_000] * 1000 + [999, 1_000_000_001_000, 2**52]]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {len(one) for one in made} == {28}
    steps = {int(later, 16) - int(earlier, 16) for earlier, later in pairwise(made[:1000])}
    assert len(steps) > 990
    assert made[0][:12] == f"{1_000_000_000:012x}"


# --- tools that freeze time -------------------------------------------------------------------------------------------

FAR = datetime(2040, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
TOOLS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "freezegun": lambda: freezegun.freeze_time(FAR),
    "freezegun, long ago": lambda: freezegun.freeze_time(LONG_AGO),
    "freezegun that ticks": lambda: freezegun.freeze_time(FAR, tick=True),
    "time-machine": lambda: time_machine.travel(FAR, tick=False),
    "time-machine, long ago": lambda: time_machine.travel(LONG_AGO, tick=False),
    "time-machine that ticks": lambda: time_machine.travel(FAR, tick=True),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_frozen_clock_does_no_harm_while_an_engine_is_used_nor_afterwards(
    database: Path, caplog: pytest.LogCaptureFixture, tool: str
) -> None:
    with Engine(database) as engine:
        engine.start(quick, id="before").result(DEADLINE_SECONDS)
    real = datetime.now(UTC)
    with TOOLS[tool](), Engine(database) as engine:
        frozen = datetime.now(UTC)
        engine.start(sleeps, 0.05).result(DEADLINE_SECONDS)
        engine.start(quick, queue=QUEUE, delay=0.05).result(DEADLINE_SECONDS)
        # Dates that were made by the frozen clock.
        engine.start(quick, queue=QUEUE, delay=frozen + timedelta(seconds=0.05)).result(DEADLINE_SECONDS)
        engine.start(quick, deadline=frozen + timedelta(minutes=5)).result(DEADLINE_SECONDS)
        with pytest.raises(RunDeadlineExceeded):
            engine.start(waits, deadline=frozen + timedelta(seconds=0.05)).result(DEADLINE_SECONDS)
        engine.start(an_instant_later, 0.05).result(DEADLINE_SECONDS)
        run = engine.start(waits)
        run.send("go", 1)
        assert run.result(DEADLINE_SECONDS) == 1
        with engine.transaction() as tx:
            tx.start(quick)
    with Engine(database) as engine:
        takes_its_time(engine, _Real(), "sleep_until")
        assert [run.id for run in engine.list()][-1] == "before"
        assert all(abs(run.info().created_at - real) < timedelta(minutes=10) for run in engine.list())
    assert "this machine's clock" not in caplog.text


class _Real(Machine):
    def __init__(self) -> None:
        self.wrong_by = timedelta(0)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_frozen_clock_does_an_async_engine_no_harm(database: Path, tool: str) -> None:
    async def main() -> None:
        async with AsyncEngine(database) as engine:
            await (await engine.start(sleeps, 0.05)).result()
            await (await engine.start(an_instant_later, 0.05)).result()

    with TOOLS[tool]():
        asyncio.run(main())


def test_another_process_holds_nobody_up_for_ever_while_the_clock_is_frozen(database: Path) -> None:
    with Engine(database) as engine, freezegun.freeze_time(FAR), engine.transaction() as tx:
        tx.start(quick, id="frozen")
    with freezegun.freeze_time(FAR), Engine(database) as engine:
        assert engine.get("frozen").result(DEADLINE_SECONDS) == 1


@pytest.mark.parametrize("way", ["sleep", "delay", "a rate"])
def test_reasons_tell_times_of_the_wall_clock(
    database: Path, machine: Machine, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    open_while_wrong(database, machine, YEARS)
    with Engine(database) as engine:
        match way:
            case "sleep":
                run: Any = engine.start(sleeps, 3600.0, id="a")
                until_status(run, "waiting")
            case "delay":
                run = engine.start(quick, id="a", queue=QUEUE, delay=3600)
            case _:
                rated = Queue("rated", rate=Rate(1, per=3600))
                engine.start(quick, queue=rated).result(DEADLINE_SECONDS)
                run = engine.start(quick, id="a", queue=rated)
        told = [run.info().reason or ""]
        main(["show", "a", "--db", str(database), "--json"])
        told.append(json.loads(capsys.readouterr().out)["reason"])
    for reason in told:
        (when,) = re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z", reason)
        assert timedelta(minutes=50) < datetime.fromisoformat(when) - machine.now() <= timedelta(hours=1, seconds=1)


def until_status(run: Any, status: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while run.status != status:
        assert time.monotonic() < deadline


def test_annotations_that_are_resolved_while_time_is_frozen_mean_the_real_classes(engine: TestEngine) -> None:
    @workflow
    async def moments(one: datetime, two: list[datetime | None]) -> dict[str, datetime]:
        return {"one": one, "two": two[0] or one}

    when = datetime(2026, 1, 2, tzinfo=UTC)
    several: list[datetime | None] = [when]
    with freezegun.freeze_time("2026-01-01"):
        assert moments.signature.annotations.positional[0] is type(when)
    assert engine.start(moments, when, several).result(timeout=60) == {"one": when, "two": when}
