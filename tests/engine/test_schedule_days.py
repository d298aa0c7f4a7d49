"""A schedule of one tick a second, through crashes: each tick has one run; and schedules at rest cost nothing."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from stepwell import sync, workflow
from stepwell.model.calendar_spec import CalendarSpec
from stepwell.model.schedule import ScheduleDefinition, ScheduleRecord, ScheduleState
from stepwell.store.schedules import ScheduleSaved
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Unit
from stepwell.testing import TestEngine

START = datetime(2024, 1, 1, 12, tzinfo=UTC)


@workflow(name="days.tick")
def tick() -> str:
    return str(sync.scheduled_at())


@pytest.mark.parametrize("seed", [1, 2])
def test_a_tick_a_second_through_crashes_starts_each_run_once(tmp_path: Path, seed: int) -> None:
    through_crashes(tmp_path / "s.db", seed, seconds=1800)


def through_crashes(path: Path, seed: int, seconds: int) -> None:
    """Let time pass in stretches of some seconds, with a crash between any two that are under way."""
    chance = Random(seed)
    with TestEngine(path, durability="normal", max_running=50) as engine:
        engine.schedule(tick, id="s", cron="* * * * * *", overlap="allow")
        left = seconds
        while left:
            step = min(left, chance.randint(1, 200))
            left -= step
            engine.clock.advance(step)
            if chance.random() < 0.7:
                time.sleep(chance.random() / 100)  # how far the engine has come when it dies is chance
                engine.crash()
                engine.reopen()
        engine.idle(120)
        found = Counter(str(run) for (run,) in engine.query("SELECT id FROM stepwell_runs"))
        expected = {
            f"s@{(START + timedelta(seconds=n)).isoformat().replace('+00:00', 'Z')}" for n in range(1, seconds + 1)
        }
        assert found.keys() == expected
        statuses = engine.query("SELECT status, count(*) FROM stepwell_runs GROUP BY status")
        assert list(statuses) == [("completed", seconds)]
        assert engine.get_schedule("s").info().started == seconds


def at_rest(path: Path, number: int) -> None:
    """Fill a file with schedules that are due in a year."""
    store = SqliteStore.open(path)
    claim = store.membership.register(1, takes_work=False)
    due = 4 * 10**15
    definition = ScheduleDefinition("days.tick", CalendarSpec(crons=("0 0 1 1 *",)))
    store.writers.acquire()
    for start in range(0, number, 10_000):
        changes = [
            ScheduleSaved(
                ScheduleRecord(f"s{n}", "days.tick", due + n, False, None, 1, 1, definition, ScheduleState(due))
            )
            for n in range(start, min(number, start + 10_000))
        ]
        store.commit([Unit(list(changes))], claim)
    store.writers.release()
    store.close(claim, 1)


def test_schedules_at_rest_are_not_read(tmp_path: Path) -> None:
    at_rest(tmp_path / "s.db", 20_000)
    with TestEngine(tmp_path / "s.db") as engine:
        engine.idle()
        due = engine._session.engine_thread.worker.schedules.due_at()
        assert due == 4 * 10**15
        plans = engine.query("EXPLAIN QUERY PLAN SELECT min(due_at) FROM stepwell_schedules WHERE due_at IS NOT NULL")
        assert "SEARCH stepwell_schedules USING COVERING INDEX stepwell_schedules_by_due" in str(plans)
