"""``stepwell settle``: say how a step of a run ended whose outcome nobody knows."""

from __future__ import annotations

from typing import Any

import click

from stepwell.cli.acting import carried_out, client, confirmed, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import json_or_text, reason_option, run_argument, yes_option
from stepwell.cli.reading import record_of


@command(
    "settle",
    "stepwell show order-42",
    "stepwell settle order-42 3 --result '\"LX-7731\"' --reason 'the bank has it'",
    "stepwell settle order-42 3 --error 'the bank knows nothing of it'",
)
@run_argument
@click.argument("operation", type=click.IntRange(min=1), metavar="OPERATION")
@database_option
@click.option(
    "--result",
    "results",
    multiple=True,
    type=json_or_text,
    metavar="VALUE",
    help="It returned this: JSON, or else a text.",
)
@click.option("--error", metavar="TEXT", help="It failed, and this is why.")
@yes_option
@reason_option()
def settle(
    run: str,
    operation: int,
    db: str,
    results: tuple[Any, ...],
    error: str | None,
    yes: bool,
    reason: str | None,
) -> int:
    """Settle a step."""
    if len(results) + (error is not None) != 1:
        raise click.UsageError("settle takes one of --result VALUE and --error TEXT")
    record = record_of(db, run)
    what = f"Operation {operation} of run {record.id!r} will not be executed any more, and its code goes on with that."
    if not yes and not confirmed(what):
        refuse("stepwell settle: nothing was done")
        return FAILED
    with client(db) as engine:
        handle = engine.get(record.id)
        if error is None:
            handle.settle(operation, result=results[0], **said(reason))
        else:
            handle.settle(operation, error=error, **said(reason))
        click.echo(f"operation {operation} of run {record.id!r} is settled; {carried_out(engine, record, db)}")
    return 0
