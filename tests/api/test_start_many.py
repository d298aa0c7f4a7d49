"""`start_many`: a run for each tuple of arguments, all or none, in one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    AsyncEngine,
    Batch,
    DefinitionError,
    DuplicateRun,
    Engine,
    InvalidArgument,
    Queue,
    RunConflict,
    RunEnded,
    SerializationError,
    TransactionError,
    receive,
    workflow,
)
from stepwell.testing import TestEngine

#: More than one statement writes, and no round number.
MANY = 150

line = Queue("start_many.line")
deduped = Queue("start_many.deduped", on_duplicate="reject")
collecting = Queue("start_many.collecting", batch=Batch(10, within=60))


@workflow(name="start_many.double")
async def _double(number: int, *, plus: int = 0) -> int:
    return 2 * number + plus


double: Any = _double


@workflow(name="start_many.listen")
async def listen(number: int) -> str:
    return f"{number} {await receive('word', str)}"


@workflow(name="start_many.total")
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@pytest.mark.parametrize("queue", [None, line])
def test_each_tuple_is_a_run_and_the_handles_come_in_their_order(engine: TestEngine, queue: Queue | None) -> None:
    runs = engine.start_many(double, [(number,) for number in range(MANY)], queue=queue)
    assert [run.result(timeout=10) for run in runs] == [2 * number for number in range(MANY)]
    assert [run.id for run in runs] == sorted({run.id for run in runs})


def test_they_survive_a_crash_right_after_it(engine: TestEngine) -> None:
    ids = [run.id for run in engine.start_many(double, [(number,) for number in range(MANY)])]
    engine.crash()
    engine.reopen()
    assert [engine.get(run_id).result(timeout=10) for run_id in ids] == [2 * number for number in range(MANY)]


def test_they_are_one_commit(engine: TestEngine) -> None:
    engine.start_many(double, [(1,), (2,)], queue=line, delay=60)
    (first, second) = engine.query("SELECT created_at FROM stepwell_runs").fetchall()
    assert first == second
    with engine.transaction() as tx:
        runs = tx.start_many(double, [(3,), (4,)])
        tx.execute("CREATE TABLE note (id TEXT)")
        tx.executemany("INSERT INTO note VALUES (?)", [(run.id,) for run in runs])
    assert {row[0] for row in engine.query("SELECT id FROM note")} == {run.id for run in runs}
    assert [run.result(timeout=10) for run in runs] == [6, 8]


def test_ids_may_be_given_and_find_runs_that_exist(engine: TestEngine) -> None:
    engine.start(double, 3, id="three")
    ids = (f"r{number}" if number != 3 else "three" for number in range(MANY))
    runs = engine.start_many(double, ((number,) for number in range(MANY)), ids=ids)
    assert (runs[0].id, runs[3].id) == ("r0", "three")
    assert len(engine.list(limit=1_000)) == MANY
    assert [run.result(timeout=10) for run in runs] == [2 * number for number in range(MANY)]


def test_options_hold_for_each_of_them(engine: TestEngine) -> None:
    runs = engine.start_many(double, [(1,), (2,)], kwargs={"plus": 5}, queue=line, deadline=30, delay=60)
    assert {run.status for run in runs} == {"pending"}
    engine.advance(31)
    assert {run.status for run in runs} == {"failed"}
    runs = engine.start_many(listen, [(1,), (2,)], messages=[("word", "hi")])
    assert [run.result(timeout=10) for run in runs] == ["1 hi", "2 hi"]


def test_starts_that_one_run_collects_all_return_it(engine: TestEngine) -> None:
    runs = engine.start_many(total, [([number],) for number in range(10)], queue=collecting)
    assert len({run.id for run in runs}) == 1
    assert runs[0].result(timeout=10) == 45


def test_none_at_all_are_none(engine: TestEngine) -> None:
    assert engine.start_many(double, []) == []
    assert engine.start_many(double, [], ids=[]) == []


# --- refused ----------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "an id with other input": (RunConflict, {"args": [(1,), (9,)], "ids": ["new", "taken"]}),
    "the same id with two inputs": (RunConflict, {"args": [(1,), (2,)], "ids": ["new", "new"]}),
    "too many arguments": (DefinitionError, {"args": [(1,), (1, 2)]}),
    "an argument of another type": (SerializationError, {"args": [(1,), ("two",)]}),
    "a name that is no option": (DefinitionError, {"args": [(1,)], "plus": 3}),
    "a value that cannot be recorded": (SerializationError, {"args": [(1,), (object(),)]}),
    "too few ids": (InvalidArgument, {"args": [(1,), (2,)], "ids": ["new"]}),
    "too many ids": (InvalidArgument, {"args": [(1,)], "ids": ["new", "other"]}),
    "one text as the ids": (InvalidArgument, {"args": [(1,), (2,)], "ids": "ab"}),
    "an id that is none": (InvalidArgument, {"args": [(1,)], "ids": [""]}),
    "arguments that are no tuples": (InvalidArgument, {"args": [1, 2]}),
    "one text as arguments": (InvalidArgument, {"args": "ab"}),
    "a mapping as arguments": (InvalidArgument, {"args": {"a": (1,)}}),
    "a number as arguments": (InvalidArgument, {"args": 3}),
    "an id for all": (InvalidArgument, {"args": [(1,)], "id": "new"}),
    "an option without a queue": (InvalidArgument, {"args": [(1,)], "priority": 3}),
    "a dedup key that only one can have": (DuplicateRun, {"args": [(1,), (2,)], "queue": deduped, "dedup": "k"}),
    "a message to a run that has ended": (
        RunEnded,
        {"args": [(1,), (0,)], "ids": ["new", "over"], "messages": [("m", 1)]},
    ),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("where", ["engine", "transaction"])
def test_where_one_is_refused_none_is_started(engine: TestEngine, why: str, where: str) -> None:
    error, options = REFUSED[why]
    engine.start(double, 3, id="taken", queue=line, delay=60)
    engine.start(double, 0, id="over").result(timeout=10)
    args = options["args"]
    given = {name: value for name, value in options.items() if name != "args"}
    if where == "engine":
        with pytest.raises(error):
            engine.start_many(double, args, **given)
    else:
        with engine.transaction() as tx:
            tx.start(double, 5, id="before", queue=line, delay=60)
            with pytest.raises(error):
                tx.start_many(double, args, **given)
    kept = {"before", "taken", "over"} if where == "transaction" else {"taken", "over"}
    assert {run.id for run in engine.list()} == kept
    assert engine.queue(line).info().delayed == len(kept) - 1


def test_arguments_that_raise_start_none(engine: TestEngine) -> None:
    def args() -> Iterator[tuple[int]]:
        yield (1,)
        raise KeyError

    with pytest.raises(KeyError):
        engine.start_many(double, args())
    assert engine.list() == []


def test_the_engine_itself_is_refused_inside_a_transaction(engine: TestEngine) -> None:
    with engine.transaction(), pytest.raises(TransactionError, match=r"tx\.start"):
        engine.start_many(double, [(1,)])


# --- elsewhere --------------------------------------------------------------------------------------------------------


def test_an_async_engine_and_its_transaction_do_the_same(tmp_path: Path) -> None:
    async def main() -> list[int]:
        async with AsyncEngine(tmp_path / "x.db", workflows=[double]) as engine:
            runs = await engine.start_many(double, [(1,), (2,)], ids=["one", "two"])
            async with engine.transaction() as tx:
                runs += await tx.start_many(double, [(3,)], queue=line)
            with pytest.raises(RunConflict, match="two"):
                await engine.start_many(double, [(4,), (5,)], ids=["four", "two"])
            assert len(await engine.list()) == 3
            return [await run.result(10) for run in runs]

    assert asyncio.run(main()) == [2, 4, 6]


def test_a_client_starts_them_by_name_for_a_worker(tmp_path: Path) -> None:
    with Engine(tmp_path / "x.db", workflows=[]) as client:
        runs = client.start_many("start_many.double", [(1,), (2,)], queue="start_many.line")
    with Engine(tmp_path / "x.db", workflows=[double]) as worker:
        assert [worker.get(run.id).result(timeout=10) for run in runs] == [2, 4]
