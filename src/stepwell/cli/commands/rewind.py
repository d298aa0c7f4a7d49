"""``stepwell rewind``, ``restart`` and ``fork``: from an operation of a run's journal, in place or as another run."""

from __future__ import annotations

from typing import Any, Final

import click

from stepwell.cli.acting import carried_out, client, confirmed, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import json_or_text, named, operation_result, reason_option, run_argument, yes_option
from stepwell.cli.reading import record_of

_results_option: Final = click.option(
    "--result",
    "results",
    multiple=True,
    type=operation_result,
    metavar="OP=VALUE",
    help="Give an operation this result, JSON or else a text; OPERATION itself is not executed then.",
)


@command(
    "rewind",
    "stepwell show order-42",
    "stepwell rewind order-42 3 --reason 'the address was wrong'",
    "stepwell rewind order-42 3 --result 3='\"LX-7731\"'",
)
@run_argument
@click.argument("operation", type=click.IntRange(min=1), metavar="OPERATION")
@database_option
@_results_option
@yes_option
@reason_option()
def rewind(
    run: str, operation: int, db: str, results: tuple[tuple[int, Any], ...], yes: bool, reason: str | None
) -> int:
    """Rewind a run."""
    record = record_of(db, run)
    what = f"Operation {operation} of run {record.id!r}, and all that was asked for after it, will be executed again."
    if not yes and not confirmed(what):
        refuse("stepwell rewind: nothing was done")
        return FAILED
    with client(db) as engine:
        engine.get(record.id).rewind(operation, results=dict(results) or None, **said(reason))
        click.echo(f"run {record.id!r} goes on from operation {operation}; {carried_out(engine, record, db)}")
    return 0


@command(
    "restart",
    "stepwell restart order-42 --reason 'the new code is out'",
    "stepwell restart order-42 --arg '{\"number\": 43}'",
)
@run_argument
@database_option
@click.option(
    "--arg", "arguments", multiple=True, type=json_or_text, metavar="ARG", help="Other arguments: JSON, or else texts."
)
@click.option("--kwarg", "kwargs", multiple=True, type=named, metavar="NAME=ARG", help="Another one by its name.")
@yes_option
@reason_option()
def restart(
    run: str,
    db: str,
    arguments: tuple[Any, ...],
    kwargs: tuple[tuple[str, Any], ...],
    yes: bool,
    reason: str | None,
) -> int:
    """Restart a run."""
    record = record_of(db, run)
    if not yes and not confirmed(f"All that run {record.id!r} did will be executed again."):
        refuse("stepwell restart: nothing was done")
        return FAILED
    with client(db) as engine:
        engine.get(record.id).restart(*arguments, kwargs=dict(kwargs) or None, **said(reason))
        click.echo(f"run {record.id!r} begins again; {carried_out(engine, record, db)}")
    return 0


@command(
    "fork",
    "stepwell fork order-42 3 --id order-42-again --reason 'what if it had been the other warehouse'",
    "stepwell fork order-42 3 --result 2='\"south\"'",
)
@run_argument
@click.argument("operation", type=click.IntRange(min=1), metavar="OPERATION")
@database_option
@click.option("--id", "fork_id", metavar="ID", help="The id of the new run; one is generated otherwise.")
@_results_option
@click.option(
    "--arg", "arguments", multiple=True, type=json_or_text, metavar="ARG", help="Other arguments: JSON, or else texts."
)
@click.option("--kwarg", "kwargs", multiple=True, type=named, metavar="NAME=ARG", help="Another one by its name.")
@reason_option()
def fork(
    run: str,
    operation: int,
    db: str,
    fork_id: str | None,
    results: tuple[tuple[int, Any], ...],
    arguments: tuple[Any, ...],
    kwargs: tuple[tuple[str, Any], ...],
    reason: str | None,
) -> int:
    """Fork a run; it is not touched, so nobody is asked."""
    record = record_of(db, run)
    with client(db) as engine:
        found = engine.get(record.id).fork(
            operation,
            id=fork_id,
            results=dict(results) or None,
            args=arguments or None,
            kwargs=dict(kwargs) or None,
            **said(reason),
        )
        click.echo(f"run {found.id!r} goes on from operation {operation} of {record.id!r}")
        click.echo(carried_out(engine, record, db))
    return 0
