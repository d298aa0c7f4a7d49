"""What a transaction means beyond its rows: whom it concerns in other processes, and what proves its commit."""

from __future__ import annotations

from typing import Any, TypeAlias

#: A query and its parameters that yield a row if, and only if, the transaction was committed.
Evidence: TypeAlias = tuple[str, tuple[Any, ...]]


class Aftermath:
    """Gathered while changes are applied, for after the commit.

    What a refused unit left here stays, but for the evidence: to be told too much is harmless.
    """

    def __init__(self) -> None:
        #: The epoch of the worker that writes.
        self.epoch = 0
        #: The epochs of the workers for which a note was left.
        self.told: set[int] = set()
        #: The keys of the runs that ended, were halted, or published a value.
        self.ended: list[int] = []
        #: Whether there may be runs to claim, or deadlines to keep, that were not there before; and whether there may
        #: be runs to claim in a queue.
        self.made_work = False
        self.made_turn = False
        #: Proof that this transaction was committed, where it added a row that still stands.
        self.evidence: Evidence | None = None
        #: The id that the last start was refused, if it was: what goes with that start is not sent either.
        self.refused_id: str | None = None

    def begin(self, epoch: int) -> None:
        """Forget what an earlier transaction left; the worker with `epoch` writes now."""
        self.epoch = epoch
        self.evidence = None
        self.refused_id = None
        self.made_turn = False
        if self.told or self.ended or self.made_work:
            self.told, self.ended, self.made_work = set(), [], False
