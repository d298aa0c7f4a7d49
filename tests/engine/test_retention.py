"""Ended runs are kept as long as was asked for."""

from __future__ import annotations

import asyncio
import queue
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from stepwell import AsyncEngine, Batch, Engine, InvalidArgument, Queue, RunNotFound, publish, receive, start, workflow
from stepwell.model.run import Claim
from stepwell.runtime import retention
from stepwell.store.sqlite.store import SqliteStore
from stepwell.testing import TestEngine, VirtualClock


@workflow
async def short(number: int) -> int:
    return number


@workflow
async def patient() -> str:
    return await receive("go", str)


def test_purge_deletes_what_ended_long_ago_and_nothing_else(tmp_path: Path) -> None:
    clock = VirtualClock()
    with Engine(tmp_path / "test.db", clock=clock) as engine:
        engine.start(short, 1, id="old").result(60)
        waiting = engine.start(patient, id="waiting")
        clock.advance(timedelta(days=10))
        engine.start(short, 2, id="new").result(60)
        assert engine.purge(timedelta(days=5)) == 1
        with pytest.raises(RunNotFound):
            engine.get("old")
        assert engine.get("new").result(60) == 2
        waiting.send("go", "on")
        assert waiting.result(60) == "on"


def test_an_id_is_free_again_after_its_run_was_purged(tmp_path: Path) -> None:
    with Engine(tmp_path / "test.db", clock=(clock := VirtualClock())) as engine:
        engine.start(short, 1, id="same").result(60)
        clock.advance(1)
        assert engine.purge(0) == 1
        assert engine.start(short, 2, id="same").result(60) == 2


def test_more_runs_than_one_transaction_deletes_are_all_purged(tmp_path: Path) -> None:
    clock = VirtualClock()
    with Engine(tmp_path / "test.db", clock=clock) as engine:
        with engine.transaction() as tx:
            runs = [tx.start(short, number) for number in range(1200)]
        assert [run.result(60) for run in runs] == list(range(1200))
        clock.advance(10)
        assert engine.purge(5) == 1200
        assert engine.list() == []


def test_retention_purges_by_itself_when_the_engine_opens(tmp_path: Path) -> None:
    clock = VirtualClock()
    with Engine(tmp_path / "test.db", clock=clock) as engine:
        engine.start(short, 1, id="old").result(60)
    clock.advance(timedelta(days=40))
    with Engine(tmp_path / "test.db", clock=clock, retention=timedelta(days=30)) as engine:
        engine.start(short, 2, id="new").result(60)
        assert [run.id for run in engine.list()] == ["new"]


def test_purge_can_be_awaited(tmp_path: Path) -> None:
    async def main() -> int:
        clock = VirtualClock()
        async with AsyncEngine(tmp_path / "test.db", clock=clock) as engine:
            await (await engine.start(short, 1)).result(60)
            clock.advance(2)
            return await engine.purge(1)

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize("retention", [-1, "a week", float("nan")])
def test_a_retention_that_is_no_duration_is_refused(tmp_path: Path, retention: object) -> None:
    with pytest.raises(InvalidArgument, match="retention"):
        Engine(tmp_path / "test.db", retention=retention)  # type: ignore[arg-type]
    assert not (tmp_path / "test.db").exists()


