"""Several worker processes for one file: starts them, starts another for each that dies, and tells them to stop.

The supervisor never opens the file and never imports the user's modules, so nothing of theirs can bring it down. Every
worker is a fresh interpreter; nothing is forked. Each has one end of a socket pair:

- the worker says that it is ready; the first one starts alone, so that a mistake shows once and ends the command;
- the supervisor says "drain" or "end at once", words that mean the same however often they come;
- when the supervisor dies, its end is closed by the kernel, and the workers drain.

A signal to the process group, as Ctrl-C or a service manager sends it, thus reaches each worker directly and through
the supervisor, and counts once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from stepwell.cli import logs
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.signals import AT_ONCE, DRAIN, STOPPING, Signals

_log: Final = logging.getLogger("stepwell")

#: The delay before a worker is replaced that died young: doubled each time, up to the limit. In seconds.
FIRST_DELAY_SECONDS: Final = 0.25
LONGEST_DELAY_SECONDS: Final = 30.0
#: A worker that lived so long did not die young, in seconds: it is replaced at once, and the delays begin anew.
LONG_LIFE_SECONDS: Final = 10.0
#: How much longer than its drain timeout a worker may take to end before it is killed, in seconds.
_DRAIN_GRACE_SECONDS: Final = 25.0
#: How long a worker may take to end at once before it is killed, in seconds.
_AT_ONCE_SECONDS: Final = 5.0


def run(line: Sequence[str], db: str, processes: int, drain_timeout_seconds: float, log_level: str | None) -> int:
    """Keep workers running until told to stop; return the exit code.

    `line` is the command line from ``worker`` on. The workers are told which file was found where it names none.
    """
    logs.configure(log_level)
    with Signals(*STOPPING, signal.SIGCHLD) as signals:
        full = [*line[:1], f"--db={db}", *line[1:]]
        return Supervisor(full, processes, drain_timeout_seconds, signals).run()


class Backoff:
    """How long to wait before a worker is started in the place of one that died."""

    def __init__(self) -> None:
        self._delay_seconds = FIRST_DELAY_SECONDS

    def delay_after(self, lived_seconds: float) -> float:
        """Return the delay, in seconds, after a worker that lived so long."""
        if lived_seconds >= LONG_LIFE_SECONDS:
            self._delay_seconds = FIRST_DELAY_SECONDS
            return 0.0
        delay = self._delay_seconds
        self._delay_seconds = min(2 * delay, LONGEST_DELAY_SECONDS)
        return delay


class _Child:
    """A worker process and this end of its socket."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, started_at: float) -> None:
        self.process = process
        self.channel = channel
        self.started_at = started_at

    def tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # it is dead, or does not listen: the time limit ends it
            self.channel.send(word)


class _Place:
    """One of the N places for a worker: who has it, or when the next one is due."""

    def __init__(self) -> None:
        self.child: _Child | None = None
        self.due_at: float | None = None
        self.backoff = Backoff()


