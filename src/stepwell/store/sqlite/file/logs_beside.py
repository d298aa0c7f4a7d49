"""That the log, and the index of it, lie beside a database that somebody has open.

While a process has the file open both are there. Where one is not, somebody deleted it: then that process goes on with
the deleted file, and SQLite would make another one for whoever opens the database next, so that each would write what
the other cannot see. SQLite itself notices it late, or calls it an error of the disk.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import apsw

from stepwell.errors import FileNotUsable
from stepwell.model.steady import monotonic
from stepwell.store.sqlite.file import locking, paths
from stepwell.store.sqlite.peers.in_words import describe_process

#: The last one to close removes both, and is gone a moment later.
_PATIENCE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.01


def check_logs(path: str, others: Callable[[], list[int]]) -> None:
    """Raise `FileNotUsable` where the log or its index is gone although `others` (pids) have the database open."""
    give_up_at = monotonic() + _PATIENCE_SECONDS
    while missing := [name for name in _names(path) if paths.size_bytes(name) is None]:
        pids = others()
        if not pids:
            return
        if monotonic() >= give_up_at:
            raise _gone(missing, path, pids)
        time.sleep(_PAUSE_SECONDS)


def check_index(connection: apsw.Connection, path: str, others: list[int]) -> None:
    """Raise the same where the log is another one than the index speaks of, which shows at the first read."""
    try:
        connection.pragma("schema_version")
    except apsw.IOError as error:
        log = path + paths.WAL_SUFFIX
        if not paths.size_bytes(log):
            raise _gone([log], path, others) from error
        raise


def _gone(names: list[str], path: str, pids: list[int]) -> FileNotUsable:
    who = ", ".join(map(describe_process, pids))
    return FileNotUsable(
        f"{' and '.join(map(repr, names))} {'was' if len(names) == 1 else 'were'} deleted while {who} had "
        f"{path!r} open. Nothing was touched now. What was committed last may be nowhere but in the deleted file, "
        "which that process still has: end it in an orderly way (SIGTERM, or close its engine), which brings it into "
        "the database, and do not kill it. Then start again. The files beside a database in use belong to it"
    )


def check_logs_from_outside(path: str) -> None:
    """Raise as `check_logs`, for whoever only looks; does nothing where this process has the database open itself."""
    if any(paths.size_bytes(name) is None for name in _names(path)):
        ask = partial(locking.look, path + paths.LOCK_SUFFIX, _pids)
        check_logs(path, lambda: ask() or [])


def _names(path: str) -> tuple[str, str]:
    return path + paths.WAL_SUFFIX, path + paths.SHM_SUFFIX


def _pids(descriptor: int) -> list[int]:
    return [found.pid for found in locking.holders(descriptor, locking.SLOT_BASE, locking.SLOTS)]
