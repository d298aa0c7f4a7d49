"""``stepwell resume``: have a halted run tried again, or a waiting one read again."""

from __future__ import annotations

import click

from stepwell.cli.acting import carried_out, client, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import reason_option, run_argument
from stepwell.cli.reading import record_of
from stepwell.model.lifecycle import RETRIABLE


@command("resume", "stepwell resume order-42 --reason 'the new code is out'")
@run_argument
@database_option
@reason_option()
def resume(run: str, db: str, reason: str | None) -> int:
    """Resume a run."""
    record = record_of(db, run)
    if record.status not in ("halted", "waiting"):
        what = "only a halted or a waiting run is resumed"
        if record.status in RETRIABLE:
            what += f"; `stepwell retry {record.id} --db {db}` brings it back"
        refuse(f"stepwell resume: run {record.id!r} is {record.status}; {what}")
        return FAILED
    with client(db) as engine:
        engine.get(record.id).resume(**said(reason))
        done = "read again" if record.status == "waiting" else "tried again"
        click.echo(f"run {record.id!r} is to be {done}; {carried_out(engine, record, db)}")
    return 0
