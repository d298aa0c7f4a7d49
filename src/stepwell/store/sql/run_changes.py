"""Applies changes: which SQL states which fact.

An `Applier` belongs to the writer's connection and is used inside one transaction at a time. Journal entries are
gathered and inserted many at a time by `flush`, everything else is executed as it comes. Changes that read entries
flush first, so the order between the two does not matter; the order among the entries is kept, for it is the order of
their positions.

Whom the changes concern in other processes is gathered in `Applier.after`, for whoever tells them after the commit.

Why entries are gathered (measured on 2 cores, 1,000 entries): apsw lets go of the GIL for each call of `sqlite3_step`.
Beside a thread that computes, each release can cost the interpreter's switch interval of 5 ms; `executemany` took 1.3
s, an insert of 256 rows takes one step. Without contention it is the fastest as well: 2.0 µs a row against 2.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final, NoReturn, TypeAlias

import msgspec
from msgspec.structs import astuple

from stepwell.errors import ClaimLost, RunNotFound, StepwellError, StoreError
from stepwell.model.journal import Entry
from stepwell.model.lifecycle import ENDED, IllegalTransition, Status, check_transition
from stepwell.model.run import RunRecord
from stepwell.store.changes import (
    CancelRequested,
    Change,
    ChildrenCancelled,
    RunFinished,
    RunMoved,
    RunResumed,
    RunRetried,
    Succeeded,
)
from stepwell.store.sql.acts import Acts
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.bulk_acts import BulkActs
from stepwell.store.sql.chapters import Chapters
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.creation import Creation
from stepwell.store.sql.descriptions import Descriptions
from stepwell.store.sql.forks import Forks
from stepwell.store.sql.messages import Messages
from stepwell.store.sql.named_sql import Ladder, ladder
from stepwell.store.sql.ownership import Ownership
from stepwell.store.sql.part import Part
from stepwell.store.sql.pauses import Pauses
from stepwell.store.sql.progress import ProgressChanges
from stepwell.store.sql.promises import Promises
from stepwell.store.sql.queue_changes import Entries
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.records import record_of
from stepwell.store.sql.retries import Retries
from stepwell.store.sql.schedules import Schedules
from stepwell.store.sql.settlements import Settlements
from stepwell.store.sql.streams import Streams
from stepwell.store.sql.successors import Successors
from stepwell.store.sql.unit_facts import SqlUnitFacts
from stepwell.store.store import Unit
from stepwell.store.streams import StreamWritten

#: What ties a run that ends to others: the columns of `run_ties`.
Ties: TypeAlias = Sequence[Any]

_ENTRY_FIELDS: Final = 9  # without the position, which the file assigns
#: The states in which a run is in the memory of its owner.
_IN_MEMORY: Final[frozenset[Status]] = frozenset({"running", "waiting"})


class Applier(Part):
    """Applies changes on a connection; see the module."""

    def __init__(self, connection: SqlConnection, sql: Statements) -> None:
        super().__init__(connection, sql, Aftermath())
        self._append: Ladder = ladder(sql["entry_appended"], (256, 32, 4, 1))
        self._entries: list[tuple[Any, ...]] = []
        self._ties: dict[int, Ties] = {}
        self._told: list[tuple[Any, ...]] = []
        self._ownership = Ownership(connection, sql, self._after, self.flush)
        self._messages = Messages(connection, sql, self._after, self._ownership.wake_known)
        self.entries = Entries(connection, sql, self._ownership.wake, self._ownership.give)
        descriptions = Descriptions(connection, sql, self._after)
        self._streams = streams = Streams(connection, sql, self._after, self._lost)
        progress = ProgressChanges(connection, sql, self._after)
        self.acts = Acts(connection, sql)
        promises = Promises(connection, sql, self._after, self._ownership.wake_known, self.acts.record)
        self._retries = Retries(connection, sql, self.entries, streams, promises, progress)
        chapters = Chapters(
            connection,
            sql,
            self._after,
            self.flush,
            lambda run: self._refuse(run, "running"),
            self._retries,
            streams,
            promises,
            progress,
            self._apply_one,
        )
        self._successors = Successors(
            connection, sql, self._after, self.entries, chapters.begin, self._apply_one, promises.withdraw
        )
        self.creation = Creation(
            connection, sql, self._after, self.entries, self._successors, self._tell, descriptions.write
        )
        bulk = BulkActs(connection, sql, self._after, self._apply_one, self.flush)
        self._pauses = Pauses(connection, sql, self._after, self._ownership, self.entries, self.acts.record)
        self._schedules = Schedules(connection, sql, self._after)
        self._facts = SqlUnitFacts(self._execute, sql, self.entries.flush)
        #: What applies each type of change and returns its result.
        self.handlers: dict[type, Callable[[Any], Any]] = {
            RunMoved: self._run_moved,
            RunResumed: self._run_resumed,
            RunFinished: self._run_finished,
            RunRetried: self._run_retried,
            CancelRequested: self._cancel_requested,
            ChildrenCancelled: self._children_cancelled,
        }
        parts = (
            self.creation,
            self._ownership,
            self._messages,
            descriptions,
            self.entries,
            self.acts,
            chapters,
            Forks(connection, sql, self._after, self.flush, self._retries),
            Settlements(connection, sql, self._after),
            self._pauses,
            self._schedules,
            bulk,
            streams,
            promises,
            progress,
        )
        for part in parts:
            self.handlers.update(part.handlers)

    def _apply_one(self, change: Change) -> Any:
        """Apply a change that another one is made of."""
        return self.handlers[type(change)](change)

    @property
    def after(self) -> Aftermath:
        """What the transaction means for others, and what proves it."""
        return self._after

    def begin(self, epoch: int) -> None:
        """Forget what an earlier transaction left; the worker with `epoch` writes now."""
        self._after.begin(epoch)
        self._entries = []
        self._ties = {}
        self._streams.drop()
        self.entries.begin(epoch)
        self.creation.forget()

    def drop_entries(self) -> None:
        """Forget the entries gathered since the last flush; their unit was refused."""
        self._entries, self._told, self._ties = [], [], {}
        self.entries.drop()
        self._streams.drop()
        self.creation.forget()

    def apply(self, changes: Sequence[Change]) -> list[Any]:
        """Apply changes in order and return their results. Entries become rows with the next `flush`."""
        if len(changes) == 1 and type(changes[0]) is Entry:  # the commonest unit of all: a step of a run that goes on
            self._entries.append(astuple(changes[0])[:_ENTRY_FIELDS])
            return [None]
        results: list[Any] = []
        for change in changes:
            if type(change) is Entry:
                self._entries.append(astuple(change)[:_ENTRY_FIELDS])
                results.append(None)
            else:
                if self._ties and type(change) is not RunFinished:  # which may tie runs to something
                    self._ties = {}
                if self._streams.gathered and type(change) is not StreamWritten:
                    self._streams.flush()
                results.append(self.handlers[type(change)](change))
        if self._told:  # last: it is delivered after the commit, when all others of the unit have been
            self._entries += self._told
            self._told = []
        return results

    def expect_ends(self, keys: list[int]) -> None:
        """Ask once what ties the runs with these keys, which the changes to come will end; see `_ties_of`."""
        rows: list[Ties] = msgspec.json.decode(self._row("runs_ties", to_json(keys))[0])
        self._ties = {run: ties for run, *ties in rows}

    def _ties_of(self, run: int) -> Ties | None:
        """Return what ties a run to others, as `run_ties` says it.

        Asked for one by one it takes 3.3 us a run, for all ends of a batch at once 0.8. (To end many by one UPDATE does
        not pay: 3.5 us a run alone, 6 to 9 among 64 to 250, whose values SQLite puts into a table first.) What was
        asked holds until something else than an end or an entry is applied, or somebody is woken.
        """
        ties = self._ties.pop(run, None) if self._ties else None
        found: Ties | None = self._row("run_ties", run) if ties is None else ties
        return found

    def apply_unit(self, unit: Unit) -> list[Any]:
        """Apply a unit's changes, then those that it decides on; return the results of all."""
        results = self.apply(unit.changes)
        if unit.decide is not None:
            results += self.apply(unit.decide(self._facts))
        return results

    def flush(self) -> None:
        """Insert the gathered entries, of the journal and of queues, and items of streams."""
        self.entries.flush()
        if self._streams.gathered:
            self._streams.flush()
        rows = self._entries
        if not rows:
            return
        self._entries = []
        start, end = 0, len(rows)
        for size, statement in self._append:
            while end - start >= size:
                self._execute(statement, list(chain.from_iterable(rows[start : start + size])))
                start += size
        run, op, kind, _, _, at, *_ = rows[-1]
        self._after.evidence = self._sql["evidence_of_entry"], (self._connection.last_insert_rowid(), run, op, kind, at)

    def _tell(self, entry: Entry) -> None:
        self._told.append(astuple(entry)[:_ENTRY_FIELDS])

    # --- runs
    # ----------------------------------------------------------------------------------------------------------

    def _run_moved(self, change: RunMoved) -> None:
        if change.status in ENDED:
            raise IllegalTransition(
                f"run {change.run} cannot be moved to {change.status!r}: that is what RunFinished does"
            )
        owner = self._after.epoch if change.status in _IN_MEMORY else None
        parameters = (change.run, change.status, change.at, change.wake_at, change.waiting_on, self._after.epoch)
        if owner is not None and change.reason is None:
            self._execute(self._sql["run_moved_by_owner"], parameters)
            if self._connection.changes():
                return
        self._execute(self._sql["run_moved"], (*parameters, owner, change.reason, change.failure, change.remedy))
        if not self._connection.changes():
            self._refuse(change.run, change.status)
        if owner is None:
            self._execute(self._sql["wake_deleted"], (change.run,))
            self.entries.drop_permits(change.run, change.at)
            self._after.ended.append(change.run)
            self._after.made_work = True

    def _run_resumed(self, change: RunResumed) -> None:
        self.flush()
        self._execute(self._sql["run_resumed"], (change.run, change.at, change.reason))
        if self._connection.changes():
            self._after.made_work = True

    def _run_finished(self, change: RunFinished) -> list[int] | Succeeded:
        if change.status not in ENDED:
            raise IllegalTransition(f"run {change.run} cannot finish as {change.status!r}")
        ties = self._ties_of(change.run)
        self._execute(
            self._sql["run_finished"],
            (
                *(change.run, change.status, change.at, change.result, change.error, change.reason, self._after.epoch),
                int(change.unstarted),
            ),
        )
        if ties is None or not self._connection.changes():
            self._refuse(change.run, change.status, unstarted=change.unstarted)
        parent, has_messages, is_watched, has_news, is_suspect, has_entries, is_awaited, is_followed = ties
        if is_followed and (succeeded := self._succeed(change, has_entries=has_entries)) is not None:
            return succeeded
        self._after.ended.append(change.run)
        if has_messages and change.status == "completed":
            self._execute(self._sql["unreceived_messages_deleted"], (change.run,))
            self._messages.forget_evidence()
        if has_news:
            self._execute(self._sql["wake_deleted"], (change.run,))
        if has_entries:
            if change.status != "completed":
                self._retries.keep_place(change.run)
            self.entries.run_over(change.run, change.at)
        if is_awaited:
            self._schedules.run_over(change.run)
        if is_suspect:  # the next one may be taken up now
            self._after.made_work = True
        watchers: set[int] = set()
        if is_watched:
            watchers.update(watcher for (watcher,) in self._execute(self._sql["watchers"], (change.run,)))
            self._execute(self._sql["watchers_removed"], (change.run,))
        if parent is not None:
            watchers.add(parent)
        for watcher in watchers:
            self._ties = {}
            self._ownership.wake(watcher, change.at)
        return sorted(watchers)

    def _succeed(self, change: RunFinished, *, has_entries: bool) -> Succeeded | None:
        """Have another start of its id follow a run that has ended."""
        self._execute(self._sql["wake_deleted"], (change.run,))
        if has_entries:
            self.entries.run_over(change.run, change.at)
        self._ties = {}
        return self._successors.succeed(change.run, change.at)

    def _run_retried(self, change: RunRetried) -> None:
        self.flush()
        self._retries.bring_back(change)
        self._after.made_work = True

    def _cancel_requested(self, change: CancelRequested) -> RunRecord:
        if (row := self._row("run_facts", change.run_id)) is not None:
            self._pauses.unpause([record_of(row)], change.at)
        parameters = (change.run_id, change.at, change.reason, self._after.epoch)
        rows = self._execute(self._sql["cancel_requested"], parameters).fetchall()
        row = rows[0] if rows else self._row("run_by_id", change.run_id)
        if row is None:
            raise RunNotFound(f"no run has the id {change.run_id!r}: it was never started, or has been purged")
        record = record_of(row)
        if record.cancel_requested_at is not None:  # the id as a whole is meant
            self._successors.give_up(record.key)
        self._ownership.tell_owner(record.key, record.status, record.owner)
        return record

    def _children_cancelled(self, change: ChildrenCancelled) -> list[int]:
        self._pauses.unpause_children(change.parent, change.at)
        parameters = (change.parent, change.at, change.reason, self._after.epoch)
        rows: list[Any] = self._execute(self._sql["children_cancelled"], parameters).fetchall()
        if rows:
            self._successors.give_up_children(change.parent)
        for key, status, owner in rows:
            self._ownership.tell_owner(key, status, owner)
        return sorted(key for key, _, _ in rows)

    def _lost(self, run: int) -> Exception:
        """Return why a run is not this worker's."""
        try:
            self._refuse(run, "running")
        except StepwellError as error:
            return error

    def _refuse(self, run: int, target: Status, *, unstarted: bool = False) -> NoReturn:
        """Raise the reason for which a run could not be moved to `target` by this worker."""
        state = self._row("run_state", run)
        if state is None:
            raise RunNotFound(f"no run has the key {run}: it was never started, or has been purged")
        run_id, status, owner = state
        if status in ENDED:
            raise ClaimLost(f"run {run_id!r} has ended as {status!r}; what this worker holds of it is stale")
        if owner is not None and owner != self._after.epoch:
            raise ClaimLost(
                f"run {run_id!r} belongs to worker {owner} now, not to worker {self._after.epoch}, "
                "whose view of it is stale"
            )
        check_transition(run_id, status, target)
        if unstarted:
            raise ClaimLost(
                f"run {run_id!r} has begun meanwhile; worker {self._after.epoch} held it for one that had not"
            )
        raise StoreError(f"run {run_id!r} could not be moved from {status!r} to {target!r}")
