"""Serves answers to promises: the first is recorded, and whoever comes later is told so."""

from __future__ import annotations

from functools import partial

from stepwell.errors import PromiseEnded, PromiseNotFound, RunEnded, StepwellError
from stepwell.model.lifecycle import ENDED
from stepwell.model.promise import PromiseRecord
from stepwell.runtime.serving.requests import AnswerPromise
from stepwell.store.promises import Answered, PromiseAnswered
from stepwell.values.failure_codec import FailureCodec
from stepwell.worker.state.facts import Fact, PromiseTouched
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker


class PromiseRequests:
    """Turns answers into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def answer(self, request: AnswerPromise, reply: Reply) -> None:
        """Serve an `AnswerPromise`."""
        work = self._worker.batch.lone_work()
        change = change_of(request, self._worker.now)
        work.then(change, partial(self._recorded, request, reply), partial(reply, None))

    def _recorded(self, request: AnswerPromise, reply: Reply, answered: Answered) -> Fact | None:
        refusal = refusal_of(request, answered, self._worker.codec, self._worker.now)
        reply(None, refusal)
        return None if answered.before is None or not answered.is_done else touched(answered.before)


def change_of(request: AnswerPromise, now: int) -> PromiseAnswered:
    """Return what is written for an answer."""
    return PromiseAnswered(request.token, request.state, request.answer, now, *request.actor)


def touched(promise: PromiseRecord) -> PromiseTouched:
    """Return the fact that a promise is answered."""
    return PromiseTouched(promise.run, promise.op)


def refusal_of(request: AnswerPromise, answered: Answered, codec: FailureCodec, now: int) -> StepwellError | None:
    """Return why an answer was not recorded; None where it was, or where it is the one that is recorded already."""
    before = answered.before
    if before is None:
        return unknown_token()
    if answered.is_done or _is_same(request, before, codec):
        return None
    return ended(before, now)


def _is_same(request: AnswerPromise, before: PromiseRecord, codec: FailureCodec) -> bool:
    """Tell whether a promise was answered with just this: whoever sends it twice need not know."""
    if before.state != request.state:
        return False
    if before.state == "resolved":
        return before.answer == request.answer
    return codec.failure_summary(before.answer) == codec.failure_summary(request.answer)


def unknown_token() -> PromiseNotFound:
    """Return the error for a token that no promise has."""
    return PromiseNotFound(
        "no promise has this token: it was never made, or its run has been deleted. `engine.promises()` lists those "
        "that are open"
    )


def ended(promise: PromiseRecord, now: int) -> StepwellError | None:
    """Return why a promise cannot be answered (any more); None where it can."""
    which = f"operation {promise.op} of run {promise.run_id!r}"
    if promise.state in ("resolved", "rejected"):
        return PromiseEnded(
            f"the promise, {which}, was {promise.state} already, by {promise.by}; what was answered first stands"
        )
    if promise.status in ENDED:
        return RunEnded(f"run {promise.run_id!r} has ended ({promise.status}), so its promise needs no answer any more")
    if promise.state == "withdrawn":
        return PromiseEnded(f"run {promise.run_id!r} goes on without the promise: it was rewound, or continues as new")
    if promise.state == "timed_out" or (promise.deadline_at is not None and promise.deadline_at <= now):
        return PromiseEnded(f"the promise, {which}, has timed out: its deadline passed before this answer came")
    return None
