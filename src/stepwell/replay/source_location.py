"""Where the user's code is: the ``file:line in function`` that messages show.

The user's code is what is neither Stepwell's, nor Python's, nor of an installed package.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from stepwell.package import ROOT
from stepwell.replay.awaiting import awaited_by

_ASYNCIO: Final = str(Path(asyncio.__file__).parent)
_STANDARD_LIBRARY: Final = str(Path(asyncio.__file__).parents[1])
#: Where installed packages are; often inside the folder above.
_INSTALLED: Final = ("site-packages", "dist-packages")


def executing_at() -> str:
    """Return the innermost line of the user's code that is executing now; where all is installed, the outermost."""
    return _innermost(sys._getframe(1))


def executing_in(thread: int) -> str:
    """Return the same of another thread, by its ident."""
    return _innermost(sys._current_frames().get(thread))


def executing_frames(innermost: FrameType | None = None) -> Iterator[FrameType]:
    """Yield the frames that are neither Stepwell's nor Python's, innermost first; those of the caller by default."""
    frame: FrameType | None = innermost or sys._getframe(1)
    while frame is not None:
        if is_users(frame):
            yield frame
        frame = frame.f_back


def is_users(frame: FrameType) -> bool:
    """Tell whether a frame is neither Stepwell's nor Python's."""
    filename = frame.f_code.co_filename
    return not filename.startswith(ROOT) and not is_of_python(filename)


def _innermost(frame: FrameType | None) -> str:
    found = "unknown"
    if frame is None:
        return found
    for outer in executing_frames(frame):
        found = f"{outer.f_code.co_filename}:{outer.f_lineno} in {outer.f_code.co_qualname}"
        if not _is_installed(outer.f_code.co_filename):
            break
    return found


def raised_at(error: BaseException) -> str:
    """Return the innermost line of the user's code that an exception came through; else of Python's or a package's."""
    place = other = "unknown"
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_filename.startswith((ROOT, _ASYNCIO)):
            continue
        other = f"{code.co_filename}:{line} in {code.co_qualname}"
        if (
            code.co_filename != "<string>"
            and not is_of_python(code.co_filename)
            and not _is_installed(code.co_filename)
        ):
            place = other
    if place == other == "unknown" and error.__cause__ is not None:  # the end of an iterator, which Python replaces
        return raised_at(error.__cause__)
    return other if place == "unknown" else place


def is_of_python(filename: str) -> bool:
    """Tell whether a file is of the standard library."""
    return filename.startswith("<frozen ") or (filename.startswith(_STANDARD_LIBRARY) and not _is_installed(filename))


def _is_installed(filename: str) -> bool:
    return any(folder in filename for folder in _INSTALLED)


def waiting_at(coroutine: Any) -> str:
    """Return the innermost line of the user's code at which a suspended coroutine waits."""
    place = "unknown"
    for filename, line, name in _awaits(coroutine):
        if not filename.startswith((ROOT, _ASYNCIO)):
            place = f"{filename}:{line} in {name}"
    return place


def waiting_frames(coroutine: Any) -> list[FrameType]:
    """Return the frames of the user's code in which a suspended coroutine waits, outermost first.

    A plain function that is blocked on a greenlet counts as one that waits.
    """
    found: list[FrameType] = []
    blocked = getattr(getattr(coroutine, "_greenlet", None), "gr_frame", None)
    while blocked is not None:
        if is_users(blocked):
            found.insert(0, blocked)
        blocked = blocked.f_back
    inner = getattr(coroutine, "_coroutine", coroutine)
    while inner is not None:
        frame = getattr(inner, "cr_frame", None)
        if frame is not None and is_users(frame) and frame not in found:
            found.append(frame)
        inner = awaited_by(inner)
    return found


def awaited(tasks: list[asyncio.Task[Any]]) -> tuple[str, str]:
    """Return what suspended tasks wait for in the end, "" if unknown, and the line of the user's code that does so.

    The first of `tasks` is the main one. Where that waits for others (`gather`, a `TaskGroup`), it is the first of them
    that counts.
    """
    task: Any = tasks[0]
    left = [*tasks[1:]]
    while True:
        waits: list[Any] = [task._fut_waiter]
        waits += getattr(waits[0], "_children", ())
        others = [each for each in left if each in waits]
        if not others and _innermost_function(task.get_coro()) in _OF_OTHERS:
            others = left
        if not others:
            break
        task = others[0]
        left.remove(task)
    name = _innermost_function(task.get_coro())
    place = next((place for each in (task, tasks[0]) if (place := waiting_at(each.get_coro())) != "unknown"), "")
    return name or "a future", place


#: The functions of asyncio in which a task waits for other tasks.
_OF_OTHERS: Final = ("TaskGroup.__aexit__()", "_wait()", "as_completed.<locals>._wait_for_one()", "_wait_for_one()")


def _innermost_function(coroutine: Any) -> str:
    """Return the innermost function of asyncio, "" where the user's code itself awaits something."""
    filename = name = ""
    for filename, _, name in _awaits(coroutine):  # noqa: B007 - the last one counts
        pass
    return f"{name}()" if filename.startswith(_ASYNCIO) else ""


def described(function: Any) -> str:
    """Return a function's name, and where it is defined as far as that can be told."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or repr(function)
    code = getattr(function, "__code__", None)
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"


def _awaits(coroutine: Any) -> Iterator[tuple[str, int, str]]:
    """Yield file, line and function of each coroutine that waits for the next, outermost first."""
    coroutine = getattr(coroutine, "_coroutine", coroutine)
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            yield frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname
        coroutine = awaited_by(coroutine)
