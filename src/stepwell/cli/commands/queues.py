"""``stepwell queues``: queues and limits, how full they are, and what hinders them."""

from __future__ import annotations

import click

from stepwell.api.reading.views import QueueInfo
from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import json_option
from stepwell.cli.printing import for_this_file, print_json, print_table, say
from stepwell.cli.reading import reads
from stepwell.cli.show_run import acts_in_words
from stepwell.definitions.queues import Rate
from stepwell.model.clock import to_seconds
from stepwell.model.durations import duration, length_in_words


@command("queues", "stepwell queues", "stepwell queues --json | jq '.[] | select(.paused)'")
@database_option
@json_option
def queues(db: str, as_json: bool) -> None:
    """List queues and limits."""
    with reads(db) as read:
        found = read.queues()
        acts = {info.name: read.acts_of_queue(info.name)[-1:] for info in found}
    if as_json:
        print_json(found)
        return
    header = ("NAME", "KIND", "STATE", "WAITING", "DELAYED", "RUNNING", "OLDEST WAIT", "BOUNDS")
    print_table(header, [_row(info) for info in found])
    # Below and not beside: a reason is a sentence. That a queue is paused stands in the table.
    hindered = [info for info in found if info.reason is not None and (info.halted or not info.paused)]
    remarks = [f"{info.name}: {for_this_file(info.reason or '', db)}" for info in hindered]
    # Why one is paused, where that was said; that it is stands in the table.
    told = [info.name for info in found if info.paused and any(act.reason for act in acts[info.name])]
    remarks += [f"{name}: {acts_in_words(acts[name])}" for name in told]
    if remarks:
        click.echo()
    for remark in remarks:
        say(remark, "  ")


def _row(info: QueueInfo) -> tuple[str, ...]:
    bounds: dict[str, object] = {
        "concurrency": info.concurrency,
        "per worker": info.per_worker,
        "per partition": info.partition_concurrency,
        "rate": _rate(info.rate),
        "per worker of a partition": info.partition_per_worker,
        "rate of a partition": _rate(info.partition_rate),
    }
    return (
        info.name,
        info.kind,
        "paused" if info.paused else "open",
        str(info.waiting),
        str(info.delayed),
        str(info.running),
        duration(info.oldest_wait_seconds),
        ", ".join(f"{name} {bound}" for name, bound in bounds.items() if bound is not None),
    )


def _rate(rate: Rate | None) -> str | None:
    return None if rate is None else f"{rate.limit} in {length_in_words(to_seconds(rate.per, 'rate'))}"
