"""Files of earlier releases are brought up to date with everything that is in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from stepwell.store.changes import MessageSent, MessageTaken, RunFinished, WatchAdded
from stepwell.store.sqlite.file import connecting, migrate
from stepwell.store.sqlite.file.migrate import APPLICATION_ID, load_migrations
from stepwell.store.sqlite.store import SqliteStore
from stepwell.testing.contract import NOW, Worker

_RUN = (
    "INSERT INTO stepwell_runs (id, workflow, status, fingerprint, created_at, updated_at, started_at, owner, wake_at,"
    " ended_at, result) VALUES (?, 'shop.checkout', ?, 1, 1, 5, 2, ?, ?, ?, ?)"
)


@pytest.fixture
def first_release(database: Path) -> Path:
    """Return a file as the first release left it when it was killed, with a table and a view of the user's."""
    connection = apsw.Connection(str(database))
    (first, *_) = load_migrations()
    connection.execute("PRAGMA journal_mode = wal; BEGIN;" + first.sql).fetchall()
    connection.execute("INSERT INTO stepwell_workers (pid, host, started_at) VALUES (1, 'h', 1), (2, 'h', 2)")
    connection.execute("UPDATE stepwell_workers SET ended_at = 3 WHERE epoch = 1")
    for run in (
        ("running", "running", 2, None, None, None),
        ("of-an-ended-worker", "running", 1, None, None, None),
        ("waiting", "waiting", None, NOW + 50, None, None),
        ("over", "completed", None, None, 6, '"ok"'),
        ("purged", "completed", None, None, 6, None),
    ):
        connection.execute(_RUN, run)
    connection.execute("DELETE FROM stepwell_runs WHERE id = 'purged'")
    connection.execute("INSERT INTO stepwell_journal VALUES (7, 1, 1, 'step', 's', 0, 4, '1', 1, 3)")
    connection.execute("INSERT INTO stepwell_messages (run, name, value, sent_at) VALUES (3, 'm', '1', 4)")
    connection.execute("INSERT INTO stepwell_values VALUES (3, 'k', '1', 4)")
    connection.execute("INSERT INTO stepwell_watches VALUES (1, 3)")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, run INTEGER REFERENCES stepwell_runs (key))")
    connection.execute("INSERT INTO orders VALUES (1, 3)")
    connection.execute("CREATE VIEW late_orders AS SELECT id FROM stepwell_run_view WHERE status = 'waiting'")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1; COMMIT").fetchall()
    connection.close()
    return database


def test_nothing_is_lost_and_what_was_running_goes_on(first_release: Path) -> None:
    worker = Worker(SqliteStore.open(first_release, durability="normal"))
    assert worker.read.counts() == {"waiting": 3, "completed": 1}
    for key in (1, 2):
        record = worker.record(key)
        assert (record.status, record.owner, record.wake_at, record.crashes) == ("waiting", None, 5, 0)
    assert [member.epoch for member in worker.store.membership.members()] == [2, worker.epoch]
    assert worker.reap(NOW) == 0
    assert [member.epoch for member in worker.store.membership.members()] == [worker.epoch]
    assert worker.take(at=NOW + 50) == [1, 2, 3]
    (snapshot, _, waiting) = worker.reads.load([1, 2, 3])
    assert [entry.position for entry in snapshot.entries] == [7]
    assert [(message.name, message.value) for message in waiting.messages] == [("m", "1")]
    assert worker.read.values(3) == {"k": "1"}
    over = worker.record(4)
    assert (over.status, over.result, over.ended_at, over.started_at) == ("completed", '"ok"', 6, 2)
    # A message of the first release has no known sender: its receiver finds it however it looks.
    assert len(worker.reads.messages_from_others({3: 0}, worker.epoch)[3]) == 1
    worker.apply(MessageTaken(3, waiting.messages[0].position, NOW), WatchAdded(3, 1))
    assert worker.apply(RunFinished(1, "completed", NOW)) == [[3]]
    worker.store.close(worker.claim, NOW)


def test_keys_of_purged_runs_are_not_used_again(first_release: Path) -> None:
    worker = Worker(SqliteStore.open(first_release, durability="normal"))
    assert worker.create("new") == 6
    (sent,) = worker.apply(MessageSent("new", "m", "1", NOW))
    assert sent.position == 2
    worker.store.close(worker.claim, NOW)


def test_tables_and_views_of_the_user_go_on_working(first_release: Path) -> None:
    store = SqliteStore.open(first_release, durability="normal")
    connection = cast("Any", store)._connection
    assert connection.execute("SELECT id FROM late_orders ORDER BY id").fetchall() == [
        ("of-an-ended-worker",),
        ("running",),
        ("waiting",),
    ]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with pytest.raises(apsw.ConstraintError, match="FOREIGN KEY"):
        connection.execute("INSERT INTO orders VALUES (2, 99)")
    assert connection.pragma("legacy_alter_table") == 0
    store.close(None, NOW)


