"""Looking into a file: any SQLite tool may read it so, beside running workers or without any."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from stepwell.api.reading.file_reads import file_reads
from stepwell.api.reading.read_service import ReadService
from stepwell.errors import RunNotFound
from stepwell.model.run import RunRecord

#: How many ids are named where one is not found.
_NAMED: Final = 5


def reads(db: str) -> AbstractContextManager[ReadService]:
    """Open a file for reading; raises as `file_reads` does."""
    return file_reads(db, f"`stepwell list --db {db}`", f"`stepwell queues --db {db}`")


def meant(read: ReadService, run: str) -> str:
    """Return the id that is meant by itself, or by a beginning that no other id has.

    Raises `RunNotFound` where it is neither, with those that begin so.
    """
    try:
        return read.record(run).id
    except RunNotFound as error:
        found = read.infos(id_prefix=run, limit=_NAMED + 1) if run else []
        if len(found) == 1:
            return found[0].id
        if not found:
            raise
        more = ", …" if len(found) > _NAMED else ""
        names = ", ".join(repr(info.id) for info in found[:_NAMED])
        raise RunNotFound(f"{error}; those that begin so: {names}{more}") from None


def schema_of(db: str) -> str:
    """Return the SQL of the tables, indexes and views of the file."""
    with reads(db) as read:
        return read.schema()


def record_of(db: str, run: str) -> RunRecord:
    """Return the run that is meant, see `meant`.

    Looking first means that a wrong path neither makes a file nor changes one.
    """
    with reads(db) as read:
        return read.record(meant(read, run))
