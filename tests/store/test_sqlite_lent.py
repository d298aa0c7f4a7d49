"""User code on the writer's connection reaches its own tables and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from stepwell.errors import TransactionError
from stepwell.store.changes import RunCreated
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Lent
from stepwell.testing.contract import NOW, Worker


@pytest.fixture
def worker(database: Path) -> Iterator[Worker]:
    worker = Worker(SqliteStore.open(database, durability="normal"))
    worker.apply(RunCreated("a", "w", None, 1, "running", NOW))
    with worker.store.transaction(worker.claim) as tx:
        tx.lent.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT UNIQUE)")
    yield worker
    worker.store.close(worker.claim, NOW)


@pytest.fixture
def lent(worker: Worker) -> Iterator[Lent]:
    with worker.store.transaction(worker.claim) as tx:
        yield tx.lent


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT * FROM stepwell_runs", "stepwell_runs"),
        ("SELECT count(*) FROM StepWell_Runs", "StepWell_Runs|stepwell_runs"),
        ("SELECT * FROM stepwell_run_view", "stepwell_run"),
        ("SELECT (SELECT id FROM stepwell_runs) FROM orders", "stepwell_runs"),
        ("INSERT INTO orders (item) SELECT id FROM stepwell_runs", "stepwell_runs"),
        ("UPDATE stepwell_runs SET reason = 'x'", "stepwell_runs"),
        ("UPDATE main.\"stepwell_runs\" SET reason = 'x'", "stepwell_runs"),
        ("DELETE FROM stepwell_journal", "stepwell_journal"),
        ("INSERT INTO stepwell_values VALUES (1, 'k', 'v', 1)", "stepwell_values"),
        ("DROP TABLE stepwell_watches", "stepwell_watches"),
        ("DROP INDEX stepwell_runs_by_wake", "stepwell_runs_by_wake"),
        ("DROP VIEW stepwell_run_view", "stepwell_run_view"),
        ("REINDEX stepwell_runs_by_wake", "stepwell_runs_by_wake"),
        ("REINDEX stepwell_runs", "stepwell_runs"),
        ("ALTER TABLE stepwell_runs ADD COLUMN mine", "stepwell_runs"),
        ("CREATE INDEX mine ON stepwell_runs (reason)", "stepwell_runs"),
        ("CREATE TABLE stepwell_mine (a)", "stepwell_mine"),
        ("CREATE VIEW stepwell_mine AS SELECT 1", "stepwell_mine"),
        ("CREATE TRIGGER mine AFTER INSERT ON stepwell_runs BEGIN SELECT 1; END", "stepwell_runs"),
        ("CREATE TEMP TRIGGER mine AFTER INSERT ON stepwell_runs BEGIN SELECT 1; END", "TEMP"),
        ("CREATE TEMP TABLE stepwell_runs (a)", "TEMP"),
        ("CREATE TEMP TABLE mine (a)", "TEMP"),
        ("BEGIN", "BEGIN"),
        ("COMMIT", "COMMIT"),
        ("END", "COMMIT"),
        ("ROLLBACK", "ROLLBACK"),
        ("SAVEPOINT mine", "SAVEPOINT"),
        ("RELEASE stepwell_unit", "SAVEPOINT"),
        ("ROLLBACK TO stepwell_unit", "SAVEPOINT"),
        ("INSERT INTO orders (item) VALUES ('tea'); COMMIT", "COMMIT"),
        ("ATTACH ':memory:' AS other", "ATTACH"),
        ("DETACH main", "DETACH"),
        ("PRAGMA synchronous = OFF", "PRAGMA"),
        ("PRAGMA writable_schema = ON", "PRAGMA"),
        ("SELECT * FROM pragma_table_info('orders')", "PRAGMA"),
        ("ANALYZE", "ANALYZE"),
        ("SELECT load_extension('evil')", "load_extension"),
    ],
)
def test_what_is_not_the_users_is_refused_by_name(worker: Worker, sql: str, named: str) -> None:
    before = _dump(worker)
    with worker.store.transaction(worker.claim) as tx:
        # The engine's own statement with this text may be in the statement cache; that must not let it through.
        with pytest.raises(TransactionError, match=named):
            tx.lent.execute(sql)
        if sql.count(";"):
            tx.lent.execute("DELETE FROM orders")
        assert tx.lent.execute("SELECT count(*) FROM orders") == [(0,)]
    assert _dump(worker) == before


def test_a_trigger_of_the_users_cannot_reach_the_engines_tables_for_it(lent: Lent) -> None:
    lent.execute("CREATE TRIGGER mine AFTER INSERT ON orders BEGIN UPDATE stepwell_runs SET reason = 'x'; END")
    with pytest.raises(TransactionError, match="stepwell_runs"):
        lent.execute("INSERT INTO orders (item) VALUES ('tea')")
    lent.execute("DROP TRIGGER mine")


def test_a_view_of_the_users_cannot_reach_the_engines_tables_for_it(lent: Lent) -> None:
    lent.execute("CREATE VIEW mine AS SELECT id FROM stepwell_runs")
    with pytest.raises(TransactionError, match="stepwell_runs"):
        lent.execute("SELECT * FROM mine")


def test_a_foreign_key_of_the_users_cannot_bind_the_engines_rows(lent: Lent) -> None:
    lent.execute("CREATE TABLE mine (run REFERENCES stepwell_runs (key))")
    with pytest.raises(TransactionError, match="stepwell_runs"):
        lent.execute("INSERT INTO mine VALUES (1)")


def test_the_schema_table_can_be_read_but_not_written(lent: Lent) -> None:
    assert lent.execute("SELECT name FROM sqlite_schema WHERE name = 'orders'") == [("orders",)]
    for sql in (
        "DELETE FROM sqlite_schema",
        "UPDATE sqlite_schema SET sql = ''",
        "INSERT INTO sqlite_schema VALUES (1)",
    ):
        with pytest.raises((TransactionError, apsw.SQLError)):
            lent.execute(sql)


def test_vacuum_is_refused_by_sqlite_itself(lent: Lent) -> None:
    with pytest.raises(apsw.SQLError, match="cannot VACUUM"):
        lent.execute("VACUUM")


def test_the_users_own_tables_are_the_users(lent: Lent) -> None:
    lent.executemany("INSERT INTO orders (item) VALUES (?)", iter([("tea",), ("milk",)]))
    assert lent.execute("SELECT item FROM orders WHERE item = :item", {"item": "tea"}) == [("tea",)]
    assert lent.execute("UPDATE orders SET item = 'x' WHERE id = 1 RETURNING id, item") == [(1, "x")]
    assert lent.execute("SELECT 1; SELECT 2") == [(1,), (2,)]
    lent.execute(
        "ALTER TABLE orders ADD COLUMN price; CREATE INDEX by_price ON orders (price); DROP INDEX by_price;"
        "CREATE VIEW dear AS SELECT * FROM orders WHERE price > 5; DROP VIEW dear; DROP TABLE orders"
    )


def test_sqlites_own_errors_come_through_and_the_transaction_goes_on(lent: Lent) -> None:
    lent.execute("INSERT INTO orders (item) VALUES ('tea')")
    with pytest.raises(apsw.ConstraintError):
        lent.execute("INSERT INTO orders (item) VALUES ('tea')")
    with pytest.raises(apsw.SQLError):
        lent.execute("SELECT nonsense FROM nowhere")
    assert lent.execute("SELECT count(*) FROM orders") == [(1,)]


def test_a_generator_of_rows_may_itself_use_the_engine(worker: Worker) -> None:
    with worker.store.transaction(worker.claim) as tx:

        def rows() -> Iterator[tuple[str]]:
            tx.apply([RunCreated("b", "w", None, 1, "pending", NOW)])
            yield ("tea",)

        tx.lent.executemany("INSERT INTO orders (item) VALUES (?)", rows())
    assert worker.read.run_by_id("b") is not None


def test_sql_that_rolls_back_ends_the_transaction_with_advice(worker: Worker) -> None:
    def roll_back() -> None:
        with worker.store.transaction(worker.claim) as tx:
            tx.lent.execute("INSERT INTO orders (item) VALUES ('tea')")
            with pytest.raises(apsw.ConstraintError):
                tx.lent.execute("INSERT OR ROLLBACK INTO orders (item) VALUES ('tea')")
            with pytest.raises(TransactionError, match="earlier error"):
                tx.lent.execute("SELECT 1")

    with pytest.raises(TransactionError, match="Use ABORT"):
        roll_back()
    with worker.store.transaction(worker.claim) as tx:
        assert tx.lent.execute("SELECT * FROM orders") == []


def test_the_engine_goes_on_as_before_after_a_refusal(worker: Worker) -> None:
    with worker.store.transaction(worker.claim) as tx, pytest.raises(TransactionError):
        tx.lent.execute("DROP TABLE stepwell_runs")
    worker.create("b")
    assert worker.read.run_by_id("b") is not None


def _dump(worker: Worker) -> list[Any]:
    connection = cast("Any", worker.store)._connection
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()]
    tables.remove("stepwell_workers")  # counts every transaction
    return [connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in tables]
