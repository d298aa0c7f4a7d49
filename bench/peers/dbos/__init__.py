"""DBOS on SQLite (https://docs.dbos.dev): installed on demand into an environment of its own, never the project's.

Where a whole workload would take it minutes, its figures are those of a smaller one; `NOTE` says which.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.figures import Sizes, System
from bench.peers import OURS_ALONE, environment

#: Its rates allow no more in a reasonable time.
SIZES = Sizes(
    rounds=3,
    burst_runs=100,
    burst_rounds=2,
    midway_runs=100,
    answers=3,
    grown_runs=100,
    starts=5,
    restarts=1,
)
NOTE = (
    f"W2 with {SIZES.burst_runs} runs instead of {Sizes().burst_runs:,}, W5 with {SIZES.midway_runs} instead of "
    f"{Sizes().midway_runs:,}, W7 with {SIZES.grown_runs} instead of {Sizes().grown_runs:,}; "
    "no W4, and none of several processes or queues"
)


def install(say: Callable[[str], None]) -> System:
    """Make the environment where it is missing, and return how to measure DBOS."""
    found = environment.install("dbos", "dbos", say)
    return System(
        name="dbos",
        python=found.python,
        module="bench.peers.dbos.inside",
        package="dbos",
        imports="from dbos import DBOS",
        program=Path(__file__).with_name("cold.py"),
        sizes=SIZES,
        note=f"DBOS {found.version} on SQLite; {NOTE}",
        without=OURS_ALONE,
    )
