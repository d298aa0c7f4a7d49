"""The writers' lock is fair, wakes whoever it told to wait, and cannot be left hanging."""

from __future__ import annotations

import os
import threading

import pytest

from stepwell.store.sqlite.writers_lock import FairLock


def wait_for_queue(lock: FairLock, length: int) -> None:
    """Return when `length` waiters are in line."""
    while len(lock._waiting) < length:
        os.sched_yield()


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
            assert told.wait(timeout=30)
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
    assert got.wait(timeout=30)
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

    def interrupted(_waiter: object, _seen: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lock, "_await", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    lock.release()
    assert lock.try_acquire(lambda: None)


def test_a_thread_that_is_interrupted_as_it_gets_the_lock_passes_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FairLock()
    lock.acquire()

    def interrupted(_waiter: object, _seen: int) -> None:
        lock.release()  # hands the lock over to the waiter
        raise KeyboardInterrupt

    monkeypatch.setattr(lock, "_await", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    assert lock.try_acquire(lambda: None)


def test_releasing_a_lock_that_is_not_held_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="without being held"):
        FairLock().release()
