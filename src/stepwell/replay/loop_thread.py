"""What the loops of one thread share, and what of Python and asyncio is changed for the code of runs."""

from __future__ import annotations

import sys
from asyncio import events
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Self

from stepwell.definitions.collector import watch_collector
from stepwell.replay.anyio_support import support_anyio
from stepwell.replay.generators import began, finalise
from stepwell.replay.isolation import guard_asyncio
from stepwell.replay.stable_order import order_sets_of_asyncio


class LoopThread:
    """What the loops of one thread share: which of them is the thread's running loop, within a ``with`` block.

    Making a loop the running one costs half a microsecond and, in Python 3.11, a system call. So it is done when the
    code of a run is about to execute, and undone once for all runs of a batch (`entered`); in between nobody is taken
    for the run, because `DeterministicLoop.host` is None.
    """

    __slots__ = ("_hooks", "_nested", "_outer", "current", "intruded", "is_entered")

    def __init__(self) -> None:
        self.current: Any = None  # the deterministic loop
        self.is_entered = False
        self._nested = 0  # blocks within the one that entered
        #: Runs that other code has reached into, so that they cannot go on as they are.
        self.intruded: list[Any] = []
        order_sets_of_asyncio()
        guard_asyncio()
        watch_collector()
        support_anyio()

    def entered(self) -> Self:
        """Return a context manager within which loops are drained and closed; one within another changes nothing."""
        return self

    def __enter__(self) -> None:
        if self.is_entered:
            self._nested += 1
        else:
            self._enter()

    def __exit__(self, *_error: object) -> None:
        if self._nested:
            self._nested -= 1
        else:
            self._leave()

    def _enter(self) -> None:
        self._outer = events._get_running_loop()
        self._hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(began, finalise)
        self.is_entered = True

    def _leave(self) -> None:
        self.is_entered = False
        self.current = None
        sys.set_asyncgen_hooks(*self._hooks)
        events._set_running_loop(self._outer)

    @contextmanager
    def left(self) -> Generator[None]:
        """Make the thread's running loop what it was before `entered`: for code of the user's that is no workflow's."""
        if not self.is_entered:
            yield
            return
        self._leave()
        try:
            yield
        finally:
            self._enter()
