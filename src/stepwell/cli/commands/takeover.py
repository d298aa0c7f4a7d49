"""``stepwell takeover``: fence a stalled worker, and release its runs."""

from __future__ import annotations

import click

from stepwell.api.reading.views import WorkerInfo
from stepwell.cli.acting import client, confirmed, refuse, said
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import count, reason_option, yes_option
from stepwell.cli.printing import counted
from stepwell.errors import InvalidArgument


@command("takeover", "stepwell workers", "stepwell takeover 7 --reason 'its machine is frozen'")
@click.argument("epoch", type=count, metavar="EPOCH")
@database_option
@yes_option
@reason_option()
def takeover(epoch: int, db: str, yes: bool, reason: str | None) -> int:
    """Take the runs of a worker."""
    with client(db) as engine:
        found = next((worker for worker in engine.workers() if worker.epoch == epoch), None)
        if found is None:
            raise InvalidArgument(f"{db} has no worker {epoch} now; `stepwell workers --db {db}` lists them")
        if not yes and not confirmed(_question(found)):
            refuse("stepwell takeover: nothing was done")
            return FAILED
        released = engine.take_over(epoch, **said(reason))
    click.echo(f"worker {epoch} is fenced; {counted(released, 'run')} of it can go on elsewhere")
    return 0


def _question(worker: WorkerInfo) -> str:
    return (
        f"Worker {worker.epoch} (process {worker.pid} on {worker.host}) is {worker.state} and has "
        f"{counted(worker.runs, 'run')}. Steps that it has under way will be executed again elsewhere."
    )
