"""Retention: runs that ended long ago are deleted by themselves, now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stepwell.model.clock import MICROSECONDS
from stepwell.runtime.serving.requests import Purge, Request
from stepwell.worker.state.unit_of_work import Reply

#: How long after one look the next one follows, in microseconds.
PERIOD: Final = 600 * MICROSECONDS


class Retention:
    """Asks for runs to be deleted that ended longer ago than `keep`, in microseconds; a `Due` of the worker."""

    def __init__(self, keep: int, submit: Callable[[Request, Reply], None]) -> None:
        self._keep = keep
        self._submit = submit
        self._due_at: int | None = 0  # None while one look is under way

    def due_at(self) -> int | None:
        """Return when to look next."""
        return self._due_at

    def advance(self, now: int) -> None:
        """Look; again some time after the answer, whatever it is."""

        def again(_count: object, _error: BaseException | None) -> None:
            self._due_at = now + PERIOD

        self._due_at = None
        self._submit(Purge(now - self._keep), again)
