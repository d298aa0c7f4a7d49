"""Acts on all runs that a filter matches, by the option ``--where`` of each act: counted first, and asked about.

What the engine does as one act (pause, cancel, …) is one row of the file, and goes on after a crash. The others are
done run by run; what some runs refuse is said, and hinders no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from stepwell.api.asking.listing_options import MAX_PAGE
from stepwell.api.blocking.handles import Run
from stepwell.api.engine import Engine
from stepwell.cli.acting import client, confirmed, refuse, said
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.options import filters
from stepwell.cli.printing import counted, print_json
from stepwell.cli.reading import reads
from stepwell.errors import StepwellError
from stepwell.runtime.serving.requests import BulkAct

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: How many refusals are shown.
_SHOWN: Final = 10


def where_options(function: _Function) -> _Function:
    """Give an act the parameters `where` and `dry_run`."""
    where = click.option(
        "--where", metavar="FILTER", shell_complete=filters, help="All runs that match, as `stepwell list` finds them."
    )
    return where(click.option("--dry-run", is_flag=True, help="Of --where: only count them.")(function))


def one_or_many(run: object, where: str | None, *, dry_run: bool) -> None:
    """Raise `click.UsageError` unless either a run is named or a filter."""
    if (run is None or run == ()) == (where is None):
        raise click.UsageError("name a run, or say which ones: --where FILTER")
    if dry_run and where is None:
        raise click.UsageError("--dry-run counts the runs of --where FILTER")


def operation_of(run: str | None, operation: int | None, where: str | None) -> tuple[str | None, int]:
    """Return run and operation; with a filter, the operation is the only thing that is named."""
    if where is not None and operation is None and run is not None:
        if not run.isdecimal() or int(run) < 1:
            raise click.UsageError(f"OPERATION must be a whole number of at least 1, not {run!r}")
        return None, int(run)
    if operation is None:
        raise click.UsageError("say which OPERATION, as `stepwell show` numbers them")
    return run, operation


def act_on_all(
    db: str, act: BulkAct, text: str, *, yes: bool, dry_run: bool, reason: str | None, as_json: bool = False
) -> int:
    """Do an act to all runs that match, as the engine does it; return the exit code."""
    with reads(db) as read:
        number = read.count(read.bulk_filter(act, text))
    if (code := _ended_by_counting(act, text, number, yes=yes, dry_run=dry_run)) is not None:
        return code
    with client(db) as engine:
        done = engine.bulk(act, text, **said(reason))
    if as_json:
        print_json(done)
    else:
        left = f", {done.refused} refused: the log says why" if done.refused else ""
        click.echo(f"{act}: {done.seen - done.refused} of {done.total} runs{left}")
    return FAILED if done.refused else 0


def each_of(db: str, act: str, text: str, do: Callable[[Engine, Run[Any]], object], *, yes: bool, dry_run: bool) -> int:
    """Do something to each run that matches, the newest first; return the exit code."""
    if not text.strip():
        raise click.UsageError(f"to {act} every run there is is seldom meant: say which, as in 'workflow:checkout'")
    with reads(db) as read:
        ids = [record.id for record in read.records(text, limit=MAX_PAGE)]
    if (code := _ended_by_counting(act, text, len(ids), yes=yes, dry_run=dry_run)) is not None:
        return code
    refusals: list[str] = []
    with client(db) as engine:
        for run_id in ids:
            try:
                do(engine, engine.get(run_id))
            except StepwellError as error:
                refusals.append(str(error))
    click.echo(f"{act}: {len(ids) - len(refusals)} of {counted(len(ids), 'run')}")
    for line in refusals[:_SHOWN]:
        refuse(f"stepwell {act}: {line}")
    if len(refusals) > _SHOWN:
        refuse(f"stepwell {act}: and {len(refusals) - _SHOWN} more were refused")
    return FAILED if refusals else 0


def _ended_by_counting(act: str, text: str, number: int, *, yes: bool, dry_run: bool) -> int | None:
    """Say how many runs are meant, and ask; return the exit code where that was all."""
    runs = counted(number, "run")
    if dry_run:
        click.echo(f"{act} of {runs}")
        return 0
    if yes or confirmed(f"{act} of {runs} that match {text!r}."):
        return None
    refuse(f"stepwell {act}: nothing is done")
    return FAILED
