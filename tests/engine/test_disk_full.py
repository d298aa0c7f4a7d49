"""A disk that fills: callers are told, runs keep what they did, reads go on, and work resumes by itself.

The disk is played by ``PRAGMA max_page_count``, which SQLite reports exactly as it reports a full disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, EngineClosed, StorageFull, StoreUnavailable, publish, receive, step, transaction, workflow
from stepwell.store.sqlite.store import SqliteStore

DEADLINE_SECONDS = 120

executed: list[str] = []


class Disk:
    """The disk below an engine's file, which can be filled."""

    def __init__(self, engine: Engine) -> None:
        store = engine._session.store
        assert isinstance(store, SqliteStore)
        self._store = store

    def fill(self) -> None:
        """Let the file grow no more."""
        self._set("max_page_count", self._set("page_count"))

    def clear(self) -> None:
        """Make room."""
        self._set("max_page_count", 1_000_000)

    def _set(self, pragma: str, value: int | None = None) -> int:
        # The engine writes only while it holds this lock, so its connection is free meanwhile.
        self._store.writers.acquire()
        try:
            connection = self._store._connection
            return int(connection.pragma(pragma) if value is None else connection.pragma(pragma, value))
        finally:
            self._store.writers.release()


@pytest.fixture
def small(database: Path) -> Iterator[Engine]:
    executed.clear()
    with Engine(database) as engine:
        yield engine


BIG = [f"{number:06d}" * 20 for number in range(2000)]  # a few dozen pages, however it is compressed


@step
async def big_step(name: str) -> list[str]:
    executed.append(name)
    return [f"{name}{number}" for number in range(20_000)]


@workflow
async def works(name: str) -> int:
    await publish("ready", name)
    await receive("go")
    return len(await big_step(name))


@workflow
async def echo(value: Any) -> Any:
    return value


def fill_up(engine: Engine, disk: Disk) -> None:
    """Fill the disk, and use up what is left in its last pages."""
    disk.fill()
    with suppress(StorageFull):
        while True:
            engine.start(echo, BIG)


