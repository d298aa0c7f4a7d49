"""What the writer makes of errors: a COMMIT that raises, a full disk, a failed sync, user SQL that rolls back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import apsw
import pytest
from tests.support.members import Company

from stepwell.errors import (
    EngineClosed,
    RunNotFound,
    StorageFull,
    StoreError,
    StoreFailed,
    StoreUnavailable,
    TransactionError,
)
from stepwell.store.changes import Change, MessageSent, MessageTaken, RunCreated, RunMoved, ValuePublished
from stepwell.store.claims import RunWoken
from stepwell.store.sqlite.file.migrate import load_migrations
from stepwell.store.sqlite.file.opening import Database
from stepwell.store.sqlite.peers.writers_lock import FairLock
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.sqlite.writer import MAX_ERRORS_IN_A_ROW
from stepwell.store.store import Lent, Unit
from stepwell.testing.contract import NOW, Worker, step


class FaultyDisk(apsw.VFS):
    """A file system whose writes or syncs raise `error` while it is set, for files whose names end in `only`."""

    def __init__(self) -> None:
        self.name = f"faulty-{uuid.uuid4()}"
        self.error: Exception | None = None
        self.calls: tuple[str, ...] = ("sync",)
        self.only = ""
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _FaultyFile(self, name, flags)

    def check(self, call: str, name: str) -> None:
        """Raise the error if it is this call's turn."""
        if self.error is not None and call in self.calls and name.endswith(self.only):
            raise self.error


