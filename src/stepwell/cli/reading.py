"""Looking into a file: any SQLite tool may read it so, beside running workers or without any."""

from __future__ import annotations

from contextlib import AbstractContextManager

from stepwell.api.read_service import ReadService, file_reads
from stepwell.model.run import RunRecord


def reads(db: str) -> AbstractContextManager[ReadService]:
    """Open a file for reading; raises as `file_reads` does."""
    return file_reads(db, f"`stepwell list --db {db}`", f"`stepwell queues --db {db}`")


def record_of(db: str, run: str) -> RunRecord:
    """Return the run that is meant. Looking first means that a wrong path neither makes a file nor changes one."""
    with reads(db) as read:
        return read.record(run)
