"""What a caller's transaction has recorded for a run, as an event of the engine.

It waits its turn behind all other events. But where a time comes that its run waits for as well, it comes first: what
is committed before a timeout has passed is in time, however long the engine takes to hear of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stepwell.worker.state.run_cache import RunCache


class Recorded:
    """An event for the run with the key `run`; called again, it does nothing."""

    __slots__ = ("_act", "run")

    def __init__(self, run: int, act: Callable[[], None]) -> None:
        self.run = run
        self._act: Callable[[], None] | None = act

    def __call__(self) -> None:
        """Act on it, once."""
        act, self._act = self._act, None
        if act is not None:
            act()


def hear_first(events: Iterable[object], memory: RunCache, now: int) -> None:
    """Act on what is queued for runs in memory whose times have come. The events stay where they are."""
    for event in list(events):  # other threads append meanwhile
        if isinstance(event, Recorded):
            run = memory.runs.get(event.run)
            if run is not None and run.armed is not None and run.armed <= now:
                event()
