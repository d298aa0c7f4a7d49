"""``stepwell archive``: move runs that have ended into another file."""

from __future__ import annotations

import click

from stepwell.cli.acting import client, confirmed, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import filters, json_option, reason_option, yes_option
from stepwell.cli.printing import counted, print_json
from stepwell.cli.progress import progress_bar
from stepwell.cli.reading import reads


@command(
    "archive",
    "stepwell archive orders-2025.db 'ended<2026-01-01' --dry-run",
    "stepwell archive orders-old.db 'status:completed ended<-90d' --reason 'kept for the audit'",
    "stepwell list --db orders-old.db",
)
@click.argument("target", metavar="TARGET")
@click.argument("filter", metavar="FILTER...", nargs=-1, required=True, shell_complete=filters)
@database_option
@click.option("--dry-run", is_flag=True, help="Only count them.")
@yes_option
@reason_option("Why; the archive shows it for each run.")
@json_option
def archive(
    target: str, filter: tuple[str, ...], db: str, dry_run: bool, yes: bool, reason: str | None, as_json: bool
) -> int:
    """Archive runs."""
    text = " ".join(filter)
    with reads(db) as read:
        number = read.count(read.archive_filter(text))
    runs = counted(number, "run")
    if dry_run or not number:
        click.echo(f"{runs} would be moved")
        return 0
    if not yes and not confirmed(f"{runs} will be moved from {db} to {target}."):
        refuse("stepwell archive: nothing was moved")
        return FAILED
    with client(db) as engine, progress_bar() as told:
        done = engine.archive(
            target, text, progress=lambda moved: told("moving", moved, max(moved, number)), **said(reason)
        )
    if as_json:
        print_json(done)
        return 0
    were = "was" if done.runs == 1 else "were"
    click.echo(f"{done.path}: {counted(done.runs, 'run')} {were} moved there")
    if done.there:
        named = ", ".join(done.there[:5]) + (", …" if len(done.there) > 5 else "")  # noqa: PLR2004 - some examples
        click.echo(f"it has other runs of these ids, which stay where they are: {named}", err=True)
    if done.stayed > len(done.there):
        left = counted(done.stayed - len(done.there), "run")
        click.echo(f"{left} stayed: its parent has not ended, or it went on meanwhile", err=True)
    return 0
