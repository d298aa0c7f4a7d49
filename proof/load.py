"""A client that keeps workers busy: it starts runs all the time, sends what they wait for, and checks how they end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from random import Random
from typing import Any, Final

from proof import orders
from proof.patience import Hangs, within
from proof.verdict import shown
from stepwell import AsyncEngine, RunEnded, StepwellError

#: How long a run may take to end, in seconds, before it counts as one that hangs.
HANG_SECONDS: Final = 60.0
#: How many runs are under way at once, where nothing else is said.
CUSTOMERS: Final = 24


class Load:
    """`customers` tasks of one client, each with one run at a time, until `over` says that it is enough.

    `failures` are the promises that were broken, in words; a run that does not end within `hang_seconds` is one. A call
    that raises what the client `tolerates` is made again; `refused` counts those.
    """

    def __init__(
        self,
        database: str,
        seed: int,
        *,
        customers: int = CUSTOMERS,
        hang_seconds: float = HANG_SECONDS,
        tolerates: type[StepwellError] | None = None,
    ) -> None:
        # The client hears of the deaths that the harness causes.
        logging.getLogger("stepwell").setLevel(logging.CRITICAL)
        self.engine = AsyncEngine(database, workflows=[])
        self.failures: list[str] = []
        self.finished = 0
        self.over = False
        #: All workers are busy, or something failed.
        self.has_begun = asyncio.Event()
        self._progress = asyncio.Event()
        self.messages = 0
        self.slowest_seconds = 0.0
        #: Called when the first run hangs.
        self.on_hang: Callable[[], None] = lambda: None
        #: The engine's time less the steady clock's, in microseconds.
        self.offset = 0
        #: The actions of each run, by its id.
        self.ordered: dict[str, list[str]] = {}
        self.refused = 0
        self._tolerates = tolerates
        self._numbers = itertools.count(1)
        self._customers = customers
        self._hang_seconds = hang_seconds
        self._seed = seed

    async def open(self) -> None:
        """Open the file, and make the tables of the user's."""
        async with self.engine.transaction() as tx:
            for table in orders.TABLES:
                await tx.execute(table)
        self.offset = self.engine._opened().clock.now() - orders.steady()

    async def run(self) -> None:
        """Serve all customers until it is over, and their last runs have ended."""
        await asyncio.gather(*(self._serve(Random(f"{self._seed} {number}")) for number in range(self._customers)))

    async def until(self, finished: int) -> None:
        """Return when so many runs have ended, or something failed."""
        while self.finished < finished and not self.failures:
            self._progress.clear()
            await self._progress.wait()

    async def _serve(self, chance: Random) -> None:
        while not self.over and not self.failures:
            number = next(self._numbers)
            began = time.monotonic()
            try:
                await within(self._hang_seconds, self._order(number, chance))
            except Hangs:
                if not self.failures:
                    self.on_hang()
                self.failures.append(f"run order-{number} has not ended: {self._describe(f'order-{number}')}")
            except Exception as error:
                self.failures.append(f"run order-{number}: {type(error).__name__}: {error}")
            else:
                self.finished += 1
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            self._progress.set()
            if self.finished >= self._customers or self.failures:
                self.has_begun.set()

    async def _order(self, number: int, chance: Random) -> None:
        run_id = f"order-{number}"
        actions = orders.actions_of(chance.getrandbits(32))
        workflow: Any = orders.order
        if chance.random() < 0.2:
            workflow = orders.order_in_sync
            actions = [action for action in actions if action in orders.SYNC_ACTIONS]
        if chance.random() < 0.1 and self._tolerates is None:
            async with self.engine.transaction() as tx:
                await tx.execute("INSERT INTO placed VALUES (?)", (run_id,))
                run = await tx.start(workflow, number, actions, id=run_id)
        else:
            run = await self._insist(lambda: self.engine.start(workflow, number, actions, id=run_id))
        self.ordered[run_id] = actions
        for letter in range(orders.letters_in(actions)):
            await asyncio.sleep(chance.choice((0, 0, 0.01, 0.05)))
            for _ in range(chance.choice((1, 1, 2))):  # a second one with the same key is not heard
                await self._insist(lambda letter=letter: run.send("letter", letter, key=str(letter)))  # type: ignore[misc]
            self.messages += 1
        if "publish" in actions and chance.random() < 0.5:
            await run.value("progress")
        found = await run.result()
        wanted = orders.expected(number, actions)
        if found != wanted:
            self.failures.append(f"run {run_id}: the result is {shown(found)}, not {shown(wanted)}")

    async def _insist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await call()
            except StepwellError as error:
                if self._tolerates is None or not isinstance(error, self._tolerates):
                    raise
                self.refused += 1
                await asyncio.sleep(0.02)

    def _describe(self, run_id: str) -> str:
        # Only what is read without the engine's thread, which may be what hangs.
        session = self.engine._opened()
        try:
            record = session.reads.record(run_id)
            entries = [(entry.operation, entry.kind, entry.name) for entry in session.reads.journal(run_id)]
        except Exception as error:
            return repr(error)
        facts = f"{record.status}, owner {record.owner}, wake_at {record.wake_at}, now {session.clock.now()}"
        return f"{facts}, actions {self.ordered.get(run_id)}, journal {entries}"

    async def carry_to_the_end(self) -> None:
        """See all runs that were acknowledged to their right end, with a new engine; earlier failures are forgotten."""
        self.failures.clear()
        async with AsyncEngine(self.engine._path, workflows=[]) as engine:
            await asyncio.gather(*(self._see_off(engine, run_id) for run_id in self.ordered))

    async def _see_off(self, engine: AsyncEngine, run_id: str) -> None:
        actions = self.ordered[run_id]
        try:
            await within(self._hang_seconds, self._end(engine, run_id, actions))
        except Exception as error:
            self.failures.append(f"run {run_id}: {type(error).__name__}: {error}")

    async def _end(self, engine: AsyncEngine, run_id: str, actions: list[str]) -> None:
        run = await engine.get(run_id)
        for letter in range(orders.letters_in(actions)):
            with suppress(RunEnded):
                await run.send("letter", letter, key=str(letter))
        found = await run.result()
        wanted = orders.expected(int(run_id.rpartition("-")[2]), actions)
        if found != wanted:
            self.failures.append(f"run {run_id}: the result is {shown(found)}, not {shown(wanted)}")

    def missing(self, ledger: Container[tuple[str, int]]) -> list[str]:
        """Return the rows of the user's table that a run should have written and that are not there, in words."""
        return [
            f"run {run_id!r}: row {label} is missing"
            for run_id, actions in self.ordered.items()
            for label, action in enumerate(actions)
            if action == "book" and (run_id, label) not in ledger
        ]
