"""A small shop as the workload of the harnesses: what runs, what its client does, and how everything must end.

Its runs use all that the engine offers: steps of every kind, retries, timers, messages both ways, children, published
values, transactional steps on tables of the user's, starting from a transaction (an outbox), queues and limits,
cancellation, failure, purging. Whatever happens on the way, the end is the same to the last row, because all that
varies is how often a step is tried; so `finish` can take any file that a crash left, carry it to the end, and compare.

While it runs, the shop tells a `Witness` each **fact** that the engine acknowledged, at the moment when it did: a call
that returned, or a step that was handed the result of an earlier one (which had to be durable by then). `holding` says
which facts a file holds. A fact that was witnessed and is not in the file was lost.
"""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, cast

import apsw

from stepwell import (
    Limit,
    Queue,
    Rate,
    Retry,
    RunCancelled,
    RunEnded,
    current,
    publish,
    receive,
    send,
    start,
    step,
    sync,
    transaction,
    workflow,
)
from stepwell.testing import TestEngine

#: Something that the engine acknowledged: a kind, and what it is about. See `holding`.
Fact = tuple[str | int, ...]
Witness = Callable[[Fact], None]

#: All the money of the shop and its customers; it only ever moves.
MONEY: Final = 100_000
#: How long the client waits for anything, in real seconds: only an engine that hangs takes so long.
PATIENCE_SECONDS: Final = 20.0
TILL: Final = "till"
#: Two jobs at once, one of each partition; and one in all has the use of the machine that `pressed` needs.
JOBS: Final = Queue("proof.jobs", concurrency=2, partition_concurrency=1, rate=Rate(100, per=60))
PRESS: Final = Limit("proof.press", concurrency=1)
#: Runs whose ids begin so are purged at some time.
PASSING: Final = "passing-"
#: Makes the tables of the user's.
TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, amount INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS ledger (run TEXT, label TEXT, amount INTEGER, PRIMARY KEY (run, label)) STRICT",
    "CREATE TABLE IF NOT EXISTS placed (id TEXT PRIMARY KEY) STRICT",
    f"INSERT OR IGNORE INTO account VALUES ('customers', {MONEY}), ('shop', 0)",
)


class Observer:
    """Notes what steps do in this process, for whoever looks: one harness at a time."""

    def __init__(self) -> None:
        self.witness: Witness | None = None
        #: (run, label, attempt) of every execution of a step.
        self.executed: list[tuple[str, str, int]] = []
        self._lock = threading.Lock()

    def reset(self, witness: Witness | None) -> None:
        """Forget what was executed, and tell `witness` from now on."""
        with self._lock:
            self.witness = witness
            self.executed = []

    def tell(self, *fact: str | int) -> None:
        """Tell the witness that the engine acknowledged something."""
        if self.witness is not None:
            self.witness(fact)

    def executes(self, label: str, after: Iterable[str], timers: int = 0) -> None:
        """Note that a step executes, which is proof of what its run was told before."""
        info = current()
        run_id = info.run_id
        with self._lock:
            self.executed.append((run_id, label, cast("Any", info).attempt))
        self.tell("run", run_id)
        for earlier in after:
            self.tell("label", run_id, earlier)
        if timers:
            self.tell("timers", run_id, timers)


OBSERVER: Final = Observer()


@dataclass
class Done:
    """What a step returns and a message holds: `label` is unique in its run, so that the journal can be searched."""

    label: str
    amount: int = 0
    filler: str = ""


# --- steps and workflows ----------------------------------------------------------------------------------------------


@step(name="proof.work")
async def work(label: str, amount: int, after: list[str], timers: int = 0, filler: int = 0) -> Done:
    """Do some work on the engine's loop."""
    OBSERVER.executes(label, after, timers)
    return Done(label, amount, _filler(label, filler))


@step(name="proof.threaded")
def threaded(label: str, amount: int, after: list[str], timers: int = 0) -> Done:
    """Do some work in a thread."""
    OBSERVER.executes(label, after, timers)
    return Done(label, amount)


