"""``stepwell start``: record the start of a run, by the name of its workflow."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import click

from stepwell.api.asking.options import StartOptions
from stepwell.cli.acting import client, missing_worker, refuse
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import (
    attribute,
    json_or_text,
    named,
    note_option,
    queue_names,
    seconds,
    span,
    tag_option,
    workflow_names,
)
from stepwell.cli.printing import print_json
from stepwell.model.attributes import AttributeValue


@command(
    "start",
    "stepwell start shop.checkout '{\"number\": 42}' --id order-42",
    "stepwell start report 2026 --kwarg lines=10 --queue nightly --priority 5",
    "stepwell start report 2026 --wait 60",
    "stepwell start step:shop.mail '\"ada\"'",
)
@click.argument("workflow", metavar="WORKFLOW", shell_complete=workflow_names)
@click.argument("arguments", nargs=-1, type=json_or_text, metavar="[ARG]...")
@database_option
@click.option("--kwarg", "kwargs", multiple=True, type=named, metavar="NAME=ARG", help="An argument by its name.")
@click.option("--id", metavar="TEXT", help="The run's id; the same id again gives the same run.")
@click.option(
    "--on-conflict",
    type=click.Choice(["attach", "reject", "replace"]),
    help="Where a run has the id: get it, be refused, or have it cancelled and begin when it has ended.",
)
@click.option(
    "--reuse",
    type=click.Choice(["never", "after-failure", "always"]),
    help="Whether the id of a run that has ended may be used again.",
)
@click.option("--queue", metavar="NAME", shell_complete=queue_names, help="The queue in which it waits for its turn.")
@click.option("--priority", type=int, metavar="N", help="In the queue: higher goes first.")
@click.option("--delay", type=span, metavar="SPAN", help="In the queue: how long until it begins to wait (90s, 2h).")
@click.option("--dedup", metavar="TEXT", help="In the queue: a key; one run with it at a time.")
@click.option(
    "--on-duplicate",
    type=click.Choice(["attach", "reject"]),
    help="Where a run has the dedup key: get it, or be refused. By default as the queue says.",
)
@click.option(
    "--debounce",
    type=span,
    metavar="SPAN",
    help="With a dedup key: begin SPAN after the last start with it, with the input of that start.",
)
@click.option(
    "--debounce-limit", type=span, metavar="SPAN", help="But at the latest SPAN after the first of these starts."
)
@click.option("--partition", metavar="TEXT", help="In the queue: whose share it belongs to.")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    type=attribute,
    metavar="NAME=VALUE",
    help="An attribute to find it by (may be given again).",
)
@tag_option
@note_option
@click.option("--wait", type=seconds, metavar="SECONDS", help="Wait up to SECONDS for its end, and print its result.")
def start(
    workflow: str,
    arguments: tuple[Any, ...],
    db: str,
    kwargs: tuple[tuple[str, Any], ...],
    id: str | None,
    on_conflict: str | None,
    reuse: str | None,
    queue: str | None,
    priority: int | None,
    delay: timedelta | None,
    dedup: str | None,
    on_duplicate: str | None,
    debounce: timedelta | None,
    debounce_limit: timedelta | None,
    partition: str | None,
    attributes: tuple[tuple[str, AttributeValue], ...],
    tags: tuple[str, ...],
    note: str | None,
    wait: float | None,
) -> int:
    """Start a run."""
    given: dict[str, Any] = {
        "kwargs": dict(kwargs) or None,
        "id": id,
        "on_conflict": on_conflict,
        "reuse": reuse,
        "queue": queue,
        "priority": priority,
        "delay": delay,
        "dedup": dedup,
        "on_duplicate": on_duplicate,
        "debounce": debounce,
        "debounce_limit": debounce_limit,
        "partition": partition,
        "attributes": dict(attributes) or None,
        "tags": tags or None,
        "note": note,
    }
    options = cast("StartOptions", {name: each for name, each in given.items() if each is not None})
    with client(db) as engine:
        run = engine.start(workflow, *arguments, **options)
        click.echo(run.id, err=wait is not None)
        missing = missing_worker(engine, [workflow], queue, db)
        if missing is not None:
            click.echo(missing, err=True)
        if wait is None:
            return 0
        try:
            print_json(run.result(timeout=wait))
        except Exception as error:  # noqa: BLE001 - whatever the workflow raised, which may be a TimeoutError too
            if isinstance(error, TimeoutError) and run.info().ended_at is None:
                refuse(f"stepwell start: run {run.id!r} has not ended after {wait:g} s; it goes on")
            else:
                refuse(f"stepwell start: run {run.id!r}: {type(error).__name__}: {error}")
            return FAILED
    return 0
