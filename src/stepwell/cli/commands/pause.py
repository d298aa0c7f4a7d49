"""``stepwell pause`` and ``unpause``: of a run, or of a queue or limit, so that nothing starts from it, or under it.

What is named is a run where the file has a run of that id, else a queue or limit; ``--queue`` and ``--run`` say which
is meant where both have the name.
"""

from __future__ import annotations

import click

from stepwell.cli.acting import client, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import USAGE
from stepwell.cli.group import command
from stepwell.cli.many import act_on_all, one_or_many, where_options
from stepwell.cli.options import ids_and_queues, reason_option, yes_option
from stepwell.cli.reading import reads
from stepwell.errors import RunNotFound

_which = click.option(
    "--run/--queue", "is_run", default=None, help="Whether a run is named, or a queue or limit; else it is found out."
)
_children = click.option("--children", is_flag=True, help="Of a run: and all runs below it that have not ended.")


@command(
    "pause",
    "stepwell pause order-42 --reason 'the shop is down'",
    "stepwell pause mails",
    "stepwell pause --where workflow:shop.checkout --reason 'the shop is down'",
)
@click.argument("name", metavar="[RUN_OR_QUEUE]", required=False, shell_complete=ids_and_queues)
@database_option
@_which
@_children
@where_options
@yes_option
@reason_option("Why; `stepwell show` or `stepwell queues` shows it.")
def pause(
    name: str | None,
    db: str,
    is_run: bool | None,
    children: bool,
    where: str | None,
    dry_run: bool,
    yes: bool,
    reason: str | None,
) -> int:
    """Pause a run, a queue or a limit, or all runs that match."""
    one_or_many(name, where, dry_run=dry_run)
    if name is None:
        return act_on_all(db, "pause", where or "", yes=yes, dry_run=dry_run, reason=reason)
    found = _found(name, db, is_run=is_run, children=children)
    if found is None:
        return USAGE
    with client(db) as engine:
        if found == "run":
            engine.get(name).pause(children=children, **said(reason))
            state = engine.get(name).status
            click.echo(f"run {name!r} is {'paused' if state == 'paused' else 'to pause when its steps have ended'}")
        else:
            engine.queue(name).pause(**said(reason))
            click.echo(f"{found} {name!r} is paused")
    return 0


@command("unpause", "stepwell unpause order-42", "stepwell unpause mails", "stepwell unpause --where id:order-*")
@click.argument("name", metavar="[RUN_OR_QUEUE]", required=False, shell_complete=ids_and_queues)
@database_option
@_which
@_children
@where_options
@yes_option
@reason_option("Why; `stepwell show` or `stepwell queues` shows it.")
def unpause(
    name: str | None,
    db: str,
    is_run: bool | None,
    children: bool,
    where: str | None,
    dry_run: bool,
    yes: bool,
    reason: str | None,
) -> int:
    """Let paused runs go on, or open a queue or limit again."""
    one_or_many(name, where, dry_run=dry_run)
    if name is None:
        return act_on_all(db, "unpause", where or "", yes=yes, dry_run=dry_run, reason=reason)
    found = _found(name, db, is_run=is_run, children=children)
    if found is None:
        return USAGE
    with client(db) as engine:
        if found == "run":
            engine.get(name).unpause(children=children, **said(reason))
            click.echo(f"run {name!r} goes on")
        else:
            engine.queue(name).unpause(**said(reason))
            click.echo(f"{found} {name!r} is open")
    return 0


def _found(name: str, db: str, *, is_run: bool | None, children: bool) -> str | None:
    """Return what is named: ``run``, ``queue`` or ``limit``; None where that was refused."""
    with reads(db) as read:
        queues = read.queue_names()
        if is_run is not False:
            try:
                read.record(name)
            except RunNotFound:
                if is_run:
                    raise
            else:
                if is_run is None and name in queues:
                    refuse(f"stepwell pause: there are a run and a queue {name!r}; say --run or --queue")
                    return None
                return "run"
        if children:
            refuse(f"stepwell pause: {name!r} is a queue or limit, which has no children")
            return None
        return read.queue(name).kind
