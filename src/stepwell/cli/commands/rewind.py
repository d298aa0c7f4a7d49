"""``stepwell rewind``, ``restart`` and ``fork``: from an operation of a run's journal, in place or as another run."""

from __future__ import annotations

from typing import Any, Final

import click

from stepwell.api.blocking.handles import Run
from stepwell.api.engine import Engine
from stepwell.cli.acting import carried_out, client, confirmed, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.many import each_of, one_or_many, operation_of, where_options
from stepwell.cli.options import json_or_text, named, operation_result, reason_option, run_or_many, yes_option
from stepwell.cli.reading import record_of

_results_option: Final = click.option(
    "--result",
    "results",
    multiple=True,
    type=operation_result,
    metavar="OP=VALUE",
    help="Give an operation this result, JSON or else a text; OPERATION itself is not executed then.",
)

_operation_argument: Final = click.argument(
    "operation", type=click.IntRange(min=1), metavar="OPERATION", required=False
)


@command(
    "rewind",
    "stepwell show order-42",
    "stepwell rewind order-42 3 --reason 'the address was wrong'",
    "stepwell rewind order-42 3 --result 3='\"LX-7731\"'",
    "stepwell rewind --where 'workflow:shop.checkout status:failed' 3 --reason 'the address was wrong'",
)
@run_or_many
@_operation_argument
@database_option
@_results_option
@where_options
@yes_option
@reason_option()
def rewind(
    run: str | None,
    operation: int | None,
    db: str,
    results: tuple[tuple[int, Any], ...],
    where: str | None,
    dry_run: bool,
    yes: bool,
    reason: str | None,
) -> int:
    """Rewind runs."""
    run, op = operation_of(run, operation, where)
    one_or_many(run, where, dry_run=dry_run)
    given = dict(results) or None
    if run is None:

        def back(_: Engine, each: Run[Any]) -> None:
            each.rewind(op, results=given, **said(reason))

        return each_of(db, "rewind", where or "", back, yes=yes, dry_run=dry_run)
    record = record_of(db, run)
    what = f"Operation {op} of run {record.id!r}, and all that was asked for after it, will be executed again."
    if not yes and not confirmed(what):
        refuse("stepwell rewind: nothing was done")
        return FAILED
    with client(db) as engine:
        engine.get(record.id).rewind(op, results=given, **said(reason))
        click.echo(f"run {record.id!r} goes on from operation {op}; {carried_out(engine, record, db)}")
    return 0


@command(
    "restart",
    "stepwell restart order-42 --reason 'the new code is out'",
    "stepwell restart order-42 --arg '{\"number\": 43}'",
    "stepwell restart --where 'workflow:shop.report status:completed ended>-1d'",
)
@run_or_many
@database_option
@click.option(
    "--arg", "arguments", multiple=True, type=json_or_text, metavar="ARG", help="Other arguments: JSON, or else texts."
)
@click.option("--kwarg", "kwargs", multiple=True, type=named, metavar="NAME=ARG", help="Another one by its name.")
@where_options
@yes_option
@reason_option()
def restart(
    run: str | None,
    db: str,
    arguments: tuple[Any, ...],
    kwargs: tuple[tuple[str, Any], ...],
    where: str | None,
    dry_run: bool,
    yes: bool,
    reason: str | None,
) -> int:
    """Restart runs."""
    one_or_many(run, where, dry_run=dry_run)

    def begin_again(_engine: Engine, each: Run[Any]) -> None:
        each.restart(*arguments, kwargs=dict(kwargs) or None, **said(reason))

    if run is None:
        return each_of(db, "restart", where or "", begin_again, yes=yes, dry_run=dry_run)
    record = record_of(db, run)
    if not yes and not confirmed(f"All that run {record.id!r} did will be executed again."):
        refuse("stepwell restart: nothing was done")
        return FAILED
    with client(db) as engine:
        begin_again(engine, engine.get(record.id))
        click.echo(f"run {record.id!r} begins again; {carried_out(engine, record, db)}")
    return 0


@command(
    "fork",
    "stepwell fork order-42 3 --id order-42-again --reason 'what if it had been the other warehouse'",
    "stepwell fork order-42 3 --result 2='\"south\"'",
    "stepwell fork --where 'tag:sample status:completed' 3 --reason 'how the new code does'",
)
@run_or_many
@_operation_argument
@database_option
@click.option("--id", "fork_id", metavar="ID", help="The id of the new run; one is generated otherwise.")
@_results_option
@click.option(
    "--arg", "arguments", multiple=True, type=json_or_text, metavar="ARG", help="Other arguments: JSON, or else texts."
)
@click.option("--kwarg", "kwargs", multiple=True, type=named, metavar="NAME=ARG", help="Another one by its name.")
@where_options
@yes_option
@reason_option()
def fork(
    run: str | None,
    operation: int | None,
    db: str,
    fork_id: str | None,
    results: tuple[tuple[int, Any], ...],
    arguments: tuple[Any, ...],
    kwargs: tuple[tuple[str, Any], ...],
    where: str | None,
    dry_run: bool,
    yes: bool,
    reason: str | None,
) -> int:
    """Fork runs; they are not touched, so that nobody is asked about one."""
    run, op = operation_of(run, operation, where)
    one_or_many(run, where, dry_run=dry_run)

    def forked(_engine: Engine, each: Run[Any]) -> Run[Any]:
        given = dict(results) or None
        return each.fork(
            op, id=fork_id, results=given, args=arguments or None, kwargs=dict(kwargs) or None, **said(reason)
        )

    if run is None:
        if fork_id is not None:
            raise click.UsageError("--id names one run; of --where each fork gets an id of its own")
        return each_of(db, "fork", where or "", forked, yes=yes, dry_run=dry_run)
    record = record_of(db, run)
    with client(db) as engine:
        found = forked(engine, engine.get(record.id))
        click.echo(f"run {found.id!r} goes on from operation {op} of {record.id!r}")
        click.echo(carried_out(engine, record, db))
    return 0
