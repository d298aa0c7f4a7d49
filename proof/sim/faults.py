"""What is thrown through the engine from outside, past every ``except Exception``."""

from __future__ import annotations


class Crash(BaseException):
    """The process of a worker dies here."""


class Violation(BaseException):
    """A promise was broken: `invariant` names it, `detail` says how."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail
