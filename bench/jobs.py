"""The measured processes that have to do with queues. ``python -m bench.jobs PHASE '{"option": …}'``.

`bench.queues` starts them, tells them when to do what, and turns what they say into figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from bench import baseline
from bench.measure import Facts, in_turns, obey, p50, resident_bytes, serve
from stepwell import Engine, Queue, Run, step, workflow

line = Queue("bench.line")
#: One at a time: when the next one starts, the one before has ended and the queue has decided.
narrow = Queue("bench.narrow", concurrency=1)

#: After how long jobs must have been taken one after another, in seconds.
_PATIENCE_SECONDS = 120.0

#: When jobs were executed in this process, in nanoseconds of a clock that all processes share.
_executed: list[int] = []


def _execute() -> int:
    now = time.monotonic_ns()
    _executed.append(now)
    return now


@step
async def task(number: int) -> int:
    """Do nothing, and tell when."""
    del number
    return _execute()


@workflow
async def job(number: int) -> int:
    """Call one step, as what other queues call a task."""
    return await task(number)


@workflow
async def bare_job(number: int) -> int:
    """Do nothing but tell when, without a step."""
    del number
    return _execute()


_JOBS: dict[str, Callable[[int], Any]] = {"step": job, "bare": bare_job}


def worker(directory: str) -> Facts:
    """Be a worker while told so; the process stays warm meanwhile."""
    opened: list[Engine] = []
    used: list[float] = []

    def start() -> Facts:
        _executed.clear()
        opened.append(Engine(Path(directory) / "runs.db", workflows=[job, bare_job]))
        used.append(time.process_time())
        return {}

    def stop() -> Facts:
        cpu_seconds = time.process_time() - used.pop()
        opened.pop().close()
        return {"executed": len(_executed), "cpu_seconds": cpu_seconds}

    obey({"start": start, "stop": stop})
    return {}


def client(directory: str) -> Facts:
    """Enqueue jobs as a mere client, and tell how long they took."""
    folder = Path(directory)
    connection = baseline.connect(folder / "raw.db")
    with Engine(folder / "runs.db", workflows=[]) as engine:
        queue = engine.queue(line)
        latest: list[Run[Any]] = []

        def enqueue(kind: str, count: int) -> Facts:
            queue.pause()
            latest[:] = [_enqueue(engine, line, _JOBS[kind], count)]
            return {}

        def release() -> Facts:
            began = perf_counter()
            queue.unpause()
            # One wait and one look into the file see the last end; a wait for each run would measure waits.
            latest[0].result()
            while engine.list(status=("pending", "running", "waiting"), limit=1):
                time.sleep(0.0005)
            return {"seconds": perf_counter() - began}

        def raw(count: int) -> Facts:
            return {"rate": baseline.jobs_per_second(connection, count)}

        def idle(kind: str, count: int, rounds: int) -> Facts:
            return in_turns(
                rounds,
                raw=lambda: baseline.single_commit_p50(connection, count),
                subject=lambda: p50([_time_to_start(engine, _JOBS[kind], number) for number in range(count)]),
            )

        obey({"enqueue": enqueue, "release": release, "raw": raw, "idle": idle})
    return {}


def _enqueue(engine: Engine, queue: Queue, flow: Callable[[int], Any], count: int, partitions: int = 1) -> Run[Any]:
    """Enqueue jobs, 1,000 in a transaction; return the last one."""
    run: Run[Any] | None = None
    for at in range(0, count, 1_000):
        with engine.transaction() as tx:
            for number in range(at, min(at + 1_000, count)):
                partition = f"tenant-{number % partitions}" if partitions > 1 else None
                run = tx.start(flow, number, queue=queue, partition=partition)
    assert run is not None
    return run


def _time_to_start(engine: Engine, flow: Callable[[int], Any], number: int) -> float:
    """Return the seconds from asking for a job to its execution, when nothing else is to be done."""
    began = time.monotonic_ns()
    started: int = engine.start(flow, number, queue=line).result()
    time.sleep(0.002)  # the worker comes to rest
    return (started - began) / 1e9


# --- backlog ---------------------------------------------------------------------------------------------------------


def enqueuing(directory: str, count: int, partitions: int) -> Facts:
    """Enqueue jobs into a paused queue, and tell the rate of each tenth."""
    rates: list[float] = []
    with Engine(Path(directory) / "runs.db", workflows=[]) as engine:
        engine.queue(narrow).pause()
        for _ in range(10):
            began = perf_counter()
            _enqueue(engine, narrow, bare_job, count // 10, partitions)
            rates.append(count // 10 / (perf_counter() - began))
    return {"rates": rates}


def taking(directory: str, count: int) -> Facts:
    """Take jobs from the paused queue, one after another, and pause it; tell the seconds from one to the next."""
    began = time.monotonic()
    with Engine(Path(directory) / "runs.db", workflows=[bare_job]) as engine:
        queue = engine.queue(narrow)
        asked = perf_counter()
        queue.unpause()
        resumed = perf_counter() - asked
        while len(_executed) <= count:
            if time.monotonic() - began > _PATIENCE_SECONDS:
                raise RuntimeError(f"{len(_executed)} jobs were taken in {_PATIENCE_SECONDS:g} s")
            time.sleep(0.001)
        asked = perf_counter()
        queue.pause()
        paused = perf_counter() - asked
        return {
            "first": _executed[0] / 1e9 - began,
            "paused": paused,
            "resumed": resumed,
            "intervals": [(after - before) / 1e9 for before, after in pairwise(_executed)],
            "resident_bytes": resident_bytes(),
        }


PHASES: dict[str, Callable[..., Facts]] = {phase.__name__: phase for phase in (worker, client, enqueuing, taking)}

if __name__ == "__main__":
    serve(PHASES)