@step(name="proof.flaky", retry=Retry(attempts=3, delay=30.0, jitter=0.0))
async def flaky(label: str, amount: int, after: list[str]) -> Done:
    """Fail at the first try."""
    OBSERVER.executes(label, after)
    if cast("Any", current()).attempt == 1:
        raise ConnectionError("the first try fails")
    return Done(label, amount)


@step(name="proof.pressed", limit=PRESS)
async def pressed(label: str, amount: int, after: list[str]) -> Done:
    """Do some work of which one is done at a time."""
    OBSERVER.executes(label, after)
    return Done(label, amount)


@transaction(name="proof.pay")
def pay(connection: Any, label: str, amount: int, after: list[str]) -> Done:
    """Move money, once."""
    OBSERVER.executes(label, after)
    run_id = current().run_id
    connection.execute("UPDATE account SET amount = amount - ? WHERE name = 'customers'", (amount,))
    connection.execute("UPDATE account SET amount = amount + ? WHERE name = 'shop'", (amount,))
    connection.execute("INSERT INTO ledger VALUES (?, ?, ?)", (run_id, label, amount))
    return Done(label, amount)


def _filler(label: str, size: int) -> str:
    """Return text that does not compress, `size` characters: large values take other ways through file and codec."""
    pieces: list[str] = []
    checksum = zlib.crc32(label.encode())
    while len(pieces) * 8 < size:
        checksum = zlib.crc32(checksum.to_bytes(4, "little"))
        pieces.append(f"{checksum:08x}")
    return "".join(pieces)


@workflow(name="proof.order")
async def order(number: int, wide: int, filler: int) -> int:
    """Serve a customer; return all amounts added up."""
    first = await work("first", number, [], 0, filler)
    side = asyncio.to_thread(threaded, "side", 1, ["first"])
    parts = await asyncio.gather(side, *(work(f"part-{i}", i, ["first"]) for i in range(wide)))
    labels = ["first", *(part.label for part in parts)]
    paid = pay("pay", number, labels)
    await asyncio.sleep(600)
    await publish("stage", 1)
    go = await receive("go", Done)
    flaked = await flaky("flaky", 1, [*labels, paid.label, go.label])
    child = await start(parcel, number, id=f"{current().run_id}-parcel")
    await publish("stage", 2)
    sent = await child.result()
    await send(TILL, "paid", Done(f"paid-{number}", number), key=f"paid-{number}")
    await publish("stage", 3)
    last = await work("last", sent.amount, [flaked.label, "go"], 1)
    return sum(done.amount for done in (first, *parts, paid, flaked, last))


@workflow(name="proof.parcel")
def parcel(number: int) -> Done:
    """Send a parcel; a `def` workflow."""
    packed = threaded("pack", 1, [])
    sync.sleep(45)
    stamped = pay("stamp", 2, [packed.label])
    handed = threaded("hand-over", packed.amount + stamped.amount, [packed.label, stamped.label], 1)
    return Done("parcel", handed.amount + number)


@workflow(name="proof.till")
async def till(expected: int) -> list[int]:
    """Hear of all orders; return their numbers."""
    amounts: list[int] = []
    labels: list[str] = []
    while len(amounts) < expected:
        got = await receive("paid", Done)
        amounts.append(got.amount)
        labels.append(got.label)
        await work(f"count-{len(amounts)}", got.amount, labels)
    return sorted(amounts)


@workflow(name="proof.doomed")
async def doomed() -> None:
    """Wait until cancelled, then tidy up."""
    await work("begin", 1, [])
    try:
        await asyncio.sleep(10_000_000)
    finally:
        await work("tidy-up", 1, ["begin"])


@workflow(name="proof.failing")
async def failing() -> None:
    """Fail."""
    await work("begin", 1, [])
    raise ValueError("no stock")


@workflow(name="proof.passing")
async def passing(number: int) -> int:
    """Leave nothing but a run that can be purged."""
    return (await work("only", number, [])).amount


