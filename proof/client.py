"""What the client of the shop wants done, and how each run must end."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

from proof.shop import (
    JOBS,
    OBSERVER,
    PASSING,
    TABLES,
    TILL,
    Done,
    doomed,
    failing,
    job,
    order,
    passing,
    till,
)
from stepwell import RunCancelled, RunEnded
from stepwell.testing import TestEngine

#: How long the client waits for anything, in real seconds: only an engine that hangs takes so long.
PATIENCE_SECONDS: Final = 20.0


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
