"""Runs whose code goes round without ever waiting: when each is let go on, and who hears of it.

A loop that polls (``while not task.done(): await asyncio.sleep(0)``), a callback that schedules itself, a cancellation
that anyio repeats until it is heeded: such code always has something to do, and would keep the engine's thread. So it
is let go round a bounded number of times (`stepwell.replay.loop.MAX_TURNS`). Then the activation ends as if the code
waited: what it asked for is committed, and other runs go on. After that the run is given a *tick*, an entry of the
journal that delivers nothing but the time, and goes round as often again. Completions come in between: like an
iteration of asyncio's own loop, a tick lets in all that has come about. A replay does all that at the same places.

The first ticks follow one another at once, for code that makes progress; each later one waits a little longer than the
one before, unless something has come about. So the journal of a run that polls for a day stays small, and its replay
short, while code that polls for something never hears of it late.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final, Protocol

from stepwell.model.clock import MICROSECONDS
from stepwell.model.journal import TICK, Entry
from stepwell.replay import loop
from stepwell.replay.source_location import described, waiting_at
from stepwell.worker.activation import Activator
from stepwell.worker.commit_batch import CommitBatch
from stepwell.worker.loaded_run import LoadedRun, Spin
from stepwell.worker.run_cache import RunCache
from stepwell.worker.unit_of_work import Outside, UnitOfWork

_log: Final = logging.getLogger("stepwell")

#: How many ticks follow one another without a pause: some tenths of a second of computing.
EAGER_TICKS: Final = 100
#: How long the first pause is, in microseconds, and by how much each is longer than the one before: the first 500 ticks
#: take five seconds, a thousand a quarter of an hour.
_FIRST_PAUSE: Final = MICROSECONDS // 1000
_GROWTH: Final = 1.01
_LONGEST_PAUSE: Final = 60 * MICROSECONDS
#: How many runs go round in one commit.
_AT_ONCE: Final = 4
#: After how many further ticks a run that still goes round is named again.
_NAMED_EVERY: Final = 500


class Owner(Protocol):
    """The worker, as far as runs that go round need it."""

    now: int
    memory: RunCache
    batch: CommitBatch
    activator: Activator
    draining: bool

    def settle_run(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Carry a run on until it waits."""
        ...


class Spinning:
    """Gives ticks to the runs of one worker."""

    def __init__(self, worker: Owner, outside: Outside) -> None:
        self._worker = worker
        self._outside = outside
        self._queued: deque[tuple[LoadedRun, Spin]] = deque()

    def rest(self, run: LoadedRun) -> None:
        """Note whether a run that was just carried on goes round, and when it gets its next tick."""
        if not run.execution.spins:
            run.spin = None
            return
        spin = run.spin
        if spin is None:
            spin = run.spin = Spin()
        if spin.is_queued:
            return
        if spin.ticks < EAGER_TICKS or run.execution.has_news:
            self._queue(run, spin)
        elif spin.due is None:
            spin.due = self._worker.now + _pause(spin.ticks)

    def look(self, run: LoadedRun) -> None:
        """Queue the tick of a run whose pause is over."""
        spin = run.spin
        if spin is not None and spin.due is not None and spin.due <= self._worker.now:
            self._queue(run, spin)

    def _queue(self, run: LoadedRun, spin: Spin) -> None:
        spin.is_queued, spin.due = True, None
        self._queued.append((run, spin))
        if len(self._queued) == 1:
            self._outside.later(self._give_some)

    def _give_some(self) -> None:
        """Give ticks to the runs that wait longest for one; an event. Between two of these all other events come in."""
        for _ in range(min(len(self._queued), _AT_ONCE)):
            self._tick(*self._queued[0])
            self._queued.popleft()  # afterwards, so that what is queued meanwhile makes no event of its own
        if self._queued:
            self._outside.later(self._give_some)

    def _tick(self, run: LoadedRun, spin: Spin) -> None:
        """Let a run go round again, unless it does not any more."""
        worker = self._worker
        spin.is_queued, spin.due = False, None
        if run.spin is not spin or run.finished or worker.memory.runs.get(run.key) is not run or worker.draining:
            return  # while the engine closes, nobody is let go round: the next one does that
        spin.ticks += 1
        if spin.ticks >= EAGER_TICKS and (spin.ticks - EAGER_TICKS) % _NAMED_EVERY == 0:
            _log.warning(
                "run %r: its code has gone round %d times without waiting for anything, %s. Other runs go on, but this "
                "one is let go round more and more seldom. Where it polls, await what it polls for, or sleep in "
                "between (`await asyncio.sleep(0.1)`); where it computes, move that into a step",
                run.id,
                spin.ticks * loop.MAX_TURNS,
                _where(run),
            )
        work = worker.batch.work_of(run)
        worker.activator.deliver(run, Entry(run.key, 0, "timer", TICK, 0, worker.now), work)
        worker.settle_run(run, work)


def _where(run: LoadedRun) -> str:
    """Return where a run's code goes round, as part of a sentence."""
    callbacks = run.execution.loop.ready_callbacks()
    owners: list[Any] = [getattr(call, "__self__", None) for call in callbacks]
    tasks: list[asyncio.Task[Any]] = [owner for owner in owners if isinstance(owner, asyncio.Task)]
    places = [place for task in tasks if (place := waiting_at(task.get_coro())) != "unknown"]
    if places:
        return f"at {places[0]}"
    reasons = [f"because of the callback {described(callbacks[0])}"] if callbacks and not tasks else []
    main_task_waits = run.execution.waits_at()
    if main_task_waits:
        reasons.append(f"while its main task waits at {main_task_waits}")
    return ", ".join(reasons) or "in code that is not the workflow's own"


def _pause(ticks: int) -> int:
    """Return how long a run rests after so many ticks, in microseconds."""
    steps = min(ticks - EAGER_TICKS, 10_000)  # beyond, the power would not fit into a float
    return int(min(_FIRST_PAUSE * _GROWTH**steps, _LONGEST_PAUSE))
