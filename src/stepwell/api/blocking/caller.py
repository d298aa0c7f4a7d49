"""How a thread asks an engine, and waits for the answer: what all handles of code that does not use asyncio need."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import timedelta
from typing import Any

from stepwell.api.session import Session
from stepwell.executors.threads import lent
from stepwell.model.clock import to_seconds
from stepwell.runtime.serving.requests import Request


class _Answer:
    """A reply that a thread waits for."""

    def __init__(self) -> None:
        self._future: Future[Any] = Future()

    def __call__(self, value: Any, error: BaseException | None, /) -> None:
        if error is None:
            self._future.set_result(value)
        else:
            self._future.set_exception(error)

    def wait(self, timeout: float | None) -> Any:
        return self._future.result(timeout)

    def has_come(self) -> bool:
        return self._future.done()


class Caller:
    """Asks an engine's thread, and waits. `_session` is the open session."""

    _session: Session

    def _ask(self, request: Request) -> Any:
        self._session.check_usable()
        answer = _Answer()
        self._session.engine_thread.submit(request, answer)
        return answer.wait(None)

    def _wait(self, what: str, timeout: float | timedelta | None, request: Request) -> Any:
        self._session.check_usable()
        seconds = None if timeout is None else to_seconds(timeout, "timeout")
        answer = _Answer()
        self._session.engine_thread.submit(request, answer)
        try:
            with lent():
                return answer.wait(seconds)
        except TimeoutError:
            if answer.has_come():  # the run itself failed with a TimeoutError, or its answer came at the last moment
                return answer.wait(None)
            self._session.engine_thread.forget(answer)
            if seconds is None:  # a signal handler of the program raised it here
                raise
            raise TimeoutError(f"{what} after {seconds:g} s; it goes on, so you can wait again") from None
