"""Serves what callers ask about pauses of runs: to pause one, with or without its children, and to let it go on."""

from __future__ import annotations

from functools import partial

from stepwell.errors import RunEnded, RunHalted, RunNotPaused, StepwellError
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import RunRecord
from stepwell.runtime.serving.requests import PauseRun
from stepwell.store.changes import Paused, PauseEnded, PauseRequested
from stepwell.worker.state.facts import Fact, PausesArrived, PausesEnded
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker


class PauseRequests:
    """Turns requests into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def pause(self, request: PauseRun, reply: Reply) -> None:
        """Serve a `PauseRun`."""
        actor, worker = request.actor, self._worker
        kind = PauseRequested if request.paused else PauseEnded
        change = kind(request.run_id, worker.now, actor.by, actor.reason, request.children)
        worker.batch.lone_work().then(change, partial(self._recorded, request, reply), partial(reply, None))

    def _recorded(self, request: PauseRun, reply: Reply, done: Paused) -> Fact | None:
        refusal = _refusal(request, done)
        if refusal is not None:
            reply(None, refusal)
            return None
        if not request.paused:
            reply(None, None)
            return PausesEnded(done.keys)
        self._worker.route(PausesArrived(done.keys))
        # With the commit that moves those that were at rest here, so that the caller finds them paused.
        self._worker.batch.lone_work().answer(reply, None)
        return None


def _refusal(request: PauseRun, done: Paused) -> StepwellError | None:
    """Return why nothing was done, where that is no matter of course."""
    run = done.before
    if done.keys:
        return None
    if run.status in ENDED:
        return RunEnded(f"run {run.id!r} has ended ({run.status}), so it cannot be {_verb(request)}")
    if request.paused and run.status == "halted":
        return RunHalted(f"run {run.id!r} is halted, so it starts nothing anyway ({run.reason}); resume or cancel it")
    if not request.paused:
        return RunNotPaused(f"run {run.id!r} is not paused but {_state(run)}, so there is nothing to unpause")
    return None


def _verb(request: PauseRun) -> str:
    return "paused" if request.paused else "unpaused"


def _state(run: RunRecord) -> str:
    return run.status if run.reason is None else f"{run.status} ({run.reason.partition(chr(10))[0]})"
