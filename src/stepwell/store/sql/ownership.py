"""Applies the changes about who has a run in memory: claims, releases, notes for owners. A part of the `Applier`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stepwell.model.lifecycle import Status
from stepwell.store.claims import NotesTaken, RunsClaimed, RunsReleased, RunVersioned, RunWoken, WorkerServes, WorkTaken
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
            RunVersioned: self._run_versioned,
            WorkTaken: self._work_taken,
            RunsReleased: self._runs_released,
            NotesTaken: self._notes_taken,
            WorkerServes: self._worker_serves,
            RunWoken: self._run_woken,
        }

    def _runs_claimed(self, change: RunsClaimed) -> list[int]:
        self._claim(self._without(change.keys, self._left_to_others()), change.at)
        owned = set(self._keys("runs_owned", to_json(change.keys), self._after.epoch))
        return [key for key in dict.fromkeys(change.keys) if key in owned]

    def _work_taken(self, change: WorkTaken) -> list[int]:
        if change.limit <= 0:
            return []
        self._flush()
        at, limit, workflows = change.at, change.limit, list(dict.fromkeys(change.workflows))
        wanted = to_json(workflows)
        left = self._left_to_others()
        due: list[tuple[int, int]] = []
        for workflow in self._among(workflows, "workflows_due", at):
            versions = [version for name, version in left if name == workflow]
            if versions:
                found = self._keys("due_of_versions", workflow, at, limit, to_json(versions))
            else:
                found = self._keys("due", workflow, at, limit)
            due += [(wake_at, key) for wake_at, key in found]
        due_suspect = self._row("suspect_due", wanted, at)
        if due_suspect is not None and self._without([due_suspect[1]], left):
            due.append(due_suspect)
        keys = [key for _, key in sorted(due)[:limit]]
        if len(keys) < limit:
            beginning = self._among(workflows, "workflows_pending")
            pending: list[int] = []
            for workflow in beginning:
                versions = [version for name, version in left if name == workflow]
                if versions:
                    pending += self._keys("pending_of_versions", workflow, limit, to_json(versions))
                else:
                    pending += self._keys("pending", workflow, limit)
            if due_suspect is None and (suspect := self._row("suspect_pending", wanted)) is not None:
                pending += self._without(suspect, left)
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

    def _left_to_others(self) -> list[tuple[str, int]]:
        """Return the versions of workflows that another worker has, and the writing one has not; mostly none."""
        if self._row("versions_served") is None:  # opening the tables of JSON would cost 16 µs with every claim
            return []
        return list(self._execute(self._sql["versions_elsewhere"], (self._after.epoch,)).fetchall())

    def _without(self, keys: Sequence[int], left: list[tuple[str, int]]) -> Sequence[int]:
        """Return those of these runs that are of none of the versions that are left to others."""
        if not left:
            return keys
        others = set(self._keys("runs_of_versions", to_json(keys), to_json(left)))
        return [key for key in keys if key not in others]

    def _run_versioned(self, change: RunVersioned) -> None:
        self._execute(self._sql["run_versioned"], (change.run, change.version, self._after.epoch))

    def _claim(self, keys: Sequence[int], at: int) -> None:
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
        versions = to_json(change.versions) if change.versions else None
        self._execute(self._sql["worker_serves"], (self._after.epoch, to_json(change.workflows), versions))

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

    def give(self, run: int, owner: int) -> None:
        """Leave a note for another worker that a run is its own now."""
        self._execute(self._sql["run_given"], (run,))
        self._after.told.add(owner)

    def tell_owner(self, run: int, status: Status, owner: int | None) -> None:
        """Leave a note for another worker that has the run in memory. A waiting run without an owner is due by now."""
        if owner is None:
            self._after.made_work = self._after.made_work or status == "waiting"
        elif owner != self._after.epoch:
            self._execute(self._sql["wake_noted"], (run,))
            if self._connection.changes():  # else the owner has not yet read the note that is there
                self._after.told.add(owner)
