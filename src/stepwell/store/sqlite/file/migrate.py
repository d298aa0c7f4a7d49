"""Bring a file to the schema of this release: numbered scripts, all in one transaction, after a backup.

``PRAGMA application_id`` marks a file as Stepwell's and ``PRAGMA user_version`` holds the number of the last script
that was applied; both are part of the transaction, so a file is at one version or at another and never between. Whoever
comes second, or comes again after a crash, reads the version under the write lock and finds nothing left to do.

Scripts are ``0001_some_name.sql``, ``0002_…`` without gaps. They hold no BEGIN or COMMIT, and they are never edited
once released. Foreign keys are off while they run, as SQLite's procedure for rebuilding a table asks, and are checked
before the commit. A script may also replace the text of a table in ``sqlite_schema`` (``PRAGMA writable_schema``),
where a constraint changes and no row does.

A new file begins with ``baseline_000N.sql``, which makes in a third of the time what the scripts up to N make of an
empty one. It is made from them, and a test compares the two (`tests/store/test_baseline.py`).

The backup of a file at version N is ``<database>-backup-v<N>``, made page by page by SQLite's backup API (`VACUUM INTO`
would renumber rowids of the user's tables), checked, and renamed into place only when it is on disk. Whether there is
room for it and for the migration is looked at first, since what a disk that fills half-way says is less clear.
"""

# ruff: noqa: PTH112, PTH118, PTH120, PTH123, PTH208 -- SQLite's paths are strings
# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import apsw
import msgspec

from stepwell.errors import FileNotUsable, SchemaTooNew, StorageFull, StoreError
from stepwell.store.sqlite.file import copying, paths

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

#: "Stwl" in ASCII, in the header of every file of ours (bytes 68 to 71); the `file` program prints it as a number.
APPLICATION_ID: Final = 0x53_74_77_6C

_DIGITS: Final = 4
_BASELINE: Final = "baseline_"
#: What the migration itself may write for each byte of the database: the tables that it builds anew stand in the log
#: before they stand in the file.
_WRITTEN_SHARE: Final = 2
_MEGABYTE: Final = 1_000_000

_log: Final = logging.getLogger("stepwell")


class Migration(msgspec.Struct, frozen=True):
    """One script: its number, its name, where its SQL is, and that of the baseline up to it where there is one.

    Their text is read when it is applied: most files that are opened lack no script.
    """

    number: int
    name: str
    source: str | Traversable
    baseline: str | Traversable | None = None

    @property
    def sql(self) -> str:
        """Return the text of the script."""
        return _text(self.source)


def load_migrations(folder: str | Traversable | None = None) -> tuple[Migration, ...]:
    """Return the scripts in `folder` in order; by default those of the package.

    Raises `FileNotUsable` where the numbers do not run 1, 2, 3, … without gaps: the installation is damaged.
    """
    where = package_folder() if folder is None else folder
    if isinstance(where, str):
        files: dict[str, Any] = {name: os.path.join(where, name) for name in os.listdir(where)}
    else:
        files = {file.name: file for file in where.iterdir()}
    scripts = {name: file for name, file in files.items() if name.endswith(".sql")}
    baselines = {name: scripts.pop(name) for name in list(scripts) if name.startswith(_BASELINE)}
    found = [_migration(name, file, baselines) for name, file in scripts.items()]
    found.sort(key=attrgetter("number"))
    numbers = [migration.number for migration in found]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise FileNotUsable(
            f"The migrations in {str(where)!r} are numbered {numbers}, which has gaps or doubles. "
            "The installation is damaged: install the package again."
        )
    return tuple(found)


def migrate(connection: apsw.Connection, path: str, migrations: Sequence[Migration]) -> int:
    """Apply to the file at `path`, open on `connection`, those of `migrations` it lacks; return the version it had.

    The connection is in autocommit mode before and after, with foreign keys on and defensive. Raises `SchemaTooNew`
    where the file is ahead of `migrations`, `StorageFull` where there is no room for a backup and the migration,
    `FileNotUsable` where a script fails on what is in the file, `apsw.Error` where the disk or a lock fails; the file
    is then as it was.
    """
    target = migrations[-1].number
    version = version_of(connection)
    check_version(version, target, path)
    if version == target:
        return target
    connection.pragma("foreign_keys", 0)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Only now is it certain: another process may have migrated between the look above and the lock.
            version = version_of(connection)
            check_version(version, target, path)
            backup = None
            if 0 < version < target:
                check_room(path, version, target)
                backup = back_up(path, version)
            for migration in _lacking(migrations, version):
                _apply(connection, migration, path)
            if version < target:
                _check_foreign_keys(connection, path)
                connection.pragma("application_id", APPLICATION_ID)
                connection.pragma("user_version", target)
            connection.execute("COMMIT")
            if backup is not None:
                _log.info(
                    "%r was brought from schema version %d to %d; as it was before it is in %r, which you may delete",
                    path,
                    version,
                    target,
                    backup,
                )
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    finally:
        connection.pragma("writable_schema", 0)  # a script may have failed half-way
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.pragma("foreign_keys", 1)
    return version


def version_of(connection: apsw.Connection) -> int:
    """Return the number of the last script that was applied to the file, 0 for an empty one."""
    return int(connection.pragma("user_version"))


