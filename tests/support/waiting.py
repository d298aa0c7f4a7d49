"""How a test waits for a fact that nobody announces to it: it looks again and again, and fails after a long time."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Between two looks.
_PAUSE_SECONDS = 0.002


def until(fact: Callable[[], object], *, seconds: float = 120) -> None:
    """Wait until `fact` returns something true; fails where that takes longer than a loaded machine can explain."""
    give_up_at = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < give_up_at, f"still not so after {seconds} s"
        time.sleep(_PAUSE_SECONDS)
