"""Facts about a file for `stepwell doctor`: the library, the disk, the log, who has it open, how large what is.

It only reads. What the facts mean is decided in `stepwell.api.doctor`.
"""

# ruff: noqa: PTH118, PTH120, PTH208, PTH115, PTH123 -- SQLite's paths are strings

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, Final

import apsw
import msgspec

from stepwell.store.sql.reading import Reads
from stepwell.store.sqlite.file import mounts, paths
from stepwell.store.sqlite.statements import SQL

#: Of how many of the last journal entries sizes and durations are read: half a second on a slow machine.
_LOOKED_AT: Final = 200_000
_ROWS: Final = 10
_DAY_MICROSECONDS: Final = 86_400_000_000
_COMMAND_CHARS: Final = 80


class Holder(msgspec.Struct, frozen=True):
    """A process that has the file open, as far as this user may see: its number and its command."""

    pid: int
    command: str


class StepKind(msgspec.Struct, frozen=True):
    """How long the calls of a step took: how many there were, their mean and the longest, in seconds."""

    name: str
    calls: int
    mean_seconds: float
    longest_seconds: float


class LargePayload(msgspec.Struct, frozen=True):
    """A large value in the journal of a run, in bytes as it stands in the file."""

    run: str
    kind: str
    name: str
    size_bytes: int


class FileFacts(msgspec.Struct, frozen=True):
    """What there is to know of a file apart from its runs. Sizes are in bytes.

    `bytes_a_day` is how much the file grew in the last day, reckoned from the share of entries that came in it.
    `marks` are the first bytes of payloads that are not plain JSON.
    """

    path: str
    sqlite_version: str
    compile_options: list[str]
    file_system: str
    size_bytes: int
    log_bytes: int
    free_pages_bytes: int
    disk_free_bytes: int
    bytes_a_day: float
    last_at: int
    holders: list[Holder] | None
    steps: list[StepKind]
    payloads: list[LargePayload]
    marks: set[int]


def file_facts(path: str, reads: Reads, last_at: int, now: int) -> FileFacts:
    """Return the facts about the file at the real `path`; `last_at` is the newest time in it, `now` the present one."""
    size = paths.size_bytes(path) or 0
    disk = os.statvfs(os.path.dirname(path))

    def rows(name: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return reads.read(lambda execute: execute(SQL[name], parameters).fetchall())

    recent, looked_at = rows("doctor_entries_since", _LOOKED_AT, now - _DAY_MICROSECONDS)[0]
    free_pages, page_size = rows("doctor_free_pages")[0]
    mount = mounts.mount_of(path)
    return FileFacts(
        path=path,
        sqlite_version=apsw.sqlite_lib_version(),
        compile_options=list(apsw.compile_options),
        file_system="unknown" if mount is None else f"{mount.fs_type} at {mount.point}",
        size_bytes=size,
        log_bytes=paths.size_bytes(path + paths.WAL_SUFFIX) or 0,
        free_pages_bytes=free_pages * page_size,
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
        bytes_a_day=size * recent / looked_at if looked_at and recent < looked_at else 0.0,
        last_at=last_at,
        holders=_holders(path),
        steps=[
            StepKind(name, calls, mean / 1e6, longest / 1e6)
            for name, calls, mean, longest in rows("doctor_step_kinds", _LOOKED_AT, _ROWS)
        ],
        payloads=[LargePayload(*row) for row in rows("doctor_largest_entries", _LOOKED_AT, _ROWS)],
        marks={int(mark, 16) for (mark,) in rows("doctor_marks", _LOOKED_AT) if mark},
    )


def _holders(path: str) -> list[Holder] | None:
    """Return the other processes that have the database open; None where the system does not say (it is no Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    found: list[Holder] = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        with suppress(OSError):  # it has ended, or belongs to another user
            links = f"/proc/{name}/fd"
            if any(_link(links, number) == path for number in os.listdir(links)):
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
                found.append(Holder(int(name), command[:_COMMAND_CHARS]))
    return found


def _link(folder: str, number: str) -> str | None:
    with suppress(OSError):
        return os.readlink(os.path.join(folder, number))
    return None
