"""``stepwell stream``: what a run writes item after item; without a name, which streams it has."""

from __future__ import annotations

import time
from typing import Final

import click
import msgspec

from stepwell.api.reading.read_service import ReadService
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import json_option, run_argument
from stepwell.cli.printing import moment, print_json, print_table
from stepwell.cli.reading import meant, reads

#: How often the file is looked at for what is new, in seconds.
_LOOK_SECONDS: Final = 0.1
#: How many items are read at a time.
_PAGE: Final = 256


@command(
    "stream",
    "stepwell stream order-42",
    "stepwell stream order-42 tokens",
    "stepwell stream order-42 tokens --follow --last-attempt",
    "stepwell stream order-42 readings --start=-100 --json | jq .value",
)
@run_argument
@click.argument("name", required=False, metavar="[NAME]")
@database_option
@click.option(
    "--follow", is_flag=True, help="Print items as they come, until the stream is closed or its run has ended."
)
@click.option("--start", type=int, default=0, metavar="N", help="The first offset; -10: the last ten items.")
@click.option("--last-attempt", is_flag=True, help="Leave out what a repeated step wrote before.")
@json_option
def stream(run: str, name: str | None, db: str, follow: bool, start: int, last_attempt: bool, as_json: bool) -> int:
    """Print a stream, or which there are."""
    with reads(db) as read:
        run = meant(read, run)
        if name is None:
            return _streams(read, run, as_json=as_json)
        known = [each.name for each in read.streams(run)]
        if name not in known and not follow:
            has = f"it has {', '.join(map(repr, known))}" if known else "it has none"
            click.echo(f"stepwell stream: run {run!r} has no stream {name!r}; {has}", err=True)
            return FAILED
        while True:
            page = read.stream_shown(run, name, start, _PAGE, last_attempt)
            for item in page.items:
                if as_json:
                    click.echo(msgspec.json.encode(item).decode())
                else:
                    tried = f" attempt {item.attempt}" if item.attempt > 1 else ""
                    text = item.value if isinstance(item.value, str) else msgspec.json.encode(item.value).decode()
                    click.echo(f"{moment(item.at)}  {item.offset:>4}{tried}  {text}")
            start = page.following
            if page.over or not (page.has_more or follow):
                return 0
            if not page.has_more:
                time.sleep(_LOOK_SECONDS)


def _streams(read: ReadService, run: str, *, as_json: bool) -> int:
    found = read.streams(run)
    if as_json:
        print_json(found)
        return 0
    rows = [
        (each.name, f"{each.next - each.first:,}", f"{each.first}", "closed" if each.closed else "") for each in found
    ]
    print_table(("STREAM", "ITEMS", "FROM", "STATE"), rows)
    return 0
