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
from typing import Any, Final

from stepwell.errors import WorkflowIOError
from stepwell.replay.loop import DeterministicLoop
from stepwell.runtime.permitted_io import is_permitted

#: Audit events (see "Audit events table" in the Python documentation) that mean I/O, a real wait, a thread or a
#: process. Functions of `shutil` and their like raise one of their own before those of what they call.
EVENTS: Final = frozenset(
    {
        "_thread.start_joinable_thread",
        "_thread.start_new_thread",
        "builtins.input",
        "fcntl.flock",
        "fcntl.lockf",
        "glob.glob",
        "open",
        "os.chdir",
        "os.chflags",
        "os.chmod",
        "os.chown",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.fwalk",
        "os.getxattr",
        "os.link",
        "os.listdir",
        "os.listxattr",
        "os.lockf",
        "os.mkdir",
        "os.posix_spawn",
        "os.remove",
        "os.removexattr",
        "os.rename",
        "os.rmdir",
        "os.scandir",
        "os.setxattr",
        "os.spawn",
        "os.symlink",
        "os.system",
        "os.truncate",
        "os.utime",
        "os.walk",
        "pathlib.Path.glob",
        "pathlib.Path.rglob",
        "pathlib.Path.walk",
        "pty.spawn",
        "shutil.chown",
        "shutil.copyfile",
        "shutil.copymode",
        "shutil.copystat",
        "shutil.copytree",
        "shutil.make_archive",
        "shutil.move",
        "shutil.rmtree",
        "shutil.unpack_archive",
        "socket.__new__",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "socket.getnameinfo",
        "socket.sendmsg",
        "socket.sendto",
        "sqlite3.connect",
        "subprocess.Popen",
        "tempfile.mkdtemp",
        "tempfile.mkstemp",
        "time.sleep",
        "urllib.Request",
        "webbrowser.open",
    }
)

_lock: Final = threading.Lock()
_listening = False


def refuse_io(event: str, args: tuple[object, ...]) -> None:
    """Raise `WorkflowIOError` for an audit event that workflow code caused."""
    loop = _get_running_loop()
    host = loop.host if isinstance(loop, DeterministicLoop) else None
    if host is None:
        return
    hook = sys._getframe(1)
    if is_permitted(event, args, hook.f_back, DeterministicLoop.drain.__code__):
        return
    subject = f" {args[0]!r}" if args and isinstance(args[0], (str, bytes, int, float, os.PathLike)) else ""
    raise WorkflowIOError(
        f"run {host.run_id!r}: workflow code reached outside ({event}{subject}) at {host.location()}. A "
        "workflow is replayed, so this would happen again on every recovery: move that line into a @step"
    )


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