class _FaultyFile(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else (name or "")
        super().__init__("", cast("Any", name), flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.check("sync", self._name)
        super().xSync(flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        self._disk.check("write", self._name)
        super().xWrite(data, offset)


class NoRoom:
    """Stands in for `LogRoom` where the log is not what the test is about."""

    def make(self, _needed_bytes: int, _limit_bytes: int) -> int:
        return 0


class OneConnection:
    """Stands in for `Database`, for disks that a second connection cannot share."""

    def __init__(self, path: Path, vfs: str) -> None:
        self.path = str(path)
        self.writer = apsw.Connection(self.path, vfs=vfs)
        self.writer.execute(
            "PRAGMA locking_mode = exclusive; PRAGMA journal_mode = wal; PRAGMA synchronous = full;"
            "PRAGMA wal_autocheckpoint = 0; PRAGMA foreign_keys = on"
        ).fetchall()
        if not self.writer.table_exists("main", "stepwell_runs"):
            self.writer.execute("PRAGMA foreign_keys = off").fetchall()
            for migration in load_migrations():
                self.writer.execute("BEGIN;" + migration.sql + "COMMIT").fetchall()
            self.writer.execute("PRAGMA foreign_keys = on").fetchall()
        self.writers = FairLock()
        self.membership = Company()
        self.log_room = NoRoom()

    def connect_reader(self) -> apsw.Connection:
        raise NotImplementedError

    def check_identity(self) -> None:
        pass

    def check_in_place(self) -> None:
        pass

    def check_process(self) -> None:
        pass

    def truncate_wal(self) -> None:
        try:
            self.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.Error as error:
            raise StoreFailed(str(error)) from error

    def close(self) -> None:
        self.writer.close()


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    disk = FaultyDisk()
    yield disk
    disk.unregister()


@pytest.fixture
def worker(disk: FaultyDisk, database: Path) -> Iterator[Worker]:
    worker = Worker(SqliteStore(cast("Database", OneConnection(database, disk.name))))
    worker.apply(RunCreated("a", "w", None, 1, "running", NOW))
    yield worker
    disk.error = None
    worker.store.close(worker.claim, NOW)


def rows(worker: Worker, sql: str) -> list[Any]:
    return cast("list[Any]", cast("Any", worker.store)._connection.execute(sql).fetchall())


def test_a_failed_sync_that_the_log_survives_rolls_back_and_the_store_goes_on(
    worker: Worker, disk: FaultyDisk, database: Path
) -> None:
    disk.error, disk.only = apsw.IOError("no sync"), "-wal"
    # The sync of the commit fails; the fold that follows finds the disk well again.
    disk.check = _once(disk)  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="rolled back and may be retried") as caught:
        worker.apply(step(1, 1))
    assert not isinstance(caught.value, StoreFailed)
    assert rows(worker, "SELECT op FROM stepwell_journal") == []
    # The frames of the failed commit were in the log; nobody may find them there later.
    assert database.with_name(database.name + "-wal").stat().st_size == 0
    worker.apply(step(1, 2))
    assert rows(worker, "SELECT op FROM stepwell_journal") == [(2,)]


def _once(disk: FaultyDisk) -> Any:
    check = FaultyDisk.check

    def wrapped(call: str, name: str) -> None:
        try:
            check(disk, call, name)
        except apsw.Error:
            disk.error = None
            raise

    return wrapped


def test_a_disk_that_stays_broken_stops_the_store_for_good(worker: Worker, disk: FaultyDisk) -> None:
    disk.error = apsw.IOError("no sync")
    with pytest.raises(StoreFailed, match="may or may not be"):
        worker.apply(step(1, 1))
    disk.error = None
    for attempt in (
        lambda: worker.apply(step(1, 2)),
        lambda: worker.store.membership.register(NOW),
        lambda: worker.store.purge(NOW, 1, worker.claim),
        lambda: worker.store.transaction(worker.claim).__enter__(),
    ):
        with pytest.raises(StoreFailed, match="disk"):
            attempt()


def test_errors_that_pass_stop_the_store_when_they_come_in_a_row_without_end(worker: Worker, disk: FaultyDisk) -> None:
    # Folding the log writes into the database, and goes well.
    disk.calls, disk.only = ("write",), "-wal"
    for round_ in range(2):
        disk.error = apsw.IOError("bad sector")
        for _ in range(MAX_ERRORS_IN_A_ROW - 1):
            with pytest.raises(StoreUnavailable, match="may be retried"):
                worker.apply(step(1, 99))
        disk.error = None
        worker.apply(step(1, round_))
    disk.error = apsw.IOError("bad sector")
    for _ in range(MAX_ERRORS_IN_A_ROW - 1):
        with pytest.raises(StoreUnavailable):
            worker.apply(step(1, 99))
    with pytest.raises(StoreFailed, match=f"each of the last {MAX_ERRORS_IN_A_ROW} transactions"):
        worker.apply(step(1, 99))
    disk.error = None
    with pytest.raises(StoreFailed, match="bad sector"):
        worker.apply(step(1, 2))
    assert rows(worker, "SELECT op FROM stepwell_journal") == [(0,), (1,)]


def test_a_full_disk_refuses_the_commit_and_the_next_one_with_space_works(worker: Worker, disk: FaultyDisk) -> None:
    disk.error, disk.calls = apsw.FullError("full"), ("write",)
    for _ in range(2):
        with pytest.raises(StorageFull, match="free some space"):
            worker.commit(Unit([step(1, 1)]), Unit([step(999, 1)]))
    disk.error = None
    worker.apply(step(1, 2))
    assert rows(worker, "SELECT op FROM stepwell_journal") == [(2,)]


def test_a_damaged_file_stops_the_store_with_advice(worker: Worker, disk: FaultyDisk) -> None:
    disk.error, disk.calls = apsw.CorruptError("damaged"), ("write",)
    with pytest.raises(StoreFailed, match="restore the newest backup"):
        worker.apply(step(1, 1))
    disk.error = None
    with pytest.raises(StoreFailed):
        worker.apply(step(1, 1))


# --- the fault mark: what one process's disk did to a file is every process's matter
# --------------------------------------------


def test_a_store_whose_disk_failed_it_leaves_a_mark_for_the_other_processes(worker: Worker, disk: FaultyDisk) -> None:
    members = cast("Company", cast("Any", worker.store)._members)
    disk.error = apsw.IOError("no sync")
    with pytest.raises(StoreFailed):
        worker.apply(step(1, 1))
    assert members.faulty


def test_a_sync_that_failed_and_was_made_good_leaves_no_mark(worker: Worker, disk: FaultyDisk) -> None:
    disk.error, disk.only = apsw.IOError("no sync"), "-wal"
    disk.check = _once(disk)  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="may be retried"):
        worker.apply(step(1, 1))
    assert not cast("Company", cast("Any", worker.store)._members).faulty


def test_nothing_is_written_after_the_mark_before_the_log_is_folded(
    worker: Worker, disk: FaultyDisk, database: Path
) -> None:
    members = cast("Company", cast("Any", worker.store)._members)
    worker.apply(step(1, 1))
    log = database.with_name(database.name + "-wal")
    before = log.stat().st_size
    members.faulty = True
    folded: list[int] = []

    def note(call: str, name: str) -> None:
        if call == "sync" and name:
            folded.append(log.stat().st_size)

    disk.check = note  # type: ignore[method-assign]
    worker.apply(step(1, 2))
    assert before > 0
    # The first syncs are those of the fold, while the log is as the other process left it.
    assert folded[0] == before
    assert folded[-1] < before
    assert not members.faulty
    assert rows(worker, "SELECT op FROM stepwell_journal") == [(1,), (2,)]


def test_what_a_commit_could_not_sync_is_cut_off_a_log_that_cannot_be_folded(
    worker: Worker, disk: FaultyDisk, database: Path
) -> None:
    log = Path(f"{database}-wal")
    length = log.stat().st_size
    disk.error = apsw.IOError("disk I/O error")
    with pytest.raises(StoreFailed):
        worker.apply(RunCreated("b", "w", None, 1, "running", NOW))
    assert log.stat().st_size == length


def test_a_log_that_cannot_be_folded_after_the_mark_stops_the_store(worker: Worker, disk: FaultyDisk) -> None:
    members = cast("Company", cast("Any", worker.store)._members)
    worker.apply(step(1, 1))
    members.faulty = True
    disk.error = apsw.IOError("no sync")
    for _ in range(2):
        with pytest.raises(StoreFailed, match="failed another process"):
            worker.apply(step(1, 2))
    disk.error = None
    assert members.faulty
    with pytest.raises(StoreFailed):
        worker.apply(step(1, 2))
    assert rows(worker, "SELECT op FROM stepwell_journal") == [(1,)]


CHANGES: list[list[Change]] = [
    [step(1, op) for op in range(1, 40)],
    [RunCreated("b", "w", None, 1, "pending", NOW)],
    [MessageSent("a", "m", "1", NOW)],
    [MessageSent("a", "m", "1", NOW), MessageTaken(1, 1, NOW)],
    [RunMoved(1, "waiting", NOW, wake_at=NOW + 3)],
    [ValuePublished(1, "k", "1", NOW)],
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: type(changes[-1]).__name__)
def test_a_commit_that_raised_but_stands_counts_as_committed(worker: Worker, changes: list[Change]) -> None:
    before = rows(worker, "SELECT traces FROM stepwell_workers")

    def fail(_connection: apsw.Connection, _name: str, _pages: int) -> int:
        # SQLite calls this after the commit, and reports the code as the result of COMMIT.
        return apsw.SQLITE_IOERR

    connection = cast("Any", worker.store)._connection
    connection.set_wal_hook(fail)
    worker.apply(*changes)
    connection.set_wal_hook(None)
    assert len(rows(worker, "SELECT * FROM stepwell_journal")) == sum(c.__class__.__name__ == "Entry" for c in changes)
    adds_row = type(changes[-1]).__name__ in ("Entry", "RunCreated", "MessageSent")
    assert (rows(worker, "SELECT traces FROM stepwell_workers") == before) is adds_row


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: type(changes[-1]).__name__)
def test_a_commit_that_raised_and_does_not_stand_is_reported_and_can_be_repeated(
    worker: Worker, disk: FaultyDisk, changes: list[Change]
) -> None:
    disk.error, disk.only = apsw.IOError("no sync"), "-wal"
    disk.check = _once(disk)  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="may be retried"):
        worker.apply(*changes)
    worker.apply(*changes)


