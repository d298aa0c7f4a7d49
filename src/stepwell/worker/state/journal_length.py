"""How long the journal of a run may become: a warning long before, and a limit that halts the run, repairably.

A run that comes to memory is replayed from its first entry on, and each entry stays in the file as long as the run
does. So a workflow that goes round for ever becomes slower with every restart, and nothing shows it until it hurts:
Stepwell says it from a tenth of the limit on, again each time that the length has doubled, and at the limit halts the
run. All entries count, those of failed attempts as well.

Pure. The numbers are those of one chapter: what is not replayed any more does not count.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from stepwell.definitions.definition import Workflow
from stepwell.errors import JournalTooLong
from stepwell.worker.state.failure_log import Line, run_fields

#: A run of so many entries is replayed in about four seconds; see docs/adr/0048-long-journals.md.
MAX_JOURNAL_ENTRIES: Final = 200_000

#: From which part of the limit on the log speaks of it.
_FIRST_WARNING: Final = 10


def limit_of(workflow: Workflow[..., Any], limit: int) -> int:
    """Return the limit for the runs of a workflow, given that of the engine."""
    return limit if workflow.max_journal_entries is None else workflow.max_journal_entries


def next_look(entries: int, limit: int) -> int:
    """Return the next length at which there is something to say of a journal that has so many entries now."""
    at = max(1, limit // _FIRST_WARNING)
    while at <= entries:
        at *= 2
    return min(at, limit)


def too_long(run_id: str, workflow: str, entries: int, limit: int) -> JournalTooLong:
    """Return why a run is halted."""
    return JournalTooLong(
        f"run {run_id!r} of workflow {workflow!r} has {entries:,} entries in its journal, and {limit:,} are allowed: "
        "they are all replayed each time that the run comes to memory. Nothing is lost. Have the workflow go on as new "
        "now and then (continue_as_new), or leave parts of its work to child runs; to let this run go on, raise "
        "`max_journal_entries` of the engine (or of the workflow) and resume it"
    )


def is_too_long(reason: str | None) -> bool:
    """Tell whether a run was halted for its length, given why it was halted."""
    return reason is not None and reason.startswith(f"{JournalTooLong.__name__}: ")


def growing_long(key: int, run_id: str, workflow: str, entries: int, limit: int) -> Line:
    """Say that a journal has become long."""
    text = (
        "run %r of %r has %d entries in its journal, which are replayed each time that it comes to memory; at %d it is "
        "halted. Have the workflow go on as new now and then (continue_as_new), or leave parts of it to child runs"
    )
    fields = run_fields(run_id, workflow) | {"entries": entries}
    return Line(key, logging.WARNING, text, (run_id, workflow, entries, limit), None, fields)
