"""Facts about a file for `stepwell doctor`: the library, the disk, the log, who has it open, how large what is.

It only reads. What the facts mean is decided in `stepwell.api.doctor`.
"""

# ruff: noqa: PTH120 -- SQLite's paths are strings

from __future__ import annotations

import os
from typing import Any, Final

import apsw
import msgspec

from stepwell.store.sql.reading import Reads
from stepwell.store.sqlite.file import mounts, paths
from stepwell.store.sqlite.file.holders import Holder, holders
from stepwell.store.sqlite.statements import SQL

#: Of how many of the last runs and journal entries sizes and durations are read: a fifth of a second on a slow machine.
_LOOKED_AT: Final = 100_000
_ROWS: Final = 10
_DAY_MICROSECONDS: Final = 86_400_000_000
#: What each opener reads of the file's settings: those that stand in it, and how full the log is kept.
_PRAGMAS: Final = {
    "journal_mode": "doctor_journal_mode",
    "page_size": "doctor_page_size",
    "encoding": "doctor_encoding",
    "auto_vacuum": "doctor_auto_vacuum",
    "application_id": "doctor_application_id",
    "user_version": "doctor_user_version",
}


class StepKind(msgspec.Struct, frozen=True):
    """How long the calls of a step took: how many there were, their mean and the longest, in seconds."""

    name: str
    calls: int
    mean_seconds: float
    longest_seconds: float


class LargePayload(msgspec.Struct, frozen=True):
    """A large value of a run, in bytes as it stands in the file: an entry of its journal, its input, or its result."""

    run: str
    kind: str
    name: str
    size_bytes: int


class FileFacts(msgspec.Struct, frozen=True):
    """What there is to know of a file apart from its runs. Sizes are in bytes.

    `bytes_a_day` is how much the file grew in the last day, reckoned from the share of entries that came in it.
    `marks` are the first bytes of payloads that are not plain JSON. `pragmas` are what SQLite answers when it is asked
    for its settings. The log has `log_pages`, of which `folded_pages` are in the database as well; both are None where
    SQLite does not say.
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
    mount_options: str = ""
    pragmas: dict[str, str | int] = {}
    log_pages: int | None = None
    folded_pages: int | None = None


def file_facts(path: str, reads: Reads, last_at: int, now: int) -> FileFacts:
    """Return the facts about the file at the real `path`; `last_at` is the newest time in it, `now` the present one."""
    size = paths.size_bytes(path) or 0
    disk = os.statvfs(os.path.dirname(path))

    def rows(name: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return reads.read(lambda execute: execute(SQL[name], parameters).fetchall())

    recent, looked_at = rows("doctor_entries_since", _LOOKED_AT, now - _DAY_MICROSECONDS)[0]
    free_pages, page_size = rows("doctor_free_pages")[0]
    mount = mounts.mount_of(path)
    log_pages, folded_pages = rows("doctor_log_pages")[0][1:]
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
        holders=holders(path),
        steps=[
            StepKind(name, calls, mean / 1e6, longest / 1e6)
            for name, calls, mean, longest in rows("doctor_step_kinds", _LOOKED_AT, _ROWS)
        ],
        payloads=[LargePayload(*row) for row in rows("doctor_largest_payloads", _LOOKED_AT, _ROWS)],
        marks={int(mark, 16) for (mark,) in rows("doctor_marks", _LOOKED_AT) if mark},
        mount_options="" if mount is None else mount.options,
        pragmas={name: rows(query)[0][0] for name, query in _PRAGMAS.items()},
        log_pages=log_pages if log_pages >= 0 else None,
        folded_pages=folded_pages if folded_pages >= 0 else None,
    )
