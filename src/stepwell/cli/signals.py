"""How processes of the worker command are told things: signals as bytes in a socket, and the words of a supervisor.

One selector thus waits for signals and for everything else.

Handlers of Python run between two instructions of whatever the main thread does; here they do nothing, and the
interpreter's own handler writes each signal's number to the socket (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from types import FrameType, TracebackType
from typing import Any, ClassVar, Final, Self

#: What asks a process to end: a service manager or `kill`, Ctrl-C, the terminal that was closed.
STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: The words between a supervisor and its workers: "I am ready" in the one direction, "drain" and "end at once" in the
#: other. They mean the same however often they come.
READY: Final = b"r"
DRAIN: Final = b"d"
AT_ONCE: Final = b"n"

#: What `Signals.wake` writes; no signal has the number.
_NOTHING: Final = 0


class Signals:
    """Catches some signals while it is entered; to be entered by the main thread. A selector takes it for a file.

    A signal that is ignored stays so: that is how `nohup` and shells exempt their background jobs. (Not SIGCHLD, which
    is how they forget about theirs.)
    """

    #: Who catches signals in this process.
    entered: ClassVar[Signals | None] = None

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers
        self._before: dict[int, Any] = {}
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def __enter__(self) -> Self:
        """Begin to catch."""
        self._descriptor_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, _nothing)
        Signals.entered = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Treat signals as before."""
        Signals.entered = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._descriptor_before)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a signal arrives, or after `wake`."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Have whoever waits for `fileno` look; from any thread."""
        try:
            self._writer.send(bytes([_NOTHING]))
        except BlockingIOError:  # full of what will wake the reader just as well
            return

    def arrived(self) -> list[int]:
        """Return the signals that came since the last call, in order."""
        try:
            found = self._reader.recv(4096)
        except BlockingIOError:
            return []
        return [number for number in found if number != _NOTHING and number in self._before]

    def forget_in_child(self) -> None:
        """Undo all this in a forked child: its signals are its own, and must not be written to its parent's socket."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def numbers(self) -> set[int]:
        """Return the signals that are caught."""
        return set(self._before)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass


# A step may fork (multiprocessing does, on Linux before Python 3.14), and end its children with SIGTERM. From before
# the fork until the child has its own handlers, such a signal waits.


class _Forking(threading.local):
    mask: set[int | signal.Signals] | None = None


_forking: Final = _Forking()


def _before_fork() -> None:
    if Signals.entered is not None:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, Signals.entered.numbers())


def _after_fork() -> None:
    if _forking.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)
        _forking.mask = None


def _after_fork_in_child() -> None:
    if Signals.entered is not None:
        Signals.entered.forget_in_child()
        Signals.entered = None
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
