"""Archives: files of the same schema into which runs that have ended are moved.

Two files are not committed at one moment, so the order decides: a page of runs is copied, and that is on the disk,
before it is deleted. The whole time the writers' lock of the file is held, so what is deleted is what was copied. Where
the process dies between the two commits, the runs stand in both files; the next call with that archive replaces what
it has of them, and deletes them. Nothing is lost, and nothing is doubled for longer than until then.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import apsw

from stepwell.errors import InvalidArgument, StepwellError, StoreFailed
from stepwell.model.acts import Actor
from stepwell.store.archives import Archived
from stepwell.store.sql.bulk_acts import PURGE
from stepwell.store.sql.connection import Execute
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sqlite.faults import translate
from stepwell.store.sqlite.file import paths
from stepwell.store.sqlite.file.locking import Identity
from stepwell.store.sqlite.file.opening import open_database
from stepwell.store.sqlite.statements import SQL

#: So many journal entries, or runs, are moved in one commit, and more only where one run has more: some hundredths of a
#: second for which every other writer waits.
_ENTRIES: Final = 5_000
_RUNS: Final = 100
#: From which size on the log of the archive is folded in after a page.
_LOG_BYTES: Final = 4_000_000

#: The copies, rows that others refer to first.
_COPIES: Final = (
    "archive_steps",
    "archive_runs",
    "archive_chapters",
    "archive_messages",
    "archive_values",
    "archive_summaries",
    "archive_progress",
    "archive_streams",
    "archive_stream_items",
    "archive_attributes",
    "archive_tags",
    "archive_settlements",
    "archive_promises",
    "archive_acts",
)
_SHIFTED: Final = ("archive_journals", "archive_runs_shifted", "archive_chapters_shifted")


class ArchiveFile:
    """An archive that is open, of runs of the file at the real path `source`; to be used by one thread at a time.

    Raises `InvalidArgument` where it is that file itself, and what opening a file raises.
    """

    def __init__(self, path: str | os.PathLike[str], source: str) -> None:
        real = paths.resolve(path)
        if Identity.of(real) is not None and Identity.of(real) == Identity.of(source):
            raise InvalidArgument(f"{real!r} is the file itself; give another path for its archive")
        self.path: Final = real
        self._database = open_database(real, durability="full")
        try:
            self._connection = self._database.writer
            self._connection.execute("ATTACH ?1 AS source", (paths.uri(source, "rw"),))
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Fold its log into it, and let go of it."""
        try:
            self._connection.execute("DETACH source")
            self._database.truncate_wal()
        finally:
            self._database.close()

    def move(self, keys: Sequence[int], execute: Execute, actor: Actor, at: int) -> Archived | StepwellError:
        """Copy some of these runs, durably, and delete them by `execute`, in the open transaction of the file.

        Returns why the archive could not take them, where it could not: then nothing was deleted.
        """
        page, rest = self._page(keys, execute)
        try:
            moved, there = self._taken(page, actor, at)
        except InvalidArgument as error:
            return error
        except apsw.Error as error:
            fault = translate(error, self.path)
            # Of the archive: the file itself is well, and the engine on it goes on.
            return (
                InvalidArgument(f"the archive cannot be written: {fault}") if isinstance(fault, StoreFailed) else fault
            )
        for name in PURGE if moved else ():
            execute(SQL[name], (to_json(moved),))
        return Archived(len(moved), there, rest)

    def _taken(self, page: dict[int, str], actor: Actor, at: int) -> tuple[list[int], list[str]]:
        """Return the keys of the runs that the archive has now, and the ids of those that it cannot take.

        Raises `InvalidArgument` where it has other runs under their keys, `apsw.Error`.
        """
        rows: list[tuple[Any, ...]] = self._connection.execute(
            SQL["archive_strangers"], (to_json(list(page)),)
        ).fetchall()
        strangers = [(str(run_id), bool(is_taken)) for _, run_id, is_taken in rows]
        taken = [run_id for run_id, is_taken in strangers if is_taken]
        if taken:
            raise InvalidArgument(
                f"{self.path!r} has other runs in the places of these ({taken[0]!r}, say): it is an archive of another "
                "file, or of this one before a backup was restored. Give the path of another archive"
            )
        there = {run_id for run_id, _ in strangers}
        moved = [key for key, run_id in page.items() if run_id not in there]
        if moved:
            self._copy(to_json(moved), actor, at)
        return moved, [run_id for run_id in page.values() if run_id in there]

    def _page(self, keys: Sequence[int], execute: Execute) -> tuple[dict[int, str], list[int]]:
        """Return the runs to move now, id by key, and the keys of those that are left for another commit."""
        page: dict[int, str] = {}
        total = 0
        found = execute(SQL["archivable"], (to_json(list(keys)),)).fetchall()
        for number, (key, run_id, entries) in enumerate(found):
            if page and (total + entries > _ENTRIES or len(page) == _RUNS):
                return page, [key for key, _, _ in found[number:]]
            page[key] = run_id
            total += entries
        return page, []

    def _copy(self, keys: str, actor: Actor, at: int) -> None:
        connection = self._connection
        connection.execute("BEGIN")
        try:
            for name in PURGE:  # what an earlier call copied, and was ended before it was deleted
                connection.execute(SQL[name], (keys,))
            shift = connection.execute(SQL["archive_shift"], (keys,)).fetchall()[0][0]
            for name in _COPIES:
                connection.execute(SQL[name], (keys,))
            for name in _SHIFTED:
                connection.execute(SQL[name], (keys, shift))
            connection.execute(SQL["archive_noted"], (keys, at, actor.by, actor.reason))
            connection.execute("COMMIT")
            if (paths.size_bytes(self.path + paths.WAL_SUFFIX) or 0) > _LOG_BYTES:
                # Else the log would take as much of the disk as the archive; what was committed is safe in either.
                connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
