"""Workers as the database knows them: who enters, ends or dies, in a transaction of the caller's; and reading them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stepwell.errors import StoreFailed
from stepwell.model.acts import Actor
from stepwell.model.run import Member, MemberState
from stepwell.store.membership import SUSPECT_CRASHES
from stepwell.store.sql.aftermath import Evidence
from stepwell.store.sql.connection import SqlConnection, Statements
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.reading import Reader

if TYPE_CHECKING:
    from stepwell.store.sql.run_changes import Applier

#: So many of the newest workers keep their rows when they have ended, for whoever wants to know what went on.
KEPT_WORKERS: Final = 1_000
#: Rows of ended workers that a registration deletes at most: one leaves one behind, so a few are enough.
_MAX_FORGOTTEN: Final = 100

_decode_names: Final = msgspec.json.Decoder(frozenset[str]).decode
_decode_versions: Final = msgspec.json.Decoder(frozenset[tuple[str, int]]).decode


class WorkerRows:
    """Writes the rows of workers on the writer's connection, inside a transaction."""

    def __init__(self, connection: SqlConnection, sql: Statements, applier: Applier) -> None:
        self._connection = connection
        self._run = connection.cursor().execute
        self._sql = sql
        self._applier = applier

    def enter(
        self,
        process: tuple[int, str, int | None],
        now: int,
        *,
        takes_work: bool,
        workflows: Sequence[str] | None,
        queues: Sequence[str] | None,
        versions: Collection[tuple[str, int]] = (),
    ) -> tuple[int, Evidence]:
        """Add a worker, a process given by pid, host and slot; return its epoch, and what proves that it is there."""
        pid, host, slot = process
        served = [None if names is None else to_json(sorted(names)) for names in (workflows, queues)]
        served.append(to_json(sorted(versions)) if versions else None)
        rows = self._execute("worker_registered", pid, host, now, slot, int(takes_work), *served)
        epoch: int = rows[0][0]
        self._execute("workers_forgotten", epoch - KEPT_WORKERS, _MAX_FORGOTTEN)
        return epoch, (self._sql["evidence_of_worker"], (epoch,))

    def not_ended(self) -> list[tuple[int, int | None]]:
        """Return the epochs and slots of the workers that live, or have died unnoticed, by age."""
        return self._execute("workers_not_ended")

    def died(self, epoch: int, now: int, heir: int) -> int:
        """End a worker that is dead, and count the crashes of its runs; return how many it had."""
        self._applier.acts.died(epoch, now, heir)
        self._execute("worker_fenced", epoch, now)
        return self._release_runs(epoch, now, crashed=True)

    def fenced(self, epoch: int, now: int, actor: Actor | None) -> tuple[int, Evidence]:
        """End a worker, dead or not; return how many runs it had, and what proves that it is ended."""
        if actor is not None:
            self._applier.acts.fenced(epoch, now, actor)
        self._execute("worker_fenced", epoch, now)
        self._applier.after.told.add(epoch)  # should it live, it finds out what happened when it looks
        return self._release_runs(epoch, now, crashed=False), (self._sql["evidence_of_fence"], (epoch,))

    def ended(self, epoch: int, now: int) -> None:
        """End a worker that leaves in order."""
        self._execute("worker_ended", epoch, now)
        self._release_runs(epoch, now, crashed=False)

    def _release_runs(self, epoch: int, now: int, *, crashed: bool) -> int:
        """Leave the runs of a worker to anyone who claims them; return how many there were."""
        self._execute("crashes_counted", epoch, now, int(crashed))
        self._execute("runs_of_worker_released", epoch, now, SUSPECT_CRASHES)
        count = self._connection.changes()
        self._applier.entries.worker_over(epoch)
        if count:
            self._execute("stale_wakes_deleted")
            self._applier.after.made_work = True
        return count

    def _execute(self, name: str, *parameters: Any) -> list[Any]:
        return self._run(self._sql[name], parameters).fetchall()


class WorkerReader(Reader):
    """Reads the rows of workers."""

    def members(self, states_of: Callable[[list[tuple[int, int]]], Mapping[int, MemberState]]) -> list[Member]:
        """Return the workers that have not ended, by age; `states_of` tells how those with these seats are.

        A seat is an epoch and a slot. A worker without one was written by the first schema, and is gone.
        """
        rows = self._rows("workers_alive")
        states = states_of([(epoch, slot) for epoch, _, _, _, _, slot, *_ in rows if slot is not None])
        return [
            Member(
                epoch=epoch,
                pid=pid,
                host=host,
                started_at=started_at,
                takes_work=takes_work != 0,
                state=states.get(epoch, "dead"),
                runs=runs,
                workflows=None if workflows is None else _decode_names(workflows),
                queues=None if queues is None else _decode_names(queues),
                versions=frozenset() if versions is None else _decode_versions(versions),
            )
            for epoch, pid, host, started_at, takes_work, _, runs, workflows, queues, versions in rows
        ]

    def last_at(self) -> int:
        """Return the newest time in the file, 0 for an empty one."""
        at: int | str | bytes | float = self._first("last_at")
        if not isinstance(at, int):
            raise StoreFailed(
                f"the newest time in the file is {at!r}, which is no time: the file is damaged. Stop all workers, copy "
                "the file together with its -wal file, and restore the newest backup"
            )
        return at
