"""The phases of `bench.inside`, with dura. ``python -m bench.peers.dura.inside PHASE '{"option": …}'``."""

# mypy: ignore-errors
# dura is installed only where it is measured: here it has no types to check.

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter

from dura import DurableEngine
from dura.workers import process_task, run_worker

from bench import baseline
from bench.measure import Facts, in_turns, p50, serve, stay

#: Who takes over after a kill waits for the end of the lease; there is no shorter one.
_LEASE_SECONDS = 1
#: Threads that execute many short runs: with more the lock of the file and Python's take longer.
_WORKERS = 2

_began: list[float] = []
_executed: list[int] = []


@contextmanager
def opened(directory: str) -> Iterator[DurableEngine]:
    """Have an engine on the file that the phases of one workload share."""
    engine = DurableEngine(f"{directory}/runs.db")
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def working(engine: DurableEngine, handler: Callable, count: int, lease: int = 120) -> Iterator[None]:
    """Have threads execute the tasks named "run"."""
    stopping = threading.Event()
    options = {
        "handlers": {"run": handler},
        "stop_event": stopping,
        "claim_timeout_secs": lease,
        "poll_interval": 0.005,
    }
    threads = [
        threading.Thread(target=run_worker, args=(engine,), kwargs={**options, "worker_id": f"w{number}"}, daemon=True)
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def _until_completed(engine: DurableEngine, runs: int) -> None:
    while engine.task_counts_by_state().get("completed", 0) < runs:
        time.sleep(0.002)


def _ticking(engine, task):
    def tick(number: int) -> int:
        _began.append(perf_counter())
        return number

    for number in range(task.params):
        engine.checkpoint(task_id=task.task_id, step_name=f"tick-{number}", fn=lambda number=number: tick(number))
    return task.params


def sequence(directory: str, steps: int, rounds: int) -> Facts:
    """Measure the seconds from the start of one step to the start of the next, in turns with a raw commit."""
    path = Path(directory) / "raw.db"
    raw = baseline.against(path, lambda connection: baseline.single_commit_p50(connection, steps))

    with opened(directory) as engine:

        def one_def() -> float:
            engine.spawn_task(name="run", params=steps)
            process_task(engine, handlers={"run": _ticking}, task=engine.claim_task(worker_id="bench"))
            seconds = [after - before for before, after in pairwise(_began)]
            _began.clear()
            return p50(seconds)

        return {"def": in_turns(rounds, raw=raw, subject=one_def)}


def _several(engine, task):
    for number in range(task.params):
        engine.checkpoint(task_id=task.task_id, step_name=f"noop-{number}", fn=lambda number=number: number)
    return task.params


def _all_runs(engine: DurableEngine, runs: int, steps: int) -> float:
    before = engine.task_counts_by_state().get("completed", 0)
    began = perf_counter()
    for _ in range(runs):
        engine.spawn_task(name="run", params=steps)
    with working(engine, _several, _WORKERS):
        _until_completed(engine, before + runs)
        return runs * steps / (perf_counter() - began)


def burst(directory: str, runs: int, steps: int, rounds: int) -> Facts:
    """Measure the steps a second of many runs at once, in turns with the bare prototype."""
    path = Path(directory) / "raw.db"
    raw = baseline.against(path, lambda connection: baseline.prototype(connection, runs, steps))
    with opened(directory) as engine:
        return {"transaction": in_turns(rounds, raw=raw, subject=lambda: _all_runs(engine, runs, steps))}


def grow(directory: str, runs: int, steps: int) -> Facts:
    """Run runs to their end and close the file."""
    with opened(directory) as engine:
        _all_runs(engine, runs, steps)
    return {}


def _half_way(hold: threading.Event | None) -> Callable:
    def handler(engine, task):
        def counted(number: int) -> int:
            _executed.append(number)
            if hold is not None and number == task.params // 2:
                hold.wait()
            return number

        for number in range(task.params):
            engine.checkpoint(task_id=task.task_id, step_name=f"s-{number}", fn=lambda number=number: counted(number))
        return task.params

    return handler


def midway(directory: str, runs: int, steps: int) -> Facts:
    """Bring runs to their middle and wait to be killed."""
    with opened(directory) as engine:
        for _ in range(runs):
            engine.spawn_task(name="run", params=steps)
        # The lease is that of the last claim, so it is over soon after the kill; a shorter one would be taken away
        # from threads that still hold it.
        with working(engine, _half_way(threading.Event()), runs, lease=30):
            while _executed.count(steps // 2) < runs:
                time.sleep(0.001)
            for task in engine._conn().execute("SELECT run_id FROM runs WHERE state = 'running'").fetchall():
                engine.extend_claim(run_id=task[0], by_secs=_LEASE_SECONDS)
            stay()
    return {}


def finish(directory: str, runs: int, steps: int) -> Facts:
    """Open the file after the kill; tell the seconds until all was done, and how many recorded steps were repeated."""
    connection = baseline.connect(Path(directory) / "raw.db")
    rest = steps - steps // 2
    raw = runs * rest / baseline.prototype(connection, runs, rest)
    began = perf_counter()
    with opened(directory) as engine:
        opened_after = perf_counter() - began
        with working(engine, _half_way(None), _WORKERS, lease=60):
            _until_completed(engine, runs)
            done = perf_counter() - began
    repeated = sum(number < steps // 2 for number in _executed)
    return {"raw": raw, "opened": opened_after, "done": done, "repeated": repeated, "executed": len(_executed)}


PHASES: dict[str, Callable[..., Facts]] = {phase.__name__: phase for phase in (sequence, burst, grow, midway, finish)}

if __name__ == "__main__":
    serve(PHASES)
