"""``stepwell resume``: have a halted run tried again, or a waiting one read again."""

from __future__ import annotations

import click

from stepwell.cli.acting import carried_out, client, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.many import each_of, one_or_many, where_options
from stepwell.cli.options import reason_option, run_or_many, yes_option
from stepwell.cli.reading import record_of
from stepwell.model.lifecycle import RETRIABLE


@command(
    "resume",
    "stepwell resume order-42 --reason 'the new code is out'",
    "stepwell resume --where 'status:halted workflow:shop.checkout'",
)
@run_or_many
@database_option
@where_options
@yes_option
@reason_option()
def resume(run: str | None, db: str, where: str | None, dry_run: bool, yes: bool, reason: str | None) -> int:
    """Resume runs."""
    one_or_many(run, where, dry_run=dry_run)
    if run is None:
        text = where or ""
        if text.strip() and "status:" not in text:
            text += " status:halted"
        return each_of(db, "resume", text, lambda _, each: each.resume(**said(reason)), yes=yes, dry_run=dry_run)
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