@workflow(name="proof.job")
async def job(number: int) -> int:
    """Be a job in a queue."""
    first, second = await asyncio.gather(pressed("press", number, []), pressed("press-again", 1, []))
    await asyncio.sleep(5)
    return (await work("pack", first.amount + second.amount, ["press", "press-again"], 1)).amount


# --- the client ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a client of the shop wants done. Everything in it has an id or a key, so it may be asked for twice."""

    #: The numbers of the orders: those that `start` starts, and those that a transaction starts.
    orders: tuple[int, ...] = (1, 2)
    placed: tuple[int, ...] = (11,)
    passing: int = 2
    wide: int = 2
    filler: int = 0
    jobs: int = 2
    with_ends: bool = True

    @property
    def all_orders(self) -> tuple[int, ...]:
        """The numbers of all orders."""
        return (*self.orders, *self.placed)

    def expected(self) -> dict[str, object]:
        """Return how each run must end: its result, or the class of what `result` raises."""
        ends: dict[str, object] = {TILL: sorted(self.all_orders)}
        for number in self.all_orders:
            parts = sum(range(self.wide)) + 1
            ends[f"order-{number}"] = number + parts + number + 1 + (3 + number)
            ends[f"order-{number}-parcel"] = Done("parcel", 3 + number)
        if self.with_ends:
            ends |= {"doomed": RunCancelled, "failing": ValueError}
        for number in range(self.passing):
            ends[f"{PASSING}{number}"] = number
        for number in range(self.jobs):
            ends[f"job-{number}"] = number + 1
        return ends

    @classmethod
    def of(cls, random: Random) -> Plan:
        """Return a plan of random size."""
        return cls(
            orders=tuple(range(1, 1 + random.randint(1, 3))),
            placed=tuple(range(11, 11 + random.randint(1, 2))),
            passing=random.randint(1, 3),
            wide=random.randint(1, 4),
            filler=random.choice([0, 0, 3_000, 20_000]),
            jobs=random.choice([0, 2, 5]),
        )


class WrongEnd(Exception):
    """A run ended otherwise than the plan says."""


