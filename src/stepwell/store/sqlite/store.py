"""The store that keeps runs in one SQLite file: opening, workers, and the two sides put together."""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, TypeVar

import apsw
import msgspec

from stepwell.errors import StoreFailed, StoreUnavailable
from stepwell.model.acts import Actor
from stepwell.model.run import Claim, Member
from stepwell.store.inspector import Inspector
from stepwell.store.sql.named_sql import load
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.run_changes import Evidence
from stepwell.store.sqlite.file.opening import Database, open_database
from stepwell.store.sqlite.peers.notifier import Members, listen_to
from stepwell.store.sqlite.reader import SqliteInspector
from stepwell.store.sqlite.user_queries import UserQueries
from stepwell.store.sqlite.writer import WAL_LIMIT_BYTES, Writer
from stepwell.store.store import (
    SUSPECT_CRASHES,
    Answer,
    Notification,
    Outcome,
    StoreTransaction,
    Unit,
    WritersLock,
)
from stepwell.values.own_tables import Parameters, Rows

_log: Final = logging.getLogger("stepwell")

_SECOND_NANOSECONDS: Final = 1_000_000_000
_SQL: Final = {**load("queries_write.sql"), **load("queries_acts.sql")}
#: So many of the newest workers keep their rows when they have ended, for whoever wants to know what went on.
KEPT_WORKERS: Final = 1_000
#: Rows of ended workers that a registration deletes at most: one leaves one behind, so a few are enough.
_MAX_FORGOTTEN: Final = 100
#: The deletions of a purge; children of the foreign keys first.
_PURGE: Final = (
    "journals_purged",
    "messages_purged",
    "values_purged",
    "watches_purged",
    "watchings_purged",
    "batch_items_purged",
    "acts_purged",
    "runs_purged",
)

_T = TypeVar("_T")