def check_version(version: int, target: int, path: str) -> None:
    """Raise `SchemaTooNew` where the file's `version` is above `target`, the newest that this release knows."""
    if version > target:
        raise SchemaTooNew(
            f"{path!r} has schema version {version}, this release of Stepwell knows versions up to {target}. The file "
            "was not touched. Upgrade the package (pip install --upgrade stepwell), or go back to a backup made "
            f"before the upgrade (they are named {path}-backup-v<version>)."
        )


def check_room(path: str, version: int, target: int) -> None:
    """Raise `StorageFull` unless the disk has room for a backup of the file at `path` and for its migration."""
    holds = sum(paths.size_bytes(path + suffix) or 0 for suffix in ("", paths.WAL_SUFFIX))
    needed = holds * (1 + _WRITTEN_SHARE)
    found = os.statvfs(os.path.dirname(path))
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise StorageFull(
            f"{path!r} has schema version {version}. To bring it to version {target}, which this release of Stepwell "
            f"needs, a backup is made beside it first; that and the migration may take {needed / _MEGABYTE:,.1f} MB, "
            f"and its disk has {free / _MEGABYTE:,.1f} MB free. Nothing was touched: free some space and start "
            "again, or go on with the previous release."
        )


def back_up(path: str, version: int) -> str:
    """Copy the database at `path` to a checked backup beside it and return the backup's path.

    The caller holds the write lock, so what is copied is the last commit. A backup of the same name, or half of one
    left by a crash, is replaced.
    """
    target = f"{path}-backup-v{version}"
    partial = target + "-partial"
    copying.discard(partial)
    try:
        copying.copy_database(path, partial)
        _check_copy(partial, version)
        copying.publish(partial, target)
    except BaseException:
        with suppress(OSError):
            copying.discard(partial)
        raise
    return target


def _check_copy(partial: str, version: int) -> None:
    copy = copying.open_plain(partial, "rw")
    try:
        alone = copying.standing_alone(copy)
        verdict: list[tuple[Any, ...]] = copy.execute("PRAGMA quick_check(1)").fetchall()
        if not alone or verdict != [("ok",)] or version_of(copy) != version:
            raise FileNotUsable(
                f"The backup before the migration, {partial!r}, is not sound ({verdict[0][0]}), so the file is damaged "
                "as well and was not migrated. Restore it from an earlier backup, or rescue it with SQLite's "
                "`.recover`."
            )
    finally:
        copy.close()


def _apply(connection: apsw.Connection, migration: Migration, path: str) -> None:
    try:
        for _ in connection.execute(migration.sql):
            pass
    except (apsw.SQLError, apsw.ConstraintError, apsw.MismatchError) as error:
        raise FileNotUsable(
            f"Migration {migration.number} ({migration.name}) of {path!r} failed: {error}. The file is as it was "
            "before; go on with the previous release, and report this."
        ) from error
    if not connection.in_transaction:
        raise StoreError(f"migration {migration.number} ({migration.name}) ended the transaction that it ran in")


def _check_foreign_keys(connection: apsw.Connection, path: str) -> None:
    """Check the engine's tables only: what the user's tables hold is not for a migration to judge."""
    broken = connection.execute(
        'SELECT v."table", v.rowid, v.parent FROM sqlite_schema AS s, pragma_foreign_key_check(s.name) AS v '
        "WHERE s.type = 'table' AND s.name LIKE 'stepwell\\_%' ESCAPE '\\'"
    ).fetchone()
    if broken is not None:
        raise FileNotUsable(
            f"Migrating {path!r} would leave row {broken[1]} of table {broken[0]!r} without the row of {broken[2]!r} "
            "that it refers to. The file is as it was before; go on with the previous release, and report this."
        )


def _lacking(migrations: Sequence[Migration], version: int) -> Sequence[Migration]:
    """Return what a file at `version` lacks; an empty one is given the newest baseline for all scripts up to it."""
    if version == 0:
        for migration in reversed(migrations):
            if migration.baseline is not None:
                begins = Migration(migration.number, "baseline", migration.baseline)
                return [begins, *migrations[migration.number :]]
    return migrations[version:]


def _text(source: str | Traversable) -> str:
    if isinstance(source, str):
        with open(source, encoding="utf-8") as file:
            return file.read()
    return source.read_text("utf-8")


def _migration(file_name: str, file: str | Traversable, baselines: dict[str, str | Traversable]) -> Migration:
    number, _, name = file_name.removesuffix(".sql").partition("_")
    if len(number) != _DIGITS or not number.isdigit():
        raise FileNotUsable(f"The migration {file_name!r} has no number of four digits. Install the package again.")
    return Migration(int(number), name, file, baselines.get(f"{_BASELINE}{number}.sql"))


def package_folder() -> str | Traversable:
    """Return the folder with the migrations of this version."""
    folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), "migrations")
    if os.path.isdir(folder):
        return folder
    # The package is not in a folder (a zip file, say). Imported late: it takes 20 ms, which nobody else should pay.
    from importlib.resources import files  # noqa: PLC0415 -- see above

    return files("stepwell.store.sqlite").joinpath("migrations")
