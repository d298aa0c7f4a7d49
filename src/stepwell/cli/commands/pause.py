"""``stepwell pause`` and ``unpause``: whether anything starts from a queue, or under a limit."""

from __future__ import annotations

import click

from stepwell.cli.acting import client, said
from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import reason_option
from stepwell.cli.reading import reads


@command("pause", "stepwell pause mails --reason 'the provider is down'")
@click.argument("queue", metavar="QUEUE")
@database_option
@reason_option("Why; `stepwell queues` shows it.")
def pause(queue: str, db: str, reason: str | None) -> None:
    """Pause a queue or limit."""
    kind = _kind(queue, db)
    with client(db) as engine:
        engine.queue(queue).pause(**said(reason))
    click.echo(f"{kind} {queue!r} is paused")


@command("unpause", "stepwell unpause mails")
@click.argument("queue", metavar="QUEUE")
@database_option
@reason_option("Why; `queue.acts()` returns it.")
def unpause(queue: str, db: str, reason: str | None) -> None:
    """Open a queue or limit again."""
    kind = _kind(queue, db)
    with client(db) as engine:
        engine.queue(queue).resume(**said(reason))
    click.echo(f"{kind} {queue!r} is open")


def _kind(queue: str, db: str) -> str:
    with reads(db) as read:
        return read.queue(queue).kind
