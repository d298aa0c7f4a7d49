"""What a step can ask about itself while it executes, wherever it executes: on a loop or in a thread."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, Protocol

from stepwell.clock import datetime_of
from stepwell.errors import StepwellError


class Attempt(Protocol):
    """What `StepInfo` shows; `stepwell.resident.Attempts` is the one that exists."""

    run_id: str
    name: str
    operation: int
    attempt: int
    started_at: int
    wanted: bool


class StepInfo:
    """What `current` returns in a step.

    `run_id` and `step` name the run and the step, `operation` is the number of the call in its run, `attempt` counts
    from 1.
    """

    __slots__ = ("_attempt", "attempt", "operation", "run_id", "started_at", "step")

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.run_id = attempt.run_id
        self.step = attempt.name
        self.operation = attempt.operation
        self.attempt = attempt.attempt
        self.started_at = datetime_of(attempt.started_at)

    @property
    def idempotency_key(self) -> str:
        """Text that names this call of the step, the same for all its attempts: hand it to outside services."""
        return f"{self.run_id}:{self.operation}"

    @property
    def cancelled(self) -> bool:
        """Whether the result is no longer wanted: the run was cancelled, or the attempt's time is up."""
        return not self._attempt.wanted or self._attempt.attempt != self.attempt

    def check_cancelled(self) -> None:
        """Raise `StepwellError` when the result is no longer wanted; call it now and then in a long `def` step."""
        if self.cancelled:
            raise StepwellError(f"step {self.step!r} of run {self.run_id!r} was cancelled or its time is up")


_current: Final[ContextVar[Attempt | None]] = ContextVar("stepwell_step", default=None)


def current_step() -> StepInfo | None:
    """Return the step that is executing in this context, or None."""
    attempt = _current.get()
    return None if attempt is None else StepInfo(attempt)


def enter_step(attempt: Attempt) -> None:
    """Make `attempt` the current one of this context; each attempt executes in a context of its own."""
    _current.set(attempt)
