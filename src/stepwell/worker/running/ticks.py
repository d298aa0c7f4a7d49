"""Ticks: runs whose code goes round without waiting are let go on, in turns; see `stepwell.worker.running.spinning`."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from stepwell.model.journal import TICK, Entry
from stepwell.replay import loop
from stepwell.replay.source_location import described, waiting_at
from stepwell.worker.running.activation import Activator
from stepwell.worker.running.carrying import Carrier
from stepwell.worker.running.spinning import EAGER_TICKS, Spinning
from stepwell.worker.state.loaded_run import LoadedRun, Spin
from stepwell.worker.state.runs import Runs

_log: Final = logging.getLogger("stepwell")

#: After how many further ticks a run that still goes round is named again.
_NAMED_EVERY: Final = 500


class Ticks:
    """Gives ticks to the runs of one worker."""

    def __init__(self, runs: Runs, spinning: Spinning, activator: Activator, carrier: Carrier) -> None:
        self._runs = runs
        self._spinning = spinning
        self._activator = activator
        self._carrier = carrier

    def give_some(self) -> None:
        """Give ticks to the runs that wait longest for one; an event."""
        for run, spin in self._spinning.take_some():
            self._give(run, spin)

    def _give(self, run: LoadedRun, spin: Spin) -> None:
        """Let a run go round again, unless it does not any more."""
        runs = self._runs
        spin.is_queued, spin.due = False, None
        if run.spin is not spin or run.finished or runs.memory.runs.get(run.key) is not run or runs.draining:
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
        work = runs.batch.work_of(run)
        self._activator.deliver(run, Entry(run.key, 0, "timer", TICK, 0, runs.now), work)
        self._carrier.carry_on(run, work)


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
