"""What suspended code awaits can be asked of code that executes too: it is told nothing, and no process dies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

from stepwell.replay.awaiting import awaited_by

#: Each run has two tasks that are blocked in the call of a `def` step. Python counts such calls, and now and then the
#: counter has the number of an instruction.
CHECKS_BLOCKED_RUNS = """
import asyncio, sys
from stepwell import Engine, check, step, workflow

@step
def weigh(n: int) -> int:
    return n

async def one(n: int) -> int:
    return weigh(n)

@workflow
async def parcel(n: int) -> int:
    return sum(await asyncio.gather(one(n), one(n)))

with Engine(sys.argv[1], workflows=[]) as engine:
    engine.start_many(parcel, [(n,) for n in range(1_000)])
print(check(sys.argv[1], workflows=[parcel]).goes_on)
"""


def test_a_check_of_many_runs_that_are_blocked_in_plain_steps_comes_to_its_end(tmp_path: Path) -> None:
    line = [sys.executable, "-c", CHECKS_BLOCKED_RUNS, str(tmp_path / "blocked.db")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1000\n", "")


def test_code_that_executes_awaits_nothing_and_once_it_is_suspended_what_it_awaits() -> None:
    told: list[Any] = []

    def plain() -> Generator[int]:
        told.append(awaited_by(delegating))
        yield 1

    def delegate() -> Generator[int]:
        yield from inner

    async def items() -> AsyncGenerator[int]:
        told.append(awaited_by(generator))
        await asyncio.sleep(0)
        yield 1

    async def work() -> None:
        told.append(awaited_by(coroutine))
        async for _ in generator:
            pass

    inner = plain()
    delegating = delegate()
    next(delegating)
    generator = items()
    coroutine = work()
    coroutine.send(None)
    assert told == [None, None, None]
    assert awaited_by(delegating) is inner
    assert awaited_by(awaited_by(coroutine)) is generator
    assert awaited_by(generator).__qualname__ == "sleep"
    coroutine.close()
