"""One run's steps while a crowd of others is being started: the measured process of `crowd`, and its figures."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Final

from bench import baseline
from bench.figures import Figure, System, figure, milliseconds
from bench.inside import noop
from bench.measure import Facts, p50, percentile, serve
from stepwell import Engine, step, workflow

#: How many runs are started in one commit.
_TOGETHER: Final = 500
#: How many steps the run has before it starts anew.
_STEPS: Final = 100

#: When steps of the one run began.
_began: list[float] = []


@step
async def observed(number: int) -> int:
    """Do nothing, and note when."""
    _began.append(perf_counter())
    return number


@workflow
async def one_of_all(steps: int) -> int:
    """Call steps one after another."""
    for number in range(steps):
        await observed(number)
    return steps


@workflow
async def one_of_the_crowd(number: int) -> int:
    """Call one step."""
    return await noop(number)


def crowd(directory: str, runs: int) -> Facts:
    """Measure the seconds between steps of one run, alone and while others start it and its like by the thousand."""
    folder = Path(directory)
    connection = baseline.connect(folder / "raw.db")
    raw = baseline.single_commit_p50(connection, 200)
    with Engine(folder / "runs.db") as engine:

        def between_steps() -> list[float]:
            _began.clear()
            engine.start(one_of_all, _STEPS).result()
            return [after - before for before, after in pairwise(_began)]

        def start_all() -> None:
            for first in range(0, runs, _TOGETHER):
                engine.start_many(
                    one_of_the_crowd, [(number,) for number in range(first, min(runs, first + _TOGETHER))]
                )

        between_steps()
        alone = between_steps()
        crowding = threading.Thread(target=start_all, daemon=True)
        began = perf_counter()
        crowding.start()
        crowded = between_steps()
        while crowding.is_alive():
            crowded += between_steps()
        rate = runs / (perf_counter() - began)
    return {
        "raw": raw,
        "alone": percentile(alone, 99),
        "p50": p50(crowded),
        "p99": percentile(crowded, 99),
        "rate": rate,
    }


def w(system: System, folder: Path) -> list[Figure]:
    """A hundred thousand runs are being started: how long do the steps of another one take meanwhile?"""
    facts = system.beside("crowded").facts("crowd", directory=str(folder), runs=system.sizes.crowd)
    raw = milliseconds([facts["raw"]])
    named = {"alone": "p99 per async step, alone", "p50": "p50 per async step, in the crowd"}
    return [
        *(
            figure("crowd", what, "ms", milliseconds([facts[name]]), "INSERT+COMMIT", raw)
            for name, what in named.items()
        ),
        # Two commits, each with what fills a turn.
        figure(
            "crowd",
            "p99 per async step, in the crowd",
            "ms",
            milliseconds([facts["p99"]]),
            "INSERT+COMMIT",
            raw,
            at_most=100,
        ),
        Figure(workload="crowd", what="runs started a second meanwhile", unit="/s", value=facts["rate"]),
    ]


if __name__ == "__main__":
    serve({"crowd": crowd})
