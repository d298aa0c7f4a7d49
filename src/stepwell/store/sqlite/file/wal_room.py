"""Room in the write-ahead log: zeros behind its end, written ahead of need.

A commit writes at the end of the log and syncs it. Where that makes the file longer, the sync has to make the file
system's own records durable as well: on ext4 writing and syncing a page took 184 µs, and 105 µs over blocks that were
there (ADR 0018). So the log is lengthened now and then by a piece of zeros, which costs 1.3 ms for each MiB, and
the commits after that write over them. SQLite takes zeros for the end of the log, as it takes what is left of an older
log: a frame counts only with the salt of the present one.

Zeros may be written only behind the end of the file, and only by who holds SQLite's write lock, that is inside a
transaction: nobody else can lengthen the log then, with whatever tool. An empty log gets none. It may have been cut
off just now, and a power loss may bring back what it held: all of it, which the database has, or nothing. With zeros in
some of its places the beginning of it would pass for a log, and be put over newer pages. SQLite syncs the head of a log
before it writes more, so from then on the old content is gone for good.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

import apsw

from stepwell.store.sqlite.file import paths
from stepwell.store.sqlite.statements import SQL

#: The first piece is this part of the size at which the log starts afresh; each further one doubles the log, up to
#: `_LAST_PIECE`.
_FIRST_PIECE: Final = 16
_LAST_PIECE: Final = 4
#: Of the log, and of each page in it: https://sqlite.org/fileformat2.html#walformat
_HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
#: With less space than this on the disk, the log grows by what is committed and nothing more.
_SPARE_BYTES: Final = 64 * 1024 * 1024


class LogRoom:
    """The log at `path`, which exists, and stays where it is until `close`.

    No lock is ever taken on that file, so a descriptor of it beside SQLite's own does no harm.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def make(self, needed_bytes: int, limit_bytes: int) -> int:
        """Lengthen the log where it is shorter than `needed_bytes`; return its length.

        `limit_bytes` is the size at which the log starts afresh: beyond that, room is needed once only, and not made.
        Called inside a transaction. Room is a favour: without it, commits take longer, and nothing else. So errors of
        the disk are left to SQLite, which will meet them.
        """
        if self._descriptor < 0:
            return 0
        length = 0
        with suppress(OSError):
            length = os.fstat(self._descriptor).st_size
            piece = min(max(length, limit_bytes // _FIRST_PIECE), limit_bytes // _LAST_PIECE)
            wanted = min(max(length + piece, needed_bytes), limit_bytes)
            if 0 < length < needed_bytes <= wanted and _has_space(self._descriptor):
                try:
                    write_zeros(self._descriptor, length, wanted)
                except OSError:
                    os.ftruncate(self._descriptor, length)
                    raise
                length = wanted
        return length

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def write_zeros(descriptor: int, begin: int, end: int) -> None:
    """Write zeros to a file from one offset to another; raise `OSError` where not all of them could be written."""
    while begin < end:
        begin += os.pwrite(descriptor, bytes(end - begin), begin)


def cut_failed_commit(connection: apsw.Connection, path: str) -> None:
    """Cut off what a commit that failed has left behind the log's end, where no other program writes just now.

    Whoever reads the log afresh takes such frames for a commit. After a failed sync the kernel may show them although
    the disk does not have them, and never will; folded into the file they are a part of it, and a power loss in
    between leaves a file of which one half is newer than the other. Raises `apsw.Error` and `OSError`.
    """
    version = connection.data_version()
    frames, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)  # those that count
    connection.execute(SQL["begin"])
    try:
        if connection.data_version() == version and frames >= 0:
            page_bytes: int = connection.pragma("page_size")
            length = _HEADER_BYTES + frames * (FRAME_HEADER_BYTES + page_bytes) if frames else 0
            if (paths.size_bytes(path + paths.WAL_SUFFIX) or 0) > length:
                truncate(path + paths.WAL_SUFFIX, length)
    finally:
        connection.execute(SQL["rollback"])


def truncate(path: str, length: int) -> None:
    """Cut a log at `path` off."""
    os.truncate(path, length)


def _has_space(descriptor: int) -> bool:
    found = os.fstatvfs(descriptor)
    return found.f_bavail * found.f_frsize >= _SPARE_BYTES
