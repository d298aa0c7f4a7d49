"""Serves what callers ask about one run: to start it, to send it a message, to cancel and to resume it."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from stepwell.errors import RunEnded, RunNotFound, RunPaused, StepwellError
from stepwell.model.acts import Actor
from stepwell.model.lifecycle import ENDED, RETRIABLE
from stepwell.model.run import RunRecord
from stepwell.runtime.serving.requests import CancelRun, DescribeRun, SendMessage, StartRun
from stepwell.store.acts import ActRecorded
from stepwell.store.changes import CancelRequested, Created, MessageSent, RunCreated, RunDescribed, RunResumed
from stepwell.store.claims import RunWoken
from stepwell.store.worker_reads import WorkerReads
from stepwell.worker.running.starting import add_start, no_workflow, started
from stepwell.worker.state.facts import Fact, MessageArrived, RunStarted
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker


class RunRequests:
    """Turns requests into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker, reads: WorkerReads) -> None:
        self._worker = worker
        self._reads = reads

    def start(self, request: StartRun, reply: Reply) -> None:
        """Serve a `StartRun`."""
        run, worker = request.run, self._worker
        existing = worker.runs.find(run.id) if request.messages else None
        if existing is not None and (run.policy is None or run.policy.decide(existing.status) == "attach"):
            started(worker.codec, run, Created(existing.key, existing))  # or it is refused, and sends nothing
        work = worker.batch.lone_work()

        def on_commit(start: RunCreated, created: Created) -> Fact | None:
            try:
                run_id = started(worker.codec, start, created)
            except StepwellError as refusal:
                reply(None, refusal)
                return None
            reply(run_id, None)
            return RunStarted(start, created)

        add_start(worker.runs, run, work, on_commit, partial(reply, None))
        for message in request.messages:
            change = MessageSent(run.id, message.name, message.value, worker.now, message.key)
            work.then(change, partial(MessageArrived, change))

    def send(self, request: SendMessage, reply: Reply) -> None:
        """Serve a `SendMessage`."""
        message = request.message
        run = self._worker.runs.loaded(request.run_id)
        if run is not None and message.key is None and run.pausing is None and not run.sending.get(message.name):
            receiver = run.waits_for(message.name)
            if receiver is not None and not self._worker.inbox.pending_for(run):
                # Someone waits for it: it goes into the journal without a stop in the message table.
                work = self._worker.batch.work_of(run)
                work.answer(reply, None)
                entry = receiver.answer(run.key, "message", self._worker.now, message.value)
                self._worker.activator.deliver(run, entry, work)
                self._worker.carrier.carry_on(run, work)
                return
        work = self._worker.batch.lone_work()
        change = MessageSent(request.run_id, message.name, message.value, self._worker.now, message.key)
        if run is not None:
            run.sending[message.name] = run.sending.get(message.name, 0) + 1
        work.then(change, partial(MessageArrived, change))
        work.answer(reply, None)

    def cancel(self, request: CancelRun, reply: Reply) -> None:
        """Serve a `CancelRun`."""
        run_id, actor = request.run_id, request.actor
        reason, now = actor.reason, self._worker.now
        change = CancelRequested(run_id, now, reason)
        act = ActRecorded("cancel", now, *actor, run_id=run_id)
        run = self._worker.runs.loaded(run_id)
        if run is not None and run.status != "halted":
            work = self._worker.batch.work_of(run)
            work.changes += [change, act]
            self._worker.carrier.deliver_cancel(run, reason, work)
        elif (record := self._worker.runs.find(run_id)) is not None and record.status == "halted":
            work = self._worker.batch.lone_work()
            work.changes += [change, act]
            self._worker.unstarted.cancel(replace(record, cancel_reason=record.cancel_reason or reason), work)
        else:
            work = self._worker.batch.lone_work()
            work.then(change, partial(self._cancel_recorded, reply), partial(reply, None))
            work.changes.append(act)
            return
        work.answer(reply, True)

    def describe(self, request: DescribeRun, reply: Reply) -> None:
        """Serve a `DescribeRun`."""
        record = self._worker.runs.find(request.run_id)
        if record is None:
            raise _unknown(request.run_id)
        change = RunDescribed(record.key, request.description, self._worker.now, request.actor)
        self._worker.batch.lone_work().then(change, lambda _: reply(None, None), partial(reply, None))

    def _cancel_recorded(self, reply: Reply, record: RunRecord) -> None:
        reply(record.status not in ENDED or record.status == "cancelled", None)
        self._worker.arrivals.cancel(record)

    def resume(self, run_id: str, actor: Actor, reply: Reply) -> None:
        """Serve a `ResumeRun`, and a retry of a halted run, which is the same."""
        record = self._worker.runs.find(run_id)
        if record is None:
            raise _unknown(run_id)
        if record.status in ENDED:
            raise _ended(record)
        if record.status == "paused":
            raise paused(record)
        now = self._worker.now
        work = self._worker.batch.lone_work()
        work.changes.append(ActRecorded("resume", now, *actor, run_id=record.id))
        work.answer(reply, None)
        for halted in (record, *self._reads.facts(self._reads.halted_below(record.key))):
            if halted.status != "halted":
                continue
            here = self._serves(halted)
            reason = None if here else no_workflow(halted.workflow)
            work.changes.append(RunResumed(halted.key, now, reason))
            if halted is not record:
                work.changes.append(ActRecorded("resume", now, *actor, run_id=halted.id))
            if here:
                work.afterwards(partial(self._worker.claims.claim, [halted.key]))
        if record.status == "waiting" and self._serves(record):
            self._worker.claims.claim([record.key])
        elif record.status == "waiting":  # whoever carries it on looks at it
            work.changes.append(RunWoken(record.key, now))

    def _serves(self, record: RunRecord) -> bool:
        return record.workflow in self._worker.runs.workflows and self._worker.claims.takes_work


def _unknown(run_id: str) -> RunNotFound:
    return RunNotFound(f"no run has the id {run_id!r}: it was never started, or has been purged")


def paused(record: RunRecord) -> RunPaused:
    """Return the error that tells why a run is not tried again."""
    return RunPaused(f"run {record.id!r} is paused, so it does not go on before it is unpaused: unpause it")


def _ended(record: RunRecord) -> RunEnded:
    """Return the error that tells why a run is not resumed."""
    remedy = "; to bring it back, retry it" if record.status in RETRIABLE else ""
    return RunEnded(f"run {record.id!r} has ended ({record.status}), and only one that has not can be resumed{remedy}")
