"""Has a run follow another one under the same id: at once where that has ended, else when it ends. A part of `Applier`.

The row stays, and with it the key: the new run is another chapter of the id, with an empty journal, a clock and random
numbers of its own, and operations that are counted on, so that keys for outside services and ids of children differ
from those of before. What others said to the old run, and what it published, is gone.

A run that has not ended is cancelled, and what is to follow it is noted in the same transaction. Whoever writes its end
finds the note, and the transaction that has the end has the new beginning as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from stepwell.model.run import RunRecord
from stepwell.model.start_policy import REPLACED_REASON, StartPolicy, rejection
from stepwell.store.acts import ActRecorded
from stepwell.store.changes import CancelRequested, Created, RunCreated, Succeeded
from stepwell.store.queues import Entered
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part
from stepwell.store.sql.queue_changes import Entries
from stepwell.store.sql.queue_facts import to_json


class _Start(msgspec.Struct, frozen=True):
    """What a successor begins with: the columns of stepwell_replacements."""

    at: int
    input: Any
    fingerprint: int
    deadline_at: int | None
    ahead: int
    reason: str | None
    messages_after: int
    entry: Entered | None


class Successors(Part):
    """Begins runs under ids that others had; see the module.

    `begin_chapter(run, how, at)` notes that the present chapter is over, and returns where the next one begins in the
    journal; `apply` applies other changes.
    """

    def __init__(
        self,
        connection: SqlConnection,
        sql: Statements,
        after: Aftermath,
        entries: Entries,
        begin_chapter: Callable[[int, str, int], int],
        apply: Callable[[Any], Any],
        withdraw_promises: Callable[[int, int], None],
    ) -> None:
        super().__init__(connection, sql, after)
        self._entries = entries
        self._begin_chapter = begin_chapter
        self._apply = apply
        self._withdraw_promises = withdraw_promises

    # --- a start finds its id taken ----------------------------------------------------------------------------------

    def of(self, change: RunCreated, policy: StartPolicy, existing: RunRecord) -> Created | None:
        """Return what becomes of a start whose id belongs to a run; None where it is to have that run.

        Raises `RunConflict` for a refused one, so that nothing of its unit is written; the start of a child is answered
        instead, since its parent goes on.
        """
        decision = policy.decide(existing.status)
        if decision == "attach":
            return None
        if decision == "reject" or existing.workflow != change.workflow:
            if change.told is None:
                raise rejection(existing.id, existing.workflow, existing.status, change.workflow)
            return Created(existing.key, existing, "rejected", refused=True)
        if change.entry is not None:
            self._entries.check_takes_runs(change.entry.queue)
        start = _Start(
            change.at,
            None if change.entry is not None and change.entry.batch_size is not None else change.input,
            change.fingerprint,
            change.deadline_at,
            change.ahead,
            change.reason,
            self._row("last_message")[0],
            change.entry,
        )
        if decision == "reuse":
            self._begin(existing.key, start, change.at)
            return Created(existing.key, existing, "reused")
        cancel = CancelRequested(change.id, change.at, REPLACED_REASON)
        self._apply(ActRecorded("cancel", change.at, policy.by, REPLACED_REASON, run_id=change.id))
        record: RunRecord = self._apply(cancel)
        entry = None if start.entry is None else msgspec.json.encode(start.entry).decode()
        values = (start.at, start.input, start.fingerprint, start.deadline_at, start.ahead, start.reason)
        self._execute(self._sql["replacement_noted"], (existing.key, *values, start.messages_after, entry))
        return Created(existing.key, record, "replaced")

    def as_started(self, existing: RunRecord) -> RunRecord:
        """Return a run with what it was started with last: where it is being replaced, what replaces it."""
        if existing.cancel_requested_at is not None and (start := self._noted(existing.key)) is not None:
            return msgspec.structs.replace(existing, input=start.input, fingerprint=start.fingerprint)
        if existing.chapter is not None:
            return msgspec.structs.replace(existing, input=self._row("first_input", existing.key)[0])
        return existing

    # --- the run that it waits for ends ------------------------------------------------------------------------------

    def succeed(self, run: int, at: int) -> Succeeded | None:
        """Have the run begin that is to follow one whose end was written just now; None where none is."""
        start = self._noted(run)
        if start is None:
            return None
        self.give_up(run)
        self._begin(run, start, at)
        return Succeeded(run, None if start.entry is None else start.entry.queue, start.deadline_at)

    def give_up(self, run: int) -> None:
        """Have no run follow this one."""
        self._execute(self._sql["replacement_dropped"], (run,))

    def give_up_children(self, parent: int) -> None:
        """Have no run follow the attached children of a run."""
        self._execute(self._sql["replacements_of_children_dropped"], (parent,))

    def _noted(self, run: int) -> _Start | None:
        row = self._row("replacement_of", run)
        if row is None:
            return None
        entry = None if row[-1] is None else msgspec.json.decode(row[-1], type=Entered)
        values: list[Any] = [*row[:-1], entry]
        return _Start(*values)

    def _begin(self, run: int, start: _Start, at: int) -> None:
        """Begin another chapter of a run that has ended, as a run that nobody has begun."""
        self._entries.flush()  # its place in a queue was left with its end
        journal_from = self._begin_chapter(run, "started", at)  # with all entries of the one before written
        ops_before = self._row("last_op", run)[0]
        self._execute(self._sql["chapter_begun"], (run, "started", at, journal_from, None, ops_before))
        for name in ("values_purged", "stream_items_purged", "streams_purged", "settlements_purged", "progress_purged"):
            self._execute(self._sql[name], (to_json([run]),))
        self._execute(self._sql["messages_before_deleted"], (run, start.messages_after))
        queue = None if start.entry is None else start.entry.queue
        values = (start.input, start.fingerprint, start.deadline_at, start.ahead, start.reason, queue)
        self._execute(self._sql["run_started_anew"], (run, at, journal_from, *values))
        self._withdraw_promises(run, at)
        if start.entry is not None:
            workflow = self._row("workflow_of", run)[0]
            self._entries.enter(run, workflow, start.entry, at)
        self._after.ended.append(run)
        self._after.made_work = True