class Supervisor:
    """Keeps `processes` workers running, each started with the command line `line`.

    Times are of the monotonic clock, in seconds.
    """

    GO_ON, DRAIN, AT_ONCE, KILL = range(4)

    def __init__(self, line: list[str], processes: int, drain_timeout_seconds: float, signals: Signals) -> None:
        self._line = line
        self._drain_timeout_seconds = drain_timeout_seconds
        self._places = [_Place() for _ in range(processes)]
        self._signals = signals
        self._level = self.GO_ON
        self._last_signal: int = signal.SIGTERM
        self._code = 0
        self._kill_at: float | None = None
        #: Whether the first worker has been ready once, which lets the others start.
        self._first_is_ready = False
        self._name = f"stepwell supervisor (process {os.getpid()})"
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ)

    def run(self) -> int:
        """Run until told to stop and all workers have ended, or until the first worker cannot start."""
        _log.info("%s starts %d workers", self._name, len(self._places))
        self._places[0].due_at = time.monotonic()
        while True:
            self._reap()
            if self._level and not self._children():
                return self._exit_code()
            self._start_due()
            self._kill_overdue()
            for key, _ in self._selector.select(self._timeout()):
                if key.data is None:
                    self._take_signals()
                else:
                    self._hear(key.data)

    def _exit_code(self) -> int:
        if self._level >= self.AT_ONCE:
            return 128 + self._last_signal
        if self._code == 0:
            _log.info("%s: all workers have ended", self._name)
        return self._code

    def _children(self) -> list[_Child]:
        return [place.child for place in self._places if place.child is not None]

    def _timeout(self) -> float | None:
        times = [place.due_at for place in self._places if place.due_at is not None]
        if self._kill_at is not None:
            times.append(self._kill_at)
        return max(0.0, min(times) - time.monotonic()) if times else None

    # --- workers come and go -------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for place in self._places:
            if place.due_at is not None and place.due_at <= now:
                place.due_at = None
                try:
                    place.child = self._start()
                except OSError as error:
                    place.due_at = now + place.backoff.delay_after(0.0)
                    _log.error("a worker process cannot be started: %s. It is tried again", error)

    def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        with theirs:
            # Right after "worker", so that it stands before a "--" of the user's.
            line = [*self._line[:1], f"--control-descriptor={theirs.fileno()}", *self._line[1:]]
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "stepwell", *line],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        child = _Child(process, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _hear(self, child: _Child) -> None:
        try:
            word = child.channel.recv(100)
        except BlockingIOError:
            return
        except ConnectionError:
            word = b""
        if not word:  # it is about to end; SIGCHLD follows
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.channel)
        elif not self._first_is_ready:
            self._first_is_ready = True
            if not self._level:
                for place in self._places[1:]:
                    place.due_at = time.monotonic()

    def _reap(self) -> None:
        for place in self._places:
            child = place.child
            if child is not None and child.process.poll() is not None:
                self._hear(child)
                place.child = None
                with contextlib.suppress(KeyError):
                    self._selector.unregister(child.channel)
                child.channel.close()
                self._ended(place, child)

    def _ended(self, place: _Place, child: _Child) -> None:
        code = child.process.returncode
        lived = time.monotonic() - child.started_at
        what = f"worker process {child.process.pid} {_describe(code)} after {lived:.1f} s"
        if self._level >= self.AT_ONCE:
            _log.info("%s", what)
        elif self._level:
            if code:
                _log.error("%s", what)
                self._code = self._code or FAILED
        elif not self._first_is_ready:
            _log.error("%s, before it was ready: %s gives up", what, self._name)
            self._level, self._code = self.DRAIN, (128 - code if code < 0 else code) or FAILED
        else:
            delay = place.backoff.delay_after(lived)
            place.due_at = time.monotonic() + delay
            when = f"in {delay:g} s" if delay else "at once"
            _log.warning("%s; another one starts %s", what, when)

    # --- the end -------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        for number in self._signals.arrived():
            if number != signal.SIGCHLD:
                self._last_signal = number
                self._raise_level()

    def _raise_level(self) -> None:
        self._level = min(self._level + 1, self.KILL)
        for place in self._places:
            place.due_at = None
        now = time.monotonic()
        match self._level:
            case self.DRAIN:
                name = signal.Signals(self._last_signal).name
                _log.info("%s got %s: all workers drain; a second signal ends them at once", self._name, name)
                self._tell(DRAIN)
                self._kill_at = now + self._drain_timeout_seconds + _DRAIN_GRACE_SECONDS
            case self.AT_ONCE:
                _log.warning("%s got a second signal: all workers end at once", self._name)
                self._tell(AT_ONCE)
                self._kill_at = now + _AT_ONCE_SECONDS
            case _:
                self._kill_at = now

    def _tell(self, word: bytes) -> None:
        for child in self._children():
            child.tell(word)

    def _kill_overdue(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            for child in self._children():
                _log.error("worker process %d did not end in time; it is killed", child.process.pid)
                child.process.kill()


def _describe(code: int) -> str:
    """Say how a process ended, from `subprocess`'s return code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
