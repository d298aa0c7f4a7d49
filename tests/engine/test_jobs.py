"""Steps that are started by themselves: one durable job, without a workflow."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    Connection,
    DefinitionError,
    DuplicateRun,
    Engine,
    InvalidArgument,
    Limit,
    Queue,
    Retry,
    RunCancelled,
    StepInterrupted,
    current,
    step,
    transaction,
    workflow,
)
from stepwell.testing import TestEngine

executed: Counter[str] = Counter()
queue = Queue("jobs", concurrency=2)


@pytest.fixture(autouse=True)
def _nothing_executed() -> None:
    executed.clear()


@dataclass
class Mail:
    to: str
    failures: int = 0


@step(name="jobs.send", retry=Retry(attempts=3, delay=10, jitter=0))
async def send(mail: Mail) -> list[Mail]:
    executed[mail.to] += 1
    if current().attempt <= mail.failures:
        raise ConnectionError("busy")
    return [mail]


@step(name="jobs.count", limit=Limit("jobs.limit", concurrency=1))
def count(word: str, *, times: int = 1) -> int:
    executed[word] += 1
    return len(word) * times


@step(name="jobs.once", delivery="at-most-once")
async def once(seconds: float) -> str:
    executed["once"] += 1
    await asyncio.sleep(seconds)
    return current().idempotency_key


@transaction(name="jobs.book")
def book(connection: Connection, number: int) -> int:
    connection.execute("CREATE TABLE IF NOT EXISTS booked (number INTEGER)")
    connection.execute("INSERT INTO booked VALUES (?)", (number,))
    return number


class Shop:
    @step(name="jobs.method")
    def method(self) -> int:
        return 1

    @staticmethod
    @step(name="jobs.static")
    def static(number: int) -> int:
        return number


@pytest.mark.parametrize(
    ("definition", "argument", "result"),
    [
        (send, Mail("ada"), [Mail("ada")]),
        (count, "word", 4),
        (book, 7, 7),
        (Shop.static, 5, 5),
        (once, 0, None),
    ],
)
@pytest.mark.parametrize("options", [{}, {"queue": queue, "priority": 3}])
def test_a_step_is_a_run_of_its_own(
    engine: TestEngine, definition: Any, argument: Any, result: Any, options: dict[str, Any]
) -> None:
    run = engine.start(definition, argument, id="job", **options)
    found = run.result(60)
    assert found == ("job:1" if result is None else result)
    assert type(found) is type(result) or result is None
    assert (run.workflow, run.info().workflow, run.status) == (f"step:{definition.name}",) * 2 + ("completed",)
    assert engine.list(f"workflow:step:{definition.name}")[0].id == "job"
    assert engine.start(definition, argument, id="job", **options).result(60) == found  # the same id: the same run


def test_its_attempts_are_those_of_the_step_and_survive_crashes(engine: TestEngine) -> None:
    run = engine.start(send, Mail("ada", failures=2), id="job")
    for _ in range(2):
        engine.idle()
        assert run.info().waiting_on[0].kind == "retry"
        engine.crash()
        engine.reopen()
        engine.advance(21)
    assert engine.get("job").result(60) == [Mail("ada", failures=2)]
    assert executed == {"ada": 3}
    hopeless = engine.start(send, Mail("bob", failures=3), id="hopeless")
    engine.advance(40)
    with pytest.raises(ConnectionError):
        hopeless.result(60)
    hopeless.retry()
    engine.advance(40)
    assert executed["bob"] == 6
    assert hopeless.status == "failed"


def test_what_it_returned_is_written_once(engine: TestEngine) -> None:
    run = engine.start(send, Mail("ada"))
    run.result(60)
    assert run.journal() == []
    assert engine.query("SELECT count(*) FROM stepwell_journal").fetchval() == 0


def test_at_most_once_is_kept(engine: TestEngine) -> None:
    run = engine.start(once, 3600, id="job")
    while executed["once"] == 0:
        pass
    engine.crash()
    engine.reopen()
    with pytest.raises(StepInterrupted):
        engine.get(run.id).result(60)
    assert executed["once"] == 1


def test_another_job_under_the_same_id_has_another_key_for_outside_services(engine: TestEngine) -> None:
    keys = {engine.start(once, 0, id="job", reuse="always").result(60) for _ in range(3)}
    assert len(keys) == 3


def test_it_stands_in_queues_as_other_runs_do(engine: TestEngine) -> None:
    engine.start(count, "first", queue=queue).result(60)
    engine.queue(queue).pause()
    late = engine.start(count, "late", queue=queue, delay=timedelta(minutes=1), dedup="key")
    assert engine.start(count, "other", queue=queue, dedup="key").id == late.id
    many = engine.start_many(count, [("a",), ("bb",)], queue=queue, kwargs={"times": 2}, partition="p")
    engine.advance(61)
    assert executed == {"first": 1}
    info = engine.queue(queue).info()
    assert (info.waiting, info.delayed) == (2, 1)
    engine.queue(queue).unpause()
    assert [run.result(60) for run in (late, *many)] == [4, 2, 4]
    reject = Queue("jobs.reject", on_duplicate="reject")
    engine.start(once, 3600, queue=reject, dedup="k", id="long")
    with pytest.raises(DuplicateRun):
        engine.start(once, 3600, queue=reject, dedup="k")
    engine.get("long").cancel()
    with pytest.raises(RunCancelled):
        engine.get("long").result(60)


def test_it_starts_with_a_transaction_and_not_without_it(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        started = tx.start(count, "word")
    assert started.result(60) == 4
    with pytest.raises(ZeroDivisionError):
        start_and_fail(engine)
    assert len(engine.list()) == 1


def start_and_fail(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        tx.start(count, "never")
        _ = 1 / 0


@workflow(name="jobs.parent")
async def parent() -> list[Any]:
    first = await stepwell.start(count, "child", queue=queue)
    second = await stepwell.start(send, Mail("eve"), id="named")
    return [await first.result(), (await second.result())[0].to]


def test_a_workflow_starts_one_as_its_child(engine: TestEngine) -> None:
    assert engine.start(parent).result(60) == [5, "eve"]
    assert engine.get("named").result(60) == [Mail("eve")]


def test_a_program_without_its_code_starts_it_by_name_and_another_executes_it(database: Path) -> None:
    with Engine(database, workflows=[]) as client:
        ids = [client.start("step:jobs.count", "word", queue=place).id for place in (None, Queue("jobs"))]
    with Engine(database) as worker:
        assert [worker.get(each).result(60) for each in ids] == [4, 4]


def test_a_worker_takes_up_jobs_that_were_left(database: Path) -> None:
    with Engine(database, workflows=[]) as client:
        run = client.start(send, Mail("ada"))
        assert "no worker" in (run.info().reason or "")
    with Engine(database, workflows=[parent]) as engine:  # a list is one of workflows
        assert engine.get(run.id).result(60) == [Mail("ada")]


def outer() -> Callable[..., Any]:
    @step(name="jobs.count")
    def count(word: str) -> str:
        return word

    return count


@pytest.mark.parametrize(
    ("definition", "error", "what"),
    [
        (Shop().method, DefinitionError, "bound to an object"),
        (send.options(timeout=5), InvalidArgument, "does not record them"),
        (lambda: 1, InvalidArgument, "needs a @workflow or a @step"),
    ],
)
def test_what_no_worker_could_execute_is_refused(
    engine: TestEngine, definition: Any, error: type[Exception], what: str
) -> None:
    with pytest.raises(error, match=what):
        engine.start(definition)
    assert engine.list() == []


def test_two_steps_of_one_name_are_told_apart_before_one_is_started(engine: TestEngine) -> None:
    other = outer()
    with pytest.raises(DefinitionError, match=r"two steps of the name 'jobs\.count'"):
        engine.start(count, "word")
    assert other is not None
    with pytest.raises(DefinitionError, match="so are steps"):
        workflow(name="step:jobs.count")(cast("Any", outer))


def test_an_async_engine_has_the_same(database: Path) -> None:
    async def main() -> list[Any]:
        async with AsyncEngine(database) as engine:
            run = await engine.start(send, Mail("ada"))
            many = await engine.start_many(send, [(Mail("bob"),)], queue=queue)
            return [await run.result(60), await many[0].result(60)]

    assert asyncio.run(main()) == [[Mail("ada")], [Mail("bob")]]
