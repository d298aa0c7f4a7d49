"""Ends of workers: by a run that kills them, and in order."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

from proof import orders
from proof.crew import PATIENCE_SECONDS, Crew, Member
from proof.load import Load
from proof.scenarios.life import CUSTOMERS, OPTIONS, TIMES, Broken, check, end, live, pids_of
from proof.verdict import Evidence, judge, repetitions
from stepwell import RunCrashed


def crash_loop(folder: Path, seed: int) -> None:
    """A run that kills its workers is given up after `max_crashes`, and its neighbours end as they should."""
    members: list[Member] = []

    async def act(crew: Crew, load: Load) -> None:
        run = await load.engine.start(orders.deadly, id="deadly")
        ending = asyncio.ensure_future(run.result(2 * PATIENCE_SECONDS))
        died, told_at = 0, math.inf
        # The death of the worker that died last may be seen only after the end of the run, which others tell.
        while not ending.done() or (died < 3 and time.monotonic() < told_at + PATIENCE_SECONDS):
            if ending.done():
                told_at = min(told_at, time.monotonic())
            for member in crew.fallen():
                died += 1
                crew.remove(member)
                members.append(crew.hire())
            await asyncio.sleep(0.01)
        try:
            await ending
        except RunCrashed:
            pass
        else:
            raise Broken("a run that kills its workers has a result")
        if died != 3:
            raise Broken(f"the run killed {died} workers, though max_crashes is 3")

    options = {**OPTIONS, "max_crashes": 3}
    with Crew(folder, options) as crew:
        load = Load(crew.database, seed, customers=CUSTOMERS)
        members += [crew.hire() for _ in range(3)]
        asyncio.run(live(crew, load, act))
        crew.drain()
        evidence = Evidence.gather(crew.database, [crew.log], load.offset)
        evidence.unsettled = [text for text in evidence.unsettled if "'deadly'" not in text]
        check([*load.failures, *judge(evidence, pids=pids_of(members)), *load.missing(evidence.ledger)])


def drains(folder: Path, seed: int) -> None:
    """Workers are told to end, one after the other: all goes on elsewhere, and no step is executed twice."""
    members: list[Member] = []

    async def act(crew: Crew, _load: Load) -> None:
        for _ in range(TIMES):
            leaving = crew.present[0]
            leaving.send(15)
            members.append(crew.hire())
            if not await asyncio.to_thread(leaving.wait):
                raise Broken(f"worker {leaving.name} does not end when it is told to")
            crew.remove(leaving)

    with Crew(folder, OPTIONS) as crew:
        load = Load(crew.database, seed, customers=CUSTOMERS)
        members += [crew.hire() for _ in range(3)]
        asyncio.run(live(crew, load, act))
        evidence = end(crew, load, pids_of(members))
        if repeated := repetitions(evidence):
            raise Broken(f"{repeated} executions were repeated, though every worker ended in order")
