"""An end to waiting: what hangs must be counted, and must not stop the harness.

A machine that was paused, or a harness that was stopped, is no engine that hangs. So time is counted in slices, and one
that took longer than it should counts as one.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

#: In how many slices a limit is counted.
_SLICES: Final = 10


class Hangs(Exception):
    """Something took longer than anything sound does."""


@contextmanager
def no_longer_than(seconds: float) -> Generator[None]:
    """Raise `Hangs` where the block takes longer than `seconds`. For the main thread of a process."""
    left = _SLICES

    def ring(_number: int, _frame: FrameType | None) -> None:
        nonlocal left
        left -= 1  # the alarms that were missed in a pause come as one
        if left <= 0:
            raise Hangs(f"no answer after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds / _SLICES, seconds / _SLICES)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`; where it takes longer than `seconds`, cancel it and raise `Hangs`."""
    task = asyncio.ensure_future(work)
    try:
        for _ in range(_SLICES):
            if (await asyncio.wait([task], timeout=seconds / _SLICES))[0]:
                await task
                return
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
    raise Hangs(f"no end after {seconds:g} s")


class Patience:
    """How long something may still take, of `seconds` at first."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._slice = seconds / _SLICES
        self._looked_at = time.monotonic()

    def is_over(self) -> bool:
        """Tell whether the time is up; to be asked again and again."""
        now = time.monotonic()
        self._left -= min(now - self._looked_at, self._slice)
        self._looked_at = now
        return self._left <= 0
