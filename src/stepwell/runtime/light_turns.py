"""Which turns of the engine may be taken on the event loop of its caller, in line with the caller's own work.

To hand something to the engine's thread, and its outcome back, costs as much as a commit on a quick disk. So what comes
from the loop of an `AsyncEngine` (requests, ends of async steps) is taken on that loop where it is *light*: a few
events that concern runs in memory, a commit, the steps that follow. All else is for the engine's thread: what reads
journals or looks for work, queues, timers, other processes, transactional steps, code on greenlets (which belong to one
thread), and whatever the disk, or the amount of it, would make long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from stepwell.definitions.step_call import StepCall
from stepwell.runtime.serving.requests import (
    Asked,
    CancelRun,
    Event,
    Request,
    SendMessage,
    StartRun,
    UpdateRun,
    WaitForRun,
)
from stepwell.runtime.turn import TurnLoop

#: How long one turn on a caller's loop shall compute, in seconds; what would take longer is for the engine's thread.
SLICE_SECONDS: Final = 0.005


class StepsEnded:
    """The ends of steps, as an event; called, it has `take` act on them."""

    __slots__ = ("_take", "attempts")

    def __init__(self, attempts: Sequence[StepCall], take: Callable[[Sequence[StepCall]], None]) -> None:
        self.attempts = attempts
        self._take = take

    def __call__(self) -> None:
        """Act on the ends."""
        self._take(self.attempts)


def is_light(turn_loop: TurnLoop, now: int, limit: int) -> bool:
    """Tell whether a turn may be taken on a caller's loop, with at most `limit` things queued: see the module."""
    worker = turn_loop.worker
    if (
        turn_loop.failure is not None
        or turn_loop.closing
        or turn_loop.gate.unavailable is not None
        or turn_loop.write_turn.postponed
        or turn_loop.write_turn.waits
        or worker.memory.on_greenlets
        or worker.scheduler.is_pending()
        or worker.claims.suspects
        or turn_loop.store.upkeep_is_due()
    ):
        return False
    inbox, starts = turn_loop.inbox, turn_loop.starts
    if len(inbox) + len(starts) + len(worker.batch) > limit or worker.batch.calls_transactions():
        return False
    due = worker.due.due_at()
    if due is not None and due <= now:
        return False
    return all(_is_light(event, turn_loop, limit) for event in (*inbox, *starts))


def _is_light(event: Event, turn_loop: TurnLoop, limit: int) -> bool:
    if isinstance(event, StepsEnded):
        return len(event.attempts) <= limit
    return isinstance(event, Asked) and _is_light_request(event.request, turn_loop)


def _is_light_request(request: Request, turn_loop: TurnLoop) -> bool:
    worker = turn_loop.worker
    match request:
        case StartRun():
            definition = worker.runs.workflows.get(request.run.workflow)
            return definition is None or (request.run.entry is None and not worker.loader.needs_greenlets(definition))
        case SendMessage() | UpdateRun() | CancelRun() | WaitForRun():
            return worker.memory.by_id(request.run_id) is not None
        case _:
            return False


def leaves_work(turn_loop: TurnLoop, armed: int | None) -> bool:
    """Tell whether the engine's thread has something to do after a light turn, though nothing may be queued.

    `armed` is when its timer wakes it.
    """
    worker = turn_loop.worker
    due = worker.due.due_at()
    return (
        (due is not None and (armed is None or due < armed))
        or turn_loop.write_turn.waits
        or bool(turn_loop.waiters.idle)
        or (worker.claims.work_may_exist and worker.runs.room() > 0)
        or worker.memory.is_beyond(worker.runs.limits.waiting)
    )
