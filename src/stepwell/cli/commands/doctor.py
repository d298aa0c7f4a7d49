"""``stepwell doctor``: what is wrong with a file, or will be soon, and what to do."""

from __future__ import annotations

import click

from stepwell.api.doctor import Diagnosis, examine
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.options import json_option
from stepwell.cli.printing import coloured, for_this_file, print_json, print_table, say
from stepwell.model.durations import duration

#: How each severity is shown.
_MARKS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}
_BELOW = " " * 11


@command("doctor", "stepwell doctor", "stepwell doctor --json || notify-the-people-on-call")
@database_option
@json_option
def doctor(db: str, as_json: bool) -> int:
    """Examine a file."""
    found = examine(db)
    if as_json:
        print_json(found)
    else:
        _print(found, db)
    return 0 if found.ok else FAILED


def _print(found: Diagnosis, db: str) -> None:
    for finding in found.findings:
        mark = coloured(_MARKS[finding.severity].ljust(8), finding.severity)
        say(f"{mark} {finding.about}: {for_this_file(finding.text, db)}", _BELOW)
        if finding.remedy:
            say(f"{_BELOW}{for_this_file(finding.remedy, db)}", _BELOW)
    if found.facts.steps:
        click.echo("\nThe steps that took longest of late:")
        rows = [
            (step.name, str(step.calls), duration(step.mean_seconds), duration(step.longest_seconds))
            for step in found.facts.steps
        ]
        print_table(("STEP", "CALLS", "MEAN", "LONGEST"), rows)
