"""The writers' lock is fair, wakes whoever it told to wait, and cannot be left hanging."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.processes import Member, child, line, tell
from tests.support.waiting import until

from stepwell.errors import EngineClosed, StoreUnavailable
from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.file.locking import QUEUE_BYTE
from stepwell.store.sqlite.peers import writers_lock
from stepwell.store.sqlite.peers.writers_lock import FairLock, SharedLock


def wait_for_queue(lock: FairLock, length: int) -> None:
    """Return when `length` waiters are in line."""
    until(lambda: len(lock._waiting) >= length)


def test_threads_get_the_lock_in_the_order_of_asking() -> None:
    lock, order = FairLock(), list[int]()

    def work(number: int) -> None:
        lock.acquire()
        order.append(number)
        lock.release()

    lock.acquire()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_for_queue(lock, number + 1)
    lock.release()
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_a_loop_that_waits_is_not_starved_by_threads_that_come_and_go() -> None:
    lock, told, stop = FairLock(), threading.Event(), threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            lock.acquire()
            lock.release()

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    got = 0
    for _ in range(50):
        told.clear()
        while not lock.try_acquire(told.set):
            assert told.wait(timeout=60)
            told.clear()
        got += 1
        lock.release()
    stop.set()
    for thread in threads:
        thread.join()
    assert got == 50


def test_a_thread_gets_the_lock_when_the_loop_before_it_never_comes_back() -> None:
    lock, got = FairLock(), threading.Event()
    lock.acquire()
    assert not lock.try_acquire(lambda: None)

    def work() -> None:
        lock.acquire()
        got.set()
        lock.release()

    thread = threading.Thread(target=work)
    thread.start()
    wait_for_queue(lock, 2)
    lock.release()
    assert got.wait(timeout=60)
    thread.join()
    assert lock.try_acquire(lambda: None)


def test_a_reservation_is_for_the_loop_and_a_thread_waits_behind_it() -> None:
    lock, told = FairLock(), list[str]()
    lock.acquire()
    assert not lock.try_acquire(lambda: told.append("loop"))
    lock.release()
    assert told == ["loop"]
    assert lock._state == "reserved"
    assert lock.try_acquire(lambda: told.append("again"))
    lock.release()
    assert told == ["loop"]


def test_every_loop_that_waits_is_told_even_where_another_one_does_not_come_back() -> None:
    lock, told = FairLock(), list[str]()
    lock.acquire()
    assert not lock.try_acquire(lambda: told.append("dead"))
    assert not lock.try_acquire(lambda: told.append("alive"))
    lock.release()
    assert told == ["dead", "alive"]
    assert lock.try_acquire(lambda: None)


def test_asking_again_does_not_have_a_loop_told_twice() -> None:
    lock, told = FairLock(), list[int]()

    def notify() -> None:
        told.append(1)

    lock.acquire()
    for _ in range(3):
        assert not lock.try_acquire(notify)
    lock.release()
    assert told == [1]


def test_an_interrupted_thread_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FairLock()
    lock.acquire()

    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lock, "_await", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    lock.release()
    assert lock.try_acquire(lambda: None)


def test_a_thread_that_is_interrupted_as_it_gets_the_lock_passes_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FairLock()
    lock.acquire()

    def interrupted(*_args: object) -> None:
        lock.release()  # hands the lock over to the waiter
        raise KeyboardInterrupt

    monkeypatch.setattr(lock, "_await", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    assert lock.try_acquire(lambda: None)


def test_releasing_a_lock_that_is_not_held_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="without being held"):
        FairLock().release()


# --- between processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "orders.db")


@pytest.fixture
def shared(path: str) -> Iterator[SharedLock]:
    lock_file = locking.acquire(path + "-lock", path)
    lock_file.leave_door()
    shared = SharedLock(lock_file)
    yield shared
    shared.close()
    lock_file.release()


#: Opens the lock file and evaluates what it is told, as `processes.MEMBER` does with a whole database.
WRITER = """
import os, sys, threading
from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.peers.writers_lock import SharedLock
lock_file = locking.acquire(sys.argv[1] + "-lock", sys.argv[1])
lock_file.leave_door()
writers = SharedLock(lock_file)
def append(text):
    descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, text.encode())
    os.close(descriptor)
