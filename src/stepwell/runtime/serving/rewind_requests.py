"""Serves what callers ask about the past of a run: to rewind it to an operation, or to restart it.

Unlike a retry, it is done to runs that have not ended as well. What its children have to do with it: as in
`stepwell.runtime.serving.retry_requests`, and in one commit as well.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from msgspec.structs import replace

from stepwell.errors import InvalidArgument, RunNotEnded, RunNotFound
from stepwell.model.acts import ActKind
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import RunRecord
from stepwell.runtime.serving.requests import RewindRun
from stepwell.runtime.serving.retry_requests import RetryRequests
from stepwell.store.acts import ActRecorded
from stepwell.store.changes import CancelRequested
from stepwell.worker.repair.rewinding import Rewinding, halted_on_trial, rewound
from stepwell.worker.state.child_ids import prefix_of_children
from stepwell.worker.state.facts import CancelArrived, RunsTaken
from stepwell.worker.state.failure_log import run_fields
from stepwell.worker.state.unit_of_work import Reply, UnitOfWork
from stepwell.worker.worker import Worker

_log: Final = logging.getLogger("stepwell")


class RewindRequests:
    """Turns requests to rewind into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker, retries: RetryRequests) -> None:
        self._worker = worker
        self._retries = retries

    def rewind(self, request: RewindRun, reply: Reply) -> None:
        """Serve a `RewindRun`."""
        record = self._found(request.run_id)
        entries = self._retries.journal(record.key)
        results = dict(request.results)
        plan = rewound(
            record, entries, request.to, self._worker.now, self._worker.kinds, results=results, given=request.given
        )
        if results or request.given is not None:
            self._try(record, plan)
        family = list(self._retries.with_children(record, plan))
        work = self._worker.batch.lone_work()
        self._take_out(record, work)
        now, actor = self._worker.now, request.actor
        act: ActKind = "restart" if request.to is None else "rewind"
        for each, change in family:
            did: ActKind = act if each is record else "retry"
            work.changes += [change, ActRecorded(did, now, *actor, run_id=each.id)]
        self._cancel_undone(record, plan, work)
        self._retries.expect(family, work)
        work.afterwards(partial(self._log_it, record, plan))
        work.answer(reply, None)

    def _found(self, run_id: str) -> RunRecord:
        """Return a run that can be rewound as it is now."""
        record = self._worker.runs.find(run_id)
        if record is None:
            raise RunNotFound(f"no run has the id {run_id!r}: it was never started, or has been purged")
        what = ""
        if record.status == "running" or record.key in self._worker.batch.ending or self._retries.is_coming(record.key):
            what = f"{record.status}: its code or one of its steps is under way"
        elif record.owner is not None and record.owner != self._worker.runs.epoch:
            what = f"{record.status}, in the memory of worker {record.owner}"
        elif (run := self._worker.runs.loaded(run_id)) is not None and (run.status == "running" or not run.can_leave()):
            what = "about to go on"
        if what:
            raise RunNotEnded(
                f"run {run_id!r} is {what}, so it cannot be changed now. Wait until it rests, or cancel it first; or "
                "ask the program that has it in memory"
            )
        return record

    def _try(self, record: RunRecord, plan: Rewinding) -> None:
        """Raise `InvalidArgument` where today's code would not go on with what it is given."""
        workflow = self._worker.runs.workflows.fitting(record.workflow, record.version)
        if workflow is None or not (plan.entries or plan.change.has_input):
            return
        if plan.change.has_input:
            record = replace(record, input=plan.change.input)
        halted = halted_on_trial(self._worker.executions, record, workflow, plan.entries)
        if halted is not None:
            raise InvalidArgument(
                f"run {record.id!r} would not go on with that, so nothing was changed. "
                f"{type(halted).__name__}: {halted}"
            )

    def _take_out(self, record: RunRecord, work: UnitOfWork) -> None:
        """Have a run leave memory that rests there; it is read anew after the commit, whatever becomes of that."""
        run = self._worker.runs.loaded(record.id)
        if run is None:
            return
        work.absorb(self._worker.let_go(run))
        work.extra.unread.append(record.key)
        self._worker.batch.unread.add(record.key)
        work.if_refused(lambda _error: self._worker.runs.later(RunsTaken([record.key])))

    def _cancel_undone(self, record: RunRecord, plan: Rewinding, work: UnitOfWork) -> None:
        """Cancel the children that what is undone has started, where others will be started in their place."""
        prefix, codec = prefix_of_children(record.id), self._worker.codec
        for payload in plan.undone:
            child = self._worker.runs.find(codec.decode(payload, str, "the id of a child"))
            if child is None or child.parent != record.key or not child.attached or child.status in ENDED:
                continue
            if child.id.startswith(prefix):
                reason = f"what started it in run {record.id!r} was undone"
                work.then(CancelRequested(child.id, self._worker.now, reason), CancelArrived)

    def _log_it(self, record: RunRecord, plan: Rewinding) -> None:
        text = "run %r of %r, which was %s, is %s; %d entries of its journal are kept"
        arguments = record.id, record.workflow, record.status, plan.change.how, len(plan.entries)
        _log.info(text, *arguments, extra=run_fields(record.id, record.workflow))
