"""What it takes to ask a run that waits: a query of a long journal, an update; the measured process, and its figures.

``python -m bench.requests requests '{"option": …}'``; `python -m bench requests` prints the figures.
"""

from __future__ import annotations

import time
from pathlib import Path
from time import perf_counter
from typing import Final

from bench import baseline
from bench.figures import Figure, System, figure, milliseconds
from bench.inside import noop
from bench.measure import Facts, in_turns, p50, serve
from stepwell import Engine, Run, query, receive, update, workflow

#: The figures by what the phase calls them; `{}` is the length of the journal.
_NAMES: Final = {
    "query": "query of a parked run of {:,} entries, p50",
    "resident": "update and its answer, run in memory, p50",
    "parked": "update and its answer, parked run, p50",
}
_AT_MOST_MS: Final = {"query": 50.0, "resident": 2.0, "parked": 2.0}


@workflow
async def long_basket(entries: int) -> None:
    """Call steps one after another, then wait."""
    total = 0

    @query
    def content() -> int:
        return total

    for _ in range(entries):
        total += await noop(1)
    await receive("close")


@workflow
async def counter() -> None:
    """Answer updates while it waits."""
    total = 0

    @update
    def add(number: int) -> int:
        nonlocal total
        total += number
        return total

    await receive("close")


def _wait_for_all(engine: Engine) -> None:
    while engine.list(status=("pending", "running"), limit=1):
        time.sleep(0.001)


def _query(run: Run[None], entries: int, count: int) -> float:
    seconds: list[float] = []
    for _ in range(count):
        began = perf_counter()
        answer = run.query("content")
        seconds.append(perf_counter() - began)
        assert answer == entries
    return p50(seconds)


def _update(engine: Engine, count: int) -> float:
    # Each run is asked once, so that none has a longer journal than the others.
    runs = engine.start_many(counter, [()] * count)
    _wait_for_all(engine)
    seconds: list[float] = []
    for number, run in enumerate(runs, 1):
        began = perf_counter()
        answer = run.update("add", number)
        seconds.append(perf_counter() - began)
        assert answer == number
    return p50(seconds)


def requests(directory: str, entries: int, count: int, rounds: int) -> Facts:
    """Measure the seconds from asking a run to having its answer, in turns with a raw commit."""
    folder, facts = Path(directory), dict[str, dict[str, list[float]]]()
    raw = baseline.against(folder / "raw.db", lambda connection: baseline.single_commit_p50(connection, count))
    with Engine(folder / "runs.db") as engine:
        facts["resident"] = in_turns(rounds, raw=raw, subject=lambda: _update(engine, count))
    with Engine(folder / "parked.db", max_waiting_in_memory=0) as engine:
        facts["parked"] = in_turns(rounds, raw=raw, subject=lambda: _update(engine, count))
        run = engine.start(long_basket, entries)
        _wait_for_all(engine)
        facts["query"] = in_turns(rounds, raw=raw, subject=lambda: _query(run, entries, count))
    return facts


def w(system: System, folder: Path) -> list[Figure]:
    """A run that waits is asked: the time from the call to its answer."""
    sizes = system.sizes
    facts = system.beside("requests").facts(
        "requests", directory=str(folder), entries=sizes.asked_entries, count=sizes.answers, rounds=sizes.rounds
    )
    return [
        figure(
            "requests",
            what.format(sizes.asked_entries),
            "ms",
            milliseconds(facts[name]["subject"]),
            "INSERT+COMMIT",
            milliseconds(facts[name]["raw"]),
            at_most=_AT_MOST_MS[name],
        )
        for name, what in _NAMES.items()
    ]


if __name__ == "__main__":
    serve({"requests": requests})
