"""Whether a file is still what its name means, asked at every commit without making the commit slow.

`os.stat` answers that, but it also reads the time of the last change. Since Linux 6.13 the kernel takes note of that
(multigrain timestamps): the next write to the file gets a new, exact time, which the file system has to put in its own
records. Measured on ext4: 46 to 56 µs more for the write that follows (ADR 0019). So for files that each commit writes
to, the kernel is asked for the name of a descriptor instead: it names what was renamed by its new name, and says
" (deleted)" behind the name of what was deleted or replaced. The descriptor is opened with O_PATH, so that closing it
drops no locks that the process has on the file.
"""

# ruff: noqa: PTH115, PTH116 -- SQLite's paths are strings

from __future__ import annotations

import os
from typing import Final

from stepwell.store.sqlite.file.locking import Identity

_O_PATH: Final[int] = getattr(os, "O_PATH", 0)


class FileInPlace:
    """The file at `path`, which exists. `is_written`: each commit writes to it."""

    def __init__(self, path: str, *, is_written: bool) -> None:
        self.path = path
        self._identity = Identity.of(path)
        self._descriptor = -1
        self._link = self._name = ""
        if is_written and _O_PATH:
            self._descriptor = os.open(path, _O_PATH | os.O_CLOEXEC)
            self._link = f"/proc/self/fd/{self._descriptor}"
            self._name = _read_link(self._link)

    def what_happened(self) -> str | None:
        """Return None while the file is where it was, and what happened to it in words otherwise."""
        if self._name and _read_link(self._link) == self._name:
            return None
        found = Identity.of(self.path)
        if found is None:
            return "was deleted or renamed"
        return None if found == self._identity else "was replaced by another file"

    def modified_at(self) -> int | None:
        """Return when what has the file's name now was written to last, in nanoseconds; None where nothing has it."""
        try:
            return os.stat(self.path).st_mtime_ns
        except FileNotFoundError:
            return None

    def deleted_at(self) -> int | None:
        """Return when a deleted file lost its name, in nanoseconds; None where it was written to since.

        A file system notes that time as the last change of the file's records, and each write changes them as well.
        """
        if not self._name:
            return None
        found = os.stat(self._link)
        return found.st_ctime_ns if found.st_mtime_ns < found.st_ctime_ns else None

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        self._name = ""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _read_link(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:  # no /proc here
        return ""
