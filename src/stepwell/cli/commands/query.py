"""``stepwell query``: ask a run what its code knows."""

from __future__ import annotations

from typing import Any

import click

from stepwell.api.reading.querying import query_in_file
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED, USAGE
from stepwell.cli.group import command
from stepwell.cli.modules import ModuleProblem, load
from stepwell.cli.options import json_or_text, named, run_argument
from stepwell.cli.printing import print_json
from stepwell.cli.reading import record_of
from stepwell.errors import StepwellError


@command(
    "query",
    "stepwell query basket-7 total --module shop.flows",
    "stepwell query basket-7 total 10 --kwarg item=fig --module shop/flows.py",
)
@run_argument
@click.argument("name", metavar="NAME")
@click.argument("arguments", nargs=-1, type=json_or_text, metavar="[ARG]...")
@database_option
@click.option("--module", "modules", multiple=True, required=True, metavar="MODULE", help="What defines its workflow.")
@click.option("--kwarg", "kwargs", multiple=True, type=named, metavar="NAME=ARG", help="An argument by its name.")
def query(
    run: str,
    name: str,
    arguments: tuple[Any, ...],
    db: str,
    modules: tuple[str, ...],
    kwargs: tuple[tuple[str, Any], ...],
) -> int:
    """Ask a run."""
    try:
        load(modules)
    except ModuleProblem as problem:
        click.echo(f"{problem.traceback_text}stepwell query: {problem}", err=True)
        return USAGE
    try:
        print_json(query_in_file(db, record_of(db, run).id, name, arguments, dict(kwargs)))
    except StepwellError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the handler raised
        click.echo(f"stepwell query: {type(error).__name__}: {error}", err=True)
        return FAILED
    return 0
