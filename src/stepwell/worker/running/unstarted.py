"""Ends runs without executing their code: runs that no worker has begun, and halted ones that are cancelled.

They wait for a worker that has their workflow, end when they are cancelled, and fail when their deadlines pass first.
Nothing of this brings a run to memory.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from stepwell.errors import ClaimLost, RunDeadlineExceeded, RunNotFound
from stepwell.model.clock import MICROSECONDS
from stepwell.model.run import RunRecord
from stepwell.model.start_policy import REPLACED_REASON
from stepwell.store.changes import RunMoved
from stepwell.worker.running.carrying import Carrier
from stepwell.worker.running.failure_hooks import Failed, tell_of_failure
from stepwell.worker.running.run_endings import FOLLOWED_BY_NOBODY, RunEndings
from stepwell.worker.running.starting import no_workflow
from stepwell.worker.state.failure_log import run_ended_line
from stepwell.worker.state.run_over import RunOver
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork

#: How many runs are ended in one commit when their deadlines have passed.
_ENDED_AT_ONCE: Final = 500
#: After how many microseconds runs that could not be ended at their deadlines are looked at again: a second.
_AGAIN: Final = MICROSECONDS


class Unstarted:
    """Moves and ends such runs for one worker, whose batch it fills."""

    def __init__(self, runs: Runs, endings: RunEndings, carrier: Carrier, *, takes_work: bool) -> None:
        self._runs = runs
        self._reads = runs.reads
        self._endings = endings
        self._carrier = carrier
        self._takes_work = takes_work
        self._ending_overdue = False  # ends of runs at their deadlines are not committed yet

    def leave_pending(self, record: RunRecord) -> None:
        """Say in a run's row that no worker here has its workflow."""
        runs = self._runs
        reason = no_workflow(record.workflow)
        if record.status != "pending" or record.reason != reason:
            runs.batch.lone_work().changes.append(RunMoved.left(record.key, runs.now, reason))

    def cancel(self, record: RunRecord, work: UnitOfWork) -> None:
        """End a run that never ran, or is halted."""
        over = RunOver.cancelled(record.key, record.id, record.cancel_reason)
        self._end_unstarted(record, over, work)

    def _fail_unstarted(self, record: RunRecord, error: BaseException, work: UnitOfWork) -> None:
        failure = self._runs.codec.encode_failure(error)
        over = RunOver.failed(record.key, record.id, failure)
        self._end_unstarted(record, over, work, error)
        failed = Failed(record.key, record.id, record.workflow, record.parent, "failed", failure, None, record.version)
        tell_of_failure(self._runs, failed, work)

    def _end_unstarted(
        self, record: RunRecord, over: RunOver, work: UnitOfWork, error: BaseException | None = None
    ) -> None:
        runs = self._runs
        line = run_ended_line(record.key, record.id, record.workflow, over.status, error=error, reason=over.reason)
        work.extra.lines.append(line)
        if record.queue is not None:
            runs.queue_touched(record.queue)
        has_begun = record.started_at is not None
        may_be_followed = record.cancel_reason == REPLACED_REASON
        late_to = record.parent if may_be_followed else FOLLOWED_BY_NOBODY
        self._endings.record_end(over, work, has_children=has_begun, unstarted=not has_begun, late_to=late_to)
        runs.batch.ending[record.key] = over
        if not may_be_followed:
            self._carrier.tell_watchers(record.id, record.parent, over, work)
            self._carrier.deliver_ends(work)

    # --- deadlines ---------------------------------------------------------------------------------------------------

    def expect_deadline(self, deadline_at: int) -> None:
        """Note the deadline of a new run that nobody has begun."""
        if self._takes_work:
            self._runs.parked.note(deadline_at)

    def end_overdue(self) -> int | None:
        """End the runs whose deadlines passed before anybody began them; return when the next one passes.

        And those that are cancelled: the worker that was asked ends such a run with its next commit, if it lives.
        """
        runs = self._runs
        if self._ending_overdue:
            return None  # it is looked at again when that is committed
        due = self._reads.next_deadline()
        if due is None or due > runs.now:
            return due
        self._ending_overdue = True
        ended: list[object] = []
        for record in self._reads.overdue(runs.now, _ENDED_AT_ONCE):
            if record.key in runs.batch.ending:
                ended.append(record.key)
                continue
            work = runs.batch.lone_work()
            work.afterwards(
                partial(ended.append, record.key), lambda error: ended.append(error) if _is_stale(error) else None
            )
            self._end_late(record, work)
        # Behind all of them, with nothing to write: it has its outcome with the same commit.
        last = runs.batch.lone_work()
        last.afterwards(lambda: self._overdue_ended(0 if ended else _AGAIN), lambda _error: self._overdue_ended(_AGAIN))
        return None

    def _end_late(self, record: RunRecord, work: UnitOfWork) -> None:
        if record.cancel_requested_at is not None:
            self.cancel(record, work)
            return
        where = f"in queue {record.queue!r}" if record.queued else "for a worker with room for it"
        why = f"it still waited {where}" if record.queued or not record.reason else record.reason
        error = RunDeadlineExceeded(
            f"run {record.id!r} did not begin before its deadline: {why}. Nothing of it was executed"
        )
        self._fail_unstarted(record, error, work)

    def _overdue_ended(self, wait: int) -> None:
        self._ending_overdue = False
        self._runs.parked.note(self._runs.now + wait)


def _is_stale(error: BaseException | None) -> bool:
    """Tell whether a change was refused because what it was about had changed already."""
    return isinstance(error, (ClaimLost, RunNotFound))
