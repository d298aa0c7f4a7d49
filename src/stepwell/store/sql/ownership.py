"""Applies the changes about who has a run in memory: claims, releases, notes for owners. A part of the `Applier`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepwell.model.lifecycle import Status
from stepwell.store.changes import NotesTaken, RunsClaimed, RunsReleased, RunWoken, WorkerServes, WorkTaken
from stepwell.store.sql.aftermath import Aftermath
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.part import Part
from stepwell.store.sql.queue_facts import to_json


class Ownership(Part):
    """Claims and releases runs, and tells owners; see the module. `flush` writes the gathered entries."""

    def __init__(self, connection: SqlConnection, sql: Statements, after: Aftermath, flush: Callable[[], None]) -> None:
        super().__init__(connection, sql, after)
        self._flush = flush
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {
            RunsClaimed: self._runs_claimed,
            WorkTaken: self._work_taken,
            RunsReleased: self._runs_released,
            NotesTaken: self._notes_taken,
            WorkerServes: self._worker_serves,
            RunWoken: self._run_woken,
        }

    def _runs_claimed(self, change: RunsClaimed) -> list[int]:
        self._claim(change.keys, change.at)
        owned = set(self._keys("runs_owned", to_json(change.keys), self._after.epoch))
        return [key for key in dict.fromkeys(change.keys) if key in owned]

    def _work_taken(self, change: WorkTaken) -> list[int]:
        if change.limit <= 0:
            return []
        self._flush()
        at, limit, workflows = change.at, change.limit, list(dict.fromkeys(change.workflows))
        wanted = to_json(workflows)
        due: list[tuple[int, int]] = [
            (wake_at, key)
            for workflow in self._among(workflows, "workflows_due", at)
            for wake_at, key in self._keys("due", workflow, at, limit)
        ]
        due_suspect = self._row("suspect_due", wanted, at)
        if due_suspect is not None:
            due.append(due_suspect)
        keys = [key for _, key in sorted(due)[:limit]]
        if len(keys) < limit:
            beginning = self._among(workflows, "workflows_pending")
            pending = [key for workflow in beginning for key in self._keys("pending", workflow, limit)]
            if due_suspect is None and (suspect := self._row("suspect_pending", wanted)) is not None:
                pending += suspect
            keys += sorted(pending)[: limit - len(keys)]
        if keys:
            self._claim(keys, at)
        return keys

    def _among(self, workflows: list[str], statement: str, *parameters: int) -> list[str]:
        """Return those of `workflows` that a statement names; to ask for each of a thousand takes 2.5 ms."""
        if len(workflows) == 1:
            return workflows
        named = set(self._keys(statement, *parameters))
        return [workflow for workflow in workflows if workflow in named]

    def _claim(self, keys: list[int], at: int) -> None:
        self._execute(self._sql["runs_claimed"], (to_json(keys), at, self._after.epoch))

    def _runs_released(self, change: RunsReleased) -> list[int]:
        self._flush()
        wanted = to_json(change.keys)
        self._execute(self._sql["runs_released"], (wanted, self._after.epoch))
        kept = set(self._keys("runs_with_news", wanted, self._after.epoch))
        return [key for key in dict.fromkeys(change.keys) if key in kept] if kept else []

    def _notes_taken(self, change: NotesTaken) -> None:
        wanted = to_json(change.keys)
        self._execute(self._sql["wakes_taken"], (wanted, self._after.epoch))
        self._execute(self._sql["news_made_due"], (wanted, self._after.epoch))

    def _worker_serves(self, change: WorkerServes) -> None:
        self._execute(self._sql["worker_serves"], (self._after.epoch, to_json(change.workflows)))

    def _run_woken(self, change: RunWoken) -> None:
        self.wake(change.run, change.at)

    def wake(self, run: int, at: int) -> None:
        """Have whoever carries a run on look at it; see `RunWoken`."""
        state = self._row("run_state", run)
        if state is not None:
            self.wake_known(run, state[1], state[2], at)

    def wake_known(self, run: int, status: Status, owner: int | None, at: int) -> None:
        """Have whoever carries a run on, whose state is known, look at it."""
        if owner is not None and owner != self._after.epoch:
            self.tell_owner(run, status, owner)
        elif status == "waiting":
            self._execute(self._sql["run_made_due"], (run, at))
            if owner is None and self._connection.changes():
                self._after.made_work = True

    def tell_owner(self, run: int, status: Status, owner: int | None) -> None:
        """Leave a note for another worker that has the run in memory. A waiting run without an owner is due by now."""
        if owner is None:
            self._after.made_work = self._after.made_work or status == "waiting"
        elif owner != self._after.epoch:
            self._execute(self._sql["wake_noted"], (run,))
            if self._connection.changes():  # else the owner has not yet read the note that is there
                self._after.told.add(owner)
