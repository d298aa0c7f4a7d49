"""Whoever looks at runs does not read their inputs and results, which may have many megabytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from stepwell import Engine, workflow
from stepwell.store.sqlite.statements import SQL as READ

RUNS = 4
BYTES = 400_000  # which do not compress


@workflow(name="listings.large")
async def large(text: str) -> str:
    return text


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with runs that have large inputs and results."""
    path: Path = tmp_path_factory.mktemp("listings") / "runs.db"
    with Engine(path) as engine:
        for run in [engine.start(large, os.urandom(BYTES).hex(), id=f"run-{n}") for n in range(RUNS)]:
            run.result(60)
        assert [info.id for info in engine.list()] == [f"run-{n}" for n in reversed(range(RUNS))]
        assert engine.get("run-1").info().status == "completed"
    assert path.stat().st_size > RUNS * 2 * BYTES
    return path


@pytest.fixture
def reader(path: Path) -> Iterator[apsw.Connection]:
    """Return a connection that has read nothing yet but the schema."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.execute("SELECT count(*) FROM stepwell_wakes").fetchall()
    yield connection
    connection.close()


def bytes_read(connection: apsw.Connection, name: str, parameters: tuple[object, ...]) -> tuple[int, int]:
    """Return how many rows a query has, and how many bytes were read for it.

    The kernel counts them: of what SQLite counts itself, pages that it reads past its cache are left out.
    """
    before = _read_so_far()
    rows = connection.execute(READ[name], parameters).fetchall()
    return len(rows), _read_so_far() - before


def _read_so_far() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


ALL = (None, None, None, None, None, None, None, 2**63 - 1, 100, None, 0, None, None, None, None, None, None, None)
LOOKS: dict[str, tuple[tuple[object, ...], int]] = {
    "runs_listed": (ALL, RUNS),
    "runs_listed_by_prefix": ((None, None, "run-", "run-\U0010ffff", *ALL[4:]), RUNS),
    "runs_counted": (ALL, 1),
    "run_facts": (("run-1",), 1),
    "loaded_facts": (("[1]",), 1),
    "all_counted_by_status": ((), 1),
}


@pytest.mark.parametrize("name", LOOKS)
def test_looking_at_runs_reads_nothing_of_their_payloads(reader: apsw.Connection, name: str) -> None:
    parameters, count = LOOKS[name]
    rows, count_of_bytes = bytes_read(reader, name, parameters)
    assert rows == count
    assert count_of_bytes < BYTES // 4


def test_the_row_itself_has_all_of_them(reader: apsw.Connection) -> None:
    rows, count_of_bytes = bytes_read(reader, "run_by_id", ("run-1",))
    assert rows == 1
    assert count_of_bytes > 2 * BYTES
