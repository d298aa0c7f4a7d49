"""``stepwell workers``: who has the file open."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from stepwell.api.reading.views import WorkerInfo
from stepwell.cli.acting import client
from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import json_option
from stepwell.cli.printing import counted, for_this_file, print_json, print_table, say, when
from stepwell.cli.reading import reads
from stepwell.errors import FileNotUsable


@command("workers", "stepwell workers", "stepwell workers --json")
@database_option
@json_option
def workers(db: str, as_json: bool) -> None:
    """List workers."""
    try:
        with client(db) as engine:  # only a worker can ask another one whether it answers
            own = engine._session.engine_thread.turn_loop.claimed().epoch
            found = [worker for worker in engine.workers() if worker.epoch != own]
            in_flight = engine._session.reads.runs_by_version()
    except FileNotUsable:
        with reads(db) as read:  # a copy that may not be written to
            found, in_flight = read.workers(), read.runs_by_version()
    if as_json:
        print_json(found)
        return
    rows = [
        (str(info.epoch), str(info.pid), info.host, _what(info), str(info.runs), when(info.started_at))
        for info in found
    ]
    print_table(("EPOCH", "PID", "HOST", "STATE", "RUNS", "SINCE"), rows)
    for line in _versions(found, in_flight):
        say(line, "  ")
    if not any(info.takes_work for info in found):
        sys.stdout.flush()
        line = for_this_file("`stepwell worker MODULE --db FILE`", db)
        click.echo(f"No worker has the file open, so no run goes on; start one: {line}", err=True)


def _versions(found: list[WorkerInfo], in_flight: dict[tuple[str, int], int]) -> Iterator[str]:
    """Say of each version of a workflow who has it, and how many runs need it: one that none needs is drained."""
    has: dict[tuple[str, int], list[str]] = {}
    for info in found:
        for each in info.versions:
            has.setdefault(each, []).append(str(info.epoch))
    for name, version in sorted(has.keys() | in_flight.keys()):
        number, workers = in_flight.get((name, version), 0), has.get((name, version), [])
        runs = f"{counted(number, 'run')} in flight" if number else "drained, no run in flight"
        where = f"worker{'s' if len(workers) > 1 else ''} {', '.join(workers)}" if workers else "no worker"
        yield f"version {version} of {name}: {runs}; {where}"


def _what(info: WorkerInfo) -> str:
    return info.state if info.takes_work else f"{info.state} (client)"
