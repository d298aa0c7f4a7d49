"""``stepwell send``: send a message to a run."""

from __future__ import annotations

from typing import Any

import click

from stepwell.cli.acting import carried_out, client
from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import json_or_text, run_argument
from stepwell.cli.reading import record_of


@command("send", "stepwell send order-42 approval true", 'stepwell send order-42 note \'{"by": "ada"}\' --key note-1')
@run_argument
@click.argument("name", metavar="NAME")
@click.argument("value", type=json_or_text, metavar="[VALUE]", default=None, required=False)
@database_option
@click.option("--key", metavar="TEXT", help="A second message with this key to the same run is dropped.")
def send(run: str, name: str, value: Any, db: str, key: str | None) -> None:
    """Send a message."""
    record = record_of(db, run)
    with client(db) as engine:
        engine.send(record.id, name, value, key=key)
        click.echo(f"run {record.id!r}: message {name!r} is recorded; {carried_out(engine, record, db)}")