def test_a_migrated_file_has_the_schema_of_a_new_one(first_release: Path, tmp_path: Path) -> None:
    schemas: list[Any] = []
    for path in (first_release, tmp_path / "new.db"):
        store = SqliteStore.open(path, durability="normal")
        rows = cast("Any", store)._connection.execute(
            "SELECT type, name, sql FROM sqlite_schema WHERE name LIKE 'stepwell\\_%' ESCAPE '\\' ORDER BY name"
        )
        schemas.append(rows.fetchall())
        store.close(None, NOW)
    assert schemas[0] == schemas[1]
    assert len(schemas[0]) > 20


def test_the_file_of_the_first_release_is_kept_as_a_backup(first_release: Path) -> None:
    SqliteStore.open(first_release, durability="normal").close(None, NOW)
    backup = apsw.Connection(os.fspath(first_release) + "-backup-v1", flags=apsw.SQLITE_OPEN_READONLY)
    assert backup.execute("SELECT count(*) FROM stepwell_runs WHERE status = 'running'").fetchall() == [(2,)]
    backup.close()


@pytest.fixture
def previous_release(database: Path) -> Path:
    """Return a file of schema 4, with runs in several states, one of which crashed twice, a journal and a queue."""
    connection = apsw.Connection(str(database))
    connection.execute("PRAGMA journal_mode = wal; BEGIN").fetchall()
    for migration in load_migrations()[:4]:
        connection.execute(migration.sql).fetchall()
    connection.execute("INSERT INTO stepwell_workers (pid, host, started_at, slot) VALUES (1, 'h', 1, 1)")
    for run in (
        ("suspect", "waiting", None, 7, None, None),
        ("running", "running", 1, None, None, None),
        ("over", "completed", None, None, 6, '"ok"'),
    ):
        connection.execute(_RUN, run)
    connection.execute("UPDATE stepwell_runs SET crashes = 2 WHERE id = 'suspect'")
    connection.execute("INSERT INTO stepwell_journal VALUES (7, 1, 1, 'step', 's', 0, 4, '1', 1, 3)")
    connection.execute("INSERT INTO stepwell_queues (name, kind, declared, changed_at) VALUES ('q', 'queue', '{}', 1)")
    connection.execute(
        "INSERT INTO stepwell_entries (run, op, queue, partition, workflow, priority, place, state, ready_at)"
        " VALUES (1, 0, 'q', '', 'shop.checkout', 0, 1, 'running', 1)"
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 4; COMMIT").fetchall()
    connection.close()
    return database


def test_a_file_of_schema_4_keeps_its_rows_and_knows_its_suspects(previous_release: Path) -> None:
    worker = Worker(SqliteStore.open(previous_release, durability="normal"))
    assert [worker.record(key).suspect for key in (1, 2, 3)] == [True, False, False]
    assert [entry.position for entry in worker.read.journal(1)] == [7]
    connection = cast("Any", worker.store)._connection
    assert connection.execute("SELECT run, state FROM stepwell_entries").fetchall() == [(1, "running")]
    for table, column in (("stepwell_journal", "kind"), ("stepwell_entries", "state")):
        with pytest.raises(apsw.ConstraintError, match="FOREIGN KEY"):
            connection.execute(f"UPDATE {table} SET {column} = 'unknown'")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    worker.store.close(worker.claim, NOW)


def test_a_migration_that_is_interrupted_at_any_of_its_statements_leaves_the_file_as_it_was(
    previous_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, statements = migrate._apply, 0

    def interrupted_at(number: int) -> Any:
        def applies(connection: apsw.Connection, migration: Any, path: str) -> None:
            nonlocal statements
            statements = 0

            def trace(*_statement: Any) -> bool:
                nonlocal statements
                statements += 1
                return statements != number  # False: the statement is aborted

            connection.exec_trace = trace
            try:
                apply(connection, migration, path)
            finally:
                connection.exec_trace = None

        return applies

    reader = apsw.Connection(str(previous_release))
    schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
    before = reader.execute(schema).fetchall()
    reader.close()
    number, migrated = 0, False
    while not migrated:
        number += 1
        monkeypatch.setattr(migrate, "_apply", interrupted_at(number))
        connection = connecting.connect(str(previous_release), "rw")
        try:
            migrate.migrate(connection, str(previous_release), load_migrations())
            migrated = True
        except apsw.Error:
            assert connection.execute(schema).fetchall() == before
            assert migrate.version_of(connection) == 4
            connection.execute("UPDATE stepwell_journal SET kind = 'timer'; UPDATE stepwell_journal SET kind = 'step'")
            with pytest.raises(apsw.ConstraintError, match="CHECK"):
                connection.execute("UPDATE stepwell_journal SET kind = 'unknown'")
        finally:
            connection.close()
    assert number > 30  # one for each statement of the script
    SqliteStore.open(previous_release, durability="normal").close(None, NOW)
