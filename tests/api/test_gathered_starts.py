"""Starts in a transaction whose ids are made up there: they are gathered, and nobody sees a difference."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    AsyncEngine,
    AsyncRun,
    Batch,
    Engine,
    InvalidArgument,
    Limit,
    Queue,
    Run,
    RunConflict,
    StorageFull,
    TransactionError,
    receive,
    workflow,
)
from stepwell.testing import TestEngine

line = Queue("gathered.line")
collecting = Queue("gathered.collecting", batch=Batch(10, within=60))
limit = Limit("gathered.limit", concurrency=1)

#: More than are gathered at once, and no round number.
MANY = 300


@workflow(name="gathered.hear")
async def hear(number: int) -> str:
    return f"{number} {await receive('word', str)}"


@workflow(name="gathered.give")
async def give(number: int) -> int:
    return number


def ids_by_age(engine: TestEngine | Engine) -> list[str]:
    return [run.id for run in reversed(engine.list(limit=1000))]


@pytest.mark.parametrize("queue", [None, line])
def test_many_starts_of_a_transaction_are_runs_in_the_order_of_asking(engine: TestEngine, queue: Queue | None) -> None:
    with engine.transaction() as tx:
        runs = [tx.start(give, number, queue=queue) for number in range(MANY)]
    assert ids_by_age(engine) == [run.id for run in runs]
    assert [run.result(timeout=10) for run in runs] == list(range(MANY))


def test_what_else_a_transaction_asks_for_comes_behind_its_starts(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        first = tx.start(hear, 1)
        tx.send(first.id, "word", "here")
        second = tx.start(give, 2)
        named = tx.start(give, 3, id="gathered-named")
        third = tx.start(give, 4)
        with pytest.raises(RunConflict):
            tx.start(give, 5, id="gathered-named")
        (many,) = tx.start_many(give, [(6,)])
    runs: list[Run[Any]] = [first, second, named, third, many]
    assert ids_by_age(engine) == [run.id for run in runs]
    assert [run.result(timeout=10) for run in runs] == ["1 here", 2, 3, 4, 6]


def test_a_transaction_that_is_undone_starts_none(engine: TestEngine) -> None:
    with pytest.raises(ZeroDivisionError), engine.transaction() as tx:  # noqa: PT012 - what is before it is undone
        tx.start(give, 1)
        tx.start(give, 2, queue=line)
        tx.start(give, 3, queue=line)
        raise ZeroDivisionError
    assert ids_by_age(engine) == []


def test_what_a_start_must_not_be_is_said_at_once(engine: TestEngine) -> None:
    wrong: Any = limit
    with engine.transaction() as tx:
        tx.start(give, 1, queue=line)
        with pytest.raises(InvalidArgument):
            tx.start(give, 2, queue=wrong)
        with pytest.raises(InvalidArgument):
            tx.start(give, 2, queue=collecting, id="an id")
        kept = tx.start(give, 3, queue=line)
    assert kept.result(timeout=10) == 3


def test_a_transaction_that_is_over_starts_nothing(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        tx.start(give, 1)
    with pytest.raises(TransactionError, match="over"):
        tx.start(give, 2)
    assert len(ids_by_age(engine)) == 1


@pytest.mark.parametrize("is_heard", [True, False], ids=["by a later call", "by the commit"])
def test_where_starts_cannot_be_written_the_transaction_does_not_commit(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch, is_heard: bool
) -> None:
    def full(*_: object) -> list[Any]:
        raise StorageFull("no space is left")

    with engine.transaction() as tx:
        tx.execute("CREATE TABLE orders (number)")
    with pytest.raises((StorageFull, TransactionError), match="no space is left"), engine.transaction() as tx:  # noqa: PT012 - the commit raises
        tx.execute("INSERT INTO orders VALUES (1)")
        tx.start(give, 1)
        with monkeypatch.context() as patch:
            patch.setattr(tx._enlisted._opened, "apply", full)
            if is_heard:
                with pytest.raises(StorageFull):
                    tx.start(give, 2, id="gathered-late")
            else:
                tx._enlisted.write()
    assert ids_by_age(engine) == []
    with engine.transaction() as tx:
        assert tx.execute("SELECT count(*) FROM orders").fetchone() == (0,)


def test_a_transaction_of_an_async_engine_gathers_too(tmp_path: Path) -> None:
    async def main() -> list[object]:
        async with AsyncEngine(tmp_path / "runs.db") as engine:
            async with engine.transaction() as tx:
                runs: list[AsyncRun[Any]] = [await tx.start(give, number, queue=line) for number in range(3)]
                heard = await tx.start(hear, 7)
                await tx.send(heard.id, "word", "here")
            return [await run.result(timeout=10) for run in [*runs, heard]]

    assert asyncio.run(main()) == [0, 1, 2, "7 here"]
