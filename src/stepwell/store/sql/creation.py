"""Applies `RunCreated`: new rows for runs, or the run that there is instead. A part of the `Applier`.

What a start costs decides how fast a backlog can be filled, so a plain one is a single INSERT, and of many at once 64
are one (measured on 2 cores: 6.3 us a row alone, 3.5 us among 64). Its place in a queue is gathered by `Entries` and
written with the rest of the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

from msgspec.structs import replace

from stepwell.definitions.definition import JOB_PREFIX
from stepwell.errors import RunConflict
from stepwell.model.attributes import Description
from stepwell.model.journal import Entry
from stepwell.model.lifecycle import IllegalTransition
from stepwell.model.run import RunRecord
from stepwell.store.changes import Created, Joined, RunCreated
from stepwell.store.queues import Entered
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.named_sql import Ladder, ladder
from stepwell.store.sql.part import Part
from stepwell.store.sql.queue_changes import Entries
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.records import record_of
from stepwell.store.sql.successors import Successors

_ROWS: Final = (64, 8, 1)


def is_plain(change: RunCreated) -> bool:
    """Tell whether a start makes a run of its own, or finds that of its id, and concerns nothing else."""
    entry = change.entry
    return (
        change.told is None
        and change.policy is None
        and (entry is None or (entry.dedup is None and entry.batch_size is None))
    )


class Creation(Part):
    """Creates runs; see the module.

    `tell` appends what a parent is told of its child to the journal, behind all else of the unit; `describe` writes
    what a run is found by.
    """

    def __init__(
        self,
        connection: SqlConnection,
        sql: Statements,
        after: Aftermath,
        entries: Entries,
        successors: Successors,
        tell: Callable[[Entry], None],
        describe: Callable[[int, Description, int, str], None],
    ) -> None:
        super().__init__(connection, sql, after)
        self._entries = entries
        self._successors = successors
        self._tell = tell
        self._describe = describe
        self._steps: set[str] = set()  # that this transaction has noted as started
        self._insert: Ladder = ladder(sql["run_created"], _ROWS)
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {RunCreated: self._run_created}

    def forget(self) -> None:
        """Forget what was noted: another transaction begins, or a part of this one was set back."""
        self._steps.clear()

    def _run_created(self, change: RunCreated) -> Created:
        entry = change.entry
        if entry is None or (entry.dedup is None and entry.batch_size is None):
            created = self.create(change)
        else:
            created = self._join(change, entry) or self.create(change)
        self._after.refused_id = change.id if created.refused else None
        if change.told is not None and not created.refused:
            run_id = change.id if created.existing is None else created.existing.id
            self._tell(replace(change.told, value=to_json(run_id)))
        return created

    def create(self, change: RunCreated) -> Created:
        """Create one run, or find the one of its id."""
        row = self._row_of(change)
        self._execute(self._insert[-1][1], row)
        if not self._connection.changes():
            return self._existing(change)
        key = self._connection.last_insert_rowid()
        self._inserted(change, key)
        return Created(key)

    def create_all(self, changes: Sequence[RunCreated]) -> list[Created]:
        """Create plain runs, many by one statement; see `is_plain`."""
        found: list[Created] = []
        rows = [self._row_of(change) for change in changes]
        for size, statement in self._insert[:-1]:
            while len(rows) - len(found) >= size:
                at = len(found)
                found += self._create_some(statement, changes[at : at + size], rows[at : at + size])
        return found + [self.create(change) for change in changes[len(found) :]]

    def _create_some(
        self, statement: str, changes: Sequence[RunCreated], rows: Sequence[tuple[Any, ...]]
    ) -> list[Created]:
        (last,) = self._row("last_run")
        self._execute(statement, list(chain.from_iterable(rows)))
        if self._connection.changes() == len(rows):  # SQLite numbers the rows of one statement in their order
            end = self._connection.last_insert_rowid() + 1
            keys = range(end - len(rows), end)
            for change, key in zip(changes, keys, strict=True):
                self._inserted(change, key)
            return [Created(key) for key in keys]
        found: list[Created] = []
        new = dict(self._execute(self._sql["runs_after"], (last,)).fetchall())
        for change in changes:
            mine = new.pop(change.id, None)  # not for a second start with the same id
            if mine is None:
                found.append(self._existing(change))
            else:
                self._inserted(change, mine)
                found.append(Created(mine))
        return found

    def _row_of(self, change: RunCreated) -> tuple[Any, ...]:
        """Return the row of a new run, in the order of the statement; raises where there must be none."""
        entry, status = change.entry, change.status
        if entry is not None:
            self._entries.check_takes_runs(entry.queue)
            status = "pending"
        elif status not in ("pending", "running"):
            raise IllegalTransition(f"run {change.id!r} cannot begin as {status!r}")
        is_running = status == "running"
        return (
            change.id,
            change.workflow,
            status,
            None if entry is not None and entry.batch_size is not None else change.input,
            change.fingerprint,
            change.at,
            change.at,
            change.at if is_running else None,
            change.reason,
            self._after.epoch if is_running else None,
            change.deadline_at,
            change.parent,
            change.parent_op,
            int(change.attached),
            None if entry is None else entry.queue,
            int(entry is not None),
            change.ahead,
        )

    def _inserted(self, change: RunCreated, key: int) -> None:
        """Take note of what a new run means for its queue and for other workers."""
        entry = change.entry
        self._after.evidence = self._sql["evidence_of_run"], (key, change.id)
        if change.workflow.startswith(JOB_PREFIX) and change.workflow not in self._steps:
            self._steps.add(change.workflow)
            self._execute(self._sql["step_started"], (change.workflow,))
            if self._connection.changes():  # workers that have it do not know yet that they serve it
                self._after.made_work = True
        if change.description is not None:
            self._describe(key, change.description, change.at, change.described_by)
        if entry is None:
            self._after.made_work = self._after.made_work or change.status != "running"
            return
        if change.deadline_at is not None and not self._row("earlier_deadline", change.deadline_at, key):
            self._after.made_work = True  # whoever knows of an earlier one looks at that time, and then finds this one
        self._entries.enter(key, change.workflow, entry, change.at)
        if entry.batch_size is not None:
            self._entries.collect(key, change.workflow, entry, change.input, 0)

    def _join(self, change: RunCreated, entry: Entered) -> Created | None:
        """Return the run of the same id, or that takes the place of this one in the queue, if there is one."""
        row = self._row("run_by_id", change.id)
        if row is not None:
            return self._is_there(change, record_of(row))
        found: tuple[int, Joined] | None = None
        if entry.batch_size is not None:
            collecting = self._entries.find_collecting(entry, change.workflow)
            if collecting is not None:
                self._entries.collect(collecting[0], change.workflow, entry, change.input, collecting[1])
                found = collecting[0], "batched"
        elif entry.dedup is not None and (holder := self._entries.find_dedup(entry)) is not None:
            run, workflow, state, latest_at = holder
            found = run, "attached"
            if latest_at is not None and entry.latest_at is not None and workflow == change.workflow:
                self._entries.replace_input(run, change.input, change.fingerprint, change.at)
                if state == "delayed":
                    self._entries.put_off(run, entry)
                found = run, "debounced"
        if found is None:
            return None
        record = record_of(self._row("run_by_key", found[0]))
        refused = record.workflow != change.workflow or (found[1] == "attached" and not entry.attach)
        return Created(record.key, record, found[1], refused)

    def _existing(self, change: RunCreated) -> Created:
        return self._is_there(change, record_of(self._row("run_by_id", change.id)))

    def _is_there(self, change: RunCreated, existing: RunRecord) -> Created:
        if change.must_be_new:
            raise RunConflict(
                f"there is a run {change.id!r} already (of {existing.workflow}, {existing.status}): another worker was "
                "faster. Look at it, and start what is needed once more"
            )
        if change.policy is not None:
            created = self._successors.of(change, change.policy, existing)
            if created is not None:
                if not created.refused:  # from here on the id is that of the new run
                    for name in ("attributes_purged", "tags_purged"):
                        self._execute(self._sql[name], (to_json([existing.key]),))
                    if change.description is not None:
                        self._describe(existing.key, change.description, change.at, change.described_by)
                return created
        if existing.cancel_requested_at is not None:
            existing = self._successors.as_started(existing)
        refused = existing.workflow != change.workflow or existing.fingerprint != change.fingerprint
        if refused and existing.chapter is not None:  # the start is compared with what began the run
            existing = self._successors.as_started(existing)
        return Created(existing.key, existing, refused=refused)
