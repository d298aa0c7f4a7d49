"""``stepwell prune``: delete runs that ended long ago."""

from __future__ import annotations

from datetime import timedelta

import click

from stepwell.cli.acting import client, confirmed, refuse
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import span, yes_option
from stepwell.cli.printing import counted
from stepwell.cli.reading import reads


@command("prune", "stepwell prune --older-than 30d --dry-run", "stepwell prune --older-than 30d --yes")
@database_option
@click.option("--older-than", required=True, type=span, metavar="SPAN", help="How long ago they ended: 36h, 30d.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@yes_option
def prune(db: str, older_than: timedelta, dry_run: bool, yes: bool) -> int:
    """Delete runs."""
    with reads(db) as read:
        number = sum(read.counts(f"ended<-{older_than.total_seconds():.0f}s", "status").values())
    runs = counted(number, "run")
    if dry_run or not number:
        click.echo(f"{runs} ended longer ago than that")
        return 0
    if not yes and not confirmed(f"{runs} and all that the file has of them will be deleted."):
        refuse("stepwell prune: nothing was deleted")
        return FAILED
    with client(db) as engine:
        click.echo(f"{counted(engine.purge(older_than), 'run')} deleted")
    return 0