class Client:
    """Does what a plan says on an engine; every method may be repeated, and tells the observer what it heard."""

    def __init__(self, engine: TestEngine, plan: Plan, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.engine = engine
        self.plan = plan
        self.patience_seconds = patience_seconds

    def make_tables(self) -> None:
        """Make the user's tables."""
        with self.engine.transaction() as tx:
            for statement in TABLES:
                tx.execute(statement)
        OBSERVER.tell("tables")

    def start_till(self) -> None:
        """Start the run that all orders report to."""
        self.engine.start(till, len(self.plan.all_orders), id=TILL)
        OBSERVER.tell("run", TILL)

    def start_order(self, number: int) -> None:
        """Start an order."""
        self.engine.start(order, number, self.plan.wide, self.plan.filler, id=f"order-{number}")
        OBSERVER.tell("run", f"order-{number}")

    def place_order(self, number: int) -> None:
        """Start an order together with a row of the user's, and send it its message, all or nothing."""
        run_id = f"order-{number}"
        with self.engine.transaction() as tx:
            if tx.execute("SELECT 1 FROM placed WHERE id = ?", (run_id,)):
                return
            tx.execute("INSERT INTO placed VALUES (?)", (run_id,))
            tx.start(order, number, self.plan.wide, self.plan.filler, id=run_id)
            tx.send(run_id, "go", Done("go"), key="go")
        OBSERVER.tell("placed", run_id)
        OBSERVER.tell("key", run_id, "go")

    def send_go(self, number: int) -> None:
        """Send an order the message that it waits for."""
        with suppress(RunEnded):
            self.engine.send(f"order-{number}", "go", Done("go"), key="go")
        OBSERVER.tell("key", f"order-{number}", "go")

    def start_passing(self, number: int) -> None:
        """Start a run that will be purged."""
        self.engine.start(passing, number, id=f"{PASSING}{number}")
        OBSERVER.tell("run", f"{PASSING}{number}")

    def start_job(self, number: int) -> None:
        """Put a job into the queue, some at once, some for later."""
        self.engine.start(
            job,
            number,
            id=f"job-{number}",
            queue=JOBS,
            priority=number % 2,
            delay=number % 3 * 10 or None,
            dedup=f"job-{number}",
            partition=str(number % 2),
        )
        OBSERVER.tell("run", f"job-{number}")

    def start_ends(self) -> None:
        """Start the runs that do not complete."""
        for run_id, code in (("doomed", doomed), ("failing", failing)):
            self.engine.start(code, id=run_id)
            OBSERVER.tell("run", run_id)

    def cancel(self) -> None:
        """Cancel the run that waits for it."""
        self.engine.get("doomed").cancel("enough")
        OBSERVER.tell("cancelled", "doomed")

    def purge(self) -> None:
        """Delete the runs that ended half an hour ago; call it while only passing ones have."""
        OBSERVER.tell("purging")
        ended = [run.id for run in self.engine.list(status="completed", id_prefix=PASSING, limit=1_000)]
        if self.engine.purge(1_800) == len(ended):
            for run_id in ended:
                OBSERVER.tell("gone", run_id)

    def look(self, number: int) -> None:
        """Look at what an order has published, where it has."""
        with suppress(TimeoutError, RunEnded):
            stage = self.engine.get(f"order-{number}").value("stage", timeout=0)
            OBSERVER.tell("stage", f"order-{number}", stage)

    def result(self, run_id: str) -> None:
        """Wait for a run's end; raise `WrongEnd` where it is not the expected one."""
        expected = self.plan.expected()[run_id]
        try:
            result: object = self.engine.get(run_id).result(timeout=self.patience_seconds)
        except (RunCancelled, ValueError) as error:
            result = type(error)
        if result != expected:
            raise WrongEnd(f"run {run_id!r} ended with {result!r}, expected {expected!r}")
        OBSERVER.tell("ended", run_id)

    def do_all(self) -> None:
        """Ask for everything that the plan says, whatever was asked for before; passing runs only if they are there."""
        plan = self.plan
        self.make_tables()
        self.start_till()
        for number in plan.orders:
            self.start_order(number)
        for number in plan.placed:
            self.place_order(number)
        if plan.with_ends:
            self.start_ends()
        for number in range(plan.jobs):
            self.start_job(number)
        for number in plan.orders:
            self.send_go(number)
        if plan.with_ends:
            self.engine.idle(self.patience_seconds)
            self.cancel()

    def end_all(self) -> None:
        """Let time pass until all runs are over, and check how they ended."""
        self.engine.advance(10_000, timeout=self.patience_seconds)
        there = {run.id for run in self.engine.list(id_prefix=PASSING, limit=1_000)}
        for run_id in self.plan.expected():
            if not run_id.startswith(PASSING) or run_id in there:
                self.result(run_id)


# --- what a file holds ------------------------------------------------------------------------------------------------


@dataclass
class Held:
    """What a file says: the facts that it holds, and what is wrong with it regardless of any fact."""

    facts: set[Fact] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    #: (run, label) of every recorded step.
    recorded: set[tuple[str, str]] = field(default_factory=set)
    #: The journal, whole rows.
    journal: set[tuple[Any, ...]] = field(default_factory=set)
    stages: dict[str, int] = field(default_factory=dict)
    timers: Counter[str] = field(default_factory=Counter)

    def lacks(self, fact: Fact, *, purging: bool) -> bool:
        """Whether a fact that was acknowledged is missing; `purging`: passing runs may be gone."""
        match fact:
            case ("purging",):
                return False
            case ("stage", str(run_id), int(stage)):
                return self.stages.get(run_id, 0) < stage
            case ("timers", str(run_id), int(count)):
                return self.timers[run_id] < count
            case (_, str(run_id), *_) if purging and run_id.startswith(PASSING) and fact[0] != "gone":
                return False
            case ("gone", str(run_id)):
                return ("run", run_id) in self.facts
            case _:
                return fact not in self.facts


def integrity(connection: apsw.Connection) -> str:
    """Return "ok", or what SQLite's integrity check finds first."""
    rows = _rows(connection, "PRAGMA integrity_check(3)")
    return " / ".join(str(row[0]) for row in rows)


def holding(connection: apsw.Connection, *, damaged: bool = False) -> Held:
    """Return what the file open on `connection` holds, and whether it is consistent in itself.

    A `damaged` file is read as far as it can be read.
    """
    held = Held()
    if not damaged and (verdict := integrity(connection)) != "ok":
        held.wrong.append(f"integrity_check: {verdict}")
        return held
    held.wrong += [f"foreign_key_check: {row}" for row in _rows(connection, "PRAGMA foreign_key_check")[:3]]
    tables = {name for (name,) in _rows(connection, "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "stepwell_runs" not in tables:
        return held
    ids = dict(cast("list[tuple[int, str]]", _rows(connection, "SELECT key, id FROM stepwell_runs")))
    _hold_runs(connection, held)
    _hold_journal(connection, held, ids)
    for run, key in _rows(connection, "SELECT run, key FROM stepwell_messages WHERE key IS NOT NULL"):
        held.facts.add(("key", ids[run], key))
    for run, value in _rows(connection, "SELECT run, value FROM stepwell_values WHERE key = 'stage'"):
        held.stages[ids[run]] = int(value)
    if "placed" in tables:
        _hold_tables(connection, held)
    if "stepwell_entries" in tables:
        _hold_queues(connection, held)
    return held


def _hold_runs(connection: apsw.Connection, held: Held) -> None:
    columns = "run.id, run.status, run.cancel_requested_at, run.parent, parent.id"
    source = "stepwell_runs AS run LEFT JOIN stepwell_runs AS parent ON parent.key = run.parent"
    for run_id, status, cancel_at, parent, parent_id in _rows(connection, f"SELECT {columns} FROM {source}"):
        held.facts.add(("run", run_id))
        if status in {"completed", "failed", "cancelled"}:
            held.facts.add(("ended", run_id))
        if cancel_at is not None or status == "cancelled":
            held.facts.add(("cancelled", run_id))
        if status == "halted":
            held.wrong.append(f"run {run_id!r} is halted")
        if parent is not None and parent_id is None:
            held.wrong.append(f"child {run_id!r} has no parent")


def _hold_journal(connection: apsw.Connection, held: Held, ids: dict[int, str]) -> None:
    for row in _rows(connection, "SELECT * FROM stepwell_journal"):
        held.journal.add(row)
    query = "SELECT run, kind, value FROM stepwell_journal ORDER BY position"
    for run, kind, value in _rows(connection, query):
        run_id = ids[run]
        if kind == "timer":
            held.timers[run_id] += 1
        elif kind in {"step", "message"}:
            label = _label(value)
            if (run_id, label) in held.recorded:
                held.wrong.append(f"run {run_id!r} recorded {label!r} twice")
            held.facts.add(("label", run_id, label))
            if kind == "step":
                held.recorded.add((run_id, label))


def _hold_tables(connection: apsw.Connection, held: Held) -> None:
    """Compare the user's tables with the journal: both were written by the same transactions."""
    held.facts.add(("tables",))
    amounts = dict(cast("list[tuple[str, int]]", _rows(connection, "SELECT name, amount FROM account")))
    ledger = _rows(connection, "SELECT run, label, amount FROM ledger")
    if amounts.get("shop") != sum(amount for *_, amount in ledger) or sum(amounts.values()) != MONEY:
        held.wrong.append(f"the accounts say {amounts}, the ledger {ledger}")
    booked = {(run, label) for run, label, _ in ledger}
    recorded = {(run, label) for run, label in held.recorded if label in {"pay", "stamp"}}
    if booked != recorded:
        held.wrong.append(f"booked, but not recorded, or the other way: {sorted(booked ^ recorded, key=repr)}")
    for (run_id,) in _rows(connection, "SELECT id FROM placed"):
        held.facts.add(("placed", run_id))
        if ("run", run_id) not in held.facts:
            held.wrong.append(f"{run_id!r} was placed but not started")
        elif ("key", run_id, "go") not in held.facts:
            held.wrong.append(f"{run_id!r} was placed but not sent its message")


def _hold_queues(connection: apsw.Connection, held: Held) -> None:
    """Compare what the queues say of themselves with what stands in them."""
    said = "SELECT name, delayed, waiting, running, ifnull(concurrency, 1000000) FROM stepwell_queues"
    count = "SELECT count(*) FROM stepwell_entries WHERE queue = ? AND state = ?"
    left = "SELECT count(*) FROM stepwell_left_permits WHERE queue = ?"
    for name, *numbers, concurrency in _rows(connection, said):
        found = [
            int(cast("int", connection.execute(count, (name, state)).fetchall()[0][0]))
            for state in ("delayed", "waiting", "running")
        ]
        found[2] += int(cast("int", connection.execute(left, (name,)).fetchall()[0][0]))
        if numbers != found:
            held.wrong.append(f"queue {name!r} says delayed, waiting, running are {numbers}; they are {found}")
        if found[2] > concurrency:
            held.wrong.append(f"{found[2]} have {name!r} at once, which allows {concurrency}")
    over = (
        "SELECT run.id FROM stepwell_entries JOIN stepwell_runs AS run ON run.key = run WHERE run.ended_at IS NOT NULL"
    )
    held.wrong += [f"run {run_id!r} has ended and stands in a queue" for (run_id,) in _rows(connection, over)]


def _label(value: str | bytes) -> str:
    # Compressed JSON begins with one byte for the version of the format.
    return str(json.loads(value if isinstance(value, str) else zlib.decompress(value[1:]))["label"])


def _rows(connection: apsw.Connection, sql: str) -> list[tuple[Any, ...]]:
    return cast("list[tuple[Any, ...]]", connection.execute(sql).fetchall())


def missing(held: Held, facts: Sequence[Fact]) -> list[Fact]:
    """Return those of the acknowledged `facts` that a file lacks."""
    purging = ("purging",) in facts
    return [fact for fact in facts if held.lacks(fact, purging=purging)]


# --- to the end -------------------------------------------------------------------------------------------------------


def look_into(path: str) -> Held:
    """Return what the file at `path`, which no engine has open, holds."""
    connection = apsw.Connection(path)
    try:
        return holding(connection)
    finally:
        connection.close()


def finish(path: str, plan: Plan, before: Held | None, **options: Any) -> list[str]:
    """Open the file at `path` with an engine, carry everything to its end, and return what is wrong with that.

    `before`: what the file held; no step that it records may be executed again, and its journal must stay.
    """
    OBSERVER.reset(None)
    engine = TestEngine(path, **options)
    wrong: list[str] = []
    try:
        client = Client(engine, plan)
        client.do_all()
        client.end_all()
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
    finally:
        engine.close()
    executed = list(OBSERVER.executed)
    after = look_into(path)
    wrong += after.wrong
    for execution, count in Counter(executed).items():
        if count > 1:
            wrong.append(f"executed {count} times by one engine: {execution}")
    if before is not None:
        again = before.recorded & {(run, label) for run, label, _ in executed}
        wrong += [f"recorded, but executed again: {pair}" for pair in sorted(again)]
        if lost := before.journal - after.journal:
            wrong.append(f"journal entries that vanished: {sorted(lost, key=repr)[:3]}")
    wrong += _compare_ends(after, plan)
    return wrong


def _compare_ends(after: Held, plan: Plan) -> list[str]:
    ended = {str(fact[1]) for fact in after.facts if fact[0] == "ended"}
    wrong = [
        f"run {run_id!r} did not end"
        for run_id in plan.expected()
        if run_id not in ended and not run_id.startswith(PASSING)
    ]
    booked = {pair for pair in after.recorded if pair[1] in {"pay", "stamp"}}
    wanted = {(f"order-{number}", "pay") for number in plan.all_orders}
    wanted |= {(f"order-{number}-parcel", "stamp") for number in plan.all_orders}
    if booked != wanted:
        wrong.append(f"paid too much or too little: {sorted(booked ^ wanted)}")
    return wrong
