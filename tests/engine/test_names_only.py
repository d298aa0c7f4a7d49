"""A program may name what it does not have: queues and limits keep their bounds, workflows start by their names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import AsyncEngine, Engine, InvalidArgument, Limit, Queue, QueueNotFound, Rate, step, sync, workflow
from stepwell.definitions.queues import _registry as known_flows
from stepwell.testing import TestEngine


@pytest.fixture(autouse=True)
def _names_of_one_test() -> Iterator[None]:
    """Let a test begin without the queues and limits that others have made, and forget its own afterwards."""
    before = dict(known_flows)
    known_flows.clear()
    yield
    known_flows.clear()
    known_flows.update(before)


def forget(name: str) -> None:
    """Make this process one that has not the code that states the bounds of a queue."""
    known_flows.pop(name, None)


@dataclass
class Order:
    number: int
    tags: tuple[str, ...] = ()


@workflow(name="named.order")
async def handle(order: Order) -> Order:
    return Order(order.number + 1, (*order.tags, "handled"))


@workflow
def nothing(number: int = 0) -> int:
    return number


# --- queues and limits ------------------------------------------------------------------------------------------------

BOUNDS = [{"concurrency": 1}, {"per_worker": 2}, {"partition_concurrency": 3}, {"rate": Rate(5, per=60)}]


def bounds(engine: Engine | TestEngine, name: str) -> dict[str, Any]:
    info = engine.queue(name).info()
    found = {key: getattr(info, key) for key in ("concurrency", "per_worker", "partition_concurrency", "rate")}
    return {key: bound for key, bound in found.items() if bound is not None}


@pytest.mark.parametrize("stated", BOUNDS, ids=str)
@pytest.mark.parametrize("by", ["name", "object", "object with rules for starts", "transaction"])
def test_naming_a_queue_leaves_its_bounds_alone(
    engine: TestEngine, caplog: pytest.LogCaptureFixture, stated: dict[str, Any], by: str
) -> None:
    engine.start(nothing, queue=Queue("jobs", **stated))
    engine.idle()
    engine.reopen()
    forget("jobs")
    caplog.clear()
    match by:
        case "name":
            run = engine.start(nothing, queue="jobs")
        case "object":
            run = engine.start(nothing, queue=Queue("jobs"))
        case "object with rules for starts":
            run = engine.start(nothing, queue=Queue("jobs", on_duplicate="reject"), dedup="key")
        case _:
            with engine.transaction() as tx:
                run = tx.start(nothing, queue="jobs")
    engine.idle()
    assert bounds(engine, "jobs") == stated
    assert run.result(timeout=60) == 0
    engine.reopen()
    assert bounds(engine, "jobs") == stated
    assert "bounded" not in caplog.text


def test_a_mention_does_not_take_the_place_of_a_statement_in_the_same_program(engine: TestEngine) -> None:
    Queue("jobs", concurrency=3)
    engine.start(nothing, queue=Queue("jobs"))
    engine.idle()
    assert bounds(engine, "jobs") == {"concurrency": 3}


def test_a_statement_after_a_mention_counts_in_the_same_engine(engine: TestEngine) -> None:
    engine.start(nothing, queue="jobs")
    engine.idle()
    assert bounds(engine, "jobs") == {}
    engine.start(nothing, queue=Queue("jobs", concurrency=3))
    engine.idle()
    assert bounds(engine, "jobs") == {"concurrency": 3}


def test_who_states_bounds_changes_them_and_the_log_says_so(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.start(nothing, queue=Queue("jobs", concurrency=1, rate=Rate(5, per=60)))
    engine.idle()
    assert "bounded" not in caplog.text  # it is new
    engine.reopen()
    forget("jobs")
    engine.start(nothing, queue=Queue("jobs", concurrency=4))
    engine.idle()
    assert bounds(engine, "jobs") == {"concurrency": 4}
    (record,) = [record for record in caplog.records if "bounded" in record.getMessage()]
    assert record.levelno == logging.WARNING
    for part in ("'jobs'", "concurrency 4 from now on", "concurrency 1, rate 5 in 60 s"):
        assert part in record.getMessage()


def test_that_there_are_no_bounds_can_be_stated(engine: TestEngine) -> None:
    engine.start(nothing, queue=Queue("jobs", concurrency=1))
    engine.idle()
    forget("jobs")
    engine.start(nothing, queue=Queue("jobs", concurrency=None))
    engine.idle()
    assert bounds(engine, "jobs") == {}


def test_a_change_by_an_operator_is_logged(engine: TestEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stepwell")
    engine.start(nothing, queue=Queue("jobs", concurrency=1))
    engine.queue("jobs").change(concurrency=2)
    engine.queue("jobs").change(concurrency=2)
    (told,) = [record.getMessage() for record in caplog.records if "bounded" in record.getMessage()]
    assert "concurrency 2" in told
    assert "concurrency 1" in told


def test_naming_a_limit_leaves_its_bounds_alone(engine: TestEngine) -> None:
    limit = Limit("api", concurrency=1)

    @step(limit=limit)
    async def call() -> int:
        return 1

    @workflow(name="named.calls")
    async def calls() -> int:
        return await call()

    assert engine.start(calls).result(timeout=60) == 1
    engine.reopen()
    forget("api")

    @step(limit=Limit("api"))
    async def calls_too() -> int:
        return 2

    @workflow(name="named.calls too")
    async def other() -> int:
        return await calls_too()

    assert engine.start(other).result(timeout=60) == 2
    assert bounds(engine, "api") == {"concurrency": 1}


def test_a_limit_whose_rate_may_be_stated_elsewhere_is_told_when_attempts_start() -> None:
    assert Limit("named").may_be_rated
    assert Limit("rated elsewhere", rate=Rate(2, per=60)).may_be_rated
    assert not Limit("bounded", concurrency=2).may_be_rated


def test_a_name_that_no_queue_can_have_is_refused(engine: TestEngine) -> None:
    Limit("api", concurrency=1)
    with pytest.raises(InvalidArgument, match="'api' is the name of a limit"):
        engine.start(nothing, queue="api")
    with pytest.raises(InvalidArgument, match="name of a queue"):
        engine.start(nothing, queue="")
    with pytest.raises(InvalidArgument, match="Queue"):
        engine.start(nothing, queue=3)  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert engine.list() == []
    with pytest.raises(QueueNotFound):
        engine.queue("api of others").info()


# --- workflows --------------------------------------------------------------------------------------------------------


def test_a_program_without_the_code_starts_by_names(database: Path) -> None:
    with Engine(database, workflows=[]) as client:
        run = client.start("elsewhere.order", {"number": 1, "tags": ["new"]}, id="order", queue="orders")
        with client.transaction() as tx:
            outbox = tx.start("elsewhere.order", kwargs={"order": {"number": 5}}, id="outbox")
        assert run.status == outbox.status == "pending"
        assert run.workflow == "elsewhere.order"
        assert client.start("elsewhere.order", {"number": 1, "tags": ["new"]}, id="order", queue="orders").id == run.id

    async def order(order: Order) -> Order:
        return Order(order.number + 1, order.tags)

    with Engine(database, workflows=[workflow(name="elsewhere.order")(order)]) as engine:
        assert engine.get("order").result(timeout=60) == Order(2, ("new",))
        assert engine.get("outbox").result(timeout=60) == Order(6)


def test_an_async_program_does_the_same(database: Path) -> None:
    async def start_both() -> None:
        async with AsyncEngine(database, workflows=[]) as client:
            await client.start("elsewhere.count", 1, id="one", queue="orders")
            async with client.transaction() as tx:
                await tx.start("elsewhere.count", 2, id="two")

    asyncio.run(start_both())

    async def count(number: int) -> int:
        return number + 1

    with Engine(database, workflows=[workflow(name="elsewhere.count")(count)]) as engine:
        assert [engine.get(run).result(timeout=60) for run in ("one", "two")] == [2, 3]


def test_a_name_is_as_good_as_the_workflow_where_the_program_has_it(engine: TestEngine) -> None:
    assert engine.start("named.order", Order(1)).result(timeout=60) == Order(2, ("handled",))
    with pytest.raises(stepwell.DefinitionError):
        engine.start("named.order")  # checked here, since the code is here
    by_object = engine.start(handle, Order(1), id="same")
    assert engine.start("named.order", Order(1), id="same").id == by_object.id


def test_arguments_that_do_not_fit_halt_the_run_where_its_code_is(database: Path) -> None:
    with Engine(database, workflows=[]) as client:
        client.start("elsewhere.strict", 1, 2, id="run")

    async def strict() -> None: ...

    with Engine(database, workflows=[workflow(name="elsewhere.strict")(strict)]) as engine:
        run = engine.get("run")
        with pytest.raises(stepwell.RunHalted, match="no longer fit"):
            run.result(timeout=60)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 300])
def test_what_is_no_name_of_a_workflow_is_refused(engine: TestEngine, name: str) -> None:
    with pytest.raises(InvalidArgument, match="name of a workflow"):
        engine.start(name)
    assert engine.list() == []


def test_a_child_is_started_by_name_and_waited_for_the_same_in_every_replay(engine: TestEngine) -> None:
    @workflow
    async def parent() -> list[Any]:
        child = await stepwell.start("named.order", Order(1), id="child")
        return [await child.result(), await stepwell.receive("go")]

    @workflow
    def parent_blocking() -> Any:
        return sync.start("named.order", Order(1), id="child").result()

    run = engine.start(parent)
    engine.idle()
    engine.reopen()
    run.send("go", 1)
    assert run.result(timeout=60) == [{"number": 2, "tags": ["handled"]}, 1]
    assert engine.start(parent_blocking).result(timeout=60) == {"number": 2, "tags": ["handled"]}
