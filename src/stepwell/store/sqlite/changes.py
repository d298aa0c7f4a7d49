"""Applies changes: which SQL states which fact.

An `Applier` belongs to the writer's connection and is used inside one transaction at a time. Journal entries are
gathered and inserted many at a time by `flush`, everything else is executed as it comes. No change reads entries, so
the order between the two does not matter; the order among the entries is kept, for it is the order of their positions.

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
from msgspec.structs import astuple

from stepwell.errors import ClaimLost, RunEnded, RunNotFound, StoreError
from stepwell.journal import Entry
from stepwell.lifecycle import ENDED, IllegalTransition, Status, check_transition
from stepwell.model import RunRecord
from stepwell.store.base import (
    CancelRequested,
    Change,
    ChildrenCancelled,
    Created,
    MessageSent,
    MessageTaken,
    RunCreated,
    RunFinished,
    RunMoved,
    RunWoken,
    Sent,
    ValuePublished,
    WatchAdded,
)
from stepwell.store.sqlite.queries import Ladder, ladder, load

_SQL: Final = load("queries_write.sql")
_ATTACHED: Final = RunRecord.__struct_fields__.index("attached")  # a truth value, which SQLite keeps as 0 or 1
_ENTRY_FIELDS: Final = 9  # without the position, which the file assigns
_APPEND: Final[Ladder] = ladder(_SQL["entry_appended"], (256, 32, 4, 1))
_RUN_CREATED: Final = _SQL["run_created"]
_RUN_MOVED: Final = _SQL["run_moved"]
_RUN_FINISHED: Final = _SQL["run_finished"]
_RUN_TIES: Final = _SQL["run_ties"]
_RUN_WOKEN: Final = _SQL["run_woken"]

#: A query and its parameters that yield a row if, and only if, the transaction was committed.
Evidence: TypeAlias = tuple[str, tuple[Any, ...]]


def record_of(row: Sequence[Any]) -> RunRecord:
    """Return the record for a row whose columns are the fields of `RunRecord` in order."""
    fields = list(row)
    fields[_ATTACHED] = fields[_ATTACHED] != 0
    return RunRecord(*fields)


class Applier:
    """Applies changes on a connection; see the module."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute
        self._epoch = 0
        self._entries: list[tuple[Any, ...]] = []
        #: Proof that this transaction was committed, where it added a row that still stands.
        self.evidence: Evidence | None = None
        self._handlers: dict[type, Callable[[Any], Any]] = {
            RunCreated: self._run_created,
            RunMoved: self._run_moved,
            RunFinished: self._run_finished,
            RunWoken: self._run_woken,
            CancelRequested: self._cancel_requested,
            ChildrenCancelled: self._children_cancelled,
            MessageSent: self._message_sent,
            MessageTaken: self._message_taken,
            ValuePublished: self._value_published,
            WatchAdded: self._watch_added,
        }

    def begin(self, epoch: int) -> None:
        """Forget what an earlier transaction left; the worker with `epoch` writes now."""
        self._epoch = epoch
        self._entries = []
        self.evidence = None

    def drop_entries(self) -> None:
        """Forget the entries gathered since the last flush; their unit was refused."""
        self._entries = []

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
                results.append(self._handlers[type(change)](change))
        return results

    def flush(self) -> None:
        """Insert the gathered entries."""
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
        if change.status not in ("pending", "running"):
            raise IllegalTransition(f"run {change.id!r} cannot begin as {change.status!r}")
        owner = self._epoch if change.status == "running" else None
        self._execute(
            _RUN_CREATED,
            (
                *(change.id, change.workflow, change.status, change.input, change.fingerprint, change.at),
                *(change.reason, owner, change.deadline_at, change.parent, change.parent_op, int(change.attached)),
            ),
        )
        if self._connection.changes():
            key = self._connection.last_insert_rowid()
            self.evidence = _SQL["evidence_of_run"], (key, change.id)
            return Created(key)
        existing = record_of(self._row(_SQL["run_record_by_id"], (change.id,)))
        return Created(existing.key, existing)

    def _run_moved(self, change: RunMoved) -> None:
        if change.status in ENDED:
            raise IllegalTransition(
                f"run {change.run} cannot be moved to {change.status!r}: that is what RunFinished does"
            )
        owner = self._epoch if change.status == "running" else None
        self._execute(
            _RUN_MOVED,
            (change.run, change.status, change.at, change.wake_at, change.reason, owner, self._epoch),
        )
        if not self._connection.changes():
            self._refuse(change.run, change.status)

    def _run_finished(self, change: RunFinished) -> list[int]:
        if change.status not in ENDED:
            raise IllegalTransition(f"run {change.run} cannot finish as {change.status!r}")
        ties = self._row(_RUN_TIES, (change.run,))
        self._execute(
            _RUN_FINISHED,
            (change.run, change.status, change.at, change.result, change.error, change.reason, self._epoch),
        )
        if not self._connection.changes():
            self._refuse(change.run, change.status)
        parent, has_messages, is_watched = ties
        if has_messages:
            self._execute(_SQL["unreceived_messages_deleted"], (change.run,))
            self._forget_message_evidence()
        watchers: set[int] = set()
        if is_watched:
            watchers.update(watcher for (watcher,) in self._execute(_SQL["watchers"], (change.run,)))
            self._execute(_SQL["watchers_removed"], (change.run,))
        if parent is not None:
            watchers.add(parent)
        for watcher in watchers:
            self._execute(_RUN_WOKEN, (watcher, change.at))
        return sorted(watchers)

    def _run_woken(self, change: RunWoken) -> None:
        self._execute(_RUN_WOKEN, (change.run, change.at))

    def _cancel_requested(self, change: CancelRequested) -> RunRecord:
        rows = self._execute(_SQL["cancel_requested"], (change.run_id, change.at, change.reason)).fetchall()
        row = rows[0] if rows else self._row(_SQL["run_record_by_id"], (change.run_id,))
        if row is None:
            raise RunNotFound(f"no run has the id {change.run_id!r}: it was never started, or has been purged")
        return record_of(row)

    def _children_cancelled(self, change: ChildrenCancelled) -> list[int]:
        rows = self._execute(_SQL["children_cancelled"], (change.parent, change.at, change.reason))
        return sorted(key for (key,) in rows)

    def _refuse(self, run: int, target: Status) -> NoReturn:
        """Raise the reason for which a run could not be moved to `target` by this worker."""
        state = self._row(_SQL["run_state"], (run,))
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
        raise StoreError(f"run {run_id!r} could not be moved from {status!r} to {target!r}")

    # --- messages, values, watches
    # --------------------------------------------------------------------------------------

    def _message_sent(self, change: MessageSent) -> Sent:
        state = self._row(_SQL["run_state_by_id"], (change.run_id,))
        if state is None:
            raise RunNotFound(f"no run has the id {change.run_id!r}; start it first, or send in the same transaction")
        run, status = state
        if status in ENDED:
            if change.key is not None and self._row(_SQL["message_key_seen"], (run, change.key)):
                return Sent(run, status, 0)
            raise RunEnded(
                f"run {change.run_id!r} has ended ({status}); message {change.name!r} cannot be received any more"
            )
        self._execute(_SQL["message_sent"], (run, change.name, change.value, change.key, change.at))
        if not self._connection.changes():
            return Sent(run, status, 0)
        position = self._connection.last_insert_rowid()
        if self.evidence is None:
            self.evidence = _SQL["evidence_of_message"], (position, run, change.at)
        if status == "waiting":
            self._execute(_RUN_WOKEN, (run, change.at))
        return Sent(run, status, position)

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

    def _watch_added(self, change: WatchAdded) -> Status:
        state = self._row(_SQL["run_state"], (change.run,))
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
