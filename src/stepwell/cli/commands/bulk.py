"""``stepwell terminate``, ``delete``, ``bulk``: acts past a run's code, and acts on all runs that a filter matches."""

from __future__ import annotations

from typing import cast, get_args

import click

from stepwell.cli.acting import client, confirmed, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import json_option, reason_option, run_argument, yes_option
from stepwell.cli.printing import print_json
from stepwell.cli.reading import reads, record_of
from stepwell.runtime.requests import BulkAct


@command("terminate", "stepwell terminate order-42 --reason 'its code is gone'")
@run_argument
@database_option
@reason_option("Why; the run's result shows it, and `stepwell show`.")
def terminate(run: str, db: str, reason: str | None) -> None:
    """End a run without its code."""
    record = record_of(db, run)
    with client(db) as engine:
        engine.get(record.id).terminate(**said(reason))
    click.echo(f"run {record.id!r} is terminated")


@command("delete", "stepwell delete order-42 --yes")
@run_argument
@database_option
@yes_option
@reason_option("Why; the log shows it.")
def delete(run: str, db: str, yes: bool, reason: str | None) -> int:
    """Delete a run that has ended, or that nobody has begun."""
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
@click.argument("filter", metavar="FILTER...", nargs=-1, required=True)
@database_option
@yes_option
@click.option("--dry-run", is_flag=True, help="Only count them.")
@reason_option("Why; each of the runs shows it.")
@json_option
def bulk(
    act: str, filter: tuple[str, ...], db: str, yes: bool, dry_run: bool, reason: str | None, as_json: bool
) -> int:
    """Act on all runs that a filter matches."""
    wanted, text = cast("BulkAct", act), " ".join(filter)
    with reads(db) as read:
        number = read.count(read.bulk_filter(wanted, text))
    runs = f"{number} run{'' if number == 1 else 's'}"
    if dry_run:
        click.echo(f"{act} of {runs}")
        return 0
    if not yes and not confirmed(f"{act} of {runs} that match {text!r}."):
        refuse("stepwell bulk: nothing is done")
        return FAILED
    with client(db) as engine:
        done = engine.bulk(wanted, text, **said(reason))
    if as_json:
        print_json(done)
    else:
        left = f", {done.refused} refused: the log says why" if done.refused else ""
        click.echo(f"{act}: {done.seen - done.refused} of {done.total} runs{left}")
    return FAILED if done.refused else 0
