"""Applies changes: which SQL states which fact.

An `Applier` belongs to the writer's connection and is used inside one transaction at a time. Journal entries are
gathered and inserted many at a time by `flush`, everything else is executed as it comes. Changes that read entries
flush first, so the order between the two does not matter; the order among the entries is kept, for it is the order of
their positions.

Whom the changes concern in other processes is gathered in `Applier.told`, `ended`, `made_work` and `made_turn`, for
`notifier` after the commit. What a refused unit left there stays: to be told too much is harmless.

Why entries are gathered (measured on 2 cores, 1,000 entries): apsw lets go of the GIL for each call of `sqlite3_step`.
Beside a thread that computes, each release can cost the interpreter's switch interval of 5 ms; `executemany` took 1.3
s, an insert of 256 rows takes one step. Without contention it is the fastest as well: 2.0 µs a row against 2.5.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final, NoReturn, TypeAlias

import apsw
import msgspec
from msgspec.structs import astuple

from stepwell.errors import ClaimLost, RunConflict, RunEnded, RunNotFound, StoreError
from stepwell.model.journal import Entry
from stepwell.model.lifecycle import ENDED, IllegalTransition, Status, check_transition
from stepwell.model.run import RunRecord
from stepwell.store.changes import (
    CancelRequested,
    Change,
    ChildrenCancelled,
    Created,
    Joined,
    MessageSent,
    MessageTaken,
    NotesTaken,
    RunCreated,
    RunFinished,
    RunMoved,
    RunResumed,
    RunRetried,
    RunsClaimed,
    RunsReleased,
    RunWoken,
    Sent,
    ValuePublished,
    WatchAdded,
    WorkerServes,
    WorkTaken,
)
from stepwell.store.queues import Entered
from stepwell.store.sql.acts import Acts
from stepwell.store.sql.named_sql import Ladder, ladder, load
from stepwell.store.sql.queue_changes import QUEUED_RUN_CREATED, Entries
from stepwell.store.sql.retries import Retries
from stepwell.store.store import Unit

_SQL: Final = load("queries_write.sql")
_ATTACHED: Final = RunRecord.__struct_fields__.index("attached")  # a truth value, which SQLite keeps as 0 or 1
_QUEUED: Final = RunRecord.__struct_fields__.index("queued")  # as above, and so are the two last
_RESUMED: Final = RunRecord.__struct_fields__.index("resumed")
_ENTRY_FIELDS: Final = 9  # without the position, which the file assigns
_APPEND: Final[Ladder] = ladder(_SQL["entry_appended"], (256, 32, 4, 1))
_RUN_CREATED: Final = _SQL["run_created"]
_RUN_MOVED: Final = _SQL["run_moved"]
_RUN_MOVED_BY_OWNER: Final = _SQL["run_moved_by_owner"]
_RUN_FINISHED: Final = _SQL["run_finished"]
_RUN_TIES: Final = _SQL["run_ties"]
_RUN_STATE: Final = _SQL["run_state"]
_RUN_MADE_DUE: Final = _SQL["run_made_due"]
#: The states in which a run is in the memory of its owner.
_RESIDENT: Final[frozenset[Status]] = frozenset({"running", "waiting"})

#: A query and its parameters that yield a row if, and only if, the transaction was committed.
Evidence: TypeAlias = tuple[str, tuple[Any, ...]]


def record_of(row: Sequence[Any]) -> RunRecord:
    """Return the record for a row whose columns are the fields of `RunRecord` in order."""
    fields = list(row)
    fields[_ATTACHED] = fields[_ATTACHED] != 0
    fields[_QUEUED] = fields[_QUEUED] != 0
    fields[_RESUMED:] = [flag != 0 for flag in fields[_RESUMED:]]
    return RunRecord(*fields)


class Applier:
    """Applies changes on a connection; see the module."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute
        self._epoch = 0
        self._entries: list[tuple[Any, ...]] = []
        self._told: list[tuple[Any, ...]] = []
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
        #: What applies each type of change and returns its result. Parts of the store add to it.
        self.handlers: dict[type, Callable[[Any], Any]] = {
            RunCreated: self._run_created,
            RunMoved: self._run_moved,
            RunResumed: self._run_resumed,
            RunFinished: self._run_finished,
            RunsClaimed: self._runs_claimed,
            WorkTaken: self._work_taken,
            RunsReleased: self._runs_released,
            NotesTaken: self._news_taken,
            WorkerServes: self._worker_serves,
            RunWoken: self._run_woken,
            CancelRequested: self._cancel_requested,
            ChildrenCancelled: self._children_cancelled,
            MessageSent: self._message_sent,
            MessageTaken: self._message_taken,
            ValuePublished: self._value_published,
            WatchAdded: self._watch_added,
        }
        self.entries = Entries(connection, self.wake)
        self.handlers.update(self.entries.handlers)
        self.handlers[RunRetried] = self._run_retried
        self._retries = Retries(connection, self.entries)
        self.acts = Acts(connection)
        self.handlers.update(self.acts.handlers)

    def begin(self, epoch: int) -> None:
        """Forget what an earlier transaction left; the worker with `epoch` writes now."""
        self._epoch = epoch
        self._entries = []
        self.evidence = None
        self.entries.begin(epoch)
        self.made_turn = False
        if self.told or self.ended or self.made_work:
            self.told, self.ended, self.made_work = set(), [], False

    def drop_entries(self) -> None:
        """Forget the entries gathered since the last flush; their unit was refused."""
        self._entries, self._told = [], []
        self.entries.drop()

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
                results.append(self.handlers[type(change)](change))
        if self._told:  # last: it is delivered after the commit, when all others of the unit have been
            self._entries += self._told
            self._told = []
        return results

    def apply_unit(self, unit: Unit) -> list[Any]:
        """Apply a unit's changes, then those that it decides on; return the results of all."""
        results = self.apply(unit.changes)
        if unit.decide is not None:
            results += self.apply(unit.decide(self.entries.facts))
        return results

    def flush(self) -> None:
        """Insert the gathered entries, of the journal and of queues."""
        self.entries.flush()
        rows = self._entries
        if not rows:
            return
        self._entries = []
        start, end = 0, len(rows)
        for size, statement in _APPEND:
            while end - start >= size:
                self._execute(statement, list(chain.from_iterable(rows[start : start + size])))
                start += size
        run, op, kind, _, _, at, *_ = rows[-1]
        self.evidence = _SQL["evidence_of_entry"], (self._connection.last_insert_rowid(), run, op, kind, at)

    # --- runs
    # ----------------------------------------------------------------------------------------------------------

    def _run_created(self, change: RunCreated) -> Created:
        created = self._create(change) if change.entry is None else self._create_queued(change, change.entry)
        if change.told is not None and not created.refused:
            run_id = change.id if created.existing is None else created.existing.id
            told = msgspec.structs.replace(change.told, value=_json(run_id))
            self._told.append(astuple(told)[:_ENTRY_FIELDS])
        return created

    def _create_queued(self, change: RunCreated, entry: Entered) -> Created:
        """Create a run that stands in a queue, or find the one that takes its place."""
        existing = self._row(_SQL["run_record_by_id"], (change.id,))
        if existing is not None:
            return self._existing(change, record_of(existing))
        found: tuple[int, Joined] | None = None
        if entry.batch_size is not None:
            collecting = self.entries.find_collecting(entry, change.workflow)
            if collecting is not None:
                self.entries.collect(collecting[0], change.workflow, entry, change.input, collecting[1])
                found = collecting[0], "batched"
        elif entry.dedup is not None and (holder := self.entries.find_dedup(entry)) is not None:
            run, workflow, state, latest_at = holder
            found = run, "attached"
            if latest_at is not None and workflow == change.workflow:
                self.entries.replace_input(run, change.input, change.fingerprint, change.at)
                if state == "delayed":
                    self.entries.put_off(run, entry)
                found = run, "debounced"
        if found is not None:
            record = record_of(self._row(_SQL["run_record_by_key"], (found[0],)))
            refused = record.workflow != change.workflow or (found[1] == "attached" and not entry.attach)
            return Created(record.key, record, found[1], refused)
        key = self._insert_queued(change, entry)
        self.evidence = _SQL["evidence_of_run"], (key, change.id)
        return Created(key)

    def _insert_queued(self, change: RunCreated, entry: Entered) -> int:
        collects = entry.batch_size is not None
        self._execute(
            QUEUED_RUN_CREATED,
            (
                *(change.id, change.workflow, None if collects else change.input, change.fingerprint, change.at),
                *(change.reason, change.deadline_at, change.parent, change.parent_op, int(change.attached)),
                entry.queue,
                change.ahead,
            ),
        )
        key = self._connection.last_insert_rowid()
        if change.deadline_at is not None and not self._row(_SQL["earlier_deadline"], (change.deadline_at, key)):
            self.made_work = True  # whoever knows of an earlier one looks at that time, and then finds this one
        self.entries.enter(key, change.workflow, entry, change.at)
        if collects:
            self.entries.collect(key, change.workflow, entry, change.input, 0)
        return key

    def _create(self, change: RunCreated) -> Created:
        if change.status not in ("pending", "running"):
            raise IllegalTransition(f"run {change.id!r} cannot begin as {change.status!r}")
        owner = self._epoch if change.status == "running" else None
        self._execute(
            _RUN_CREATED,
            (
                *(change.id, change.workflow, change.status, change.input, change.fingerprint, change.at),
                *(change.reason, owner, change.deadline_at, change.parent, change.parent_op, int(change.attached)),
                change.ahead,
            ),
        )
        if self._connection.changes():
            key = self._connection.last_insert_rowid()
            self.evidence = _SQL["evidence_of_run"], (key, change.id)
            if owner is None:
                self.made_work = True
            return Created(key)
        return self._existing(change, record_of(self._row(_SQL["run_record_by_id"], (change.id,))))

    def _existing(self, change: RunCreated, existing: RunRecord) -> Created:
        if change.must_be_new:
            raise RunConflict(
                f"there is a run {change.id!r} already (of {existing.workflow}, {existing.status}): another worker was "
                "faster. Look at it, and start what is needed once more"
            )
        refused = existing.workflow != change.workflow or existing.fingerprint != change.fingerprint
        return Created(existing.key, existing, refused=refused)

    def _run_moved(self, change: RunMoved) -> None:
        if change.status in ENDED:
            raise IllegalTransition(
                f"run {change.run} cannot be moved to {change.status!r}: that is what RunFinished does"
            )
        owner = self._epoch if change.status in _RESIDENT else None
        parameters = (change.run, change.status, change.at, change.wake_at, change.waiting_on, self._epoch)
        if owner is not None and change.reason is None:
            self._execute(_RUN_MOVED_BY_OWNER, parameters)
            if self._connection.changes():
                return
        self._execute(_RUN_MOVED, (*parameters, owner, change.reason, change.failure, change.remedy))
        if not self._connection.changes():
            self._refuse(change.run, change.status)
        if owner is None:
            self._execute(_SQL["wake_deleted"], (change.run,))
            self.entries.drop_permits(change.run, change.at)
            self.ended.append(change.run)
            self.made_work = True

    def _run_resumed(self, change: RunResumed) -> None:
        self.flush()
        self._execute(_SQL["run_resumed"], (change.run, change.at, change.reason))
        if self._connection.changes():
            self.made_work = True

    def _run_finished(self, change: RunFinished) -> list[int]:
        if change.status not in ENDED:
            raise IllegalTransition(f"run {change.run} cannot finish as {change.status!r}")
        ties = self._row(_RUN_TIES, (change.run,))
        self._execute(
            _RUN_FINISHED,
            (
                *(change.run, change.status, change.at, change.result, change.error, change.reason, self._epoch),
                int(change.unstarted),
            ),
        )
        if not self._connection.changes():
            self._refuse(change.run, change.status, unstarted=change.unstarted)
        parent, has_messages, is_watched, has_news, is_suspect, has_entries = ties
        self.ended.append(change.run)
        if has_messages and change.status == "completed":
            self._execute(_SQL["unreceived_messages_deleted"], (change.run,))
            self._forget_message_evidence()
        if has_news:
            self._execute(_SQL["wake_deleted"], (change.run,))
        if has_entries:
            if change.status != "completed":
                self._retries.keep_place(change.run)
            self.entries.run_over(change.run, change.at)
        if is_suspect:  # the next one may be taken up now
            self.made_work = True
        watchers: set[int] = set()
        if is_watched:
            watchers.update(watcher for (watcher,) in self._execute(_SQL["watchers"], (change.run,)))
            self._execute(_SQL["watchers_removed"], (change.run,))
        if parent is not None:
            watchers.add(parent)
        for watcher in watchers:
            self.wake(watcher, change.at)
        return sorted(watchers)

    def _run_retried(self, change: RunRetried) -> None:
        self.flush()
        self._retries.bring_back(change)
        self.made_work = True

    def _cancel_requested(self, change: CancelRequested) -> RunRecord:
        parameters = (change.run_id, change.at, change.reason, self._epoch)
        rows = self._execute(_SQL["cancel_requested"], parameters).fetchall()
        row = rows[0] if rows else self._row(_SQL["run_record_by_id"], (change.run_id,))
        if row is None:
            raise RunNotFound(f"no run has the id {change.run_id!r}: it was never started, or has been purged")
        record = record_of(row)
        self._tell_owner(record.key, record.status, record.owner)
        return record

    def _children_cancelled(self, change: ChildrenCancelled) -> list[int]:
        parameters = (change.parent, change.at, change.reason, self._epoch)
        rows: list[Any] = self._execute(_SQL["children_cancelled"], parameters).fetchall()
        for key, status, owner in rows:
            self._tell_owner(key, status, owner)
        return sorted(key for key, _, _ in rows)

    def _refuse(self, run: int, target: Status, *, unstarted: bool = False) -> NoReturn:
        """Raise the reason for which a run could not be moved to `target` by this worker."""
        state = self._row(_RUN_STATE, (run,))
        if state is None:
            raise RunNotFound(f"no run has the key {run}: it was never started, or has been purged")
        run_id, status, owner = state
        if status in ENDED:
            raise ClaimLost(f"run {run_id!r} has ended as {status!r}; what this worker holds of it is stale")
        if owner is not None and owner != self._epoch:
            raise ClaimLost(
                f"run {run_id!r} belongs to worker {owner} now, not to worker {self._epoch}, whose view of it is stale"
            )
        check_transition(run_id, status, target)
        if unstarted:
            raise ClaimLost(f"run {run_id!r} has begun meanwhile; worker {self._epoch} held it for one that had not")
        raise StoreError(f"run {run_id!r} could not be moved from {status!r} to {target!r}")

    # --- owners
    # --------------------------------------------------------------------------------------------------------

    def _runs_claimed(self, change: RunsClaimed) -> list[int]:
        self._claim(change.keys, change.at)
        owned = set(self._keys("runs_owned", _json(change.keys), self._epoch))
        return [key for key in dict.fromkeys(change.keys) if key in owned]

    def _work_taken(self, change: WorkTaken) -> list[int]:
        if change.limit <= 0:
            return []
        self.flush()
        at, limit, workflows = change.at, change.limit, list(dict.fromkeys(change.workflows))
        wanted = _json(workflows)
        due: list[tuple[int, int]] = [
            (wake_at, key) for workflow in workflows for wake_at, key in self._keys("due", workflow, at, limit)
        ]
        due_suspect = self._row(_SQL["suspect_due"], (wanted, at))
        if due_suspect is not None:
            due.append(due_suspect)
        keys = [key for _, key in sorted(due)[:limit]]
        if len(keys) < limit:
            pending = [key for workflow in workflows for key in self._keys("pending", workflow, limit)]
            if due_suspect is None and (suspect := self._row(_SQL["suspect_pending"], (wanted,))) is not None:
                pending += suspect
            keys += sorted(pending)[: limit - len(keys)]
        if keys:
            self._claim(keys, at)
        return keys

    def _claim(self, keys: list[int], at: int) -> None:
        self._execute(_SQL["runs_claimed"], (_json(keys), at, self._epoch))

    def _runs_released(self, change: RunsReleased) -> list[int]:
        self.flush()
        wanted = _json(change.keys)
        self._execute(_SQL["runs_released"], (wanted, self._epoch))
        kept = set(self._keys("runs_with_news", wanted, self._epoch))
        return [key for key in dict.fromkeys(change.keys) if key in kept] if kept else []

    def _news_taken(self, change: NotesTaken) -> None:
        wanted = _json(change.keys)
        self._execute(_SQL["wakes_taken"], (wanted, self._epoch))
        self._execute(_SQL["news_made_due"], (wanted, self._epoch))

    def _worker_serves(self, change: WorkerServes) -> None:
        self._execute(_SQL["worker_serves"], (self._epoch, _json(change.workflows)))

    def _run_woken(self, change: RunWoken) -> None:
        self.wake(change.run, change.at)

    def wake(self, run: int, at: int) -> None:
        """Have whoever carries a run on look at it; see `RunWoken`."""
        state = self._row(_RUN_STATE, (run,))
        if state is not None:
            self._wake_known(run, state[1], state[2], at)

    def _wake_known(self, run: int, status: Status, owner: int | None, at: int) -> None:
        if owner is not None and owner != self._epoch:
            self._tell_owner(run, status, owner)
        elif status == "waiting":
            self._execute(_RUN_MADE_DUE, (run, at))
            if owner is None and self._connection.changes():
                self.made_work = True

    def _tell_owner(self, run: int, status: Status, owner: int | None) -> None:
        """Leave a note for another worker that has the run in memory. A waiting run without an owner is due by now."""
        if owner is None:
            self.made_work = self.made_work or status == "waiting"
        elif owner != self._epoch:
            self._execute(_SQL["wake_noted"], (run,))
            if self._connection.changes():  # else the owner has not yet read the note that is there
                self.told.add(owner)

    # --- messages, values, watches
    # --------------------------------------------------------------------------------------

    def _message_sent(self, change: MessageSent) -> Sent:
        state = self._row(_SQL["run_state_by_id"], (change.run_id,))
        if state is None:
            raise RunNotFound(f"no run has the id {change.run_id!r}; start it first, or send in the same transaction")
        run, status, owner = state
        if status in ENDED:
            if change.key is not None and self._row(_SQL["message_key_seen"], (run, change.key)):
                return Sent(run, status, 0)
            raise RunEnded(
                f"run {change.run_id!r} has ended ({status}); message {change.name!r} cannot be received any more"
            )
        self._execute(_SQL["message_sent"], (run, change.name, change.value, change.key, change.at, self._epoch))
        if not self._connection.changes():
            return Sent(run, status, 0, owner)
        position = self._connection.last_insert_rowid()
        if self.evidence is None:
            self.evidence = _SQL["evidence_of_message"], (position, run, change.at)
        self._wake_known(run, status, owner, change.at)
        return Sent(run, status, position, owner)

    def _message_taken(self, change: MessageTaken) -> None:
        self._forget_message_evidence()
        self._execute(_SQL["message_taken"], (change.run, change.position))
        if self._connection.changes():
            return
        self._execute(_SQL["keyed_message_taken"], (change.run, change.position, change.at))
        if not self._connection.changes():
            raise StoreError(f"run {change.run} has no unreceived message at position {change.position}")

    def _value_published(self, change: ValuePublished) -> None:
        self._execute(_SQL["value_published"], (change.run, change.key, change.value, change.at))
        self.ended.append(change.run)

    def _watch_added(self, change: WatchAdded) -> Status:
        state = self._row(_RUN_STATE, (change.run,))
        if state is None:
            raise RunNotFound(f"no run has the key {change.run}: it was never started, or has been purged")
        status: Status = state[1]
        if status not in ENDED:
            self._execute(_SQL["watch_added"], (change.run, change.watcher))
        return status

    def _forget_message_evidence(self) -> None:
        # The message may be deleted again in the same transaction, and then proves nothing.
        if self.evidence is not None and self.evidence[0] is _SQL["evidence_of_message"]:
            self.evidence = None

    def _row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        return next(iter(self._execute(statement, parameters).fetchall()), None)

    def _keys(self, name: str, *parameters: Any) -> Any:
        """Return what a query that yields one JSON array found."""
        return msgspec.json.decode(self._row(_SQL[name], parameters)[0])


def _json(values: Sequence[Any]) -> str:
    return msgspec.json.encode(values).decode()
