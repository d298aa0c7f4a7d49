"""The door and the bytes of the lock file, which the kernel decides on: real processes race for them, die and fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.processes import child, line, tell
from tests.support.waiting import until

from stepwell.errors import FileInUse, FileNotUsable
from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.file.locking import LOCK_BASE, SLOT_BASE, SLOTS, Identity

#: Takes the door, says so, and holds it until its standard input ends.
HOLDER = """
import sys
from stepwell.store.sqlite.file import locking
lock = locking.acquire(sys.argv[1], sys.argv[2], 0.01)
print("held", flush=True)
sys.stdin.read()
"""

#: Lets go of the door, locks the bytes that it is given, and says so; lets go when told to.
LOCKER = """
import sys
from stepwell.store.sqlite.file import locking
lock = locking.acquire(sys.argv[1], "orders.db")
lock.leave_door()
for byte in sys.argv[2:]:
    assert locking.try_lock(lock.descriptor, int(byte))
print("held", flush=True)
sys.stdin.readline()
for byte in sys.argv[2:]:
    locking.unlock(lock.descriptor, int(byte))
print("free", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def lock_path(tmp_path: Path) -> str:
    return str(tmp_path / "orders.db-lock")


def test_a_process_that_stays_in_the_door_is_named_to_those_behind_it(lock_path: str) -> None:
    with child(HOLDER, lock_path, "orders.db") as holder:
        assert line(holder) == "held"
        words = rf"'orders.db' is being opened or closed by process {holder.pid} \(.*python.*\), .* 0.01 s"
        with pytest.raises(FileInUse, match=words):
            locking.acquire(lock_path, "orders.db", 0.01)


def test_the_door_is_waited_for(lock_path: str) -> None:
    with child(HOLDER, lock_path, "orders.db") as holder:
        assert line(holder) == "held"
        got: list[locking.LockFile] = []
        thread = threading.Thread(target=lambda: got.append(locking.acquire(lock_path, "orders.db", 30)))
        thread.start()
        holder.kill()
        thread.join()
    got[0].release()


def test_a_killed_process_gives_the_door_back_at_once(lock_path: str) -> None:
    with child(HOLDER, lock_path, "orders.db") as holder:
        assert line(holder) == "held"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        locking.acquire(lock_path, "orders.db", 0).release()


def test_a_refused_attempt_does_not_shake_the_holder(lock_path: str) -> None:
    with child(HOLDER, lock_path, "orders.db") as holder:
        assert line(holder) == "held"
        for _ in range(3):
            with pytest.raises(FileInUse):
                locking.acquire(lock_path, "orders.db", 0)


def test_a_second_holder_in_the_same_process_is_refused_and_the_kernels_lock_stays(lock_path: str) -> None:
    lock = locking.acquire(lock_path, "orders.db")
    with pytest.raises(FileInUse, match="another engine of this process"):
        locking.acquire(lock_path, "orders.db")
    # Had the attempt opened and closed the lock file, POSIX would have dropped the first holder's lock.
    with child(HOLDER, lock_path, "orders.db") as other:
        assert line(other) == ""
        assert other.wait() == 1
    lock.release()


def test_a_released_lock_file_can_be_taken_again_and_stays(lock_path: str) -> None:
    lock = locking.acquire(lock_path, "orders.db")
    inode = os.stat(lock_path).st_ino
    lock.release()
    lock.release()
    assert os.stat(lock_path).st_ino == inode
    locking.acquire(lock_path, "orders.db").release()


def test_the_lock_file_is_readable_for_its_owner_only_and_tells_people_what_it_is(lock_path: str) -> None:
    before = os.umask(0)
    try:
        lock = locking.acquire(lock_path, "orders.db")
    finally:
        os.umask(before)
    assert os.stat(lock_path).st_mode & 0o777 == 0o600
    lock.release()
    text = Path(lock_path).read_bytes().rstrip(b"\0").decode()
    assert text.splitlines()[0] == f"process {os.getpid()} on host {os.uname().nodename}"
    assert "Stepwell" in text


def test_a_lock_file_deleted_while_it_is_being_locked_is_not_trusted(
    lock_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_pass = locking._pass_door
    deletions: list[int] = []

    def pass_the_door_of_a_file_that_vanishes(descriptor: int, path: str, database_path: str, patience: float) -> None:
        real_pass(descriptor, path, database_path, patience)
        if len(deletions) < 2:
            deletions.append(os.fstat(descriptor).st_ino)
            os.unlink(path)

    monkeypatch.setattr(locking, "_pass_door", pass_the_door_of_a_file_that_vanishes)
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
    assert "orders.db" not in locking._held.values()


def test_a_forked_child_neither_inherits_the_locks_nor_can_let_go_of_them(lock_path: str) -> None:
    script = """
import os, sys, subprocess
from stepwell.store.sqlite.file import locking
lock = locking.acquire(sys.argv[1], "orders.db")
os.register_at_fork(after_in_child=locking.after_fork_in_child)
pid = os.fork()
if pid == 0:
    assert locking.holder(lock.descriptor, locking.LOCK_BASE).pid == os.getppid()
    lock.release()
    os.close(lock.descriptor)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
probe = "import sys; from stepwell.store.sqlite.file import locking; locking.acquire(sys.argv[1], 'orders.db', 0)"
print(subprocess.run([sys.executable, "-c", probe, sys.argv[1]], stderr=subprocess.PIPE, text=True).stderr)
"""
    done = subprocess.run([sys.executable, "-c", script, lock_path], capture_output=True, text=True, check=True)
    assert "FileInUse" in done.stdout


def test_threads_of_a_process_go_through_the_door_one_at_a_time(lock_path: str) -> None:
    lock = locking.acquire(lock_path, "orders.db")
    lock.leave_door()
    inside: list[int] = []

    def go_through() -> None:
        for _ in range(50):
            with lock.door():
                inside.append(1)
                assert len(inside) == 1
                os.sched_yield()
                inside.pop()

    threads = [threading.Thread(target=go_through) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert locking.holder(lock.descriptor, LOCK_BASE) is None
    lock.release()


def test_all_holders_of_a_range_are_found_whatever_the_order_they_came_in(lock_path: str) -> None:
    bytes_of = [SLOT_BASE + 7, SLOT_BASE, SLOT_BASE + SLOTS - 1]
    with (
        child(LOCKER, lock_path, bytes_of[0]) as a,
        child(LOCKER, lock_path, bytes_of[1]) as b,
        child(LOCKER, lock_path, bytes_of[2], LOCK_BASE + 1) as c,
    ):
        assert [line(process) for process in (a, b, c)] == ["held"] * 3
        lock = locking.acquire(lock_path, "orders.db")
        assert locking.try_lock(lock.descriptor, SLOT_BASE + 1)
        found = locking.holders(lock.descriptor, SLOT_BASE, SLOTS)
        assert found == [(bytes_of[1], 1, b.pid), (bytes_of[0], 1, a.pid), (bytes_of[2], 1, c.pid)]
        assert locking.holders(lock.descriptor, SLOT_BASE + 1, 6) == []
        lock.release()


def test_a_circle_that_the_kernel_sees_where_there_is_none_is_waited_out(lock_path: str) -> None:
    # One thread of this process has byte 1000, another one waits for byte 1001; the other process has 1001 and wants
    # 1000. To the kernel, which takes both threads for one, that is a deadlock; the first one lets go all the same.
    script = """
import sys, threading
from stepwell.store.sqlite.file import locking
lock = locking.acquire(sys.argv[1], "orders.db")
lock.leave_door()
locking.lock(lock.descriptor, 1001)
print("has 1001", flush=True)
sys.stdin.readline()
real = locking.lock_within
def lock_within(*args):
    print("looks again and again", flush=True)
    return real(*args)
locking.lock_within = lock_within
locking.lock(lock.descriptor, 1000)
print("has 1000", flush=True)
"""
    with child(script, lock_path) as other:
        assert line(other) == "has 1001"
        lock = locking.acquire(lock_path, "orders.db")
        lock.leave_door()
        locking.lock(lock.descriptor, 1000)
        waiting = threading.Thread(target=locking.lock, args=(lock.descriptor, 1001))
        waiting.start()
        inode = os.stat(lock_path).st_ino
        until(lambda: any(f":{inode} 1001 1001" in found for found in waiters_in_the_kernel()))
        tell(other)
        assert line(other) == "looks again and again"
        locking.unlock(lock.descriptor, 1000)
        assert line(other) == "has 1000"
        other.wait()
        waiting.join()
        lock.release()


def waiters_in_the_kernel() -> list[str]:
    return [text for text in Path("/proc/locks").read_text().splitlines() if "->" in text]
