"""unhinged (https://github.com/amackera/unhinged): the design of Absurd, on SQLite, on the caller's loop or thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.figures import Sizes, System
from bench.peers import OURS_ALONE, environment

SIZES = Sizes(rounds=5, burst_runs=300, burst_rounds=3, midway_runs=300, grown_runs=300, starts=15, restarts=2)

#: Counted with strace: what 100 further steps in sequence add.
_SYNCS = "one sync a step"
_SETTINGS = (
    "(lambda c: 'journal_mode ' + c.execute('pragma journal_mode').fetchone()[0] + ', synchronous '"
    " + str(c.execute('pragma synchronous').fetchone()[0]))"
    "(__import__('unhinged').Unhinged(folder + '/x.db', queue_name='q').engine._conn)"
)


def install(say: Callable[[str], None]) -> System:
    """Make the environment where it is missing, and return how to measure unhinged."""
    found = environment.install("unhinged", "unhinged", say, settings=_SETTINGS)
    return System(
        name="unhinged",
        python=found.python,
        module="bench.peers.unhinged.inside",
        package="unhinged",
        imports="from unhinged import Unhinged",
        program=Path(__file__).with_name("cold.py"),
        sizes=SIZES,
        note=(
            f"unhinged {found.version}: {found.settings}, {_SYNCS}; W2, W5 and W7 with {SIZES.burst_runs} runs; "
            "in W5 its leases are of one second, which is the shortest"
        ),
        without=OURS_ALONE | {"W6"},
    )
