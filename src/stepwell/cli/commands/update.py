"""``stepwell update``: have a run answer a request."""

from __future__ import annotations

from typing import Any

import click

from stepwell.api.blocking.talking import unanswered
from stepwell.cli.acting import carried_out, client, refuse
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import json_or_text, named, run_argument, seconds
from stepwell.cli.printing import print_json
from stepwell.cli.reading import record_of
from stepwell.errors import UpdateFailed


@command(
    "update",
    "stepwell update order-7 add fig --key click-1",
    "stepwell update order-7 add fig --kwarg number=3 --wait 60",
)
@run_argument
@click.argument("name", metavar="NAME")
@click.argument("arguments", nargs=-1, type=json_or_text, metavar="[ARG]...")
@database_option
@click.option("--kwarg", "kwargs", multiple=True, type=named, metavar="NAME=ARG", help="An argument by its name.")
@click.option("--key", metavar="TEXT", help="The same key again gives the same answer.")
@click.option(
    "--wait", type=seconds, metavar="SECONDS", default=10.0, show_default=True, help="How long to wait for the answer."
)
def update(
    run: str,
    name: str,
    arguments: tuple[Any, ...],
    db: str,
    kwargs: tuple[tuple[str, Any], ...],
    key: str | None,
    wait: float,
) -> int:
    """Have a run answer an update."""
    record = record_of(db, run)
    with client(db) as engine:
        codec = engine._session.codec
        request = engine._session.requests.update(record.id, name, arguments, dict(kwargs), key)
        try:
            found = engine._wait(unanswered(request), wait, request)
        except TimeoutError as error:
            refuse(f"stepwell update: {error}. {carried_out(engine, record, db)}")
            return FAILED
    if found.failed:
        raised = codec.failure_to_raise(found.payload, UpdateFailed)
        name_of_error = "" if isinstance(raised, UpdateFailed) else f"{type(raised).__name__}: "
        refuse(f"stepwell update: {name_of_error}{raised}")
        return FAILED
    print_json(codec.show(found.payload, "the answer"))
    return 0
