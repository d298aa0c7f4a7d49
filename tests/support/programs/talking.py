"""A program that talks with runs: updates, streams, progress, polls, a queue whose runs move and go; see `everything`.

Asked for again after a kill it does only what has not been done: so each act must have been done wholly, or not at all.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import stepwell
from stepwell import (
    Engine,
    Queue,
    Retry,
    RunNotFound,
    RunNotQueued,
    current,
    poll_until,
    receive,
    step,
    stream,
    workflow,
)

sys.path.insert(0, str(Path(__file__).parents[3]))

# It is started as a script, so only then is there a folder in which this is found.
from tests.support.programs import everything
from tests.support.programs.everything import acted, square

LINE = Queue("talking.line", concurrency=5, partition_per_worker=5)


@step(name="writes")
async def writes(number: int) -> int:
    acted()
    for index in range(3):
        await stream("items", list[int]).write([number, index])
    return number


@step(name="says", retry=Retry(attempts=4, delay=0))
def says() -> int:
    acted()
    last = current().last_progress
    done = 1 if last is None else int(last.done) + 1
    current().progress(done, 3)
    if done < 3:
        raise OSError("not yet")
    return done


@step(name="asks")
async def asks() -> int:
    acted()
    return current().attempt


@workflow(name="talks")
async def talks() -> list[Any]:
    heard: list[int] = []

    def is_new(number: int) -> None:
        if number in heard:
            raise ValueError("heard already")

    @stepwell.update(validate=is_new)
    def note(number: int) -> int:
        heard.append(number)
        return len(heard)

    @stepwell.update
    async def work_on(number: int) -> int:
        heard.append(await square(number))
        return len(heard)

    written = await asyncio.gather(*map(writes, range(4)))
    await stream("items", list[int]).close()
    far = says()
    polled = await poll_until(asks, until=lambda tries: tries >= 3, every=0.001)
    await receive("close")
    return [written, far, polled, heard]


def talk(engine: Engine) -> dict[str, Any]:
    run = engine.start(talks, id="talks")
    answers = [run.update("note", 1, key="a"), run.update("work_on", 2, key="b"), run.update("note", 3, key="c")]
    again = [run.update("note", 1, key="a"), run.update("work_on", 2, key="b"), run.update("note", 3, key="c")]
    assert answers == again
    items = sorted(map(tuple, run.stream("items", list[int], last_attempt=True)))
    offsets = [item.offset for item in run.stream("items", list[int]).items()]
    assert offsets == list(range(len(offsets))), offsets
    run.send("close", key="once")
    return {"answers": answers, "items": items, "talked": run.result(timeout=60)}


def stand_in_line(engine: Engine) -> dict[str, Any]:
    later = timedelta(hours=1)
    moved = engine.start(square, 3, id="moved", queue=LINE, partition="a", delay=later)
    with suppress(RunNotQueued, stepwell.RunEnded):
        moved.reschedule(0)
    if not engine.list(id_prefix="last"):
        engine.start(square, 4, id="gone", queue=LINE, partition="a", delay=later)
        with suppress(RunNotFound):
            engine.get("gone").delete()
    engine.start(square, 5, id="last", queue=LINE, partition="a").result(timeout=60)
    return {"moved": moved.result(timeout=60), "left": sorted(run.id for run in engine.list("queue:talking.line"))}


def act(engine: Engine) -> dict[str, Any]:
    """Do what has not been done, and say what there is in the end."""
    return {**talk(engine), **stand_in_line(engine)}


if __name__ == "__main__":
    everything.begin(act)
