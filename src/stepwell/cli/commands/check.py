"""``stepwell check``: do the runs of a file go on with this code? For a pipeline, before the code is deployed."""

from __future__ import annotations

from collections import Counter

import click

from stepwell.api.check import Check, PatchCheck, RunCheck
from stepwell.api.check import check as check_runs
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED, USAGE
from stepwell.cli.group import command
from stepwell.cli.modules import ModuleProblem, load
from stepwell.cli.options import json_option
from stepwell.cli.printing import counted, print_json
from stepwell.cli.progress import progress_bar

#: How many runs of one kind are shown in full, unless all are asked for.
_SHOWN = 10


@command(
    "check",
    "stepwell check shop.flows --db orders.db",
    "stepwell check shop.flows --db backups/orders.db.gz --json",
)
@click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
@database_option
@click.option("--all", "show_all", is_flag=True, help=f"Show every run that does not go on, not {_SHOWN} of a kind.")
@click.option("--missing-ok", is_flag=True, help="Runs of workflows that these modules do not have are no problem.")
@json_option
def check(modules: tuple[str, ...], db: str, show_all: bool, missing_ok: bool, as_json: bool) -> int:
    """Check the runs in flight."""
    try:
        load(modules)
    except ModuleProblem as problem:
        click.echo(f"{problem.traceback_text}stepwell check: {problem}", err=True)
        return USAGE
    with progress_bar() as told:
        found = check_runs(db, progress=lambda done, total: told("replaying runs", done, total))
    if as_json:
        print_json(found)
    else:
        _print(found, shown=len(found.problems) if show_all else _SHOWN)
    counted_ones = [problem for problem in found.problems if not (missing_ok and problem.verdict == "no code")]
    return FAILED if counted_ones else 0


def _print(found: Check, *, shown: int) -> None:
    click.echo(f"{found.path}: {found.goes_on} of {counted(found.runs, 'run')} in flight go on with this code")
    seen: Counter[tuple[str, str]] = Counter()
    for problem in found.problems:
        kind = problem.workflow, problem.verdict
        seen[kind] += 1
        if seen[kind] <= shown:
            _print_problem(problem)
    for (workflow, verdict), number in seen.items():
        if number > shown:
            click.echo(f"  and {number - shown} more of {workflow} ({verdict}); --all shows them")
    for one in found.versions:
        here = "" if one.is_here else ", which is not here: they were tried with the one that is"
        click.echo(f"  version {one.version} of {one.workflow}: {counted(one.runs, 'run')} in flight{here}")
    for patch in found.patches:
        click.echo(f"  patch {patch.name!r} of {patch.workflow}: {_advice(patch)}")


def _print_problem(problem: RunCheck) -> None:
    click.echo(f"\n{problem.id} ({problem.workflow}, {problem.status}): {problem.verdict}")
    for line in problem.reason.splitlines():
        click.echo(f"  {line}")


def _advice(patch: PatchCheck) -> str:
    if not patch.is_needed:
        return "no run needs it: the call and the way of before can be removed"
    if patch.old or patch.unknown:
        unknown = f", of {counted(patch.unknown, 'run')} it is not known" if patch.unknown else ""
        return f"keep it: {counted(patch.old, 'run')} on the way of before, {patch.new} on the new one{unknown}"
    return f"the way of before can be removed; keep the call, {counted(patch.new, 'run')} recorded it"
