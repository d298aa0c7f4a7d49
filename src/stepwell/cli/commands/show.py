"""``stepwell show``: one run."""

from __future__ import annotations

import click

from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import count, json_option, run_argument
from stepwell.cli.reading import reads
from stepwell.cli.show_run import show_run


@command("show", "stepwell show order-42", "stepwell show order-42 --tail 20", "stepwell show order-42 --json")
@run_argument
@database_option
@click.option("--tail", type=count, metavar="N", help="Only the last N lines of its journal.")
@json_option
def show(run: str, db: str, tail: int | None, as_json: bool) -> None:
    """Show a run."""
    with reads(db) as read:
        details = read.details(run)
    show_run(details, db, tail=tail, as_json=as_json)
