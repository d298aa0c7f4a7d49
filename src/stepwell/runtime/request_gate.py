"""Where requests come in: the one guard before all of them, and the one way in which they fail.

Serving a request takes one event. It adds to the batch what the request changes, and the answer comes when that is
committed. What is to be refused is refused before anything is added: the function that serves it raises the error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from stepwell.errors import StepwellError, StoreError, StoreUnavailable
from stepwell.runtime.archiving import Archiving
from stepwell.runtime.bulk_requests import BulkRequests
from stepwell.runtime.fork_requests import ForkRequests
from stepwell.runtime.pause_requests import PauseRequests
from stepwell.runtime.promise_requests import PromiseRequests
from stepwell.runtime.purging import Purging
from stepwell.runtime.queue_requests import QueueRequests
from stepwell.runtime.requests import (
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
from stepwell.runtime.retry_requests import RetryRequests
from stepwell.runtime.rewind_requests import RewindRequests
from stepwell.runtime.run_requests import RunRequests
from stepwell.runtime.schedule_requests import (
    BackfillSchedule,
    ChangeSchedule,
    DeleteSchedule,
    PauseSchedule,
    PutSchedule,
    ScheduleRequests,
    TriggerSchedule,
)
from stepwell.runtime.settle_requests import SettleRequests
from stepwell.runtime.stream_requests import StreamRequests
from stepwell.runtime.update_requests import UpdateRequests
from stepwell.runtime.waiters import Waiters
from stepwell.runtime.write_turn import WriteTurn
from stepwell.store.store import Store
from stepwell.worker.unit_of_work import Reply
from stepwell.worker.worker import Worker


class RequestGate:
    """Serves requests, each by the function that is for its kind; belongs to the worker's thread.

    `later` queues an event: what would take long is done in pieces.
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
        self._runs = runs = RunRequests(worker, store.reads)
        self._retries = retries = RetryRequests(worker, inspector, runs, later)
        self._pauses = pauses = PauseRequests(worker)
        #: Acts on many runs; also those that another worker did not finish.
        self.bulk = BulkRequests(worker, inspector, runs, retries, pauses, later)
        self._promises = PromiseRequests(worker)
        self._updates = UpdateRequests(worker, waiters, later)
        self._rewinds = RewindRequests(worker, retries)
        self._forks = ForkRequests(worker, inspector)
        self._settles = SettleRequests(worker, retries)
        self._streams = StreamRequests(worker)
        self._queues = QueueRequests(worker, store.reads, later)
        self._purging = Purging(worker, store, write_turn, later)
        self._archiving = Archiving(worker, store, write_turn, later)
        self._schedules = ScheduleRequests(worker)
        self._waiters = waiters
        #: Why commits are held back until the store is tried again: the disk is full, or had an error, or is locked.
        self.unavailable: StoreUnavailable | None = None

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