print("open", flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


@contextmanager
def writer(path: str) -> Iterator[Member]:
    with child(WRITER, path) as process:
        assert line(process) == "open"
        yield Member(process)


def wait_until_it_is_next(shared: SharedLock, other: Member) -> None:
    """Return when the other process stands in the turnstile."""
    while True:
        found = locking.holder(shared._turnstile._file.descriptor, QUEUE_BYTE)
        if found is not None:
            assert found.pid == other.pid
            return
        os.sched_yield()


def test_processes_exclude_each_other(path: str) -> None:
    # Without the lock, a counter that is read and written back loses counts.
    count = """
import sys
from pathlib import Path
from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.peers.writers_lock import SharedLock
lock_file = locking.acquire(sys.argv[1] + "-lock", sys.argv[1])
lock_file.leave_door()
writers, counter = SharedLock(lock_file), Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(300):
    writers.acquire()
    counter.write_text(str(int(counter.read_text()) + 1))
    writers.release()
print("done", flush=True)
"""
    Path(path).write_text("0")
    with child(count, path) as a, child(count, path) as b, child(count, path) as c:
        assert [line(process) for process in (a, b, c)] == ["ready"] * 3
        for process in (a, b, c):
            tell(process)
        assert [line(process) for process in (a, b, c)] == ["done"] * 3
    assert Path(path).read_text() == "900"


def test_whoever_has_just_written_cannot_overtake_the_process_that_waits(path: str, shared: SharedLock) -> None:
    with writer(path) as other:
        for _ in range(20):
            Path(path).write_text("")
            shared.acquire()
            other.begin("(writers.acquire(), append('the other'), writers.release())")
            wait_until_it_is_next(shared, other)
            shared.release()
            shared.acquire()
            assert Path(path).read_text() == "the other"
            shared.release()
            other.end()


def test_a_process_that_is_killed_while_it_writes_or_waits_holds_nobody_up(path: str, shared: SharedLock) -> None:
    with writer(path) as holder:
        holder.ask("writers.acquire()")
        assert shared.holder() == holder.pid
        told = threading.Event()
        assert not shared.try_acquire(told.set)
        holder.kill()
        assert told.wait(60)
        assert shared.try_acquire(told.set)
    with writer(path) as waiting:
        waiting.begin("writers.acquire()")
        wait_until_it_is_next(shared, waiting)
        waiting.kill()
        shared.release()
    assert shared.holder() is None
    assert shared.acquire_within(0)
    shared.release()


def test_a_loop_is_told_when_the_other_process_lets_go_and_finds_the_lock_kept(path: str, shared: SharedLock) -> None:
    with writer(path) as other:
        other.ask("writers.acquire()")
        told: queue.SimpleQueue[str] = queue.SimpleQueue()

        def notify() -> None:
            told.put(threading.current_thread().name)

        assert not shared.try_acquire(notify)
        # Asking again meanwhile changes nothing.
        assert not shared.try_acquire(notify)
        assert told.empty()
        other.ask("writers.release()")
        assert told.get(timeout=60) == "stepwell-writers-lock"
        assert shared.try_acquire(notify)
        assert other.ask("writers.acquire_within(0)") is False
        assert told.empty()
        shared.release()
        assert other.ask("writers.acquire_within(60)") is True
        other.ask("writers.release()")
        # What was kept is used up.
        shared.acquire()
        assert other.ask("writers.acquire_within(0)") is False
        shared.release()


def test_a_loop_that_does_not_come_back_loses_the_lock_to_the_other_process(path: str, shared: SharedLock) -> None:
    with writer(path) as other:
        other.ask("writers.acquire()")
        told = threading.Event()
        assert not shared.try_acquire(told.set)
        other.ask("writers.release()")
        assert told.wait(60)
        assert other.ask("writers.acquire()") is None
        other.ask("writers.release()")
    shared.acquire()
    shared.release()


def test_a_loop_that_is_closed_meanwhile_harms_nobody(path: str, shared: SharedLock) -> None:
    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    with writer(path) as other:
        for _ in range(2):
            other.ask("writers.acquire()")
            assert not shared.try_acquire(closed)
            other.ask("writers.release()")
            other.ask("writers.acquire()")
            other.ask("writers.release()")


def test_a_thread_gets_what_was_kept_for_a_loop_that_does_not_come_back(path: str, shared: SharedLock) -> None:
    with writer(path) as other:
        other.ask("writers.acquire()")
        assert not shared.try_acquire(lambda: None)
        got = threading.Event()

        def work() -> None:
            shared.acquire()
            got.set()
            shared.release()

        thread = threading.Thread(target=work)
        thread.start()
        wait_for_queue(shared._line, 1)
        other.ask("writers.release()")
        assert got.wait(60)
        thread.join()
        assert other.ask("writers.acquire_within(60)") is True


def test_a_process_that_is_stopped_while_it_is_next_is_named(path: str, shared: SharedLock) -> None:
    with writer(path) as other:
        shared.acquire()
        other.begin("writers.acquire()")
        wait_until_it_is_next(shared, other)
        other.stop()
        # It is this process that writes, so far.
        with pytest.raises(StoreUnavailable, match=r"this process .* has been writing"):
            shared.acquire(0.01)
        shared.release()
        with pytest.raises(StoreUnavailable, match=f"process {other.pid} .*stopped.* has been the next to write"):
            shared.acquire(0.01)


def test_a_writer_that_is_stopped_is_named_and_waited_for_no_longer_than_asked(path: str, shared: SharedLock) -> None:
    with writer(path) as other:
        other.ask("writers.acquire()")
        other.stop()
        assert not shared.acquire_within(0.01)
        assert shared.holder() == other.pid
        with pytest.raises(StoreUnavailable, match=f"process {other.pid} .*stopped.* has been writing for more than 0"):
            shared.acquire(0.01)
        other.kill()
    # What was given up is let go of when it comes.
    shared.acquire(60)
    # Within the process, too.
    assert not shared.acquire_within(0.01)
    with pytest.raises(StoreUnavailable, match=r"this process .* has been writing"):
        shared.acquire(0.01)
    shared.release()


def test_a_thread_that_is_interrupted_as_it_waits_for_another_process_keeps_nobody_out(
    path: str, shared: SharedLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_waited_seconds: float) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(writers_lock, "SLOW_LOCK_SECONDS", 0.0)
    monkeypatch.setattr(shared, "describe_holder", interrupted)
    with writer(path) as other:
        other.ask("writers.acquire()")
        with pytest.raises(KeyboardInterrupt):
            shared.acquire()
        other.ask("writers.release()")
        assert other.ask("writers.acquire_within(60)") is True
        other.ask("writers.release()")
    assert shared.acquire_within(60)


def test_after_close_nobody_gets_the_lock_and_the_helper_has_ended(path: str, shared: SharedLock) -> None:
    with writer(path) as other:
        other.ask("writers.acquire()")
        told = threading.Event()
        assert not shared.try_acquire(told.set)
        closing = threading.Thread(target=shared.close)
        closing.start()
        other.ask("writers.release()")
        closing.join()
        assert told.wait(60)
        assert shared._helper is not None
        assert not shared._helper.is_alive()
        assert other.ask("writers.acquire_within(60)") is True
    for ask in (shared.acquire, lambda: shared.try_acquire(told.set), lambda: shared.acquire_within(1)):
        with pytest.raises(EngineClosed, match=r"orders\.db: the file is closed"):
            ask()


def test_what_is_held_may_be_released_after_close(shared: SharedLock) -> None:
    shared.acquire()
    shared.close()
    shared._turnstile._file.release()
    shared.release()
    with pytest.raises(EngineClosed):
        shared.acquire()
