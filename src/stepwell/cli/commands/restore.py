"""``stepwell restore``: put a backup in the place of the file."""

from __future__ import annotations

import os
from typing import Literal

import click

from stepwell.api.restore import restore as put_in_place
from stepwell.cli.acting import confirmed, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import reason_option, yes_option
from stepwell.cli.printing import counted, for_this_file
from stepwell.cli.progress import progress_bar


@command(
    "restore",
    "stepwell restore backups/orders.db-20261128T070000.000000Z.gz --db orders.db",
    "stepwell restore orders-today.db --db orders.db --in-flight go-on --yes",
)
@click.argument("backup", metavar="BACKUP")
@database_option
@click.option(
    "--in-flight",
    type=click.Choice(("pause", "go-on")),
    default="pause",
    show_default=True,
    help="What becomes of the runs that had not ended: what they did since the backup, they would do again.",
)
@yes_option
@reason_option("Why; it is recorded with each pause.")
def restore(backup: str, db: str, in_flight: Literal["pause", "go-on"], yes: bool, reason: str | None) -> int:
    """Restore a backup."""
    exists = os.path.exists(db)  # noqa: PTH110 - paths are strings here
    what = f"{db} is kept beside it, and everything since {backup} was made is not in the restored file."
    if exists and not yes and not confirmed(what):
        refuse("stepwell restore: nothing was done")
        return FAILED
    with progress_bar() as told:
        done = put_in_place(backup, db, in_flight=in_flight, progress=told, **said(reason))
    click.echo(f"{db} is {backup} now: {counted(done.runs, 'run')}, of which {done.in_flight} had not ended")
    if done.previous is not None:
        click.echo(f"what was there before is {done.previous}")
    if done.paused:
        line = for_this_file("`stepwell unpause RUN`", db)
        click.echo(f"{counted(done.paused, 'run')} paused: look at each, then let it go on ({line}) or cancel it")
    if done.schedules:
        line = for_this_file("`stepwell schedules list --db FILE`", db)
        click.echo(f"{counted(done.schedules, 'schedule')} paused: {line} has them; unpause each when that is right")
    return 0
