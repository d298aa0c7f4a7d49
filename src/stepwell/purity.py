"""Workflow code that reaches outside is told so, at the line where it does.

An audit listener looks at the events of real I/O, sleeping and threads. Only where the running event loop of the thread
is a deterministic one, which means that workflow code is executing, does it raise.
"""

from __future__ import annotations

import _thread
import functools
import os
import sys
import threading
import time
from asyncio.events import _get_running_loop
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from stepwell.errors import WorkflowIOError
from stepwell.loop import DeterministicLoop

#: Audit events (see "Audit events table" in the Python documentation) that mean I/O, a real wait, a thread or a
#: process.
EVENTS: Final = frozenset(
    {
        "_thread.start_joinable_thread",
        "_thread.start_new_thread",
        "open",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.listdir",
        "os.mkdir",
        "os.posix_spawn",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.scandir",
        "os.spawn",
        "os.system",
        "os.truncate",
        "socket.__new__",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.sendto",
        "sqlite3.connect",
        "subprocess.Popen",
        "time.sleep",
        "urllib.Request",
    }
)

# Python's own machinery that may read files while workflow code executes: imports, source lines for tracebacks,
# logging, time zones. None of it changes what the workflow does.
_ALLOWED_FILES: Final = ("linecache.py", "tokenize.py", "traceback.py", "inspect.py", "warnings.py")
_ALLOWED_FOLDERS: Final = (f"{os.sep}logging{os.sep}", f"{os.sep}zoneinfo{os.sep}", f"{os.sep}importlib{os.sep}")

_lock: Final = threading.Lock()
_listening = False


def refuse_io(event: str, args: tuple[object, ...]) -> None:
    """Raise `WorkflowIOError` for an audit event that workflow code caused."""
    loop = _get_running_loop()
    host = loop.host if isinstance(loop, DeterministicLoop) else None
    if host is None or _is_time_zone(args) or _is_allowed():
        return
    subject = f" {args[0]!r}" if args and isinstance(args[0], (str, bytes, int, float)) else ""
    raise WorkflowIOError(
        f"run {host.run_id!r}: workflow code reached outside ({event}{subject}) at {host.location()}. A "
        "workflow is replayed, so this would happen again on every recovery: move that line into a @step"
    )


def _is_time_zone(args: tuple[object, ...]) -> bool:
    """Tell whether the file describes a time zone: `zoneinfo` reads it from C, where no frame shows it."""
    zoneinfo = sys.modules.get("zoneinfo")
    if zoneinfo is None or not args or not isinstance(args[0], str):
        return False
    return args[0].startswith(tuple(folder + os.sep for folder in zoneinfo.TZPATH))


def _is_allowed() -> bool:
    frame: FrameType | None = sys._getframe(2)
    drain = DeterministicLoop.drain.__code__
    while frame is not None and frame.f_code is not drain:
        filename = frame.f_code.co_filename
        if filename.startswith("<frozen importlib") or filename.endswith(_ALLOWED_FILES):
            return True
        if any(folder in filename for folder in _ALLOWED_FOLDERS):
            return True
        frame = frame.f_back
    return False


def listen(
    add_listener: Callable[[frozenset[str], Callable[[str, tuple[object, ...]], None]], Callable[[], None]],
) -> None:
    """Begin to watch, once in a process; `add_listener` is the process's one audit hook."""
    global _listening  # noqa: PLW0603 - audit hooks belong to the process, so this does
    with _lock:
        if not _listening:
            add_listener(EVENTS, refuse_io)
            _raise_missing_events()
            _listening = True


def _raise_missing_events() -> None:
    """Have older Pythons raise the audit events that newer ones raise: for threads from 3.12, for sleep from 3.13."""
    if sys.version_info < (3, 12):
        start = _audited("_thread.start_new_thread", _thread.start_new_thread)
        module: Any = threading  # which has imported the function already
        _thread.start_new_thread = module._start_new_thread = start
    if sys.version_info < (3, 13):
        time.sleep = _audited("time.sleep", time.sleep)


def _audited(event: str, function: Callable[..., Any]) -> Callable[..., Any]:
    audit = sys.audit

    @functools.wraps(function)
    def audited(*args: Any, **kwargs: Any) -> Any:
        audit(event, *args)
        return function(*args, **kwargs)

    return audited
