"""A file is opened safely, or refused with words that help, before anything is written."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.support.processes import child, line

from stepwell.errors import (
    EngineClosed,
    FileInUse,
    FileNotUsable,
    InvalidArgument,
    SchemaTooNew,
    SecondSqliteError,
    StoreFailed,
)
from stepwell.store.sqlite.file import connecting, locking, opening, paths
from stepwell.store.sqlite.file.connecting import check_library
from stepwell.store.sqlite.file.migrate import APPLICATION_ID
from stepwell.store.sqlite.file.opening import Database, check_platform, open_database

INITIAL = "CREATE TABLE stepwell_a (id INTEGER PRIMARY KEY, v TEXT) STRICT; CREATE INDEX stepwell_i ON stepwell_a (v);"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds what a test makes, and nothing else."""
    made = tmp_path / "files"
    made.mkdir()
    return made


@pytest.fixture
def migrations(tmp_path: Path) -> str:
    made = tmp_path / "migrations"
    made.mkdir()
    (made / "0001_initial.sql").write_text(INITIAL)
    return str(made)


@pytest.fixture
def open_(migrations: str) -> Iterator[Callable[..., Database]]:
    """`open_database` with small migrations; what it opened is closed afterwards."""
    opened: list[Database] = []

    def call(path: Any, **options: Any) -> Database:
        opened.append(open_database(path, migrations=migrations, **options))
        return opened[-1]

    yield call
    for database in opened:
        database.close()


Open = Callable[..., Database]


def run(script: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def mode(path: str) -> int:
    return os.stat(path).st_mode & 0o777


# --- a good file ------------------------------------------------------------------------------------------------------


def test_a_new_file_and_all_beside_it_are_for_their_owner_only(folder: Path, open_: Open) -> None:
    before = os.umask(0)
    try:
        database = open_(folder / "orders.db")
        assert {name: mode(str(folder / name)) for name in os.listdir(folder)} == {
            "orders.db": 0o600,
            "orders.db-wal": 0o600,
            "orders.db-shm": 0o600,
            "orders.db-lock": 0o600,
        }
    finally:
        os.umask(before)
    database.close()


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_the_settings_are_those_that_are_promised(folder: Path, open_: Open, durability: str, synchronous: int) -> None:
    database = open_(folder / "orders.db", durability=durability)
    wanted = {
        "journal_mode": "wal",
        "synchronous": synchronous,
        "wal_autocheckpoint": 0,
        "mmap_size": 0,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "page_size": 4096,
        "locking_mode": "normal",
        "application_id": APPLICATION_ID,
        "user_version": 1,
    }
    assert {name: database.writer.pragma(name) for name in wanted} == wanted
    assert database.writer.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1) == 1
    assert not database.writer.in_transaction
    assert database.writer.authorizer is None


def test_torn_neighbouring_sectors_are_provided_for(folder: Path, open_: Open) -> None:
    # With "psow=0" SQLite pads the log to whole sectors at each commit: a commit of one page takes more than one frame.
    database = open_(folder / "orders.db")
    database.truncate_wal()
    database.writer.execute("INSERT INTO stepwell_a VALUES (1, NULL)")
    frame = 4096 + 24
    assert os.stat(database.path + "-wal").st_size > 32 + 2 * frame


