"""Where requests come in: the one guard before all of them, and the one way in which they fail.

Serving a request takes one event. It adds to the batch what the request changes, and the answer comes when that is
committed. What is to be refused is refused before anything is added: the function that serves it raises the error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, assert_never

from stepwell.errors import StepwellError, StoreError, StoreUnavailable
from stepwell.runtime.serving.bulk_requests import BulkRequests
from stepwell.runtime.serving.pause_requests import PauseRequests
from stepwell.runtime.serving.promise_requests import PromiseRequests
from stepwell.runtime.serving.requests import (
    AnswerPromise,
    ArchiveRuns,
    Asked,
    CancelRun,
    CancelWaiting,
    ChangeQueue,
    ContinueBulk,
    DeleteRun,
    DescribeRun,
    Event,
    ForkRun,
    FromStep,
    PauseQueue,
    PauseRun,
    Purge,
    Request,
    RescheduleRun,
    ResumeRun,
    RetryRun,
    RetryRuns,
    RewindRun,
    SendMessage,
    SettleStep,
    StartBulk,
    StartRun,
    TerminateRun,
    TruncateStream,
    UpdateRun,
    WaitForIdle,
    WaitForRun,
    WaitForStream,
    WaitForValue,
    Waiting,
)
from stepwell.runtime.serving.retry_requests import RetryRequests
from stepwell.runtime.serving.run_requests import RunRequests
from stepwell.runtime.serving.schedule_requests import (
    BackfillSchedule,
    ChangeSchedule,
    DeleteSchedule,
    PauseSchedule,
    PutSchedule,
    ScheduleRequests,
    TriggerSchedule,
)
from stepwell.runtime.serving.waiters import Waiters
from stepwell.runtime.serving.write_turn import WriteTurn
from stepwell.store.store import Store
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker

if TYPE_CHECKING:  # see `RequestGate`
    from stepwell.runtime.serving.archiving import Archiving
    from stepwell.runtime.serving.fork_requests import ForkRequests
    from stepwell.runtime.serving.purging import Purging
    from stepwell.runtime.serving.queue_requests import QueueRequests
    from stepwell.runtime.serving.rewind_requests import RewindRequests
    from stepwell.runtime.serving.settle_requests import SettleRequests
    from stepwell.runtime.serving.stream_requests import StreamRequests
    from stepwell.runtime.serving.update_requests import UpdateRequests


class RequestGate:
    """Serves requests, each by the function that is for its kind; belongs to the worker's thread.

    `later` queues an event: what would take long is done in pieces. Who serves the rarer requests is imported and made
    with the first of them: these eight are 6 million instructions of every start of a process, one in a hundred.
    """

    def __init__(
        self,
        worker: Worker,
        store: Store,
        waiters: Waiters,
        write_turn: WriteTurn,
        later: Callable[[Event], None],
    ) -> None:
        inspector = store.inspector
        self._worker = worker
        self._store = store
        self._write_turn = write_turn
        self._later = later
        self._runs = runs = RunRequests(worker, store.reads)
        self._retries = retries = RetryRequests(worker, inspector, runs, later)
        self._pauses = pauses = PauseRequests(worker)
        #: Acts on many runs; also those that another worker did not finish.
        self.bulk = BulkRequests(worker, inspector, runs, retries, pauses, later)
        self._promises = PromiseRequests(worker)
        self._schedules = ScheduleRequests(worker)
        self._waiters = waiters
        #: Why commits are held back until the store is tried again: the disk is full, or had an error, or is locked.
        self.unavailable: StoreUnavailable | None = None

    @cached_property
    def _updates(self) -> UpdateRequests:
        from stepwell.runtime.serving.update_requests import UpdateRequests

        return UpdateRequests(self._worker, self._waiters, self._later)

    @cached_property
    def _rewinds(self) -> RewindRequests:
        from stepwell.runtime.serving.rewind_requests import RewindRequests

        return RewindRequests(self._worker, self._retries)

    @cached_property
    def _forks(self) -> ForkRequests:
        from stepwell.runtime.serving.fork_requests import ForkRequests

        return ForkRequests(self._worker, self._store.inspector)

    @cached_property
    def _settles(self) -> SettleRequests:
        from stepwell.runtime.serving.settle_requests import SettleRequests

        return SettleRequests(self._worker, self._retries)

    @cached_property
    def _streams(self) -> StreamRequests:
        from stepwell.runtime.serving.stream_requests import StreamRequests

        return StreamRequests(self._worker)

    @cached_property
    def _queues(self) -> QueueRequests:
        from stepwell.runtime.serving.queue_requests import QueueRequests

        return QueueRequests(self._worker, self._store.reads, self._later)

    @cached_property
    def _purging(self) -> Purging:
        from stepwell.runtime.serving.purging import Purging

        return Purging(self._worker, self._store, self._write_turn, self._later)

    @cached_property
    def _archiving(self) -> Archiving:
        from stepwell.runtime.serving.archiving import Archiving

        return Archiving(self._worker, self._store, self._write_turn, self._later)

    def serve(self, asked: Asked) -> None:
        """Serve a request, or tell its caller why not; an event."""
        request, reply = asked.request, asked.reply
        if self.unavailable is not None and not isinstance(request, Waiting):
            reply(None, copy_of(self.unavailable))
            return
        try:
            self._serve(request, reply)
        except StoreError:  # of the disk: the engine stops, and tells everyone why
            raise
        except StepwellError as refusal:
            reply(None, refusal)

    def _serve(self, request: Request, reply: Reply) -> None:
        match request:
            case FromStep() | TruncateStream():  # first, for they come in thousands: a write to a stream each
                self._streams.serve(request, reply)
            case StartRun():
                self._runs.start(request, reply)
            case SendMessage():
                self._runs.send(request, reply)
            case AnswerPromise():
                self._promises.answer(request, reply)
            case UpdateRun():
                self._updates.update(request, reply)
            case CancelRun():
                self._runs.cancel(request, reply)
            case PauseRun():
                self._pauses.pause(request, reply)
            case ResumeRun():
                self._runs.resume(request.run_id, request.actor, reply)
            case DescribeRun():
                self._runs.describe(request, reply)
            case RetryRun():
                self._retries.retry(request.run_id, request.actor, reply)
            case RetryRuns():
                self._retries.retry_all(request, reply)
            case RewindRun():
                self._rewinds.rewind(request, reply)
            case ForkRun():
                self._forks.fork(request, reply)
            case SettleStep():
                self._settles.settle(request, reply)
            case TerminateRun() | DeleteRun() | StartBulk() | ContinueBulk():
                self.bulk.serve(request, reply)
            case ChangeQueue():
                self._queues.change(request, reply)
            case PauseQueue():
                self._queues.pause(request, reply)
            case CancelWaiting():
                self._queues.cancel_waiting(request, reply)
            case RescheduleRun():
                self._queues.reschedule(request, reply)
            case Purge():
                self._purging.purge(request, reply)
            case ArchiveRuns():
                self._archiving.archive(request, reply)
            case (
                PutSchedule()
                | ChangeSchedule()
                | PauseSchedule()
                | TriggerSchedule()
                | BackfillSchedule()
                | DeleteSchedule()
            ):
                self._schedules.serve(request, reply)
            case WaitForRun() | WaitForValue() | WaitForStream() | WaitForIdle():
                self._waiters.serve(request, reply)
            case _:
                assert_never(request)


def copy_of(error: StoreUnavailable) -> StoreUnavailable:
    """Return the error for one more caller: whoever raises it adds a traceback."""
    return type(error)(str(error))
