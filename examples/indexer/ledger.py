"""What the driver reads: the workers' side files and, read-only, the journal in the Stepwell file.

The driver is no engine. Any other process may look into a Stepwell file with any SQLite tool, while a worker writes it
and after the worker's death.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import apsw
import msgspec

from indexer.worker import Event
from indexer.workflows import index_file


@dataclass(frozen=True, slots=True)
class Recorded:
    """A file whose step's result is in the journal, since `at` (microseconds since the epoch)."""

    path: str
    at: int


@dataclass(frozen=True, slots=True)
class Execution:
    """A true execution of the step for a file, by the process `pid`."""

    pid: int
    path: str


def count_recorded(database: Path) -> int:
    """Return how many files have their result in the journal."""
    ((count,),) = _query(database, "SELECT count(*) FROM stepwell_journal WHERE kind = 'step' AND name = ?")
    return int(str(count))


def read_recorded(database: Path) -> list[Recorded]:
    """Return the files that have their result in the journal, in the order of recording."""
    sql = "SELECT value ->> '$.path', at FROM stepwell_journal WHERE kind = 'step' AND name = ? ORDER BY position"
    return [Recorded(str(path), int(str(at))) for path, at in _query(database, sql)]


def read_executions(log: Path) -> list[Execution]:
    """Return every execution of a step for a file, in order."""
    if not log.exists():
        return []
    return [Execution(*json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]


def read_events(output: Path) -> dict[str, Event]:
    """Return a worker's events by name; a line that its death cut off does not count."""
    lines = output.read_bytes().split(b"\n")[:-1]
    return {event.event: event for event in (msgspec.json.decode(line, type=Event) for line in lines)}


def _query(database: Path, sql: str) -> list[tuple[object, ...]]:
    """Run a query on a connection of its own, so that no reader is ever left standing in the worker's way."""
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(5_000)
        return list(connection.execute(sql, (index_file.name,)))
    finally:
        connection.close()
