"""The measured processes of `lives`: what runs meet between their starts and their ends, by the thousand.

``python -m bench.lives PHASE '{"option": …}'``; the figures are made here as well, for `bench.workloads`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from time import perf_counter, process_time
from typing import Final

from bench.figures import Figure, System
from bench.measure import Facts, serve
from stepwell import Engine, receive, step, sync, workflow
from stepwell.model.calendar_spec import CalendarSpec
from stepwell.model.schedule import ScheduleDefinition, ScheduleRecord, ScheduleState
from stepwell.store.schedules import ScheduleSaved
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Unit
from stepwell.testing import TestEngine

#: How many schedules are written in one commit.
_TOGETHER: Final = 10_000
#: After how many seconds without a tick, at most, the engine of a day dies: by chance, so the last is the longest.
_STRETCH_SECONDS: Final = 200
_IDLE_SECONDS: Final = 1.0
#: Set where what failed is mended.
_MENDED: Final = "STEPWELL_BENCH_MENDED"


@step
async def noop(number: int) -> int:
    """Do nothing."""
    return number


@step
async def broken(number: int) -> int:
    """Fail until it is mended."""
    if _MENDED not in os.environ:
        raise OSError("not mended yet")
    return number


@workflow
async def in_flight(number: int) -> int:
    """Call some steps, then wait."""
    for _ in range(3):
        await noop(number)
    return await receive("go", int)


@workflow
async def fails(number: int) -> int:
    """Call a step, and one that fails."""
    return await broken(await noop(number))


@workflow
def tick() -> str:
    """Say which tick it is."""
    return str(sync.scheduled_at())


def check(directory: str, runs: int) -> Facts:
    """Measure the seconds that checking so many runs in flight takes."""
    with Engine(Path(directory) / "check.db", durability="normal") as engine:
        engine.start_many(in_flight, [(number,) for number in range(runs)])
        while engine.counts("status:waiting").get("waiting") != runs:
            time.sleep(0.05)
        began = perf_counter()
        found = engine.check()
        took = perf_counter() - began
    assert (found.runs, found.ok) == (runs, True)
    return {"seconds": took}


def retry(directory: str, runs: int) -> Facts:
    """Measure the seconds that bringing so many failed runs back takes, by a filter; and until they have all ended."""
    with Engine(Path(directory) / "retry.db", durability="normal") as engine:
        engine.start_many(fails, [(number,) for number in range(runs)])
        while engine.counts("status:failed").get("failed") != runs:
            time.sleep(0.05)
        os.environ[_MENDED] = "1"
        began = perf_counter()
        done = engine.bulk("retry", f"status:failed workflow:{fails.name}")
        took = perf_counter() - began
        while engine.counts("status:completed").get("completed") != runs:
            time.sleep(0.05)
        ended = perf_counter() - began
    assert (done.seen, done.refused) == (runs, 0)
    return {"seconds": took, "ended": ended}


def rest(directory: str, schedules: int) -> Facts:
    """Measure opening a file with so many schedules that are due in a long time, and what it costs to be idle then."""
    path = Path(directory) / "rest.db"
    store = SqliteStore.open(path)
    claim = store.membership.register(1, takes_work=False)
    due = 4 * 10**15
    definition = ScheduleDefinition(tick.name, CalendarSpec(crons=("0 0 1 1 *",)))
    store.writers.acquire()
    for first in range(0, schedules, _TOGETHER):
        numbers = range(first, min(schedules, first + _TOGETHER))
        rows = [
            ScheduleRecord(f"s{n}", tick.name, due + n, False, None, 1, 1, definition, ScheduleState(due))
            for n in numbers
        ]
        store.commit([Unit([ScheduleSaved(row) for row in rows])], claim)
    store.writers.release()
    store.close(claim, 1)
    began = perf_counter()
    with Engine(path) as engine:
        engine.start(fails, 1).info()
        took = perf_counter() - began
        time.sleep(_IDLE_SECONDS)
        busy = process_time()
        time.sleep(_IDLE_SECONDS)
        busy = process_time() - busy
    return {"seconds": took, "idle": 100 * busy / _IDLE_SECONDS}


def day(directory: str, ticks: int) -> Facts:
    """Measure a schedule of one tick a second under virtual time, through crashes; each tick must have its run once."""
    start, chance, crashes = datetime(2024, 1, 1, 12, tzinfo=UTC), Random(1), 0
    began = perf_counter()
    with TestEngine(Path(directory) / "day.db", durability="normal", max_running=50) as engine:
        engine.schedule(tick, id="s", cron="* * * * * *", overlap="allow")
        left = ticks
        while left:
            stretch = min(left, chance.randint(1, _STRETCH_SECONDS))
            left -= stretch
            engine.clock.advance(stretch)
            time.sleep(chance.random() / 100)  # how far the engine has come when it dies is chance
            engine.crash()
            engine.reopen()
            crashes += 1
        engine.idle(600)
        took = perf_counter() - began
        found = [str(run) for (run,) in engine.query("SELECT id FROM stepwell_runs WHERE status = 'completed'")]
    expected = {
        (start + timedelta(seconds=number)).isoformat().replace("+00:00", "Z") for number in range(1, ticks + 1)
    }
    assert len(found) == ticks
    assert {run.removeprefix("s@") for run in found} == expected
    return {"seconds": took, "crashes": crashes}


def lives(system: System, folder: Path) -> list[Figure]:
    """Checking runs in flight, bringing failed ones back, schedules at rest, and one that ticks for a day."""
    system, sizes = system.beside("lives"), system.sizes
    place = str(folder)

    def seconds(what: str, value: float, at_most: float | None = None, unit: str = "s") -> Figure:
        return Figure(workload="lives", what=what, unit=unit, value=value, at_most=at_most)

    checked = system.facts("check", directory=place, runs=sizes.lives)
    retried = system.facts("retry", directory=place, runs=sizes.lives)
    rested = system.facts("rest", directory=place, schedules=sizes.schedules)
    ticked = system.facts("day", directory=place, ticks=sizes.ticks)
    return [
        seconds(f"check of {sizes.lives:,} runs in flight", checked["seconds"], 30.0),
        seconds(f"retry of {sizes.lives:,} failed runs by a filter", retried["seconds"], 10.0),
        seconds("the same until all of them have ended", retried["ended"]),
        seconds(f"opening a file with {sizes.schedules:,} schedules at rest, and a start", rested["seconds"], 0.5),
        seconds("CPU while they rest", rested["idle"], 0.5, "%"),
        seconds(f"{sizes.ticks:,} ticks, each once, through {ticked['crashes']:,} crashes", ticked["seconds"]),
    ]


PHASES: Final[dict[str, Callable[..., Facts]]] = {phase.__name__: phase for phase in (check, retry, rest, day)}

if __name__ == "__main__":
    serve(PHASES)
