"""A small shop as the workload of the harnesses: what its runs do, and what they tell a witness.

Its runs use all that the engine offers: steps of every kind, retries, timers, messages both ways, children, published
values, transactional steps on tables of the user's, starting from a transaction (an outbox), queues and limits,
cancellation, failure, purging. Whatever happens on the way, the end is the same to the last row, because all that
varies is how often a step is tried; so `proof.finishing` can take any file that a crash left, carry it to the end, and
compare. What the client does, and how each run must end, is in `proof.client`.

While it runs, the shop tells a `Witness` each **fact** that the engine acknowledged, at the moment when it did: a call
that returned, or a step that was handed the result of an earlier one (which had to be durable by then).
`proof.holding` says which facts a file holds. A fact that was witnessed and is not in the file was lost.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from stepwell import (
    Limit,
    Queue,
    Rate,
    Retry,
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

#: Something that the engine acknowledged: a kind, and what it is about. See `proof.holding`.
Fact = tuple[str | int, ...]
Witness = Callable[[Fact], None]

#: All the money of the shop and its customers; it only ever moves.
MONEY: Final = 100_000
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
