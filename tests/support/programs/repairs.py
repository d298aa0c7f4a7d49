"""A program that does to runs what is done from outside, and starts some otherwise than plainly; see `everything`.

It pauses, forks, settles, acts on many, starts a step, an id again and a schedule's tick, and bears failures. Asked for
again after a kill, each has the same outcome.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import stepwell
from stepwell import Engine, PermanentError, RunEnded, receive, step, workflow

sys.path.insert(0, str(Path(__file__).parents[3]))

# It is started as a script, so only then is there a folder in which this is found.
from tests.support.programs import everything
from tests.support.programs.everything import TICK, acted, double, echo, square


@step(name="picky")
async def picky(number: int) -> int:
    acted()
    if number == 2:
        raise PermanentError("not this one")
    return number


@step(name="stuck")
async def stuck() -> int:
    acted()
    await asyncio.Event().wait()
    return 0


@workflow(name="unsure")
async def unsure() -> int:
    return await stuck() + 1


@workflow(name="in two parts")
async def in_two_parts() -> str:
    before = str(await echo("before"))
    await asyncio.sleep(TICK)
    return before + str(await echo(" after"))


@workflow(name="replaced")
async def replaced(number: int) -> int:
    await asyncio.sleep(TICK)
    return await square(number)


@workflow(name="many")
async def many() -> str:
    return await receive("never", str)


@workflow(name="bears")
async def bears() -> list[Any]:
    return [[each.status, each.value] for each in await stepwell.map(picky, range(4), tolerate=1)]


def settle(run: stepwell.Run[int]) -> None:
    while run.info().ended_at is None:
        try:
            run.settle(1, result=41)
        except (stepwell.InvalidArgument, RunEnded):  # it has not come to its step yet, or has it behind it
            time.sleep(TICK)
        else:
            return


def start_again(engine: Engine, number: int, policy: Literal["attach", "replace"]) -> None:
    with suppress(stepwell.RunConflict):  # the second one was there already, when this was killed
        engine.start(replaced, number, id="replaced", on_conflict=policy)


def repair(engine: Engine) -> dict[str, Any]:
    halves, open_ended = engine.start(in_two_parts, id="paused"), engine.start(unsure, id="unsure")
    crowd = [engine.start(many, id=f"many-{number}") for number in range(3)]
    bearing = engine.start(bears, id="bears")
    start_again(engine, 1, "attach")
    start_again(engine, 2, "replace")
    with suppress(RunEnded):
        halves.pause(reason="lunch")
    with suppress(RunEnded, stepwell.RunNotPaused):
        halves.unpause()
    settle(open_ended)
    engine.bulk("cancel", "workflow:many")
    schedule = engine.schedule(double, 8, id="yearly", cron="0 0 1 1 *")
    found: dict[str, Any] = {"job": engine.start(square, 6, id="job").result(timeout=60)}
    found["halves"] = halves.result(timeout=60)
    found["forked"] = halves.fork(3, id="forked", results={1: "elsewhere"}).result(timeout=60)
    found["settled"] = open_ended.result(timeout=60)
    found["replaced"] = engine.get("replaced").result(timeout=60)
    found["triggered"] = schedule.trigger().result(timeout=60)
    found["borne"] = bearing.result(timeout=60)
    found["many"] = []
    for run in crowd:
        with suppress(stepwell.RunCancelled):
            found["many"].append(run.result(timeout=60))
    return found


if __name__ == "__main__":
    everything.begin(repair)