def until_accepted(call: Callable[[], object]) -> None:
    """Repeat a request until there is room for it."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < give_up_at:
        with suppress(StorageFull):
            call()
            return
    pytest.fail("there was never room for it")


def write_notes_beside(engine: Engine) -> None:
    with engine.transaction() as tx:
        tx.execute("CREATE TABLE notes (text TEXT)")
        tx.executemany("INSERT INTO notes VALUES (?)", [(text,) for text in BIG])


def test_callers_are_told_and_nothing_of_their_request_is_written(small: Engine) -> None:
    disk = Disk(small)
    run = small.start(works, "kept", id="kept")
    run.value("ready", timeout=DEADLINE_SECONDS)
    journal = run.journal()
    fill_up(small, disk)
    before = {each.id for each in small.list(limit=1000)}
    for _ in range(3):
        with pytest.raises(StorageFull, match="disk is full"):
            small.start(echo, BIG, id="refused")
        with pytest.raises(StorageFull, match="disk is full"):
            small.send("kept", "other", BIG)
        with pytest.raises(StorageFull, match="full"):
            write_notes_beside(small)
    assert {each.id for each in small.list(limit=1000)} == before
    assert run.info().status == "waiting"
    assert run.journal() == journal
    disk.clear()
    until_accepted(lambda: small.start(echo, 1, id="refused"))
    assert small.get("refused").result(timeout=DEADLINE_SECONDS) == 1


def test_what_runs_did_is_kept_and_goes_on_by_itself_when_there_is_room(small: Engine) -> None:
    disk = Disk(small)
    runs = [small.start(works, f"run-{number}", id=f"run-{number}") for number in range(5)]
    for run in runs:
        run.value("ready", timeout=DEADLINE_SECONDS)
    acting = threading.Event()

    @step
    def waits_for_the_disk() -> list[str]:
        acting.wait(DEADLINE_SECONDS)
        executed.append("waited")
        return BIG

    @workflow
    async def slow() -> int:
        await publish("step", "begins")
        return len(waits_for_the_disk())

    late = small.start(slow)
    late.value("step", timeout=DEADLINE_SECONDS)
    fill_up(small, disk)
    acting.set()  # its result has to wait for room now
    with pytest.raises(TimeoutError):
        late.result(timeout=1)
    assert late.info().status == "running"
    assert small.get("run-0").info().status == "waiting"
    disk.clear()
    assert late.result(timeout=DEADLINE_SECONDS) == len(BIG)
    assert executed == ["waited"]
    for run in runs:
        until_accepted(partial(run.send, "go"))
    assert [run.result(timeout=DEADLINE_SECONDS) for run in runs] == [20_000] * 5
    assert sorted(executed) == [*(f"run-{number}" for number in range(5)), "waited"]


def test_a_transactional_step_on_a_full_disk_acts_once_in_the_end(small: Engine) -> None:
    disk = Disk(small)
    with small.transaction() as tx:
        tx.execute("CREATE TABLE notes (text TEXT)")

    @transaction
    def writes_notes(tx: Any) -> int:
        tx.executemany("INSERT INTO notes VALUES (?)", [(text,) for text in BIG])
        return len(BIG)

    @workflow
    async def keeps_notes() -> int:
        await publish("ready", value=True)
        await receive("go")
        return writes_notes()

    run = small.start(keeps_notes)
    run.value("ready", timeout=DEADLINE_SECONDS)
    fill_up(small, disk)
    sender = threading.Thread(target=until_accepted, args=(lambda: run.send("go", key="go"),))
    sender.start()
    with pytest.raises(TimeoutError):
        run.result(timeout=1)
    disk.clear()
    sender.join(DEADLINE_SECONDS)
    assert run.result(timeout=DEADLINE_SECONDS) == len(BIG)
    with small.transaction() as tx:
        assert tx.execute("SELECT count(*) FROM notes") == [(len(BIG),)]


def test_an_engine_that_closes_on_a_full_disk_is_quick_and_loses_nothing(database: Path) -> None:
    executed.clear()
    acting = threading.Event()

    @step
    def acts() -> list[str]:
        acting.wait(DEADLINE_SECONDS)
        executed.append("acted")
        return BIG

    @workflow
    async def unlucky() -> int:
        await publish("ready", value=True)
        return len(acts())

    with Engine(database) as engine:
        run = engine.start(unlucky, id="unlucky")
        run.value("ready", timeout=DEADLINE_SECONDS)
        fill_up(engine, Disk(engine))
        acting.set()
        with pytest.raises(TimeoutError):
            run.result(timeout=1)
        assert executed == ["acted"]
        begun = time.monotonic()
    assert time.monotonic() - begun < DEADLINE_SECONDS / 2
    with Engine(database) as engine:
        assert engine.get("unlucky").result(timeout=DEADLINE_SECONDS) == len(BIG)
    assert executed == ["acted", "acted"]


@pytest.mark.parametrize("error", [StorageFull("the disk is full"), StoreUnavailable("the disk reported an error")])
def test_closing_needs_no_last_write(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: StoreUnavailable
) -> None:
    engine = Engine(database)
    run = engine.start(works, "kept", id="kept")
    run.value("ready", timeout=DEADLINE_SECONDS)
    store = engine._session.store
    assert isinstance(store, SqliteStore)

    def full(_claim: object) -> None:
        raise error

    monkeypatch.setattr(store._writer, "begin", full)
    engine.close()
    engine.close()
    with pytest.raises(EngineClosed):
        engine.start(echo, 1)
    assert f"{error}. The engine closes without a last write" in caplog.text
    with Engine(database) as second:
        assert [worker.state for worker in second.workers()] == ["active"]
        second.send("kept", "go")
        assert second.get("kept").result(DEADLINE_SECONDS) == 20_000
