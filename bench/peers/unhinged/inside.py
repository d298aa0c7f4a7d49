"""The phases of `bench.inside`, with unhinged. ``python -m bench.peers.unhinged.inside PHASE '{"option": …}'``."""

# mypy: ignore-errors
# unhinged is installed only where it is measured: here it has no types to check.

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter

from unhinged import AsyncUnhinged, Unhinged

from bench import baseline
from bench.measure import Facts, in_async_turns, in_turns, p50, serve, stay

#: Who takes over after a kill waits for the end of the lease; there is no shorter one.
_LEASE_SECONDS = 1

_began: list[float] = []
_executed: list[int] = []


@contextmanager
def opened(directory: str, kind: type = AsyncUnhinged) -> Iterator[AsyncUnhinged | Unhinged]:
    """Have an app on the file that the phases of one workload share."""
    app = kind(f"{directory}/runs.db", queue_name="bench")
    app.create_queue()
    try:
        yield app
    finally:
        app.close()


def _tick(number: int) -> int:
    _began.append(perf_counter())
    return number


def _p50_between_steps() -> float:
    seconds = [after - before for before, after in pairwise(_began)]
    _began.clear()
    return p50(seconds)


def sequence(directory: str, steps: int, rounds: int) -> Facts:
    """Measure the seconds from the start of one step to the start of the next, in turns with a raw commit."""
    path = Path(directory) / "raw.db"
    raw = baseline.against(path, lambda connection: baseline.single_commit_p50(connection, steps))

    with opened(directory, Unhinged) as app:

        @app.register_task("def")
        def of_def_steps(count, ctx):
            for number in range(count):
                ctx.step("tick", lambda number=number: _tick(number))
            return count

        def one_def() -> float:
            app.spawn("def", steps)
            app.run_until_idle()
            return _p50_between_steps()

        with_def = in_turns(rounds, raw=raw, subject=one_def)

    with opened(directory) as app:

        @app.register_task("async")
        async def of_async_steps(count, ctx):
            async def tick(number: int) -> int:
                return _tick(number)

            for number in range(count):
                await ctx.step("tick", lambda number=number: tick(number))
            return count

        async def one_async() -> float:
            app.spawn("async", steps)
            await app.run_until_idle()
            return _p50_between_steps()

        with_async = asyncio.run(in_async_turns(rounds, raw=raw, subject=one_async))
    return {"asyncio": with_async, "def": with_def}


def _register_several(app: AsyncUnhinged) -> None:
    @app.register_task("several")
    async def several(count, ctx):
        async def noop(number: int) -> int:
            return number

        for number in range(count):
            await ctx.step("noop", lambda number=number: noop(number))
        return count


async def _all_runs(app: AsyncUnhinged, runs: int, steps: int) -> float:
    began = perf_counter()
    started = [app.spawn("several", steps)["task_id"] for _ in range(runs)]
    await app.start_worker(concurrency=runs, stop_when_idle=True)
    seconds = perf_counter() - began
    assert all(app.fetch_task_result(task).result == steps for task in started), "a run ended with another result"
    return runs * steps / seconds


def burst(directory: str, runs: int, steps: int, rounds: int) -> Facts:
    """Measure the steps a second of many runs at once, in turns with the bare prototype."""
    path = Path(directory) / "raw.db"
    raw = baseline.against(path, lambda connection: baseline.prototype(connection, runs, steps))
    with opened(directory) as app:
        _register_several(app)
        turns = in_async_turns(rounds, raw=raw, subject=lambda: _all_runs(app, runs, steps))
        return {"asyncio": asyncio.run(turns)}


def grow(directory: str, runs: int, steps: int) -> Facts:
    """Run runs to their end and close the file."""
    with opened(directory) as app:
        _register_several(app)
        asyncio.run(_all_runs(app, runs, steps))
    return {}


def _register_half_way(app: AsyncUnhinged, hold: asyncio.Event | None) -> None:
    @app.register_task("half_way")
    async def half_way(count, ctx):
        async def counted(number: int) -> int:
            _executed.append(number)
            if hold is not None and number == count // 2:
                await hold.wait()
            return number

        for number in range(count):
            await ctx.step("counted", lambda number=number: counted(number))
        return count


def midway(directory: str, runs: int, steps: int) -> Facts:
    """Bring runs to their middle and wait to be killed."""

    async def start(app: AsyncUnhinged) -> None:
        _register_half_way(app, asyncio.Event())
        for number in range(runs):
            app.spawn("half_way", steps, idempotency_key=f"run-{number}")
        worker = asyncio.create_task(app.start_worker(concurrency=runs, claim_timeout=_LEASE_SECONDS))
        while _executed.count(steps // 2) < runs:
            await asyncio.sleep(0.001)
        stay()
        worker.cancel()

    with opened(directory) as app:
        asyncio.run(start(app))
    return {}


def finish(directory: str, runs: int, steps: int) -> Facts:
    """Open the file after the kill; tell the seconds until all was done, and how many recorded steps were repeated."""
    connection = baseline.connect(Path(directory) / "raw.db")
    rest = steps - steps // 2
    raw = runs * rest / baseline.prototype(connection, runs, rest)

    async def all_done(app: AsyncUnhinged) -> None:
        started = [app.spawn("half_way", steps, idempotency_key=f"run-{number}")["task_id"] for number in range(runs)]
        # It calls itself idle while all that is left has a lease of the process that was killed.
        while not all(getattr(app.fetch_task_result(task), "result", None) == steps for task in started):
            await app.start_worker(concurrency=runs, claim_timeout=60, poll_interval=0.005, stop_when_idle=True)
            await asyncio.sleep(0.005)

    began = perf_counter()
    with opened(directory) as app:
        opened_after = perf_counter() - began
        _register_half_way(app, None)
        asyncio.run(all_done(app))
        done = perf_counter() - began
    repeated = sum(number < steps // 2 for number in _executed)
    return {"raw": raw, "opened": opened_after, "done": done, "repeated": repeated, "executed": len(_executed)}


PHASES: dict[str, Callable[..., Facts]] = {phase.__name__: phase for phase in (sequence, burst, grow, midway, finish)}

if __name__ == "__main__":
    serve(PHASES)
