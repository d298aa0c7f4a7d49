"""How a run ended, for those that wait for it."""

from __future__ import annotations

import msgspec

from stepwell.errors import RunHalted
from stepwell.model.journal import Payload
from stepwell.model.lifecycle import Status
from stepwell.model.run import Remedy, RunRecord


def remedy_of(error: BaseException) -> Remedy:
    """Return what is left to do about a run that this halted."""
    return "resume" if isinstance(error, RunHalted) and error.says_remedy else "mend"


class RunOver(msgspec.Struct, frozen=True, gc=False):
    """A run has ended, or was halted: what those who wait for it are told."""

    key: int
    id: str
    status: Status
    result: Payload
    error: Payload
    reason: str | None

    @classmethod
    def halted(cls, key: int, id: str, reason: str) -> RunOver:
        """Return what is told of a run that was halted, and why it was."""
        return cls(key, id, "halted", None, None, reason)

    @classmethod
    def cancelled(cls, key: int, id: str, reason: str | None) -> RunOver:
        """Return what is told of a run that was cancelled; `reason` as whoever asked for it gave it."""
        return cls(key, id, "cancelled", None, None, reason)

    @classmethod
    def failed(cls, key: int, id: str, failure: Payload) -> RunOver:
        """Return what is told of a run that failed."""
        return cls(key, id, "failed", None, failure, None)

    @classmethod
    def of(cls, record: RunRecord) -> RunOver:
        """Make it from the row of a run that has ended or is halted."""
        return cls(record.key, record.id, record.status, record.result, record.error, record.reason)
