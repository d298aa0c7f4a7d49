"""The measured processes of `replay`: runs with long journals, and how long it takes until they go on after a restart.

``python -m bench.journals PHASE '{"option": …}'``; `bench.workloads` says what the figures are.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import apsw
import msgspec

from bench.measure import Facts, in_turns, serve
from stepwell import Engine, receive, step, workflow
from stepwell.sync import receive as sync_receive

#: Set by the first step after the journal's end.
_went_on = threading.Event()
_began = 0.0

_ROWS: Final = """
SELECT run, op, kind, name, fingerprint, at, value, attempt, started_at, position
FROM stepwell_journal ORDER BY position
"""


@step
async def noop(number: int) -> int:
    """Do nothing."""
    return number


@step
def plain_noop(number: int) -> int:
    """Do nothing."""
    return number


@step
async def goes_on() -> None:
    """Say that the journal was replayed."""
    global _began  # noqa: PLW0603 - the measured process has one run
    _began = perf_counter()
    _went_on.set()


@workflow
async def sequence(entries: int) -> None:
    """Call steps one after another."""
    for number in range(entries):
        await noop(number)
    while await receive("go", bool):
        await goes_on()


@workflow
def sequence_of_def_steps(entries: int) -> None:
    """Call steps one after another."""
    for number in range(entries):
        plain_noop(number)
    while sync_receive("go", bool):
        plain_goes_on()


@step
def plain_goes_on() -> None:
    """Say that the journal was replayed."""
    global _began  # noqa: PLW0603 - as above
    _began = perf_counter()
    _went_on.set()


@workflow
async def gathered(entries: int) -> None:
    """Call all steps at once."""
    await asyncio.gather(*map(noop, range(entries)))
    while await receive("go", bool):
        await goes_on()


@workflow
async def groups(entries: int) -> None:
    """Call ten steps at a time, each in a task."""
    for number in range(0, entries, 10):
        async with asyncio.TaskGroup() as group:
            for part in range(number, number + 10):
                group.create_task(noop(part))
    while await receive("go", bool):
        await goes_on()


@workflow
async def messages(entries: int) -> None:
    """Receive messages."""
    for _ in range(entries):
        await receive("part", int)
    while await receive("go", bool):
        await goes_on()


KINDS: Final[dict[str, Any]] = {
    "sequence": sequence,
    "def": sequence_of_def_steps,
    "gather": gathered,
    "groups": groups,
    "messages": messages,
}


def write(directory: str, kind: str, entries: int) -> Facts:
    """Make a run with a journal of so many entries, which waits then."""
    with Engine(Path(directory) / "runs.db", durability="normal", max_journal_entries=10 * entries) as engine:
        run = engine.start(KINDS[kind], entries, id="long")
        if kind == "messages":
            with engine.transaction() as tx:
                for number in range(entries):
                    tx.send("long", "part", number)
        while not (run.info().status == "waiting" and any(wait.name == "go" for wait in run.info().waiting_on)):
            time.sleep(0.01)
    return {}


def read(directory: str, entries: int, rounds: int) -> Facts:
    """Measure the seconds from opening the file to the first step after the journal, and those of reading its rows."""
    path = Path(directory) / "runs.db"

    def opened() -> float:
        _went_on.clear()
        began = perf_counter()
        with Engine(path, max_journal_entries=10 * entries) as engine:
            engine.send("long", "go", True)
            assert _went_on.wait(60)
            return _began - began

    return in_turns(rounds, raw=lambda: _rows(path), subject=opened)


def _rows(path: Path) -> float:
    """Read the journal and decode its values: what a replay does at the very least."""
    decode = msgspec.json.Decoder().decode
    began = perf_counter()
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    read = [(row, row[6] and decode(row[6])) for row in connection.execute(_ROWS)]
    took = perf_counter() - began
    assert read
    connection.close()
    return took


PHASES: Final[dict[str, Callable[..., Facts]]] = {phase.__name__: phase for phase in (write, read)}

if __name__ == "__main__":
    serve(PHASES)
