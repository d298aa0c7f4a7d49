"""The raw baselines: what the same disk and the same Python do without an engine.

They use SQLite in the mode in which the engine uses it (WAL, synchronous=FULL, checkpoints by hand). Their checkpoints
are not part of the measured time. Single and group commits append to a table of the plainest kind; the prototype
writes rows that hold what a journal must: without that, it would be no prototype of an engine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, time_ns

import apsw

from bench.measure import in_turns, p50, percentile

_INSERT = "INSERT INTO log (run, seq, value) VALUES (?, ?, ?)"
_RECORD = """
INSERT INTO journal (run, op, kind, name, fingerprint, at, value, attempt, started_at)
VALUES (?, ?, 'step', 'bench.noop', 0, ?, ?, 1, ?)
"""
_TABLES = """
CREATE TABLE IF NOT EXISTS log (position INTEGER PRIMARY KEY, run INTEGER, seq INTEGER, value TEXT);
CREATE TABLE IF NOT EXISTS journal (
    position INTEGER PRIMARY KEY, run INTEGER NOT NULL, op INTEGER NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    fingerprint INTEGER NOT NULL, at INTEGER NOT NULL, value ANY, attempt INTEGER NOT NULL, started_at INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS journal_by_run ON journal (run);
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY, state TEXT NOT NULL, name TEXT NOT NULL, arguments TEXT NOT NULL, result TEXT,
    created_at INTEGER NOT NULL, started_at INTEGER, ended_at INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS jobs_waiting ON jobs (id) WHERE state = 'waiting';
"""
_ENQUEUE = "INSERT INTO jobs (state, name, arguments, created_at) VALUES ('waiting', 'bench.noop', ?, ?)"
_CLAIM = """
UPDATE jobs SET state = 'running', started_at = ?
WHERE id IN (SELECT id FROM jobs WHERE state = 'waiting' ORDER BY id LIMIT ?) RETURNING id, arguments
"""
_FINISH = "UPDATE jobs SET state = 'done', result = ?, ended_at = ? WHERE id = ?"

Row = tuple[int, int, int, str, int] | tuple[int, int, str]


def connect(path: Path) -> apsw.Connection:
    """Open the baseline's own database, made if missing."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("wal_autocheckpoint", 0)
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2
    connection.execute(_TABLES)
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

    def __init__(self, connection: apsw.Connection, loop: asyncio.AbstractEventLoop, sql: str) -> None:
        self._connection = connection
        self._loop = loop
        self._sql = sql
        self._rows: list[Row] = []
        self._waiting: list[asyncio.Future[None]] = []

    def append(self, row: Row) -> asyncio.Future[None]:
        if not self._rows:
            self._loop.call_soon(self._commit)
        recorded = self._loop.create_future()
        self._rows.append(row)
        self._waiting.append(recorded)
        return recorded

    def _commit(self) -> None:
        rows, waiting = self._rows, self._waiting
        self._rows, self._waiting = [], []
        with self._connection:
            self._connection.executemany(self._sql, rows)
        for recorded in waiting:
            recorded.set_result(None)


async def _noop(number: int) -> int:
    return number


async def _recorded_run(log: _GroupCommit, run: int, steps: int) -> None:
    for number in range(steps):
        started_at = time_ns() // 1_000
        value = await _noop(number)
        await log.append((run, number, time_ns() // 1_000, json.dumps(value), started_at))


async def _plain_run(log: _GroupCommit, run: int, steps: int) -> None:
    for number in range(steps):
        value = await _noop(number)
        await log.append((run, number, str(value)))


def prototype(connection: apsw.Connection, runs: int, steps: int, *, plain: bool = False) -> float:
    """Return the steps a second of `runs` coroutines whose results are recorded in group commits.

    The bare asyncio prototype: what remains of an engine without ids, replay, states or output gate. Each step leaves a
    row with its run, number, kind, name, two times and result as JSON, found by an index on the run; where `plain`, it
    leaves three columns without an index.
    """
    sql, coroutine = (_INSERT, _plain_run) if plain else (_RECORD, _recorded_run)

    async def everything() -> float:
        log = _GroupCommit(connection, asyncio.get_running_loop(), sql)
        began = perf_counter()
        await asyncio.gather(*(coroutine(log, run, steps) for run in range(runs)))
        return runs * steps / (perf_counter() - began)

    checkpoint(connection)
    return asyncio.run(everything())


def jobs_per_second(connection: apsw.Connection, count: int, batch: int = 250) -> float:
    """Return the jobs a second that one worker does of those that wait in a table, `batch` claimed in a transaction.

    What a home-made queue is: the results of a batch are recorded in the transaction that claims the next one.
    """
    now = time_ns() // 1_000
    with connection:
        connection.executemany(_ENQUEUE, [(json.dumps([number]), now) for number in range(count)])
    checkpoint(connection)
    done: list[tuple[str, int, int]] = []
    remaining = count
    began = perf_counter()
    while remaining:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_FINISH, done)
        claimed = list(connection.execute(_CLAIM, (time_ns() // 1_000, batch)))
        connection.execute("COMMIT")
        remaining -= len(done)
        done = [(json.dumps(json.loads(arguments)[0]), time_ns() // 1_000, key) for key, arguments in claimed]
    return count / (perf_counter() - began)


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


def summary(path: Path, single: int, groups: int, runs: int) -> dict[str, float]:
    """Return what this machine can do: single commits, group commits of 1,000 rows, and both prototypes."""
    connection = connect(path)
    single_commits(connection, min(single, 50))
    seconds = single_commits(connection, single)
    rows = group_commits(connection, groups)
    prototypes = in_turns(
        5,
        journal=lambda: prototype(connection, runs, 10),
        plain=lambda: prototype(connection, runs, 10, plain=True),
    )
    connection.close()
    return {
        "insert_commit_p50_ms": p50(seconds) * 1e3,
        "insert_commit_p99_ms": percentile(seconds, 99) * 1e3,
        "group_commit_1000_rows_per_second": rows,
        "prototype_steps_per_second": p50(prototypes["journal"]),
        "prototype_with_plain_rows_steps_per_second": p50(prototypes["plain"]),
    }


def against(path: Path, measure: Callable[[apsw.Connection], float]) -> Callable[[], float]:
    """Return a subject for `bench.measure.in_turns` that measures on the baseline's own connection."""
    connection = connect(path)
    return lambda: measure(connection)