def test_a_registration_that_raised_but_stands_counts(worker: Worker) -> None:
    connection = cast("Any", worker.store)._connection
    connection.set_wal_hook(lambda *_: apsw.SQLITE_IOERR)
    claim = worker.store.membership.register(NOW)
    worker.store.membership.fence(claim.epoch, NOW)
    connection.set_wal_hook(None)
    assert rows(worker, f"SELECT fenced FROM stepwell_workers WHERE epoch = {claim.epoch}") == [(1,)]


def test_an_outside_transaction_that_raised_at_commit_but_stands_counts(worker: Worker) -> None:
    connection = cast("Any", worker.store)._connection
    with worker.store.transaction(worker.claim) as tx:
        tx.lent.execute("CREATE TABLE mine (a)")
        connection.set_wal_hook(lambda *_: apsw.SQLITE_IOERR)
    connection.set_wal_hook(None)
    with worker.store.transaction(worker.claim) as tx:
        tx.lent.execute("INSERT INTO mine VALUES (1)")
    assert rows(worker, "SELECT a FROM mine") == [(1,)]


def test_a_transaction_that_changes_nothing_writes_nothing(worker: Worker) -> None:
    before = worker.store.wal_bytes  # type: ignore[attr-defined]
    worker.apply(RunWoken(1, NOW))
    with worker.store.transaction(worker.claim) as tx:
        tx.lent.execute("SELECT 1")
    assert worker.store.wal_bytes == before  # type: ignore[attr-defined]


