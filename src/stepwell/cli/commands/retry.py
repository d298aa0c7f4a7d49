"""``stepwell retry``: bring failed and cancelled runs back, some by their ids or all that match."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, TypedDict

import click

from stepwell.cli.acting import carried_out, client, confirmed, missing_worker, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.many import act_on_all, one_or_many, where_options
from stepwell.cli.options import ids, reason_option, since, workflow_names, yes_option
from stepwell.cli.printing import counted
from stepwell.cli.reading import reads
from stepwell.errors import InvalidArgument, RunEnded, RunNotEnded, RunUndone


class _Filters(TypedDict):
    status: Sequence[Literal["failed", "cancelled", "halted"]] | None
    workflow: str | None
    started_since: datetime | timedelta | None
    id_prefix: str | None


@command(
    "retry",
    "stepwell retry order-42 order-43",
    "stepwell retry --workflow shop.checkout --started-since 24h --dry-run",
    "stepwell retry --where 'status:failed customer=acme' --reason 'the bank answers again'",
)
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=ids)
@database_option
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(("failed", "cancelled", "halted")),
    help="All runs in this state (may be given again; by default failed, where another option is given).",
)
@click.option("--workflow", metavar="W", shell_complete=workflow_names, help="Only runs of this workflow.")
@click.option("--id-prefix", metavar="TEXT", help="Only runs whose id begins so.")
@click.option(
    "--started-since",
    type=since,
    metavar="TIME",
    help="Only runs that began then or later: 90m, 24h, 7d ago, or a time as 2026-11-27T16:00Z.",
)
@where_options
@yes_option
@reason_option()
def retry(
    runs: tuple[str, ...],
    db: str,
    status: tuple[Literal["failed", "cancelled", "halted"], ...],
    workflow: str | None,
    id_prefix: str | None,
    started_since: datetime | timedelta | None,
    where: str | None,
    dry_run: bool,
    yes: bool,
    reason: str | None,
) -> int:
    """Bring runs back."""
    filters: _Filters = {
        "status": status or None,
        "workflow": workflow,
        "started_since": started_since,
        "id_prefix": id_prefix,
    }
    if runs:
        if dry_run or any(value is not None for value in filters.values()):
            raise InvalidArgument("either name runs, or say which ones by options, not both")
        one_or_many(runs, where, dry_run=dry_run)
        return _retry_each(runs, db, reason)
    if where is not None:
        if any(value is not None for value in filters.values()):
            raise InvalidArgument("say which runs either by --where or by the other options, not by both")
        return act_on_all(db, "retry", where, yes=yes, dry_run=dry_run, reason=reason)
    return _retry_all(filters, db, dry_run=dry_run, yes=yes, reason=reason)


def _retry_all(filters: _Filters, db: str, *, dry_run: bool, yes: bool, reason: str | None) -> int:
    with client(db) as engine:
        count = engine.retry_all(**filters, dry_run=True)
        click.echo(f"{counted(count, 'run')} would be retried" if dry_run else f"{counted(count, 'run')} to retry")
        if dry_run or not count:
            return 0
        if not yes and not confirmed("Steps that failed, and what followed them, will be executed again."):
            refuse("stepwell retry: nothing was done")
            return FAILED
        done = engine.retry_all(**filters, **said(reason))
        workflow = filters["workflow"]
        missing = missing_worker(engine, [] if workflow is None else [workflow], None, db)
        click.echo(f"{counted(done, 'run')} retried, and what came along; {missing or 'workers carry them on'}")
        if done < count:
            refuse(f"stepwell retry: {counted(count - done, 'run')} cannot be brought back now: the log says why")
            return FAILED
    return 0


def _retry_each(runs: Sequence[str], db: str, reason: str | None) -> int:
    with reads(db) as read:
        records = {run: read.record(run) for run in runs}
    code = 0
    with client(db) as engine:
        for run in runs:
            try:
                engine.get(run).retry(**said(reason))
                click.echo(f"run {run!r} is to be carried on; {carried_out(engine, records[run], db)}")
            except (RunEnded, RunNotEnded, RunUndone) as error:
                refuse(f"stepwell retry: {error}")
                code = FAILED
    return code
