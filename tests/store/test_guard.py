"""The rest of the process cannot reach an engine's file, whatever it calls it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import apsw
import pytest

from stepwell import audit_hook
from stepwell.errors import SecondSqliteError
from stepwell.store.sqlite.file import guard
from stepwell.store.sqlite.file.opening import Database, open_database


@pytest.fixture
def migrations(tmp_path: Path) -> str:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_initial.sql").write_text("CREATE TABLE stepwell_a (id INTEGER PRIMARY KEY, v TEXT) STRICT;")
    return str(folder)


@pytest.fixture
def opened(tmp_path: Path, migrations: str) -> Iterator[Database]:
    database = open_database(tmp_path / "my orders.db", migrations=migrations)
    yield database
    database.close()


WAYS: dict[str, Callable[[str], object]] = {
    "open": open,
    "open for writing": lambda path: open(path, "r+b"),
    "open bytes": lambda path: open(os.fsencode(path), "rb"),
    "Path.read_bytes": lambda path: Path(path).read_bytes(),
    "os.open": lambda path: os.open(path, os.O_RDONLY),
    "sqlite3": sqlite3.connect,
    "sqlite3 with a Path": lambda path: sqlite3.connect(Path(path)),
    "sqlite3 with bytes": lambda path: sqlite3.connect(os.fsencode(path)),
    "URI": lambda path: sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True),
    "URI with authority": lambda path: sqlite3.connect(f"file://localhost{quote(path)}#x", uri=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-lock"])
def test_every_file_of_the_database_is_refused_however_it_is_opened(opened: Database, way: str, suffix: str) -> None:
    path = opened.path + suffix
    with pytest.raises(SecondSqliteError) as refused:
        WAYS[way](path)
    message = str(refused.value)
    assert repr(path) in message
    assert "engine.transaction()" in message
    assert "another process" in message


def test_other_names_of_the_file_are_refused_as_well(
    opened: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "symlink").symlink_to(opened.path)
    (tmp_path / "hardlink").hardlink_to(opened.path)
    (tmp_path / "folder").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("my orders.db", "./folder/my orders.db", "symlink", "hardlink"):
        with pytest.raises(SecondSqliteError):
            sqlite3.connect(name)
        with pytest.raises(SecondSqliteError):
            open(name)
    with pytest.raises(SecondSqliteError):
        sqlite3.connect("file:my%20orders.db?immutable=1", uri=True)


def test_a_rollback_journal_cannot_be_planted(opened: Database) -> None:
    with pytest.raises(SecondSqliteError):
        open(opened.path + "-journal", "wb")
    assert not os.path.exists(opened.path + "-journal")


def test_a_refused_open_leaves_the_locks_of_the_engine_in_place(opened: Database) -> None:
    opened.writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(SecondSqliteError):
        open(opened.path)
    probe = "import apsw, sys; apsw.Connection(sys.argv[1]).execute('BEGIN IMMEDIATE')"
    done = subprocess.run([sys.executable, "-c", probe, opened.path], capture_output=True, text=True, check=False)
    assert "BusyError" in done.stderr
    opened.writer.execute("ROLLBACK")


def test_other_files_and_databases_are_left_alone(
    opened: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    assert (tmp_path / "notes.txt").read_text() == "hello"
    for name in (str(tmp_path / "other.db"), ":memory:", "", f"file:{tmp_path}/third.db", "file:%zz"):
        connection = sqlite3.connect(name, uri=name.startswith("file:/"))
        connection.close()
    with pytest.raises(FileNotFoundError):
        open(tmp_path / "missing")
    assert opened.writer.execute("SELECT count(*) FROM stepwell_a").fetchall() == [(0,)]


def test_a_connection_of_apsw_may_share_the_file(opened: Database) -> None:
    connection = apsw.Connection(opened.path)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    opened.writer.execute("BEGIN IMMEDIATE; INSERT INTO mine VALUES (1); COMMIT")
    assert opened.writer.execute("SELECT x FROM mine").fetchall() == [(1,)]


def test_another_process_may_use_any_tool(opened: Database) -> None:
    script = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM stepwell_a').fetchall())"
    )
    done = subprocess.run([sys.executable, "-c", script, opened.path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(0,)]"


def test_a_closed_database_is_an_ordinary_file_again(opened: Database) -> None:
    opened.close()
    connection = sqlite3.connect(opened.path)
    assert connection.execute("SELECT count(*) FROM stepwell_a").fetchall() == [(0,)]
    connection.close()
    assert Path(opened.path).read_bytes()[:6] == b"SQLite"


def test_nothing_listens_when_nothing_is_open(opened: Database, tmp_path: Path, migrations: str) -> None:
    others = len(guard._watches) - 1  # engines that are open in this process for other reasons
    second = open_database(tmp_path / "second.db", migrations=migrations)
    assert audit_hook._listeners["open"].count(guard._refuse_watched) == 1
    opened.close()
    with pytest.raises(SecondSqliteError):
        open(second.path)
    second.close()
    assert (guard._refuse_watched in audit_hook._listeners.get("open", ())) == bool(others)
    assert bool(guard._watched) == bool(others)
    assert len(guard._journals) == others


def test_a_listener_hears_its_events_until_it_is_removed() -> None:
    heard: list[tuple[str, tuple[object, ...]]] = []
    remove = audit_hook.add_listener(
        frozenset({"stepwell.test.a", "stepwell.test.b"}), lambda *event: heard.append(event)
    )
    sys.audit("stepwell.test.a", 1)
    sys.audit("stepwell.test.b", 2)
    sys.audit("stepwell.test.c", 3)
    remove()
    remove()
    sys.audit("stepwell.test.a", 4)
    assert heard == [("stepwell.test.a", (1,)), ("stepwell.test.b", (2,))]


def test_what_a_listener_raises_stops_the_operation(tmp_path: Path) -> None:
    def forbid(event: str, args: tuple[object, ...]) -> None:
        if args[0] == str(tmp_path / "forbidden"):
            raise PermissionError(event)

    remove = audit_hook.add_listener(frozenset({"open"}), forbid)
    with pytest.raises(PermissionError):
        open(str(tmp_path / "forbidden"), "w")
    remove()
    assert not (tmp_path / "forbidden").exists()


def test_importing_installs_no_hook_and_a_process_that_forbids_hooks_is_told(tmp_path: Path, migrations: str) -> None:
    script = """
import sys
installed = []
def jealous(event, args):
    if event == "sys.addaudithook":
        installed.append(event)
        raise RuntimeError("no more hooks")
sys.addaudithook(jealous)
from stepwell.errors import FileNotUsable
from stepwell.store.sqlite.file.opening import open_database
assert not installed
for _ in range(2):
    try:
        open_database(sys.argv[1], migrations=sys.argv[2])
    except FileNotUsable as error:
        print(error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "orders.db"), migrations]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("audit hook of this process forbids") == 2


def test_the_hook_survives_the_end_of_the_interpreter_with_an_engine_open(tmp_path: Path, migrations: str) -> None:
    script = """
import sys
from stepwell.store.sqlite.file.opening import open_database
class Late:
    def __del__(self, open=open, name=sys.executable):
        open(name, "rb").close()
late = Late()
database = open_database(sys.argv[1], migrations=sys.argv[2])
database.cycle = database
"""
    command = [sys.executable, "-c", script, str(tmp_path / "orders.db"), migrations]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
