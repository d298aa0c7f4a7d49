"""Archives, as users make them: runs that have ended are moved from an open engine's file into another one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import msgspec

from stepwell.api.asking.acts import checked_actor
from stepwell.api.session import Session
from stepwell.runtime.serving.requests import ArchiveRuns, Request

#: How many runs are read, and handed to the engine, at a time.
_PAGE: Final = 1_000


class Archive(msgspec.Struct, frozen=True):
    """What was moved into the archive at `path`: the number of `runs`.

    `stayed` is the number of runs that matched but stayed in the file: children of parents that have not ended, and
    runs whose ids, listed in `there`, other runs in the archive have.
    """

    path: str
    runs: int
    stayed: int
    there: list[str]


def archive(
    session: Session,
    ask: Callable[[Request], Any],
    target: str | os.PathLike[str],
    filter: str,
    by: str | None,
    reason: str | None,
    progress: Callable[[int], None] | None,
) -> Archive:
    """Move runs from the file of a session; see `stepwell.Engine.archive`. `ask` waits for the answer to a request."""
    session.check_usable()
    runs, actor = session.reads.archive_filter(filter), checked_actor(by, reason)
    into = session.store.open_archive(os.fspath(target))
    try:
        seen = moved = 0
        there: list[str] = []
        before: int | None = None
        while keys := session.reads.keys(runs, before, _PAGE):
            before = keys[-1]
            seen += len(keys)
            of_page, of_there = ask(ArchiveRuns(keys, into, actor))
            moved += of_page
            there += of_there
            if progress is not None:
                progress(moved)
    finally:
        into.close()
    return Archive(into.path, moved, seen - moved, there)
