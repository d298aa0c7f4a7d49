"""``stepwell verify``: is a file, or a backup, whole; and do its journals replay?"""

from __future__ import annotations

import click
import msgspec

from stepwell.api.backup import verify as look_through
from stepwell.cli.database import found
from stepwell.cli.exit_codes import FAILED, USAGE
from stepwell.cli.group import command
from stepwell.cli.modules import ModuleProblem, load
from stepwell.cli.options import json_option
from stepwell.cli.printing import counted, print_json
from stepwell.cli.progress import progress_bar


@command(
    "verify",
    "stepwell verify orders.db",
    "stepwell verify backups/orders.db.gz --json",
    "stepwell verify backups/orders.db.gz --module shop.flows",
)
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--db", metavar="FILE", help="The same; by default the file that other commands take.")
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="And replay the journals of the runs that have not ended, of workflows in this module (may be given again).",
)
@json_option
def verify(file: str | None, db: str | None, modules: tuple[str, ...], as_json: bool) -> int:
    """Look through a file."""
    if file is not None and db is not None:
        raise click.UsageError("verify looks through one file: name it as FILE, or by --db")
    file = file or db or found()
    try:
        load(modules)
    except ModuleProblem as problem:
        click.echo(f"{problem.traceback_text}stepwell verify: {problem}", err=True)
        return USAGE
    with progress_bar() as told:
        result = look_through(file, progress=told)
        replayed = failed = 0
        problems = list(result.problems)
        if modules and result.ok:
            from stepwell.api.check import check

            replay = check(file, progress=lambda done, total: told("replaying runs", done, total))
            broken = [run for run in replay.problems if run.verdict != "no code"]  # of code that was not given
            replayed, failed = replay.goes_on + len(broken), len(broken)
            problems += [f"the journal of run {run.id!r} does not replay: {run.reason}" for run in broken]
    if as_json:
        shown = {**msgspec.structs.asdict(result), "problems": problems}
        print_json({**shown, "replayed": replayed} if modules else shown)
    elif not problems:
        what = f"{counted(result.runs, 'run')}, {result.entries} journal entries, schema {result.schema}"
        more = f"; {counted(replayed, 'journal')} of runs that go on replayed" if modules else ""
        click.echo(f"{file} is whole: {what}{more}")
    else:
        of_replay = failed and result.ok
        click.echo(f"{file} is whole, but does not fit this code:" if of_replay else f"{file} is damaged:")
        for line in problems:
            click.echo(f"  {line}")
    return FAILED if problems else 0
