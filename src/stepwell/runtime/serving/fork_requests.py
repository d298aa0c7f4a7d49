"""Serves what callers ask about forks: another run that begins with what a run has up to an operation."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from stepwell.errors import InvalidArgument, RunConflict, RunNotFound
from stepwell.model.run import RunRecord
from stepwell.runtime.serving.requests import ForkRun
from stepwell.store.acts import ActRecorded
from stepwell.store.forks import Origin, RunForked
from stepwell.store.inspector import Inspector
from stepwell.worker.repair.forking import as_forked, forked, origin_of
from stepwell.worker.repair.rewinding import Rewinding, halted_on_trial, rewound
from stepwell.worker.running.starting import no_workflow
from stepwell.worker.state.failure_log import run_fields
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker

_log: Final = logging.getLogger("stepwell")


class ForkRequests:
    """Turns requests to fork into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker, inspector: Inspector) -> None:
        self._worker = worker
        self._inspector = inspector

    def fork(self, request: ForkRun, reply: Reply) -> None:
        """Serve a `ForkRun`."""
        worker, results = self._worker, dict(request.results)
        record = worker.runs.find(request.run_id)
        snapshots = [] if record is None else worker.runs.reads.load([record.key])
        if record is None or not snapshots:
            raise RunNotFound(f"no run has the id {request.run_id!r}: it was never started, or has been purged")
        record = worker.executions.with_items(snapshots[0])
        origin = origin_of(record, request.to, results, request.given)
        existing = worker.runs.find(request.fork_id)
        if existing is not None:
            self._check_same(existing, origin)
            reply(existing.id, None)
            return
        entries, now = snapshots[0].entries, worker.now
        plan = rewound(record, entries, request.to, now, worker.kinds, results=results)
        reason = None if record.workflow in worker.runs.workflows else no_workflow(record.workflow)
        change = forked(record, plan, request.fork_id, origin, request.given, reason)
        self._try(record, change, plan)
        work = worker.batch.lone_work()
        work.then(change, partial(self._created, record, change, reply), partial(reply, None))
        work.changes.append(ActRecorded("fork", now, *request.actor, run_id=request.fork_id))

    def _check_same(self, existing: RunRecord, origin: Origin) -> None:
        """Raise `RunConflict` unless a run that has the id is the same fork."""
        for chapter in self._inspector.chapters(existing.key)[:1]:
            if (chapter.forked_from, chapter.forked_op, chapter.forked_as) == (
                *(origin.run_id, origin.op, origin.checksum),
            ):
                return
        raise RunConflict(
            f"there is a run {existing.id!r} already (of {existing.workflow}, {existing.status}), which is not this "
            f"fork of run {origin.run_id!r}; choose another id"
        )

    def _try(self, source: RunRecord, change: RunForked, plan: Rewinding) -> None:
        """Raise `InvalidArgument` where today's code would not go on so: it may say its run's id to what is kept."""
        worker = self._worker
        workflow = worker.runs.workflows.get(source.workflow)
        if workflow is None or not plan.entries:
            return
        halted = halted_on_trial(worker.executions, as_forked(source, change), workflow, plan.entries)
        if halted is not None:
            raise InvalidArgument(
                f"a fork of run {source.id!r} would not go on like that, so none was made. "
                f"{type(halted).__name__}: {halted}"
            )

    def _created(self, source: RunRecord, change: RunForked, reply: Reply, _key: int) -> None:
        self._worker.claims.work_may_exist = True
        if source.queue is not None:
            self._worker.runs.queue_touched(source.queue)
        text = "run %r of %r is forked from operation %d of run %r; %d entries of that are kept"
        arguments = change.id, source.workflow, change.origin.op, source.id, len(change.kept)
        _log.info(text, *arguments, extra=run_fields(change.id, source.workflow))
        reply(change.id, None)
