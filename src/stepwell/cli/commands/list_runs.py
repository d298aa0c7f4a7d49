"""``stepwell list``: runs, newest first, each with what matters about it."""

from __future__ import annotations

import sys

import click

from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import count, json_option
from stepwell.cli.printing import for_this_file, print_json, print_table, when
from stepwell.cli.reading import reads
from stepwell.model.lifecycle import STATUSES, Status

#: How many runs are listed where nothing is said.
_LISTED = 50


@command(
    "list",
    "stepwell list --status failed --status halted",
    "stepwell list --workflow shop.checkout --roots --limit 10",
    "stepwell list 'status:failed workflow:shop.checkout started>-2h'",
    "stepwell list --json | jq '.[].id'",
)
@click.argument("filter", metavar="[FILTER]...", nargs=-1)
@database_option
@click.option(
    "--status", multiple=True, type=click.Choice(STATUSES), help="Only runs in this state (may be given again)."
)
@click.option("--workflow", metavar="W", help="Only runs of this workflow.")
@click.option("--id-prefix", metavar="TEXT", help="Only runs whose id begins so.")
@click.option("--limit", type=count, default=_LISTED, show_default=True, metavar="N", help="At most so many.")
@click.option("--roots", is_flag=True, help="Only runs that no other run started: no children.")
@json_option
def list_runs(
    filter: tuple[str, ...],
    db: str,
    status: tuple[Status, ...],
    workflow: str | None,
    id_prefix: str | None,
    limit: int,
    roots: bool,
    as_json: bool,
) -> None:
    """List runs."""
    with reads(db) as read:
        found = read.infos(
            " ".join(filter),
            status=status or None,
            workflow=workflow,
            id_prefix=id_prefix,
            limit=limit,
            roots=roots,
        )
    if as_json:
        print_json(found)
        return
    rows = [
        (info.id, info.workflow, info.status, when(info.created_at), for_this_file(info.remark, db)) for info in found
    ]
    print_table(("ID", "WORKFLOW", "STATUS", "CREATED", "REMARK"), rows)
    if len(found) == limit:  # what is not shown must not seem not to be there
        sys.stdout.flush()
        click.echo(f"These are the newest {limit}; --limit shows more.", err=True)
