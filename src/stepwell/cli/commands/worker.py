"""``stepwell worker``: one process that serves a file, or several below a supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import click

from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import count, names, seconds
from stepwell.cli.worker_options import WorkerOptions

#: How long steps under way have to end after the first signal, in seconds.
_DRAIN_TIMEOUT_SECONDS = 30.0


@command(
    "worker",
    "stepwell worker shop.flows --db orders.db",
    "stepwell worker flows.py --processes 4 --queues mails,reports",
)
@click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
@database_option
@click.option("--processes", type=count, default=1, show_default=True, metavar="N", help="How many worker processes.")
@click.option("--max-running", type=count, metavar="N", help="How many runs each may have under way at once.")
@click.option("--step-threads", type=count, metavar="N", help="How many `def` steps each executes at once.")
@click.option(
    "--step-processes", type=count, metavar="N", help="How many steps with isolate='process' each executes at once."
)
@click.option(
    "--queues",
    type=names,
    metavar="A,B",
    help="The queues to take runs from, besides runs in none.  [default: all]",
)
@click.option(
    "--durability",
    type=click.Choice(("full", "normal")),
    help="full: commits survive power loss; normal: only the death of the process.  [default: full]",
)
@click.option(
    "--drain-timeout",
    type=seconds,
    default=_DRAIN_TIMEOUT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long steps under way have to end after the first SIGTERM or SIGINT; a second signal ends them at once.",
)
@click.option(
    "--take-over-stalled-after",
    type=seconds,
    metavar="SECONDS",
    help="Take over the runs of another worker that has not answered for SECONDS.  [default: never]",
)
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    help="What is logged to standard error.  [default: info]",
)
# For the supervisor's children only: the socket through which they are told to stop, and notice its death.
@click.option("--control-descriptor", type=int, hidden=True)
@click.pass_obj
def worker(
    line: Sequence[str],
    modules: tuple[str, ...],
    db: str,
    processes: int,
    max_running: int | None,
    step_threads: int | None,
    step_processes: int | None,
    queues: list[str] | None,
    durability: Literal["full", "normal"] | None,
    drain_timeout: float,
    take_over_stalled_after: float | None,
    log_level: str | None,
    control_descriptor: int | None,
) -> int:
    """Serve a file."""
    if processes > 1 and control_descriptor is None:
        from stepwell.cli import supervisor

        return supervisor.run(line, db, processes, drain_timeout, log_level)
    from stepwell.cli.worker import run

    given = {
        "max_running": max_running,
        "step_threads": step_threads,
        "step_processes": step_processes,
        "queues": queues,
        "durability": durability,
        "take_over_stalled_after": take_over_stalled_after,
    }
    return run(
        WorkerOptions(
            modules=modules,
            db=db,
            drain_timeout=drain_timeout,
            log_level=log_level,
            control_descriptor=control_descriptor,
            engine={name: value for name, value in given.items() if value is not None},
        )
    )
