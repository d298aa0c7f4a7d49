"""Ending code that goes on for too long, on the thread of whoever waits for it.

Nothing that Python has ends a function that does not return. So a second thread waits until its time is up, and then
has the interpreter raise an exception in the first one, between two instructions of whatever that executes. That is
done only where no journal knows of the code: in a copy of a run, and in the validator of an update. A call into C is
not interrupted, but what comes after it is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from stepwell.errors import QueryFailed, StepwellError
from stepwell.model.steady import monotonic
from stepwell.replay.source_location import is_users

#: How long the validator of an update may take.
VALIDATOR_SECONDS: Final = 10.0
#: Code that swallows the exception is given it again, after so many seconds.
_AGAIN_SECONDS: Final = 0.05


class _TimeIsUpError(BaseException):
    """Raised in the code; nothing that catches an `Exception` stops it."""


class _Bound:
    """The time of one thread's code, from now on until `end`."""

    def __init__(self, seconds: float) -> None:
        self.place = ""
        self.is_up = False  # then no answer counts: the code of a copy may have taken the end for a failure of its own
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
                self.is_up = True
                raise_in(self._whose, _TimeIsUpError)
            wait = _AGAIN_SECONDS

    def end(self) -> None:
        """Let the code that follows be; what was sent and has not arrived is taken back."""
        with self._lock:
            self._has_ended.set()
            if self.is_up:
                raise_in(self._whose, None)


@contextmanager
def time_bound(seconds: float | None, what: str) -> Generator[None]:
    """Have the code of the block raise `QueryFailed` where it executes for longer than `seconds`; `what` names it."""
    if seconds is None:
        yield
        return
    bound = _Bound(seconds)
    try:
        try:
            yield
        finally:
            bound.end()
    except (_TimeIsUpError, Exception):
        bound.end()  # where it came in the midst of that
        if not bound.is_up:
            raise
    if bound.is_up:
        raise QueryFailed(_late(what, seconds, bound.place))


class StandingBound:
    """Bounds the time of functions that are called one after another, on whichever thread: a validator's, so far.

    Such a function is over after some microseconds, which a thread of its own for each would multiply. So a thread that
    is there anyway calls `look` from time to time, and what takes too long is ended as late as that.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()  # held while the exception is sent: none comes after `_end`
        self._whose: int | None = None
        self._is_up = False
        self._since = 0.0
        self._place = ""

    def bounded(self, what: str, function: Callable[..., object]) -> Callable[..., object]:
        """Return a function that calls `function`, and raises `StepwellError` where that takes too long."""

        def within(*args: Any, **kwargs: Any) -> object:
            # The exception comes in here, or in what is called from here, and nowhere in the engine's own frames.
            try:
                try:
                    self._begin()
                    return function(*args, **kwargs)
                finally:
                    self._end()
            except _TimeIsUpError:
                self._end()  # where it came in the midst of that
                raise StepwellError(_late(what, self.seconds, self._place)) from None

        return within

    def look(self) -> None:
        """End what has taken too long; from a thread that calls no such function."""
        with self._lock:
            if self._whose is not None and monotonic() - self._since >= self.seconds:
                self._place = self._place or _users_place(self._whose)
                self._is_up = True
                raise_in(self._whose, _TimeIsUpError)

    def _begin(self) -> None:
        self._since, self._place = monotonic(), ""
        self._whose = threading.get_ident()

    def _end(self) -> None:
        with self._lock:
            if self._whose is not None and self._is_up:
                raise_in(self._whose, None)
            self._whose, self._is_up = None, False


def raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise `error` in whatever it executes; with None take back what it has not raised yet."""
    import ctypes  # noqa: PLC0415 - some milliseconds, for what hardly ever happens

    sent = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), sent)


def _late(what: str, seconds: float, place: str) -> str:
    return f"{what} had not come to an end after {seconds:g} s" + (f", at {place}" if place else "")


def _users_place(thread: int) -> str:
    """Return ``file:line in function`` of the user's code that a thread executes, where that is known."""
    frame = sys._current_frames().get(thread)
    while frame is not None and not is_users(frame):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
