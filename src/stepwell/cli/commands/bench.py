"""``stepwell bench``: what this disk can do, and what the engine makes of it."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from stepwell.cli.group import command
from stepwell.cli.options import json_option, seconds
from stepwell.cli.printing import print_json, print_table

#: How many runs go on at once where that is measured, and how many steps each has.
_RUNS: Final = 200
_STEPS: Final = 10


class Figure(msgspec.Struct, frozen=True):
    """One thing that was measured: how many in a second, and of what."""

    name: str
    per_second: float
    what: str


@command("bench", "stepwell bench", "stepwell bench --folder /var/lib/orders", "stepwell bench --json")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    default=Path(),
    metavar="FOLDER",
    help="On whose disk (by default this folder's). What is written is deleted again.",
)
@click.option("--seconds", "span", type=seconds, default=2.0, show_default=True, help="How long each takes, about.")
@json_option
def bench(folder: Path, span: float, as_json: bool) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix=".stepwell-bench-", dir=folder) as place:
        home = Path(place)
        raw = _raw_commits(home / "raw.db", span)
        one = asyncio.run(_one_run(home / "one.db", span))
        many = asyncio.run(_many_runs(home / "many.db", span))
    figures = [
        Figure("SQLite, a row each commit", raw, "commits"),
        Figure("one run, step after step", one, "steps, each a commit"),
        Figure(f"{_RUNS} runs at once", many, "steps, commits shared"),
    ]
    if as_json:
        print_json(figures)
        return
    rows = [(each.name, f"{each.per_second:,.0f}", f"{each.per_second / raw:.2f}", each.what) for each in figures]
    print_table(("WHAT", "PER SECOND", "OF RAW", "OF WHAT"), rows)
    click.echo(
        "\nAll of it survives a loss of power, if this disk keeps what it has acknowledged. "
        f"A commit takes {1000 / raw:.2f} ms here; steps do nothing, on {os.cpu_count()} CPUs."
    )


def _raw_commits(path: Path, span: float) -> float:
    """Return how many rows SQLite commits in a second, one by one, with the pragmas that the engine has."""
    from stepwell.store.sqlite.file.raw_commits import raw_commits

    return raw_commits(path, span)


async def _one_run(path: Path, span: float) -> float:
    from stepwell import AsyncEngine, step, workflow

    @step(name="bench.step")
    async def nothing(number: int) -> int:
        return number

    @workflow(name="bench.sequence")
    async def sequence(count: int) -> None:
        for number in range(count):
            await nothing(number)

    count, rate = 50, 0.0
    async with AsyncEngine(path, workflows=[sequence]) as engine:
        while count < 1_000_000:  # noqa: PLR2004 - it ends by time
            begin = time.perf_counter()
            await (await engine.start(sequence, count)).result()
            took = time.perf_counter() - begin
            rate = count / took
            if took >= span / 2:
                break
            count = max(count * 2, int(rate * span * 0.8))
    return rate


async def _many_runs(path: Path, span: float) -> float:
    from stepwell import AsyncEngine, step, workflow

    @step(name="bench.step")
    async def nothing(number: int) -> int:
        return number

    @workflow(name="bench.short")
    async def short() -> None:
        for number in range(_STEPS):
            await nothing(number)

    done = 0
    async with AsyncEngine(path, workflows=[short]) as engine:
        begin = time.perf_counter()
        while not done or time.perf_counter() - begin < span:
            runs: list[Any] = await engine.start_many(short, [()] * _RUNS)
            await asyncio.gather(*(run.result() for run in runs))
            done += _RUNS * _STEPS
        return done / (time.perf_counter() - begin)
