"""Many processes open, use and close one file at the same time, in any order, and none of them harms another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import child, line, member, tell

from stepwell.errors import FileInUse, FileNotUsable, SchemaTooNew, StorageFull
from stepwell.store.sqlite.file import identify, opening
from stepwell.store.sqlite.file.opening import Database, open_database

Open = Callable[..., Database]


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
    (made / "0001_initial.sql").write_text("CREATE TABLE stepwell_a (id INTEGER PRIMARY KEY, v TEXT) STRICT;")
    return str(made)


@pytest.fixture
def open_(migrations: str) -> Iterator[Open]:
    opened: list[Database] = []

    def call(path: Any) -> Database:
        opened.append(open_database(path, migrations=migrations))
        return opened[-1]

    yield call
    for database in opened:
        database.close()


#: Opens the file when told to, together with others; writes a row, and says whether it has the file.
RACER = """
import sys
from stepwell.store.sqlite.file.opening import open_database
print("ready", flush=True)
sys.stdin.readline()
database = open_database(sys.argv[1], migrations=sys.argv[2])
database.writers.acquire()
database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('raced')")
database.writers.release()
database.check_identity()
print(database.writer.pragma("user_version"), flush=True)
sys.stdin.readline()
database.check_identity()
database.close()
print("closed", flush=True)
"""


@pytest.mark.parametrize("state", ["new", "old", "left over by a killed process"])
def test_eight_processes_that_open_a_file_at_once_all_get_in(
    folder: Path, migrations: str, open_: Open, state: str
) -> None:
    path = folder / "orders.db"
    rows = 8
    if state == "old":
        open_(path).close()
        Path(migrations, "0002_more.sql").write_text("ALTER TABLE stepwell_a ADD COLUMN w INTEGER;")
    elif state != "new":
        rows += 1
        with member(path, migrations) as victim:
            victim.ask("database.writer.execute(\"INSERT INTO stepwell_a (v) VALUES ('survived')\") and None")
            victim.kill()
    with ExitStack() as stack:
        racers = [stack.enter_context(child(RACER, path, migrations)) for _ in range(8)]
        assert [line(racer) for racer in racers] == ["ready"] * 8
        for racer in racers:
            tell(racer)
        assert [line(racer) for racer in racers] == ["2" if state == "old" else "1"] * 8
        for racer in racers:
            tell(racer)
        assert [line(racer) for racer in racers] == ["closed"] * 8
        assert [racer.wait() for racer in racers] == [0] * 8
    database = open_(path)
    assert database.writer.execute("SELECT count(*) FROM stepwell_a").fetchall() == [(rows,)]
    assert database.writer.pragma("integrity_check") == "ok"


def test_an_older_file_is_not_migrated_under_those_who_have_it_open(folder: Path, migrations: str, open_: Open) -> None:
    with member(folder / "orders.db", migrations) as older, member(folder / "orders.db", migrations) as another:
        Path(migrations, "0002_more.sql").write_text("ALTER TABLE stepwell_a ADD COLUMN w INTEGER;")
        words = (
            f"schema version 1 and is open in process {older.pid}, process {another.pid};.* bring it to version 2.*"
            "Stop the older workers first"
        )
        with pytest.raises(FileInUse, match=words):
            open_(folder / "orders.db")
        # Nothing is held by the attempt, and nothing was shaken.
        another.kill()
        with pytest.raises(FileInUse, match=rf"open in process {older.pid};"):
            open_(folder / "orders.db")
        assert older.ask("database.writer.pragma('user_version')") == 1
        older.ask("database.close()")
        assert open_(folder / "orders.db").writer.pragma("user_version") == 2


def test_a_newer_file_is_refused_while_newer_processes_have_it_open(folder: Path, migrations: str, open_: Open) -> None:
    Path(migrations, "0002_more.sql").write_text("ALTER TABLE stepwell_a ADD COLUMN w INTEGER;")
    with member(folder / "orders.db", migrations) as newer:
        os.unlink(os.path.join(migrations, "0002_more.sql"))
        with pytest.raises(SchemaTooNew, match="version 2, this release of Stepwell knows versions up to 1"):
            open_(folder / "orders.db")
        assert newer.ask("membership.others_pids()") == []


def test_the_log_of_those_who_live_is_left_to_them(folder: Path, migrations: str, open_: Open) -> None:
    with member(folder / "orders.db", migrations) as other:
        other.ask("database.truncate_wal()")
        other.ask("database.writer.execute(\"INSERT INTO stepwell_a (v) VALUES ('theirs')\") and None")
        log_bytes = os.stat(folder / "orders.db-wal").st_size
        assert log_bytes > 0
        database = open_(folder / "orders.db")
        assert os.stat(folder / "orders.db-wal").st_size == log_bytes
        assert database.writer.execute("SELECT v FROM stepwell_a").fetchall() == [("theirs",)]


def test_files_stay_the_same_while_others_come_and_go(folder: Path, migrations: str, open_: Open) -> None:
    path = folder / "orders.db"
    database = open_(path)
    before = {name: os.stat(folder / name).st_ino for name in os.listdir(folder)}

    def check() -> None:
        for _ in range(3):
            database.check_identity()
        assert {name: os.stat(folder / name).st_ino for name in os.listdir(folder)} == before

    for end in ("database.close()", "database.truncate_wal() or database.close()"):
        database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('mine')")
        with member(path, migrations) as other:
            other.ask("database.writer.execute(\"INSERT INTO stepwell_a (v) VALUES ('theirs')\") and None")
            other.ask(end)
        check()
    # An empty log, which SQLite would remove if nobody else had the file.
    database.truncate_wal()
    with member(path, migrations) as other:
        other.ask("database.close()")
    check()
    shell = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM stepwell_a").fetchone())
print(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
connection.close()
"""
    done = subprocess.run([sys.executable, "-c", shell, path], capture_output=True, text=True, check=True)
    assert done.stdout == "(4,)\n(0, 0, 0)\n"
    check()
    with member(path, migrations) as other:
        other.kill()
    check()
    database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('last')")
    assert database.writer.pragma("integrity_check") == "ok"


