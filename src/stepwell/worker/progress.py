"""When what is known of operations that have not ended is written: how far steps and maps are.

They say it as often as they like; the file is told at most every half second, of all runs in one commit, and of each
operation what is latest. What an attempt said last is written with its end. So hundreds of reports cost one row, and
none costs a commit.
"""

from __future__ import annotations

from typing import Final

from stepwell.definitions.step_call import StepCall
from stepwell.model.clock import MICROSECONDS
from stepwell.model.progress import ProgressRow
from stepwell.store.progress import ProgressNoted
from stepwell.worker.polling import row_of
from stepwell.worker.runs import Runs
from stepwell.worker.unit_of_work import UnitOfWork

#: How often it is written.
_EVERY: Final = MICROSECONDS // 2


class ProgressKeeper:
    """Gathers what is to be written; a `stepwell.worker.due.Due`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._steps: dict[StepCall, None] = {}
        self._written_at = 0
        self._due_at: int | None = None

    def heard(self, attempts: StepCall) -> None:
        """Take note that the attempt under way of a step has said something."""
        self._steps[attempts] = None
        self._note_due(self._written_at + _EVERY)
        if self._due_at is not None and self._due_at <= self._runs.now:
            self.advance(self._runs.now)

    def _note_due(self, at: int) -> None:
        if self._due_at is None or at < self._due_at:
            self._due_at = at

    def due_at(self) -> int | None:
        """Return when something is to be written; None: there is nothing. An engine that closes does not wait."""
        return 0 if self._due_at is not None and self._runs.draining else self._due_at

    def advance(self, now: int) -> None:
        """Write what there is."""
        self._due_at, self._written_at = None, now
        steps, self._steps = self._steps, {}
        rows = [(attempts.run_key, row) for attempts in steps if (row := self._row_of(attempts, now)) is not None]
        if rows:
            self._runs.batch.lone_work().changes.append(ProgressNoted(rows))

    def _row_of(self, attempts: StepCall, now: int) -> ProgressRow | None:
        run = self._runs.memory.runs.get(attempts.run_key)
        if run is None or not attempts.wanted or run.calls.get(attempts.operation) is not attempts:
            return None  # it has ended, and its last word was written then
        return _row(attempts, now, ended=False)


def tell_last(attempts: StepCall, work: UnitOfWork, now: int, *, ended: bool) -> None:
    """Write what an attempt that is over said last; `ended`: another one does not follow."""
    rows: list[tuple[int, ProgressRow]] = []
    if (row := _row(attempts, now, ended=ended)) is not None:
        rows.append((attempts.run_key, row))
    if ended and attempts.poll is not None and attempts.poll.tries:
        rows.append((attempts.run_key, row_of(attempts, attempts.poll, now, ended=True)))
    if rows:
        work.changes.append(ProgressNoted(rows))


def _row(attempts: StepCall, now: int, *, ended: bool) -> ProgressRow | None:
    said = None if attempts.reports is None else attempts.reports.take()
    if said is None:
        return None
    return ProgressRow(
        op=attempts.operation,
        kind="step",
        name=attempts.name,
        attempt=said.attempt,
        done=said.done,
        total=said.total,
        failed=0,
        note=said.note,
        began_at=attempts.first_started_at,
        at=now,
        ended=ended,
    )
