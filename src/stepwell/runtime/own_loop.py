"""The event loop that an engine has for itself, and the thread that runs it. What it is for, it does not know."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from stepwell.model.steady import monotonic
from stepwell.runtime.time_bound import raise_in

_log: Final = logging.getLogger("stepwell")

#: How often code that is left behind is told that the process ends, and how long each time it is given to hear it.
_TELLINGS: Final = 20
_TELLING_SECONDS: Final = 0.05


class _ProcessEnds(BaseException):
    """Raised in code that still executes in an engine's thread when the interpreter ends."""


class OwnLoop:
    """One event loop in a thread of its own. All methods may be used from any thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        with contextlib.suppress(AttributeError):  # a loop that is not Python's own has a clock that nobody freezes
            self.loop.time = monotonic  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self._main, name="stepwell", daemon=True)
        #: Set by who uses the loop: it has nothing to do any more, so it may end.
        self.drained = threading.Event()
        #: The thread is about to end, and the loop is closed.
        self.stopped = threading.Event()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while self._has_let_out():
                pass
        finally:
            with contextlib.suppress(Exception):
                self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            self.stopped.set()

    def _has_let_out(self) -> bool:
        """Run the loop until it is stopped; return True where it ended early, by what a task of a step raised.

        asyncio lets these two out, which end the main thread. Here nobody would hear of them but all runs would stand
        still; `sys.exit` ends no process in another thread. The step itself, if it waits for that task, gets them, too.
        """
        try:
            self.loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            _log.error(
                "a task or callback that a step made raised %s; steps go on", type(error).__name__, exc_info=error
            )
            return not self.drained.is_set()
        return False

    def soon(self, call: Callable[[], object], context: contextvars.Context | None = None) -> bool:
        """Have something called on the loop; return False where it is closed."""
        try:
            if threading.get_ident() == self.thread.ident:
                self.loop.call_soon(call, context=context)
            else:
                self.loop.call_soon_threadsafe(call, context=context)
        except RuntimeError:
            return False
        return True

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Have something called on the loop so many seconds from now."""
        self.soon(partial(self.loop.call_later, seconds, call))

    def add_reader(self, descriptor: int, ready: Callable[[], None]) -> None:
        """Have the loop call `ready` whenever there is something to read."""
        self.soon(partial(self.loop.add_reader, descriptor, ready))

    def remove_reader(self, descriptor: int, then: Callable[[], None]) -> None:
        """Stop that, and call `then`."""

        def remove() -> None:
            self.loop.remove_reader(descriptor)
            then()

        self.soon(remove)

    def stop(self) -> None:
        """Have the loop end."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)

    def leave(self) -> None:
        """Nobody waits for the loop any more, whose thread executes code that does not end.

        The interpreter, when it ends, takes such a thread away from below its code. Where that is in a greenlet the
        process dies of a segmentation fault: so the code is ended before, by an exception. The file is closed by then,
        and what the code does on its way out reaches nobody.
        """
        atexit.register(self._end_code)

    def _end_code(self) -> None:
        self.loop.set_exception_handler(lambda _loop, _context: None)  # nobody is left whom it concerns
        for _ in range(_TELLINGS):
            if self.stopped.is_set() or self.thread.ident is None:
                return
            raise_in(self.thread.ident, _ProcessEnds)
            self.stopped.wait(_TELLING_SECONDS)
