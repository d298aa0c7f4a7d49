"""``stepwell settle``: say how a step of a run ended whose outcome nobody knows."""

from __future__ import annotations

from typing import Any

import click

from stepwell.api.blocking.handles import Run
from stepwell.api.engine import Engine
from stepwell.cli.acting import carried_out, client, confirmed, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.many import each_of, one_or_many, operation_of, where_options
from stepwell.cli.options import json_or_text, reason_option, run_or_many, yes_option
from stepwell.cli.reading import record_of


@command(
    "settle",
    "stepwell show order-42",
    "stepwell settle order-42 3 --result '\"LX-7731\"' --reason 'the bank has it'",
    "stepwell settle order-42 3 --error 'the bank knows nothing of it'",
    "stepwell settle --where 'status:halted workflow:shop.pay' 3 --error 'the bank knows nothing of it'",
)
@run_or_many
@click.argument("operation", type=click.IntRange(min=1), metavar="OPERATION", required=False)
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
@where_options
@yes_option
@reason_option()
def settle(
    run: str | None,
    operation: int | None,
    db: str,
    results: tuple[Any, ...],
    error: str | None,
    where: str | None,
    dry_run: bool,
    yes: bool,
    reason: str | None,
) -> int:
    """Settle steps."""
    if len(results) + (error is not None) != 1:
        raise click.UsageError("settle takes one of --result VALUE and --error TEXT")
    run, op = operation_of(run, operation, where)
    one_or_many(run, where, dry_run=dry_run)

    def settled(_engine: Engine, each: Run[Any]) -> None:
        if error is None:
            each.settle(op, result=results[0], **said(reason))
        else:
            each.settle(op, error=error, **said(reason))

    if run is None:
        return each_of(db, "settle", where or "", settled, yes=yes, dry_run=dry_run)
    record = record_of(db, run)
    what = f"Operation {op} of run {record.id!r} will not be executed any more, and its code goes on with that."
    if not yes and not confirmed(what):
        refuse("stepwell settle: nothing was done")
        return FAILED
    with client(db) as engine:
        settled(engine, engine.get(record.id))
        click.echo(f"operation {op} of run {record.id!r} is settled; {carried_out(engine, record, db)}")
    return 0
