"""What stands between the deterministic loop and the run whose code it executes.

`LoopHost` is what the loop asks of the run, `Handle` what it gives to asyncio and, for a timer, to the run.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec

from stepwell.model.clock import MICROSECONDS


class LoopHost(Protocol):
    """What the loop needs from the run that it serves."""

    run_id: str
    now: int  # the run's clock, microseconds since the epoch
    stopped: bool  # true once the run must not execute another callback

    def set_timer(self, handle: Handle, due: int) -> None:
        """Make a timer durable; `handle` is pushed back with `DeterministicLoop.push` when it fires."""
        ...

    def drop_timer(self, handle: Handle) -> None:
        """Forget a timer that the code cancelled."""
        ...

    def call_in_thread(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        """Make `asyncio.to_thread(step, …)` a durable call, or raise `WorkflowIOError` for what is not a step."""
        ...

    def intrude(self, what: str) -> None:
        """Stop, because other code has changed what belongs to the run."""
        ...

    def report(self, context: dict[str, Any]) -> None:
        """Log what asyncio would hand to an exception handler."""
        ...

    def location(self) -> str:
        """Return ``file:line in function`` of the code that is executing now."""
        ...


class HostedLoop(Protocol):
    """What a handle needs from its loop."""

    run: LoopHost


class Handle(msgspec.Struct, eq=False):
    """A callback that waits in the ready queue, or for a timer: asyncio's `Handle` and `TimerHandle` without the cost.

    `operation` is a timer's number in the run, `due` its time in microseconds since the epoch; both are 0 otherwise.
    """

    loop: HostedLoop
    callback: Callable[..., Any]
    args: tuple[Any, ...]
    context: contextvars.Context
    operation: int = 0
    due: float = 0
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Never run the callback."""
        if not self.is_cancelled:
            self.is_cancelled = True
            if self.operation:
                self.loop.run.drop_timer(self)

    def cancelled(self) -> bool:
        """Tell whether `cancel` was called."""
        return self.is_cancelled

    def when(self) -> float:
        """Return when a timer is due, in the loop's seconds."""
        return self.due / MICROSECONDS
