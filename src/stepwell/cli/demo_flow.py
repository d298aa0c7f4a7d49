"""What `stepwell demo` runs: a workflow whose steps take a moment, and write down each time that they are executed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from stepwell import Retry, current, publish, step, workflow

#: Where the steps write down that they were executed.
LEDGER = "STEPWELL_DEMO_LEDGER"
STEPS = 8


def _note(line: str) -> None:
    with Path(os.environ[LEDGER]).open("a", encoding="utf-8") as ledger:
        ledger.write(line)


@step(name="demo.work")
async def work(number: int) -> str:
    """Do something that takes a moment."""
    _note(f"{number}\n")
    await asyncio.sleep(0.3)
    return f"part {number} of {STEPS}"


@step(name="demo.flaky", retry=Retry(attempts=3, delay=0.2))
async def flaky() -> str:
    """Fail once, as services do."""
    if current().attempt == 1:
        raise ConnectionError("the other side did not answer")
    return "answered"


@workflow(name="demo")
async def demo() -> int:
    """Call steps one after another."""
    for number in range(1, STEPS + 1):
        await work(number)
        await publish("done", number)
    await flaky()
    return STEPS
