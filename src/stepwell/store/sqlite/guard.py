"""Keep the rest of this process away from the engine's files.

POSIX drops all locks that a process has on a file when it closes *any* descriptor of that file. SQLite works around
this inside itself; a second copy of SQLite in the process (Python's own `sqlite3`) or a plain
``open("orders.db").read()`` does not know of the workaround. The engine then writes without locks, and commits of other
processes vanish without an error.

So one audit hook (PEP 578) looks at every `sqlite3.connect`, `open` and `os.open` of the process and refuses those that
reach a watched file, by whatever name: files are compared by device and inode. Connections of `apsw` are the same copy
of SQLite as the engine's, and are safe. What no hook sees: ``ATTACH`` on a `sqlite3` connection to another file,
opening relative to a directory descriptor, and C extensions that open files themselves.

An audit hook cannot be removed and runs on every event of the process, so there is only this one: it is installed when
the first engine opens, never at import, and costs one dictionary look-up for events that nobody listens to. Other parts
of the engine listen through `add_listener` instead of installing another.
"""

# ruff: noqa: PTH116 -- runs at every open of the process

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Final, cast

from stepwell.errors import FileNotUsable, SecondSqliteError

#: Called with an event's name and arguments; whatever it raises, the audited operation raises instead of happening.
Listener = Callable[[str, tuple[object, ...]], None]

OPEN_EVENTS: Final = frozenset({"open", "sqlite3.connect"})

#: Asked for only by `_install`, to see whether the hook is really there.
_PROBE_EVENT: Final = "stepwell.guard.probe"

#: Files beside the database, by suffix. The journal exists only while SQLite makes a new file or changes its mode.
_SIDECARS: Final = ("-wal", "-shm", "-journal", "-lock")

# Changed in place, each value replaced as a whole: the hook reads it without a lock.
_listeners: dict[str, tuple[Listener, ...]] = {}
#: (device, inode) of every watched file: its path, and the database's.
_watched: dict[tuple[int, int], tuple[str, str]] = {}
#: Journals that need not exist yet, by real path: the database's path.
_journals: dict[str, str] = {}
#: The watches that have not ended; while there is one, `_refuse_watched` listens.
_watches: set[Watch] = set()
_lock = threading.Lock()
_installed = False


def add_listener(events: frozenset[str], listener: Listener) -> Callable[[], None]:
    """Have `listener` called for each of the audit `events`, in every thread, before the operation happens.

    Return a function that ends this. The listener must be quick, must not itself cause an event it listens to, and may
    raise to forbid the operation. Raises `FileNotUsable` where another hook of the process forbids audit hooks.
    """
    _install()
    with _lock:
        for event in events:
            _add(event, listener)

    def remove() -> None:
        with _lock:
            for event in events:
                _remove(event, listener)

    return remove


class Watch:
    """The files of one open database, refused to everyone else in this process until `end`."""

    def __init__(self, path: str) -> None:
        """Watch the database at the real path `path` and the files beside it that exist by now."""
        _install()
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
            for event in OPEN_EVENTS:
                _add(event, _refuse_watched, once=True)

    def end(self) -> None:
        """Stop watching. Safe to call twice."""
        for key in self._keys:
            _watched.pop(key, None)
        self._keys.clear()
        _journals.pop(self._journal, None)
        with _lock:
            _watches.discard(self)
            if not _watches:
                for event in OPEN_EVENTS:
                    _remove(event, _refuse_watched)


def after_fork_in_child() -> None:
    """Forget the parent's files: a child is another process, and may open them with any tool."""
    global _lock  # noqa: PLW0603 -- a thread that only the parent has may hold it
    _lock = threading.Lock()
    _watched.clear()
    _journals.clear()
    _watches.clear()
    for event in OPEN_EVENTS:
        _remove(event, _refuse_watched)


def _add(event: str, listener: Listener, *, once: bool = False) -> None:
    present = _listeners.get(event, ())
    if not (once and listener in present):
        _listeners[event] = (*present, listener)


def _remove(event: str, listener: Listener) -> None:
    left = list(_listeners.get(event, ()))
    if listener in left:
        # One entry only: the same function may have been added twice.
        left.remove(listener)
    if left:
        _listeners[event] = tuple(left)
    else:
        _listeners.pop(event, None)


def _install() -> None:
    global _installed  # noqa: PLW0603 -- hooks belong to the process, so this does
    with _lock:
        if _installed:
            return
        seen: list[str] = []
        sys.addaudithook(_make_hook(_listeners))
        # Adding a hook is itself audited, and a refusal of that is swallowed: so look whether it took.
        _listeners[_PROBE_EVENT] = (lambda event, _args: seen.append(event),)
        try:
            sys.audit(_PROBE_EVENT)
        finally:
            del _listeners[_PROBE_EVENT]
        if not seen:
            raise FileNotUsable(
                "An audit hook of this process forbids further ones, so the engine's file cannot be guarded against a "
                "second SQLite library. Allow `sys.addaudithook` until the engine is open."
            )
        _installed = True


def _make_hook(listeners: dict[str, tuple[Listener, ...]]) -> Callable[[str, tuple[object, ...]], None]:
    # Everything is bound here, because the hook outlives this module's globals when the interpreter shuts down.
    get = listeners.get

    def hook(event: str, args: tuple[object, ...]) -> None:
        found = get(event)
        if found is not None:
            for listener in found:
                listener(event, args)

    return hook


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
