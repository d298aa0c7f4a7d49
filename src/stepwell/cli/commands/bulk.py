"""``stepwell terminate``, ``delete``, ``bulk``: acts past a run's code, and acts on all runs that a filter matches."""

from __future__ import annotations

from typing import cast, get_args

import click

from stepwell.cli.acting import client, confirmed, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.many import act_on_all, one_or_many, where_options
from stepwell.cli.options import filters, json_option, reason_option, run_or_many, yes_option
from stepwell.cli.reading import record_of
from stepwell.runtime.serving.requests import BulkAct


@command(
    "terminate",
    "stepwell terminate order-42 --reason 'its code is gone'",
    "stepwell terminate --where 'workflow:shop.old status:running' --reason 'its code is gone'",
)
@run_or_many
@database_option
@where_options
@yes_option
@reason_option("Why; the run's result shows it, and `stepwell show`.")
def terminate(run: str | None, db: str, where: str | None, dry_run: bool, yes: bool, reason: str | None) -> int:
    """End runs without their code."""
    one_or_many(run, where, dry_run=dry_run)
    if run is None:
        return act_on_all(db, "terminate", where or "", yes=yes, dry_run=dry_run, reason=reason)
    record = record_of(db, run)
    with client(db) as engine:
        engine.get(record.id).terminate(**said(reason))
    click.echo(f"run {record.id!r} is terminated")
    return 0


@command("delete", "stepwell delete order-42 --yes", "stepwell delete --where 'tag:test ended<-1d' --dry-run")
@run_or_many
@database_option
@where_options
@yes_option
@reason_option("Why; the log shows it.")
def delete(run: str | None, db: str, where: str | None, dry_run: bool, yes: bool, reason: str | None) -> int:
    """Delete runs that have ended, or that nobody has begun."""
    one_or_many(run, where, dry_run=dry_run)
    if run is None:
        return act_on_all(db, "delete", where or "", yes=yes, dry_run=dry_run, reason=reason)
    record = record_of(db, run)
    if not yes and not confirmed(f"Run {record.id!r}, its journal and its values will be gone."):
        refuse("stepwell delete: nothing is done")
        return FAILED
    with client(db) as engine:
        engine.get(record.id).delete(**said(reason))
    click.echo(f"run {record.id!r} is deleted")
    return 0


@command(
    "bulk",
    "stepwell bulk retry 'status:failed workflow:shop.checkout started>-2h'",
    "stepwell bulk pause workflow:shop.checkout --reason 'the shop is down' --yes",
)
@click.argument("act", type=click.Choice(get_args(BulkAct)))
@click.argument("filter", metavar="FILTER...", nargs=-1, required=True, shell_complete=filters)
@database_option
@yes_option
@click.option("--dry-run", is_flag=True, help="Only count them.")
@reason_option("Why; each of the runs shows it.")
@json_option
def bulk(
    act: str, filter: tuple[str, ...], db: str, yes: bool, dry_run: bool, reason: str | None, as_json: bool
) -> int:
    """Act on all runs that a filter matches."""
    text = " ".join(filter)
    return act_on_all(db, cast("BulkAct", act), text, yes=yes, dry_run=dry_run, reason=reason, as_json=as_json)
