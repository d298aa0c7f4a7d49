"""Reading a file without being one of its workers: for looking into it from outside, whoever has it open.

Such a reader is to the engines what any other SQLite tool is: short reads, no lock file, no row in the file, nothing
made or migrated. A log that a dead worker left is read, and stays for the next worker to fold in.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

import apsw

from stepwell.errors import FORK_ADVICE, EngineClosed, FileNotUsable
from stepwell.model.run import Member, MemberState
from stepwell.store.sql.inspector import SqlInspector
from stepwell.store.sql.workers import WorkerReader
from stepwell.store.sqlite.file import locking, migrate, mounts, paths
from stepwell.store.sqlite.file.connecting import (
    check_library,
    connect,
    mode_of_looking,
    reader_pragmas,
    set_pragmas,
    translate,
)
from stepwell.store.sqlite.file.locking import Identity
from stepwell.store.sqlite.file.logs_beside import check_logs_from_outside
from stepwell.store.sqlite.read_pool import ReadPool
from stepwell.store.sqlite.statements import SQL

if TYPE_CHECKING:
    from stepwell.store.sql.worker_reads import SqlWorkerReads
    from stepwell.store.sqlite.file_facts import FileFacts
    from stepwell.store.sqlite.limited_query import QueryAnswer, QueryBounds

#: After how many steps of SQLite's machine, some microseconds each hundred, it is looked whether time is up.
_STEPS_BETWEEN_LOOKS: Final = 20_000


class _File:
    """A `stepwell.store.sqlite.read_pool.Readable` that nobody in this process works on.

    All its reads together may take so many `seconds`; None does not bound them.
    """

    def __init__(self, path: str, seconds: float | None = None) -> None:
        self.path = path
        self._ends_at = None if seconds is None else time.monotonic() + seconds
        self._identity = Identity.of(path)
        self._process_id = os.getpid()
        self._connections: list[apsw.Connection] = []

    def check_process(self) -> None:
        if os.getpid() != self._process_id:
            raise EngineClosed(
                f"{self.path!r} was opened by process {self._process_id}, from which this one was forked. {FORK_ADVICE}"
            )

    def check_identity(self) -> None:
        if Identity.of(self.path) != self._identity:
            raise FileNotUsable(f"{self.path!r} was deleted or replaced while it was read; look again")

    def connect_reader(self) -> apsw.Connection:
        connection = connect(self.path, mode_of_looking(self.path))
        self._connections.append(connection)
        set_pragmas(connection, self.path, reader_pragmas())
        if self._ends_at is not None:
            connection.set_progress_handler(self._is_overdue, _STEPS_BETWEEN_LOOKS)
        return connection

    def _is_overdue(self) -> bool:
        return self._ends_at is not None and time.monotonic() > self._ends_at

    def close(self) -> None:
        for connection in self._connections:
            with suppress(apsw.ConnectionClosedError):  # by the pool, after an error that is told by now
                if not paths.size_bytes(self.path + paths.WAL_SUFFIX):
                    # Nothing to fold in: where nobody else has the file, let SQLite remove the empty log and its index.
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
                connection.close()


class Look(SqlInspector):
    """The read side, and what can be said of the workers without being one."""

    def __init__(self, file: _File, path: str) -> None:
        pool = ReadPool(file)
        self._file = file
        super().__init__(pool, SQL)
        self._workers = WorkerReader(pool, SQL)
        self._path, self._pool = path, pool
        self._lock_path = path + paths.LOCK_SUFFIX

    @cached_property
    def runs(self) -> SqlWorkerReads:
        """What workers read of runs, for whoever replays them without being one."""
        from stepwell.store.sql.worker_reads import SqlWorkerReads

        return SqlWorkerReads(self._pool, SQL)

    def workers(self) -> list[Member]:
        """Return the workers that have not ended, by age, with what the kernel says of their processes.

        Where this process itself has the file open in an engine, all count as active: only that engine can ask.
        """
        return self._workers.members(self._states_of)

    def last_at(self) -> int:
        """Return the newest time in the file, 0 for an empty one."""
        return self._workers.last_at()

    def facts(self, now: int) -> FileFacts:
        """Return the facts about the file itself; `now` is the present time."""
        from stepwell.store.sqlite.file_facts import file_facts

        return file_facts(self._path, self._pool, self.last_at(), now)

    def query(self, sql: str, most: QueryBounds) -> QueryAnswer:
        """Return what a query of somebody's reads, within these bounds; see `limited_query`."""
        from stepwell.store.sqlite.limited_query import limited_query

        return limited_query(self._file.connect_reader(), sql, most, self._path)

    def _states_of(self, seats: list[tuple[int, int]]) -> dict[int, MemberState]:
        from stepwell.store.sqlite.peers.membership import states_of

        found = locking.look(self._lock_path, partial(states_of, seats=seats))
        return dict.fromkeys((epoch for epoch, _ in seats), "active") if found is None else found


@contextmanager
def look_into(path: str | os.PathLike[str], seconds: float | None = None) -> Generator[Look]:
    """Open an existing file for reading, for the length of a ``with`` block.

    All reads in it together may take so many `seconds` (None: any), then they raise `ReadTooLong`. Raises
    `FileNotUsable` where there is no file, or none of ours, or one of an older release that no worker of this one has
    opened yet; `SchemaTooNew`; `FileInUse` where a program holds a lock that shuts readers out.
    """
    check_library(apsw.sqlite_lib_version())
    real = paths.resolve(path, to_look=True)
    if not os.path.exists(real):  # noqa: PTH110 -- SQLite's paths are strings
        raise FileNotUsable(f"There is no file {real!r}. Give the path of the file that the workers have open.")
    mounts.check_mount(real)
    check_logs_from_outside(real)
    newest = migrate.load_migrations()[-1].number
    file = _File(real, seconds)
    try:
        _check_contents(file.connect_reader(), real, newest)
        yield Look(file, real)
    except apsw.Error as error:
        raise translate(error, real) from error
    finally:
        file.close()


def _check_contents(connection: apsw.Connection, path: str, newest: int) -> None:
    mark, version = int(connection.pragma("application_id")), migrate.version_of(connection)
    if mark == version == 0 and not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
        raise FileNotUsable(f"{path!r} is empty: no worker has opened it yet. Start one, or give another path.")
    if mark != migrate.APPLICATION_ID:
        raise FileNotUsable(f"{path!r} is an SQLite database, but not Stepwell's (application_id {mark:#x}).")
    migrate.check_version(version, newest, path)
    if version < newest:
        raise FileNotUsable(
            f"{path!r} has schema version {version}, this release of Stepwell reads version {newest}. A worker of this "
            "release brings it up to date when it opens it (workers of the older one have to stop first)."
        )
