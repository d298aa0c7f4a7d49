"""Versions: a file of the first release, and workers with other code."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random

from proof import orders
from proof.crew import PATIENCE_SECONDS, Crew
from proof.load import Load
from proof.scenarios.life import OPTIONS, Broken, check, end, pids_of, until
from stepwell import AsyncEngine, DeterminismError
from stepwell.store.sqlite.file import migrate
from stepwell.store.sqlite.file.opening import open_database


def eight_migrate(folder: Path, seed: int) -> None:
    """Eight processes open a file of the first release at once: one migrates it, and its runs go on."""
    chance = Random(seed)
    numbers = {f"order-{number}": orders.actions_of(chance.getrandbits(32)) for number in range(1, 41)}
    numbers = {run_id: [action for action in actions if action != "letter"] for run_id, actions in numbers.items()}
    _make_old_file(folder, numbers)
    with Crew(folder, OPTIONS) as crew:
        members = [crew.hire() for _ in range(8)]
        load = Load(crew.database, seed)
        load.ordered |= numbers
        asyncio.run(load.carry_to_the_end())
        check([f"worker {member.name} ended: {crew.words.read_text()[-500:]}" for member in crew.fallen()])
        end(crew, load, pids_of(members))


def _make_old_file(folder: Path, numbers: Mapping[str, list[str]]) -> None:
    """Make a file as the first release would have, in which runs wait to be taken up."""
    scripts = folder / "scripts"
    scripts.mkdir()
    shutil.copy(Path(str(migrate.package_folder())) / "0001_initial.sql", scripts)
    modern = folder / "modern.db"

    async def start_all() -> None:
        async with AsyncEngine(modern, workflows=[]) as engine:
            for run_id, actions in numbers.items():
                await engine.start(orders.order, int(run_id.rpartition("-")[2]), actions, id=run_id)

    asyncio.run(start_all())
    database = open_database(folder / "orders.db", migrations=str(scripts))
    database.writer.execute("ATTACH ? AS modern", (str(modern),))
    columns = "id, workflow, status, input, fingerprint, created_at, updated_at, reason"
    database.writer.execute(f"INSERT INTO main.stepwell_runs ({columns}) SELECT {columns} FROM modern.stepwell_runs")
    database.writer.execute("DETACH modern")
    for table in orders.TABLES:
        database.writer.execute(table)
    database.close()


def two_versions(folder: Path, seed: int) -> None:
    """A worker leaves workflows that it lacks to one that has them; changed code stops a run, right code resumes it."""
    del seed

    async def go() -> None:
        async with AsyncEngine(crew.database, workflows=[]) as engine:
            crew.hire(serves=["job"])
            run = await engine.start(orders.changing, "text", id="changing")
            other = await engine.start(orders.job, "a job", id="job")
            await other.result(PATIENCE_SECONDS)
            if run.id in _begun(crew):
                raise Broken("a worker executed a workflow that it does not have")
            first = crew.hire(serves=["changing"])
            await until(lambda: run.id in _begun(crew), "the worker that has the workflow does not take it")
            await until(lambda: len(engine._opened().reads.journal(run.id)) >= 1, "its first step is not recorded")
            crew.remove(first)
            changed = crew.hire(serves=["changing"], version=2)
            await run.send("go on")
            try:
                await run.result(PATIENCE_SECONDS)
            except DeterminismError:
                pass
            else:
                raise Broken("changed code went on with a run of the old code")
            crew.remove(changed)
            crew.hire(serves=["changing"])
            await run.resume()
            if await run.result(PATIENCE_SECONDS) != ["text", "text"]:
                raise Broken("the run has another result after its repair")

    with Crew(folder, OPTIONS) as crew:
        asyncio.run(go())


def _begun(crew: Crew) -> set[str]:
    return {line.split(" ")[1] for line in crew.log.read_text().splitlines() if line.startswith("B ")}
