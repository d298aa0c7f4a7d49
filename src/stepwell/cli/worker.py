"""One worker process: imports the workflows, serves a file, and drains when it is told to stop.

The main thread waits, in one selector, for signals, for the supervisor's word, and for the engine's end. What it was
told so far is a level that only rises: go on, drain, end at once. A drain is told by the first signal, by the
supervisor, or by the supervisor's death (its end of the socket is closed then, whatever killed it). So a worker that
gets a signal from a service manager *and* hears of it from its supervisor counts that once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from types import ModuleType
from typing import Final

from stepwell.api.engine import Engine
from stepwell.cli import collector, logs, modules
from stepwell.cli.exit_codes import FAILED, USAGE
from stepwell.cli.signals import AT_ONCE, READY, STOPPING, Signals
from stepwell.cli.worker_options import WorkerOptions
from stepwell.definitions.definition import registered_workflows
from stepwell.errors import StepwellError

_log: Final = logging.getLogger("stepwell")

#: How often the main thread looks whether the engine stopped by itself, in seconds.
_LOOK_SECONDS: Final = 1.0
#: How long threads of user code, and what was registered with `atexit`, have to end after the file is closed.
EXIT_GRACE_SECONDS: Final = 5.0
#: How long the engine has to close the file when it must end at once.
_AT_ONCE_SECONDS: Final = 2.0


def run(options: WorkerOptions) -> int:
    """Be a worker until told to stop; return the exit code."""
    faulthandler.enable()
    channel = None
    if options.control_descriptor is not None:
        channel = socket.socket(fileno=options.control_descriptor)
        channel.setblocking(False)
        # Processes that steps start must not hold it open: its end is how the supervisor's death is noticed.
        channel.set_inheritable(False)
    try:
        loaded = modules.load(options.modules)
        if not registered_workflows():
            raise modules.ModuleProblem(
                f"{', '.join(options.modules)}: no workflow is defined there; decorate a function with @workflow"
            )
    except modules.ModuleProblem as problem:
        print(f"{problem.traceback_text}stepwell worker: {problem}", file=sys.stderr)
        return USAGE
    logs.configure(options.log_level)
    collector.own_the_process()
    with Signals(*STOPPING) as signals:
        try:
            engine = Engine(options.db, **options.engine)
        except StepwellError as error:
            _log.critical("stepwell worker (process %d) cannot open the file. %s", os.getpid(), error)
            return FAILED
        try:
            _declare_schedules(engine, loaded)
        except StepwellError as error:
            _log.critical("stepwell worker (process %d): a schedule cannot be had. %s", os.getpid(), error)
            engine.close(0.0)
            return FAILED
        return _Worker(engine, signals, channel, options).serve()


def _declare_schedules(engine: Engine, loaded: Iterable[ModuleType]) -> None:
    """Have the `Schedule` objects of the modules: create those that the file does not know, change what differs."""
    definitions = sys.modules.get("stepwell.definitions.schedules")
    if definitions is None:  # no module has any
        return
    for module in loaded:
        if not definitions.schedules_in(module):
            continue
        declared = engine.declare_schedules(module)
        for what, ids in (("created", declared.created), ("changed", declared.changed)):
            if ids:
                _log.info("schedules %s by %s: %s", what, module.__name__, ", ".join(ids))


class _Worker:
    """An open engine and what its process was told."""

    GO_ON, DRAIN, AT_ONCE = range(3)

    def __init__(self, engine: Engine, signals: Signals, channel: socket.socket | None, options: WorkerOptions) -> None:
        self._engine = engine
        self._turn_loop = engine._session.engine_thread.turn_loop
        self._db: str = options.db
        self._drain_seconds: float = options.drain_timeout
        self._signals = signals
        self._channel = channel
        # What signals alone say, and what the supervisor alone says; a signal that both heard of must not count twice.
        self._by_signals = self._by_supervisor = self.GO_ON
        self._last_signal: int = signal.SIGTERM
        self._why = ""
        self._closed = False
        self._close_error: Exception | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ, self._take_signals)
        if channel is not None:
            self._selector.register(channel, selectors.EVENT_READ, self._hear_supervisor)

    @property
    def _name(self) -> str:
        """Who speaks; a worker that was fenced has gone on under a new number."""
        return f"stepwell worker {self._turn_loop.claimed().epoch}"

    def serve(self) -> int:
        """Serve until told to stop; return the exit code."""
        number = len(registered_workflows())
        _log.info(
            "%s (process %d) serves %d workflow%s of %s",
            self._name,
            os.getpid(),
            number,
            "" if number == 1 else "s",
            self._db,
        )
        self._tell_supervisor(READY)
        while self._level == self.GO_ON and self._turn_loop.failure is None:
            self._wait(_LOOK_SECONDS)
        if self._level == self.GO_ON:
            _log.critical("%s stopped by itself: %s", self._name, self._turn_loop.failure)
            self._close(0.0)
            return self._leave(FAILED)
        return self._drain()

    # --- being told ------------------------------------------------------------------------------------------------

    @property
    def _level(self) -> int:
        return max(self._by_signals, self._by_supervisor)

    def _wait(self, seconds: float | None) -> None:
        for key, _ in self._selector.select(seconds):
            key.data()

    def _take_signals(self) -> None:
        for number in self._signals.arrived():
            self._last_signal = number
            self._why = self._why or signal.Signals(number).name
            self._by_signals = min(self._by_signals + 1, self.AT_ONCE)

    def _hear_supervisor(self) -> None:
        assert self._channel is not None
        try:
            word = self._channel.recv(100)
        except BlockingIOError:
            return
        except ConnectionError:
            word = b""
        if not word:
            self._selector.unregister(self._channel)
            self._why = self._why or "the supervisor is gone"
        self._why = self._why or "the supervisor said so"
        self._by_supervisor = max(self._by_supervisor, self.AT_ONCE if AT_ONCE in word else self.DRAIN)

    def _tell_supervisor(self, word: bytes) -> None:
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.send(word)

    # --- ending ----------------------------------------------------------------------------------------------------

    def _drain(self) -> int:
        _log.info(
            "%s drains (%s): it takes no more work; steps under way have %g s, a second signal ends them at once",
            self._name,
            self._why,
            self._drain_seconds,
        )
        began = time.monotonic()
        closing = threading.Thread(target=self._close, args=(self._drain_seconds,), name="stepwell-close", daemon=True)
        closing.start()
        while not self._closed and self._level < self.AT_ONCE:
            self._wait(None)
        if self._level == self.AT_ONCE:
            return self._end_at_once(closing)
        if self._close_error is not None:
            _log.critical("%s could not close %s: %s", self._name, self._db, self._close_error)
            return self._leave(FAILED)
        if time.monotonic() - began < self._drain_seconds:
            _log.info("%s stopped; every step under way had ended", self._name)
        else:
            _log.warning(
                "%s stopped; steps that were under way after %g s are executed again by another worker",
                self._name,
                self._drain_seconds,
            )
        return self._leave(0)

    def _close(self, seconds: float) -> None:
        try:
            self._engine.close(seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, the process ends, and says so
            self._close_error = error
        self._closed = True
        self._signals.wake()

    def _end_at_once(self, closing: threading.Thread) -> int:
        code = 128 + self._last_signal
        _log.warning("%s stops at once; steps under way are executed again by another worker", self._name)
        # Nothing is lost when the process just ends; closing in order only saves the next worker the clean-up.
        _exit_within(_AT_ONCE_SECONDS, code)
        self._close(0.0)
        closing.join()
        _flush()
        os._exit(code)

    def _leave(self, code: int) -> int:
        """Return the exit code, and make sure that the process does end: user code may have threads that do not."""
        _exit_within(EXIT_GRACE_SECONDS, code)
        _flush()
        return code


def _exit_within(seconds: float, code: int) -> None:
    """End the process after some seconds, whatever its threads wait for."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
