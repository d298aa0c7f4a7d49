"""``stepwell backup``: one backup, or a row of them, of which the newest are kept."""

# ruff: noqa: PTH112, PTH118 -- paths are strings, as the engine takes them

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from stepwell.api.backup import Backup, back_up
from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import count, json_option, span
from stepwell.cli.printing import counted, print_json
from stepwell.cli.progress import progress_bar
from stepwell.errors import StepwellError
from stepwell.model.sizes import size_in_words


@command(
    "backup",
    "stepwell backup orders-today.db",
    "stepwell backup orders-today.db.gz --overwrite",
    "stepwell backup backups/ --every 1h --keep 24",
)
@click.argument("target", metavar="TARGET")
@database_option
@click.option("--overwrite", is_flag=True, help="Replace a backup of the same name.")
@click.option(
    "--every",
    type=span,
    metavar="SPAN",
    help="Make one every SPAN (30m, 6h, 1d), until it is stopped; TARGET is a folder.",
)
@click.option("--keep", type=count, metavar="N", help="Of the backups in the folder keep the newest N.")
@click.option("--compress", is_flag=True, help="Compress what is made in a folder; a file says it by the ending .gz.")
@json_option
def backup(
    target: str,
    db: str,
    overwrite: bool,
    every: timedelta | None,
    keep: int | None,
    compress: bool,
    as_json: bool,
) -> None:
    """Make a backup."""
    in_folder = os.path.isdir(target) or target.endswith(os.sep)
    if not in_folder and (every is not None or keep is not None or compress):
        raise click.UsageError("--every, --keep and --compress make backups in a folder: let TARGET be one")
    if not in_folder:
        _made(db, target, overwrite=overwrite, as_json=as_json)
        return
    Path(target).mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    while True:
        name = f"{Path(db).name}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{'.gz' if compress else ''}"
        try:
            _made(db, os.path.join(target, name), overwrite=False, as_json=as_json)
            if keep is not None:
                _forget(Path(target), Path(db).name, keep)
        except (StepwellError, OSError) as error:
            if every is None:
                raise
            # The next one may succeed, when the disk has room again; what monitors this sees no new file meanwhile.
            click.echo(f"stepwell backup: {error}", err=True)
        if every is None:
            return
        stop.wait(every.total_seconds())


def _made(db: str, target: str, *, overwrite: bool, as_json: bool) -> Backup:
    with progress_bar() as told:
        made = back_up(db, target, overwrite=overwrite, progress=told)
    if as_json:
        print_json(made)
    else:
        size = f"{size_in_words(made.size_bytes)} in {made.took_seconds:.1f} s"
        click.echo(f"{made.path}: {counted(made.runs, 'run')}, {made.entries} journal entries, {size}")
    return made


def _forget(folder: Path, name: str, keep: int) -> None:
    """Remove the oldest backups of a file that this command made; their names sort by time."""
    made = sorted(path for path in folder.glob(f"{name}-*Z*") if path.name.endswith(("Z", "Z.gz")))
    for path in made[:-keep]:
        path.unlink(missing_ok=True)
