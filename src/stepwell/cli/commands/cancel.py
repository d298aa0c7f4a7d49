"""``stepwell cancel``: ask a run to stop."""

from __future__ import annotations

import time
from typing import Any

import click

from stepwell.api.blocking.handles import Run
from stepwell.cli.acting import carried_out, client, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.many import act_on_all, one_or_many, where_options
from stepwell.cli.options import reason_option, run_or_many, yes_option
from stepwell.cli.reading import record_of
from stepwell.model.lifecycle import ENDED


@command(
    "cancel",
    "stepwell cancel order-42 --reason 'ordered twice'",
    "stepwell cancel --where 'workflow:shop.checkout started<-2d' --reason 'too late'",
)
@run_or_many
@database_option
@where_options
@yes_option
@reason_option("Why; the run's result shows it, and `stepwell show`.")
def cancel(run: str | None, db: str, where: str | None, dry_run: bool, yes: bool, reason: str | None) -> int:
    """Cancel runs."""
    one_or_many(run, where, dry_run=dry_run)
    if run is None:
        return act_on_all(db, "cancel", where or "", yes=yes, dry_run=dry_run, reason=reason)
    record = record_of(db, run)
    if record.status in ENDED:
        refuse(f"stepwell cancel: run {record.id!r} is {record.status} already")
        return FAILED
    with client(db) as engine:
        handle = engine.get(record.id)
        handle.cancel(**said(reason))
        if record.status in ("pending", "halted") and _ends(handle):
            click.echo(f"run {record.id!r} is cancelled")
        else:
            click.echo(f"run {record.id!r}: cancellation requested; {carried_out(engine, record, db)}")
    return 0


def _ends(run: Run[Any]) -> bool:
    """Wait a moment for the end of a run that no worker has to carry out: nobody had begun it, or it was halted."""
    for _ in range(20):
        if run.status in ENDED:
            return True
        time.sleep(0.05)
    return False
