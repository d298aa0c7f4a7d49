"""The store that keeps runs in one SQLite file: opening and closing it, and its parts put together."""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Literal, TypeVar, cast

import apsw
import msgspec

from stepwell.errors import StepwellError, StoreFailed, StoreUnavailable
from stepwell.model.acts import Actor
from stepwell.model.run import Claim
from stepwell.store.archives import Archived, OpenArchive
from stepwell.store.inspector import Inspector
from stepwell.store.membership import Membership
from stepwell.store.notifications import Notifications
from stepwell.store.sql.aftermath import Evidence
from stepwell.store.sql.bulk_acts import PURGE
from stepwell.store.sql.inspector import SqlInspector
from stepwell.store.sql.worker_reads import SqlWorkerReads
from stepwell.store.sql.workers import WorkerRows
from stepwell.store.sqlite.file.opening import Database, open_database
from stepwell.store.sqlite.membership import SqliteMembership
from stepwell.store.sqlite.peers.notifier import Members, SqliteNotifications
from stepwell.store.sqlite.read_pool import ReadPool
from stepwell.store.sqlite.statements import SQL
from stepwell.store.sqlite.user_queries import UserQueries
from stepwell.store.sqlite.writer import WAL_LIMIT_BYTES, Writer
from stepwell.store.store import Outcome, StoreTransaction, Unit, WritersLock
from stepwell.store.worker_reads import WorkerReads
from stepwell.values.own_tables import Parameters, Rows

if TYPE_CHECKING:
    from stepwell.store.sqlite.archive import ArchiveFile

_log: Final = logging.getLogger("stepwell")

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
        self._pool = ReadPool(database)
        self.inspector: Inspector = SqlInspector(self._pool, SQL)
        self.reads: WorkerReads = SqlWorkerReads(self._pool, SQL)
        self._queries = UserQueries(database)
        self._database = database
        self._connection = database.writer
        self._members: Members = database.membership if members is None else members
        self._writer = Writer(database, self._members, wal_limit_bytes=wal_limit_bytes)
        self._workers = WorkerRows(self._connection, SQL, self._writer.applier)
        self.membership: Membership = SqliteMembership(self._members, self._workers, self._pool, self._write)
        self.notifications: Notifications = SqliteNotifications(self._members)
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

    def query(self, sql: str, parameters: Parameters) -> Rows:
        """Return the rows of a query of the user's; see `Store.query`."""
        return self._queries.execute(sql, parameters)

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

    def upkeep_is_due(self) -> bool:
        """Tell whether the write-ahead log is about to be copied into the file; see `Store.upkeep_is_due`."""
        return self._writer.log.is_nearly_full

    def check_in_place(self) -> None:
        """Raise where the file, or one that belongs to it, was deleted or replaced; see `Store.check_in_place`."""
        self._database.check_in_place()

    def purge(self, ended_before: int, limit: int, claim: Claim) -> int:
        """Delete up to `limit` runs that ended before a time, the longest ended first; return how many.

        A child whose parent has not ended stays: the parent may still ask for its result.
        """

        def delete() -> tuple[int, None]:
            keys = [key for (key,) in self._execute("purgeable", (ended_before, limit))]
            encoded = msgspec.json.encode(keys).decode()
            if keys:
                for name in PURGE:
                    self._execute(name, (encoded,))
            return len(keys), None

        return self._write(claim, delete)

    def open_archive(self, path: str) -> OpenArchive:
        """Open an archive; see `Store.open_archive`."""
        from stepwell.store.sqlite.archive import ArchiveFile

        return ArchiveFile(path, self.location)

    def archive(
        self, keys: Sequence[int], into: OpenArchive, actor: Actor, at: int, claim: Claim
    ) -> Archived | StepwellError:
        """Move some of these runs into an archive; see `Store.archive`."""
        archive = cast("ArchiveFile", into)  # `open_archive` made it
        return self._write(claim, lambda: (archive.move(keys, self._connection.execute, actor, at), None))

    def close(self, claim: Claim | None, now: int) -> None:
        """Mark the worker as ended, fold the write-ahead log into the file and let go of it; harmless when repeated.

        The file is let go of in any case. Where the disk is full, or does not write for another passing reason, the
        worker goes without that mark: others find it gone by its lock, as they do after a crash. Raises `StoreFailed`
        where the log cannot be folded for an error of the disk; a reader of another program is none: the log stays
        then, and nothing is lost. Raises `FileNotUsable` where one of the file's names is another file's or nobody's.
        In a forked child raises `EngineClosed` and touches nothing.
        """
        if self._closed:
            return
        self._database.check_process()
        self._closed = True
        try:
            if self._writer.failed is None:
                self._database.check_in_place()
                if claim is not None:
                    self._end_worker(claim, now)
            self._pool.close()
            self._queries.close()
            if self._writer.failed is None and not self._members.others() and not self._is_lent():
                self._fold_log()
        finally:
            self._writer.closed = True
            self._pool.close()
            self._queries.close()
            self._connection.set_wal_hook(None)
            self._connection.authorizer = None
            self._database.close()

    def _end_worker(self, claim: Claim, now: int) -> None:
        def end() -> tuple[None, None]:
            self._workers.ended(claim.epoch, now)
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
        return self._connection.execute(SQL[name], parameters)
