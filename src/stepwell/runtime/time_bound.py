"""Ending code that goes on for too long, on the thread of whoever waits for it.

Nothing that Python has ends a function that does not return. So a second thread waits until its time is up, and then
has the interpreter raise an exception in the first one, between two instructions of whatever that executes. That is
done only where the code belongs to nobody: a copy of a run that answers a query. A call into C is not interrupted, but
what comes after it is.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from stepwell.errors import QueryFailed
from stepwell.replay.source_location import is_users

#: Code that swallows the exception is given it again, after so many seconds.
_AGAIN_SECONDS: Final = 0.05


class _TimeIsUpError(BaseException):
    """Raised in the code; nothing that catches an `Exception` stops it."""


class _Bound:
    """The time of one thread's code, from now on until `end`."""

    def __init__(self, seconds: float) -> None:
        self.place = ""
        self._seconds = seconds
        self._whose = threading.get_ident()
        self._has_ended = threading.Event()
        self._lock = threading.Lock()  # held while the exception is sent: none comes after `end`
        self._thread = threading.Thread(target=self._watch, name="stepwell-time-bound", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        wait = self._seconds
        while not self._has_ended.wait(wait):
            with self._lock:
                if self._has_ended.is_set():
                    return
                self.place = self.place or _users_place(self._whose)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._whose), ctypes.py_object(_TimeIsUpError)
                )
            wait = _AGAIN_SECONDS

    def end(self) -> None:
        """Let the code that follows be; what was sent and has not arrived is taken back."""
        with self._lock:
            self._has_ended.set()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._whose), None)


@contextmanager
def time_bound(seconds: float, what: str) -> Generator[None]:
    """Have the code of the block raise `QueryFailed` where it executes for longer than `seconds`; `what` names it."""
    bound = _Bound(seconds)
    try:
        try:
            yield
        finally:
            bound.end()
    except _TimeIsUpError:
        bound.end()  # where it came in the midst of that
        place = f", at {bound.place}" if bound.place else ""
        raise QueryFailed(f"{what} had not come to an end after {seconds:g} s{place}") from None


def _users_place(thread: int) -> str:
    """Return ``file:line in function`` of the user's code that a thread executes, where that is known."""
    frame = sys._current_frames().get(thread)
    while frame is not None and not is_users(frame):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
