"""Serves what callers ask about queues and limits: to change, to pause, to cancel what waits, to move when it does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from stepwell.errors import QueueNotFound, RunEnded, RunNotQueued
from stepwell.model.lifecycle import ENDED
from stepwell.runtime.serving.requests import Asked, CancelWaiting, ChangeQueue, PauseQueue, RescheduleRun
from stepwell.store.acts import ActRecorded
from stepwell.store.changes import CancelRequested, Change
from stepwell.store.queues import QueueChanged, QueueFacts, QueueState, Rescheduled, RunRescheduled
from stepwell.store.worker_reads import WorkerReads
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker

_log: Final = logging.getLogger("stepwell")

#: How many waiting runs are cancelled in one commit.
_CANCEL_CHUNK: Final = 200


class QueueRequests:
    """Turns requests about queues into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker, reads: WorkerReads, later: Callable[[Asked], None]) -> None:
        self._worker = worker
        self._reads = reads
        self._later = later

    def change(self, request: ChangeQueue, reply: Reply) -> None:
        """Serve a `ChangeQueue`."""
        name, now = request.queue, self._worker.now
        found: list[QueueState] = []

        def changed() -> None:
            before = found[-1]
            settings = request.change.applied_to(before.settings)
            if settings != before.settings:
                text = "%s %r is bounded by %s from now on, as was asked for; until now it was by %s"
                _log.info(text, before.kind, name, settings.text, before.settings.text)

        def decide(state: QueueState) -> list[Change]:
            found[:] = [state]
            return [QueueChanged(name, now, request.change.applied_to(state.settings))]

        self._decide(name, decide, [changed], reply)

    def pause(self, request: PauseQueue, reply: Reply) -> None:
        """Serve a `PauseQueue`."""
        name, now = request.queue, self._worker.now
        act = ActRecorded("pause" if request.paused else "unpause", now, *request.actor, queue=name)
        self._decide(name, lambda _state: [QueueChanged(name, now, None, request.paused), act], [], reply)

    def _decide(
        self,
        name: str,
        decide: Callable[[QueueState], list[Change]],
        after: list[Callable[[], None]],
        reply: Reply,
    ) -> None:
        """Have changes of a queue or limit decided on inside the transaction."""
        worker = self._worker
        work = worker.batch.lone_work()
        worker.runs.declare(name, work)

        def decide_if_known(facts: QueueFacts) -> list[Change]:
            state = facts.state(name)
            if state is None:
                raise QueueNotFound(f"the file knows no queue or limit {name!r}; see queues() for those it knows")
            return decide(state)

        work.decide = decide_if_known
        work.answer(reply, None)
        for call in (*after, worker.scheduler.look):
            work.afterwards(call)

    def reschedule(self, request: RescheduleRun, reply: Reply) -> None:
        """Serve a `RescheduleRun`."""
        worker, run_id, now = self._worker, request.run_id, self._worker.now
        record = worker.runs.find(run_id)
        if record is not None and record.queue is not None:
            worker.runs.queue_touched(record.queue)
        ready_at = now + request.delay if request.ready_at is None else request.ready_at

        def done(result: Rescheduled) -> None:
            run = result.before
            if result.moved:
                reply(None, None)
            elif run.status in ENDED:
                reply(None, RunEnded(f"run {run.id!r} has ended ({run.status}), so it cannot be rescheduled"))
            else:
                where = "has been taken from its queue" if run.queue is not None else "stands in no queue"
                reply(
                    None,
                    RunNotQueued(
                        f"run {run.id!r} ({run.status}) {where}, so it has no delay that could be changed: only a run "
                        "that waits in a queue has one"
                    ),
                )

        change = RunRescheduled(run_id, ready_at, now, *request.actor)
        worker.batch.lone_work().then(change, done, partial(reply, None))

    def cancel_waiting(self, request: CancelWaiting, reply: Reply) -> None:
        """Serve a `CancelWaiting`."""
        worker, actor = self._worker, request.actor
        rows = self._reads.queued_runs(request.queue, request.partition, request.after, _CANCEL_CHUNK)
        if not rows:
            reply(request.cancelled, None)
            return
        ended: list[int] = []
        for record in self._reads.facts([key for key, _ in rows]):
            if not record.queued or record.key in worker.batch.ending:
                continue
            work = worker.batch.lone_work()
            work.changes += [
                CancelRequested(record.id, worker.now, actor.reason),
                ActRecorded("cancel", worker.now, *actor, run_id=record.id),
            ]
            told = replace(record, cancel_reason=record.cancel_reason or actor.reason)
            worker.unstarted.cancel(told, work)
            # A run that is taken at this very moment is not among them: its end is refused.
            work.afterwards(partial(ended.append, record.key))

        def go_on() -> None:
            self._later(Asked(replace(request, after=rows[-1][0], cancelled=request.cancelled + len(ended)), reply))

        last = worker.batch.lone_work()
        last.afterwards(go_on, partial(reply, None))
