"""Keep the rest of this process away from the engine's files.

POSIX drops all locks that a process has on a file when it closes *any* descriptor of that file. SQLite works around
this inside itself; a second copy of SQLite in the process (Python's own `sqlite3`) or a plain
``open("orders.db").read()`` does not know of the workaround. The engine then writes without locks, and commits of other
processes vanish without an error.

So a listener of the process's audit hook looks at every `sqlite3.connect`, `open` and `os.open` of the process and
refuses those that reach a watched file, by whatever name: files are compared by device and inode. Connections of `apsw`
are the same copy of SQLite as the engine's, and are safe. What no hook sees: ``ATTACH`` on a `sqlite3` connection to
another file, opening relative to a directory descriptor, and C extensions that open files themselves.
"""

# ruff: noqa: PTH116 -- runs at every open of the process

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final, cast

from stepwell import audit_hook
from stepwell.errors import SecondSqliteError

OPEN_EVENTS: Final = frozenset({"open", "sqlite3.connect"})

#: Files beside the database, by suffix. The journal exists only while SQLite makes a new file or changes its mode.
_SIDECARS: Final = ("-wal", "-shm", "-journal", "-lock")

#: (device, inode) of every watched file: its path, and the database's.
_watched: dict[tuple[int, int], tuple[str, str]] = {}
#: Journals that need not exist yet, by real path: the database's path.
_journals: dict[str, str] = {}
#: The watches that have not ended; while there is one, `_refuse_watched` listens.
_watches: set[Watch] = set()
#: Ends the listening.
_unlisten: Callable[[], None] | None = None
_lock = threading.Lock()


class Watch:
    """The files of one open database, refused to everyone else in this process until `end`."""

    def __init__(self, path: str) -> None:
        """Watch the database at the real path `path` and the files beside it that exist by now."""
        audit_hook.install()
        self._journal = path + "-journal"
        self._keys: list[tuple[int, int]] = []
        for name in (path, *(path + suffix for suffix in _SIDECARS)):
            try:
                found = os.stat(name)
            except OSError:
                continue
            key = (found.st_dev, found.st_ino)
            _watched[key] = (name, path)
            self._keys.append(key)
        _journals[self._journal] = path
        with _lock:
            _watches.add(self)
            _listen()

    def end(self) -> None:
        """Stop watching. Safe to call twice."""
        for key in self._keys:
            _watched.pop(key, None)
        self._keys.clear()
        _journals.pop(self._journal, None)
        with _lock:
            _watches.discard(self)
            if not _watches:
                _stop_listening()


def after_fork_in_child() -> None:
    """Forget the parent's files: a child is another process, and may open them with any tool."""
    global _lock  # noqa: PLW0603 -- a thread that only the parent has may hold it
    _lock = threading.Lock()
    _watched.clear()
    _journals.clear()
    _watches.clear()
    audit_hook.after_fork_in_child()
    _stop_listening()


def _listen() -> None:
    global _unlisten  # noqa: PLW0603 -- the hook belongs to the process, so this does
    if _unlisten is None:
        _unlisten = audit_hook.add_listener(OPEN_EVENTS, _refuse_watched)


def _stop_listening() -> None:
    global _unlisten  # noqa: PLW0603 -- as above
    if _unlisten is not None:
        _unlisten()
        _unlisten = None


def _refuse_watched(
    event: str,
    args: tuple[object, ...],
    *,
    watched: dict[tuple[int, int], tuple[str, str]] = _watched,
    stat: Callable[[str], os.stat_result] = os.stat,
) -> None:
    if not watched or not args:
        return
    target = args[0]
    try:
        # A path of any type, or a descriptor: closing one made by other means would drop the locks just the same.
        found = stat(cast("str", target))
    except (OSError, ValueError, TypeError):
        if isinstance(target, (str, bytes)) or hasattr(target, "__fspath__"):
            _refuse_name(event, os.fsdecode(cast("str | bytes", target)))
        return
    hit = watched.get((found.st_dev, found.st_ino))
    if hit is not None:
        _refuse(event, *hit)


def _refuse_name(event: str, target: str) -> None:
    """Judge a name that is no file: a URI for SQLite, or a journal about to be made that SQLite would roll back."""
    if event == "sqlite3.connect" and target.startswith("file:"):
        path = _path_of_uri(target)
        if path is not None:
            _refuse_watched("open", (path,))
    elif target.endswith("-journal"):
        database_path = _journals.get(os.path.realpath(target))
        if database_path is not None:
            _refuse(event, target, database_path)


def _refuse(event: str, path: str, database_path: str) -> None:
    call = "sqlite3.connect()" if event == "sqlite3.connect" else "open()"
    of_database = "" if path == database_path else f", which belongs to {database_path!r}"
    raise SecondSqliteError(
        f"{call} on {path!r}{of_database} was refused: an engine of this process has it open, and closing a second "
        "handle would drop the engine's file locks and lose writes. For your own tables use `engine.transaction()`; "
        "to look at runs use the engine's `get` and `list`; for any other tool (sqlite3, cp, a backup) use another "
        "process, or an `apsw` connection, or close the engine first."
    )


def _path_of_uri(uri: str) -> bytes | None:
    """Return the path in a ``file:`` URI as SQLite reads it; None where it is malformed."""
    path = uri.removeprefix("file:")
    if path.startswith("//"):
        # An authority: empty or "localhost", both this machine.
        _, slash, rest = path[2:].partition("/")
        path = slash + rest
    first, *rest_parts = path.partition("#")[0].partition("?")[0].split("%")
    decoded = os.fsencode(first)
    for part in rest_parts:
        try:
            decoded += bytes.fromhex(part[:2]) + os.fsencode(part[2:])
        except ValueError:
            return None
    return decoded
