"""Work in queues, executed by several processes at once; each call writes down when it began and ended."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from stepwell import Engine, Limit, Queue, Rate, step, workflow

ONE = Queue("turns.one", concurrency=1)
SLOW = Queue("turns.slow", rate=Rate(20, per=0.5))
FAIR = Queue("turns.fair", concurrency=4, partition_concurrency=1)
SINGLE = Limit("turns.single", concurrency=1)
RATED = Limit("turns.rated", rate=Rate(10, per=0.25))


def write_down(what: str, began: int) -> None:
    """Append one line, atomically: the folder is the one of the database."""
    line = f"{what} {os.getpid()} {began} {time.monotonic_ns()}\n".encode()
    descriptor = os.open(Path(os.environ["TURNS"]) / "calls.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


@step
async def work(what: str) -> None:
    """Work for no time at all."""
    write_down(what, time.monotonic_ns())


@step(limit=SINGLE)
def alone(what: str) -> None:
    """Work while nobody else does."""
    write_down(what, time.monotonic_ns())


@step(limit=RATED)
def call(what: str) -> None:
    """Call something that bears so many calls only."""
    write_down(what, time.monotonic_ns())


@workflow
async def job(what: str) -> None:
    """Do one thing."""
    await work(what)


@workflow
async def pair(what: str) -> None:
    """Do one thing alone, and call someone."""
    alone(f"alone-{what}")
    call(f"call-{what}")


def serve(path: str) -> None:
    """Execute runs until standard input ends."""
    with Engine(path, durability="normal"):
        sys.stdout.write("open\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1])
