"""``stepwell reschedule``: when a run that waits in a queue begins to wait for its turn."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from stepwell.cli.acting import client, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import moment, reason_option, run_argument, span
from stepwell.cli.reading import record_of


@command(
    "reschedule",
    "stepwell reschedule mail-42 --delay 2h --reason 'their server is down'",
    "stepwell reschedule mail-42 --at 2026-12-24T09:00Z",
    "stepwell reschedule mail-42 --now",
)
@run_argument
@database_option
@click.option("--delay", type=span, metavar="SPAN", help="So long from now (90s, 2h).")
@click.option("--at", type=moment, metavar="TIME", help="Then; without a zone it is local time.")
@click.option("--now", is_flag=True, help="At once.")
@reason_option()
def reschedule(run: str, db: str, delay: timedelta | None, at: datetime | None, now: bool, reason: str | None) -> int:
    """Change the delay of a run that waits in a queue."""
    given = [each for each in (delay, at, 0 if now else None) if each is not None]
    if len(given) != 1:
        refuse("stepwell reschedule: say when, by one of --delay SPAN, --at TIME, --now")
        return FAILED
    record = record_of(db, run)
    with client(db) as engine:
        handle = engine.get(record.id)
        handle.reschedule(given[0], **said(reason))
        info = handle.info()
    click.echo(f"run {record.id!r}: {info.reason or info.status}")
    return 0
