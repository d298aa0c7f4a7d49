"""What one event led to: changes that commit together, and what may leave the worker only after that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from stepwell.journal import Payload
from stepwell.lifecycle import Status
from stepwell.resident import Attempts, Resident
from stepwell.store.base import Change


class RunOver(msgspec.Struct, frozen=True):
    """A run has ended, or was halted: what those who wait for it are told."""

    key: int
    id: str
    status: Status
    result: Payload
    error: Payload
    reason: str | None


class Reply(Protocol):
    """Where the answer to a request goes; called once, on the engine's thread, after the commit."""

    def __call__(self, value: Any, error: BaseException | None, /) -> None:
        """Deliver `value`, or raise `error` at the caller's."""
        ...


class Outside(Protocol):
    """What the worker needs done once a commit has made it safe. The engine does it; a simulator may do it otherwise."""

    def run_steps(self, attempts: list[Attempts]) -> None:
        """Execute attempts of steps; each ends in `Worker.step_finished`."""
        ...

    def drop_steps(self, attempts: list[Attempts]) -> None:
        """Cancel attempts whose results nobody wants any more."""
        ...

    def run_over(self, over: list[RunOver]) -> None:
        """Tell whoever waits for these runs."""
        ...

    def published(self, run: int, key: str, value: Payload) -> None:
        """Tell whoever waits for this value."""
        ...

    def later(self, call: Callable[[], None]) -> None:
        """Call back soon, outside of the handling of the current event."""
        ...


class Work:
    """Changes of one unit, and what follows from their commit."""

    __slots__ = ("after", "changes", "drops", "failing", "handlers", "over", "replies", "residents", "steps", "transactions")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.transactions: list[tuple[Resident, Attempts]] = []  # steps to call inside the unit's transaction
        self.residents: list[Resident] = []
        self.handlers: list[tuple[Change, Callable[[Any], None]]] = []  # who wants the result of a change
        self.steps: list[Attempts] = []
        self.drops: list[Attempts] = []
        self.over: list[RunOver] = []
        self.after: list[Callable[[], None]] = []
        self.replies: list[tuple[Reply, Any]] = []
        self.failing: list[Reply] = []  # told only where the work is refused; a handler tells them otherwise

    def expect(self, change: Change, handler: Callable[[Any], None]) -> None:
        """Add a change whose result `handler` gets after the commit."""
        self.changes.append(change)
        self.handlers.append((change, handler))

    def absorb(self, other: Work) -> None:
        """Take over another work, because one run is touched by both."""
        self.changes += other.changes
        self.handlers += other.handlers
        self.steps += other.steps
        self.drops += other.drops
        self.over += other.over
        self.after += other.after
        self.replies += other.replies
        self.failing += other.failing
        for run in other.residents:
            run.work = self
        self.residents += other.residents
        self.transactions += other.transactions
