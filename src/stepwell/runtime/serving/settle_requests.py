"""Serves what callers say of steps whose outcome nobody knows: interrupted, stuck, or acted without a result."""

from __future__ import annotations

from functools import partial
from typing import Final

from stepwell.errors import InvalidArgument, RunEnded, RunNotFound
from stepwell.model.journal import CUT_OFF, Entry
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import RunRecord
from stepwell.runtime.serving.requests import SettleStep
from stepwell.runtime.serving.retry_requests import RetryRequests
from stepwell.store.acts import ActRecorded
from stepwell.store.changes import RunResumed
from stepwell.store.claims import RunWoken
from stepwell.store.settlements import StepSettled
from stepwell.worker.repair.settlements import check_type, open_step
from stepwell.worker.repair.undoing import undo
from stepwell.worker.running.starting import no_workflow
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker

#: The failures that say that nobody knows whether a step acted.
_UNKNOWN: Final = frozenset({"StepInterrupted", "StepTimeout", "StepProcessDied"})


class SettleRequests:
    """Turns what is said of steps into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker, retries: RetryRequests) -> None:
        self._worker = worker
        self._retries = retries

    def settle(self, request: SettleStep, reply: Reply) -> None:
        """Serve a `SettleStep`."""
        worker = self._worker
        run = worker.runs.loaded(request.run_id)
        if run is not None and run.status != "halted" and not run.finished:
            self._in_memory(request, run, reply)
            return
        record = worker.runs.find(request.run_id)
        if record is None:
            raise RunNotFound(f"no run has the id {request.run_id!r}: it was never started, or has been purged")
        if record.status in ENDED or record.key in worker.batch.ending:
            self._ended(request, record, reply)
        else:
            self._at_rest(request, record, reply)

    def _in_memory(self, request: SettleStep, run: LoadedRun, reply: Reply) -> None:
        worker = self._worker
        operation = worker.settler.step_of(run, request.op)
        if operation is None:
            raise _no_such_step(request)
        check_type(operation, request.kind, request.value, run.id)
        work = worker.batch.work_of(run)
        work.changes.append(self._act(request))
        work.answer(reply, None)
        worker.settler.settle(run, operation, request.kind, request.value, worker.now, work)
        worker.carrier.carry_on(run, work)

    def _at_rest(self, request: SettleStep, record: RunRecord, reply: Reply) -> None:
        """Leave a note for whoever takes the run up, or has it in its memory."""
        worker, now = self._worker, self._worker.now
        self._check_open(request, record)
        work = worker.batch.lone_work()
        work.changes += [StepSettled(record.key, request.op, request.kind, request.value, now), self._act(request)]
        serves = record.workflow in worker.runs.workflows and worker.claims.takes_work
        if record.status == "halted":
            work.changes.append(RunResumed(record.key, now, None if serves else no_workflow(record.workflow)))
        else:
            work.changes.append(RunWoken(record.key, now))
        if serves and record.status in ("halted", "waiting"):
            work.afterwards(partial(worker.claims.claim, [record.key]))
        work.afterwards(partial(self._look, record.id))
        work.answer(reply, None)

    def _look(self, run_id: str) -> None:
        """Have a run look that came to memory while the note was on its way."""
        run = self._worker.runs.loaded(run_id)
        if run is not None:
            self._worker.inbox.look_again(run)

    def _check_open(self, request: SettleStep, record: RunRecord) -> None:
        """Raise `InvalidArgument` unless a run waits for a step as this operation, as far as this program can tell."""
        worker = self._worker
        snapshot = worker.runs.reads.load([record.key])[0]
        delivered = [
            entry for entry in snapshot.entries if entry.op == request.op and entry.kind not in worker.kinds.undelivered
        ]
        if delivered:
            raise InvalidArgument(
                f"operation {request.op} of run {record.id!r} has an outcome, which its code was told. To have the run "
                f"go on from there with another one, rewind it: rewind({request.op}, results={{{request.op}: …}})"
            )
        workflow = worker.runs.workflows.fitting(record.workflow, record.version)
        if workflow is None:
            if not any(_shows_attempt(entry) for entry in snapshot.entries if entry.op == request.op):
                raise InvalidArgument(
                    f"the journal of run {record.id!r} shows no attempt of operation {request.op}, and this program "
                    f"does not have the code of {record.workflow!r}, which would tell. Nothing was changed; settle "
                    "it in a program that has the code"
                )
            return
        full = worker.executions.with_items(snapshot)
        operation = open_step(worker.executions, full, workflow, snapshot.entries, request.op)
        if operation is None:
            raise _no_such_step(request)
        check_type(operation, request.kind, request.value, record.id)

    def _ended(self, request: SettleStep, record: RunRecord, reply: Reply) -> None:
        """Bring a failed run back, with an outcome in place of the failure that says that nobody knows it."""
        worker, now, codec = self._worker, self._worker.now, self._worker.codec
        if record.status != "failed" or record.key in worker.batch.ending or self._retries.is_coming(record.key):
            raise RunEnded(
                f"run {record.id!r} has ended ({record.status}), so nothing waits for a step of it; rewind it to "
                "have it go on from an earlier operation"
            )
        entries = self._retries.journal(record.key)
        turn = next(
            (at for at, entry in enumerate(entries) if entry.op == request.op and entry.kind == "step_failed"), None
        )
        if turn is None or codec.failure_summary(entries[turn].value)[0].rpartition(".")[2] not in _UNKNOWN:
            raise InvalidArgument(
                f"operation {request.op} of run {record.id!r} is no step of which nobody knows how it ended. To "
                f"replace what is recorded, rewind the run: rewind({request.op}, results={{{request.op}: …}})"
            )
        plan = undo(codec, record, entries, now, worker.kinds, turn=turn)
        self._check_result(request, record, entries[turn])
        family = list(self._retries.with_children(record, plan))
        work = worker.batch.lone_work()
        for each, change in family:
            act = self._act(request) if each is record else ActRecorded("retry", now, *request.actor, run_id=each.id)
            work.changes += [change, act]
        work.changes.append(StepSettled(record.key, request.op, request.kind, request.value, now))
        self._retries.expect(family, work)
        work.answer(reply, None)

    def _check_result(self, request: SettleStep, record: RunRecord, failed: Entry) -> None:
        """Raise `InvalidArgument` where the code, if it is here, says that the result is of another type."""
        worker = self._worker
        workflow = worker.runs.workflows.fitting(record.workflow, record.version)
        if workflow is None:
            return
        snapshot = worker.runs.reads.load([record.key])[0]
        before = [entry for entry in snapshot.entries if entry.position < failed.position]
        full = worker.executions.with_items(snapshot)
        operation = open_step(worker.executions, full, workflow, before, request.op)
        if operation is None:
            raise _no_such_step(request)
        check_type(operation, request.kind, request.value, record.id)

    def _act(self, request: SettleStep) -> ActRecorded:
        by, reason = request.actor
        text = f"operation {request.op}" + ("" if reason is None else f": {reason}")
        return ActRecorded("settle", self._worker.now, by, text, run_id=request.run_id)


def _shows_attempt(entry: Entry) -> bool:
    return entry.kind == "attempt_failed" or (entry.kind == "step_started" and entry.value != CUT_OFF)


def _no_such_step(request: SettleStep) -> InvalidArgument:
    return InvalidArgument(
        f"run {request.run_id!r} does not wait for a step as its operation {request.op}, so there is no outcome to "
        "set; its journal, and what it waits for, show the numbers"
    )
