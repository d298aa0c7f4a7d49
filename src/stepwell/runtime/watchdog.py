"""A second pair of eyes on the thread that takes the engine's turns: says what keeps it busy.

Once a second it looks at what that thread executes. Where that is the same run's code, or the same step's, as a second
ago, nothing else of the engine makes progress, and a warning says which code it is and where. Where it is still the
same turn of the engine, but no code of a user's all that time, the warning says so: nobody is to look for a fault in
code that has none.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from types import CodeType, FrameType
from typing import Final

import msgspec

from stepwell.definitions.step_call import StepCall
from stepwell.replay.loop import DeterministicLoop
from stepwell.replay.source_location import is_users

_log: Final = logging.getLogger("stepwell")
_PERIOD_SECONDS: Final = 1.0
#: Said where the thread is busy, and not with code of a user's.
OWN_WORK: Final = (
    "the engine has been at its own work for over %g s without a pause: much was asked for at once, or the disk, or "
    "the whole machine, is slow. Others wait meanwhile; no workflow or step is to blame.\n%s"
)
_SHOWN_FRAMES: Final = 8

_CALLBACK: Final = asyncio.Handle._run.__code__
#: What calls code of a run: its tasks, and a validator of its updates.
_OF_A_RUN: Final = (DeterministicLoop.drain.__code__, DeterministicLoop.call.__code__)


class _Seen(msgspec.Struct, frozen=True):
    """What the thread was doing: one callback of its loop, and within it code of a user's, if so, on whose behalf."""

    callback: FrameType
    code: FrameType | None
    whose: str


class Watchdog:
    """Watches one engine until `stop`.

    `watched` returns the thread that takes its turns now; `turns` is the code of these; `also` is called once a second.
    """

    def __init__(
        self, watched: Callable[[], int | None], turns: AbstractSet[CodeType], also: Callable[[], None]
    ) -> None:
        self._watched = watched
        self._turns = turns
        self._also = also
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stepwell-watchdog", daemon=True)
        self._last: _Seen | None = None
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
        frame = sys._current_frames().get(self._watched() or 0)
        last, self._last = self._last, self._see(frame)
        seen = self._last
        if seen is None or last is None or seen.callback is not last.callback or seen.callback is self._reported:
            return
        if (seen.code is None) != (last.code is None):
            return  # code has just begun, or has just ended: the next look tells
        self._reported = seen.callback
        stack = "".join(traceback.format_stack(frame, limit=_SHOWN_FRAMES))
        if seen.code is not None and seen.code is last.code:
            _log.warning(
                "%s has kept the engine's thread busy for over %g s, and nothing else can go on. Move what takes time "
                "into a step (a `def` step runs in a thread).\n%s",
                seen.whose,
                _PERIOD_SECONDS,
                stack,
            )
        else:
            _log.warning(OWN_WORK, _PERIOD_SECONDS, stack)

    def is_in_users_code(self) -> bool:
        """Tell whether the thread executes code of a workflow or a step just now."""
        seen = self._see(sys._current_frames().get(self._watched() or 0))
        return seen is not None and seen.code is not None

    def _see(self, frame: FrameType | None) -> _Seen | None:
        """Return what the thread is doing; None where it waits for events."""
        if frame is None or frame.f_code.co_name == "select":
            return None
        users = False
        code: FrameType | None = None
        whose = where = ""
        outermost = frame
        while frame is not None:
            outermost = frame
            if frame.f_code in self._turns or frame.f_code is _CALLBACK:
                return _Seen(frame, code, whose)
            if not users and is_users(frame):
                users = True
                where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
            if users and code is None:
                whose = _whose(frame)
                code = frame if whose else None
            frame = frame.f_back
        # The frames of a greenlet, on which `def` workflows are executed, end with its own first one.
        return _Seen(outermost, outermost, whose or f"the workflow code at {where}") if users else None


def _whose(frame: FrameType) -> str:
    """Return on whose behalf a frame of the engine calls code; empty where it does not say."""
    if frame.f_code in _OF_A_RUN:
        return f"run {frame.f_locals['self'].run.run_id!r}"
    attempts = frame.f_locals.get("attempts")
    if isinstance(attempts, StepCall):
        return f"step {attempts.definition.name!r} of run {attempts.run_id!r}"
    return ""