def test_the_last_to_close_leaves_one_file_and_its_lock_file(folder: Path, migrations: str, open_: Open) -> None:
    database = open_(folder / "orders.db")
    with member(folder / "orders.db", migrations) as other:
        database.truncate_wal()
        database.close()
        assert sorted(os.listdir(folder)) == ["orders.db", "orders.db-lock", "orders.db-shm", "orders.db-wal"]
        other.ask("database.close()")
        assert sorted(os.listdir(folder)) == ["orders.db", "orders.db-lock"]


def test_a_file_being_opened_or_closed_keeps_the_next_one_waiting(
    folder: Path, migrations: str, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "DOOR_PATIENCE_SECONDS", 0.01)
    with member(folder / "orders.db", migrations) as other:
        other.ask("locking.lock(database._lock.descriptor, locking.LOCK_BASE)")
        with pytest.raises(FileInUse, match=rf"being opened or closed by process {other.pid}\b"):
            open_(folder / "orders.db")
        other.ask("database._lock.leave_door()")
        database = open_(folder / "orders.db")
        # Closing does not depend on the door.
        monkeypatch.setattr(opening, "_CLOSE_PATIENCE_SECONDS", 0.01)
        other.ask("locking.lock(database._lock.descriptor, locking.LOCK_BASE)")
        database.close()
        assert other.ask("membership.is_alone()") is True


def test_a_file_that_another_process_begins_to_make_meanwhile_is_judged_when_it_is_done(
    folder: Path, migrations: str, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "orders.db"
    real_look = identify.look_before_writing
    with ExitStack() as stack:
        looks: list[str] = []

        def look(name: str, newest: int) -> None:
            looks.append(name)
            if len(looks) == 1:
                # Half made by another process: empty, with a log.
                stack.enter_context(member(path, migrations))
                raise FileNotUsable("missing or empty, but its write-ahead log is not")
            real_look(name, newest)

        monkeypatch.setattr(identify, "look_before_writing", look)
        assert open_(path).writer.execute("SELECT * FROM stepwell_a").fetchall() == []
        assert len(looks) == 1


def test_a_full_disk_while_the_file_is_opened_is_told_as_one(
    folder: Path, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: object) -> int:
        return 0

    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(StorageFull, match=r"disk of .*orders\.db' is full"):
        open_(folder / "orders.db")
    monkeypatch.undo()
    open_(folder / "orders.db")


#: Kills a process that opens the file, takes a seat, writes and closes, when it comes to its first, second, third …
#: line of the modules named; a member stays all the time, and looks afterwards. All are forks of a process that never
#: opens a database itself.
KILL_EVERYWHERE = """
import os, signal, sys
from stepwell.store.sqlite.file import opening
from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.peers import membership
from stepwell.store.sqlite.peers import writers_lock
from stepwell.store.sqlite.file import identify
from stepwell.store.sqlite.peers import datagrams
path, migrations = sys.argv[1:]
traced = {module.__file__ for module in (opening, locking, membership, writers_lock, identify, datagrams)}

def come_and_die(at):
    seen = set()
    def local(frame, event, arg):
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(seen) == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return local
    sys.settrace(lambda frame, event, arg: local if frame.f_code.co_filename in traced else None)
    database = opening.open_database(path, migrations=migrations)
    database.writers.acquire()
    database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('visitor')")
    database.membership.announce(at + 1, takes_work=True)
    database.membership.listen(True)
    database.writers.release()
    database.close()
    sys.settrace(None)
    os._exit(0)

def stay():
    database = opening.open_database(path, migrations=migrations)
    database.membership.announce(1, takes_work=True)
    os.write(to_parent, b"!")
    while at := int.from_bytes(os.read(from_parent, 2), "big"):
        assert database.membership.is_alone()
        assert not any(database.membership.is_seated(slot, at + 1) for slot in range(4))
        assert database.writers.acquire_within(0), "the writers' lock"
        for _ in range(3):
            database.check_identity()
        database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('keeper')")
        database.writers.release()
        database.membership.forget_view()
        assert database.membership.others() == []
        with database._lock.door(0):
            pass
        os.write(to_parent, b"!")
    assert database.writer.pragma("integrity_check") == "ok"
    database.close()
    os._exit(0)

from_parent, to_keeper = os.pipe()
from_keeper, to_parent = os.pipe()
keeper = os.fork()
if keeper == 0:
    try:
        stay()
    except BaseException:
        import traceback
        traceback.print_exc()
    os._exit(1)
os.close(to_parent)
os.read(from_keeper, 1)
at, died = 0, 1
while died:
    at += 1
    visitor = os.fork()
    if visitor == 0:
        try:
            come_and_die(at)
        finally:
            os._exit(1)
    died = os.waitpid(visitor, 0)[1]
    assert os.WIFSIGNALED(died) or died == 0
    os.write(to_keeper, at.to_bytes(2, "big"))
    if not os.read(from_keeper, 1):
        sys.exit(f"after a kill at line {at}")
os.write(to_keeper, bytes(2))
assert os.waitpid(keeper, 0)[1] == 0
print(at)
"""


def test_a_process_killed_at_any_line_of_coming_and_going_harms_no_other(folder: Path, migrations: str) -> None:
    command = [sys.executable, "-c", KILL_EVERYWHERE, str(folder / "orders.db"), migrations]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150