class SqliteStore:
    """A `stepwell.store.store.Store` in one SQLite file.

    `SqliteStore.open` is the usual way in; the constructor takes a `Database` that is open already and owns it from
    then on. `wal_limit_bytes` is the size above which a commit copies the write-ahead log into the file. `members`
    stands in for the database's membership, in tests.
    """

    def __init__(
        self, database: Database, *, wal_limit_bytes: int = WAL_LIMIT_BYTES, members: Members | None = None
    ) -> None:
        self.location: str = database.path
        self.writers: WritersLock = database.writers
        self._reader = SqliteInspector(database)
        self.inspector: Inspector = self._reader
        self._queries = UserQueries(database)
        self._database = database
        self._connection = database.writer
        self._members: Members = database.membership if members is None else members
        self._writer = Writer(database, self._members, wal_limit_bytes=wal_limit_bytes)
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "normal"] = "full",
        wal_limit_bytes: int = WAL_LIMIT_BYTES,
    ) -> SqliteStore:
        """Open the file at `path`, creating or migrating it; raises a `StoreError` where it cannot be used."""
        database = open_database(path, durability=durability)
        store = cls(database, wal_limit_bytes=wal_limit_bytes)
        store._writer.last_commit = database.last_commit
        return store

    @property
    def wal_bytes(self) -> int:
        """The size of the write-ahead log on the disk; a metric."""
        return self._writer.log.size_bytes

    # --- workers
    # -----------------------------------------------------------------------------------------------------------

    def query(self, sql: str, parameters: Parameters) -> Rows:
        """Return the rows of a query of the user's; see `Store.query`."""
        return self._queries.execute(sql, parameters)

    def agree_on_clock(self, offset: int) -> int:
        """Return the nanoseconds from the steady clock to the wall clock that all workers here use.

        They are those of the first one: `offset` where no other is alive.
        """
        return self._members.shared_offset(offset)

    def wall_clock(self) -> int:
        """Return the machine's wall clock, in nanoseconds since the epoch; see `Store.wall_clock`."""
        seen, real = time.clock_gettime_ns(time.CLOCK_REALTIME), self._reader.wall_clock()
        # SQLite asks the machine itself, but knows milliseconds only.
        return seen if abs(seen - real) < _SECOND_NANOSECONDS else real

    def register(
        self,
        now: int,
        *,
        takes_work: bool = True,
        workflows: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
    ) -> Claim:
        """Enter a worker; return its claim, with an epoch above all earlier ones; see `Store.register`.

        The seat in the lock file is taken before the row is there, and tells the epoch after it: so a row whose epoch
        no process holds is that of a worker that died.
        """
        slot = self._members.take_seat()
        served = [None if names is None else to_json(sorted(names)) for names in (workflows, queues)]

        def insert() -> tuple[int, Evidence]:
            parameters = (os.getpid(), os.uname().nodename, now, slot, int(takes_work), *served)
            rows: list[Any] = self._execute("worker_registered", parameters).fetchall()
            epoch: int = rows[0][0]
            self._execute("workers_forgotten", (epoch - KEPT_WORKERS, _MAX_FORGOTTEN))
            return epoch, (_SQL["evidence_of_worker"], (epoch,))

        epoch = self._write(None, insert)
        self._members.announce(epoch, takes_work=takes_work)
        return Claim(epoch)

    def reap(self, claim: Claim, now: int) -> int:
        """End the workers that are dead, and release their runs; return how many runs there were; see `Store.bury`."""

        def end_the_dead() -> tuple[int, None]:
            workers: list[Any] = self._execute("workers_not_ended", ()).fetchall()
            dead = [epoch for epoch, slot in workers if epoch != claim.epoch and not self._is_seated(slot, epoch)]
            for epoch in dead:
                self._writer.applier.acts.died(epoch, now, claim.epoch)
                self._execute("worker_fenced", (epoch, now))
            return sum(self._release_runs_of(epoch, now, crashed=True) for epoch in dead), None

        return self._write(claim, end_the_dead)

    def fence(self, epoch: int, now: int, actor: Actor | None = None) -> int:
        """End the worker with this epoch, dead or not, and release its runs; return how many; see `Store.fence`."""

        def fence() -> tuple[int, Evidence]:
            if actor is not None:
                self._writer.applier.acts.fenced(epoch, now, actor)
            self._execute("worker_fenced", (epoch, now))
            self._writer.applier.told.add(epoch)  # should it live, it finds out what happened when it looks
            return self._release_runs_of(epoch, now, crashed=False), (_SQL["evidence_of_fence"], (epoch,))

        return self._write(None, fence)

    def _release_runs_of(self, epoch: int, now: int, *, crashed: bool) -> int:
        """Leave the runs of a worker to anyone who claims them; return how many there were."""
        self._execute("crashes_counted", (epoch, now, int(crashed)))
        self._execute("runs_of_worker_released", (epoch, now, SUSPECT_CRASHES))
        count = self._connection.changes()
        self._writer.applier.entries.worker_over(epoch)
        if count:
            self._execute("stale_wakes_deleted", ())
            self._writer.applier.made_work = True
        return count

    def _is_seated(self, slot: int | None, epoch: int) -> bool:
        # A row without a slot was written by the first schema, whose workers are gone.
        return slot is not None and self._members.is_seated(slot, epoch)

    # --- other processes
    # -----------------------------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """Return the workers that have not ended, oldest first, with what the kernel says of their processes."""
        return self._reader.members(
            lambda seats: {
                epoch: self._members.state_of(slot) if self._members.is_seated(slot, epoch) else "dead"
                for epoch, slot in seats
            }
        )

    def watch(self, callback: Callable[[Notification], None]) -> None:
        """Have `callback` called, from a thread of the store's, with what happens in other processes."""
        listen_to(self._members, callback)

    def listen(self, on: bool) -> None:
        """Say whether this worker wants to hear of ``ends``. Read the run's state after saying so, not before."""
        self._members.listen(on)

    def ask(self, epochs: Sequence[int], timeout_seconds: float) -> dict[int, Answer]:
        """Ask workers whether they still work; see `Store.ask`."""
        return self._members.ask(epochs, timeout_seconds)

    # --- writing
    # -------------------------------------------------------------------------------------------------------------

    def commit(self, units: Sequence[Unit], claim: Claim) -> list[Outcome]:
        """Apply all units in one transaction and make it durable; see `Store.commit`.

        The body of a unit runs before its changes are applied, in a savepoint of its own, and never twice.
        """
        return self._writer.commit(units, claim)

    def transaction(self, claim: Claim) -> AbstractContextManager[StoreTransaction]:
        """Open a transaction for code outside of workflows; see `Store.transaction`."""
        return self._writer.transaction(claim)

    def purge(self, ended_before: int, limit: int, claim: Claim) -> int:
        """Delete up to `limit` runs that ended before a time, the longest ended first; return how many.

        A child whose parent has not ended stays: the parent may still ask for its result.
        """

        def delete() -> tuple[int, None]:
            keys = [key for (key,) in self._execute("purgeable", (ended_before, limit))]
            encoded = msgspec.json.encode(keys).decode()
            if keys:
                for name in _PURGE:
                    self._execute(name, (encoded,))
            return len(keys), None

        return self._write(claim, delete)

    def close(self, claim: Claim | None, now: int) -> None:
        """Mark the worker as ended, fold the write-ahead log into the file and let go of it; harmless when repeated.

        The file is let go of in any case. Where the disk is full, or does not write for another passing reason, the
        worker goes without that mark: others find it gone by its lock, as they do after a crash. Raises `StoreFailed`
        where the log cannot be folded for an error of the disk; a reader of another program is none: the log stays
        then, and nothing is lost. In a forked child raises `EngineClosed` and touches nothing.
        """
        if self._closed:
            return
        self._database.check_process()
        self._closed = True
        try:
            if self._writer.failed is None and claim is not None:
                self._end_worker(claim, now)
            self._reader.close()
            self._queries.close()
            if self._writer.failed is None and not self._members.others() and not self._is_lent():
                self._fold_log()
        finally:
            self._writer.closed = True
            self._reader.close()
            self._queries.close()
            self._connection.set_wal_hook(None)
            self._connection.authorizer = None
            self._database.close()

    def _end_worker(self, claim: Claim, now: int) -> None:
        def end() -> tuple[None, None]:
            self._execute("worker_ended", (claim.epoch, now))
            self._release_runs_of(claim.epoch, now, crashed=False)
            return None, None

        try:
            self._write(None, end)
        except StoreUnavailable as error:
            _log.warning("%s. The engine closes without a last write; nothing recorded is lost", error)

    def _is_lent(self) -> bool:
        """Tell whether a transaction of user code is open, which ends with the connection."""
        try:
            return self._connection.in_transaction
        except apsw.ThreadingViolationError:
            return True

    def _fold_log(self) -> None:
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (apsw.BusyError, apsw.FullError):
            return
        except apsw.Error as error:
            raise StoreFailed(
                f"{self.location}: the write-ahead log could not be folded into the file ({error}). Nothing is lost as "
                "long as the file and its -wal file stay together; check the disk, then start the engine again"
            ) from error

    def _write(self, claim: Claim | None, action: Callable[[], tuple[_T, Evidence | None]]) -> _T:
        """Run `action` in a transaction of its own; it returns the result and, where needed, evidence of itself."""
        self._writer.begin(claim)
        try:
            result, evidence = action()
        except Exception as error:
            raise self._writer.abandon(error) from error
        self._writer.finish(claim, evidence)
        return result

    def _execute(self, name: str, parameters: tuple[object, ...]) -> apsw.Cursor:
        return self._connection.execute(_SQL[name], parameters)
