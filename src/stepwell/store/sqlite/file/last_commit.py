"""The last commit, as the lock file remembers it: what tells a file that lost its end from one that is whole.

A write-ahead log is checksummed, and where a checksum is wrong, or the file ends, SQLite takes the log for finished: so
it looks after a power loss. Where something cuts the log, flips a bit in it or removes it, the commits behind that
place are gone without an error, acknowledged or not. A database that was emptied looks like a new one in the same way.
So the lock file holds the evidence of the last commit (see `changes.Evidence`), and whoever opens the file when nobody
else has it open looks whether it is there.

Two rules keep it from crying wolf. It is forgotten before a COMMIT and noted after, so that a process that dies in
between leaves none. And it counts only within the boot of the machine in which it was noted: after a power loss the
lock file may be older than the database. It costs two small writes into the page cache a commit, 4 µs.

In the lock file (`membership`), from byte 2,048, little endian: CRC-32 of the rest (u32), its length (u32), the boot
(16 bytes), device and inode of the database (u64 each), then JSON: the evidence's name and its parameters.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from stepwell.errors import FileNotUsable
from stepwell.store.sqlite.file import paths
from stepwell.store.sqlite.file.locking import Identity
from stepwell.store.sqlite.statements import SQL

OFFSET: Final = 2048
_MAX_BYTES: Final = 2000
_CHECKSUM: Final = struct.Struct("<I")
_HEAD: Final = struct.Struct("<I16sQQ")
#: Nothing that is ever noted has this checksum: see `_checksum`.
_NO_CHECKSUM: Final = bytes(_CHECKSUM.size)
_UNKNOWN_BOOT: Final = bytes(16)

#: The queries that tell whether a commit is in the file, by name.
STATEMENTS: Final = {name: statement for name, statement in SQL.items() if name.startswith("evidence_of_")}
_NAMES: Final = {statement: name for name, statement in STATEMENTS.items()}


class LastCommit:
    """The record for the database file `identity` in the lock file behind `descriptor`.

    `boot` tells this boot of the machine from others; zeros where that is not known, and nothing is noted.
    """

    def __init__(self, descriptor: int, identity: Identity, boot: bytes) -> None:
        self._descriptor = descriptor
        self._identity = identity
        self._boot = boot

    def forget(self) -> None:
        """Note that a COMMIT is under way. The caller has the writers' lock, as for `note`."""
        try:
            os.pwrite(self._descriptor, _NO_CHECKSUM, OFFSET)
        except OSError:
            return

    def note(self, statement: str, parameters: tuple[Any, ...]) -> None:
        """Note the evidence of the commit that has just succeeded."""
        name = _NAMES.get(statement)
        if name is None or self._boot == _UNKNOWN_BOOT:
            return
        said = msgspec.json.encode([name, parameters])
        rest = _HEAD.pack(len(said), self._boot, *self._identity) + said
        if len(rest) <= _MAX_BYTES:
            try:
                os.pwrite(self._descriptor, _CHECKSUM.pack(_checksum(rest)) + rest, OFFSET)
            except OSError:
                return  # a full disk, most likely; what cannot be noted is not missed


def this_boot() -> bytes:
    """Return what tells this boot of the machine from others, 16 bytes; zeros where that is not known (macOS)."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").replace("-", ""))
    except (OSError, ValueError):
        return _UNKNOWN_BOOT


def check(descriptor: int, identity: Identity, boot: bytes, connection: apsw.Connection, path: str) -> None:
    """Raise `FileNotUsable` where the file open on `connection` lacks what was committed to it last in this boot.

    `descriptor` is that of the lock file, `identity` that of the database, which nobody else has open.
    """
    said = read(os.pread(descriptor, _CHECKSUM.size + _MAX_BYTES, OFFSET), identity, boot)
    if said is None:
        return
    name, parameters = said
    if name not in STATEMENTS:
        return  # of a newer release
    try:
        found: list[Any] = connection.execute(STATEMENTS[name], tuple(parameters)).fetchall()
    except apsw.SQLError:
        found = []  # there is not even the table
    if not found:
        raise FileNotUsable(
            f"{path!r} lacks what was committed to it last ({name.removeprefix('evidence_of_')} {parameters}). Since "
            "the last engine stopped, an older copy was put in its place (a backup, say), or its log "
            f"{path + paths.WAL_SUFFIX!r} was cut, damaged or removed, or another program deleted rows of the "
            "engine's. Nothing was touched: if the right file, or its log, is somewhere, put it back. To go on with "
            "what is there, on purpose (what was recorded since is gone, and its steps are executed again), delete "
            f"{path + paths.LOCK_SUFFIX!r}, which holds nothing else that lasts, and start again; where it is a "
            "backup, also the log, if there is one: it belongs to the file that the backup replaced."
        )


def read(record: bytes, identity: Identity, boot: bytes) -> tuple[str, list[Any]] | None:
    """Return the evidence in a record; None where there is none that counts."""
    if len(record) < _CHECKSUM.size + _HEAD.size or boot == _UNKNOWN_BOOT:
        return None
    (checksum,) = _CHECKSUM.unpack_from(record)
    length, noted_in, device, inode = _HEAD.unpack_from(record, _CHECKSUM.size)
    rest = record[_CHECKSUM.size : _CHECKSUM.size + _HEAD.size + length]
    if _checksum(rest) != checksum or (noted_in, device, inode) != (boot, *identity):
        return None
    return msgspec.json.decode(rest[_HEAD.size :], type=tuple[str, list[Any]])


def _checksum(rest: bytes) -> int:
    return zlib.crc32(rest) or 1