# --- bodies
# ------------------------------------------------------------------------------------------------------------


def test_a_body_whose_sql_rolls_everything_back_is_refused_and_the_units_without_bodies_stand(worker: Worker) -> None:
    calls: list[str] = []

    def innocent(lent: Lent) -> list[Change]:
        calls.append("innocent")
        lent.execute("INSERT INTO mine VALUES (2)")
        return [step(1, 2)]

    def culprit(lent: Lent) -> list[Change]:
        calls.append("culprit")
        lent.execute("INSERT OR ROLLBACK INTO mine VALUES (1)")
        return []

    def later(lent: Lent) -> list[Change]:
        calls.append("later")
        lent.execute("INSERT INTO mine VALUES (3)")
        return [step(1, 3)]

    with worker.store.transaction(worker.claim) as tx:
        tx.lent.execute("CREATE TABLE mine (a UNIQUE); INSERT INTO mine VALUES (1)")
    plain = Unit([step(1, 1)])
    outcomes = worker.commit(plain, Unit([], innocent), Unit([], culprit), Unit([], later), plain)
    assert [type(outcome) for outcome in outcomes] == [list, StoreError, TransactionError, list, list]
    assert calls == ["innocent", "culprit", "later"]
    assert rows(worker, "SELECT a FROM mine ORDER BY a") == [(1,), (3,)]
    assert rows(worker, "SELECT op FROM stepwell_journal ORDER BY position") == [(1,), (3,), (1,)]


def test_a_full_disk_inside_a_body_is_not_taken_for_the_failure_of_the_step(worker: Worker) -> None:
    def body(lent: Lent) -> list[Change]:
        try:
            lent.execute("INSERT INTO mine VALUES (zeroblob(1000000))")
        except apsw.FullError:
            return [step(1, 1, kind="step_failed")]
        return []

    with worker.store.transaction(worker.claim) as tx:
        tx.lent.execute("CREATE TABLE mine (a)")
    rows(worker, "PRAGMA max_page_count = 100")
    with pytest.raises(StorageFull):
        worker.commit(Unit([], body))
    rows(worker, "PRAGMA max_page_count = 100000")
    assert rows(worker, "SELECT * FROM stepwell_journal") == []
    worker.apply(step(1, 1))


def test_an_interrupt_in_a_body_rolls_all_back_and_comes_through(worker: Worker) -> None:
    def body(_lent: Lent) -> list[Change]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.commit(Unit([step(1, 1)]), Unit([], body))
    assert rows(worker, "SELECT * FROM stepwell_journal") == []
    worker.apply(step(1, 2))