@pytest.fixture
def purges(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[int]:
    """What was purged: the times before which runs must have ended. The engine purges at each moment."""
    found: queue.SimpleQueue[int] = queue.SimpleQueue()
    real = SqliteStore.purge

    def purge(store: SqliteStore, ended_before: int, limit: int, claim: Claim) -> int:
        number = real(store, ended_before, limit, claim)
        found.put(ended_before)
        return number

    monkeypatch.setattr(SqliteStore, "purge", purge)
    monkeypatch.setattr(retention, "PERIOD", 1)
    return found


def test_runs_are_kept_as_long_as_asked_and_purged_again_and_again(
    tmp_path: Path, purges: queue.SimpleQueue[int]
) -> None:
    clock, month = VirtualClock(), timedelta(days=30)
    moment = timedelta(microseconds=1)

    def ids_after_a_purge(engine: Engine) -> list[str]:
        """Return the runs that are there when all was purged that may be by now."""
        due = clock.now() - month // moment
        while purges.get(timeout=60) < due:
            pass
        return [run.id for run in engine.list()]

    with Engine(tmp_path / "test.db", clock=clock, retention=month) as engine:
        for name in ("first", "second", "third"):
            engine.start(short, 1, id=name).result(60)
            ended_at = engine.get(name).info().ended_at
            assert ended_at == clock.time
            clock.advance(month)
            assert ids_after_a_purge(engine) == [name]
            clock.advance(moment)
            assert ids_after_a_purge(engine) == []


LINE = Queue("purged", batch=Batch(2, within=5))
DEBOUNCED = Queue("purged-debounced", debounce=1)


@workflow
async def collects(items: list[int]) -> int:
    return sum(items)


@workflow
async def says(number: int) -> int:
    await publish("number", number)
    await start(short, number)
    return await receive("go", int)


def test_runs_of_every_kind_are_purged_with_all_that_belongs_to_them(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    with TestEngine(path) as engine:
        batched = engine.start(collects, [1], queue=LINE)
        engine.start(collects, [2, 3], queue=LINE)
        debounced = engine.start(short, 7, queue=DEBOUNCED, dedup="d")
        spoken = engine.start(says, 5)
        spoken.send("never read", 2)
        spoken.send("go", 1)
        engine.advance(10)
        assert [run.result(60) for run in (batched, debounced, spoken)] == [6, 7, 1]
        engine.advance(1)
        assert engine.purge(0) == 4
        # And the engine goes on.
        assert engine.start(short, 1).result(60) == 1
        engine.advance(1)
        assert engine.purge(0) == 1
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'stepwell_%'"
    tables = [str(name) for (name,) in connection.execute(found).fetchall()]
    columns = {name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})").fetchall()} for name in tables}
    of_runs = [name for name in tables if columns[name] & {"run", "watcher"}]
    assert {"stepwell_batch_items", "stepwell_journal", "stepwell_messages"} <= set(of_runs)
    left = [name for name in of_runs if connection.execute(f"SELECT count(*) FROM {name}").fetchall() != [(0,)]]
    assert left == []
    connection.close()


#: A row of each table that refers to runs, of the run with the key 1. Those of LIVING go with the end of a run.
ROWS = {
    "stepwell_journal": "(run, op, kind, name, fingerprint, at, attempt, started_at)"
    " VALUES (1, 1, 'step', 's', 0, 1, 1, 1)",
    "stepwell_messages": "(run, name, key, sent_at, taken_at) VALUES (1, 'm', 'k', 1, 1)",
    "stepwell_values": "(run, key, at) VALUES (1, 'k', 1)",
    "stepwell_watches": "(run, watcher) VALUES (1, 2), (2, 1)",
    "stepwell_batch_items": "(run, number) VALUES (1, 1)",
    "stepwell_acts": "(at, act, run, by) VALUES (1, 'note', 1, 'me')",
    "stepwell_chapters": "(run, number, beginning, began_at, journal_from, seed, ops_before, runs_before)"
    " VALUES (1, 1, 'started', 1, 0, 's', 0, 0)",
    "stepwell_summaries": "(run, op, summary) VALUES (1, 1, 's')",
    "stepwell_replacements": "(run, at, fingerprint, ahead, messages_after) VALUES (1, 1, 0, 0, 0)",
    "stepwell_attributes": "(run, name, kind, value) VALUES (1, 'a', 'str', 'a')",
    "stepwell_tags": "(run, tag) VALUES (1, 't')",
    "stepwell_settlements": "(run, op, kind, at) VALUES (1, 1, 'step', 1)",
    "stepwell_streams": "(key, run, name, next, last_op) VALUES (7, 1, 's', 1, 1)",
    "stepwell_stream_items": "(stream, number, op, attempt, at) VALUES (7, 0, 1, 0, 1)",
    "stepwell_progress": "(run, op, kind, name, attempt, done, began_at, at) VALUES (1, 1, 'step', 's', 1, 0.5, 1, 1)",
    "stepwell_promises": "(token, run, op, created_at, form) VALUES ('t', 1, 1, 1, '{}')",
}
KEYS = {"stepwell_stream_items": "stream = 7", "stepwell_watches": "run = 1 OR watcher = 1"}
LIVING = {"stepwell_wakes", "stepwell_entries", "stepwell_schedule_waits"}


@pytest.mark.parametrize("how", ["purge", "delete"])
def test_what_is_deleted_leaves_nothing_behind_in_any_table(tmp_path: Path, how: str) -> None:
    path, clock = tmp_path / "test.db", VirtualClock()
    with Engine(path, clock=clock) as engine:
        engine.start(short, 1, id="old").result(60)
        clock.advance(10)
        engine.start(short, 2, id="new").result(60)
    with closing(apsw.Connection(str(path))) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        owned = [
            name
            for name in tables
            if {"stepwell_runs", "stepwell_streams"}
            & {row[2] for row in connection.execute(f"PRAGMA foreign_key_list({name})")}
        ]
        assert set(owned) == {*ROWS, *LIVING}  # a new one has its row here, and its statement among those of a purge
        for name, row in ROWS.items():
            connection.execute(f"INSERT INTO {name} {row}")
    with Engine(path, clock=clock) as engine:
        if how == "purge":
            assert engine.purge(5) == 1
        else:
            engine.get("old").delete()
        assert engine.get("new").result(60) == 2
    with closing(apsw.Connection(str(path))) as connection:
        left = [
            name
            for name in ROWS
            if connection.execute(f"SELECT 1 FROM {name} WHERE {KEYS.get(name, 'run = 1')}").fetchall()
        ]
        assert left == []
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
