"""The phases of `bench.inside`, with kairo-sdk. ``python -m bench.peers.kairo_sdk.inside PHASE '{"option": …}'``."""

# mypy: ignore-errors
# kairo-sdk is installed only where it is measured: here it has no types to check.

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

from kairo_sdk import EmbeddedBackend, Kairo, SQLiteStore

from bench import baseline
from bench.measure import Facts, in_async_turns, p50, serve, stay

_began: list[float] = []
_executed: list[int] = []
_is_held = False
_fresh = (f"run-{os.getpid()}-{number}" for number in itertools.count())


@asynccontextmanager
async def opened(directory: str) -> AsyncIterator[Kairo]:
    """Have Kairo run on the file that the phases of one workload share; the name lets it go on after a kill at once."""
    kairo = Kairo(backend=await EmbeddedBackend.open(SQLiteStore(f"{directory}/runs.db"), owner="bench"))

    @kairo.action("tick", effect="unprotected")
    async def tick(number, ctx):
        _began.append(perf_counter())
        return number

    @kairo.action("counted", effect="unprotected")
    async def counted(asked, ctx):
        number, middle = asked
        _executed.append(number)
        if number == middle and _is_held:
            await asyncio.sleep(3600)  # on a loop of a thread, where an event of another one does not work
        return number

    @kairo.workflow("several")
    async def several(ctx, steps):
        for number in range(steps):
            await ctx.call("tick", number)
        return steps

    @kairo.workflow("half_way")
    async def half_way(ctx, steps):
        for number in range(steps):
            await ctx.call("counted", [number, steps // 2])
        return steps

    await kairo.start()
    try:
        yield kairo
    finally:
        await kairo.close()


async def _all_runs(kairo: Kairo, runs: int, steps: int) -> float:
    began = perf_counter()
    await asyncio.gather(*(kairo.run("several", steps, id=next(_fresh)) for _ in range(runs)))
    return runs * steps / (perf_counter() - began)


def sequence(directory: str, steps: int, rounds: int) -> Facts:
    """Measure the seconds from the start of one step to the start of the next, in turns with a raw commit."""
    path = Path(directory) / "raw.db"
    raw = baseline.against(path, lambda connection: baseline.single_commit_p50(connection, steps))

    async def measured() -> dict[str, list[float]]:
        async with opened(directory) as kairo:

            async def one() -> float:
                _began.clear()
                await kairo.run("several", steps, id=next(_fresh))
                return p50([after - before for before, after in itertools.pairwise(_began)])

            return await in_async_turns(rounds, raw=raw, subject=one)

    return {"asyncio": asyncio.run(measured())}


def burst(directory: str, runs: int, steps: int, rounds: int) -> Facts:
    """Measure the steps a second of many runs at once, in turns with the bare prototype."""
    path = Path(directory) / "raw.db"
    raw = baseline.against(path, lambda connection: baseline.prototype(connection, runs, steps))

    async def measured() -> dict[str, list[float]]:
        async with opened(directory) as kairo:
            return await in_async_turns(rounds, raw=raw, subject=lambda: _all_runs(kairo, runs, steps))

    return {"asyncio": asyncio.run(measured())}


def grow(directory: str, runs: int, steps: int) -> Facts:
    """Run runs to their end and close the file."""

    async def grown() -> None:
        async with opened(directory) as kairo:
            await _all_runs(kairo, runs, steps)

    asyncio.run(grown())
    return {}


def midway(directory: str, runs: int, steps: int) -> Facts:
    """Bring runs to their middle and wait to be killed."""

    async def start() -> None:
        global _is_held  # noqa: PLW0603 - what a step of this process finds
        _is_held = True
        async with opened(directory) as kairo:
            under_way = [asyncio.create_task(kairo.run("half_way", steps, id=f"run-{n}")) for n in range(runs)]
            while _executed.count(steps // 2) < runs:
                await asyncio.sleep(0.001)
            stay()
            for task in under_way:
                task.cancel()

    asyncio.run(start())
    return {}


def finish(directory: str, runs: int, steps: int) -> Facts:
    """Open the file after the kill; tell the seconds until all was done, and how many recorded steps were repeated."""
    connection = baseline.connect(Path(directory) / "raw.db")
    rest = steps - steps // 2
    raw = runs * rest / baseline.prototype(connection, runs, rest)

    async def finished() -> tuple[float, float]:
        began = perf_counter()
        async with opened(directory) as kairo:
            opened_after = perf_counter() - began
            results = await asyncio.gather(*(kairo.run("half_way", steps, id=f"run-{n}") for n in range(runs)))
            done = perf_counter() - began
        assert results == [steps] * runs, "a run ended with another result"
        return opened_after, done

    opened_after, done = asyncio.run(finished())
    repeated = sum(number < steps // 2 for number in _executed)
    return {"raw": raw, "opened": opened_after, "done": done, "repeated": repeated, "executed": len(_executed)}


PHASES: dict[str, Callable[..., Facts]] = {phase.__name__: phase for phase in (sequence, burst, grow, midway, finish)}

if __name__ == "__main__":
    serve(PHASES)
