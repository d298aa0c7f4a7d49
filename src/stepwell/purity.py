"""Workflow code that reaches outside is told so, at the line where it does.

An audit listener looks at the events of real I/O, sleeping and threads. Only where the running event loop of the thread is a
deterministic one, which means that workflow code is executing, does it raise.
"""

from __future__ import annotations

import os
import sys
from asyncio.events import _get_running_loop
from collections.abc import Callable
from typing import Final

from stepwell.errors import WorkflowIOError
from stepwell.loop import DeterministicLoop

#: Audit events (see "Audit events table" in the Python documentation) that mean I/O, a real wait, a thread or a process.
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

# Python's own machinery that may read files while workflow code executes: imports, source lines for tracebacks, logging,
# time zones. None of it changes what the workflow does.
_ALLOWED_FILES: Final = ("linecache.py", "tokenize.py", "traceback.py", "inspect.py", "warnings.py")
_ALLOWED_FOLDERS: Final = (f"{os.sep}logging{os.sep}", f"{os.sep}zoneinfo{os.sep}", f"{os.sep}importlib{os.sep}")


def refuse_io(event: str, args: tuple[object, ...]) -> None:
    """Raise `WorkflowIOError` for an audit event that workflow code caused."""
    loop = _get_running_loop()
    if not isinstance(loop, DeterministicLoop) or _is_allowed():
        return
    subject = f" {args[0]!r}" if args and isinstance(args[0], (str, bytes, int, float)) else ""
    location = getattr(loop.host, "location", _unknown)()
    raise WorkflowIOError(
        f"run {loop.host.run_id!r}: workflow code reached outside ({event}{subject}) at {location}. A workflow is replayed, so "
        "this would happen again on every recovery: move that line into a @step"
    )


def _unknown() -> str:
    return "an unknown place"


def _is_allowed() -> bool:
    frame = sys._getframe(2)
    drain = DeterministicLoop.drain.__code__
    while frame is not None and frame.f_code is not drain:
        filename = frame.f_code.co_filename
        if filename.startswith("<frozen importlib") or filename.endswith(_ALLOWED_FILES):
            return True
        if any(folder in filename for folder in _ALLOWED_FOLDERS):
            return True
        frame = frame.f_back  # type: ignore[assignment]  # None ends the walk
    return False


def listen(add_listener: Callable[[frozenset[str], Callable[[str, tuple[object, ...]], None]], Callable[[], None]]) -> None:
    """Begin to watch; `add_listener` is the process's one audit hook."""
    add_listener(EVENTS, refuse_io)
