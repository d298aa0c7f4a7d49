"""The patience of the harnesses: what hangs is noticed, and a machine that was paused is none that hangs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from proof.patience import Hangs, Patience, no_longer_than, within


def test_a_block_that_hangs_is_ended() -> None:
    with pytest.raises(Hangs), no_longer_than(0.1):
        threading.Event().wait()


#: The alarms do not come for longer than the limit, as in a process that is stopped, and then come as one.
PAUSED = """
import os, signal, time
from proof.patience import no_longer_than
with no_longer_than(0.5):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    began = time.monotonic()
    while time.monotonic() < began + 0.8:
        os.sched_yield()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
"""


def test_a_pause_counts_as_one_slice_of_the_time() -> None:
    subprocess.run([sys.executable, "-c", PAUSED], cwd=Path(__file__).parents[2], timeout=60, check=True)


def test_patience_ends_for_who_asks_again_and_again_and_not_for_who_was_away() -> None:
    now = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now)
        patience = Patience(10.0)
        now = 100.0
        assert not patience.is_over()
        asked = 0
        while not patience.is_over():
            now += 0.5
            asked += 1
        assert asked == 18


def test_a_coroutine_that_hangs_is_cancelled() -> None:
    ended: list[str] = []

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    with pytest.raises(Hangs):
        asyncio.run(within(0.05, hangs()))
    assert ended == ["cancelled"]


def test_what_a_coroutine_raises_comes_out() -> None:
    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(within(5.0, fails()))
