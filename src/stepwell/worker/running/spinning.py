"""Runs whose code goes round without ever waiting, and when each is let go on.

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

from collections import deque
from collections.abc import Iterator
from typing import Final

from stepwell.model.clock import MICROSECONDS
from stepwell.worker.state.facts import TicksDue
from stepwell.worker.state.loaded_run import LoadedRun, Spin
from stepwell.worker.state.runs import Runs

#: How many ticks follow one another without a pause: some tenths of a second of computing.
EAGER_TICKS: Final = 100
#: How long the first pause is, in microseconds, and by how much each is longer than the one before: the first 500 ticks
#: take five seconds, a thousand a quarter of an hour.
_FIRST_PAUSE: Final = MICROSECONDS // 1000
_GROWTH: Final = 1.01
_LONGEST_PAUSE: Final = 60 * MICROSECONDS
#: How many runs go round in one commit.
_AT_ONCE: Final = 4


class Spinning:
    """Knows which runs of one worker go round, and which of them wait for a tick, which `ticks` gives."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
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
            spin.due = self._runs.now + pause_after(spin.ticks)

    def look(self, run: LoadedRun) -> None:
        """Queue the tick of a run whose pause is over."""
        spin = run.spin
        if spin is not None and spin.due is not None and spin.due <= self._runs.now:
            self._queue(run, spin)

    def _queue(self, run: LoadedRun, spin: Spin) -> None:
        spin.is_queued, spin.due = True, None
        self._queued.append((run, spin))
        if len(self._queued) == 1:
            self._runs.later(TicksDue())

    def take_some(self) -> Iterator[tuple[LoadedRun, Spin]]:
        """Yield the runs that wait longest for a tick, some of them. Between two of these all other events come in."""
        for _ in range(min(len(self._queued), _AT_ONCE)):
            yield self._queued[0]
            self._queued.popleft()  # afterwards, so that what is queued meanwhile makes no event of its own
        if self._queued:
            self._runs.later(TicksDue())


def pause_after(ticks: int) -> int:
    """Return how long a run rests after so many ticks, in microseconds."""
    steps = min(ticks - EAGER_TICKS, 10_000)  # beyond, the power would not fit into a float
    return int(min(_FIRST_PAUSE * _GROWTH**steps, _LONGEST_PAUSE))
