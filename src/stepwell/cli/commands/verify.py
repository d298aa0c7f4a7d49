"""``stepwell verify``: is a file, or a backup, whole?"""

from __future__ import annotations

import click

from stepwell.api.backup import verify as look_through
from stepwell.cli.database import found
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import json_option
from stepwell.cli.printing import counted, print_json
from stepwell.cli.progress import progress_bar


@command("verify", "stepwell verify orders.db", "stepwell verify backups/orders.db.gz --json")
@click.argument("file", metavar="FILE", default=found)
@json_option
def verify(file: str, as_json: bool) -> int:
    """Look through a file."""
    with progress_bar() as told:
        result = look_through(file, progress=told)
    if as_json:
        print_json(result)
    elif result.ok:
        what = f"{counted(result.runs, 'run')}, {result.entries} journal entries, schema {result.schema}"
        click.echo(f"{file} is whole: {what}")
    else:
        click.echo(f"{file} is damaged:")
        for problem in result.problems:
            click.echo(f"  {problem}")
    return 0 if result.ok else FAILED
