"""What streams cost: items a second, one by one and in batches, and from a write to its reader in another process.

``python -m bench.streams``; on a machine that is not quiet, look at the CPU time.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from stepwell import Engine, Run, RunNotFound, step, stream, sync, workflow

_ITEMS = 20_000
_LETTERS = 100
_PAUSE_SECONDS = 0.01


@step(name="bench.streams.one_by_one")
async def one_by_one(count: int, of: int) -> int:
    """Write items, each awaited by itself; `of` such steps go on at once."""
    items = stream("items", int)
    for number in range(count):
        await items.write(number)
    return of


@step(name="bench.streams.in_batches")
async def in_batches(count: int, size: int) -> None:
    """Write items, so many at a time."""
    for first in range(0, count, size):
        await stream("items", int).write_many(range(first, first + size))


@workflow(name="bench.streams.writes")
async def writes(size: int) -> None:
    """Write items in batches, or one by one from 200 steps."""
    if size == 1:
        await asyncio.gather(*(one_by_one(_ITEMS // 200, number) for number in range(200)))
    else:
        await in_batches(_ITEMS, size)


@step(name="bench.streams.clock")
def clock() -> None:
    """Write the time, now and then."""
    for _ in range(_LETTERS):
        sync.stream("clock", float).write(time.time())
        time.sleep(_PAUSE_SECONDS)


@workflow(name="bench.streams.tells")
def tells() -> None:
    """Tell the time."""
    clock()


def _found(engine: Engine) -> Run[None]:
    while True:
        try:
            return engine.get("tells")
        except RunNotFound:
            time.sleep(_PAUSE_SECONDS)


def main() -> None:
    """Print the figures; with a path, be the process that writes."""
    if len(sys.argv) > 1:
        with Engine(sys.argv[1]) as engine:
            engine.start(tells, id="tells").result()
        return
    with TemporaryDirectory() as folder:
        for size in (1, 100):
            with Engine(Path(folder) / f"{size}.db") as engine:
                began, cpu = time.perf_counter(), time.process_time()
                run = engine.start(writes, size)
                run.result()
                wall, cpu = time.perf_counter() - began, time.process_time() - cpu
                print(f"{size} at a time: {_ITEMS / wall:,.0f} items/s, {_ITEMS / cpu:,.0f} for each second of CPU")
        path = Path(folder) / "two.db"
        with Engine(path, workflows=[]) as engine:
            writer = subprocess.Popen([sys.executable, "-m", "bench.streams", str(path)])
            late = sorted(time.time() - written for written in _found(engine).stream("clock", float))
            writer.wait()
        print(f"from a write to its reader in another process: p50 {late[len(late) // 2] * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
