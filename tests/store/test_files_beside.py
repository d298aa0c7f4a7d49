"""The files beside a database are those on the page about them, and go together."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.processes import child, line, tell

from stepwell import Engine, FileNotUsable
from stepwell.cli import main

PAGES = Path(__file__).parents[2] / "docs"

PROGRAM = """
import os, signal, sys
from stepwell import Engine, workflow

@workflow
async def add(number: int) -> int:
    return number + 1

with Engine("orders.db") as engine:
    print(engine.start(add, 1, id="one").result(), flush=True)
    if "die" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def told(state: str) -> set[str]:
    """Return the files that the page has in a state."""
    page = (PAGES / "explanation" / "one-file.md").read_text()
    rows = re.findall(r"^\| `(orders\.db[^`]*)` \|.*\| (.*) \|$", page, re.MULTILINE)
    return {
        name.rstrip("/") for name, when in rows if state in when or when == "always" or when.startswith("as the log")
    }


def test_what_a_killed_process_leaves_is_on_the_page_and_can_be_removed(tmp_path: Path) -> None:
    assert run(tmp_path, "die").stdout == "2\n"
    assert names(tmp_path) == told("killed")
    (tutorial,) = re.findall(
        r"^rm -r orders\.db\*$", (PAGES / "tutorial" / "first-workflow.md").read_text(), re.MULTILINE
    )
    subprocess.run(["sh", "-c", tutorial], cwd=tmp_path, check=True)
    assert names(tmp_path) == set()
    assert run(tmp_path).stdout == "2\n"


def test_a_database_that_was_removed_alone_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "die")
    (tmp_path / "orders.db").unlink()
    assert "was deleted or moved without it" in run(tmp_path).stderr


#: Has an engine open, and closes it when told to.
OWNER = """
import sys
from stepwell import Engine, workflow

@workflow
async def add(number: int) -> int:
    return number + 1

engine = Engine(sys.argv[1])
print(engine.start(add, 1, id="one").result(), flush=True)
sys.stdin.readline()
try:
    engine.close()
except Exception as error:
    print(type(error).__name__, flush=True)
print("closed", flush=True)
"""


@pytest.mark.parametrize(
    "deleted",
    [("-wal",), ("-shm",), ("-wal", "-shm")],
    ids=["the log", "its index", "both"],
)
def test_a_log_that_was_deleted_under_an_engine_is_named_and_what_that_engine_committed_is_not_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], deleted: tuple[str, ...]
) -> None:
    database = tmp_path / "orders.db"
    with child(OWNER, database) as owner:
        assert line(owner) == "2"
        for suffix in deleted:
            database.with_name(f"orders.db{suffix}").unlink()
        before = names(tmp_path)
        said = rf"{deleted[0]}' .*deleted while process {owner.pid}\b.* had .* open.*do not kill it\. Then start again"
        with pytest.raises(FileNotUsable, match=said):
            Engine(database, workflows=[])
        assert main(["list", "--db", str(database)]) != 0
        assert f"deleted while process {owner.pid} " in capfd.readouterr().err
        assert names(tmp_path) == before  # nothing was made in its place
        tell(owner)
        while line(owner) != "closed":
            pass
    with Engine(database, workflows=[]) as engine:
        assert engine.get("one").result() == 2


def test_an_engine_makes_no_log_anew_that_was_deleted_and_stops(database: Path) -> None:
    engine = Engine(database, workflows=[])
    log = database.with_name(f"{database.name}-wal")
    log.unlink()
    with pytest.raises(FileNotUsable, match="was deleted or renamed while the engine had it open"):
        engine.query("SELECT 1")  # which has a connection of its own
    assert not log.exists()
    with suppress(FileNotUsable):  # whichever of its files it looks at last
        engine.close()


#: Writes to the database as any other program would, and folds its own log into it.
STRANGER = """
import hashlib, os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("CREATE TABLE theirs (value)")
connection.commit()
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
connection.close()
for suffix in ("-wal", "-shm"):
    if os.path.exists(sys.argv[1] + suffix):
        os.unlink(sys.argv[1] + suffix)
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
"""


@pytest.mark.parametrize("is_written", [False, True])
def test_a_deleted_log_is_not_brought_into_a_database_that_others_have_written_to_since(
    database: Path, is_written: bool
) -> None:
    engine = Engine(database, workflows=[])
    for suffix in ("-wal", "-shm"):
        database.with_name(f"{database.name}{suffix}").unlink()
    command = [sys.executable, "-c", STRANGER, str(database)]
    after = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for link in Path("/proc/self/fd").iterdir() if is_written else ():
        if link.is_symlink() and os.readlink(link) == f"{database}-wal (deleted)":
            os.utime(link)  # as the engine's own next commit would
    with suppress(FileNotUsable):
        engine.close()
    assert hashlib.sha256(database.read_bytes()).hexdigest() == after.strip()
