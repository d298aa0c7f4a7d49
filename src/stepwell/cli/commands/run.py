"""``stepwell run``: do what is due, and leave; for cron, systemd timers and functions."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from stepwell.api.engine import Engine
from stepwell.cli import logs
from stepwell.cli import modules as loading
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED, USAGE
from stepwell.cli.group import command
from stepwell.cli.options import json_option, seconds
from stepwell.cli.printing import moment, print_json
from stepwell.definitions.definition import registered_workflows


@command("run", "stepwell run shop.flows --until-idle", "stepwell run flows.py --until-idle --timeout 50 --json")
@click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
@database_option
@click.option("--until-idle", is_flag=True, help="End as soon as nothing is due; say when something is due next.")
@click.option("--timeout", type=seconds, metavar="SECONDS", help="End after SECONDS even if work is left: exit code 1.")
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="warning",
    show_default=True,
    help="What is logged to standard error.",
)
@json_option
def run(
    modules: tuple[str, ...], db: str, until_idle: bool, timeout: float | None, log_level: str, as_json: bool
) -> int:
    """Do what is due."""
    if not until_idle:
        raise click.UsageError("`stepwell run` needs --until-idle; `stepwell worker` serves a file until it is stopped")
    try:
        loading.load(modules)
        if not registered_workflows():
            raise loading.ModuleProblem(
                f"{', '.join(modules)}: no workflow is defined there; decorate a function with @workflow"
            )
    except loading.ModuleProblem as problem:
        click.echo(f"{problem.traceback_text}stepwell run: {problem}", err=True)
        return USAGE
    logs.configure(log_level)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with Engine(db) as engine:
            due_at = engine.run_until_idle(timeout)
    except TimeoutError as error:
        click.echo(f"stepwell run: {error}", err=True)
        return FAILED
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        print_json({"next_due_at": due_at})
    else:
        click.echo("nothing is due any more" if due_at is None else f"nothing is due before {moment(due_at)}")
    return 0


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """Close the file in order; what is under way is done again by whoever comes next."""
    sys.exit(128 + number)
