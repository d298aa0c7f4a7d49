"""Room in the write-ahead log: zeros behind its end, which commits write over, and which nobody takes for commits."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import cast
from unittest.mock import patch

import apsw
import pytest
from proof.disk_errors import Fault, FaultyVFS
from proof.recorder import recording

from stepwell.errors import StoreFailed
from stepwell.model.journal import Entry
from stepwell.store.changes import RunCreated
from stepwell.store.sqlite.file import wal_room
from stepwell.store.sqlite.file.wal_room import LogRoom
from stepwell.store.sqlite.store import SqliteStore
from stepwell.testing.contract_kit import NOW, Worker

MIB = 1024 * 1024
PIECE = MIB // 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@pytest.fixture
def log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


@pytest.fixture
def bare_log(tmp_path: Path) -> Iterator[tuple[Path, LogRoom]]:
    file = tmp_path / "log"
    file.write_bytes(b"frames")
    room = LogRoom(str(file))
    yield file, room
    room.close()


def work_of(store: SqliteStore, steps: int) -> Worker:
    worker = Worker(store)
    run = worker.create("a")
    for number in range(1, steps + 1):
        worker.apply(Entry(run, number, "step", "s", 1, NOW, '"' + "x" * 500 + '"', 1, NOW))
    return worker


@contextmanager
def recording_of(store: SqliteStore) -> Generator[list[str], None, None]:
    """Note in which order there are commits, and zeros behind the log."""
    noted: list[str] = []
    write_zeros = wal_room.write_zeros

    def zeros(descriptor: int, begin: int, end: int) -> None:
        noted.append("zeros")
        write_zeros(descriptor, begin, end)

    def commit(connection: apsw.Connection, name: str, pages: int) -> int:
        noted.append("commit")
        return store._writer.log.on_commit(connection, name, pages)

    with patch.object(wal_room, "write_zeros", zeros):
        store._connection.set_wal_hook(commit)
        yield noted


def steps_in(store: SqliteStore) -> list[int]:
    return [entry.op for entry in store.inspector.journal(1)]


def test_zeros_are_written_behind_the_end_and_nothing_else_is_touched(bare_log: tuple[Path, LogRoom]) -> None:
    file, room = bare_log
    assert room.make(100, MIB) == 6 + PIECE
    assert file.read_bytes() == b"frames" + bytes(PIECE)


def test_an_empty_log_gets_no_room_because_a_power_loss_may_bring_back_what_it_held(
    bare_log: tuple[Path, LogRoom],
) -> None:
    file, room = bare_log
    os.truncate(file, 0)
    assert room.make(100, MIB) == 0
    assert file.read_bytes() == b""


def test_after_the_log_was_folded_in_sqlite_begins_it_and_syncs_its_head_before_there_are_zeros(tmp_path: Path) -> None:
    path = str(tmp_path / "orders.db")
    store = SqliteStore.open(path)
    worker = work_of(store, 3)
    with recording_of(store) as noted:
        store._database.truncate_wal()
        store._writer.log.roomy_until = 0
        for number in range(4, 40):
            worker.apply(Entry(1, number, "step", "s", 1, NOW, "1", 1, NOW))
    store.close(worker.claim, NOW)
    assert noted.index("commit") < noted.index("zeros")


def test_where_there_is_room_nothing_is_written(bare_log: tuple[Path, LogRoom]) -> None:
    file, room = bare_log
    assert room.make(6, MIB) == 6
    assert file.read_bytes() == b"frames"


def test_the_log_doubles_and_then_grows_by_a_quarter_of_the_limit_up_to_it(bare_log: tuple[Path, LogRoom]) -> None:
    _, room = bare_log
    lengths = [room.make(6, MIB)]
    while lengths[-1] < MIB:
        lengths.append(room.make(lengths[-1] + 1, MIB))
    grown = [after - before for before, after in pairwise(lengths)]
    assert grown[0] == PIECE
    assert max(grown) == MIB // 4
    assert room.make(MIB + 1, MIB) == MIB


def test_an_error_of_the_disk_leaves_the_log_as_it_was(
    bare_log: tuple[Path, LogRoom], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, room = bare_log

    def half_written(descriptor: int, begin: int, _end: int) -> None:
        os.pwrite(descriptor, bytes(1000), begin)
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(wal_room, "write_zeros", half_written)
    assert room.make(100, MIB) == 6
    assert file.read_bytes() == b"frames"


def test_the_last_space_of_a_disk_is_left_to_what_needs_it(
    bare_log: tuple[Path, LogRoom], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, room = bare_log
    monkeypatch.setattr(wal_room, "_SPARE_BYTES", 1 << 62)
    assert room.make(100, MIB) == 6
    assert file.read_bytes() == b"frames"


def test_after_close_no_room_is_made(bare_log: tuple[Path, LogRoom]) -> None:
    file, room = bare_log
    room.close()
    assert room.make(100, MIB) == 0
    assert file.read_bytes() == b"frames"


def test_commits_write_over_the_room_and_do_not_lengthen_the_log(path: Path, log: Path) -> None:
    store = SqliteStore.open(path, wal_limit_bytes=16 * MIB)
    worker = work_of(store, 1)
    before = log.stat().st_size
    assert before >= MIB
    for number in range(2, 40):
        worker.apply(Entry(1, number, "step", "s", 1, NOW, "1", 1, NOW))
    assert log.stat().st_size == before
    assert steps_in(store) == list(range(1, 40))
    store.close(worker.claim, NOW)


def test_a_log_that_starts_afresh_keeps_its_room(path: Path, log: Path) -> None:
    store = SqliteStore.open(path, wal_limit_bytes=MIB // 4)
    worker = work_of(store, 200)
    length = log.stat().st_size
    for number in range(201, 400):
        worker.apply(Entry(1, number, "step", "s", 1, NOW, "1", 1, NOW))
    assert log.stat().st_size == length
    assert steps_in(store) == list(range(1, 400))
    store.close(worker.claim, NOW)


def test_after_an_orderly_end_nothing_of_the_log_is_left(path: Path, log: Path) -> None:
    store = SqliteStore.open(path)
    worker = work_of(store, 3)
    store.close(worker.claim, NOW)
    assert not log.exists()


def test_after_the_death_of_a_process_the_room_passes_for_the_end_of_the_log(path: Path, log: Path) -> None:
    code = (
        "import os, sys\n"
        "from tests.store.test_log_room import SqliteStore, work_of\n"
        "work_of(SqliteStore.open(sys.argv[1]), 5)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert log.stat().st_size > 256 * 1024
    assert not any(log.read_bytes()[-100_000:])
    store = SqliteStore.open(path)
    assert steps_in(store) == [1, 2, 3, 4, 5]
    store.close(None, NOW)


def test_another_sqlite_reads_and_writes_a_log_with_room(path: Path) -> None:
    store = SqliteStore.open(path)
    worker = work_of(store, 3)
    worker.apply(RunCreated("b", "w", None, 1, "pending", NOW))
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1])\n"
        "print(connection.execute('SELECT count(*) FROM stepwell_journal').fetchone()[0])\n"
        "connection.execute('CREATE TABLE orders (id INTEGER)')\n"
        "connection.execute('INSERT INTO orders VALUES (42)')\n"
        "connection.commit()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, timeout=60, capture_output=True, text=True
    )
    assert found.stdout.strip() == "3"
    worker.apply(Entry(1, 4, "step", "s", 1, NOW, "1", 1, NOW))
    assert steps_in(store) == [1, 2, 3, 4]
    connection = store._connection
    assert cast("list[tuple[int]]", connection.execute("SELECT id FROM orders").fetchall()) == [(42,)]
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store.close(worker.claim, NOW)


def test_what_a_new_schema_could_not_sync_is_not_left_in_the_log(path: Path, log: Path) -> None:
    fault = Fault("sync", 5, count=100)
    with recording(str(path), partial(FaultyVFS, fault)) as found, pytest.raises(StoreFailed):
        SqliteStore.open(path)
    lost = [index for index, op in enumerate(found.log) if op.kind == "lose" and op.suffix == "-wal"]
    cut = [index for index, op in enumerate(found.log) if op.kind == "truncate" and op.suffix == "-wal"]
    assert lost
    assert cut[0] > lost[0]
    assert log.stat().st_size == 0
    SqliteStore.open(path).close(None, NOW)
