"""Other programs at the same file, with an SQLite of their own."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import apsw

from proof.crew import Crew
from proof.load import Load
from proof.scenarios.life import CUSTOMERS, OPTIONS, Broken, end, live, pids_of, size_bytes, until
from stepwell.errors import SecondSqliteError
from stepwell.store.sqlite.writer import WAL_LIMIT_BYTES

#: Reads and writes with the SQLite of Python's library until its input ends; prints how many rows it wrote.
_OTHER_SQLITE: Final = """
import select, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("CREATE TABLE IF NOT EXISTS notes (n INTEGER)")
count = 0
while not select.select([sys.stdin], [], [], 0.002)[0]:
    connection.execute("SELECT count(*), max(at) FROM stepwell_journal").fetchall()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO notes VALUES (?)", (count,))
    connection.execute("COMMIT")
    count += 1
connection.close()
print(count)
"""

#: Keeps a read transaction open until its input ends.
_READER: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
first = connection.execute("SELECT count(*) FROM stepwell_journal").fetchall()
print("reading", flush=True)
sys.stdin.read()
assert connection.execute("SELECT count(*) FROM stepwell_journal").fetchall() == first
connection.execute("COMMIT")
print("done")
"""


def _script(text: str, database: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def other_sqlite(folder: Path, seed: int) -> None:
    """Another process reads and writes with its own SQLite; in a process of an engine that is refused."""
    counts: list[int] = []

    async def act(crew: Crew, load: Load) -> None:
        try:
            sqlite3.connect(crew.database).execute("SELECT count(*) FROM stepwell_runs")
        except SecondSqliteError:
            pass
        else:
            raise Broken("a second SQLite was let into the client's process")
        other = _script(_OTHER_SQLITE, crew.database)
        finished = load.finished
        await until(lambda: load.finished > finished + 50 or bool(load.failures), "runs do not end any more")
        output, _ = await asyncio.to_thread(other.communicate)
        counts.append(int(output or -1))

    with Crew(folder, OPTIONS) as crew:
        load = Load(crew.database, seed, customers=CUSTOMERS)
        members = [crew.hire() for _ in range(3)]
        asyncio.run(live(crew, load, act))
        end(crew, load, pids_of(members))
        connection = apsw.Connection(crew.database, flags=apsw.SQLITE_OPEN_READONLY)
        found = connection.execute("SELECT count(*) FROM notes").fetchall()
        connection.close()
    if found != [(counts[0],)] or counts[0] < 1:
        raise Broken(f"the other program wrote {counts[0]} rows, and {found} are there")


def long_reader(folder: Path, seed: int) -> None:
    """Another process reads for long: nobody waits for it, and the log shrinks again when it is done."""

    async def act(crew: Crew, load: Load) -> None:
        log = Path(crew.database + "-wal")
        reader = _script(_READER, crew.database)
        assert reader.stdout is not None
        await asyncio.to_thread(reader.stdout.readline)
        finished, began = load.finished, time.monotonic()
        await until(
            lambda: size_bytes(log) > 2 * WAL_LIMIT_BYTES or time.monotonic() > began + 10 or bool(load.failures),
            "the log does not grow",
        )
        if load.finished == finished:
            raise Broken("no run ended while another process was reading")
        output, _ = await asyncio.to_thread(reader.communicate)
        if "done" not in output:
            raise Broken("the reader's view changed")
        # The log is used from its beginning again; it need not become shorter before all have left.
        grown, finished = size_bytes(log), load.finished
        await until(lambda: load.finished > finished + 200 or bool(load.failures), "runs do not end any more")
        if (size := size_bytes(log)) > grown + WAL_LIMIT_BYTES:
            raise Broken(f"the log had {grown} bytes when the reader ended, and grew to {size}")

    with Crew(folder, OPTIONS) as crew:
        load = Load(crew.database, seed, customers=CUSTOMERS)
        members = [crew.hire() for _ in range(3)]
        asyncio.run(live(crew, load, act))
        end(crew, load, pids_of(members))
