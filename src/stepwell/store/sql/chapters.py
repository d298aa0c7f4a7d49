"""Has runs go on with another chapter: applies `RunContinued` and `RunRewound`. A part of the `Applier`.

`flush` writes the gathered entries of the journal: the new chapter begins behind them; `apply` applies other changes.
What a chapter keeps of the one before is decided by `stepwell.worker.repair.rewinding`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepwell.errors import RunNotEnded, RunNotFound
from stepwell.model.lifecycle import MOVES
from stepwell.model.start_policy import REPLACED_REASON
from stepwell.store.changes import RunContinued, RunFinished, RunRewound, Succeeded
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part
from stepwell.store.sql.progress import ProgressChanges
from stepwell.store.sql.promises import Promises
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.retries import Retries
from stepwell.store.sql.streams import Streams


class Chapters(Part):
    """Begins chapters on the writer's connection; see the module. `refuse` raises why a run is not this worker's."""

    def __init__(
        self,
        connection: SqlConnection,
        sql: Statements,
        after: Aftermath,
        flush: Callable[[], None],
        refuse: Callable[[int], None],
        retries: Retries,
        streams: Streams,
        promises: Promises,
        progress: ProgressChanges,
        apply: Callable[[Any], Any],
    ) -> None:
        super().__init__(connection, sql, after)
        self._flush = flush
        self._refuse = refuse
        self._retries = retries
        self._streams = streams
        self._promises = promises
        self._progress = progress
        self._apply = apply
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {RunContinued: self._continued, RunRewound: self._rewound}

    def _continued(self, change: RunContinued) -> Succeeded | None:
        if change.heard_cancel and self._row("replacement_of", change.run) is not None:
            # What it would go on with is not wanted any more: its code has ended, and another start follows it.
            end = RunFinished(change.run, "cancelled", change.at, reason=REPLACED_REASON)
            succeeded: Succeeded = self._apply(end)
            return succeeded
        journal_from = self.begin(change.run, "continued", change.at)
        fresh = (change.run, "continued", change.at, journal_from, change.at, change.ops_before)
        self._execute(self._sql["chapter_begun"], fresh)
        self._execute(
            self._sql["run_continued"],
            (change.run, change.at, change.input, journal_from, int(change.heard_cancel), self._after.epoch),
        )
        if not self._connection.changes():
            self._refuse(change.run)
        self._promises.withdraw(change.run, change.at)
        return None

    def _rewound(self, change: RunRewound) -> None:
        self._flush()
        run, at = change.run, change.at
        found = self._row("rewindable_run", run, self._after.epoch)
        if found is None:
            raise RunNotFound(f"no run has the key {run}: it was never started, or has been purged")
        run_id, status, seen, workflow, queue, place, ended_at, is_elsewhere = found
        rests = status in ("pending", "paused") or status in MOVES["rewound"].sources
        if status != change.status or seen != change.seen or is_elsewhere or not rests:
            where = ", in the memory of another worker" if is_elsewhere else ""
            raise RunNotEnded(f"run {run_id!r} is {status} now{where}: it has moved on. Look at it before you go on")
        self._execute(self._sql["settlements_dropped"], (run,))
        self._streams.rewind(run, change.kept)
        self._progress.rewind(run, change.kept)
        self._execute(self._sql["replacement_dropped"], (run,))
        journal_from = self.begin(run, change.how, at)
        is_new = change.how == "restarted"
        if is_new:
            fresh = (run, change.how, at, journal_from, None, change.ops_before)
            self._execute(self._sql["chapter_begun"], fresh)
        else:
            self._execute(self._sql["chapter_begun_again"], (run, change.how, at, journal_from))
        self._execute(self._sql["entries_copied"], (run, to_json(change.kept)))
        for one in change.replaced:
            replacement = (run, journal_from, one.op, one.kind, one.was, one.value)
            self._execute(self._sql["result_replaced"], replacement)
        in_queue = queue is not None and ended_at is not None
        if ended_at is None:
            self._retries.leave(run, at)
        parameters = (
            *(run, at, journal_from, change.deadline_at, int(change.stays_cancelled), int(in_queue)),
            *(int(change.has_input), change.input, int(is_new)),
        )
        self._execute(self._sql["run_rewound"], parameters)
        self._retries.put_back(run, change.returned)
        self._promises.reopen(run, at)
        self._retries.uncancel(change.uncancelled)
        if queue is not None and in_queue:
            self._retries.enter_again(run, workflow, queue, place, at)
        self._after.ended.append(run)
        self._after.made_work = True

    def begin(self, run: int, how: str, at: int) -> int:
        """Note that the present chapter is over and another one begins; return where that is in the journal."""
        self._flush()
        self._execute(self._sql["chapter_marked"], (run, how, at))
        position = self._connection.last_insert_rowid()
        self._after.evidence = self._sql["evidence_of_entry"], (position, run, 0, "chapter", at)
        self._execute(self._sql["first_chapter_noted"], (run,))
        self._execute(self._sql["chapter_over"], (run, at))
        return position + 1
