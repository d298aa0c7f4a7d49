"""The worker: which runs are in memory, what reaches them, what becomes of it.

Every method that takes an event turns it into `Work`, by way of the `Activator`. The engine collects the works of a batch with `take`,
commits them in one transaction, and hands the outcomes back to `settled`, which releases the effects. Nothing leaves
the worker before the commit that justifies it (the output gate), and a work whose unit was refused is forgotten together with the
runs it touched: they are read from the file again.

No clock (`now` is set by the engine), no threads, no I/O but reads of the store.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from stepwell.activation import DEADLINE_REASON, Activator
from stepwell.attempts import Attempts
from stepwell.codec import Codec
from stepwell.definition import Workflow
from stepwell.errors import ClaimLost, RunConflict, StepwellError
from stepwell.execution import Execution, Operation
from stepwell.journal import Entry, Payload
from stepwell.lifecycle import ENDED
from stepwell.model import RunRecord, RunSnapshot
from stepwell.resident import Resident
from stepwell.steps import Steps, attempt_history
from stepwell.store.base import (
    CancelRequested,
    Change,
    Created,
    Inspector,
    Lent,
    MessageSent,
    Outcome,
    RunCreated,
    RunFinished,
    RunMoved,
    Sent,
)
from stepwell.work import Outside, Reply, RunOver, Work

_log: Final = logging.getLogger("stepwell")

#: How many runs a recovery, or an admission, reads from the store at a time.
_LOAD_CHUNK: Final = 500

#: After how many refused writes in a row a run is halted instead of read again.
_MAX_REFUSALS: Final = 3


class Limits(NamedTuple):
    """How much the worker keeps in memory: `running` runs at once, and `waiting` ones beside them."""

    running: int = 10_000
    waiting: int = 1_000


class Message(NamedTuple):
    """A message as a caller hands it in."""

    name: str
    value: Payload
    key: str | None


class Worker:
    """The runs of one engine. Not thread-safe: the engine's thread owns it."""

    def __init__(
        self,
        inspector: Inspector,
        codec: Codec,
        workflows: Mapping[str, Workflow[..., Any]],
        outside: Outside,
        limits: Limits,
        chance: Callable[[], float],
    ) -> None:
        self.now = 0
        self.codec = codec
        self._inspector = inspector
        self._workflows = workflows
        self._outside = outside
        self._limits = limits
        self._activator = Activator(self)
        self._steps = Steps(self._activator, chance)
        self._residents: dict[int, Resident] = {}
        self._keys: dict[str, int] = {}  # of residents, by run id
        self._waiting: OrderedDict[int, Resident] = OrderedDict()  # residents at rest, least recently used first
        self._due: list[tuple[int, int]] = []  # heap of (due, key) of residents, with leftovers
        self._watchers: dict[str, list[tuple[int, int]]] = {}  # run id -> (waiting run, its operation)
        self._creating: dict[str, RunCreated] = {}
        self._works: list[Work] = []
        self._steps_to_run: list[Attempts] = []
        self._cascade: list[tuple[int, int, RunOver]] = []  # ends to deliver within the work under way
        self._greenlets: set[str] = set()  # workflows that block in the middle of async code
        self._parked_due: int | None = None  # no run outside of memory is due before this; None: none is
        self._ending: dict[int, RunOver] = {}  # runs that ended in works that are not committed yet
        self._refusals: dict[int, int] = {}
        self._pending_may_exist = True
        self.draining = False

    # --- the batch -----------------------------------------------------------------------------------------------

    def take(self) -> list[Work]:
        """Return the works of the batch that ends here."""
        works, self._works = self._works, []
        for work in works:
            if work.run is not None:
                work.run.work = None
                for run in work.others:
                    run.work = None
        return works

    @property
    def has_work(self) -> bool:
        """Tell whether there is something to commit."""
        return bool(self._works)

    def put_back(self, works: list[Work]) -> None:
        """Take works back that could not be committed now; what happens to their runs meanwhile joins them."""
        for work in works:
            for run in work.residents:
                other: Work | None = run.work
                if other is not None and other is not work:
                    work.absorb(other)
                    self._works.remove(other)
                run.work = work
        self._works = works + self._works

    def disk_full(self, works: list[Work], error: StepwellError) -> None:
        """Refuse requests that touch no run in memory; keep the rest for another try."""
        kept = []
        for work in works:
            if work.calls_transactions:
                # Their functions were called, but nothing of it stands: read the runs again when there is space.
                for run in work.residents:
                    self._forget(run)
                    self.load_later(run.key)
            elif work.residents:
                kept.append(work)
            else:
                self.settled(work, error)
        self.put_back(kept)

    def halt_broken(self, key: int, error: Exception) -> None:
        """Halt a run whose event the engine failed to handle; what that event led to is dropped."""
        run = self._residents.get(key)
        if run is None:
            return
        work: Work | None = run.work
        if work is not None and work in self._works:
            self._works.remove(work)
            for other in work.residents:
                other.work = None
                self._forget(other)
                if other is not run:
                    self.load_later(other.key)
        self._forget(run)
        reason = f"{type(error).__name__}: the engine failed to handle this run: {error}"
        self._lone_work().changes.append(RunMoved(key, "halted", self.now, None, reason))

    def prepare(self, work: Work) -> None:
        """Make the unit of a work with transactional steps call them, inside the transaction."""

        def body(lent: Lent) -> list[Change]:
            before = len(work.changes)
            for run, attempts in work.extra.transactions:
                if attempts.wanted and self._residents.get(run.key) is run:
                    self._join(run, work)
                    self._steps.call_transaction(self.codec, attempts, lent)
                    self.step_finished(attempts)
            for run in work.residents:
                run.work = None
            return work.changes[before:]

        work.body = body

    def settle(self, works: Sequence[Work], outcomes: Sequence[Outcome]) -> None:
        """Release what committed works led to, or forget those that were refused."""
        steps = self._steps_to_run
        for work, outcome in zip(works, outcomes, strict=True):
            if work.rare is None and isinstance(outcome, list):
                for attempts in work.steps:
                    if attempts.wanted:
                        steps.append(attempts)
            else:
                self.settled(work, outcome)

    def settled(self, work: Work, outcome: Outcome) -> None:
        """Release what a work led to, or forget it where it was refused."""
        if work.rare is not None:
            self._forget_uncommitted(work)
        if isinstance(outcome, StepwellError):
            self._refused(work, outcome)
            return
        if work.rare is not None:
            self._release(work, outcome)
        for attempts in work.steps:
            if attempts.wanted:
                self._steps_to_run.append(attempts)

    def _release(self, work: Work, outcome: Sequence[Any]) -> None:
        extra = work.extra
        if extra.handlers:
            results = {id(change): result for change, result in zip(work.changes, outcome, strict=True)}
            for change, handler in extra.handlers:
                handler(results[id(change)])
        for reply, value in extra.replies:
            reply(value, None)
        if extra.over:
            self._outside.run_over(extra.over)
        for call in extra.after:
            call()
        if extra.drops:
            self._outside.drop_steps(extra.drops)

    def run_steps(self) -> None:
        """Have the steps executed that the commits since the last call made safe."""
        if self._steps_to_run:
            steps, self._steps_to_run = self._steps_to_run, []
            self._outside.run_steps(steps)

    def _refused(self, work: Work, error: StepwellError) -> None:
        for reply in work.waiting_callers():
            reply(None, error)
        lost = [run for run in work.residents if run.key in self._residents or run.finished]
        for run in lost:
            self._forget(run)
        if isinstance(error, ClaimLost):
            return
        for run in lost:
            _log.error("run %r is read again, because a write was refused: %s", run.id, error)
            self._refusals[run.key] = self._refusals.get(run.key, 0) + 1
            if self._refusals[run.key] < _MAX_REFUSALS:
                self.load_later(run.key)
            else:
                reason = f"{type(error).__name__}: its writes were refused {_MAX_REFUSALS} times: {error}"
                self._lone_work().changes.append(RunMoved(run.key, "halted", self.now, None, reason))

    def _forget_uncommitted(self, work: Work) -> None:
        for over in work.extra.over:
            self._ending.pop(over.key, None)
        if self._creating:
            for change, _ in work.extra.handlers:
                if isinstance(change, RunCreated):
                    self._creating.pop(change.id, None)

    def load_later(self, key: int) -> None:
        """Bring a run to memory in an event of its own."""
        self._outside.later(lambda: self.load([key]))

    def _work_of(self, run: Resident) -> Work:
        work: Work | None = run.work
        if work is None:
            run.work = work = Work([], None, run)
            self._works.append(work)
        return work

    def _join(self, run: Resident, work: Work) -> None:
        """Make `run` part of `work`; where it has a work of its own already, the two become one."""
        other: Work | None = run.work
        if other is None:
            work.add_run(run)
        elif other is not work:
            work.absorb(other)
            self._works.remove(other)

    def _lone_work(self) -> Work:
        work = Work([])
        self._works.append(work)
        return work

    def _settle(self, run: Resident, work: Work) -> None:
        self._activator.settle(run, work)
        if self._cascade:
            self._deliver_ends(work)

    def _deliver_ends(self, work: Work) -> None:
        """Tell the watchers of runs that ended within this work, and theirs in turn."""
        while self._cascade:
            key, number, over = self._cascade.pop()
            watcher = self._residents.get(key)
            operation = watcher.execution.pending.get(number) if watcher is not None else None
            if watcher is None or operation is None:
                continue
            self._join(watcher, work)
            self._activator.deliver(watcher, self._activator.result_entry(watcher, operation, over), work)
            self._activator.settle(watcher, work)

    # --- requests from outside -----------------------------------------------------------------------------------

    def start(self, run: RunCreated, messages: Sequence[Message], reply: Reply) -> None:
        """Create a run, or find the one that has its id, and send it `messages`; replies with the run's key."""
        work = self._lone_work()
        work.extra.failing.append(reply)
        work.expect(run, lambda created: self._started(run, created, reply))
        self._creating[run.id] = run
        for message in messages:
            change = MessageSent(run.id, message.name, message.value, self.now, message.key)
            work.expect(change, lambda sent, change=change: self.message_committed(change, sent))

    def _started(self, run: RunCreated, created: Created, reply: Reply) -> None:
        try:
            self.check_conflict(run, created)
        except RunConflict as error:
            reply(None, error)
            return
        reply(created.key, None)
        self.child_created(run, created)

    def check_conflict(self, run: RunCreated, created: Created) -> None:
        """Raise `RunConflict` where the id of a start belongs to a run of another workflow or with other input."""
        existing = created.existing
        if existing is None or (existing.workflow == run.workflow and existing.fingerprint == run.fingerprint):
            return
        what = "another workflow" if existing.workflow != run.workflow else "other input"
        raise RunConflict(
            f"run {run.id!r} exists already, with {what} ({existing.workflow!r}, {existing.status}); it was not started again. "
            f"Choose another id, or get the run with get({run.id!r})"
        )

    def as_pending(self, run: RunCreated) -> RunCreated:
        """Return the same start for a run that cannot run at once."""
        reason = None if run.workflow in self._workflows else _no_workflow(run.workflow)
        return replace(run, status="pending", reason=reason)

    def send(self, run_id: str, message: Message, reply: Reply) -> None:
        """Send a message; replies when it is recorded, or with `RunNotFound` or `RunEnded`."""
        run = self.resident(run_id)
        if run is not None and message.key is None and not run.sending.get(message.name):
            receiver = run.waits_for(message.name)
            if receiver is not None:
                # Someone waits for it: it goes into the journal without a stop in the message table.
                work = self._work_of(run)
                work.extra.replies.append((reply, None))
                entry = self._activator.entry(run, receiver, "message", message.value)
                self._activator.deliver(run, entry, work)
                self._settle(run, work)
                return
        work = self._lone_work()
        change = MessageSent(run_id, message.name, message.value, self.now, message.key)
        if run is not None:
            run.sending[message.name] = run.sending.get(message.name, 0) + 1
        work.expect(change, lambda sent: self.message_committed(change, sent))
        work.extra.replies.append((reply, None))

    def cancel(self, run_id: str, reason: str | None, reply: Reply) -> None:
        """Ask a run to stop; replies when the request is recorded, or with `RunNotFound`."""
        change = CancelRequested(run_id, self.now, reason)
        run = self.resident(run_id)
        if run is not None and run.status != "halted":
            work = self._work_of(run)
            work.changes.append(change)
            self._cancel(run, reason, work)
        elif (record := self.find(run_id)) is not None and record.status == "halted":
            work = self._lone_work()
            work.changes.append(change)
            self._cancel_unstarted(replace(record, cancel_reason=record.cancel_reason or reason), work)
        else:
            work = self._lone_work()
            work.expect(change, self.cancel_committed)
        work.extra.replies.append((reply, None))

    def resume(self, run_id: str, reply: Reply) -> None:
        """Try a halted run again, with the code as it is now."""
        record = self._inspector.run_by_id(run_id)
        if record is not None and record.status == "halted":
            self.load([record.key])
        reply(None, None)

    def _cancel(self, run: Resident, reason: str | None, work: Work) -> None:
        if run.cancelling or run.finished:
            return
        run.cancelling = True
        run.cancel_reason = reason
        self._activator.deliver(run, Entry(run.key, 0, "cancel", reason or "", 0, self.now), work)
        self._settle(run, work)

    # --- time ----------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Deliver everything that is due at `now`."""
        # Parked runs first: fired in the next turn only, they could have left memory again before that, for ever.
        if self._parked_due is not None and self._parked_due <= self.now:
            self._load_due()
        while self._due and self._due[0][0] <= self.now:
            due, key = heappop(self._due)
            run = self._residents.get(key)
            if run is not None and run.armed == due:
                run.armed = None
                self._fire(run)

    def next_due(self) -> int | None:
        """Return when `advance` has something to do next, or None."""
        while self._due:
            due, key = self._due[0]
            run = self._residents.get(key)
            if run is not None and run.armed == due:
                break
            heappop(self._due)
        resident_due = self._due[0][0] if self._due else None
        if self._parked_due is None or (resident_due is not None and resident_due < self._parked_due):
            return resident_due
        return self._parked_due

    def _fire(self, run: Resident) -> None:
        work = self._work_of(run)
        if run.deadline_at is not None and run.deadline_at <= self.now and not run.cancelling:
            self._cancel(run, DEADLINE_REASON, work)
        while not run.finished and run.status != "halted":
            number = run.pop_due(self.now)
            if number is None:
                break
            operation = run.execution.pending[number]
            if operation.kind == "timer":
                self._activator.deliver(run, self._activator.entry(run, operation, "timer"), work)
            else:
                self._activator.dispatch(run, run.calls[number], work)
            self._settle(run, work)
        if not run.finished and run.armed is None and run.key in self._residents:
            self._arm(run)

    def _arm(self, run: Resident) -> None:
        due = run.next_due()
        if due != run.armed:
            run.armed = due
            if due is not None:
                heappush(self._due, (due, run.key))

    # --- steps ---------------------------------------------------------------------------------------------------

    def step_finished(self, attempts: Attempts) -> None:
        """Record how an attempt ended, and carry the run on."""
        run = self._residents.get(attempts.run_key)
        number = attempts.operation
        if run is None or not attempts.wanted or run.calls.get(number) is not attempts:
            return
        work: Work = run.work or self._work_of(run)
        if attempts.error is None and attempts.refused is None:
            run.active -= 1
            del run.calls[number]
            entry = Entry(
                attempts.run_key,
                number,
                "step",
                attempts.name,
                attempts.fingerprint,
                self.now,
                attempts.value,
                attempts.attempt,
                attempts.started_at,
            )
            work.changes.append(entry)
            run.execution.deliver(entry)
        else:
            self._steps.failed(run, attempts, work, self.now)
            if run.status == "halted":
                return
        self._activator.settle(run, work)
        if self._cascade:
            self._deliver_ends(work)

    def transaction_due(self, run: Resident, attempts: Attempts) -> None:
        """Give a transactional step a unit whose body calls it."""
        if not attempts.wanted or run.key not in self._residents:
            return
        self._work_of(run).extra.transactions.append((run, attempts))

    def show_long_steps(self, attempts: Iterable[Attempts]) -> None:
        """Record that these attempts are under way, so that someone who reads the file sees them."""
        for attempt in attempts:
            run = self._residents.get(attempt.run_key)
            if run is not None and attempt.wanted and not attempt.visible:
                attempt.visible = True
                self._work_of(run).changes.append(self._activator.started_entry(attempt))

    # --- coming and going ----------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Bring back what was running when the last engine stopped, and try halted runs with today's code."""
        self._parked_due = self._inspector.next_wake()
        self.load(self._inspector.running())
        self.load(self._inspector.halted())

    def load(self, keys: Sequence[int]) -> None:
        """Bring runs to memory, by replaying their journals."""
        wanted = [key for key in keys if key not in self._residents and key not in self._ending]
        for at in range(0, len(wanted), _LOAD_CHUNK):
            for snapshot in self._inspector.load(wanted[at : at + _LOAD_CHUNK]):
                self._load(snapshot)

    def _load(self, snapshot: RunSnapshot) -> None:
        record = snapshot.record
        if record.status in ENDED or record.id in self._keys:
            return
        if record.cancel_requested_at is not None and _has_no_say(snapshot):
            self._cancel_unstarted(record, self._lone_work())
            return
        definition = self._workflows.get(record.workflow)
        if definition is None:
            self._leave_pending(record)
            return
        if record.started_at is None:
            record = replace(record, started_at=self.now)
        execution = Execution(record, definition, self.codec, greenlets=record.workflow in self._greenlets)
        run = Resident(record, execution)
        self._enter(run)
        work = self._work_of(run)
        if record.status in ("pending", "halted"):
            work.changes.append(RunMoved(run.key, "running", self.now))
            run.status, run.wake_at = "running", None
        run.history = attempt_history(snapshot.entries)
        execution.replay(snapshot.entries)
        for message in snapshot.messages:
            run.put_message(message.name, message.value, message.position, message.sent_at)
        for entry in snapshot.entries:
            if entry.kind == "cancel":
                run.cancelling, run.cancel_reason = True, entry.name or None
            elif entry.kind == "child":
                run.has_children = True
        self._settle(run, work)
        if record.cancel_requested_at is not None and not run.cancelling and run.key in self._residents:
            self._cancel(run, record.cancel_reason, work)

    def _leave_pending(self, record: RunRecord) -> None:
        reason = _no_workflow(record.workflow)
        if record.status != "pending" or record.reason != reason:
            self._lone_work().changes.append(RunMoved(record.key, "pending", self.now, None, reason))

    def _cancel_unstarted(self, record: RunRecord, work: Work) -> None:
        """End a run whose code has no part in it: it never ran, or is halted."""
        over = RunOver(record.key, record.id, "cancelled", None, None, record.cancel_reason)
        self._activator.record_end(over, work, has_children=record.started_at is not None)
        self._ending[record.key] = over
        self._tell_watchers(record.id, record.parent, over, work)
        self._deliver_ends(work)

    def _load_due(self) -> None:
        keys = self._inspector.due(self.now, _LOAD_CHUNK)
        self.load(keys)
        # Where more are due than one batch holds, the next call goes on with them.
        self._parked_due = self.now if len(keys) == _LOAD_CHUNK else self._inspector.next_wake(self.now)

    def _enter(self, run: Resident) -> None:
        self._residents[run.key] = run
        self._keys[run.id] = run.key

    def _forget(self, run: Resident) -> None:
        """Take a run out of memory. What the file says of it stands."""
        if self._residents.get(run.key) is run:
            del self._residents[run.key]
            self._keys.pop(run.id, None)
        self._waiting.pop(run.key, None)
        dropped = [attempts for attempts in run.calls.values() if attempts.retry_at is None]
        for attempts in dropped:
            attempts.wanted = False
        if dropped:
            self._outside.drop_steps(dropped)
        for operation in run.execution.pending.values():
            if operation.kind == "result":
                self._unwatch(operation.name, run.key)
        run.execution.close()

    def _unwatch(self, run_id: str, watcher: int) -> None:
        left = [entry for entry in self._watchers.get(run_id, ()) if entry[0] != watcher]
        if left:
            self._watchers[run_id] = left
        else:
            self._watchers.pop(run_id, None)

    def evict(self) -> None:
        """Let the waiting runs beyond the limit leave memory, least recently used first; call it after a commit."""
        excess = len(self._waiting) - self._limits.waiting
        if excess <= 0:
            return
        for run in list(islice(self._waiting.values(), excess)):
            if run.work is not None or run.deliverable or any(run.sending.values()):
                continue
            due = run.wake_at
            if due is not None and (self._parked_due is None or due < self._parked_due):
                self._parked_due = due
            self._forget(run)

    def admit(self) -> None:
        """Let pending runs run while there is room."""
        room = self._limits.running - self._running()
        if room <= 0 or not self._pending_may_exist or self.draining:
            return
        keys = self._inspector.pending(list(self._workflows), min(room, _LOAD_CHUNK))
        self._pending_may_exist = len(keys) == min(room, _LOAD_CHUNK)
        self.load(keys)

    def _running(self) -> int:
        return len(self._residents) - len(self._waiting)

    def close(self) -> None:
        """Drop every run from memory, without letting any of them act."""
        for run in list(self._residents.values()):
            self._forget(run)

    # --- what the activator asks (see `stepwell.activation.Runs`) --------------------------------------------------

    def resident(self, run_id: str) -> Resident | None:
        """Return a run that is in memory and has not ended."""
        key = self._keys.get(run_id)
        return None if key is None else self._residents[key]

    def find(self, run_id: str) -> RunRecord | None:
        """Read a run from the store, as it will be once the batch is committed."""
        record = self._inspector.run_by_id(run_id)
        over = self._ending.get(record.key) if record is not None else None
        if record is None or over is None:
            return record
        return replace(record, status=over.status, result=over.result, error=over.error, reason=over.reason)

    def being_created(self, run_id: str) -> RunCreated | None:
        """Return the change of the batch under way that creates this run, or None."""
        return self._creating.get(run_id)

    def creating(self, change: RunCreated) -> None:
        """Note that the batch under way creates a run, for `being_created`."""
        self._creating[change.id] = change

    def admits(self, workflow: str) -> bool:
        """Tell whether a new run of this workflow may run at once."""
        return workflow in self._workflows and self._running() < self._limits.running and not self.draining

    def watch(self, run_id: str, watcher: int, operation: int) -> None:
        """Have the end of a run delivered to an operation of another."""
        self._watchers.setdefault(run_id, []).append((watcher, operation))

    def child_created(self, change: RunCreated, created: Created) -> None:
        """Bring a new run to life."""
        if created.existing is not None:
            return
        definition = self._workflows.get(change.workflow)
        if change.status != "running" or definition is None:
            self._pending_may_exist = True
            return
        record = RunRecord(
            key=created.key,
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
        execution = Execution(record, definition, self.codec, greenlets=change.workflow in self._greenlets)
        run = Resident(record, execution)
        self._enter(run)
        work = self._work_of(run)
        execution.begin()
        self._settle(run, work)

    def message_committed(self, change: MessageSent, sent: Sent) -> None:
        """Hand a message to its receiver."""
        run = self._residents.get(sent.run)
        if run is None:
            if sent.position and sent.status == "waiting":
                self.load_later(sent.run)
            return
        left = run.sending.get(change.name, 0) - 1
        if left > 0:
            run.sending[change.name] = left
        else:
            run.sending.pop(change.name, None)
        if sent.position:
            run.put_message(change.name, change.value, sent.position, change.at)
            self._settle(run, self._work_of(run))

    def cancel_committed(self, record: RunRecord) -> None:
        """Deliver a cancellation."""
        if record.status in ENDED:
            return
        run = self._residents.get(record.key)
        if run is not None:
            self._cancel(run, record.cancel_reason, self._work_of(run))
        elif record.status == "halted":
            self._cancel_unstarted(record, self._lone_work())
        elif record.status in ("waiting", "pending"):
            self.load_later(record.key)

    def children_cancelled(self, keys: list[int]) -> None:
        """Deliver cancellations to children."""
        for key in keys or ():
            record = self._inspector.run_by_key(key)
            if record is not None:
                self.cancel_committed(record)

    def publish_committed(self, run: int, key: str, value: Payload) -> None:
        """Tell those who wait for a value."""
        self._outside.published(run, key, value)

    def ended(self, run: Resident, over: RunOver, work: Work) -> None:
        """Drop an ended run from memory and tell its watchers, within the same unit."""
        run.finished = True
        self._ending[run.key] = over
        self._forget(run)
        self._tell_watchers(run.id, run.parent, over, work)

    def _tell_watchers(self, run_id: str, parent: int | None, over: RunOver, work: Work) -> None:
        for key, operation in self._watchers.pop(run_id, ()):
            self._cascade.append((key, operation, over))
        if parent is not None and parent not in self._residents:
            self._activator.wake_parent(parent, work)

    def halted(self, run: Resident) -> None:
        """Drop a halted run from memory."""
        self._forget(run)

    def restart(self, run: Resident) -> None:
        """Start the run's code anew, on greenlets, from its journal; what the interrupted activation led to is discarded."""
        old = run.execution
        self._greenlets.add(old.definition.name)
        snapshot = self._inspector.load([run.key])[0]
        uncommitted = [change for change in self._work_of(run).changes if isinstance(change, Entry) and change.run == run.key]
        record = replace(snapshot.record, started_at=old.started_at)
        run.execution = execution = Execution(record, old.definition, self.codec, greenlets=True)
        execution.replay([*snapshot.entries, *uncommitted])
        # What the old execution had asked for before the interrupted activation is under way already.
        execution.issued = [operation for operation in execution.issued if operation.number > run.opened]
        run.receivers = {
            name: deque(execution.pending[waiting.number] for waiting in receivers if waiting.number in execution.pending)
            for name, receivers in run.receivers.items()
        }
        old.close()

    def resting(self, run: Resident) -> None:
        """Note the run's next due time, and whether it may leave memory."""
        self._arm(run)
        if run.status == "waiting":
            self._waiting[run.key] = run
            self._waiting.move_to_end(run.key)
        else:
            self._waiting.pop(run.key, None)

    def resume_soon(self, run: Resident) -> None:
        """Settle the run again, as an event of its own."""
        self._outside.later(lambda: self._resume(run))

    def _resume(self, run: Resident) -> None:
        if self._residents.get(run.key) is run:
            self._settle(run, self._work_of(run))

    def reopen(self, run: Resident, operation: Operation) -> None:
        """Open an operation again, after the commit."""
        if self._residents.get(run.key) is run and operation.number in run.execution.pending:
            run.execution.issued.append(operation)
            self._resume(run)

    def woken(self, key: int) -> None:
        """Bring a run that is not in memory back."""
        self.load_later(key)


def _has_no_say(snapshot: RunSnapshot) -> bool:
    """Tell whether a run whose cancellation was requested ends without its code hearing of it."""
    if snapshot.record.status == "halted":
        return all(entry.kind != "cancel" for entry in snapshot.entries)
    return snapshot.record.status == "pending" and not snapshot.entries


def _no_workflow(name: str) -> str:
    return f"no worker here has the workflow {name!r}; the run waits for one that does"
