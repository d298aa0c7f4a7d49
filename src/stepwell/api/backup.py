"""Backups, as users make them and look through them: of an open engine, or of a file by its path."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from stepwell.errors import SerializationError
from stepwell.values.transforms import Compression, Transforms

#: What is told of the progress: what is done, how much of it, of how much (0 of 0: not known).
Progress = Callable[[str, int, int], None]


class Verification(msgspec.Struct, frozen=True):
    """What a check of a file or a backup found.

    `problems` has a sentence for each thing that is wrong, and is empty for a file that is whole. `schema` is the
    version of its schema, `runs` and `entries` are how many runs and journal entries it has, `at` is the time of the
    check.
    """

    path: str
    schema: int
    runs: int
    entries: int
    problems: list[str]
    at: datetime

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class Backup(msgspec.Struct, frozen=True):
    """A backup that was made at `at`: where it is, how large it is, how long it took, and how much is in it."""

    path: str
    size_bytes: int
    took_seconds: float
    runs: int
    entries: int
    at: datetime


_TRANSFORMS: Final = Transforms([Compression()])


def silent(_what: str, _done: int, _of: int) -> None:
    """Be told of the progress, and tell nobody."""


def readable(payload: bytes) -> bool:
    """Tell whether a payload that is bytes can be read."""
    try:
        msgspec.json.decode(_TRANSFORMS.undo(payload, "a payload"))
    except (SerializationError, msgspec.DecodeError):
        return False
    return True


def back_up(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Backup:
    """Make a backup of the file at `path`, beside its workers or without any: see `stepwell.Engine.backup`."""
    from stepwell.store.sqlite import backup
    from stepwell.store.sqlite.file.paths import text_of

    began, at = time.monotonic(), datetime.now(UTC)
    made, found = backup.back_up(
        text_of(path, "the path of the file"),
        text_of(target, "the path of the backup"),
        overwrite=overwrite,
        readable=readable,
        progress=progress or silent,
    )
    return Backup(made, Path(made).stat().st_size, time.monotonic() - began, found.runs, found.entries, at)


def verify(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Verification:
    """Check a file, or a backup (also ``.gz``), and return what is wrong with it; it is not changed.

    It makes SQLite's integrity check, and looks for rows that refer to missing rows, for runs, queues and journals that
    contradict themselves, and for payloads that cannot be read. A file that workers have open is read in one snapshot.
    For a file of an older schema, only SQLite's own checks are made. `progress` is called with the name of the present
    stage, and how much of it is done. Raises `FileNotUsable` if it is not a file of Stepwell, `SchemaTooNew`.
    """
    from stepwell.store.sqlite import backup
    from stepwell.store.sqlite.file.paths import text_of

    found = backup.verify(text_of(path, "the path of the file"), readable=readable, progress=progress or silent)
    return Verification(
        os.path.realpath(path), found.version, found.runs, found.entries, found.problems, datetime.now(UTC)
    )
