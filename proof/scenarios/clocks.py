"""Clocks that are wrong: they are set back and forth, and differ from process to process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw

from proof import orders
from proof.crew import PATIENCE_SECONDS, Crew, Member
from proof.load import Load
from proof.scenarios.life import CUSTOMERS, OPTIONS, TIMES, Broken, end, live, pids_of
from stepwell import AsyncEngine

_HOUR: Final = 3600 * 1_000_000
_YEAR: Final = 365 * 24 * _HOUR
_ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Pacific/Apia", "Asia/Kolkata")


def wall_clocks(folder: Path, seed: int) -> None:
    """Wall clocks are set by hours and a year, time zones differ: all workers have one time, and no timer is early."""
    chance, walls = Random(seed), [folder / f"wall-{number}" for number in range(3)]
    members: list[Member] = []

    def set_clock(wall: Path) -> None:
        new = wall.with_suffix(".new")
        new.write_text(str(chance.choice((-_YEAR, -5 * _HOUR, -_HOUR, 0, _HOUR, 7 * _HOUR, _YEAR))))
        new.replace(wall)

    async def act(crew: Crew, _load: Load) -> None:
        for number in range(TIMES):
            for wall in walls:
                set_clock(wall)
            await asyncio.sleep(0.05)
            # One that opens the file while its clock is wrong.
            crew.remove(crew.present[0])
            members.append(crew.hire(wall=str(walls[number % 3]), zone=chance.choice(_ZONES)))

    for wall in walls:
        set_clock(wall)
    began = orders.steady()
    with Crew(folder, OPTIONS) as crew:
        load = Load(crew.database, seed, customers=CUSTOMERS)
        members += [crew.hire(wall=str(wall), zone=chance.choice(_ZONES)) for wall in walls]
        asyncio.run(live(crew, load, act))
        evidence = end(crew, load, pids_of(members))
        # The clock of whoever opened the file first is everybody's, however wrong it is.
        times = [record.at - load.offset for record in evidence.records]
        if not began - 1_000_000 <= min(times) <= max(times) <= orders.steady() + 1_000_000:
            raise Broken(f"entries are from {min(times)} to {max(times)}, though all was written since {began}")
        last = max(times) + load.offset
    # All have left, the clock is behind, and whoever comes first brings it: time does not run backwards for that.
    walls[0].write_text(str(-_YEAR))
    with Crew(folder, OPTIONS, prefix="v") as crew:
        member = crew.hire(wall=str(walls[0]), zone="UTC")
        asyncio.run(_one_run(crew.database, "late"))
        member.wait(0)
        crew.drain()
    connection = apsw.Connection(str(folder / "orders.db"), flags=apsw.SQLITE_OPEN_READONLY)
    sql = "SELECT min(at) FROM stepwell_journal WHERE run IN (SELECT key FROM stepwell_runs WHERE id = 'late')"
    first: Any = connection.execute(sql).fetchall()[0]
    connection.close()
    if first[0] < last:
        raise Broken(f"an entry was written at {first[0]}, after one at {last}")


async def _one_run(database: str, run_id: str) -> None:
    async with AsyncEngine(database, workflows=[]) as engine:
        run = await engine.start(orders.job, run_id, id=run_id)
        if await run.result(PATIENCE_SECONDS) != run_id:
            raise Broken(f"run {run_id} has another result")
