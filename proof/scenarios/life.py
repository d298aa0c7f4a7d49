"""The life of a file in a scenario: workers and a client at work, something that happens, an orderly end, a verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from proof.crew import PATIENCE_SECONDS, Crew, Member
from proof.load import Load
from proof.patience import Patience
from proof.verdict import Evidence, judge

OPTIONS: Final[Mapping[str, Any]] = {"max_crashes": 1000, "max_waiting_in_memory": 8}
CUSTOMERS: Final = 8
#: How often a scenario that does something again and again does it.
TIMES: Final = 12

#: What a scenario does while the client is at work.
Act = Callable[[Crew, Load], Awaitable[None]]
Scenario = Callable[[Path, int], None]


class Impossible(Exception):
    """This machine lacks what the scenario needs."""


class Broken(Exception):
    """What the scenario expected did not happen."""


async def live(crew: Crew, load: Load, act: Act) -> None:
    """Have the workers and the client at work while `act` happens, and the client finish what it began."""
    load.on_hang = crew.tell_where
    await load.open()
    working = asyncio.ensure_future(load.run())
    try:
        await load.has_begun.wait()
        await act(crew, load)
    finally:
        load.over = True
        await working
        await load.engine.close()


def end(crew: Crew, load: Load, pids: Mapping[str, int]) -> Evidence:
    """End the workers in order and raise `Broken` for whatever is wrong with the file."""
    late = crew.drain()
    if Path(crew.database + "-wal").exists():
        raise Broken("the log is left over, though all have closed the file")
    evidence = Evidence.gather(crew.database, [crew.log], load.offset)
    wrong = [*load.failures, *judge(evidence, pids=pids), *load.missing(evidence.ledger)]
    wrong += [f"worker {name} does not end when it is told to" for name in late]
    check(wrong)
    return evidence


def check(wrong: list[str]) -> None:
    """Raise `Broken` where anything is wrong."""
    if wrong:
        raise Broken(f"{len(wrong)}: {wrong[0]}")


async def until(fact: Callable[[], bool], what: str) -> None:
    """Wait for a fact of another process."""
    patience = Patience(PATIENCE_SECONDS)
    while not fact():
        if patience.is_over():
            raise Broken(what)
        await asyncio.sleep(0.01)


def pids_of(members: list[Member]) -> dict[str, int]:
    """Return the process of each worker, for the verdict."""
    return {member.name: member.pid for member in members}


def size_bytes(path: Path) -> int:
    """Return how large a file is."""
    return path.stat().st_size
