"""What becomes of the operations that a run's code issued, by kind, but for steps.

A publication, a message or a cancellation sent to another run, a child to create, the end of a run to wait for. Each
becomes changes of the unit of work under way, and an entry for the code: at once where nothing has to be waited for,
else after the commit, or when it comes about. Steps are the activation's own: they are executed.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from stepwell.definitions.queues import QueueSlot
from stepwell.errors import RunCancelled, RunConflict, RunEnded, RunNotFound, StepwellError
from stepwell.model.journal import Entry, EntryKind, Payload
from stepwell.model.lifecycle import ENDED, Status
from stepwell.operations.functions import CancelDetail, MessageDetail, ValueDetail
from stepwell.replay.operation import ChildStart, Operation
from stepwell.store.acts import ActRecorded
from stepwell.store.changes import CancelRequested, MessageSent, RunCreated, ValuePublished, WatchAdded
from stepwell.worker import facts
from stepwell.worker.conflicts import conflict_with
from stepwell.worker.loaded_run import LoadedRun
from stepwell.worker.queue_policy import entered
from stepwell.worker.run_over import RunOver
from stepwell.worker.runs import Runs
from stepwell.worker.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from stepwell.model.run import RunRecord


class OperationOpener:
    """Opens operations for the `Activator`, whose base it is. Holds no state of its own."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def entry(self, run: LoadedRun, operation: Operation, kind: EntryKind, value: Payload = None) -> Entry:
        """Make the entry that answers an operation."""
        return Entry(run.key, operation.number, kind, operation.name, operation.fingerprint, self._runs.now, value)

    def _open(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        match operation.kind:
            case "timer":
                run.add_timer(operation.detail, operation.number)
            case "receive":
                run.receivers.setdefault(operation.name, deque()).append(operation)
            case "publish":
                self._publish(run, operation, operation.detail, work)
            case "send":
                self._send(run, operation, work)
            case "start":
                self._start(run, operation, operation.detail, work)
            case "result":
                self._await_result(run, operation, work)
            case "patch":
                # Ahead of all others: what is committed after the code has passed it must never lack it.
                run.deliverable.appendleft(self.entry(run, operation, "patched"))
            case _:
                raise AssertionError(operation.kind)

    def _publish(self, run: LoadedRun, operation: Operation, detail: ValueDetail, work: UnitOfWork) -> None:
        work.changes.append(ValuePublished(run.key, operation.name, detail.value, self._runs.now))
        work.afterwards(lambda: facts.ValuePublished(run.key, operation.name, detail.value))
        run.deliverable.append(self.entry(run, operation, "published"))

    def _send(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        detail: MessageDetail | CancelDetail = operation.detail
        error = self._cannot_reach(run, detail.run_id)
        if isinstance(error, RunEnded) and isinstance(detail, MessageDetail) and self._runs.is_ending(detail.run_id):
            self._reopen_later(run, operation, work)
            return
        if isinstance(detail, CancelDetail):
            if not isinstance(error, RunNotFound):
                self._request_cancel(run, detail.run_id, detail.reason, work)
                error = None
        elif error is None:
            change = MessageSent(detail.run_id, operation.name, detail.value, self._runs.now, detail.key)
            target = self._runs.resident(detail.run_id)
            if target is not None:
                target.sending[operation.name] = target.sending.get(operation.name, 0) + 1
            work.then(change, partial(facts.MessageArrived, change))
        if error is None:
            run.deliverable.append(self.entry(run, operation, "sent"))
        else:
            run.deliverable.append(self.entry(run, operation, "send_failed", self._runs.codec.encode_failure(error)))

    def _request_cancel(self, by: LoadedRun, run_id: str, reason: str | None, work: UnitOfWork) -> None:
        now = self._runs.now
        work.then(CancelRequested(run_id, now, reason), facts.CancelArrived)
        work.changes.append(ActRecorded("cancel", now, f"run {by.id!r}", reason, run_id=run_id))

    def _cannot_reach(self, sender: LoadedRun, run_id: str) -> StepwellError | None:
        if self._runs.resident(run_id) is not None or self._runs.being_created(run_id) is not None:
            return None
        record = self._runs.find(run_id)
        if record is None:
            return RunNotFound(f"run {sender.id!r} sent to run {run_id!r}, which does not exist; start it first")
        if record.status in ENDED:
            return RunEnded(f"run {sender.id!r} sent to run {run_id!r}, which is {record.status}")
        return None

    def _start(self, run: LoadedRun, operation: Operation, detail: ChildStart, work: UnitOfWork) -> None:
        run.has_children = True
        child_id = detail.child_id
        if child_id is None:
            before = self._runs.child_ids.of_before(run, operation.number, detail.workflow, operation.fingerprint)
            if before is not None:
                run.deliverable.append(self._existing_child(run, operation, before))
                return
            try:
                child_id = self._runs.child_ids.free(run, operation.number)
            except RunConflict as error:
                run.deliverable.append(
                    self.entry(run, operation, "child_failed", self._runs.codec.encode_failure(error))
                )
                return
        elif self._runs.being_created(child_id) is not None:
            self._reopen_later(run, operation, work)
            return
        elif (existing := self._runs.find(child_id)) is not None:
            run.deliverable.append(self._existing_child(run, operation, existing))
            return
        now = self._runs.now
        if detail.entry is not None:
            self._start_queued(run, operation, child_id, detail.entry, work)
            return
        admitted = self._runs.admits(detail.workflow)
        change = RunCreated(
            child_id,
            detail.workflow,
            detail.input,
            operation.fingerprint,
            "running" if admitted else "pending",
            now,
            parent=run.key,
            parent_op=operation.number,
            attached=detail.attached,
            must_be_new=True,
            ahead=self._runs.ahead,
        )
        self._runs.creating(change)
        work.then(change, partial(facts.ChildCreated, change))
        run.deliverable.append(self.entry(run, operation, "child", self._runs.codec.encode(child_id, "an id")))

    def _start_queued(
        self, run: LoadedRun, operation: Operation, child_id: str, entry: QueueSlot, work: UnitOfWork
    ) -> None:
        """Start a child in a queue, where another run may take its place: which, is known with the commit."""
        detail: ChildStart = operation.detail
        now = self._runs.now
        self._runs.declare(entry.queue.name, work)
        told = self.entry(run, operation, "child")
        change = RunCreated(
            child_id,
            detail.workflow,
            detail.input,
            operation.fingerprint,
            "pending",
            now,
            parent=run.key,
            parent_op=operation.number,
            attached=detail.attached,
            must_be_new=detail.child_id is None,
            entry=entered(entry, now, count=detail.count),
            told=told,
            ahead=self._runs.ahead,
        )
        self._runs.creating(change)
        self._runs.queue_touched(entry.queue.name)
        run.unsettled += 1
        work.told(change, partial(facts.ChildEntered, run, change))

    def _existing_child(self, run: LoadedRun, operation: Operation, existing: RunRecord) -> Entry:
        detail: ChildStart = operation.detail
        codec = self._runs.codec
        error = conflict_with(
            codec, existing, existing.id, detail.workflow, detail.input, operation.fingerprint, parent=run.id
        )
        if error is None:
            return self.entry(run, operation, "child", codec.encode(existing.id, "an id"))
        return self.entry(run, operation, "child_failed", self._runs.codec.encode_failure(error))

    def _await_result(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        child_id = operation.name
        child = self._runs.resident(child_id)
        creation = self._runs.being_created(child_id)
        if creation is not None:
            if creation.parent != run.key:
                self._reopen_later(run, operation, work)
                return
        elif child is None:
            record = self._runs.find(child_id)
            if record is None:
                error = RunNotFound(f"run {run.id!r} waits for run {child_id!r}, which does not exist")
                run.deliverable.append(
                    self.entry(run, operation, "result_failed", self._runs.codec.encode_failure(error))
                )
                return
            if record.status in ENDED:
                if self._runs.is_ending(child_id):
                    self._reopen_later(run, operation, work)
                    return
                over = RunOver.of(record)
                run.deliverable.append(self.result_entry(run, operation, over))
                return
            if record.parent != run.key:
                run.unsettled += 1
                work.then(WatchAdded(record.key, run.key), lambda status: self._watched(run, status))
        elif child.parent != run.key:
            work.changes.append(WatchAdded(child.key, run.key))
        self._runs.watch(child_id, run.key, operation.number)

    def _watched(self, run: LoadedRun, status: Status) -> facts.Fact | None:
        run.unsettled -= 1
        if status in ENDED:  # another worker ended it between the look and the commit
            return facts.WatchedRunOver(run)
        self._runs.later(facts.RunYielded(run))
        return None

    def _reopen_later(self, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        """Open an operation again after the commit, because it concerns a run that the same commit creates or ends.

        That may be refused, while what is recorded of it here would stand.
        """

        def reopen() -> facts.OperationPutOff:
            run.unsettled -= 1
            return facts.OperationPutOff(run, operation)

        run.unsettled += 1
        work.afterwards(reopen)

    def result_entry(self, run: LoadedRun, operation: Operation, over: RunOver) -> Entry:
        """Make the entry that tells a run how another one ended."""
        if over.status == "completed":
            return self.entry(run, operation, "result", over.result)
        if over.status == "failed":
            return self.entry(run, operation, "result_failed", over.error)
        reason = f": {over.reason}" if over.reason else ""
        error = RunCancelled(f"run {over.id!r} was cancelled{reason}")
        return self.entry(run, operation, "result_failed", self._runs.codec.encode_failure(error))
