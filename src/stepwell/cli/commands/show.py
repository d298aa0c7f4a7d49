"""``stepwell show``: one run."""

from __future__ import annotations

import time
from typing import Final

import click
import msgspec

from stepwell.api.reading.progress_views import ProgressInfo
from stepwell.api.reading.read_service import ReadService
from stepwell.api.reading.views import JournalEntry
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import count, json_option, run_argument
from stepwell.cli.printing import moment, on_terminal
from stepwell.cli.reading import meant, reads
from stepwell.cli.show_run import journal_row, show_run
from stepwell.model.lifecycle import ENDED

#: How often the file is looked at for what is new, in seconds.
_LOOK_SECONDS: Final = 0.5


@command(
    "show",
    "stepwell show order-42",
    "stepwell show order-42 --follow",
    "stepwell show order-42 --tail 20",
    "stepwell show order-42 --json | jq .result",
)
@run_argument
@database_option
@click.option("--tail", type=count, metavar="N", help="Only the last N lines of its journal.")
@click.option("--follow", is_flag=True, help="Print journal entries as they are recorded, until it has ended.")
@click.option(
    "--tree/--table", default=None, help="Its operations as a tree (on a terminal), or its journal as a table."
)
@json_option
def show(run: str, db: str, tail: int | None, follow: bool, tree: bool | None, as_json: bool) -> int:
    """Show a run."""
    with reads(db) as read:
        run = meant(read, run)
        if follow:
            return _follow(read, run, tail, as_json=as_json)
        if not as_json and (on_terminal() if tree is None else tree):
            from stepwell.cli.run_tree import draw, print_tree  # which brings what draws

            print_tree(draw(read, run, db, tail=tail))
            return 0
        details = read.details(run)
    show_run(details, db, tail=tail, as_json=as_json)
    return 0


def _follow(read: ReadService, run: str, tail: int | None, *, as_json: bool) -> int:
    """Print entries of the journal as they come; return when the run has ended, with 0 where it completed."""
    after = 0
    told: dict[tuple[int, str], ProgressInfo] = {}
    while True:
        info = read.info(run)  # before its journal, whose last line must not be missed
        entries = read.journal_after(run, after)
        if entries:
            after = entries[-1].position
        for entry in entries if tail is None else entries[-tail:]:
            _print_entry(entry, as_json=as_json)
        tail = None
        for each in info.progress:
            if told.get((each.operation, each.kind)) != each:
                told[each.operation, each.kind] = each
                _print_progress(each, as_json=as_json)
        if info.status in ENDED or info.status == "halted":
            if not as_json:
                remark = f": {info.remark}" if info.remark else ""
                click.echo(f"run {run!r} is {info.status}{remark}")
            return 0 if info.status == "completed" else FAILED
        time.sleep(_LOOK_SECONDS)


def _print_progress(progress: ProgressInfo, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"progress": progress}).decode())
        return
    click.echo(f"{moment(progress.at)}  {progress.operation:>4} progress {progress.name}  {progress.words}")


def _print_entry(entry: JournalEntry, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(entry).decode())
        return
    operation, kind, name, _, attempt, value = journal_row(entry)
    tried = f" attempt {attempt}" if attempt else ""
    click.echo(f"{moment(entry.at)}  {operation:>4} {kind} {name}{tried}  {value}".rstrip())
