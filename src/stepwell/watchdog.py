"""A second pair of eyes on the engine's thread: names the code that keeps it busy.

Once a second it looks at what the thread executes. Where it is the same run's code, or the same step's, as a second
ago, nothing else of the engine makes progress, and a warning says which code it is and where.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final

from stepwell.loop import DeterministicLoop

_log: Final = logging.getLogger("stepwell")
_PERIOD_SECONDS: Final = 1.0


class Watchdog:
    """Watches one thread until `stop`; `also` is called once a second."""

    def __init__(self, watched: threading.Thread, also: Callable[[], None]) -> None:
        self._watched = watched
        self._also = also
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stepwell-watchdog", daemon=True)
        self._last: FrameType | None = None
        self._reported: FrameType | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(_PERIOD_SECONDS):
            self._look()
            self._also()
        self._last = self._reported = None

    def _look(self) -> None:
        frame = sys._current_frames().get(self._watched.ident or 0)
        outermost = _outermost_busy(frame)
        if outermost is not None and outermost is self._last and outermost is not self._reported:
            self._reported = outermost
            _log.warning(
                "%s has kept the engine's thread busy for over %g s, and nothing else can go on. Move what takes time "
                "into a step (a `def` step runs in a thread).\n%s",
                _culprit(frame),
                _PERIOD_SECONDS,
                "".join(traceback.format_stack(frame, limit=8)),
            )
        self._last = outermost


def _outermost_busy(frame: FrameType | None) -> FrameType | None:
    """Return the frame of the turn of the loop that is under way, or None where the loop waits for events."""
    if frame is None or frame.f_code.co_name == "select":
        return None
    while frame is not None:
        if frame.f_code.co_name in ("_pump", "_run") and frame.f_code.co_filename.endswith(("core.py", "events.py")):
            return frame
        frame = frame.f_back
    return None


def _culprit(frame: FrameType | None) -> str:
    drain = DeterministicLoop.drain.__code__
    while frame is not None:
        if frame.f_code is drain:
            return f"run {frame.f_locals['self'].run.run_id!r}"
        if frame.f_code.co_name == "begin" and "attempts" in frame.f_locals:
            attempts = frame.f_locals["attempts"]
            return f"step {attempts.definition.name!r} of run {attempts.run_id!r}"
        frame = frame.f_back
    return "something"
