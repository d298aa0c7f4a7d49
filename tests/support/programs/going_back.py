"""A program that brings runs back, and does away with some; see `everything`.

It retries, rewinds and restarts runs, terminates and deletes, one and many, and has a schedule make up for years. Asked
for again after a kill it does only what has not been done: so each act must have been done wholly, or not at all.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import stepwell
from stepwell import Engine, PermanentError, Run, RunEnded, Schedule, receive, step, workflow

sys.path.insert(0, str(Path(__file__).parents[3]))

# It is started as a script, so only then is there a folder in which this is found.
from tests.support.programs import everything
from tests.support.programs.everything import TICK, acted, double, echo, square


def mended() -> Path:
    return Path(f"{everything.LOG}.mended")


@step(name="breaks")
async def breaks(number: int) -> int:
    acted()
    if not mended().exists():
        raise PermanentError("not mended yet")
    return number


@workflow(name="broken")
async def broken(number: int) -> list[int]:
    return [await square(number), await breaks(number)]


@workflow(name="two words")
async def two_words() -> str:
    return f"{await echo('before')} {await echo('after')}"


@workflow(name="endless")
async def endless() -> str:
    return await receive("never", str)


@workflow(name="goes")
async def goes(number: int) -> int:
    return number


def until(holds: Callable[[], object]) -> None:
    while not holds():
        time.sleep(TICK)


def acts_of(run: Run[Any]) -> list[str]:
    return [act.act for act in run.acts() if act.act != "takeover"]


def once(run: Run[Any], act: Literal["retry", "rewind", "restart"], do: Callable[[], object]) -> Any:
    if act not in acts_of(run):
        do()
    return run.result(timeout=60)


def on_many(engine: Engine, act: Literal["retry", "delete", "terminate"], filter: str) -> list[int]:
    if act not in [bulk.act for bulk in engine.bulks()]:
        engine.bulk(act, filter)
    until(lambda: all(bulk.ended_at is not None for bulk in engine.bulks()))
    return next([bulk.total, bulk.refused] for bulk in engine.bulks() if bulk.act == act)


def bring_back(engine: Engine) -> dict[str, Any]:
    one, crowd = engine.start(broken, 2, id="one"), [engine.start(broken, n, id=f"broken-{n}") for n in range(3)]
    changed, anew = engine.start(two_words, id="changed"), engine.start(two_words, id="anew")
    everyone: list[Run[Any]] = [one, *crowd, changed, anew]
    for run in everyone:
        with suppress(stepwell.StepwellError, PermanentError):
            run.result(timeout=60)
    mended().touch()
    found: dict[str, Any] = {"one": once(one, "retry", one.retry)}
    found["many"] = on_many(engine, "retry", "id:broken-* status:failed"), [run.result(timeout=60) for run in crowd]
    found["changed"] = once(changed, "rewind", lambda: changed.rewind(2, results={1: "instead"}))
    found["anew"] = once(anew, "restart", anew.restart)
    found["chapters"] = [[each.beginning for each in run.chapters()] for run in (one, changed, anew)]
    found["acts"] = [acts_of(run) for run in everyone]
    return found


def do_away(engine: Engine) -> dict[str, Any]:
    standing = [engine.start(endless, id=f"endless-{number}") for number in range(3)]
    with suppress(RunEnded):
        standing[0].terminate(reason="no more")
    found: dict[str, Any] = {"terminated": on_many(engine, "terminate", "id:endless-* created>-1d")}
    found["told"] = [[run.status, acts_of(run)] for run in standing]
    if "delete" not in [bulk.act for bulk in engine.bulks()]:
        for number in range(4):
            engine.start(goes, number, id=f"gone-{number}").result(timeout=60)
        engine.get("gone-0").delete()
    found["deleted"] = on_many(engine, "delete", "id:gone-*")
    found["left"] = [run.id for run in engine.list(id_prefix="gone-")]
    return found


def make_up(engine: Engine) -> dict[str, Any]:
    if not engine.schedules():
        engine.declare_schedules([Schedule(double, 4, id="yearly", cron="0 0 1 1 *")], group="all")
    schedule = engine.get_schedule("yearly")
    done = [act.act for act in schedule.info().acts]
    if "backfill" not in done:
        schedule.backfill(datetime(2020, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC))
    if "pause" not in done:
        schedule.pause(note="for a while")
    if "change" not in done:
        schedule.change(limit=3)
    if "unpause" not in done:
        schedule.unpause()
    until(lambda: not schedule.info().backfills)
    info = schedule.info()
    runs = [[run.id, run.result(timeout=60)] for run in engine.list(id_prefix="yearly@")]
    return {
        "made up": sorted(runs),
        "schedule": [info.paused, info.limit, [act.act for act in info.acts]],
    }


def act(engine: Engine) -> dict[str, Any]:
    """Do what has not been done, and say what there is in the end."""
    return {**bring_back(engine), **do_away(engine), **make_up(engine)}


if __name__ == "__main__":
    everything.begin(act)
