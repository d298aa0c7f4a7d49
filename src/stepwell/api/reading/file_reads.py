"""The read service of a file, with or without an engine that has it open; for the command line and the web UI."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager

from stepwell.api.reading.overview import EngineTime
from stepwell.api.reading.read_service import ReadService
from stepwell.store.sqlite.file.read_only import look_into
from stepwell.values.codec import Codec


@contextmanager
def file_reads(
    path: str | os.PathLike[str], run_listing: str, queue_listing: str, *, seconds: float | None = None
) -> Generator[ReadService]:
    """Open an existing file for reading only, beside whoever works on it, for the length of a ``with`` block.

    All questions together may take so many `seconds` (None: any), then they raise `ReadTooLong`. Raises
    `FileNotUsable`, `SchemaTooNew` or `FileInUse` where it cannot be read.
    """
    with look_into(path, seconds) as look:

        def time_now() -> EngineTime:
            wall = time.time_ns() // 1_000
            now = max(wall, look.last_at())  # later where something was written while a clock was wrong
            return EngineTime(now, now - wall)

        yield ReadService(
            look,
            Codec(),
            location=str(path),
            time_now=time_now,
            members=look.workers,
            run_listing=run_listing,
            queue_listing=queue_listing,
        )
