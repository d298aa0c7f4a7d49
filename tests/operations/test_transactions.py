"""The user's own tables and the journal in one transaction: inside workflows and outside."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from stepwell import (
    AsyncEngine,
    DefinitionError,
    PermanentError,
    Queue,
    ResultNotSerializable,
    Retry,
    RunCancelled,
    RunConflict,
    RunEnded,
    RunNotFound,
    SerializationError,
    StepInfo,
    StoreError,
    TransactionError,
    current,
    receive,
    step,
    transaction,
    workflow,
)
from stepwell.store.sql.creation import Creation
from stepwell.store.sql.queue_changes import Entries
from stepwell.testing import TestEngine
from stepwell.worker.arriving.loader import Loader


@pytest.fixture(autouse=True)
def _accounts(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        tx.execute("CREATE TABLE account(name TEXT PRIMARY KEY, balance INT CHECK (balance >= 0)) STRICT")
        tx.executemany("INSERT INTO account VALUES (?, ?)", [("ada", 100), ("bob", 0)])


def balances(engine: TestEngine) -> dict[str, int]:
    with engine.transaction() as tx:
        return dict(tx.execute("SELECT name, balance FROM account"))


line = Queue("transactions.line")


@transaction
def transfer(tx: Any, source: str, target: str, amount: int) -> int:
    tx.execute("UPDATE account SET balance = balance + ? WHERE name = ?", (amount, target))
    tx.execute("UPDATE account SET balance = balance - ? WHERE name = ?", (amount, source))
    return int(tx.execute("SELECT balance FROM account WHERE name = ?", (target,))[0][0])


@workflow
async def pay(amount: int) -> int:
    return transfer("ada", "bob", amount)


@workflow
async def nothing() -> None:
    return


@workflow
async def collect(number: int) -> list[Any]:
    return [await receive("word") for _ in range(number)]


# --- transactional steps ----------------------------------------------------------------------------------------------


def test_a_transactional_step_writes_to_the_users_tables_and_returns_a_value(engine: TestEngine) -> None:
    run = engine.start(pay, 30)
    assert run.result(60) == 30
    assert balances(engine) == {"ada": 70, "bob": 30}
    assert [(entry.kind, entry.value) for entry in run.journal()] == [("step", 30)]


def test_it_happens_exactly_once_across_crashes(engine: TestEngine) -> None:
    @workflow
    async def pays() -> None:
        for _ in range(5):
            transfer("ada", "bob", 1)
            await asyncio.sleep(1)

    run = engine.start(pays)
    for _ in range(10):
        engine.advance(0.5)
        engine.crash()
        engine.reopen()
    engine.idle()
    run.result(60)
    assert balances(engine) == {"ada": 95, "bob": 5}


def test_an_exception_rolls_back_what_was_written_and_is_raised_in_the_workflow(engine: TestEngine) -> None:
    @workflow
    async def overdraws() -> str:
        try:
            transfer("ada", "bob", 500)
        except Exception as error:  # noqa: BLE001 - apsw's own class
            return str(error)
        return "went through"

    run = engine.start(overdraws)
    assert "CHECK constraint failed" in run.result(60)
    assert balances(engine) == {"ada": 100, "bob": 0}
    assert [entry.kind for entry in run.journal()] == ["step_failed"]


def test_a_result_that_cannot_be_recorded_undoes_the_writes(engine: TestEngine) -> None:
    @transaction
    def bad(tx: Any) -> Any:
        tx.execute("UPDATE account SET balance = 7")
        return object()

    @workflow
    async def tries() -> Any:
        return bad()

    with pytest.raises(ResultNotSerializable, match="bad"):
        engine.start(tries).result(60)
    assert balances(engine) == {"ada": 100, "bob": 0}


def test_it_is_retried_by_its_policy_with_nothing_left_of_the_failed_attempts(engine: TestEngine) -> None:
    attempts: list[int] = []

    @transaction(retry=Retry(attempts=3, delay=10, backoff=1, jitter=0))
    def flaky(tx: Any) -> int:
        tx.execute("UPDATE account SET balance = balance - 1 WHERE name = 'ada'")
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError
        return len(attempts)

    @workflow
    async def tries() -> int:
        return flaky()

    run = engine.start(tries)
    engine.advance(20)
    assert run.result(60) == 3
    assert balances(engine)["ada"] == 99
    assert [entry.kind for entry in run.journal()] == ["attempt_failed", "attempt_failed", "step"]


def test_a_permanent_error_is_not_retried(engine: TestEngine) -> None:
    attempts: list[int] = []

    @transaction(retry=Retry(attempts=3, delay=0))
    def refuses(tx: Any) -> None:
        attempts.append(len(tx.execute("SELECT 1")))
        raise PermanentError("no")

    @workflow
    async def tries() -> None:
        refuses()

    with pytest.raises(PermanentError):
        engine.start(tries).result(60)
    assert len(attempts) == 1


def test_transactions_of_many_runs_are_isolated_from_each_other(engine: TestEngine) -> None:
    runs = [engine.start(pay, 200 if number % 3 == 0 else 1) for number in range(60)]
    failed = 0
    for run in runs:
        try:
            run.result(60)
        except Exception:  # noqa: BLE001 - apsw's own class
            failed += 1
    assert failed == 20
    assert balances(engine) == {"ada": 60, "bob": 40}


def test_sync_workflows_and_to_thread_call_transactions_too(engine: TestEngine) -> None:
    @workflow
    def plain() -> int:
        return transfer("ada", "bob", 1)

    @workflow
    async def threaded() -> list[int]:
        return list(await asyncio.gather(*(asyncio.to_thread(transfer, "ada", "bob", 1) for _ in range(3))))

    assert engine.start(plain).result(60) == 1
    assert engine.start(threaded).result(60) == [2, 3, 4]


def test_ordinary_steps_between_transactions_see_what_was_committed(engine: TestEngine) -> None:
    @step
    def look() -> int:
        return balances(engine)["bob"]

    @workflow
    async def pays() -> list[int]:
        found = []
        for _ in range(3):
            transfer("ada", "bob", 1)
            found.append(look())
        return found

    assert engine.start(pays).result(60) == [1, 2, 3]


def test_an_async_transaction_is_refused_at_its_declaration() -> None:
    with pytest.raises(DefinitionError, match=r"waits|must not wait"):

        @transaction
        async def waits(tx: Any) -> None: ...


def test_outside_of_a_run_a_transaction_is_the_plain_function() -> None:
    assert transfer.function is not None
    calls: list[tuple[Any, ...]] = []

    class Connection:
        def execute(self, *statement: Any) -> list[tuple[int]]:
            calls.append(statement)
            return [(5,)]

    assert transfer(Connection(), "ada", "bob", 1) == 5  # type: ignore[arg-type, call-arg]
    assert len(calls) == 3


# --- what a lent connection may not do --------------------------------------------------------------------------------

FORBIDDEN = [
    "UPDATE stepwell_runs SET status = 'completed'",
    "SELECT * FROM stepwell_runs",
    "DROP TABLE stepwell_journal",
    "COMMIT",
    "ROLLBACK",
    "BEGIN",
    "SAVEPOINT mine",
    "PRAGMA synchronous = OFF",
    "ATTACH ':memory:' AS other",
    "VACUUM",
]


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_inside_a_step_the_engines_tables_and_the_transaction_itself_are_out_of_reach(
    engine: TestEngine, sql: str
) -> None:
    @transaction
    def reach(tx: Any) -> None:
        tx.execute("UPDATE account SET balance = 7")
        tx.execute(sql)

    @workflow
    async def tries() -> None:
        reach()

    with pytest.raises((TransactionError, apsw.SQLError) if sql == "VACUUM" else TransactionError):
        engine.start(tries).result(60)
    assert balances(engine) == {"ada": 100, "bob": 0}


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_outside_of_workflows_they_are_out_of_reach_as_well(engine: TestEngine, sql: str) -> None:
    expected = (TransactionError, apsw.SQLError) if sql == "VACUUM" else TransactionError
    with pytest.raises(expected), engine.transaction() as tx:  # noqa: PT012 - the whole block is one transaction
        tx.execute("UPDATE account SET balance = 7")
        tx.execute(sql)
    assert balances(engine) == {"ada": 100, "bob": 0}


def test_a_connection_does_not_outlive_its_call(engine: TestEngine) -> None:
    kept: list[Any] = []

    @transaction
    def keep(tx: Any) -> None:
        kept.append(tx)

    @workflow
    async def keeps() -> None:
        keep()

    engine.start(keeps).result(60)
    with engine.transaction() as tx:
        kept.append(tx)
    for connection in kept:
        with pytest.raises(TransactionError, match="over"):
            connection.execute("UPDATE account SET balance = 7")
    assert balances(engine) == {"ada": 100, "bob": 0}


def test_a_connection_belongs_to_the_thread_that_it_was_lent_to(engine: TestEngine) -> None:
    with engine.transaction() as tx, ThreadPoolExecutor(1) as pool, pytest.raises(TransactionError, match="thread"):
        pool.submit(tx.execute, "UPDATE account SET balance = 7").result(60)


# --- the outbox -------------------------------------------------------------------------------------------------------


def test_what_a_transaction_starts_and_sends_exists_once_it_has_committed(engine: TestEngine) -> None:
    waiting = engine.start(collect, 2, id="waiting")
    engine.idle()
    with engine.transaction() as tx:
        tx.execute("UPDATE account SET balance = 1 WHERE name = 'ada'")
        run = tx.start(collect, 1, id="order-1", messages=[("word", "with the start")])
        tx.send("waiting", "word", 1)
        tx.send("waiting", "word", 2, key="once")
        tx.send("waiting", "word", 3, key="once")
        with pytest.raises(TransactionError):
            engine.send("waiting", "word", "too early")
    assert run.result(60) == ["with the start"]
    assert waiting.result(60) == [1, 2]
    assert balances(engine)["ada"] == 1


def test_what_a_transaction_starts_and_sends_never_was_if_it_raises(engine: TestEngine) -> None:
    waiting = engine.start(collect, 1, id="waiting")
    with pytest.raises(ZeroDivisionError), engine.transaction() as tx:  # noqa: PT012 - the whole block is one transaction
        tx.execute("UPDATE account SET balance = 1 WHERE name = 'ada'")
        tx.start(nothing, id="order-1")
        tx.send("waiting", "word", "never sent")
        raise ZeroDivisionError
    with pytest.raises(RunNotFound):
        engine.get("order-1")
    assert balances(engine)["ada"] == 100
    engine.send("waiting", "word", "sent")
    assert waiting.result(60) == ["sent"]


def test_a_run_that_a_transaction_started_survives_a_crash_right_after_it(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        run = tx.start(pay, 10, id="order-1")
    engine.crash()
    engine.reopen()
    assert run.result(60) == 10
    assert balances(engine) == {"ada": 90, "bob": 10}


def test_a_conflict_inside_a_transaction_leaves_it_usable(engine: TestEngine) -> None:
    engine.start(pay, 1, id="taken").result(60)
    engine.start(nothing, id="done").result(60)
    with engine.transaction() as tx:
        tx.execute("UPDATE account SET balance = 50 WHERE name = 'ada'")
        with pytest.raises(RunConflict, match="taken"):
            tx.start(pay, 2, id="taken")
        with pytest.raises(RunNotFound, match="ghost"):
            tx.send("ghost", "word", 1)
        with pytest.raises(RunEnded, match="done"):
            tx.send("done", "word", 1)
        with pytest.raises(SerializationError):
            tx.send("ghost", "word", object())
        same = tx.start(pay, 1, id="taken")
    assert same.result(60) == 1
    assert balances(engine)["ada"] == 50


@pytest.mark.parametrize("queue", [None, line])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_start_that_ctrl_c_interrupts_never_was_and_the_transaction_goes_on(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch, when: str, queue: Queue | None
) -> None:
    create = Creation.create

    def creates(creation: Creation, change: Any) -> Any:
        if change.id == "interrupted" and when == "before":
            raise KeyboardInterrupt
        found = create(creation, change)
        if change.id == "interrupted":
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Creation, "create", creates)
    with engine.transaction() as tx:
        tx.start(nothing, id="first", queue=queue)
        with pytest.raises(KeyboardInterrupt):
            tx.start(nothing, id="interrupted", queue=queue)
        tx.start(nothing, id="second", queue=queue)
    assert [run.id for run in engine.list()] == ["second", "first"]
    for run_id in ("first", "second"):
        engine.get(run_id).result(timeout=10)


def interrupted(_entries: Entries) -> None:
    raise KeyboardInterrupt


def test_a_transaction_whose_gathered_starts_ctrl_c_interrupts_cannot_be_committed(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def goes_on() -> None:
        with engine.transaction() as tx:
            tx.start(nothing, id="first", queue=line)
            with monkeypatch.context() as patched:
                patched.setattr(Entries, "_insert", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    tx.send("first", "word")

    with pytest.raises(StoreError, match="KeyboardInterrupt"):
        goes_on()
    assert engine.list() == []
    engine.start(nothing, queue=line).result(timeout=10)


def test_a_commit_whose_gathered_starts_ctrl_c_interrupts_leaves_nothing(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commits() -> None:
        with engine.transaction() as tx:
            tx.start(nothing, queue=line)
            patched.setattr(Entries, "_insert", interrupted)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        commits()
    assert engine.list() == []
    engine.start(nothing, queue=line).result(timeout=10)


def test_the_same_transaction_may_start_a_run_twice(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        first = tx.start(pay, 5, id="order-1")
        second = tx.start(pay, 5, id="order-1")
    assert first.result(60) == second.result(60) == 5
    assert balances(engine)["bob"] == 5


def test_a_transaction_that_is_read_after_it_wrote_sees_its_own_writes(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        tx.execute("UPDATE account SET balance = 1 WHERE name = 'ada'")
        assert tx.execute("SELECT balance FROM account WHERE name = ?", ("ada",)) == [(1,)]


def test_the_engine_itself_is_refused_inside_a_transaction_with_advice(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        for ask in (
            lambda: engine.start(nothing),
            lambda: engine.send("x", "y"),
            lambda: engine.transaction().__enter__(),
        ):
            with pytest.raises(TransactionError, match=r"tx\.start"):
                ask()
        run = tx.start(nothing)
    run.result(60)


def test_a_step_that_uses_the_engine_meanwhile_is_not_mistaken_for_the_transaction(engine: TestEngine) -> None:
    began, inside, sent = threading.Event(), threading.Event(), threading.Event()

    @step
    def tell() -> None:
        began.set()
        inside.wait(60)
        sent.set()
        engine.send("hears", "word", "from a step")

    @workflow
    async def tells() -> None:
        tell()

    hears = engine.start(collect, 1, id="hears")
    teller = engine.start(tells)
    assert began.wait(60)
    with engine.transaction() as tx:
        inside.set()
        assert sent.wait(60)
        tx.execute("UPDATE account SET balance = 1 WHERE name = 'ada'")
    teller.result(60)
    assert hears.result(60) == ["from a step"]


def test_transactions_of_many_threads_take_turns(engine: TestEngine) -> None:
    def work(thread: int) -> None:
        for number in range(10):
            with engine.transaction() as tx:
                [(balance,)] = tx.execute("SELECT balance FROM account WHERE name = 'bob'")
                tx.execute("UPDATE account SET balance = ? WHERE name = 'bob'", (balance + 1,))
                tx.start(nothing, id=f"{thread}-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert balances(engine)["bob"] == 80
    for thread in range(8):
        for number in range(10):
            engine.get(f"{thread}-{number}").result(60)


def test_runs_go_on_beside_transactions_of_many_threads(engine: TestEngine) -> None:
    def work(thread: int) -> None:
        for number in range(5):
            with engine.transaction() as tx:
                tx.execute("UPDATE account SET balance = balance + 1 WHERE name = 'bob'")
            engine.start(pay, 1, id=f"{thread}-{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    for run in engine.list(id_prefix=""):
        run.result(60)
    assert balances(engine) == {"ada": 80, "bob": 40}


# --- from asyncio -----------------------------------------------------------------------------------------------------


def test_transactions_of_many_tasks_take_turns_and_do_not_block_the_loop(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "async.db") as engine:
            async with engine.transaction() as tx:
                await tx.execute("CREATE TABLE counter(value INT)")
                await tx.execute("INSERT INTO counter VALUES (0)")

            async def work(task: int) -> None:
                for number in range(5):
                    async with engine.transaction() as tx:
                        [(value,)] = await tx.execute("SELECT value FROM counter")
                        await asyncio.sleep(0)
                        await tx.execute("UPDATE counter SET value = ?", (value + 1,))
                        await tx.start(nothing, id=f"{task}-{number}")

            async with asyncio.TaskGroup() as group:
                for task in range(10):
                    group.create_task(work(task))
            async with engine.transaction() as tx:
                assert await tx.execute("SELECT value FROM counter") == [(50,)]
            for task in range(10):
                for number in range(5):
                    run = await engine.get(f"{task}-{number}")
                    await run.result(60)

    asyncio.run(main())


def test_an_async_transaction_that_raises_or_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "async.db") as engine:
            waiting = await engine.start(collect, 1, id="waiting")

            async def hold(entered: asyncio.Event) -> None:
                async with engine.transaction() as tx:
                    await tx.start(nothing, id="never")
                    await tx.send("waiting", "word", "never")
                    entered.set()
                    await asyncio.Event().wait()

            entered = asyncio.Event()
            task = asyncio.create_task(hold(entered))
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the whole block is one transaction
                async with engine.transaction() as tx:
                    await tx.start(nothing, id="never")
                    raise ZeroDivisionError
            with pytest.raises(RunNotFound):
                await engine.get("never")
            async with engine.transaction() as tx:
                await tx.send("waiting", "word", "sent")
            assert await waiting.result(60) == ["sent"]

    asyncio.run(main())


def test_a_task_that_waits_for_its_turn_can_be_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "async.db") as engine:

            async def take() -> None:
                async with engine.transaction() as tx:
                    await tx.start(nothing, id="never")

            async with engine.transaction():
                waiting = asyncio.create_task(take(), context=contextvars.Context())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            run = await engine.start(nothing)
            await run.result(60)

    asyncio.run(main())


def test_the_async_engine_itself_is_refused_inside_its_transaction(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "async.db") as engine:
            async with engine.transaction() as tx:
                with pytest.raises(TransactionError, match=r"tx\.start"):
                    await engine.start(nothing)
                run = await tx.start(nothing)
            await run.result(60)

    asyncio.run(main())


def test_a_transaction_called_on_an_instance_says_where_to_declare_it() -> None:
    class Ledger:
        @transaction  # type: ignore[arg-type]  # which is the point
        def book(self, tx: Any) -> None:
            tx.execute("SELECT 1")

    with pytest.raises(DefinitionError, match="Declare it outside of the class"):
        _ = Ledger().book


@workflow
async def takes_two() -> list[int]:
    return [await receive("number", int), await receive("number", int)]


def test_a_start_in_a_transaction_that_finds_its_run_sends_its_messages(engine: TestEngine) -> None:
    run = engine.start(takes_two, id="run", messages=[("number", 1)])
    with engine.transaction() as tx:
        tx.start(takes_two, id="run", messages=[("number", 2)])
    assert run.result(60) == [1, 2]


def test_many_runs_of_one_transaction_begin_with_what_it_sent_them(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        runs = [tx.start(takes_two, messages=[("number", number)]) for number in range(50)]
        for run in runs:
            tx.send(run.id, "number", 100)
    assert [run.result(60) for run in runs] == [[number, 100] for number in range(50)]


@transaction
def names_itself(tx: Any) -> str:
    tx.execute("SELECT 1")
    info = current()
    return info.idempotency_key if isinstance(info, StepInfo) else "no step"


@workflow
async def asks_for_the_name() -> str:
    return names_itself()


@pytest.mark.parametrize("what", ["message", "cancellation"])
def test_what_another_process_wrote_before_a_started_run_began_reaches_it(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    begin = Loader.begin_started

    def late(loader: Loader, started: Any) -> None:
        key = started[0][1]
        with apsw.Connection(engine._session.store.location) as other:  # and its letter is lost
            if what == "message":
                other.execute(
                    "INSERT INTO stepwell_messages (run, name, value, sent_at) VALUES (?, 'word', '1', 1)", (key,)
                )
            else:
                other.execute("UPDATE stepwell_runs SET cancel_requested_at = 1 WHERE key = ?", (key,))
        begin(loader, started)

    monkeypatch.setattr(Loader, "begin_started", late)
    with engine.transaction() as tx:
        run = tx.start(collect, 1)
        others = [tx.start(nothing) for _ in range(3)]
    if what == "message":
        assert run.result(timeout=10) == [1]
    else:
        with pytest.raises(RunCancelled):
            run.result(timeout=10)
    assert [other.result(timeout=10) for other in others] == [None] * 3


def test_a_transactional_step_knows_what_it_is(engine: TestEngine) -> None:
    assert engine.start(asks_for_the_name, id="run").result(60) == "run:1"
