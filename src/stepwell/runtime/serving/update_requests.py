"""Serves updates: requests that the code of a run answers.

An update is recorded as a message, and reaches the run, wherever it is, as one. Where the run is in this worker's
memory its code is asked first whether it would take it on, so that what it refuses is not recorded at all; and where
nothing else is to come before the update, the code has it at once: that it came, that it was taken on, and its answer,
if the handler waits for nothing, are one commit. A run that nobody has is claimed by the commit that records it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stepwell.errors import ClaimLost, InvalidArgument, StepwellError
from stepwell.model.updates import MARK, UpdateAnswer, called
from stepwell.runtime.serving.requests import Event, UpdateRun
from stepwell.runtime.serving.waiters import Waiters
from stepwell.store.changes import MessageSent, Sent
from stepwell.worker.running.updates import has_nothing_before, refusal, take_on, takes_updates
from stepwell.worker.state.facts import MessageArrived
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker


class UpdateRequests:
    """Turns updates into work for a worker; belongs to the worker's thread. `later` queues an event."""

    def __init__(self, worker: Worker, waiters: Waiters, later: Callable[[Event], None]) -> None:
        self._worker = worker
        self._waiters = waiters
        self._later = later

    def update(self, request: UpdateRun, reply: Reply) -> None:
        """Serve an `UpdateRun`."""
        worker, message = self._worker, request.message
        run = worker.runs.loaded(request.run_id)
        if run is None:
            self._record(request, reply)
            self._claim(request.run_id)
            return
        known = None if request.is_new else worker.runs.reads.update(run.key, message.key or "")
        if known is not None:
            self._wait(request, reply, run.key, known)
            return
        if takes_updates(run) and not worker.inbox.pending_for(run):
            refused = self._refusal(run, request)
            if refused is not None:
                raise refused
            if has_nothing_before(run):
                self._take_on(run, request, reply)
                return
        self._record(request, reply)

    def _refusal(self, run: LoadedRun, request: UpdateRun) -> Exception | None:
        name = request.message.name[len(MARK) :]
        return refusal(self._worker.runs, run.execution, name, request.message.value)

    # --- as it comes -------------------------------------------------------------------------------------------------

    def _take_on(self, run: LoadedRun, request: UpdateRun, reply: Reply) -> None:
        """Have the code of a run execute the handler of an update that nothing is recorded of yet."""
        worker, message = self._worker, request.message
        work = worker.batch.work_of(run)
        is_told = False

        def recorded(_none: None) -> None:
            if not is_told:
                self._waiters.update(run.key, run.id, message.name, message.key or "", reply, is_new=True)

        def done(_none: None, error: BaseException | None) -> None:
            nonlocal is_told
            if isinstance(error, ClaimLost):  # nothing stands of it: it goes to the run, whoever has that, as a message
                self._later(partial(self._again, request, reply))
            elif error is not None:
                is_told = True
                reply(None, error)

        change, entry = take_on(run, message.name, message.key or "", message.value, worker.now)
        work.then(change, recorded)
        work.answer(done, None)
        worker.activator.deliver(run, entry, work)
        worker.carrier.carry_on(run, work)

    def _again(self, request: UpdateRun, reply: Reply) -> None:
        try:
            self._record(request, reply)
        except StepwellError as refused:
            reply(None, refused)

    # --- as a message ------------------------------------------------------------------------------------------------

    def _record(self, request: UpdateRun, reply: Reply) -> None:
        worker, message = self._worker, request.message
        run = worker.runs.loaded(request.run_id)
        if run is not None:
            run.sending[message.name] = run.sending.get(message.name, 0) + 1
        change = MessageSent(request.run_id, message.name, message.value, worker.now, message.key)
        worker.batch.lone_work().then(change, partial(self._recorded, request, reply, change), partial(reply, None))

    def _claim(self, run_id: str) -> None:
        """Have a run that waits and that nobody has come to memory: in the same commit, which saves one."""
        record = self._worker.runs.find(run_id)
        if record is not None and record.status == "waiting" and record.owner is None:
            self._worker.claims.claim([record.key], unasked=True)

    def _recorded(self, request: UpdateRun, reply: Reply, change: MessageSent, sent: Sent) -> MessageArrived:
        if sent.position:
            is_own = sent.owner == self._worker.runs.epoch or sent.run in self._worker.claims.claiming
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