def test_a_savepoint_of_the_lent_connection_undoes_user_writes_alone(worker: Worker) -> None:
    def body(lent: Any) -> list[Change]:
        with pytest.raises(ValueError, match="boom"), lent.savepoint():  # noqa: PT012
            lent.execute("INSERT INTO mine VALUES (1)")
            raise ValueError("boom")
        return [step(1, 1, kind="step_failed", value="{}")]

    with worker.store.transaction(worker.claim) as tx:
        tx.lent.execute("CREATE TABLE mine (a)")
    assert worker.commit(Unit([], body)) == [[None]]
    assert rows(worker, "SELECT * FROM mine") == []
    assert rows(worker, "SELECT kind FROM stepwell_journal") == [("step_failed",)]


def test_refusals_name_the_run_but_not_the_payload(worker: Worker) -> None:
    (refused,) = worker.commit(Unit([step(77, 1, value='"secret"')]))
    assert "Entry(run=77)" in str(refused)
    assert "secret" not in str(refused)
    with pytest.raises(RunNotFound, match="77"):
        worker.apply(RunMoved(77, "waiting", NOW))


# --- the log
# -----------------------------------------------------------------------------------------------------------


def test_the_log_is_folded_when_it_passes_its_limit_and_starts_afresh(database: Path) -> None:
    store = SqliteStore.open(database, durability="normal", wal_limit_bytes=100_000)
    made = store.wal_bytes
    worker = Worker(store)
    run = worker.create("a")
    for op in range(100):
        worker.apply(step(run, op, value="x" * 5000))
    # It does not grow far beyond what making the tables took.
    assert store.wal_bytes < made + 100_000
    assert database.stat().st_size > 500_000
    store.close(worker.claim, NOW)


def test_a_log_that_a_reader_held_is_folded_and_emptied_when_the_reader_is_gone(database: Path) -> None:
    store = SqliteStore.open(database, durability="normal", wal_limit_bytes=20_000)
    worker = Worker(store)
    run = worker.create("a")
    # A reader's transaction stands for a program that is left idle in one.
    reader = cast("Any", store)._database.connect_reader()
    reader.execute("BEGIN; SELECT count(*) FROM stepwell_runs").fetchall()
    for op in range(100):
        worker.apply(step(run, op, value="x" * 5000))
    assert store.wal_bytes > 16 * 20_000
    reader.execute("COMMIT")
    for op in range(20):
        worker.apply(step(run, op, value="x" * 5000))
    assert store.wal_bytes < 16 * 20_000
    reader.close()
    store.close(worker.claim, NOW)
    assert not database.with_name(database.name + "-wal").exists()


def test_closing_ends_the_worker_and_is_harmless_when_repeated(database: Path) -> None:
    store = SqliteStore.open(database)
    worker = Worker(store)
    key = worker.create("a")
    store.close(worker.claim, NOW + 5)
    store.close(worker.claim, NOW + 6)
    with pytest.raises(EngineClosed):
        next(iter(store.reads.records([key])), None)
    again = Worker(SqliteStore.open(database))
    ended = rows(again, "SELECT ended_at FROM stepwell_workers ORDER BY epoch")
    assert ended == [(NOW + 5,), (None,)]
    again.store.close(None, NOW)


def test_an_error_of_the_checkpoint_does_not_fail_the_commit_before_it(disk: FaultyDisk, database: Path) -> None:
    store = SqliteStore(cast("Database", OneConnection(database, disk.name)), wal_limit_bytes=1)
    worker = Worker(store)
    run = worker.create("a")
    disk.error, disk.only = apsw.IOError("no sync"), database.name
    assert worker.apply(step(run, 1)) == [None]
    with pytest.raises(StoreFailed):
        worker.apply(step(run, 2))
    disk.error = None
    assert rows(worker, "SELECT op FROM stepwell_journal") == [(1,)]
    store.close(worker.claim, NOW)
