"""``stepwell restore``: put a backup in the place of the file."""

from __future__ import annotations

import os
import sys
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
    "stepwell restore orders-today.db --db orders.db --only 'workflow:payments'",
)
@click.argument("backup", metavar="BACKUP")
@database_option
@click.option(
    "--in-flight",
    type=click.Choice(("pause", "go-on")),
    help="What becomes of the runs that had not ended: what they did since the backup, they would do again. "
    "[default: asked for on a terminal, else pause]",
)
@click.option("--only", metavar="FILTER", help="Pause only those that match; the others go on.")
@yes_option
@reason_option("Why; it is recorded with each pause.")
def restore(
    backup: str, db: str, in_flight: Literal["pause", "go-on"] | None, only: str | None, yes: bool, reason: str | None
) -> int:
    """Restore a backup."""
    exists = os.path.exists(db)  # noqa: PTH110 - paths are strings here
    what = f"{db} is kept beside it, and everything since {backup} was made is not in the restored file."
    if exists and not yes and not confirmed(what):
        refuse("stepwell restore: nothing was done")
        return FAILED
    if in_flight is None and only is None and not yes and sys.stdin.isatty():
        in_flight, only = _asked()
    with progress_bar() as told:
        done = put_in_place(backup, db, in_flight=in_flight or "pause", only=only, progress=told, **said(reason))
    click.echo(f"{db} is {backup} now: {counted(done.runs, 'run')}, of which {done.in_flight} had not ended")
    if done.previous is not None:
        click.echo(f"what was there before is {done.previous}")
    if done.paused:
        line = for_this_file("`stepwell unpause RUN`", db)
        click.echo(f"{counted(done.paused, 'run')} paused: look at each, then let it go on ({line}) or cancel it")
    if done.schedules:
        line = for_this_file("`stepwell schedules list --db FILE`", db)
        click.echo(f"{counted(done.schedules, 'schedule')} paused: {line} has them; unpause each when that is right")
    if done.bulk_acts:
        what = "acts on many runs were" if done.bulk_acts > 1 else "act on many runs was"
        click.echo(f"{done.bulk_acts} {what} under way and ended where it stood; ask for it again when that is right")
    return 0


def _asked() -> tuple[Literal["pause", "go-on"], str | None]:
    """Ask what becomes of the runs that had not ended; return that, and the filter of those that are paused."""
    click.echo(
        "Runs that had not ended when the backup was made would do again what they did since.\n"
        "  p  pause them all, to look at each (this is meant where nothing is entered)\n"
        "  g  let them all go on\n"
        "  or a filter of those to pause, as in workflow:payments; the others go on",
        err=True,
    )
    click.echo("What becomes of them? [p] ", nl=False, err=True)
    answer = sys.stdin.readline().strip()
    if answer.lower() in {"", "p", "pause"}:
        return "pause", None
    return ("go-on", None) if answer.lower() in {"g", "go-on"} else ("pause", answer)
