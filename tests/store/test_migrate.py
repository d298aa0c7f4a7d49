"""A file is at one version or at another, whatever happens in between."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest
from proof.pool import scratch

from stepwell.errors import FileNotUsable, SchemaTooNew, StorageFull, StoreError
from stepwell.store.sqlite.file import connecting, migrate, paths
from stepwell.store.sqlite.file.migrate import APPLICATION_ID, load_migrations
from stepwell.store.sqlite.file.opening import Database, open_database

INITIAL = """
-- The first schema.
CREATE TABLE stepwell_a (id INTEGER PRIMARY KEY, v TEXT) STRICT;
CREATE TABLE stepwell_b (id INTEGER PRIMARY KEY, a INTEGER REFERENCES stepwell_a(id)) STRICT;
"""
# Rebuilds a table that another refers to, possible only with foreign keys off, and replaces the text of that one.
SECOND = """
CREATE TABLE stepwell_a_new (id INTEGER PRIMARY KEY, v TEXT, w INTEGER NOT NULL DEFAULT 7) STRICT;
INSERT INTO stepwell_a_new (id, v) SELECT id, v FROM stepwell_a;
DROP TABLE stepwell_a;
ALTER TABLE stepwell_a_new RENAME TO stepwell_a;
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'a INTEGER', 'a INTEGER NOT NULL') WHERE name = 'stepwell_b';
PRAGMA writable_schema = RESET;
"""

Folder = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(*scripts: str) -> str:
        made = tmp_path / f"migrations-{len(scripts)}-{abs(hash(scripts))}"
        made.mkdir(exist_ok=True)
        for number, script in enumerate(scripts, start=1):
            (made / f"{number:04d}_script.sql").write_text(script)
        return str(made)

    return make


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "orders.db")


def fill(path: str, migrations: str) -> None:
    database = open_database(path, migrations=migrations)
    database.writer.execute("INSERT INTO stepwell_a (id, v) VALUES (1, 'one'); INSERT INTO stepwell_b VALUES (1, 1)")
    database.writer.execute("CREATE TABLE mine (x); INSERT INTO mine (rowid, x) VALUES (5, 'a'), (99, 'b')")
    database.truncate_wal()
    database.close()


def rows(database: Database, sql: str) -> list[tuple[object, ...]]:
    return list(database.writer.execute(sql).fetchall())


def test_a_new_file_carries_the_mark_and_the_number_of_the_last_script(path: str, folder: Folder) -> None:
    database = open_database(path, migrations=folder(INITIAL, SECOND))
    assert database.writer.pragma("application_id") == APPLICATION_ID == int.from_bytes(b"Stwl", "big")
    assert database.writer.pragma("user_version") == 2
    assert rows(database, "SELECT w FROM stepwell_a") == []
    database.close()
    assert not [name for name in os.listdir(os.path.dirname(path)) if "backup" in name]


def test_a_file_of_an_older_version_is_backed_up_and_brought_up_to_date(path: str, folder: Folder) -> None:
    fill(path, folder(INITIAL))
    database = open_database(path, migrations=folder(INITIAL, SECOND))
    assert rows(database, "SELECT id, v, w FROM stepwell_a") == [(1, "one", 7)]
    assert rows(database, "SELECT a FROM stepwell_b") == [(1,)]
    assert database.writer.pragma("user_version") == 2
    assert database.writer.pragma("foreign_keys") == 1
    database.close()
    assert os.stat(path + "-backup-v1").st_mode & 0o777 == 0o600
    assert not [name for name in os.listdir(os.path.dirname(path)) if "partial" in name]


def test_the_backup_opens_as_it_was_with_rowids_kept(path: str, folder: Folder) -> None:
    fill(path, folder(INITIAL))
    open_database(path, migrations=folder(INITIAL, SECOND)).close()
    database = open_database(path + "-backup-v1", migrations=folder(INITIAL))
    assert rows(database, "SELECT * FROM stepwell_a") == [(1, "one")]
    assert rows(database, "SELECT rowid, x FROM mine ORDER BY rowid") == [(5, "a"), (99, "b")]
    database.close()


def test_a_backup_and_half_a_backup_of_an_earlier_attempt_are_replaced(path: str, folder: Folder) -> None:
    fill(path, folder(INITIAL))
    for leftover in ("", "-partial", "-partial-wal", "-partial-journal"):
        Path(path + "-backup-v1" + leftover).write_bytes(b"half " * 1000)
    open_database(path, migrations=folder(INITIAL, SECOND)).close()
    database = open_database(path + "-backup-v1", migrations=folder(INITIAL))
    assert rows(database, "SELECT * FROM stepwell_a") == [(1, "one")]
    database.close()
    assert not [name for name in os.listdir(os.path.dirname(path)) if "partial" in name]


def test_a_file_that_is_up_to_date_is_not_written_to(path: str, folder: Folder) -> None:
    fill(path, folder(INITIAL))
    before = Path(path).read_bytes()
    database = open_database(path, migrations=folder(INITIAL))
    assert os.stat(path + "-wal").st_size == 0
    database.close()
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize(
    "broken",
    [
        "CREATE TABLE stepwell_c (x) STRICT;",
        "DROP TABLE stepwell_b; INSERT INTO stepwell_a VALUES (1, 'again');",
        "DROP TABLE stepwell_b; SELECT nonsense;",
    ],
)
def test_a_script_that_fails_leaves_the_file_as_it_was_and_is_named(path: str, folder: Folder, broken: str) -> None:
    fill(path, folder(INITIAL))
    with pytest.raises(FileNotUsable, match=r"Migration 3 \(script\).*as it was before"):
        open_database(path, migrations=folder(INITIAL, SECOND, broken))
    database = open_database(path, migrations=folder(INITIAL))
    assert rows(database, "SELECT * FROM stepwell_a") == [(1, "one")]
    assert rows(database, "SELECT * FROM stepwell_b") == [(1, 1)]
    database.close()


def test_a_script_that_breaks_a_reference_between_tables_of_the_engine_is_undone(path: str, folder: Folder) -> None:
    fill(path, folder(INITIAL))
    with pytest.raises(FileNotUsable, match="row 1 of table 'stepwell_b' without the row of 'stepwell_a'"):
        open_database(path, migrations=folder(INITIAL, "DELETE FROM stepwell_a;"))
    open_database(path, migrations=folder(INITIAL)).close()


def test_broken_references_in_tables_of_the_user_do_not_stop_a_migration(path: str, folder: Folder) -> None:
    fill(path, folder(INITIAL))
    database = open_database(path, migrations=folder(INITIAL))
    database.writer.execute(
        "CREATE TABLE orphan (x REFERENCES mine(x)); PRAGMA foreign_keys=OFF; INSERT INTO orphan VALUES (1)"
    ).fetchall()
    database.close()
    database = open_database(path, migrations=folder(INITIAL, SECOND))
    assert rows(database, "SELECT x FROM orphan") == [(1,)]
    database.close()


def test_a_script_that_ends_its_own_transaction_is_a_defect_that_is_noticed(path: str, folder: Folder) -> None:
    with pytest.raises(StoreError, match="ended the transaction"):
        open_database(path, migrations=folder(INITIAL + "COMMIT;"))


def test_a_newer_file_is_refused_with_both_versions_and_untouched(path: str, folder: Folder) -> None:
    fill(path, folder(INITIAL, SECOND))
    before = Path(path).read_bytes()
    with pytest.raises(SchemaTooNew, match=r"schema version 2.* up to 1.*pip install --upgrade stepwell"):
        open_database(path, migrations=folder(INITIAL))
    assert Path(path).read_bytes() == before


def test_a_damaged_file_is_not_migrated(path: str, folder: Folder) -> None:
    fill(path, folder(INITIAL))
    database = open_database(path, migrations=folder(INITIAL))
    database.writer.execute("CREATE TABLE big (x); INSERT INTO big SELECT randomblob(3000) FROM stepwell_a, mine, mine")
    (page,) = rows(database, "SELECT rootpage FROM sqlite_schema WHERE name = 'mine'")[0]
    database.truncate_wal()
    database.close()
    with open(path, "r+b") as file:
        assert isinstance(page, int)
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(FileNotUsable, match="damaged"):
        open_database(path, migrations=folder(INITIAL, SECOND))
    assert not [name for name in os.listdir(os.path.dirname(path)) if "backup" in name]


def test_a_disk_without_room_for_backup_and_migration_is_refused_before_anything_is_written(
    path: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, folder(INITIAL))
    before = Path(path).read_bytes()
    room = os.statvfs(os.path.dirname(path))
    full = SimpleNamespace(f_bavail=len(before) // room.f_frsize, f_frsize=room.f_frsize)
    monkeypatch.setattr("os.statvfs", lambda _folder: full)
    with pytest.raises(
        StorageFull, match=r"schema version 1.* to version 2, .* a backup .* MB free\. Nothing was touched"
    ):
        open_database(path, migrations=folder(INITIAL, SECOND))
    monkeypatch.undo()
    assert not [name for name in os.listdir(os.path.dirname(path)) if "backup" in name]
    assert Path(path).read_bytes() == before
    open_database(path, migrations=folder(INITIAL, SECOND)).close()


def test_the_log_says_where_the_backup_of_a_migration_is(
    path: str, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    fill(path, folder(INITIAL))
    with caplog.at_level("INFO", "stepwell"):
        open_database(path, migrations=folder(INITIAL, SECOND)).close()
    assert f"from schema version 1 to 2; as it was before it is in {path + '-backup-v1'!r}" in caplog.text


def test_a_disk_that_fills_during_the_backup_leaves_nothing_behind(
    path: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, folder(INITIAL))

    def fails(*_args: object) -> None:
        raise apsw.FullError("database or disk is full")

    monkeypatch.setattr(migrate, "_check_copy", fails)
    with pytest.raises(StorageFull, match=r"disk of .* is full"):
        open_database(path, migrations=folder(INITIAL, SECOND))
    monkeypatch.undo()
    assert not [name for name in os.listdir(os.path.dirname(path)) if "backup" in name]
    open_database(path, migrations=folder(INITIAL)).close()


@pytest.mark.parametrize(
    "names",
    [[], ["0002_b.sql"], ["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"], ["1_a.sql"], ["000a_a.sql"]],
)
def test_scripts_with_gaps_doubles_or_bad_names_are_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(FileNotUsable, match=r"[Ii]nstall"):
        load_migrations(str(tmp_path))


def test_scripts_are_read_in_order_from_a_folder_or_a_package_resource(tmp_path: Path) -> None:
    for name in ("0002_b.sql", "0001_a.sql", "README.md"):
        (tmp_path / name).write_text(name)
    for folder in (str(tmp_path), tmp_path):
        assert [(found.number, found.name, found.sql) for found in load_migrations(folder)] == [
            (1, "a", "0001_a.sql"),
            (2, "b", "0002_b.sql"),
        ]


def test_the_scripts_of_the_package_make_a_file(path: str) -> None:
    scripts = load_migrations()
    database = open_database(path)
    assert database.writer.pragma("user_version") == len(scripts)
    database.close()


def test_foreign_keys_are_on_again_after_a_migration_and_after_one_that_failed(path: str, folder: Folder) -> None:
    fill(path, folder(INITIAL))
    connection = connecting.connect(path, "rw")
    with pytest.raises(FileNotUsable):
        migrate.migrate(connection, path, load_migrations(folder(INITIAL, "nonsense")))
    assert connection.pragma("foreign_keys") == 1
    assert is_defensive(connection)
    connection.pragma("foreign_keys", 0)
    assert migrate.migrate(connection, path, load_migrations(folder(INITIAL, SECOND))) == 1
    assert connection.pragma("foreign_keys") == 1
    assert is_defensive(connection)
    connection.close()


def is_defensive(connection: apsw.Connection) -> bool:
    """Tell whether SQL is kept from writing the schema table, whatever a script left behind."""
    return connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1) == 1 and connection.pragma("writable_schema") == 0


@pytest.mark.parametrize("rest", ["", "SELECT nonsense;"])
def test_a_script_may_replace_the_text_of_a_table_and_nobody_else_afterwards(
    path: str, folder: Folder, rest: str
) -> None:
    fill(path, folder(INITIAL))
    connection = connecting.connect(path, "rw")
    replaces = (
        "PRAGMA writable_schema = ON;"
        "UPDATE sqlite_schema SET sql = replace(sql, 'v TEXT', 'v TEXT CHECK (length(v) > 0)')"
        f" WHERE name = 'stepwell_a'; {rest} PRAGMA writable_schema = RESET; CREATE TABLE stepwell_c (x);"
    )
    scripts = load_migrations(folder(INITIAL, replaces))
    if rest:
        with pytest.raises(FileNotUsable):
            migrate.migrate(connection, path, scripts)
        connection.execute("UPDATE stepwell_a SET v = ''")
    else:
        migrate.migrate(connection, path, scripts)
        with pytest.raises(apsw.ConstraintError, match="CHECK"):
            connection.execute("UPDATE stepwell_a SET v = ''")
    assert is_defensive(connection)
    with pytest.raises(apsw.SQLError, match="may not be modified"):
        connection.execute("UPDATE sqlite_schema SET sql = ''")
    connection.close()


CONCURRENT = """
import sys
from stepwell.store.sqlite.file import connecting
from stepwell.store.sqlite.file import migrate
scripts = migrate.load_migrations(sys.argv[2])
connection = connecting.connect(sys.argv[1], "rw")
print("ready", flush=True)
sys.stdin.readline()
print(migrate.migrate(connection, sys.argv[1], scripts), connection.pragma("user_version"), flush=True)
"""


def test_of_several_migrations_at_once_one_does_the_work_even_without_the_engines_lock(
    path: str, folder: Folder
) -> None:
    fill(path, folder(INITIAL))
    command = [sys.executable, "-c", CONCURRENT, path, folder(INITIAL, SECOND)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    # Each says which version it found under the lock: one of them found the old one.
    assert sorted(process.communicate()[0] for process in processes) == ["1 2\n", "2 2\n", "2 2\n"]
    database = open_database(path, migrations=folder(INITIAL, SECOND))
    assert rows(database, "SELECT id, v, w FROM stepwell_a") == [(1, "one", 7)]
    database.close()


#: Kills a process that opens a file when it comes to its first, second, third … line of the modules named, each time on
#: a fresh copy of the file, and then opens the file in yet another process. All are forks of a process that never opens
#: a database itself.
KILL_EVERYWHERE = """
import glob, os, shutil, signal, sys
from stepwell.store.sqlite.file import migrate
from stepwell.store.sqlite.file import opening
from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.file import paths
original, old, new, work = sys.argv[1:5]
traced = {getattr(__import__("stepwell.store.sqlite." + name, fromlist=[name]), "__file__") for name in sys.argv[5:]}

