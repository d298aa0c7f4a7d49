"""How far operations of a run are, as people see it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from stepwell.model.clock import datetime_of
from stepwell.model.progress import ProgressKind, ProgressRow

_PERCENT = 100


class ProgressInfo(msgspec.Struct, frozen=True):
    """How far an operation is, as it has reported. Times are aware datetimes, UTC.

    - ``step``: its attempt number `attempt` reported `done` of `total`, and `note`, with `current().progress(…)`.
    - ``map``: `done` of its `total` items are done, and `failed` have failed; `operation` is the first one it called.
    - ``poll``: `done` calls returned results that did not satisfy the condition; the next one is due at `next_at`.

    `at` is the time of the report; `ended` says whether the operation has ended.
    """

    operation: int
    kind: ProgressKind
    name: str
    done: int | float
    total: int | float | None
    failed: int
    note: str | None
    attempt: int | None
    began_at: datetime
    at: datetime
    next_at: datetime | None = None
    ended: bool = False

    @classmethod
    def of(cls, row: ProgressRow, ahead: int = 0) -> ProgressInfo:
        """Make it from a row; `ahead` is that of the run (see `RunRecord`)."""
        return cls(
            operation=row.op,
            kind=row.kind,
            name=row.name,
            done=row.done,
            total=row.total,
            failed=row.failed,
            note=row.note,
            attempt=row.attempt or None,
            began_at=datetime_of(row.began_at - ahead),
            at=datetime_of(row.at - ahead),
            next_at=None if row.next_at is None else datetime_of(row.next_at - ahead),
            ended=row.ended,
        )

    @property
    def share(self) -> float | None:
        """How much of it is done, from 0 to 1; None where nobody knows."""
        if not self.total:
            return None
        return min(1.0, (self.done + self.failed) / self.total)

    @property
    def amount(self) -> str:
        """How much of it is done, in words: ``4,000 of 10,000 (40 %)``."""
        if self.kind == "poll":
            return f"{self.done:,} {'try' if self.done == 1 else 'tries'}"
        share = self.share
        of_total = "" if self.total is None else f" of {_number(self.total)}"
        percent = "" if share is None else f" ({int(share * _PERCENT)} %)"
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{_number(self.done)}{of_total}{percent}{failed}"

    @property
    def words(self) -> str:
        """How far it is, in one line, with its note."""
        note = "" if not self.note else f": {self.note.partition(chr(10))[0]}"
        return f"{self.amount}{note}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
