"""Applies the changes of queues and limits: entries move, and what counts them moves with them.

`Entries` is the part of the `Applier` that knows the tables of queues. What many runs do alike (enter, end) is gathered
and written by `flush`, many rows in one statement; the counts of lanes and queues are written there as well, see
`stepwell.store.sql.queue_counts`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Final

import msgspec

from stepwell.definitions.queues import QueueSettings
from stepwell.errors import InvalidArgument
from stepwell.store.queues import (
    Entered,
    PermitAsked,
    PermitDetached,
    PermitFreed,
    PermitKept,
    PermitReturned,
    PermitsGranted,
    PermitStarted,
    QueueAdvanced,
    QueueChanged,
    QueueDeclared,
    QueueTaken,
)
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.named_sql import Ladder, ladder
from stepwell.store.sql.queue_counts import KnownQueue, QueueCounts
from stepwell.store.sql.queue_facts import SqlFacts, to_json

_FOREVER: Final = 2**63 - 1


class Entries(QueueCounts):
    """Applies the changes of queues and limits on the writer's connection; see the module.

    `wake(run, at)` has whoever carries a run on look at it, `give(run, owner)` tells another worker that it is its own.
    """

    def __init__(
        self,
        connection: SqlConnection,
        sql: Statements,
        wake: Callable[[int, int], None],
        give: Callable[[int, int], None],
    ) -> None:
        super().__init__(connection, sql)
        self._enter: Ladder = ladder(sql["entered"], (64, 8, 1))
        self._wake, self._give = wake, give
        self._epoch = 0
        self._changed_bounds = False
        self.facts = SqlFacts(self._execute, sql, self.flush)
        self.handlers: dict[type, Callable[[Any], Any]] = {
            QueueDeclared: self._declared,
            QueueChanged: self._changed,
            QueueAdvanced: self._advanced,
            QueueTaken: self._taken,
            PermitAsked: self._permit_asked,
            PermitsGranted: self._permits_granted,
            PermitKept: self._permit_kept,
            PermitStarted: self._permit_started,
            PermitReturned: self._permit_returned,
            PermitDetached: self._permit_left,
            PermitFreed: self._permit_freed,
        }
        self._clear()

    def _clear(self) -> None:
        self._clear_counts()
        self._entering: list[tuple[int, str, Entered, int]] = []  # new runs, without places yet
        self._new: list[tuple[Any, ...]] = []
        self._new_keys: set[tuple[str, str] | tuple[int, int]] = set()  # for dedup; of permits
        self._first_due: dict[str, int] = {}
        self._over: dict[int, int] = {}  # runs that ended, and when
        self._returned: dict[tuple[int, int], PermitReturned] = {}

    def begin(self, epoch: int) -> None:
        """Forget what an earlier transaction left; the worker with `epoch` writes now."""
        self._epoch = epoch
        self._changed_bounds = False
        self.drop()

    @property
    def made_work(self) -> bool:
        """Whether other workers may find something to take that was not there before; ask at the end."""
        return self._changed_bounds or any(
            known.opened and (known.waiting or known.delayed) and not known.is_full and not known.paused
            for known in self._known.values()
        )

    def drop(self) -> None:
        """Forget what was gathered since the last flush, and what was known: the transaction was set back."""
        if self._dirty or self._known:
            self._clear()

    # --- queues ------------------------------------------------------------------------------------------------------

    def _declared(self, change: QueueDeclared) -> QueueSettings | None:
        stated = change.settings or QueueSettings()
        declared = to_json(stated)
        known = self._known.get(change.name)
        if known is None:
            known = next(map(KnownQueue, self._rows(self._sql["queue_known"], (change.name,))), None)
        if known is not None:
            if known.kind != change.kind:
                raise InvalidArgument(
                    f"{change.name!r} is a {known.kind} in this file, so it cannot be a {change.kind} as well; choose "
                    "another name"
                )
            if change.settings is None or known.declared == declared:
                return None
        self.flush()
        state = self.facts.state(change.name)
        before = None if state is None else state.settings
        settings = msgspec.structs.astuple(stated)
        self._execute(self._sql["queue_declared"], (change.name, change.kind, declared, *settings, change.at))
        if before != stated:
            self._rebound(change.name, stated)
        return None if before == stated else before

    def _changed(self, change: QueueChanged) -> None:
        self._queue(change.name)
        self.flush()
        if change.paused is not None:
            self._execute(self._sql["queue_paused"], (change.name, int(change.paused), change.at))
        if change.settings is not None:
            settings = msgspec.structs.astuple(change.settings)
            self._execute(self._sql["queue_changed"], (change.name, *settings, change.at))
            self._rebound(change.name, change.settings)
        self._known.pop(change.name, None)
        self._changed_bounds = True

    def _rebound(self, name: str, settings: QueueSettings) -> None:
        """Make what the file holds of a queue agree with new bounds."""
        self._execute(self._sql["lanes_bounded"], (name, settings.partition_concurrency))
        self._known.pop(name, None)
        if settings.partition_rate_limit is None:
            self._execute(self._sql["partition_starts_forgotten"], (name, _FOREVER))
        self._rate_again(name, self._rows(self._sql["partitions_with_starts"], (name,)))
        if settings.rate_limit is None:
            self._forget_starts(name, _FOREVER)
            self.flush()
        self._changed_bounds = True

    def _rate_again(self, queue: str, partitions: list[tuple[str]]) -> None:
        """Note anew until when these partitions are blocked; lanes that were kept for that are not needed any more."""
        if partitions:
            self._rate(queue, [partition for (partition,) in partitions])
            self._execute(self._sql["idle_lanes_deleted"])

    def _forget_starts(self, name: str, until: int) -> None:
        self._execute(self._sql["starts_forgotten"], (name, until))
        forgotten = self._connection.changes()
        if forgotten:
            self._touch(name).starts -= forgotten

    def _advanced(self, change: QueueAdvanced) -> None:
        self.flush()
        known = self._queue(change.queue)
        if known.starts and known.rate_per is not None:
            self._forget_starts(change.queue, change.at - known.rate_per)
        if known.partition_rate_per is not None:
            self._execute(self._sql["partition_starts_forgotten"], (change.queue, change.at - known.partition_rate_per))
            self._rate_again(change.queue, self._rows(self._sql["partitions_opening"], (change.queue, change.at)))
        if known.delayed:
            due = self._rows(self._sql["entries_due"], (change.queue, change.at, change.limit))
            self._begin_to_wait(change.queue, due)

    def _begin_to_wait(self, queue: str, entries: list[tuple[int, str, str]]) -> None:
        """Put delayed entries, given as (run, partition, workflow), at the ends of their lines."""
        if not entries:
            return
        known = self._touch(queue)
        self._execute(self._sql["entry_ready"], (to_json([(run, known.ticket()) for run, _, _ in entries]),))
        for _, partition, workflow in entries:
            self._count_waiting(queue, partition, workflow, 1)
        known.delayed -= len(entries)
        known.waiting += len(entries)

    def _taken(self, change: QueueTaken) -> list[int]:
        self.flush()
        runs = change.runs
        keys = to_json(runs)
        epoch = self._epoch if change.owner is None else change.owner
        self._execute(self._sql["queued_runs_taken"], (keys, change.at, epoch))
        if self._connection.changes() != len(runs):
            # Others left their places by other ways than their turn, and must not be counted.
            owned = self._owned(keys, epoch)
            runs = [run for run in runs if run in owned]
            keys = to_json(runs)
        known = self._touch(change.queue)
        for partition, workflow in self._rows(self._sql["entries_taken"], (keys,)):
            self._count_waiting(change.queue, partition, workflow, -1)
            self._count_busy(change.queue, partition, 1)
        known.waiting -= len(runs)
        known.running += len(runs)
        for partition in change.partitions:
            self._turns[change.queue, partition] = known.ticket()
        if known.rate_per is not None and runs:
            self._execute(self._sql["starts_logged"], (change.queue, change.at + change.spread, keys))
            known.starts += len(runs)
            known.last_start_at = max(known.last_start_at, change.at)
        if known.partition_rate is not None and runs:
            self._execute(self._sql["partition_starts_logged"], (change.queue, change.at + change.spread, keys))
            self._rated.setdefault(change.queue, set()).update(change.partitions)
            known.last_start_at = max(known.last_start_at, change.at)
        if change.owner is not None:
            for run in runs:
                self._give(run, change.owner)
        return runs

    def _owned(self, keys: str, epoch: int) -> set[int]:
        return {key for key, owner in self._rows(self._sql["owners"], (keys,)) if owner == epoch}

    # --- entering and leaving ----------------------------------------------------------------------------------------

    def find_dedup(self, entry: Entered) -> tuple[int, str, str, int | None] | None:
        """Return run, workflow, state and latest_at of the entry that has the dedup key, or None."""
        if (entry.queue, entry.dedup or "") in self._new_keys or self._over:
            self.flush()
        return next(iter(self._rows(self._sql["entry_of_dedup"], (entry.queue, entry.dedup))), None)

    def put_off(self, run: int, entry: Entered) -> None:
        """Move the start of a debounced entry, unless its time has come."""
        self._execute(self._sql["entry_put_off"], (run, entry.ready_at))

    def replace_input(self, run: int, payload: Any, fingerprint: int, at: int) -> None:
        """Give a run that has not been taken another input."""
        self._execute(self._sql["input_replaced"], (run, payload, fingerprint, at))

    def find_collecting(self, entry: Entered, workflow: str) -> tuple[int, int] | None:
        """Return the run that collects such starts, and how many items it has, or None."""
        if self._entering or self._new or self._over:
            self.flush()
        rows = self._rows(self._sql["entry_that_collects"], (entry.queue, workflow, entry.partition))
        return next(iter(rows), None)

    def collect(self, run: int, workflow: str, entry: Entered, payload: Any, items: int) -> None:
        """Give a run the input of a start; `items` is how many it had before, 0 for a run that has just entered."""
        self.flush()
        self._execute(self._sql["item_collected"], (run, payload))
        total = items + entry.count
        if entry.batch_size is not None and total >= entry.batch_size:
            self._begin_to_wait(entry.queue, [(run, entry.partition, workflow)])
        elif items:
            self._execute(self._sql["items_counted"], (run, total))

    def check_takes_runs(self, name: str) -> None:
        """Raise `QueueNotFound` for a queue that the file does not know, `InvalidArgument` for a limit."""
        known = self._known.get(name) or self._queue(name)
        if known.kind != "queue":
            raise InvalidArgument(f"{name!r} is a limit in this file; runs cannot wait in it")

    @property
    def entering(self) -> int:
        """How many new runs are to take their places with the next flush."""
        return len(self._entering)

    def stay_out(self, entering: int) -> None:
        """Forget those that came since there were so many `entering`."""
        del self._entering[entering:]

    def enter(self, run: int, workflow: str, entry: Entered, at: int) -> None:
        """Have a new run take its place in a queue with the next flush; `check_takes_runs` was asked."""
        self._dirty = True
        if entry.dedup is not None:
            self._new_keys.add((entry.queue, entry.dedup))
        self._entering.append((run, workflow, entry, at))

    def _take_places(self) -> None:
        """Give the new runs their places, in the order in which they came."""
        entering, self._entering = self._entering, []
        for run, workflow, entry, at in entering:
            queue, partition, ready_at = entry.queue, entry.partition, at
            known = self._touch(queue)
            items = None if entry.batch_size is None else entry.count
            if entry.ready_at is not None and (entry.ready_at > at or items is not None):
                ready_at = entry.ready_at
                known.delayed += 1
                self._first_due[queue] = min(ready_at, self._first_due.get(queue, ready_at))
                place, state = 0, "delayed"
            else:
                known.waiting += 1
                self._count_waiting(queue, partition, workflow, 1)
                place, state = known.ticket(), "waiting"
            self._new.append(
                (
                    *(run, 0, queue, partition, workflow, entry.priority, place, state, ready_at),
                    *(entry.dedup, entry.latest_at, items),
                )
            )

    def run_over(self, run: int, at: int) -> None:
        """Take what a run that ended at `at` has: its place in a queue, and its permits."""
        self._over[run] = at
        self._dirty = True

    def pause(self, run: int) -> None:
        """Leave a run that has not been taken where it stands in its queue, but do not let it be taken."""
        self.flush()
        ready_at = self._rows(self._sql["standing"], (run, 0))
        delayed = bool(ready_at) and ready_at[0][3] == "delayed"
        for queue, partition, workflow, _place in self._rows(self._sql["entry_paused"], (run,)):
            known = self._touch(queue)
            if delayed:
                known.delayed -= 1
            else:
                known.waiting -= 1
                self._count_waiting(queue, partition, workflow, -1)

    def unpause(self, run: int, at: int) -> None:
        """Let a run be taken again in its turn, or when its time has come."""
        self.flush()
        for queue, partition, workflow, place, ready_at in self._rows(self._sql["paused_entry"], (run,)):
            known = self._touch(queue)
            if ready_at > at:
                known.delayed += 1
                known.opened = True  # someone has to set a timer
                self._execute(self._sql["entry_unpaused"], (run, "delayed", 0))
            else:
                known.waiting += 1
                self._count_waiting(queue, partition, workflow, 1)
                self._execute(self._sql["entry_unpaused"], (run, "waiting", place or known.ticket()))

    def reschedule(self, run: int, ready_at: int, at: int) -> bool:
        """Move when a run that has not been taken begins to wait; tell whether there is one."""
        self.flush()
        found = self._rows(self._sql["standing"], (run, 0))
        if not found or found[0][3] == "running":
            return False
        queue, partition, workflow, state, *_ = found[0]
        known = self._touch(queue)
        if state == "paused" or (state == "delayed" and ready_at > at):
            self._execute(self._sql["entry_rescheduled"], (run, ready_at, state))
        elif state == "delayed":
            self._execute(self._sql["entry_rescheduled"], (run, ready_at, state))
            self._begin_to_wait(queue, [(run, partition, workflow)])
        elif ready_at > at:
            self._execute(self._sql["entry_rescheduled"], (run, ready_at, "delayed"))
            known.waiting -= 1
            known.delayed += 1
            self._count_waiting(queue, partition, workflow, -1)
        known.opened = True  # someone has to set a timer, or to take it
        return True

    def drop_permits(self, run: int, at: int) -> None:
        """Take the permits of a run that was stopped for the time being."""
        self.flush()
        for (op,) in self._rows(self._sql["operations_with_permits"], (run,)):
            self._permit_returned(PermitReturned(run, op, at, at))

    # --- permits -----------------------------------------------------------------------------------------------------

    def _permit_asked(self, change: PermitAsked) -> None:
        key = (change.run, change.op)
        if key in self._returned:
            self.flush()
        known = self._touch(change.limit)
        if key in self._new_keys or self._rows(self._sql["entry_exists"], key):
            return
        self._new_keys.add(key)
        self._new.append(
            (*key, change.limit, "", "", change.priority, known.ticket(), "waiting", change.at, None, None, None)
        )
        known.waiting += 1
        self._count_waiting(change.limit, "", "", 1)

    def _permits_granted(self, change: PermitsGranted) -> list[tuple[int, int]]:
        self.flush()
        known = self._touch(change.limit)
        is_rated = known.rate_per is not None
        self._execute(self._sql["permits_granted"], (to_json(change.permits), int(is_rated)))
        granted = self._connection.changes()
        known.waiting -= granted
        known.running += granted
        known.more_unconfirmed += granted if is_rated else 0
        self._count_waiting(change.limit, "", "", -granted)
        self._count_busy(change.limit, "", granted)
        runs = {run for run, _ in change.permits}
        owned = self._owned(to_json(sorted(runs)), self._epoch)
        for run in sorted(runs):
            # Those of this worker as well: should it die before it acts on the permit, the run is due.
            self._wake(run, change.at)
        return [permit for permit in change.permits if permit[0] in owned]

    def _permit_kept(self, change: PermitKept) -> None:
        self.flush()
        self._execute(self._sql["permit_kept"], (change.run, change.op, self._epoch))

    def _permit_started(self, change: PermitStarted) -> None:
        self.flush()
        for (limit,) in self._rows(self._sql["start_confirmed"], (change.run, change.op)):
            self._touch(limit).more_unconfirmed -= 1
            self._log_start(limit, change.run, change.op, change.started_at)

    def _permit_returned(self, change: PermitReturned) -> None:
        key = (change.run, change.op)
        if key in self._returned:
            self.flush()
        self._returned[key] = change
        self._dirty = True

    def _permit_left(self, change: PermitDetached) -> None:
        self.flush()
        for limit, start_unknown in self._rows(self._sql["permit_left"], (change.run, change.op, self._epoch)):
            self._execute(self._sql["left_permit_entered"], (self._epoch, change.run, change.op, change.attempt, limit))
            if start_unknown:
                self._touch(limit).more_unconfirmed -= 1
                self._log_start(limit, change.run, change.op, change.started_at)

    def _permit_freed(self, change: PermitFreed) -> None:
        self.flush()
        self._free(self._rows(self._sql["left_permit_freed"], (self._epoch, change.run, change.op, change.attempt)))

    def worker_over(self, epoch: int) -> None:
        """Free the permits that attempts of a worker were left with, which has ended."""
        self.flush()
        self._free(self._rows(self._sql["left_permits_of_worker_freed"], (epoch,)))

    def _free(self, rows: list[Any]) -> None:
        for (limit,) in rows:
            known = self._touch(limit)
            known.opened = known.opened or known.is_full
            known.running -= 1
            self._count_busy(limit, "", -1)

    def _log_start(self, limit: str, run: int, op: int, at: int) -> None:
        known = self._touch(limit)
        if known.rate_per is None:
            return
        self._execute(self._sql["start_logged"], (limit, at, run, op))
        if self._connection.changes():
            known.starts += 1
        known.last_start_at = max(known.last_start_at, at)

    # --- writing -----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was gathered."""
        if not self._dirty:
            return
        self._dirty = False
        if self._entering:
            self._take_places()
            self._dirty = False
        if self._new:
            self._insert()
        if self._over or self._returned:
            self._delete()
            self._dirty = False
        self._write_counts()

    def _insert(self) -> None:
        for queue, ready_at in self._first_due.items():  # someone has to set a timer
            ((first,),) = self._rows(self._sql["first_due"], (queue,))
            if first is None or ready_at < first:
                self._known[queue].opened = True
        self._first_due.clear()
        self._new_keys.clear()
        rows, self._new = self._new, []
        start, end = 0, len(rows)
        for size, statement in self._enter:
            while end - start >= size:
                self._execute(statement, list(chain.from_iterable(rows[start : start + size])))
                start += size

    def _delete(self) -> None:
        over, self._over = self._over, {}
        returned, self._returned = self._returned, {}
        gone: list[Any] = []
        if over:
            gone += self._rows(self._sql["entries_of_runs_left"], (to_json(list(over)),))
        if returned:
            gone += self._rows(self._sql["permits_left"], (to_json(list(returned)), self._epoch))
        for run, op, queue, partition, workflow, state, start_unknown in gone:
            known = self._touch(queue)
            if state == "running":
                known.opened = known.opened or known.is_full or known.bound is not None
                known.running -= 1
                self._count_busy(queue, partition, -1)
            elif state == "paused":
                pass  # it is not counted
            elif state == "waiting":
                known.waiting -= 1
                self._count_waiting(queue, partition, workflow, -1)
            else:
                known.delayed -= 1
            if start_unknown:
                known.more_unconfirmed -= 1
                change = returned.get((run, op))
                started_at = over.get(run) if change is None else change.started_at
                if started_at is not None:  # of an ended run nobody says when: not later than its end
                    self._log_start(queue, run, op, started_at)
