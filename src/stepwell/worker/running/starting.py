"""The one way in which runs come to be, whoever asks: a caller, a caller's transaction, another run.

1. `RunCreated` says what is asked for. Callers' starts are made in `api.asking.request_factory`, those of a run in
   `stepwell.operations`.
2. `planned` says how it is written: whether the run can run at once, and if not, why.
3. `add_start` makes it part of a unit of work, together with what the queue must be told. (A caller's transaction
   writes by itself, on the caller's thread; the same changes.)
4. After the commit `started` says which run there is, or raises why there is none for this start.
5. The fact `RunStarted` brings the run to life: `stepwell.worker.arriving.arrivals`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell.worker.rules.conflicts import conflict_of

if TYPE_CHECKING:  # see `stepwell.worker.state.operation_kinds`
    from stepwell.store.changes import Created, RunCreated
    from stepwell.store.queues import QueueDeclared
    from stepwell.values.codec import Codec
    from stepwell.worker.state.facts import Fact
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import Refusal, UnitOfWork


def planned(runs: Runs, start: RunCreated, *, admitted: bool) -> RunCreated:
    """Return a start as it is written: pending in its queue or, where it is not admitted, until a worker has room."""
    if start.entry is not None:
        return start if start.status == "pending" else replace(start, status="pending")
    if admitted:
        return start
    reason = None if start.workflow in runs.workflows else no_workflow(start.workflow)
    return replace(start, status="pending", reason=reason)


def add_start(
    runs: Runs,
    start: RunCreated,
    work: UnitOfWork,
    on_commit: Callable[[RunCreated, Created], Fact | None],
    on_refusal: Refusal | None = None,
) -> None:
    """Make a start part of a unit of work; `on_commit` gets it as it was written, and what became of it."""
    start = planned(runs, start, admitted=runs.admits(start.workflow))
    if start.entry is not None:
        runs.declare(start.entry.queue, work)
        runs.queue_touched(start.entry.queue)
        runs.entered_queue(start)
    runs.creating(start)
    if start.told is None:
        work.then(start, lambda created: on_commit(start, created), on_refusal)
    else:
        work.told(start, lambda created: on_commit(start, created))


def declaration_of(runs: Runs, start: RunCreated, now: int) -> list[QueueDeclared]:
    """Return what must be written before a start, where not by `add_start`: that the file knows its queue."""
    return [] if start.entry is None else runs.declarations.of(start.entry.queue, now)


def started(codec: Codec, start: RunCreated, created: Created) -> str:
    """Return the id of the run that there is after a start; raises the reason why the start must not have it."""
    refusal = conflict_of(codec, start, created)
    if refusal is not None:
        raise refusal
    return start.id if created.existing is None else created.existing.id


def no_workflow(name: str) -> str:
    """Say why a run of an unknown workflow is pending."""
    return f"no worker here has the workflow {name!r}; the run waits for one that does"
