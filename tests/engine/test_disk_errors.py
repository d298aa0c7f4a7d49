"""A disk with an error that passes, and a file that another program keeps locked: work goes on when that is over.

The disk is a VFS that fails the calls it is told to (`proof.disk_errors`); the locks are real.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import apsw
import pytest
from proof.disk_errors import Call, Fault, FaultyVFS
from proof.recorder import recording
from tests.support.waiting import until

from stepwell import (
    Engine,
    Limit,
    RunCancelled,
    StorageFull,
    StoreError,
    StoreUnavailable,
    publish,
    receive,
    step,
    workflow,
)
from stepwell.store.sqlite.membership import SqliteMembership
from stepwell.store.sqlite.peers.notifier import SqliteNotifications
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.sqlite.writer import MAX_ERRORS_IN_A_ROW

DEADLINE_SECONDS = 120

executed: list[str] = []


@pytest.fixture
def fault(database: Path) -> Iterator[Fault]:
    """A fault of the disk below the database, which strikes when `fail` says so."""
    executed.clear()
    found = Fault("write", at=1, count=0)
    with recording(str(database), partial(FaultyVFS, found)):
        yield found


def fail(fault: Fault, call: Call, count: int) -> None:
    """Have the next calls of one kind fail."""
    fault.call, fault.at, fault.hits, fault.count = call, fault.calls[call] + 1, 0, count


@step
def acts(go: str) -> str:
    gates[go].wait(DEADLINE_SECONDS)
    executed.append(go)
    return go


gates: dict[str, threading.Event] = {}


@workflow
async def works(name: str) -> str:
    await publish("ready", name)
    said = acts(name)
    return said + await receive("more", str)


def begin(engine: Engine, name: str) -> Callable[[], str]:
    """Start a run whose step waits for its gate; return what waits for its result."""
    gates[name] = threading.Event()
    run = engine.start(works, name, id=name)
    run.value("ready", timeout=DEADLINE_SECONDS)
    return partial(run.result, timeout=DEADLINE_SECONDS)


def insist(call: Callable[[], object]) -> None:
    """Repeat a request while the store is not available for a moment."""
    while True:
        try:
            call()
        except StoreUnavailable:
            continue
        return


@pytest.mark.parametrize("call", ["write", "sync"])
def test_an_error_of_the_disk_that_passes_costs_neither_results_nor_the_engine(
    database: Path, fault: Fault, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine(database) as engine:
        result = begin(engine, "one")
        fail(fault, call, 1)
        gates["one"].set()
        insist(lambda: engine.send("one", "more", "!", key="once"))
        assert result() == "one!"
        assert fault.hits == 1
        gates["two"] = threading.Event()
        gates["two"].set()
        fail(fault, call, 1)
        with pytest.raises(StoreUnavailable, match="rolled back and may be retried"):
            engine.start(works, "two", id="two")
        insist(lambda: engine.start(works, "two", id="two"))
        insist(lambda: engine.send("two", "more", "?", key="once"))
        assert engine.get("two").result(timeout=DEADLINE_SECONDS) == "two?"
    assert executed == ["one", "two"]
    assert "Work goes on by itself when that is over" in caplog.text
    with Engine(database) as engine:
        assert [engine.get(name).result(timeout=DEADLINE_SECONDS) for name in ("one", "two")] == ["one!", "two?"]


def test_a_read_that_fails_is_tried_again_and_then_told(database: Path, fault: Fault) -> None:
    store = SqliteStore.open(database)
    fail(fault, "read", 2)
    assert store.reads.load([1]) == []
    assert fault.hits == 2
    # The connection that is open has read all that it needs; what it never read it must read now.
    fail(fault, "read", 1_000_000)
    with pytest.raises(StoreError, match="disk reported an error"):
        store.inspector.queues()
    fault.released = True
    assert store.inspector.queues() == []
    store.close(None, 0)


@pytest.mark.parametrize(("part", "method"), [(SqliteMembership, "register"), (SqliteNotifications, "watch")])
def test_an_engine_that_cannot_open_leaves_neither_threads_nor_loops_behind(
    database: Path, monkeypatch: pytest.MonkeyPatch, part: type, method: str
) -> None:
    def fails(*_args: object, **_options: object) -> None:
        raise StoreError("the disk reported an error")

    def open_loops() -> int:
        gc.collect()
        return sum(isinstance(found, asyncio.BaseEventLoop) and not found.is_closed() for found in gc.get_objects())

    loops, threads = open_loops(), set(threading.enumerate())
    with monkeypatch.context() as patched:
        patched.setattr(part, method, fails)
        with pytest.raises(StoreError, match="reported an error"):
            Engine(database)
    assert open_loops() == loops
    until(lambda: set(threading.enumerate()) <= threads)
    gates["one"] = threading.Event()
    gates["one"].set()
    with Engine(database) as engine:
        run = engine.start(works, "one")
        run.send("more", "!")
        assert run.result(timeout=DEADLINE_SECONDS) == "one!"


def test_an_engine_waits_for_a_program_that_keeps_the_file_locked(
    database: Path,
) -> None:
    executed.clear()
    with Engine(database) as engine:
        store = engine._session.store
        assert isinstance(store, SqliteStore)
        result = begin(engine, "one")
        with engine.transaction():
            store._connection.set_busy_timeout(10)
        other = apsw.Connection(str(database))
        other.execute("BEGIN IMMEDIATE")
        gates["one"].set()
        for _ in range(MAX_ERRORS_IN_A_ROW + 1):
            with pytest.raises(StoreUnavailable, match="another program holds the file's write lock") as caught:
                engine.start(works, "two", id="two")
            assert not isinstance(caught.value, StorageFull)
        assert engine.get("one").info().status == "running"
        other.execute("ROLLBACK")
        other.close()
        insist(lambda: engine.send("one", "more", "!", key="once"))
        assert result() == "one!"
    assert executed == ["one"]


def test_a_permit_that_comes_free_while_nothing_can_be_written_is_free_afterwards(database: Path) -> None:
    executed.clear()
    single = Limit("single", concurrency=1)

    @step(limit=single)
    def enters() -> None:
        executed.append("entered")
        gates["enters"].wait(DEADLINE_SECONDS)

    @workflow
    async def calls() -> None:
        enters()

    gates["enters"] = threading.Event()
    with Engine(database) as engine:
        store = engine._session.store
        assert isinstance(store, SqliteStore)
        run = engine.start(calls)
        until(lambda: executed == ["entered"])
        run.cancel()
        with pytest.raises(RunCancelled):
            run.result(timeout=DEADLINE_SECONDS)
        with engine.transaction():
            store._connection.set_busy_timeout(10)
        other = apsw.Connection(str(database))
        other.execute("BEGIN IMMEDIATE")
        gates["enters"].set()
        until(lambda: engine._session.engine_thread.turn_loop.gate.unavailable is not None)
        assert engine.queue(single).info().running == 1
        other.execute("ROLLBACK")
        other.close()
        until(lambda: engine.queue(single).info().running == 0)
