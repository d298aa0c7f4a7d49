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
    """Changes of one unit, and what follows from their commit.

    There is one for every step of every run, so the lists that most works leave empty are made when they are needed.
    """

    __slots__ = ("_extra", "changes", "residents", "steps")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.residents: list[Resident] = []
        self.steps: list[Attempts] = []
        self._extra: Extra | None = None

    @property
    def extra(self) -> Extra:
        """What only some works have, made at first use."""
        if self._extra is None:
            self._extra = Extra()
        return self._extra

    @property
    def has_extra(self) -> bool:
        """Tell whether there is anything in `extra`."""
        return self._extra is not None

    @property
    def calls_transactions(self) -> bool:
        """Tell whether the unit calls transactional steps."""
        return self._extra is not None and bool(self._extra.transactions)

    def waiting_callers(self) -> list[Reply]:
        """Return who must be told when the work is refused."""
        if self._extra is None:
            return []
        return [*self._extra.failing, *(reply for reply, _ in self._extra.replies)]

    def expect(self, change: Change, handler: Callable[[Any], None]) -> None:
        """Add a change whose result `handler` gets after the commit."""
        self.changes.append(change)
        self.extra.handlers.append((change, handler))

    def absorb(self, other: Work) -> None:
        """Take over another work, because one run is touched by both."""
        self.changes += other.changes
        self.steps += other.steps
        for run in other.residents:
            run.work = self
        self.residents += other.residents
        if other.has_extra:
            self.extra.absorb(other.extra)


class Extra:
    """The rarer consequences of a work."""

    __slots__ = ("after", "drops", "failing", "handlers", "over", "replies", "transactions")

    def __init__(self) -> None:
        self.handlers: list[tuple[Change, Callable[[Any], None]]] = []  # who wants the result of a change
        self.drops: list[Attempts] = []
        self.over: list[RunOver] = []
        self.after: list[Callable[[], None]] = []
        self.replies: list[tuple[Reply, Any]] = []
        self.failing: list[Reply] = []  # told only where the work is refused; a handler tells them otherwise
        self.transactions: list[tuple[Resident, Attempts]] = []  # steps to call inside the unit's transaction

    def absorb(self, other: Extra) -> None:
        """Take over what another work leads to."""
        self.handlers += other.handlers
        self.drops += other.drops
        self.over += other.over
        self.after += other.after
        self.replies += other.replies
        self.failing += other.failing
        self.transactions += other.transactions
