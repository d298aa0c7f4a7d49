"""What a step can ask about itself while it executes, wherever it executes: on a loop or in a thread."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

from stepwell.clock import MICROSECONDS
from stepwell.errors import StepwellError


class StepInfo:
    """What `current` returns in a step.

    `idempotency_key` is the same for all attempts of this call, before and after a crash: hand it to outside services.
    `attempt` counts from 1.
    """

    __slots__ = ("_cancelled", "_started_at", "attempt", "operation", "run_id", "step")

    def __init__(self, run_id: str, step: str, operation: int, attempt: int, started_at: int) -> None:
        self.run_id = run_id
        self.step = step
        self.operation = operation
        self.attempt = attempt
        self._started_at = started_at
        # A step in a thread cannot be stopped; it is told.
        self._cancelled = False

    @property
    def idempotency_key(self) -> str:
        """Return text that names this call of the step among all calls of all runs."""
        return f"{self.run_id}:{self.operation}"

    @property
    def started_at(self) -> datetime:
        """Return when this attempt started, UTC."""
        return datetime.fromtimestamp(self._started_at / MICROSECONDS, UTC)

    @property
    def cancelled(self) -> bool:
        """Tell whether the result is no longer wanted: the run was cancelled, or the attempt's time is up."""
        return bool(self._cancelled)

    def cancel(self) -> None:
        """Tell the step that its result is no longer wanted; the engine calls this."""
        self._cancelled = True

    def check_cancelled(self) -> None:
        """Raise `StepwellError` when the result is no longer wanted; call it now and then in a long `def` step."""
        if self._cancelled:
            raise StepwellError(f"step {self.step!r} of run {self.run_id!r} was cancelled or its time is up")


_current: Final[ContextVar[StepInfo | None]] = ContextVar("stepwell_step", default=None)


def current_step() -> StepInfo | None:
    """Return the step that is executing in this context, or None."""
    return _current.get()


def enter_step(info: StepInfo) -> None:
    """Make `info` the current step of this context; each step executes in a context of its own."""
    _current.set(info)
