"""An end to waiting: what hangs must be counted, and must not stop the harness."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Hangs(Exception):
    """Something took longer than anything sound does."""


@contextmanager
def no_longer_than(seconds: float) -> Generator[None]:
    """Raise `Hangs` where the block takes longer than `seconds`. For the main thread of a process."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Hangs(f"no answer after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
