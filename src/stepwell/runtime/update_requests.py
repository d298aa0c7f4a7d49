"""Serves updates: requests that the code of a run answers.

An update is recorded as a message, and reaches the run, wherever it is, as one. Where the run is in this worker's
memory its code is asked first whether it would take it on, so that what it refuses is not recorded at all.
"""

from __future__ import annotations

from functools import partial

from stepwell.errors import InvalidArgument
from stepwell.model.updates import MARK, UpdateAnswer, called
from stepwell.runtime.requests import UpdateRun
from stepwell.runtime.waiters import Waiters
from stepwell.store.changes import MessageSent, Sent
from stepwell.worker.facts import MessageArrived
from stepwell.worker.loaded_run import LoadedRun
from stepwell.worker.unit_of_work import Reply
from stepwell.worker.updates import refusal, takes_updates
from stepwell.worker.worker import Worker


class UpdateRequests:
    """Turns updates into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker, waiters: Waiters) -> None:
        self._worker = worker
        self._waiters = waiters

    def update(self, request: UpdateRun, reply: Reply) -> None:
        """Serve an `UpdateRun`."""
        worker, message = self._worker, request.message
        run = worker.runs.loaded(request.run_id)
        if run is not None:
            known = None if request.is_new else worker.runs.reads.update(run.key, message.key or "")
            if known is not None:
                self._wait(request, reply, run.key, known)
                return
            if takes_updates(run) and not worker.inbox.pending_for(run):
                refused = self._refusal(run, request)
                if refused is not None:
                    raise refused
            run.sending[message.name] = run.sending.get(message.name, 0) + 1
        change = MessageSent(request.run_id, message.name, message.value, worker.now, message.key)
        worker.batch.lone_work().then(change, partial(self._recorded, request, reply, change), partial(reply, None))

    def _refusal(self, run: LoadedRun, request: UpdateRun) -> Exception | None:
        name = request.message.name[len(MARK) :]
        return refusal(self._worker.codec, run.execution, name, request.message.value)

    def _recorded(self, request: UpdateRun, reply: Reply, change: MessageSent, sent: Sent) -> MessageArrived:
        if sent.position:
            is_own = sent.owner == self._worker.runs.epoch
            self._waiters.update(sent.run, request.run_id, change.name, change.key or "", reply, is_new=is_own)
        else:
            self._wait(request, reply, sent.run, self._worker.runs.reads.update(sent.run, change.key or ""))
        return MessageArrived(change, sent)

    def _wait(self, request: UpdateRun, reply: Reply, run: int, known: UpdateAnswer | None) -> None:
        """Answer with what is known of the update, or when there is an answer."""
        message = request.message
        if known is not None and known.name != message.name:
            key, meant = (message.key or "")[len(MARK) :], called(message.name)
            taken = f"the key {key!r} is that of {called(known.name)} of run {request.run_id!r}"
            reply(None, InvalidArgument(f"{taken}, so {meant} needs another one"))
            return
        self._waiters.update(run, request.run_id, message.name, message.key or "", reply, is_new=False)
