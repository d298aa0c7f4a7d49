"""When what is known of operations that have not ended is written: how far steps and maps are.

They say it as often as they like; the file is told at most every half second, of all runs in one commit, and of each
operation what is latest. What an attempt said last is written with its end. So hundreds of reports cost one row, and
none costs a commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stepwell.definitions.step_call import StepCall
from stepwell.model.clock import MICROSECONDS
from stepwell.model.progress import ProgressRow
from stepwell.replay.map_count import MapCount
from stepwell.store.progress import ProgressNoted
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.polling import row_of

#: How often it is written.
_EVERY: Final = MICROSECONDS // 2
#: From when on a map is one that takes long; of others nothing is written.
_LONG: Final = MICROSECONDS


class ProgressKeeper:
    """Gathers what is to be written; a `stepwell.worker.state.due.Due`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._steps: dict[StepCall, None] = {}
        self._maps: dict[tuple[int, int], tuple[LoadedRun, MapCount]] = {}  # by run and operation
        self._written_at = 0
        self._due_at: int | None = None

    def heard(self, attempts: StepCall) -> None:
        """Take note that the attempt under way of a step has said something."""
        self._steps[attempts] = None
        self._note_due(self._written_at + _EVERY)
        if self._due_at is not None and self._due_at <= self._runs.now:
            self.advance(self._runs.now)

    def counted(self, run: LoadedRun, counts: Sequence[MapCount], work: UnitOfWork) -> None:
        """Take note that maps have come further, or are over: of one that took long, that is written at once."""
        now = self._runs.now
        for count in counts:
            count.is_noted = False
            is_long = now - count.began_at >= _LONG
            if not count.is_over:
                self._maps[run.key, count.op] = run, count
                self._note_due(max(count.began_at + _LONG, self._written_at + _EVERY))
                continue
            self._maps.pop((run.key, count.op), None)
            if is_long:
                work.changes.append(ProgressNoted([(run.key, _row_of_map(count, now))]))

    def leave(self, run: LoadedRun) -> None:
        """Write what is known of the maps of a run that leaves memory, at rest."""
        found = [key for key, (each, _) in self._maps.items() if each is run] if self._maps else []
        rows = [(run.key, _row_of_map(self._maps.pop(key)[1], self._runs.now)) for key in found]
        if rows:
            self._runs.batch.lone_work().changes.append(ProgressNoted(rows))

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
        maps, self._maps = self._maps, {}
        for key, (run, count) in maps.items():
            if self._runs.memory.runs.get(run.key) is not run:
                continue
            if now - count.began_at >= _LONG:
                rows.append((run.key, _row_of_map(count, now)))
            else:
                self._maps[key] = run, count
                self._note_due(max(count.began_at + _LONG, now + _EVERY))
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


def _row_of_map(count: MapCount, now: int) -> ProgressRow:
    return ProgressRow(
        op=count.op,
        kind="map",
        name=count.name,
        attempt=0,
        done=count.done,
        total=count.total,
        failed=count.failed,
        note=None,
        began_at=count.began_at,
        at=now,
        ended=count.is_over,
    )


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
