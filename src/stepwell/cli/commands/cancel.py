"""``stepwell cancel``: ask a run to stop."""

from __future__ import annotations

import time
from typing import Any

import click

from stepwell.api.handles import Run
from stepwell.cli.acting import carried_out, client, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import reason_option, run_argument
from stepwell.cli.reading import record_of
from stepwell.model.lifecycle import ENDED


@command("cancel", "stepwell cancel order-42 --reason 'ordered twice'")
@run_argument
@database_option
@reason_option("Why; the run's result shows it, and `stepwell show`.")
def cancel(run: str, db: str, reason: str | None) -> int:
    """Cancel a run."""
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
