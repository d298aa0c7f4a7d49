"""Signal handlers wait while the engine takes a turn in the main thread: what they raise would tear it apart.

Python calls handlers in the main thread between any two instructions, and some raise: Ctrl-C does, and programs that
call `sys.exit` in a handler. In the middle of a turn that would leave the engine with half an event, or be recorded as
the failure of a run. A turn on a caller's loop takes a fraction of a millisecond, so the handlers are called after it.

Where code of a run keeps the turn for long, that must not keep the program from being ended: who asks for it a second
time cuts the turn off, and nothing of it is written.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any, Final

from stepwell.model.steady import monotonic

#: How long a turn is not cut off, however often that is asked for, in seconds.
_PATIENCE_SECONDS: Final = 1.0
#: How often it is looked which signals have handlers, in seconds: a look takes 30 us.
_LOOK_SECONDS: Final = 1.0
#: Those of which programs change the handlers: at each turn it is looked whether they did, which takes 0.2 us.
_WATCHED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1)

#: The signals that ask a program to end.
_ENDING: Final = frozenset({signal.SIGINT, signal.SIGTERM})

#: `signal.signal` without its enumerations, which cost 2 us a call.
_set_handler: Final[Callable[[int, Any], Any]] = import_module("_signal").signal
_get_handler: Final[Callable[[int], Any]] = import_module("_signal").getsignal
#: asyncio's own handler does nothing: the loop hears of the signal in another way.
_HARMLESS: Final = ("asyncio.unix_events", "_sighandler_noop")


class HeldSignals:
    """Holds signals back during turns on one thread. `cut_off` is called before a turn is cut off."""

    def __init__(self, cut_off: Callable[[], None]) -> None:
        self._cut_off = cut_off
        self._is_main = threading.get_ident() == threading.main_thread().ident
        self._look_at = 0.0
        self._watched: list[Any] = []
        self._handled: list[int] = []
        self._held: list[tuple[int, FrameType | None]] = []
        self._since = 0.0
        self._originals: dict[int, Any] = {}
        self._restored: dict[int, Any] = {}

    def hold(self) -> None:
        """Have handlers called by `let_go`, which must follow."""
        if not self._is_main:
            return
        now = self._since = monotonic()
        watched = list(map(_get_handler, _WATCHED))
        if now >= self._look_at or watched != self._watched:
            self._look_at, self._watched = now + _LOOK_SECONDS, watched
            self._handled = _handled()
        for number in self._handled:
            self._originals[number] = _set_handler(number, self._hold)

    def let_go(self) -> None:
        """Install the handlers again, and call those whose signals came; raises what they raise."""
        while self._originals:
            number, original = self._originals.popitem()
            _set_handler(number, original)
            self._restored[number] = original
        if self._held:
            self._call()

    def _call(self) -> None:
        """Call the handlers of the signals that came; where one raises, the others are called all the same."""
        number, frame = self._held.pop(0)
        handler = self._restored[number]
        try:
            if callable(handler):
                handler(number, frame)
            elif handler == signal.SIG_DFL:  # since the last look
                signal.raise_signal(number)
        finally:
            if self._held:
                self._call()

    def _hold(self, number: int, frame: FrameType | None) -> None:
        again = bool(self._held)
        self._held.append((number, frame))
        if again and number in _ENDING and monotonic() - self._since > _PATIENCE_SECONDS:
            self._cut_off()
            raise KeyboardInterrupt


def _handled() -> list[int]:
    """Return the signals that have handlers written in Python, or that of Ctrl-C."""
    found: list[int] = []
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        if callable(handler) and not isinstance(handler, signal.Handlers):
            where = getattr(handler, "__module__", None), getattr(handler, "__name__", None)
            if where != _HARMLESS:
                found.append(number)
    return found
