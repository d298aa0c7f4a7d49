"""What a commit may bring to the runs of a worker: new runs and children, messages, cancellations.

`Worker.route` hands these facts in here; messages that a caller's transaction wrote come from the session. The run
that it concerns may be in memory, or have to be claimed first, or not have begun.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from stepwell.model.journal import Entry
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import RunRecord
from stepwell.store.bulk_acts import RunDeleted, RunTerminated, Terminated
from stepwell.store.changes import Created, MessageSent, RunCreated, Sent, Succeeded
from stepwell.worker.arriving.loader import Loader
from stepwell.worker.rules.queue_policy import refusal_of
from stepwell.worker.running.activation import Activator
from stepwell.worker.running.carrying import Carrier
from stepwell.worker.running.claims import Claims
from stepwell.worker.running.letting_go import LettingGo
from stepwell.worker.running.unstarted import Unstarted
from stepwell.worker.state.effects import RunsBegunAnew, RunsOver
from stepwell.worker.state.facts import RunsTaken
from stepwell.worker.state.failure_log import run_fields
from stepwell.worker.state.loaded_run import LoadedRun, Pausing
from stepwell.worker.state.run_over import RunOver
from stepwell.worker.state.runs import Runs

_log: Final = logging.getLogger("stepwell")


class Arrivals:
    """Hands what was committed to the runs of one worker."""

    def __init__(
        self,
        runs: Runs,
        activator: Activator,
        carrier: Carrier,
        unstarted: Unstarted,
        claims: Claims,
        loader: Loader,
        letting_go: LettingGo,
    ) -> None:
        self._runs = runs
        self._activator = activator
        self._carrier = carrier
        self._unstarted = unstarted
        self._claims = claims
        self._loader = loader
        self._letting_go = letting_go
        #: Runs that were told of children, and who was refused one.
        self._told: list[tuple[LoadedRun, Entry | None]] = []

    # --- new runs ----------------------------------------------------------------------------------------------------

    def created(self, change: RunCreated, created: Created) -> None:
        """Bring a new run to life, or what there is in its place."""
        if created.existing is not None:
            if created.joined == "replaced":
                self.cancel(created.existing)
            elif created.joined == "reused":
                queue = None if change.entry is None else change.entry.queue
                self.began_again(Succeeded(created.key, queue, change.deadline_at))
            return
        if change.status == "pending" and change.deadline_at is not None:
            self._unstarted.expect_deadline(change.deadline_at)
        if change.entry is not None:
            self._runs.queue_touched(change.entry.queue)
            return
        definition = self._runs.workflows.get(change.workflow)
        if change.status != "running" or definition is None:
            self._claims.work_may_exist = True
            return
        if self._runs.is_light and self._loader.needs_greenlets(definition):
            self._runs.claiming.add(created.key)  # read again, by the engine's thread, whose greenlets they are to be
            self._runs.later(RunsTaken([created.key]))
            return
        self._loader.begin(change, created.key, definition)

    def began_again(self, succeeded: Succeeded) -> None:
        """Take up a run that has begun again, under the id of one that ended."""
        self._runs.effects.append(RunsBegunAnew([succeeded.run]))
        if succeeded.deadline_at is not None:
            self._unstarted.expect_deadline(succeeded.deadline_at)
        if succeeded.queue is not None:
            self._runs.queue_touched(succeeded.queue)
        else:
            self._claims.work_may_exist = True
            self._claims.claim([succeeded.run], unasked=True)

    def late_end(self, over: RunOver, parent: int | None, woken: Sequence[int]) -> None:
        """Tell everybody of an end that nobody was told of when it was written; the store made `woken` due."""
        for key in woken:
            self._claims.woken(key)
        work = self._runs.batch.lone_work()
        self._carrier.tell_watchers(over.id, parent, over, work)
        self._carrier.deliver_ends(work)

    def entered(self, parent: LoadedRun, change: RunCreated, created: Created) -> None:
        """Tell a run which child it has in a queue, or why it has none; `carry_on_entered` must follow.

        The journal has what one commit told a run in one piece, so the run must not go on in between.
        """
        parent.awaits_commit -= 1
        if change.policy is not None:
            self.created(change, created)
        if self._runs.memory.runs.get(parent.key) is not parent:
            return
        operation = parent.execution.pending.get(change.parent_op or 0)
        refused: Entry | None = None
        if change.told is not None and operation is not None:
            refusal = refusal_of(change, created)
            if refusal is None:
                run_id = change.id if created.existing is None else created.existing.id
                parent.entries += 1
                parent.execution.deliver(replace(change.told, value=self._runs.codec.encode(run_id, "an id")))
            else:
                failure = self._runs.codec.encode_failure(refusal)
                refused = operation.answer(parent.key, "child_failed", self._runs.now, failure)
        self._told.append((parent, refused))

    def carry_on_entered(self) -> None:
        """Carry on the runs that were told which children they have."""
        told, self._told = self._told, []
        for run, refused in told:
            if self._runs.memory.runs.get(run.key) is not run:
                continue
            work = self._runs.batch.work_of(run)
            if refused is not None and refused.op in run.execution.pending:
                self._activator.deliver(run, refused, work)
            self._carrier.carry_on(run, work)

    # --- messages ----------------------------------------------------------------------------------------------------

    def message(self, change: MessageSent, sent: Sent) -> None:
        """Hand a message to its receiver."""
        run = self._runs.memory.runs.get(sent.run)
        if run is None:
            if sent.position and sent.status == "waiting":
                self._claims.claim([sent.run], unasked=True)
            return
        left = run.sending.get(change.name, 0) - 1
        if left > 0:
            run.sending[change.name] = left
        else:
            run.sending.pop(change.name, None)
        if sent.position:
            self._put(run, change, sent)

    def message_from_outside(self, change: MessageSent, sent: Sent) -> None:
        """Hand over a message that a transaction of the user's sent, unless it was read from the store meanwhile.

        The event is queued before the transaction lets go of the writers' lock. So no other commit comes between the
        two, and a run that got the message from the store is still the same in memory.
        """
        run = self._runs.memory.runs.get(sent.run)
        if run is None:
            self.message(change, sent)
        elif sent.position and sent.position not in run.loaded_messages:
            self._put(run, change, sent)

    def _put(self, run: LoadedRun, change: MessageSent, sent: Sent) -> None:
        run.put_message(change.name, change.value, sent.position, change.at)
        run.was_made_due()
        self._carrier.carry_on(run, self._runs.batch.work_of(run))

    # --- cancellations -----------------------------------------------------------------------------------------------

    def cancel(self, record: RunRecord) -> None:
        """Deliver a cancellation."""
        if record.status in ENDED:
            return
        run = self._runs.memory.runs.get(record.key)
        if run is not None:
            self._carrier.deliver_cancel(run, record.cancel_reason, self._runs.batch.work_of(run))
        elif record.status == "halted" or (record.status == "pending" and (record.queued or record.started_at is None)):
            self._unstarted.cancel(record, self._runs.batch.lone_work())
        elif record.owner is None or record.owner == self._runs.epoch:
            self._claims.claim([record.key])

    def cancel_all(self, keys: Sequence[int]) -> None:
        """Deliver the cancellations of the runs with these keys."""
        for record in self._runs.reads.facts(keys):
            self.cancel(record)

    # --- promises ----------------------------------------------------------------------------------------------------

    def answer(self, key: int, op: int) -> None:
        """Have a run told what has become of a promise of its own."""
        run = self._runs.memory.runs.get(key)
        if run is None:
            if any(record.status == "waiting" for record in self._runs.reads.facts([key])):
                self._claims.woken(key)
            return
        run.was_made_due()
        self._activator.look(run, op)
        self._carrier.carry_on(run, self._runs.batch.work_of(run))

    # --- terminations ------------------------------------------------------------------------------------------------

    def terminated(self, change: RunTerminated | RunDeleted, done: Terminated) -> None:
        """Drop a run that was ended past its code, and tell whoever waits for it here; unless it had ended before."""
        run = done.before
        if run.status in ENDED:
            return
        over = RunOver.cancelled(run.key, run.id, change.told)
        _log.warning("run %r of %r is %s", run.id, run.workflow, change.told, extra=run_fields(run.id, run.workflow))
        loaded = self._runs.memory.runs.get(run.key)
        work = self._runs.batch.lone_work()
        if loaded is not None:
            loaded.finished = True
            self._letting_go.forget(loaded, work)
        if run.queue is not None:
            self._runs.queue_touched(run.queue)
        self._carrier.tell_watchers(run.id, run.parent, over, work)
        self._carrier.deliver_ends(work)
        self._runs.effects.append(RunsOver([over]))
        for key in done.watchers:
            self._claims.woken(key)
        self.cancel_all(done.children)

    # --- pauses ------------------------------------------------------------------------------------------------------

    def pause(self, keys: Sequence[int]) -> None:
        """Have those of these runs pause that are in memory: each as soon as its attempts under way have ended."""
        for key in keys:
            run = self._runs.memory.runs.get(key)
            if run is not None and run.pausing is None:
                run.pausing = Pausing()
                self._carrier.carry_on(run, self._runs.batch.work_of(run))
