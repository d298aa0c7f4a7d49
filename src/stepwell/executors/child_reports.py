"""How far an isolated step is, on its way from the child process to the worker.

A step may say it a hundred thousand times a second, and each frame costs the worker some microseconds. So what is said
soon after something else waits a little, for what is said then; a thread of its own sends it if nothing follows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from stepwell.definitions.reports import Progress
from stepwell.model.steady import monotonic

#: How long what is said waits at most, in seconds.
_EVERY_SECONDS: Final = 0.05


class ChildReports:
    """Sends what is said last; for all threads of a step. `send` writes a frame."""

    def __init__(self, send: Callable[[Progress], None]) -> None:
        self._send = send
        self._lock = threading.RLock()  # a signal handler may say something where this was interrupted
        self._sent_at = 0.0
        self._waiting: Progress | None = None
        self._timer: threading.Timer | None = None

    def say(self, progress: Progress) -> None:
        """Send it, now or soon."""
        with self._lock:
            wait = self._sent_at + _EVERY_SECONDS - monotonic()
            if wait <= 0:
                self._send_now(progress)
                return
            self._waiting = progress
            if self._timer is None:
                self._timer = threading.Timer(wait, self._send_waiting)
                self._timer.daemon = True
                self._timer.start()

    def end(self) -> None:
        """Send what still waits: the step has ended, and its answer comes next."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._send_waiting()

    def _send_waiting(self) -> None:
        with self._lock:
            self._timer = None
            if self._waiting is not None:
                self._send_now(self._waiting)

    def _send_now(self, progress: Progress) -> None:
        self._waiting = None
        self._sent_at = monotonic()
        self._send(progress)
