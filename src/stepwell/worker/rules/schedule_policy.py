"""What a schedule does when it is due: a pure function of its row, of its runs, and of the time.

It is asked inside the transaction that its answer becomes part of (`stepwell.store.store.Unit.decide`): so a tick and
its run are one commit, and two workers that find the same schedule due decide one after the other. Times are by the
wall clock, in microseconds since the epoch.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec
from msgspec.structs import replace

from stepwell.model.calendar import calendar_of
from stepwell.model.journal import Payload
from stepwell.model.lifecycle import ENDED
from stepwell.model.schedule import (
    KEPT,
    MAX_BUFFERED,
    MAX_WATCHED,
    Backfill,
    Overlap,
    ScheduleRecord,
    ScheduleState,
    TickKind,
    TickOutcome,
    TickRecord,
    held_up,
    is_spent,
    run_id_of,
)
from stepwell.store.schedules import ScheduleFacts

#: How many ticks one decision looks at; the rest are due at once in the next.
_AT_ONCE: Final = 100
#: How many missed ticks are counted; of more it is only known that there are more.
_COUNTED: Final = 10_000


class ScheduledStart(msgspec.Struct, frozen=True):
    """A run to start, and what became of those before it: the last result, and the error where the last one failed."""

    run_id: str
    tick: int
    result: Payload = None
    error: Payload = None


class Advance(msgspec.Struct):
    """What is to be written: the row, and what it starts, cancels and terminates.

    `said` are lines for the log, with their levels.
    """

    record: ScheduleRecord
    starts: list[ScheduledStart] = []
    cancels: list[str] = []
    terminates: list[str] = []
    awaited: list[str] = []
    said: list[tuple[int, str]] = []


def advance(record: ScheduleRecord, facts: ScheduleFacts, now: int) -> Advance:
    """Return what becomes of a schedule that is due."""
    deciding = _Deciding(record, facts, now)
    deciding.look_at_runs()
    deciding.start_buffered()
    more = deciding.take_ticks()
    more = deciding.take_backfills() or more
    return deciding.result(more=more)


def trigger(record: ScheduleRecord, facts: ScheduleFacts, now: int) -> Advance:
    """Return what becomes of a schedule that is to run now, whatever else it does."""
    deciding = _Deciding(record, facts, now)
    deciding.look_at_runs()
    deciding.start(now, "trigger")
    # What waited for a run that has ended meanwhile must not be forgotten.
    return deciding.result(more=bool(record.state.buffered) or deciding.has_backfills())


def next_due(record: ScheduleRecord) -> int | None:
    """Return when the first tick that is not done with begins its run; None where there is none."""
    if record.paused or record.is_over:
        return None
    calendar = calendar_of(record.definition.calendar)
    some = calendar.some_after(record.state.decided_to, 2)
    if not some:
        return None
    return some[0] + calendar.late_by(record.id, some[0], some[1] if len(some) > 1 else None)


class _Deciding:
    """One decision: the state as it becomes."""

    def __init__(self, record: ScheduleRecord, facts: ScheduleFacts, now: int) -> None:
        self._record = record
        self._definition = record.definition
        self._facts = facts
        self._now = now
        self._paused = record.paused
        self._note = record.note
        state = record.state
        self._decided_to = state.decided_to
        self._counts: dict[TickOutcome, int] = {
            "started": state.started, "skipped": state.skipped, "missed": state.missed
        }  # fmt: skip
        self._recent = list(state.recent)
        self._running = list(state.running)
        self._buffered = list(state.buffered)
        self._backfills = list(state.backfills)
        self._last_completed, self._last_failed = state.last_completed, state.last_failed
        self._over, self._failed_at = state.over, state.failed_at
        self._advance = Advance(record)

    # --- runs --------------------------------------------------------------------------------------------------------

    def look_at_runs(self) -> None:
        """Find out which runs have ended since, and how; and which were brought back, of those of the last ticks.

        A file of before has no `failed_at`: its failures have been dealt with.
        """
        known = set(self._running)
        recent = [each.run for each in self._recent if each.run is not None] if self._heeds_runs() else []
        still: list[str] = []
        for run_id in dict.fromkeys((*self._running, *recent)):
            run = self._facts.run(run_id)
            if run is None:  # purged
                continue
            if run.status not in ENDED:
                still.append(run_id)
            elif run.status == "completed" and (run_id in known or run_id == self._last_failed):
                self._last_completed, self._last_failed = run_id, None
            elif run.status == "failed" and (run_id in known or 0 < self._failed_at < (run.ended_at or 0)):
                self._note_failure(run_id, run.ended_at or 0)
        self._running = still

    def _heeds_runs(self) -> bool:
        definition = self._definition
        return definition.overlap != "allow" or definition.pause_on_failure or bool(self._backfills)

    def _note_failure(self, run_id: str, at: int) -> None:
        self._last_failed, self._failed_at = run_id, max(self._failed_at, at)
        if self._definition.pause_on_failure and not self._paused:
            self._paused = True
            self._hold_up()
            self._note = f"run {run_id!r} failed"
            self._say(f"is paused, because run {run_id!r} failed; unpause it when that is mended")

    def _hold_up(self) -> None:
        backfills, buffered, recent = tuple(self._backfills), tuple(self._buffered), tuple(self._recent)
        state = held_up(replace(self._record.state, backfills=backfills, buffered=buffered, recent=recent))
        self._backfills[:], self._buffered[:], self._recent[:] = state.backfills, state.buffered, state.recent

    def start(self, tick: int, kind: TickKind) -> None:
        """Start the run of a tick, unless there is one already."""
        run_id = run_id_of(self._record.id, tick, kind)
        if self._facts.run(run_id) is not None:
            self._note_tick(tick, kind, "existing", run_id)
            return
        completed = self._facts.run(self._last_completed) if self._last_completed is not None else None
        failed = self._facts.run(self._last_failed) if self._last_failed is not None else None
        result, error = None if completed is None else completed.result, None if failed is None else failed.error
        self._advance.starts.append(ScheduledStart(run_id, tick, result, error))
        self._running = [*self._running, run_id][-MAX_WATCHED:]
        self._note_tick(tick, kind, "started", run_id)
        limit = self._definition.limit
        if kind == "tick" and limit is not None and self._counts["started"] >= limit:
            self._over = True

    def start_buffered(self) -> None:
        """Start what waited for the run before it; in a paused schedule, of a backfill that was asked for since."""
        while not self._running and (able := self._able()):
            tick, kind = able[0]
            self._buffered.remove(able[0])
            self._forget_buffered(tick, kind)
            if kind == "tick" and self._over:
                self._skip(tick, kind, "as many runs as its limit allows have been started")
            else:
                self.start(tick, kind)

    def _able(self) -> list[tuple[int, TickKind]]:
        """Return what waits for nothing but the run before it."""
        return [each for each in self._buffered if not self._paused or each[1] != "tick"]

    def _forget_buffered(self, tick: int, kind: TickKind) -> None:
        self._recent = [
            each for each in self._recent if (each.tick, each.kind, each.outcome) != (tick, kind, "buffered")
        ]

    # --- ticks -------------------------------------------------------------------------------------------------------

    def take_ticks(self) -> bool:
        """Decide on the ticks that are due; tell whether there are more."""
        calendar = calendar_of(self._definition.calendar)
        if self._paused or self._is_over():
            return False
        self._pass_over_missed()
        ticks = calendar.ticks(self._decided_to)
        tick = next(ticks, None)
        for _ in range(_AT_ONCE):
            if tick is None or tick > self._now:
                return False
            following = next(ticks, None)
            if tick + calendar.late_by(self._record.id, tick, following) > self._now:
                return False
            self._decided_to = tick
            self._arrive(tick, "tick", self._definition.overlap)
            if self._is_over():
                return False
            tick = following
        return tick is not None and tick <= self._now

    def _is_over(self) -> bool:
        return self._over or is_spent(self._definition.limit, self._counts["started"], self._buffered)

    def _pass_over_missed(self) -> None:
        """Leave out the ticks that were due too long ago, and say so."""
        window = self._definition.catch_up
        if window is None or self._now - window <= self._decided_to:
            return
        jitter = self._definition.calendar.jitter
        first = last = None
        count = 0
        for tick in calendar_of(self._definition.calendar).ticks(self._decided_to):
            if tick + jitter >= self._now - window or count >= _COUNTED:
                break
            first, last, count = tick if first is None else first, tick, count + 1
        if last is None or first is None:
            return
        self._decided_to = last if count < _COUNTED else max(last, self._now - window - jitter - 1)
        self._counts["missed"] += count
        self._remember(TickRecord(last, "missed", self._now))
        many = f"more than {count}" if count >= _COUNTED else str(count)
        self._say(
            f"missed {many} ticks, because no worker was there at the time: from {run_id_of('', first)[1:]} to "
            f"{run_id_of('', self._decided_to)[1:]}. They are further back than its catch_up of {window / 1e6:g} s; "
            "a backfill does them after all"
        )

    def _arrive(self, tick: int, kind: TickKind, overlap: Overlap) -> None:
        """Do with a tick what the policy says."""
        waiting = self._able()
        busy = bool(self._running) or bool(waiting)
        if overlap == "allow" or not busy:
            self.start(tick, kind)
        elif overlap == "skip":
            self._skip(
                tick, kind, f"run {self._running[-1]!r} has not ended" if self._running else "another tick waits"
            )
        elif overlap == "buffer_one" and waiting:
            self._skip(tick, kind, "another tick waits already")
        elif overlap == "terminate_running":
            self._end_running()
            self._forget_all_buffered()
            self.start(tick, kind)
        elif overlap == "cancel_running":
            self._advance.cancels += [run for run in self._running if run not in self._advance.cancels]
            self._forget_all_buffered()
            self._buffer(tick, kind)
        elif len(self._buffered) >= MAX_BUFFERED:
            self._skip(tick, kind, f"{MAX_BUFFERED} ticks wait already")
        else:
            self._buffer(tick, kind)

    def _end_running(self) -> None:
        """Have the runs under way ended; one that this decision would start has its tick left out instead."""
        fresh = {start.run_id: start for start in self._advance.starts}
        self._advance.terminates += [run for run in self._running if run not in fresh]
        for start in (fresh[run] for run in self._running if run in fresh):
            self._advance.starts.remove(start)
            kinds: list[TickKind] = [each.kind for each in self._recent if each.run == start.run_id]
            kind: TickKind = kinds[0] if kinds else "tick"
            self._recent = [each for each in self._recent if each.run != start.run_id]
            self._counts["started"] -= kind == "tick"
            self._skip(start.tick, kind, "a later tick came before its run could start")
        self._running = []

    def _forget_all_buffered(self) -> None:
        for before, of in self._buffered:
            self._forget_buffered(before, of)
            self._skip(before, of, "a later tick came before its run could start")
        self._buffered = []

    def _buffer(self, tick: int, kind: TickKind) -> None:
        self._buffered.append((tick, kind))
        self._note_tick(tick, kind, "buffered", None)

    def _skip(self, tick: int, kind: TickKind, why: str) -> None:
        self._note_tick(tick, kind, "skipped", None)
        self._say(f"skipped its tick of {run_id_of('', tick)[1:]}: {why}", logging.INFO)

    # --- backfills ---------------------------------------------------------------------------------------------------

    def take_backfills(self) -> bool:
        """Go on with the first backfill; tell whether it could go on at once."""
        at = next((at for at, each in enumerate(self._backfills) if not each.held), None)
        if at is None:
            return False
        backfill = self._backfills[at]
        for tick in calendar_of(self._definition.calendar).some_after(backfill.next - 1, _AT_ONCE):
            if tick >= backfill.end:
                self._backfills.pop(at)
                return self.has_backfills()
            if backfill.overlap == "buffer_all" and (self._running or self._able()):
                self._backfills[at] = replace(backfill, next=tick)
                return False
            self._arrive(tick, "backfill", backfill.overlap)
            backfill = self._backfills[at] = replace(backfill, next=tick + 1)
        if calendar_of(self._definition.calendar).next_after(backfill.next - 1) is None:
            self._backfills.pop(at)
        return self.has_backfills()

    def has_backfills(self) -> bool:
        """Tell whether there is one that no pause holds up."""
        return any(not each.held for each in self._backfills)

    # --- the row -----------------------------------------------------------------------------------------------------

    def _note_tick(self, tick: int, kind: TickKind, outcome: TickOutcome, run: str | None) -> None:
        if outcome in self._counts and not (outcome == "started" and kind != "tick"):
            self._counts[outcome] += 1
        self._remember(TickRecord(tick, outcome, self._now, kind, run))

    def _remember(self, tick: TickRecord) -> None:
        self._recent = [*self._recent, tick][-KEPT:]

    def _say(self, text: str, level: int = logging.WARNING) -> None:
        self._advance.said.append((level, f"schedule {self._record.id!r} {text}"))

    def result(self, *, more: bool) -> Advance:
        """Return what is to be written; with `more` it is due again at once."""
        old = self._record.state
        state = ScheduleState(
            decided_to=self._decided_to,
            started=self._counts["started"],
            skipped=self._counts["skipped"],
            missed=self._counts["missed"],
            recent=tuple(self._recent),
            running=tuple(self._running),
            buffered=tuple(self._buffered),
            last_completed=self._last_completed,
            last_failed=self._last_failed,
            backfills=tuple(self._backfills),
            acts=old.acts,
            over=self._over,
            failed_at=self._failed_at,
        )
        record = replace(self._record, paused=self._paused, note=self._note, state=state)
        waits = bool(self._buffered or self._backfills or self._definition.pause_on_failure)
        advanced = self._advance
        advanced.record = replace(record, due_at=0 if more else next_due(record))
        advanced.awaited = list(self._running) if waits else []
        return advanced


def with_backfill(record: ScheduleRecord, start: int, end: int, overlap: Overlap) -> ScheduleRecord:
    """Return a schedule that also does the ticks from `start` until before `end`."""
    backfills = (*record.state.backfills, Backfill(start, end, overlap))
    return replace(record, due_at=0, state=replace(record.state, backfills=backfills))
