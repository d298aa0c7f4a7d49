"""``stepwell workers``: who has the file open."""

from __future__ import annotations

import sys

import click

from stepwell.api.views import WorkerInfo
from stepwell.cli.acting import client
from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import json_option
from stepwell.cli.printing import for_this_file, print_json, print_table, when


@command("workers", "stepwell workers", "stepwell workers --json")
@database_option
@json_option
def workers(db: str, as_json: bool) -> None:
    """List workers."""
    with client(db) as engine:
        own = engine._session.engine_thread.turn_loop.claimed().epoch
        found = [worker for worker in engine.workers() if worker.epoch != own]
    if as_json:
        print_json(found)
        return
    rows = [
        (str(info.epoch), str(info.pid), info.host, _what(info), str(info.runs), when(info.started_at))
        for info in found
    ]
    print_table(("EPOCH", "PID", "HOST", "STATE", "RUNS", "SINCE"), rows)
    if not any(info.takes_work for info in found):
        sys.stdout.flush()
        line = for_this_file("`stepwell worker MODULE --db FILE`", db)
        click.echo(f"No worker has the file open, so no run goes on; start one: {line}", err=True)


def _what(info: WorkerInfo) -> str:
    return info.state if info.takes_work else f"{info.state} (client)"
