"""Runs that cannot go on because a run that they wait for is halted, told from those that merely wait.

Whoever waits for the end of such a run would wait for ever: until somebody repairs the halted one.
"""

from __future__ import annotations

from typing import Final

from stepwell.errors import SerializationError
from stepwell.model.run import RunRecord
from stepwell.model.waits import decode_waits
from stepwell.store.inspector import Inspector, RunFilter
from stepwell.store.worker_reads import WorkerReads

#: How many halted runs are looked at; the rest would say the same.
_MOST: Final = 1000


def stuck_runs(inspector: Inspector, reads: WorkerReads) -> dict[int, tuple[RunRecord, RunRecord]]:
    """Return, by key, the runs that wait for nothing but halted runs, and each with one that is halted.

    Directly or by way of others that do. A run with a deadline is none of them: it ends then.
    """
    halted = inspector.list_runs(RunFilter(status=("halted",), limit=_MOST))
    still = {record.id for record in halted}
    found: dict[int, tuple[RunRecord, RunRecord]] = {}
    causes = [(record, record) for record in halted]
    while causes:  # one generation at a time, from the halted ones upwards
        parents: dict[int, RunRecord] = {}
        for record, cause in causes:
            if record.parent is not None:
                parents.setdefault(record.parent, cause)
        causes.clear()
        for parent in reads.facts([key for key in parents if key not in found]):
            if parent.id not in still and _waits_only_for(parent, still):
                found[parent.key] = parent, parents[parent.key]
                causes.append(found[parent.key])
        still.update(record.id for record, _ in causes)
    return found


def _waits_only_for(run: RunRecord, still: set[str]) -> bool:
    if run.status != "waiting" or run.deadline_at is not None or run.cancel_requested_at is not None:
        return False
    try:
        waits = decode_waits(run.waiting_on)
    except SerializationError:
        return False
    return bool(waits) and all(wait.kind == "run" and wait.name in still for wait in waits)


def why_stuck(run: RunRecord, cause: RunRecord) -> str:
    """Return the reason of a run that is stuck, as that of a halted one is written."""
    return (
        f"RunHalted: run {run.id!r} waits for run {cause.id!r}, which is halted, and for nothing else: "
        f"{cause.reason}. Repair that and resume {cause.id!r}, or resume {run.id!r}, which resumes what it waits for"
    )
