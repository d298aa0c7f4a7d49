"""The small program of `bench/cold.py`, with dura. ``python bench/peers/dura/cold.py FILE``."""

# mypy: ignore-errors
# dura is installed only where it is measured: here it has no types to check.

import sys

from dura import DurableEngine
from dura.workers import process_task


def first(engine, task):
    """Call one step."""
    return engine.checkpoint(task_id=task.task_id, step_name="double", fn=lambda: 2 * task.params)


if __name__ == "__main__":
    engine = DurableEngine(sys.argv[1])
    started = engine.spawn_task(name="first", params=21)
    # What a thread of `run_workers` does, without the threads and their second of sleep.
    task = engine.claim_task(worker_id="bench")
    process_task(engine, handlers={"first": first}, task=task)
    result = engine.get_task(task.task_id).result
    print('@bench {"result": ', result, "}", flush=True)
    engine.close()
