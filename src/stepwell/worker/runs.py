"""What carrying one run on needs to know of, and do to, the others: the border between `activation` and `worker`."""

from __future__ import annotations

from typing import Protocol

from stepwell.definitions.step_call import StepCall
from stepwell.model.journal import Payload
from stepwell.model.run import RunRecord
from stepwell.replay.operation import Operation
from stepwell.store.changes import Created, MessageSent, RunCreated, Sent
from stepwell.values.codec import Codec
from stepwell.worker.child_ids import ChildIds
from stepwell.worker.loaded_run import LoadedRun
from stepwell.worker.permits import PermitDesk
from stepwell.worker.unit_of_work import RunOver, UnitOfWork


class Runs(PermitDesk, Protocol):
    """What carrying one run on needs to know of, and do to, the others: the worker."""

    codec: Codec
    child_ids: ChildIds
    #: How much later engine time is than the wall clock; see `stepwell.model.clock`.
    ahead: int

    def resident(self, run_id: str) -> LoadedRun | None:
        """Return a run that is in memory and has not ended."""
        ...

    def find(self, run_id: str) -> RunRecord | None:
        """Read a run from the store."""
        ...

    def is_ending(self, run_id: str) -> bool:
        """Tell whether a run's end is part of the batch under way: it may still be refused."""
        ...

    def being_created(self, run_id: str) -> RunCreated | None:
        """Return the change of the batch under way that creates this run, or None."""
        ...

    def creating(self, change: RunCreated) -> None:
        """Note that the batch under way creates a run, for `being_created`."""
        ...

    def admits(self, workflow: str) -> bool:
        """Tell whether a new run of this workflow may run at once."""
        ...

    def watch(self, run_id: str, watcher: int, operation: int) -> None:
        """Have the end of a run delivered to an operation of another."""
        ...

    def child_created(self, change: RunCreated, created: Created) -> None:
        """Bring a new run to life, after the commit."""
        ...

    def queued_child_created(self, run: LoadedRun, change: RunCreated, created: Created) -> None:
        """Tell a run which child it has in a queue, after the commit."""
        ...

    def message_committed(self, change: MessageSent, sent: Sent) -> None:
        """Hand a message to its receiver, after the commit."""
        ...

    def cancel_committed(self, record: RunRecord) -> None:
        """Deliver a cancellation, after the commit."""
        ...

    def children_cancelled(self, keys: list[int]) -> None:
        """Deliver cancellations to children, after the commit."""
        ...

    def transaction_due(self, run: LoadedRun, attempts: StepCall) -> None:
        """Run a transactional step in a unit of its own, after the commit."""
        ...

    def queue_touched(self, queue: str) -> None:
        """Decide about a queue in the commit under way, because a run enters it."""
        ...

    def declare(self, name: str, work: UnitOfWork) -> None:
        """Make a queue known to the file in the same unit that needs it."""
        ...

    def publish_committed(self, run: int, key: str, value: Payload) -> None:
        """Tell those who wait for a value, after the commit."""
        ...

    def ended(self, run: LoadedRun, over: RunOver, work: UnitOfWork) -> None:
        """Drop an ended run from memory and tell its watchers, within the same unit."""
        ...

    def halted(self, run: LoadedRun) -> None:
        """Drop a halted run from memory."""
        ...

    def restart(self, run: LoadedRun) -> None:
        """Start the run's code anew, on greenlets."""
        ...

    def resting(self, run: LoadedRun) -> None:
        """Note the run's next due time, and whether it may leave memory."""
        ...

    def resume_soon(self, run: LoadedRun) -> None:
        """Carry the run on, as an event of its own."""
        ...

    def spins(self, run: LoadedRun) -> None:
        """Take note that a run goes round without waiting, or does not any more."""
        ...

    def reopen(self, run: LoadedRun, operation: Operation) -> None:
        """Open an operation again, after the commit."""
        ...

    def woken(self, key: int) -> None:
        """Bring a run that is not in memory back, after the commit, if nobody else has it."""
        ...

    def ended_meanwhile(self, run: LoadedRun) -> None:
        """Look, after the commit, whether what a run waits for has come about elsewhere."""
        ...
