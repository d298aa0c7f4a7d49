"""kairo-sdk (https://github.com/r-hashi01/kairo): a core in WebAssembly inside the process, state in SQLite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.figures import Sizes, System
from bench.peers import OURS_ALONE, environment

#: Its rates allow no more in a reasonable time.
SIZES = Sizes(rounds=2, steps=50, burst_runs=20, burst_rounds=2, midway_runs=20, grown_runs=20, starts=5, restarts=1)

#: Counted with strace: what 100 further steps in sequence add.
_SYNCS = "two syncs a step"
_SETTINGS = (
    "(lambda s: (__import__('asyncio').run(s.init()), 'journal_mode '"
    " + s.db.execute('pragma journal_mode').fetchone()[0] + ', synchronous '"
    " + str(s.db.execute('pragma synchronous').fetchone()[0]))[1])"
    "(__import__('kairo_sdk').SQLiteStore(folder + '/x.db'))"
)


def install(say: Callable[[str], None]) -> System:
    """Make the environment where it is missing, and return how to measure kairo-sdk."""
    found = environment.install("kairo-sdk", "kairo-sdk[embedded]", say, settings=_SETTINGS, newer=True)
    return System(
        name="kairo-sdk",
        python=found.python,
        module="bench.peers.kairo_sdk.inside",
        package="kairo_sdk",
        imports="from kairo_sdk import EmbeddedBackend, Kairo, SQLiteStore",
        program=Path(__file__).with_name("cold.py"),
        sizes=SIZES,
        note=(
            f"kairo-sdk {found.version} on Python 3.13 or later: {found.settings}, {_SYNCS}; async steps that may be "
            f"repeated; W1 with {SIZES.steps} steps, W2, W5 and W7 with {SIZES.burst_runs} runs"
        ),
        without=OURS_ALONE | {"W6"},
    )