def open_and_die(path, at):
    seen = set()
    def local(frame, event, arg):
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(seen) == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return local
    sys.settrace(lambda frame, event, arg: local if frame.f_code.co_filename in traced else None)
    opening.open_database(path, migrations=new)
    sys.settrace(None)

def check(path):
    backup = path + "-backup-v1"
    if os.path.exists(backup):
        database = opening.open_database(backup, migrations=old)
        assert database.writer.execute("SELECT * FROM stepwell_a").fetchall() == [(1, "one")]
        database.close()
    database = opening.open_database(path, migrations=new)
    if original:
        assert database.writer.execute("SELECT id, v, w FROM stepwell_a").fetchall() == [(1, "one", 7)]
        assert os.path.exists(backup)
    assert database.writer.pragma("user_version") == 2
    assert database.writer.pragma("integrity_check") == "ok"
    assert not glob.glob(path + "*partial*")
    for name in glob.glob(path + "*"):
        assert os.stat(name).st_mode & 0o777 == 0o600, name
    database.truncate_wal()
    database.close()

def forked(function, *args):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function(*args)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]

at = 0
while True:
    at += 1
    folder = os.path.join(work, str(at))
    os.mkdir(folder)
    path = os.path.join(folder, "orders.db")
    if original:
        shutil.copy(original, path)
    died = forked(open_and_die, path, at)
    assert os.WIFSIGNALED(died) or died == 0
    if forked(check, path) != 0:
        sys.exit(f"not recovered from a kill at line {at}")
    shutil.rmtree(folder)
    if died == 0:
        break
print(at - 1)
"""


def test_a_migration_killed_at_any_line_is_finished_by_the_next_open(path: str, folder: Folder) -> None:
    old, new = folder(INITIAL), folder(INITIAL, SECOND)
    fill(path, old)
    with scratch() as work:  # in memory: what a kill leaves does not depend on the disk
        command = [sys.executable, "-c", KILL_EVERYWHERE, path, old, new, str(work), "file.migrate"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_the_making_of_a_file_killed_at_any_line_is_finished_by_the_next_open(folder: Folder) -> None:
    new = folder(INITIAL, SECOND)
    modules = ["file.opening", "file.locking", "file.connecting", "file.identify", "peers.membership"]
    with scratch() as work:
        command = [sys.executable, "-c", KILL_EVERYWHERE, "", new, new, str(work), *modules]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_the_backups_path_is_beside_the_file(path: str, folder: Folder) -> None:
    fill(path, folder(INITIAL))
    assert migrate.back_up(path, 1) == path + "-backup-v1"
    assert paths.size_bytes(path + "-backup-v1") == paths.size_bytes(path)
