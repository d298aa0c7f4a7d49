"""What a store says of archives, into which runs that have ended are moved."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Archived(msgspec.Struct, frozen=True):
    """What was moved in one commit: how many runs.

    `there` are the ids of runs that were not, as the archive has another run of that id, `rest` the keys of those that
    are left for the next commit.
    """

    moved: int
    there: list[str]
    rest: list[int]


class OpenArchive(Protocol):
    """An archive that is open for one call, in the caller's hands."""

    @property
    def path(self) -> str:
        """Where it is."""
        ...

    def close(self) -> None:
        """Let go of it; what was moved is on the disk."""
        ...
