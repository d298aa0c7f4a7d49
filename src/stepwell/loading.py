"""Bringing runs to memory: new ones, and those that the store holds, by replaying their journals."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from msgspec.structs import replace

from stepwell.activation import Activator
from stepwell.batch import Batch
from stepwell.blocking import mentions_blocking_calls
from stepwell.codec import Codec
from stepwell.definition import Workflow
from stepwell.execution import Execution
from stepwell.journal import Entry
from stepwell.lifecycle import ENDED
from stepwell.loop import DeterministicLoop
from stepwell.memory import Memory
from stepwell.model import RunRecord, RunSnapshot
from stepwell.resident import Resident
from stepwell.steps import attempt_history
from stepwell.store.base import Inspector, RunCreated, RunMoved
from stepwell.work import RunOver, Work

_log: Final = logging.getLogger("stepwell")

#: How many runs are read from the store at a time.
_LOAD_CHUNK: Final = 500


class Limits(NamedTuple):
    """How much the worker keeps in memory: `running` runs at once, and `waiting` ones beside them."""

    running: int = 10_000
    waiting: int = 1_000


class Owner(Protocol):
    """The worker, as far as loading needs it."""

    now: int
    codec: Codec
    loop: DeterministicLoop
    memory: Memory
    batch: Batch
    activator: Activator
    draining: bool

    def settle_run(self, run: Resident, work: Work) -> None:
        """Carry a run on until it waits."""
        ...

    def halt_broken(self, key: int, error: Exception) -> None:
        """Halt a run that the engine failed to handle."""
        ...

    def deliver_cancel(self, run: Resident, reason: str | None, work: Work) -> None:
        """Tell a run that it is cancelled."""
        ...

    def tell_watchers(self, run_id: str, parent: int | None, over: RunOver, work: Work) -> None:
        """Prepare to tell whoever waits for a run."""
        ...

    def deliver_ends(self, work: Work) -> None:
        """Tell them, within the same work."""
        ...


class Loader:
    """Makes residents out of what the store holds. Acts for one worker, whose batch and memory it fills."""

    def __init__(
        self, worker: Owner, inspector: Inspector, workflows: Mapping[str, Workflow[..., Any]], limits: Limits
    ) -> None:
        self._worker = worker
        self._inspector = inspector
        self._workflows = workflows
        self._limits = limits
        self._greenlets: dict[str, tuple[Workflow[..., Any], bool]] = {}
        #: Whether pending runs may be in the store that `admit` has not seen.
        self.pending_may_exist = True

    def _execution(self, record: RunRecord, definition: Workflow[..., Any]) -> Execution:
        known = self._greenlets.get(definition.name)
        if known is None or known[0] is not definition:
            known = self._greenlets[definition.name] = (definition, mentions_blocking_calls(definition.function))
        return Execution(record, definition, self._worker.codec, greenlets=known[1], loop=self._worker.loop)

    def begin(self, change: RunCreated, key: int, definition: Workflow[..., Any]) -> None:
        """Bring a run to memory that was created just now, and start its code."""
        worker = self._worker
        record = RunRecord(
            key=key,
            id=change.id,
            workflow=change.workflow,
            status="running",
            input=change.input,
            fingerprint=change.fingerprint,
            created_at=change.at,
            updated_at=change.at,
            started_at=change.at,
            deadline_at=change.deadline_at,
            parent=change.parent,
            parent_op=change.parent_op,
            attached=change.attached,
        )
        execution = self._execution(record, definition)
        run = Resident(record, execution)
        worker.memory.enter(run)
        work = worker.batch.work_of(run)
        execution.begin()
        worker.settle_run(run, work)

    def recover(self) -> None:
        """Bring back what was running when the last engine stopped, and try halted runs with today's code."""
        worker = self._worker
        worker.memory.parked_due = self._inspector.next_wake()
        self.load(self._inspector.running())
        self.load(self._inspector.halted())

    def load(self, keys: Sequence[int]) -> None:
        """Bring runs to memory, by replaying their journals."""
        worker = self._worker
        wanted = [key for key in keys if key not in worker.memory and key not in worker.batch.ending]
        for at in range(0, len(wanted), _LOAD_CHUNK):
            for snapshot in self._inspector.load(wanted[at : at + _LOAD_CHUNK]):
                try:
                    self._load(snapshot)
                except Exception as error:  # noqa: BLE001 - one run that cannot be read must not keep the others from running
                    _log.critical("run %r: the engine failed to read it", snapshot.record.id, exc_info=error)
                    worker.halt_broken(snapshot.record.key, error)

    def _load(self, snapshot: RunSnapshot) -> None:
        worker = self._worker
        record = snapshot.record
        if record.status in ENDED or worker.memory.by_id(record.id) is not None:
            return
        if record.cancel_requested_at is not None and _has_no_say(snapshot):
            self.cancel_unstarted(record, worker.batch.lone_work())
            return
        definition = self._workflows.get(record.workflow)
        if definition is None:
            self._leave_pending(record)
            return
        if record.started_at is None:
            record = replace(record, started_at=worker.now)
        execution = self._execution(record, definition)
        run = Resident(record, execution)
        worker.memory.enter(run)
        work = worker.batch.work_of(run)
        if record.status in ("pending", "halted"):
            work.changes.append(RunMoved(run.key, "running", worker.now))
            run.status, run.wake_at = "running", None
        run.history = attempt_history(snapshot.entries)
        execution.replay(snapshot.entries)
        run.loaded_messages = frozenset(message.position for message in snapshot.messages)
        for message in snapshot.messages:
            run.put_message(message.name, message.value, message.position, message.sent_at)
        for entry in snapshot.entries:
            if entry.kind == "cancel":
                run.cancelling, run.cancel_reason = True, entry.name or None
            elif entry.kind == "child":
                run.has_children = True
        worker.settle_run(run, work)
        if record.cancel_requested_at is not None and not run.cancelling and run.key in worker.memory:
            worker.deliver_cancel(run, record.cancel_reason, work)

    def _leave_pending(self, record: RunRecord) -> None:
        worker = self._worker
        reason = no_workflow(record.workflow)
        if record.status != "pending" or record.reason != reason:
            worker.batch.lone_work().changes.append(RunMoved(record.key, "pending", worker.now, None, reason))

    def cancel_unstarted(self, record: RunRecord, work: Work) -> None:
        """End a run whose code has no part in it: it never ran, or is halted."""
        worker = self._worker
        over = RunOver(record.key, record.id, "cancelled", None, None, record.cancel_reason)
        worker.activator.record_end(over, work, has_children=record.started_at is not None)
        worker.batch.ending[record.key] = over
        worker.tell_watchers(record.id, record.parent, over, work)
        worker.deliver_ends(work)

    def load_due(self) -> None:
        """Bring the runs to memory that are due, and note when the next one is."""
        worker = self._worker
        keys = self._inspector.due(worker.now, _LOAD_CHUNK)
        self.load(keys)
        # Where more are due than one batch holds, the next call goes on with them.
        worker.memory.parked_due = worker.now if len(keys) == _LOAD_CHUNK else self._inspector.next_wake(worker.now)

    def admit(self) -> None:
        """Let pending runs run while there is room."""
        worker = self._worker
        room = self._limits.running - worker.memory.running()
        if room <= 0 or not self.pending_may_exist or worker.draining:
            return
        keys = self._inspector.pending(list(self._workflows), min(room, _LOAD_CHUNK))
        self.pending_may_exist = len(keys) == min(room, _LOAD_CHUNK)
        self.load(keys)

    def restart(self, run: Resident) -> None:
        """Start the run's code anew, on greenlets, from its journal.

        What the interrupted activation led to is discarded.
        """
        worker = self._worker
        old = run.execution
        self._greenlets[old.definition.name] = (old.definition, True)
        snapshot = self._inspector.load([run.key])[0]
        uncommitted = [
            change
            for change in worker.batch.work_of(run).changes
            if isinstance(change, Entry) and change.run == run.key
        ]
        record = replace(snapshot.record, started_at=old.started_at)
        run.execution = execution = Execution(record, old.definition, worker.codec, greenlets=True, loop=worker.loop)
        execution.replay([*snapshot.entries, *uncommitted], restarted=True)
        execution.withdrawn = [*old.withdrawn, *execution.withdrawn]
        # What the old execution had asked for before the interrupted activation is under way already.
        execution.issued = [operation for operation in execution.issued if operation.number > run.opened]
        run.receivers = {
            name: deque(
                execution.pending[waiting.number] for waiting in receivers if waiting.number in execution.pending
            )
            for name, receivers in run.receivers.items()
        }
        old.close()


def no_workflow(name: str) -> str:
    """Say why a run of an unknown workflow is pending."""
    return f"no worker here has the workflow {name!r}; the run waits for one that does"


def _has_no_say(snapshot: RunSnapshot) -> bool:
    """Tell whether a run whose cancellation was requested ends without its code hearing of it."""
    if snapshot.record.status == "halted":
        return all(entry.kind != "cancel" for entry in snapshot.entries)
    return snapshot.record.status == "pending" and not snapshot.entries
