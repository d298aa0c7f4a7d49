"""Files that are taken away from the workers: moved, replaced, deleted."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from proof.crew import Crew, Member
from proof.load import Load
from proof.scenarios.life import CUSTOMERS, OPTIONS, Broken, Scenario, check, live, pids_of, until
from proof.verdict import Evidence, judge


def _taken_away(take: Callable[[str], None], put_back: Callable[[str], None], words: str) -> Scenario:
    """Return the scenario in which `take` does something to the files of a database; `words` are what workers say."""

    def scenario(folder: Path, seed: int) -> None:
        members: list[Member] = []

        async def act(crew: Crew, _load: Load) -> None:
            take(crew.database)
            await until(
                lambda: len(crew.fallen()) == len(crew.present),
                f"{[member.name for member in crew.present if member not in crew.fallen()]} write on",
            )

        with Crew(folder, OPTIONS) as crew:
            load = Load(crew.database, seed, customers=CUSTOMERS, hang_seconds=10.0)
            members += [crew.hire() for _ in range(3)]
            with suppress(Exception):  # the client's engine refuses to close, too
                asyncio.run(live(crew, load, act))
            running = [member.name for member in crew.present if member not in crew.fallen()]
            check([f"worker {name} goes on" for name in running])
            said = crew.words.read_text()
            if words not in said:
                raise Broken(f"no worker says {words!r}: {said[-500:]}")
        put_back(str(folder / "orders.db"))
        with Crew(folder, OPTIONS, prefix="v") as crew:
            members += [crew.hire() for _ in range(2)]
            asyncio.run(load.carry_to_the_end())
            crew.drain()
            logs = [crew.log.with_name("log-w"), crew.log]
            evidence = Evidence.gather(crew.database, logs, load.offset)
        check([*load.failures, *judge(evidence, pids=pids_of(members)), *load.missing(evidence.ledger)])

    return scenario


def _move_away(path: str) -> None:
    Path(path).rename(path + ".away")


def _move_back(path: str) -> None:
    Path(path + ".away").replace(path)


def _copy_over(path: str) -> None:
    os.link(path, path + ".away")
    # Not in this process, in which the engine guards its file.
    subprocess.run(["cp", path, path + ".copy"], check=True)
    Path(path + ".copy").replace(path)


def _delete(path: str) -> None:
    os.link(path, path + ".away")
    Path(path).unlink()


moved = _taken_away(_move_away, _move_back, "orders.db")
restored = _taken_away(_copy_over, _move_back, "orders.db")
deleted = _taken_away(_delete, _move_back, "orders.db")
lock_deleted = _taken_away(lambda path: Path(path + "-lock").unlink(), lambda _path: None, "-lock")
