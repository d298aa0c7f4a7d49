"""Bringing runs to memory: new ones, and those that the store holds, by replaying their journals."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Final

from stepwell.definitions.definition import Workflow
from stepwell.errors import RunCrashed, StoreError
from stepwell.model.run import RunRecord, RunSnapshot
from stepwell.store.changes import RunCreated, RunMoved
from stepwell.store.claims import RunVersioned
from stepwell.store.queues import PermitReturned
from stepwell.values.large_values import collector_paused
from stepwell.worker.arriving.step_outcomes import attempt_history
from stepwell.worker.repair.settlements import Settler
from stepwell.worker.rules.versions import other_version
from stepwell.worker.running.carrying import Carrier
from stepwell.worker.running.claims import Claims
from stepwell.worker.running.letting_go import LettingGo
from stepwell.worker.running.unstarted import Unstarted
from stepwell.worker.state.executions import Executions
from stepwell.worker.state.failure_log import run_fields
from stepwell.worker.state.journal_length import is_too_long, limit_of, too_long
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.parked import waits_for_nothing
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork

_log: Final = logging.getLogger("stepwell")

#: How many runs are read from the store at a time.
_READ_AT_ONCE: Final = 500

#: From how many entries on the collector waits until they are replayed. What a replay makes is what it needs, so there
#: is nothing to find, and to look through all of it again and again takes up to 40 % of the time.
_MANY_ENTRIES: Final = 1000


class Loader:
    """Makes loaded runs out of what the store holds, and fills memory with them."""

    def __init__(
        self,
        runs: Runs,
        executions: Executions,
        letting_go: LettingGo,
        carrier: Carrier,
        unstarted: Unstarted,
        claims: Claims,
        settler: Settler,
    ) -> None:
        self._runs = runs
        self._executions = executions
        self._letting_go = letting_go
        self._carrier = carrier
        self._unstarted = unstarted
        self._claims = claims
        self._settler = settler

    def needs_greenlets(self, definition: Workflow[..., Any]) -> bool:
        """Tell whether the code of a workflow executes on greenlets, as far as is known."""
        return self._executions.need_greenlets(definition)

    def begin(self, change: RunCreated, key: int, definition: Workflow[..., Any]) -> None:
        """Bring a run to memory that was created just now, and start its code."""
        runs = self._runs
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
            ahead=change.ahead,
        )
        execution = self._executions.of(record, definition)
        run = LoadedRun(record, execution)
        runs.memory.enter(run)
        work = runs.batch.work_of(run)
        if definition.version is not None:
            work.changes.append(RunVersioned(key, definition.version))
        execution.begin()
        self._carrier.carry_on(run, work)

    def begin_started(self, started: Sequence[tuple[RunCreated, int]]) -> None:
        """Bring runs to memory that a transaction created, from what it wrote; those that something came to are read.

        Not to read them takes a fifth from the time in which they are begun.
        """
        keys = [key for _, key in started]
        untouched = self._runs.reads.untouched(keys, self._runs.epoch)
        wanted = set(self._claims.claimed([key for key in keys if key in untouched]))
        for start, key in started:
            definition = self._runs.workflows.get(start.workflow)
            if key in wanted and definition is not None:
                try:
                    self.begin(start, key, definition)
                except StoreError:  # see `Carrier.carry_on`
                    raise
                except Exception as error:  # noqa: BLE001 - one run must not keep the others from running
                    self._halt_broken(key, start.id, start.workflow, error)
        self.load([key for key in keys if key not in untouched])

    def load(self, keys: Sequence[int]) -> int:
        """Bring runs to memory, by replaying their journals; return how many entries that were."""
        runs, replayed = self._runs, 0
        wanted = self._claims.claimed(keys)
        for at in range(0, len(wanted), _READ_AT_ONCE):
            snapshots = runs.reads.load(wanted[at : at + _READ_AT_ONCE])
            entries = sum(len(snapshot.entries) for snapshot in snapshots)
            replayed += entries
            with collector_paused() if entries >= _MANY_ENTRIES else nullcontext():
                for snapshot in snapshots:
                    self._try_to_load(snapshot)
        return replayed

    def _try_to_load(self, snapshot: RunSnapshot) -> None:
        try:
            self._load(snapshot)
        except StoreError:  # see `Carrier.carry_on`
            raise
        except Exception as error:  # noqa: BLE001 - one run that cannot be read must not keep the others from running
            record = snapshot.record
            self._halt_broken(record.key, record.id, record.workflow, error)

    def _halt_broken(self, key: int, run_id: str, workflow: str, error: Exception) -> None:
        fields = run_fields(run_id, workflow)
        _log.critical("run %r: the engine failed to read it; it is halted", run_id, exc_info=error, extra=fields)
        self._letting_go.halt_broken(key, error)

    def _load(self, snapshot: RunSnapshot) -> None:
        runs = self._runs
        record = snapshot.record
        halted_before = self._claims.halted.pop(record.key, None)
        if record.owner != runs.epoch or runs.memory.by_id(record.id) is not None:
            return  # it ended meanwhile, or this worker was fenced: then it is another one's
        if record.suspect:
            self._claims.suspects.add(record.key)
        if record.crashes >= runs.limits.crashes:
            self._give_up(record)
            return
        if record.paused:  # that was asked for while the run was on its way
            work = runs.batch.lone_work()
            work.changes.append(RunMoved.paused(record.key, runs.now, record.waiting_on))
            return
        definition = runs.workflows.fitting(record.workflow, record.version)
        if definition is None:
            self._unstarted.leave_pending(record)
            return
        limit = limit_of(definition, runs.limits.entries)
        if len(snapshot.entries) >= limit and is_too_long(halted_before) and record.cancel_requested_at is None:
            # Tried again, without being asked for: to replay all of it would take seconds, and halt it once more.
            reason = too_long(record.id, record.workflow, len(snapshot.entries), limit)
            self._letting_go.halt_unread(record.key, reason, logged=True)
            return
        record = self._executions.with_items(snapshot)
        execution = self._executions.of(record, definition)
        run = LoadedRun(record, execution)
        run.halted_before = halted_before
        run.entries = len(snapshot.entries)
        runs.memory.enter(run)
        work = runs.batch.work_of(run)
        run.suspect = record.suspect
        run.has_children = record.chapter is not None  # it may have some of an earlier chapter's
        run.permits = {permit.op: permit for permit in snapshot.permits}
        run.history = attempt_history(runs.codec, snapshot.entries, snapshot.progress)
        execution.replay(snapshot.entries)
        if definition.version != record.version:
            self._note_version(run, record, work)
        if record.waiting_on is not None:  # so the log had been told of tasks that failed by then
            execution.loop.unretrieved(held=waits_for_nothing(record.waiting_on))
        run.loaded_messages = frozenset(message.position for message in snapshot.messages)
        run.heard = max(run.loaded_messages, default=0)
        for message in snapshot.messages:
            run.put_message(message.name, message.value, message.position, message.sent_at)
        for entry in snapshot.entries:
            if entry.kind == "cancel":
                run.cancelling, run.cancel_reason = True, entry.name or None
            elif entry.kind == "child":
                run.has_children = True
        if snapshot.settlements:
            misfit = self._settler.take(run, snapshot.settlements, runs.now, work)
            if misfit is not None:
                self._carrier.halt(run, misfit[0], work, misfit[1])
                return
        self._carrier.carry_on(run, work)
        if run.permits and run.key in runs.memory:
            self._return_permits(run)
        if record.cancel_requested_at is not None and not run.cancelling and run.key in runs.memory:
            self._carrier.deliver_cancel(run, record.cancel_reason, work)

    def _note_version(self, run: LoadedRun, record: RunRecord, work: UnitOfWork) -> None:
        """Have a run go on with another version than it began with, if what it recorded fits that."""
        execution = run.execution
        version = execution.definition.version
        if execution.halted is not None and record.version is not None:
            execution.halted = other_version(execution.halted, record, version)
        elif version is not None and not execution.needs_greenlets and execution.halted is None:
            work.changes.append(RunVersioned(run.key, version))
            if record.version is not None:
                text = "run %r of %r, which began with version %d, goes on with version %d: what it recorded fits"
                fields = run_fields(record.id, record.workflow)
                _log.info(text, record.id, record.workflow, record.version, version, extra=fields)

    def _return_permits(self, run: LoadedRun) -> None:
        """Return the permits of operations that the code has given up, which a worker that died could not return."""
        runs = self._runs
        for permit in run.permits.values():
            runs.batch.work_of(run).changes.append(PermitReturned(run.key, permit.op, runs.now, runs.now))
            runs.limit_touched(permit.limit)
        run.permits = {}

    def _give_up(self, record: RunRecord) -> None:
        """Halt a run that is not to be tried again by itself."""
        error = RunCrashed(
            f"run {record.id!r} was under way, and made no progress, each of the last {record.crashes} times that its "
            "worker died, so it is not carried on by itself any more. Find out what kills the process (memory, a crash "
            "in a library: look at the worker's exit code), then resume the run"
        )
        self._letting_go.halt_unread(record.key, error)
