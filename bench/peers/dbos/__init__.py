"""DBOS on SQLite (https://docs.dbos.dev): installed on demand into an environment of its own, never the project's.

Where a whole workload would take it minutes, its figures are those of a smaller one; `NOTE` says which.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.figures import Sizes, System

ENVIRONMENT = Path(__file__).parents[3] / ".venvs" / "dbos"

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
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".installed").exists():
        say(f"Installing DBOS into {ENVIRONMENT}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        # apsw is for the baseline, which is measured in turns with it in the same process.
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "dbos", "apsw"]
        subprocess.run(pip, check=True)
        (ENVIRONMENT / ".installed").touch()
    version = [str(python), "-c", "from importlib.metadata import version; print(version('dbos'))"]
    number = subprocess.run(version, check=True, capture_output=True, text=True).stdout.strip()
    return System(
        name="dbos",
        python=str(python),
        module="bench.peers.dbos.inside",
        package="dbos",
        imports="from dbos import DBOS",
        program=Path(__file__).with_name("cold.py"),
        sizes=SIZES,
        note=f"DBOS {number} on SQLite; {NOTE}",
        without=frozenset({"W3", "W4", "W6x", "takeover", "scaling", "backlog", "isolated"}),
    )
