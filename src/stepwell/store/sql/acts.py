"""Records who did what to runs and queues: applies `ActRecorded`, and notes takeovers. A part of the `Applier`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepwell.model.acts import Actor
from stepwell.store.acts import KEPT_ACTS, ActRecorded
from stepwell.store.sql.connection import SqlConnection, Statements


class Acts:
    """Records acts on the writer's connection; see the module."""

    def __init__(self, connection: SqlConnection, sql: Statements) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute
        self._sql = sql
        #: For `Applier.handlers`.
        self.handlers: dict[type, Callable[[Any], Any]] = {ActRecorded: self.record}

    def record(self, change: ActRecorded) -> None:
        """Note an act; see `ActRecorded`."""
        of_run = change.run_id is not None
        name = change.run_id if of_run else change.queue
        self._execute(
            self._sql["run_act_recorded" if of_run else "queue_act_recorded"],
            (name, change.at, change.act, change.by, change.reason),
        )
        if self._connection.changes():
            act = self._connection.last_insert_rowid()
            self._execute(self._sql["run_acts_forgotten" if of_run else "queue_acts_forgotten"], (act, KEPT_ACTS))

    def died(self, epoch: int, now: int, heir: int) -> None:
        """Note for each run of a dead worker that another one, `heir`, took it over; before they are released."""
        self._taken_over(epoch, now, Actor(self._worker(heir), f"{self._worker(epoch)} died"))

    def fenced(self, epoch: int, now: int, actor: Actor) -> None:
        """Note for each run of a worker who fenced it, and why; before they are released."""
        reason = f"{self._worker(epoch)} was fenced"
        self._taken_over(epoch, now, Actor(actor.by, reason if actor.reason is None else f"{reason}: {actor.reason}"))

    def _taken_over(self, epoch: int, now: int, actor: Actor) -> None:
        self._execute(self._sql["takeovers_recorded"], (epoch, now, actor.by, actor.reason))

    def _worker(self, epoch: int) -> str:
        """Return a worker in words."""
        rows = self._execute(self._sql["worker_named"], (epoch,)).fetchall()
        return f"worker {epoch}" if not rows else f"worker {epoch} (process {rows[0][0]} on {rows[0][1]})"