def test_a_setting_that_sqlite_does_not_take_is_named_with_what_was_wanted(
    folder: Path, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignore_synchronous(connection: apsw.Connection) -> None:
        def authorize(action: int, one: str | None, two: str | None, *_rest: str | None) -> int:
            ignored = action == apsw.SQLITE_PRAGMA and one == "synchronous" and two is not None
            return apsw.SQLITE_IGNORE if ignored else apsw.SQLITE_OK

        connection.authorizer = authorize

    monkeypatch.setattr(apsw, "connection_hooks", [ignore_synchronous])
    with pytest.raises(FileNotUsable, match=r"synchronous = 1, it says 2"):
        open_(folder / "orders.db", durability="normal")


@pytest.mark.parametrize("name", ["a b.db", "100%41.db", "what?.db", "a#b.db", "é✓.db", "a&b=c.db", "'q\"u'.db", "x"])
def test_any_name_works_and_makes_exactly_that_file(folder: Path, open_: Open, name: str) -> None:
    database = open_(folder / name)
    database.connect_reader()
    database.truncate_wal()
    database.close()
    assert sorted(os.listdir(folder)) == [name, name + "-lock"]
    open_(folder / name)


def test_a_path_may_be_relative_or_begin_with_two_slashes(
    folder: Path, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    database = open_("orders.db")
    assert database.path == str(folder / "orders.db")
    database.close()
    assert open_(f"/{folder}/orders.db").path == str(folder / "orders.db")


@pytest.mark.parametrize("content", [b"", None])
def test_an_empty_file_or_database_is_taken_as_a_new_one(folder: Path, open_: Open, content: bytes | None) -> None:
    path = folder / "orders.db"
    if content is None:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        assert path.stat().st_size > 0
    else:
        path.write_bytes(content)
    assert open_(path).writer.pragma("user_version") == 1


def opened_in(folder: Path) -> list[opening.Database]:
    return [database for database in opening._open if Path(database.path).parent == folder]


def held_in(folder: Path) -> list[str]:
    return [path for path in locking._held.values() if Path(path).parent == folder]


def test_closing_leaves_one_file_and_its_lock_file(folder: Path, open_: Open) -> None:
    database = open_(folder / "orders.db")
    database.connect_reader()
    database.truncate_wal()
    database.close()
    database.close()
    assert sorted(os.listdir(folder)) == ["orders.db", "orders.db-lock"]
    assert not opened_in(folder)
    assert not held_in(folder)
    with pytest.raises(apsw.ConnectionClosedError):
        database.writer.execute("SELECT 1")
    with pytest.raises(EngineClosed, match="is closed"):
        database.connect_reader()


def test_closing_with_a_log_that_was_not_folded_in_keeps_the_log_for_the_next_open(folder: Path, open_: Open) -> None:
    database = open_(folder / "orders.db")
    database.truncate_wal()
    database.writer.execute("INSERT INTO stepwell_a VALUES (1, 'kept')")
    before = os.stat(database.path).st_mtime_ns
    database.close()
    assert os.stat(database.path).st_mtime_ns == before
    assert os.stat(database.path + "-wal").st_size > 0
    again = open_(database.path)
    assert os.stat(database.path + "-wal").st_size == 0
    assert again.writer.execute("SELECT v FROM stepwell_a").fetchall() == [("kept",)]


def test_a_reader_sees_commits_and_cannot_write(folder: Path, open_: Open) -> None:
    database = open_(folder / "orders.db")
    reader = database.connect_reader()
    database.writer.execute("INSERT INTO stepwell_a VALUES (1, 'seen')")
    assert reader.execute("SELECT v FROM stepwell_a").fetchall() == [("seen",)]
    assert reader.readonly("main")
    assert reader.pragma("query_only") == 1
    assert reader.pragma("mmap_size") == 0
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("DELETE FROM stepwell_a")


def test_a_connection_busy_in_another_thread_is_interrupted_by_close(folder: Path, open_: Open) -> None:
    database = open_(folder / "orders.db")
    reader = database.connect_reader()
    started = threading.Event()

    def start(*_args: object) -> int:
        started.set()
        return 0

    reader.create_scalar_function("started", start, 0)
    raised: list[BaseException] = []

    def count_for_ever() -> None:
        try:
            sql = "WITH RECURSIVE n(i) AS (SELECT started() UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
            reader.execute(sql).fetchall()
        except apsw.Error as error:
            raised.append(error)

    thread = threading.Thread(target=count_for_ever)
    thread.start()
    assert started.wait(60)
    database.close()
    thread.join(60)
    assert [type(error) for error in raised] == [apsw.InterruptError]


# --- bad arguments and paths ------------------------------------------------------------------------------------------


def test_an_unknown_durability_is_refused_before_anything_is_made(folder: Path, open_: Open) -> None:
    with pytest.raises(InvalidArgument, match="'off'"):
        open_(folder / "orders.db", durability="off")
    assert os.listdir(folder) == []


@pytest.mark.parametrize("version", ["3.7.17", "3.50.7", "3.51.2", "3.52.0", "3.52.1"])
def test_a_library_with_the_wal_reset_bug_is_refused_with_the_command_that_helps(version: str) -> None:
    with pytest.raises(FileNotUsable, match=rf'{version}.*WAL-reset.*pip install --upgrade "apsw>=3.51.3,!=3.52.\*"'):
        check_library(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.53.0", "3.60.1", "4.0.0"])
def test_a_library_with_the_fix_is_accepted(version: str) -> None:
    check_library(version)


def test_the_library_is_looked_at_when_a_file_is_opened(
    folder: Path, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(FileNotUsable, match="WAL-reset"):
        open_(folder / "orders.db")
    assert os.listdir(folder) == []


@pytest.mark.parametrize("platform", ["win32", "cygwin", "emscripten"])
def test_a_platform_without_the_locks_is_refused(platform: str) -> None:
    with pytest.raises(FileNotUsable, match=f"{platform}.*Linux or macOS"):
        check_platform(platform)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "path of the database is empty"),
        (":memory:", "needs a file"),
        ("file:orders.db", "plain path"),
        ("a\0b.db", "NUL"),
        ("\udcff.db", "UTF-8"),
        ("missing/orders.db", "files/missing' does not exist. Create the folder"),
        ("text.txt/orders.db", "is not a folder"),
        (".", "is a folder. Give the path of a file in it"),
        ("pipe", "not a plain file"),
        ("loop", "cannot be opened"),
        ("orders.db-wal", "belongs to a database.*'.*/orders.db'"),
        ("orders.db-lock", "belongs to a database"),
        ("x" * 240 + ".db", "too long"),
        ("text.txt", "is not an SQLite database"),
        ("short.txt", "is not an SQLite database"),
        ("linked-1.db", "2 names"),
        ("readonly.db", "read-only.*chmod u\\+w"),
    ],
)
def test_a_path_that_cannot_be_a_database_is_refused_and_nothing_is_written(
    folder: Path, open_: Open, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "text.txt").write_text("This is not a database. " * 100)
    (folder / "short.txt").write_text("hello")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (folder / "linked-1.db").touch()
    (folder / "linked-2.db").hardlink_to(folder / "linked-1.db")
    (folder / "readonly.db").touch(mode=0o444)
    before = {found: os.lstat(found).st_mtime_ns for found in os.listdir(folder)}
    with pytest.raises(FileNotUsable, match=words.replace("chmod u\\+w", r"chmod u\+rw")):
        open_(name)
    assert {found: os.lstat(found).st_mtime_ns for found in os.listdir(folder)} == before


@pytest.mark.parametrize("path", [b"orders.db", 7, None])
def test_a_path_of_the_wrong_type_is_refused(open_: Open, path: object) -> None:
    with pytest.raises(InvalidArgument, match=type(path).__name__):
        open_(path)


def test_a_folder_that_the_user_may_not_write_to_is_refused() -> None:
    # As a user without rights, for root may write anywhere; and in a folder that such a user can reach.
    script = """
import os, sys
from stepwell.errors import FileNotUsable
from stepwell.store.sqlite.file import paths
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    paths.resolve(sys.argv[1] + "/orders.db")
except FileNotUsable as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        assert f"the folder {os.path.realpath(folder)!r} is not writable" in run(script, folder)


# --- files that are not ours, or not sound ----------------------------------------------------------------------------


def foreign(path: Path, sql: str) -> bytes:
    connection = sqlite3.connect(path)
    connection.executescript(sql)
    connection.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("CREATE TABLE customers (x)", r"not Stepwell's \(application_id 0x0, 1 tables.*engine.transaction\(\)"),
        ("CREATE TABLE a (x); PRAGMA journal_mode=WAL; INSERT INTO a VALUES (1)", "not Stepwell's"),
        ("PRAGMA application_id=1196444487; CREATE TABLE geo (x)", r"not Stepwell's \(application_id 0x47504b47"),
        ("PRAGMA application_id=5; PRAGMA journal_mode=WAL", "not Stepwell's"),
        (INITIAL, "but not its mark.*text dump"),
        (f"PRAGMA application_id={APPLICATION_ID}; {INITIAL}", "no schema version"),
    ],
)
def test_a_database_of_another_program_is_refused_and_untouched(
    folder: Path, open_: Open, sql: str, words: str
) -> None:
    content = foreign(folder / "orders.db", sql)
    with pytest.raises(FileNotUsable, match=words):
        open_(folder / "orders.db")
    assert os.listdir(folder) == ["orders.db"]
    assert (folder / "orders.db").read_bytes() == content


def test_a_database_of_another_program_that_is_running_is_refused_and_its_log_left_alone(
    folder: Path, open_: Open
) -> None:
    script = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.executescript("CREATE TABLE a (x); PRAGMA journal_mode=WAL; INSERT INTO a VALUES (1)")
print("ready", flush=True)
sys.stdin.read()
"""
    with child(script, folder / "app.db") as app:
        assert line(app) == "ready"
        before = {name: (folder / name).stat().st_size for name in os.listdir(folder)}
        with pytest.raises(FileNotUsable, match="not Stepwell's"):
            open_(folder / "app.db")
        assert {name: (folder / name).stat().st_size for name in os.listdir(folder)} == before


def test_a_newer_schema_is_refused_with_both_versions(folder: Path, open_: Open) -> None:
    database = open_(folder / "orders.db")
    database.writer.pragma("user_version", 12)
    database.truncate_wal()
    database.close()
    with pytest.raises(SchemaTooNew, match="version 12, this release of Stepwell knows versions up to 1"):
        open_(folder / "orders.db")


def damage(path: Path, sql: str, change: Callable[[Any, int], None]) -> None:
    connection = sqlite3.connect(path)
    (page,) = connection.execute(sql).fetchone()
    connection.close()
    with path.open("r+b") as file:
        change(file, (page - 1) * 4096)


def overwrite(file: Any, offset: int) -> None:
    file.seek(offset)
    file.write(b"\xee" * 4096)


def truncate(file: Any, offset: int) -> None:
    file.truncate(offset)


@pytest.mark.parametrize("change", [overwrite, truncate])
def test_a_damaged_file_is_refused_with_advice(folder: Path, open_: Open, change: Callable[[Any, int], None]) -> None:
    database = open_(folder / "orders.db")
    database.truncate_wal()
    database.close()
    damage(folder / "orders.db", "SELECT rootpage FROM sqlite_schema WHERE name = 'stepwell_a'", change)
    with pytest.raises(FileNotUsable, match=r"damaged.*copy of it together with its -wal file.*backup"):
        open_(folder / "orders.db")


def test_a_log_without_its_database_is_refused_instead_of_thrown_away(folder: Path, open_: Open) -> None:
    database = open_(folder / "orders.db")
    database.close()
    assert os.stat(database.path + "-wal").st_size > 0
    os.unlink(database.path)
    for _ in range(2):
        with pytest.raises(FileNotUsable, match=r"missing or empty, but its write-ahead log .*orders\.db-wal"):
            open_(database.path)
        Path(database.path).touch()
    assert os.stat(database.path + "-wal").st_size > 0


# --- others who have the file -----------------------------------------------------------------------------------------


def test_a_second_engine_in_the_process_is_refused_under_any_name(folder: Path, open_: Open) -> None:
    first = open_(folder / "orders.db")
    (folder / "link.db").symlink_to(folder / "orders.db")
    for name in ("orders.db", "link.db"):
        with pytest.raises(FileInUse, match=f"another engine of this process, {os.getpid()}"):
            open_(folder / name)
    first.close()
    assert open_(folder / "link.db").path == str(folder / "orders.db")


@pytest.mark.parametrize("attempt", range(5))
def test_threads_that_race_to_open_a_file_leave_one_winner(folder: Path, migrations: str, attempt: int) -> None:
    barrier = threading.Barrier(4)
    results: list[Database | BaseException] = []

    def race() -> None:
        barrier.wait()
        try:
            results.append(open_database(folder / f"orders-{attempt}.db", migrations=migrations))
        except BaseException as error:  # noqa: BLE001 -- the test looks at it
            results.append(error)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [result for result in results if isinstance(result, Database)]
    for winner in winners:
        winner.close()
    assert len(winners) == 1
    assert [type(result) for result in results if result not in winners] == [FileInUse] * 3


def test_a_refused_open_leaves_nothing_held(folder: Path, open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object) -> None:
        raise apsw.IOError("disk I/O error")

    monkeypatch.setattr(opening, "_touch_tables", fails)
    with pytest.raises(StoreFailed, match="disk reported an error"):
        open_(folder / "orders.db")
    assert not held_in(folder)
    assert not opened_in(folder)
    monkeypatch.undo()
    assert open_(folder / "orders.db").writer.execute("SELECT * FROM stepwell_a").fetchall() == []


def test_a_connection_of_another_sqlite_that_is_already_open_is_noticed(folder: Path, open_: Open) -> None:
    open_(folder / "orders.db").close()
    connection = sqlite3.connect(folder / "orders.db")
    connection.execute("SELECT * FROM stepwell_a")
    with pytest.raises(SecondSqliteError, match=r"open already \(descriptor \d+\).*Close it before"):
        open_(folder / "orders.db")
    connection.close()
    with (folder / "orders.db").open("rb"), pytest.raises(SecondSqliteError, match="open already"):
        open_(folder / "orders.db")
    open_(folder / "orders.db")


def test_a_connection_of_apsw_that_is_already_open_does_no_harm(folder: Path, open_: Open) -> None:
    open_(folder / "orders.db").close()
    connection = apsw.Connection(str(folder / "orders.db"))
    connection.execute("SELECT * FROM stepwell_a").fetchall()
    open_(folder / "orders.db").writer.execute("INSERT INTO stepwell_a VALUES (1, 'x')")
    assert connection.execute("SELECT v FROM stepwell_a").fetchall() == [("x",)]
    connection.close()


#: A program that keeps a lock on the database: a reader of an old state, or a writer.
LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("SELECT count(*) FROM stepwell_a").fetchall()
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_file_that_another_program_has_locked_is_refused(
    folder: Path, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_(folder / "orders.db")
    database.truncate_wal()
    database.close()
    monkeypatch.setattr(connecting, "BUSY_TIMEOUT_SECONDS", 0.05)
    connection = "PRAGMA journal_mode=DELETE"
    with child(LOCKER, folder / "orders.db", connection) as program:
        assert line(program) == "locked"
    with child(LOCKER, folder / "orders.db", "BEGIN EXCLUSIVE") as program:
        assert line(program) == "locked"
        with pytest.raises(FileInUse, match="locked by another program"):
            open_(folder / "orders.db")
    assert open_(folder / "orders.db").writer.pragma("journal_mode") == "wal"


# --- after a crash ----------------------------------------------------------------------------------------------------

#: Opens the file, commits a row, says so, and is killed.
VICTIM = """
import sys
from stepwell.store.sqlite.file.opening import open_database
database = open_database(sys.argv[1], migrations=sys.argv[2])
database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('survived')")
print("written", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_had_committed_is_folded_into_the_file_at_once(
    folder: Path, open_: Open, migrations: str
) -> None:
    with child(VICTIM, folder / "orders.db", migrations) as victim:
        assert line(victim) == "written"
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        assert os.stat(folder / "orders.db-wal").st_size > 0
        database = open_(folder / "orders.db")
    assert os.stat(folder / "orders.db-wal").st_size == 0
    assert database.writer.execute("SELECT v FROM stepwell_a").fetchall() == [("survived",)]


def test_an_open_that_cannot_fold_the_log_of_a_killed_process_in_is_refused_and_loses_nothing(
    folder: Path, open_: Open, migrations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "BUSY_TIMEOUT_SECONDS", 0.05)
    with child(VICTIM, folder / "orders.db", migrations) as victim:
        assert line(victim) == "written"
        with child(LOCKER, folder / "orders.db", "BEGIN") as reader:
            assert line(reader) == "locked"
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            with pytest.raises(FileInUse, match="locked by another program"):
                open_(folder / "orders.db")
    assert open_(folder / "orders.db").writer.execute("SELECT v FROM stepwell_a").fetchall() == [("survived",)]


def test_a_checkpoint_that_does_not_empty_the_log_is_an_error_that_says_so(
    folder: Path, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "BUSY_TIMEOUT_SECONDS", 0.05)
    database = open_(folder / "orders.db")
    with child(LOCKER, folder / "orders.db", "BEGIN") as reader:
        assert line(reader) == "locked"
        database.writer.execute("INSERT INTO stepwell_a VALUES (1, 'x')")
        with pytest.raises(StoreFailed, match=r"could not be folded.*BusyError.*do not delete that file"):
            database.truncate_wal()
        reader.kill()
        reader.wait()
    database.truncate_wal()
    assert os.stat(database.path + "-wal").st_size == 0


def test_a_checkpoint_that_only_says_it_emptied_the_log_is_not_believed(
    folder: Path, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_(folder / "orders.db")
    with monkeypatch.context() as patch:
        patch.setattr(paths, "size_bytes", lambda _path: 4128)
        with pytest.raises(StoreFailed, match="not empty after a checkpoint"):
            database.truncate_wal()
    database.truncate_wal()


# --- the file moved under us ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-lock"])
@pytest.mark.parametrize("act", ["deleted or renamed", "replaced by another file"])
def test_a_file_that_vanishes_or_is_replaced_is_noticed(folder: Path, open_: Open, suffix: str, act: str) -> None:
    database = open_(folder / "orders.db")
    for _ in range(6):
        database.check_identity()
    victim = folder / f"orders.db{suffix}"
    victim.rename(folder / "aside")
    if act.startswith("replaced"):
        victim.write_bytes(b"")

    def check_three_times() -> None:
        # The database itself is looked at each time, the files beside it in turn.
        for _ in range(3 if suffix else 1):
            database.check_identity()

    with pytest.raises(FileNotUsable, match=rf"orders\.db{suffix}' was {act}.*engine stops.*never replace"):
        check_three_times()


# --- fork -------------------------------------------------------------------------------------------------------------

FORK = """
import gc, os, sys
from stepwell.errors import EngineClosed, FileNotUsable
from stepwell import audit_hook
from stepwell.store.sqlite.file.opening import open_database
path, migrations = sys.argv[1:3]
database = open_database(path, migrations=migrations)
reader = database.connect_reader()
database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('before')")
reader.execute("SELECT * FROM stepwell_a").fetchall()
pid = os.fork()
if pid == 0:
    for call in (database.check_process, database.connect_reader, database.truncate_wal):
        try:
            call()
        except EngineClosed as error:
            print("child:", error, flush=True)
    try:
        open_database(path, migrations=migrations)
    except FileNotUsable as error:
        print("child:", error, flush=True)
    other = open_database(path + "2", migrations=migrations)
    # Another process may read the file by other means; this one is as good as any.
    open(path, "rb").close()
    other.close()
    assert not audit_hook._listeners
    database.close()
    del database, reader, call
    gc.collect()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_forked_child_is_told_and_its_end_does_the_parent_no_harm(folder: Path, migrations: str) -> None:
    script = (
        FORK
        + """
import subprocess
probe = '''
import os, sys
from stepwell.store.sqlite.file.opening import open_database
database = open_database(sys.argv[1], migrations=sys.argv[2])
print("held by the parent:", database.membership.others_pids() == [os.getppid()])
database.close()
'''
print(subprocess.run([sys.executable, "-c", probe, path, migrations], capture_output=True, text=True).stdout)
database.check_identity()
database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('after')")
print(reader.execute("SELECT v FROM stepwell_a").fetchall())
database.truncate_wal()
database.close()
database = open_database(path, migrations=migrations)
print(database.writer.pragma("integrity_check"), database.writer.execute("SELECT count(*) FROM stepwell_a").fetchall())
"""
    )
    told = run(script, folder / "orders.db", migrations)
    assert told.count("belongs to process") == 3
    assert told.count("was forked while its parent had") == 1
    assert "held by the parent: True" in told
    assert "[('before',), ('after',)]" in told
    assert "ok [(2,)]" in told


def test_a_forked_child_that_outlives_its_parent_keeps_nobody_out_and_touches_nothing(
    folder: Path, open_: Open, migrations: str
) -> None:
    script = """
import os, sys
from stepwell.store.sqlite.file.opening import open_database
database = open_database(sys.argv[1], migrations=sys.argv[2])
database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('before')")
sys.stdout.flush()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    try:
        open_database(sys.argv[1], migrations=sys.argv[2])
    except Exception as error:
        print(error, flush=True)
    sys.exit(0)
os.kill(os.getpid(), 9)
"""
    with child(script, folder / "orders.db", migrations) as parent:
        assert int(line(parent)) != parent.pid
        parent.wait()
        database = open_(folder / "orders.db")
        database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('after')")
        assert parent.stdin is not None
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert "was forked while its parent had" in line(parent)
        # The pipe closes when the child is gone: it ran its interpreter's clean-up with the parent's connections.
        assert line(parent) == ""
        database.check_identity()
        assert database.writer.execute("SELECT v FROM stepwell_a").fetchall() == [("before",), ("after",)]
        assert database.writer.pragma("integrity_check") == "ok"


def test_nothing_that_a_child_forgets_closes_a_connection_of_the_parent(folder: Path, migrations: str) -> None:
    # The end of an interpreter empties all modules, and with them whatever list they keep connections in.
    forget = """
    from stepwell.store.sqlite.file import opening
    inodes = {os.stat(path + suffix).st_ino for suffix in ("", "-wal", "-shm")}
    vars(opening).clear()
    gc.collect()
    found = 0
    for fd in os.listdir("/dev/fd"):
        try:
            found += os.fstat(int(fd)).st_ino in inodes
        except OSError:
            pass
    print("still open:", found)
    sys.exit(0)"""
    told = run(FORK.replace("    sys.exit(0)", forget), folder / "orders.db", migrations)
    # Two connections of the parent: two descriptors of the database, two of the log, one of its index. And three of log
    # and index that have nothing to do with locks: one to write zeros, two to see whether the files are in place.
    assert "still open: 8" in told
