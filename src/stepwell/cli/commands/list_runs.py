"""``stepwell list``: runs, newest first, each with what matters about it; or how many there are of each kind."""

from __future__ import annotations

import sys
import time
from typing import Any, get_args

import click

from stepwell.api.reading.read_service import ReadService
from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import count, filters, json_option, seconds, workflow_names
from stepwell.cli.printing import for_this_file, on_terminal, print_json, print_table, when
from stepwell.cli.reading import reads
from stepwell.model.lifecycle import STATUSES, Status
from stepwell.store.inspector import CountGroup

#: How many runs are listed where nothing is said.
_LISTED = 50


@command(
    "list",
    "stepwell list --status failed --status halted",
    "stepwell list 'status:failed workflow:shop.checkout started>-2h'",
    "stepwell list customer=acme tag:vip order:-started",
    "stepwell list --counts --by workflow status:failed",
    "stepwell list status:running,waiting --watch 2",
    "stepwell list --json | jq '.[].id'",
)
@click.argument("filter", metavar="[FILTER]...", nargs=-1, shell_complete=filters)
@database_option
@click.option(
    "--status", multiple=True, type=click.Choice(STATUSES), help="Only runs in this state (may be given again)."
)
@click.option("--workflow", metavar="W", shell_complete=workflow_names, help="Only runs of this workflow.")
@click.option("--id-prefix", metavar="TEXT", help="Only runs whose id begins so.")
@click.option("--limit", type=count, default=_LISTED, show_default=True, metavar="N", help="At most N runs.")
@click.option("--before", metavar="RUN", help="The page after the one that ended with this run.")
@click.option("--roots", is_flag=True, help="Only runs that no other run started: no children.")
@click.option("--counts", is_flag=True, help="How many there are, in place of the runs.")
@click.option("--by", type=click.Choice(get_args(CountGroup)), default="status", help="Of what --counts counts each.")
@click.option("--watch", type=seconds, metavar="SECONDS", help="Repeat the listing every SECONDS, until it is stopped.")
@json_option
def list_runs(
    filter: tuple[str, ...],
    db: str,
    status: tuple[Status, ...],
    workflow: str | None,
    id_prefix: str | None,
    limit: int,
    before: str | None,
    roots: bool,
    counts: bool,
    by: CountGroup,
    watch: float | None,
    as_json: bool,
) -> None:
    """List runs."""
    text = " ".join(filter)
    if counts and (status or workflow or id_prefix or roots):
        raise click.UsageError("--counts takes a filter: status:failed workflow:W id:TEXT* parent:none")

    def look(read: ReadService) -> None:
        if counts:
            _print_counts(read.counts(text, by), by, as_json=as_json)
            return
        options = {"status": status or None, "workflow": workflow, "id_prefix": id_prefix, "roots": roots}
        _print_runs(read, text, db, limit, before, as_json=as_json, **options)

    while True:
        with reads(db) as read:
            if watch is not None and on_terminal():
                click.clear()
            look(read)
        if watch is None:
            return
        sys.stdout.flush()
        time.sleep(max(watch, 0.1))


def _print_runs(
    read: ReadService, text: str, db: str, limit: int, before: str | None, *, as_json: bool, **options: Any
) -> None:
    found = read.infos(text, limit=limit, before=before, **options)
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


def _print_counts(found: dict[str, int], by: str, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_table(
        (by.upper(), "RUNS"),
        [*((name or "(none)", f"{number:,}") for name, number in found.items()), ("all", f"{sum(found.values()):,}")],
    )
