"""dura (https://ericgazoni.github.io/dura/): tasks with checkpoints in SQLite, executed by threads that poll."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.figures import Sizes, System
from bench.peers import OURS_ALONE, environment

SIZES = Sizes(rounds=5, burst_runs=300, burst_rounds=3, midway_runs=50, grown_runs=300, starts=15, restarts=2)

#: Counted with strace: what 100 further steps in sequence add.
_SYNCS = "one sync a step"
_SETTINGS = (
    "(lambda c: 'journal_mode ' + c.execute('pragma journal_mode').fetchone()[0] + ', synchronous '"
    " + str(c.execute('pragma synchronous').fetchone()[0]))"
    "(__import__('dura').DurableEngine(folder + '/x.db')._conn())"
)


def install(say: Callable[[str], None]) -> System:
    """Make the environment where it is missing, and return how to measure dura."""
    found = environment.install("dura", "dura", say, settings=_SETTINGS, newer=True)
    return System(
        name="dura",
        python=found.python,
        module="bench.peers.dura.inside",
        package="dura",
        imports="from dura import DurableEngine, run_workers",
        program=Path(__file__).with_name("cold.py"),
        sizes=SIZES,
        note=(
            f"dura {found.version} on Python 3.13 or later: {found.settings}, {_SYNCS}; def steps only; W2 and W7 with "
            f"{SIZES.burst_runs} runs, W5 with {SIZES.midway_runs}, each on a thread, and leases of one second"
        ),
        without=OURS_ALONE | {"W6"},
    )
