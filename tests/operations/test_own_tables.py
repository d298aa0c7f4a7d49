"""The user's own tables: what statements give, and reading that holds up nobody."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from stepwell import (
    AsyncEngine,
    Connection,
    Engine,
    EngineClosed,
    InvalidArgument,
    Rows,
    TransactionError,
    WorkflowIOError,
    step,
    transaction,
    workflow,
)
from stepwell.testing import TestEngine


@pytest.fixture
def filled(engine: TestEngine) -> TestEngine:
    with engine.transaction() as tx:
        tx.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT); CREATE VIEW v AS SELECT name AS n FROM t")
        tx.executemany("INSERT INTO t (name) VALUES (?)", [("a",), ("b",), ("c",)])
    return engine


def in_a_transaction(engine: Engine, sql: str, parameters: Any = ()) -> Rows:
    with engine.transaction() as tx:
        return tx.execute(sql, parameters)


def in_a_transactional_step(engine: Engine, sql: str, parameters: Any = ()) -> Rows:
    found: list[Rows] = []

    @transaction(name="asks")
    def asks(connection: Connection) -> None:
        found.append(connection.execute(sql, parameters))

    @workflow(name="calls")
    async def calls() -> None:
        asks()

    engine.start(calls).result(60)
    return found[0]


def as_a_query(engine: Engine, sql: str, parameters: Any = ()) -> Rows:
    return engine.query(sql, parameters)


Ask = Callable[..., Rows]
WAYS = pytest.mark.parametrize("ask", [in_a_transaction, in_a_transactional_step, as_a_query])


@WAYS
def test_rows_are_a_list_of_tuples_and_are_fetched_as_those_of_a_cursor(filled: TestEngine, ask: Ask) -> None:
    rows = ask(filled, "SELECT id, name FROM t ORDER BY id")
    assert rows == [(1, "a"), (2, "b"), (3, "c")]
    assert isinstance(rows, list)
    assert rows.columns == ("id", "name")
    assert rows.fetchone() == (1, "a")
    assert rows.fetchmany(1) == [(2, "b")]
    assert rows.fetchall() == [(3, "c")]
    assert (rows.fetchone(), rows.fetchmany(5), rows.fetchall(), rows.fetchval()) == (None, [], [], None)
    assert len(rows) == 3
    assert [name for _, name in rows] == ["a", "b", "c"]


@WAYS
def test_one_value_is_there_without_unpacking(filled: TestEngine, ask: Ask) -> None:
    assert ask(filled, "SELECT count(*) FROM t").fetchval() == 3
    assert ask(filled, "SELECT name FROM t WHERE id = 9").fetchval() is None
    assert ask(filled, "SELECT NULL").fetchval() is None
    rows = ask(filled, "SELECT id FROM t ORDER BY id")
    assert [rows.fetchval(), rows.fetchval(), rows.fetchval(), rows.fetchval()] == [1, 2, 3, None]


@WAYS
@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SELECT id, name FROM t WHERE id > 100", ("id", "name")),
        ("SELECT count(*) AS n, max(id) FROM t", ("n", "max(id)")),
        ("SELECT * FROM v", ("n",)),
        ("SELECT id, id FROM t", ("id", "id")),
        ("SELECT 1 AS a; SELECT 2 AS b", ("b",)),
        ("SELECT 1 AS a WHERE false; SELECT 2 AS b WHERE false", ("b",)),
        ("-- nothing", ()),
        ("", ()),
    ],
)
def test_columns_have_their_names_with_and_without_rows(
    filled: TestEngine, ask: Ask, sql: str, columns: tuple[str, ...]
) -> None:
    assert ask(filled, sql).columns == columns


def test_statements_that_give_nothing_have_no_columns_and_those_that_return_have(filled: TestEngine) -> None:
    with filled.transaction() as tx:
        assert tx.execute("INSERT INTO t (name) VALUES ('d')").columns == ()
        returned = tx.execute("INSERT INTO t (name) VALUES ('e') RETURNING id, name")
        assert (returned, returned.columns) == ([(5, "e")], ("id", "name"))
        assert tx.execute("DELETE FROM t WHERE id = 99 RETURNING id").columns == ("id",)


@WAYS
def test_parameters_are_a_sequence_or_any_mapping(filled: TestEngine, ask: Ask) -> None:
    from types import MappingProxyType

    assert ask(filled, "SELECT name FROM t WHERE id = ?", [2]).fetchval() == "b"
    assert ask(filled, "SELECT name FROM t WHERE id = :id", {"id": 2}).fetchval() == "b"
    assert ask(filled, "SELECT name FROM t WHERE id = :id", MappingProxyType({"id": 2})).fetchval() == "b"


@pytest.mark.parametrize("ask", [in_a_transaction, in_a_transactional_step])
def test_sqlites_own_errors_come_through_in_transactions_and_the_next_one_works(filled: TestEngine, ask: Ask) -> None:
    with pytest.raises(apsw.SQLError, match="no such table"):
        ask(filled, "SELECT * FROM missing")
    assert ask(filled, "SELECT count(*) FROM t").fetchval() == 3


def test_rows_are_copied_and_pickled_with_their_columns(filled: TestEngine) -> None:
    rows = filled.query("SELECT id, name FROM t")
    rows.fetchone()
    for twin in (copy.copy(rows), copy.deepcopy(rows), pickle.loads(pickle.dumps(rows))):
        assert (twin, twin.columns, twin.fetchone()) == (rows, rows.columns, (1, "a"))


def test_rows_can_be_the_result_of_a_step(filled: TestEngine) -> None:
    @transaction(name="asks")
    def asks(connection: Connection) -> list[tuple[int, str]]:
        return connection.execute("SELECT id, name FROM t")

    @workflow(name="calls")
    async def calls() -> list[tuple[int, str]]:
        return asks()

    assert filled.start(calls).result(60) == [(1, "a"), (2, "b"), (3, "c")]


# --- reading only -----------------------------------------------------------------------------------------------------


def test_a_query_holds_up_no_writer_and_is_held_up_by_none(filled: TestEngine) -> None:
    began, may_end, found = threading.Event(), threading.Event(), []

    def write() -> None:
        with filled.transaction() as tx:
            tx.execute("INSERT INTO t (name) VALUES ('x')")
            began.set()
            assert may_end.wait(60)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert began.wait(60)
        found.append(filled.query("SELECT count(*) FROM t").fetchval())  # would wait for ever for the writers' lock
    finally:
        may_end.set()
        writer.join(60)
    assert found == [3]
    assert filled.query("SELECT count(*) FROM t").fetchval() == 4


def test_a_query_sees_what_was_committed_and_what_others_see(filled: TestEngine) -> None:
    with filled.transaction() as tx:
        tx.execute("DELETE FROM t")
        assert filled.query("SELECT count(*) FROM t").fetchval() == 3
    assert filled.query("SELECT count(*) FROM t").fetchval() == 0
    assert filled.query("SELECT count(*) FROM stepwell_runs").fetchval() == 0


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t (name) VALUES ('x')", "UPDATE t SET name = 'x'", "DELETE FROM t", "DROP TABLE t",
        "CREATE TABLE u (x)", "CREATE TEMP TABLE u (x)", "CREATE INDEX i ON t (name)", "ALTER TABLE t ADD COLUMN x",
        "UPDATE stepwell_runs SET status = 'failed'", "ANALYZE", "VACUUM",
        "PRAGMA query_only = 0", "PRAGMA journal_mode", "ATTACH ':memory:' AS other", "DETACH main",
        "BEGIN", "COMMIT", "SAVEPOINT s", "SELECT load_extension('x')", "SELECT 1; DELETE FROM t",
        "WITH x AS (SELECT 1) INSERT INTO t (name) SELECT 'x' FROM x",
    ],
)  # fmt: skip
def test_what_does_more_than_read_is_refused_by_name(filled: TestEngine, sql: str) -> None:
    with pytest.raises((TransactionError, apsw.Error)) as refused:
        filled.query(sql)
    if sql != "VACUUM":  # which SQLite refuses by itself
        assert isinstance(refused.value, TransactionError), refused.value
        assert "a query may not use" in str(refused.value)
    assert filled.query("SELECT count(*) FROM t").fetchval() == 3
    assert filled.query("SELECT count(*) FROM sqlite_temp_master").fetchval() == 0


def test_queries_of_many_threads_go_on_beside_each_other_and_beside_writers(filled: TestEngine) -> None:
    found: list[int] = []

    def ask() -> None:
        found.extend(filled.query("SELECT count(*) FROM t").fetchval() for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for number in range(20):
        with filled.transaction() as tx:
            tx.execute("INSERT INTO t (name) VALUES (?)", (str(number),))
    for thread in threads:
        thread.join(60)
    assert len(found) == 300
    assert set(found) <= set(range(3, 24))


@pytest.mark.parametrize(
    ("sql", "parameters", "said"),
    [
        ("SELEC 1", (), r"syntax error\. Correct the statement"),
        ("SELECT 1; SELEC 2", (), "syntax error"),
        ("SELECT * FROM missing", (), "no such table: missing"),
        ("SELECT zeroblob(3000000000)", (), "too big"),
        ("SELECT json('{')", (), "malformed JSON"),
        ("SELECT ?", (), "Give one parameter for each `.`"),
        ("SELECT ?", (1, 2), "Give one parameter for each `.`"),
        ("SELECT :a", {"b": 1}, "it has no parameter 'a'"),
        ("SELECT ?", (object(),), "parameters are None, numbers of 64 bits, text and bytes"),
        ("SELECT ?", (2**63,), "parameters are None, numbers"),
        ("SELECT ?", ("\ud800",), "parameters are None, numbers"),
        ("SELECT 1\0", (), "null character"),
    ],
)
def test_a_query_that_sqlite_does_not_take_is_an_error_that_shows_it(
    filled: TestEngine, sql: str, parameters: Any, said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        filled.query(sql, parameters)
    assert repr(sql) in str(refused.value)
    assert refused.value.__cause__ is not None
    assert filled.query("SELECT count(*) FROM t").fetchval() == 3


@pytest.mark.parametrize("sql", [None, 5, b"SELECT 1"])
def test_a_query_that_is_no_text_is_refused(filled: TestEngine, sql: Any) -> None:
    with pytest.raises(InvalidArgument, match="SQL must be text"):
        filled.query(sql)


def test_a_query_is_for_steps_and_not_for_workflow_code(filled: TestEngine) -> None:
    @step(name="counts")
    def counts() -> int:
        return int(filled.query("SELECT count(*) FROM t").fetchval())

    @step(name="counts later")
    async def counts_later() -> int:
        return int(filled.query("SELECT count(*) FROM t").fetchval())

    @workflow(name="asks")
    async def asks() -> list[Any]:
        with pytest.raises(WorkflowIOError, match="@step"):
            filled.query("SELECT 1")
        return [counts(), await counts_later()]

    assert filled.start(asks).result(60) == [3, 3]


def test_an_async_engine_has_queries_too(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database) as engine:
            async with engine.transaction() as tx:
                await tx.execute("CREATE TABLE t (x)")
                await tx.executemany("INSERT INTO t VALUES (:x)", [{"x": 1}, {"x": 2}])
                assert (await tx.execute("SELECT sum(x) AS total FROM t")).columns == ("total",)
            assert (await engine.query("SELECT sum(x) FROM t WHERE x > ?", (1,))).fetchval() == 2
            with pytest.raises(TransactionError):
                await engine.query("DELETE FROM t")

    asyncio.run(main())


def test_a_closed_engine_answers_no_query(database: Path) -> None:
    engine = Engine(database)
    assert engine.query("SELECT 1") == [(1,)]
    engine.close()
    with pytest.raises(EngineClosed):
        engine.query("SELECT 1")
