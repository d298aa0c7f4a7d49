"""The raw baselines: what the same disk and the same Python do without an engine.

They use SQLite in the mode in which the engine uses it (WAL, synchronous=FULL, checkpoints by hand), and one table of
the plainest kind. Their checkpoints are not part of the measured time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import apsw

from bench.measure import p50, percentile

_INSERT = "INSERT INTO log (run, seq, value) VALUES (?, ?, ?)"


def connect(path: Path) -> apsw.Connection:
    """Open the baseline's own database, made if missing."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("wal_autocheckpoint", 0)
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2
    connection.execute(
        "CREATE TABLE IF NOT EXISTS log (position INTEGER PRIMARY KEY, run INTEGER, seq INTEGER, value TEXT)"
    )
    return connection


def checkpoint(connection: apsw.Connection) -> None:
    """Empty the write-ahead log."""
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def single_commits(connection: apsw.Connection, count: int) -> list[float]:
    """Return the seconds that each of `count` transactions of one row took."""
    seconds = []
    for number in range(count):
        began = perf_counter()
        connection.execute(_INSERT, (1, number, "1"))
        seconds.append(perf_counter() - began)
    return seconds


def single_commit_p50(connection: apsw.Connection, count: int) -> float:
    """Return the median of `single_commits`, with an empty log at the beginning."""
    checkpoint(connection)
    return p50(single_commits(connection, count))


def group_commits(connection: apsw.Connection, groups: int, rows: int = 1_000) -> float:
    """Return the rows a second of transactions of `rows` rows."""
    checkpoint(connection)
    began = perf_counter()
    for group in range(groups):
        with connection:
            connection.executemany(_INSERT, [(group, number, "1") for number in range(rows)])
    return groups * rows / (perf_counter() - began)


class _GroupCommit:
    """Appends rows; whatever is there when the loop comes round is one transaction."""

    def __init__(self, connection: apsw.Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._rows: list[tuple[int, int, str]] = []
        self._waiting: list[asyncio.Future[None]] = []

    def append(self, run: int, number: int, value: str) -> asyncio.Future[None]:
        if not self._rows:
            self._loop.call_soon(self._commit)
        recorded = self._loop.create_future()
        self._rows.append((run, number, value))
        self._waiting.append(recorded)
        return recorded

    def _commit(self) -> None:
        rows, waiting = self._rows, self._waiting
        self._rows, self._waiting = [], []
        with self._connection:
            self._connection.executemany(_INSERT, rows)
        for recorded in waiting:
            recorded.set_result(None)


async def _noop(number: int) -> int:
    return number


async def _run(log: _GroupCommit, run: int, steps: int) -> int:
    value = 0
    for number in range(steps):
        value = await _noop(number)
        await log.append(run, number, str(value))
    return value


def prototype(connection: apsw.Connection, runs: int, steps: int) -> float:
    """Return the steps a second of `runs` coroutines whose results are recorded in group commits.

    The bare asyncio prototype: what remains of an engine without ids, replay, codec, states or output gate.
    """

    async def everything() -> float:
        log = _GroupCommit(connection, asyncio.get_running_loop())
        began = perf_counter()
        await asyncio.gather(*(_run(log, run, steps) for run in range(runs)))
        return runs * steps / (perf_counter() - began)

    checkpoint(connection)
    return asyncio.run(everything())


def open_and_commit(path: Path) -> float:
    """Return the seconds to open an existing database and commit one row."""
    connect(path).close()
    began = perf_counter()
    connection = connect(path)
    connection.execute(_INSERT, (1, 1, "1"))
    seconds = perf_counter() - began
    connection.close()
    return seconds


def bytes_per_row(path: Path, groups: int = 10, rows: int = 1_000) -> float:
    """Return by how many bytes a row makes the file grow, checkpointed."""
    connection = connect(path)
    checkpoint(connection)
    before = path.stat().st_size
    group_commits(connection, groups, rows)
    checkpoint(connection)
    grown = (path.stat().st_size - before) / (groups * rows)
    connection.close()
    return grown


def summary(path: Path, single: int, groups: int) -> dict[str, float]:
    """Return what this disk can do: single commits and group commits of 1,000 rows."""
    connection = connect(path)
    single_commits(connection, min(single, 50))
    seconds = single_commits(connection, single)
    rows = group_commits(connection, groups)
    connection.close()
    return {
        "insert_commit_p50_ms": p50(seconds) * 1e3,
        "insert_commit_p99_ms": percentile(seconds, 99) * 1e3,
        "group_commit_1000_rows_per_second": rows,
    }


def against(path: Path, measure: Callable[[apsw.Connection], float]) -> Callable[[], float]:
    """Return a subject for `bench.measure.in_turns` that measures on the baseline's own connection."""
    connection = connect(path)
    return lambda: measure(connection)
