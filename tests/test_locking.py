"""One engine for one file, decided by the kernel: real processes race, die and fork."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stepwell.errors import FileInUse, FileNotUsable
from stepwell.store.sqlite import locking
from stepwell.store.sqlite.locking import Identity
from stepwell.store.sqlite.opening import open_database

#: Takes the lock, says so, and holds it until its standard input ends.
HOLDER = """
import sys
from stepwell.store.sqlite import locking
lock = locking.acquire(sys.argv[1], sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""

#: Opens the database when told to, and says whether it has it; then writes a row and holds the file until told to end.
RACER = """
import sys
from stepwell.errors import FileInUse
from stepwell.store.sqlite.opening import open_database
print("ready", flush=True)
sys.stdin.readline()
try:
    database = open_database(sys.argv[1], migrations=sys.argv[2])
except FileInUse as error:
    print("refused", error, flush=True)
else:
    database.writer.execute("INSERT INTO stepwell_a (v) VALUES ('winner')")
    print("won", flush=True)
    sys.stdin.readline()
    database.truncate_wal()
    database.close()
"""


@contextmanager
def child(script: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def lock_path(tmp_path: Path) -> str:
    return str(tmp_path / "orders.db-lock")


@pytest.fixture
def migrations(tmp_path: Path) -> str:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_initial.sql").write_text("CREATE TABLE stepwell_a (id INTEGER PRIMARY KEY, v TEXT) STRICT;")
    return str(folder)


def test_a_second_process_is_refused_with_the_pid_of_the_first(lock_path: str) -> None:
    with child(HOLDER, lock_path, "orders.db") as holder:
        assert line(holder) == "held"
        with pytest.raises(FileInUse, match=f"'orders.db' is open.*process {holder.pid} on host {os.uname().nodename}"):
            locking.acquire(lock_path, "orders.db")


def test_a_killed_process_gives_the_lock_back_at_once(lock_path: str) -> None:
    with child(HOLDER, lock_path, "orders.db") as holder:
        assert line(holder) == "held"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        locking.acquire(lock_path, "orders.db").release()


def test_a_refused_attempt_does_not_shake_the_holder(lock_path: str) -> None:
    with child(HOLDER, lock_path, "orders.db") as holder:
        assert line(holder) == "held"
        for _ in range(3):
            with pytest.raises(FileInUse):
                locking.acquire(lock_path, "orders.db")


def test_a_second_holder_in_the_same_process_is_refused_and_the_kernels_lock_stays(lock_path: str) -> None:
    lock = locking.acquire(lock_path, "orders.db")
    with pytest.raises(FileInUse, match="another engine of this process"):
        locking.acquire(lock_path, "orders.db")
    # Had the attempt opened and closed the lock file, POSIX would have dropped the first holder's lock.
    with child(HOLDER, lock_path, "orders.db") as other:
        assert line(other) == ""
        assert other.wait() == 1
    lock.release()


def test_a_released_lock_can_be_taken_again_and_its_file_stays(lock_path: str) -> None:
    lock = locking.acquire(lock_path, "orders.db")
    inode = os.stat(lock_path).st_ino
    lock.release()
    lock.release()
    assert os.stat(lock_path).st_ino == inode
    locking.acquire(lock_path, "orders.db").release()


def test_the_lock_file_is_readable_for_its_owner_only(lock_path: str) -> None:
    before = os.umask(0)
    try:
        lock = locking.acquire(lock_path, "orders.db")
    finally:
        os.umask(before)
    assert os.stat(lock_path).st_mode & 0o777 == 0o600
    lock.release()


def test_a_lock_file_deleted_while_it_is_being_locked_is_not_trusted(
    lock_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_lock = locking._lock
    deletions: list[int] = []

    def lock_a_file_that_vanishes(descriptor: int, path: str, database_path: str) -> None:
        real_lock(descriptor, path, database_path)
        if len(deletions) < 2:
            deletions.append(os.fstat(descriptor).st_ino)
            os.unlink(path)

    monkeypatch.setattr(locking, "_lock", lock_a_file_that_vanishes)
    lock = locking.acquire(lock_path, "orders.db")
    assert len(deletions) == 2
    assert Identity.of(lock_path) == lock.identity
    monkeypatch.undo()
    with child(HOLDER, lock_path, "orders.db") as other:
        assert line(other) == ""
    lock.release()


def test_one_database_under_two_names_has_one_holder_in_a_process(tmp_path: Path) -> None:
    database = Identity(1, 2**60)
    first = locking.acquire(str(tmp_path / "a.db-lock"), "a.db")
    second = locking.acquire(str(tmp_path / "b.db-lock"), "b.db")
    first.claim(database)
    with pytest.raises(FileInUse, match=r"under the name 'a\.db'"):
        second.claim(database)
    first.release()
    second.claim(database)
    second.release()


@pytest.mark.parametrize("kind", ["folder", "symlink", "fifo"])
def test_a_lock_file_that_is_no_plain_file_is_refused(lock_path: str, tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        os.mkdir(lock_path)
    elif kind == "symlink":
        (tmp_path / "elsewhere").touch()
        os.symlink(tmp_path / "elsewhere", lock_path)
    else:
        os.mkfifo(lock_path)
    with pytest.raises(FileNotUsable, match="plain file"):
        locking.acquire(lock_path, "orders.db")


def test_a_forked_child_neither_inherits_the_lock_nor_can_let_go_of_it(lock_path: str) -> None:
    script = """
import os, sys, subprocess
from stepwell.store.sqlite import locking
lock = locking.acquire(sys.argv[1], "orders.db")
os.register_at_fork(after_in_child=locking.after_fork_in_child)
pid = os.fork()
if pid == 0:
    lock.release()
    os.close(lock._descriptor)
    os._exit(0)
os.waitpid(pid, 0)
probe = "import sys; from stepwell.store.sqlite import locking; locking.acquire(sys.argv[1], 'orders.db')"
print(subprocess.run([sys.executable, "-c", probe, sys.argv[1]], stderr=subprocess.PIPE, text=True).stderr)
"""
    done = subprocess.run([sys.executable, "-c", script, lock_path], capture_output=True, text=True, check=True)
    assert "FileInUse" in done.stdout


def test_processes_that_race_to_make_the_same_file_leave_one_winner_and_a_sound_file(
    tmp_path: Path, migrations: str
) -> None:
    path = tmp_path / "orders.db"
    with child(RACER, path, migrations) as a, child(RACER, path, migrations) as b, child(RACER, path, migrations) as c:
        racers = [a, b, c]
        assert [line(racer) for racer in racers] == ["ready"] * 3
        for racer in racers:
            tell(racer)
        words = [line(racer) for racer in racers]
        assert sorted(word.split()[0] for word in words) == ["refused", "refused", "won"]
        winner = racers[words.index("won")]
        # With a space where the winner has written who it is already, with a full stop where the kernel told it.
        assert all(re.search(rf"process {winner.pid}[ .]", word) for word in words if word != "won")
        tell(winner)
        assert winner.wait() == 0
    database = open_database(path, migrations=migrations)
    assert database.writer.execute("SELECT v FROM stepwell_a").fetchall() == [("winner",)]
    assert database.writer.pragma("integrity_check") == "ok"
    database.close()
