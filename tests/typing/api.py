"""What type checkers must say about the public API: accepted by mypy --strict and by pyright in strict mode.

Never run. Each line that is wrong on purpose carries an ignore for both checkers; an ignore that is not needed is an
error itself (`warn_unused_ignores`, `reportUnnecessaryTypeIgnoreComment`), so a promise cannot be lost in silence.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedCoroutine=false

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_type

import stepwell
from stepwell import (
    AsyncEngine,
    Connection,
    Engine,
    Limit,
    Queue,
    Rate,
    Retry,
    Rows,
    Run,
    receive,
    start,
    step,
    sync,
    transaction,
    workflow,
)
from stepwell.model.lifecycle import Status


@dataclass
class Order:
    number: str


@dataclass
class Receipt:
    cents: int


@step(retry=Retry(attempts=5, delay=1.0, backoff=2.0), timeout=30)
async def charge(order: Order, cents: int = 100) -> Receipt:
    return Receipt(cents)


@step
def ship(order: Order, *, express: bool = False) -> str:
    return order.number


queue = Queue("orders", concurrency=3, rate=Rate(500, per=timedelta(minutes=1)))
limit = Limit("api", concurrency=10)


@step(limit=limit)
async def call(order: Order) -> int:
    return 1


@step(isolate="process", timeout=timedelta(minutes=1))
def render(order: Order) -> bytes:
    assert_type(stepwell.current().idempotency_key, str)
    assert_type(stepwell.current().attempt, int)
    assert_type(sync.current().cancelled, bool)
    _ = stepwell.current().nonsense  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    return b""


@transaction
def book(connection: Connection, order: Order) -> int:
    rows = connection.execute("SELECT number FROM orders WHERE number = :number", {"number": order.number})
    assert_type(rows, Rows)
    assert_type(rows[0], tuple[Any, ...])
    assert_type(rows.fetchone(), tuple[Any, ...] | None)
    assert_type(rows.columns, tuple[str, ...])
    connection.executemany("INSERT INTO orders VALUES (?)", [(order.number,)])
    connection.commit()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    return int(rows.fetchval())


@transaction  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def forgets_the_connection(order: Order) -> int:
    return 1


@workflow
async def checkout(order: Order) -> str:
    receipt = await charge(order, cents=5)
    assert_type(receipt, Receipt)
    assert_type(ship(order, express=True), str)
    assert_type(book(order), int)
    return str(receipt.cents)


@workflow(name="billing")
def billing(order: Order, times: int) -> int:
    assert_type(sync.receive("approval", bool), bool)
    assert_type(sync.receive("approval", bool, timeout=5), bool | None)
    assert_type(sync.receive("approval", bool, timeout=5, default=False), bool)
    assert_type(sync.receive("approval", bool, timeout=5, default=0), bool | int)
    assert_type(sync.receive("approval", bool, default=False), bool)
    assert_type(sync.map(ship, [order]), list[str])
    assert_type(sync.map(charge, [order], limit=2), list[Receipt])
    assert_type(sync.call(charge, order), Receipt)
    assert_type(sync.start(checkout, order).result(), str)
    assert_type(sync.start(checkout, order, queue=queue, priority=1, dedup="k").result(), str)
    sync.sleep(timedelta(days=1))
    return times


@workflow
async def nightly() -> None: ...


# --- steps and workflows keep their parameters and results ------------------------------------------------------------


async def steps_keep_their_signature(order: Order) -> None:
    await charge("order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge(order, 5, 6)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await charge(order, euros=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ship(order, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    book()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(await charge.options(timeout=5, retry=Retry(attempts=2))(order), Receipt)
    assert_type(render(order), bytes)
    assert_type(ship.options(isolate="process")(order), str)
    ship.options(isolate="thread")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge.options(timeout=5)("order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await checkout(order), str)
    assert_type(billing(order, 2), int)
    assert_type(await asyncio.to_thread(ship, order), str)
    results = await asyncio.gather(charge(order), checkout(order))
    assert_type(results, tuple[Receipt, str])


class Mailer:
    @step
    async def mail(self, address: str) -> bool:
        return bool(address)

    def plain(self, address: str) -> bool:
        return bool(address)

    async def awaited(self, address: str) -> Receipt:
        return Receipt(len(address))

    def untyped(self) -> Any: ...


async def methods_are_steps_too(mailer: Mailer) -> None:
    assert_type(await mailer.mail("ada@example.com"), bool)
    await mailer.mail(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- operations -------------------------------------------------------------------------------------------------------


@workflow
async def operations(order: Order) -> None:
    assert_type(await receive("approval", bool), bool)
    assert_type(await receive("approval", bool, timeout=timedelta(days=3)), bool | None)
    assert_type(await receive("approval", bool, timeout=3, default="none"), bool | str)
    assert_type(await receive("approval", bool, timeout=3, default=False), bool)
    assert_type(await receive("approval", bool, timeout=3, default=None), bool | None)
    assert_type(await receive("approval", bool, timeout=None), bool)
    assert_type(await receive("approval", bool, default=False), bool)  # waits for ever, so the default is never used
    assert_type(await receive("orders", list[Order], timeout=3), list[Order] | None)
    assert_type(await receive("orders", list[Order]), list[Order])
    assert_type(await stepwell.map(charge, [order], limit=3), list[Receipt])
    assert_type(await stepwell.map(ship, [order]), list[str])
    assert_type(await stepwell.map(checkout, [order]), list[str])
    assert_type(await stepwell.map(charge, [order], tolerate=1), list[stepwell.ItemResult[Order, Receipt]])
    assert_type(await stepwell.map(ship, [order], enough=1), list[stepwell.ItemResult[Order, str]])
    await stepwell.map(ship, ["order"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mailer = Mailer()
    assert_type(await stepwell.run_step("plain", mailer.plain, "ada", retry=Retry(attempts=2)), bool)
    assert_type(await stepwell.run_step("awaited", mailer.awaited, "ada", summary="asks"), Receipt)
    assert_type(await stepwell.run_step("closure", lambda: order.number), str)
    assert_type(await stepwell.run_step("typed", mailer.untyped, type=Receipt), Receipt)
    assert_type(sync.run_step("plain", mailer.plain, "ada", timeout=5), bool)
    assert_type(sync.run_step("awaited", mailer.awaited, "ada"), Receipt)
    await stepwell.run_step("plain", mailer.plain, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    child = await stepwell.start(checkout, order, id="child")
    assert_type(await child.result(), str)
    await stepwell.send("order-42", "approval", True, key="once")
    await stepwell.publish("progress", 0.5)
    await stepwell.sleep_until(datetime.fromisoformat("2030-01-01T00:00:00+00:00"))
    async with stepwell.saga() as saga:
        assert_type(saga, stepwell.Saga)
        saga.undo(charge, order)
        saga.undo(ship, order)
        saga.undo(ship, "order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        saga.undo(charge)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        saga.pivot()
    with stepwell.sync.saga() as blocking:
        blocking.undo(ship, order)
    assert_type(stepwell.now(), datetime)
    assert_type(stepwell.random(), float)
    assert_type(stepwell.uuid4(), uuid.UUID)
    assert_type(stepwell.current().run_id, str)
    assert_type(stepwell.current().replaying, bool)


# --- the engine -------------------------------------------------------------------------------------------------------


def takes_a_connection(connection: Connection) -> None: ...


def engine_gives_typed_runs(order: Order) -> None:
    with Engine("orders.db", workflows=[checkout, billing], durability="full") as engine:
        assert_type(engine.start(charge, order, id="job", on_conflict="replace").result(), Receipt)
        assert_type(engine.start(call, order, queue=queue, reuse="after-failure").result(), int)
        engine.start(call, "order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
        engine.start(call, order, on_conflict="skip")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
        run = engine.start(checkout, order, id="order-42")
        assert_type(run, stepwell.Run[str])
        assert_type(run.result(timeout=60), str)
        assert_type(run.id, str)
        assert_type(engine.start(billing, order, 2).result(), int)
        assert_type(engine.start(nightly).result(), None)
        engine.send("order-42", "approval", True, key="once")
        assert_type(run.status, Status)
        assert_type(run.workflow, str)
        assert_type(engine.query("SELECT 1").fetchval(), Any)
        with engine.transaction() as tx:
            assert_type(tx, stepwell.OpenTransaction)
            assert_type(tx.execute("SELECT 1"), Rows)
            assert_type(tx.start(checkout, order), stepwell.Run[str])
            assert_type(tx.start_many(checkout, [(order,)]), list[stepwell.Run[str]])
            takes_a_connection(tx)
        assert_type(engine.start_many(checkout, [(order,)], ids=["a"], queue=queue), list[stepwell.Run[str]])
        assert_type(engine.start_many(billing, ((order, at) for at in range(9))), list[stepwell.Run[int]])
        engine.start_many(checkout, [order])  # type: ignore[list-item]  # pyright: ignore[reportCallIssue, reportArgumentType]
        engine.start_many(checkout, [(order,)], id="a")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
        engine.start(checkout)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
        engine.start(checkout, "order")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
        engine.start(billing, order)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
        engine.start(billing, order, "2")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue, reportArgumentType]
        Engine("orders.db", durability="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def async_engine_gives_typed_runs(order: Order) -> None:
    async with AsyncEngine("orders.db") as engine:
        run = await engine.start(checkout, order, id="order-42")
        assert_type(run, stepwell.AsyncRun[str])
        assert_type(await run.result(timeout=60), str)
        assert_type(await run.status, Status)
        assert_type(run.workflow, str)
        assert_type(await engine.query("SELECT 1"), Rows)
        async with engine.transaction() as tx:
            assert_type(tx, stepwell.AsyncTransaction)
            assert_type(await tx.execute("SELECT 1"), Rows)
            assert_type(await tx.start(checkout, order), stepwell.AsyncRun[str])
        assert_type(await engine.start_many(checkout, [(order,)]), list[stepwell.AsyncRun[str]])
        await engine.send("order-42", "approval", True)
        await engine.start(checkout, "order")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


# --- queues -----------------------------------------------------------------------------------------------------------


def queues_keep_the_type_of_what_is_started(engine: Engine, order: Order) -> None:
    assert_type(engine.start(checkout, order, queue=queue, partition="a", delay=timedelta(hours=1)).result(), str)
    assert_type(engine.queue(queue).info().waiting, int)
    assert_type(engine.queue("orders").info().rate, Rate | None)
    engine.queue(limit).change(concurrency=None, rate=Rate(1))
    engine.queue(limit).change(concurrency="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(engine.start(checkout, order, queue="orders").result(), str)
    engine.start(checkout, order, queue=limit)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    step(limit=queue)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def a_program_without_the_code_starts_by_names(engine: Engine) -> None:
    assert_type(engine.start("shop.checkout", 1, "two", queue="orders", id="order-1"), Run[Any])
    with engine.transaction() as tx:
        assert_type(tx.start("shop.checkout", {"id": 1}).result(), Any)
    engine.start("shop.checkout", prio=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def by_names_in_async_code_and_in_workflows(engine: AsyncEngine) -> None:
    assert_type(await (await engine.start("shop.checkout", 1)).result(), Any)
    assert_type(await (await start("shop.checkout", 1, detached=True)).result(), Any)
    assert_type(sync.start("shop.checkout", 1).result(), Any)


async def queues_of_an_async_engine(engine: AsyncEngine, order: Order) -> None:
    run = await engine.start(checkout, order, queue=queue)
    assert_type(await run.result(), str)
    assert_type(await engine.queue(queue).cancel_waiting(), int)


async def limited_steps_keep_their_type(order: Order) -> None:
    assert_type(await call(order), int)
    assert_type(await call.options(limit=limit)(order), int)
