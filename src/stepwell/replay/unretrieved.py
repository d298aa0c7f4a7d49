"""Tasks of workflow code that failed, and whose exceptions nothing asks for.

asyncio says so when such a task is freed. A run's tasks are kept while it is in memory, because what the collector
frees, and when, is chance; so they are looked through where the run rests, and when it ends. A task that the code still
holds may be asked later, and is left until then.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import types
from collections.abc import Sequence
from typing import Any, Final

from stepwell.values.own_frames import is_own


def _held_elsewhere(objects: Sequence[Any], least: int) -> list[bool]:
    return [sys.getrefcount(each) > least for each in objects]


def _references_of_lists() -> int:
    """Return how many references to an object are counted here that only two lists hold, whatever the interpreter."""
    alone = [object()]
    also = list(alone)
    least = 0
    while _held_elsewhere(also, least)[0]:
        least += 1
    return least


_SUSPENDABLE: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_ALONE: Final = _references_of_lists()


def unretrieved(tasks: Sequence[asyncio.Task[Any]], *, held: bool) -> list[tuple[str, BaseException]]:
    """Return names and exceptions of tasks that failed and were not asked since; each once.

    `tasks` is the list that keeps them; `held`: also those that something else holds.
    """
    failed = [task for task in tasks if is_unretrieved(task)]
    if not failed:
        return []
    for error in map(_error, failed):
        _let_go(error.__traceback__)
    wanted = [held or not elsewhere for elsewhere in _held_elsewhere(failed, _ALONE)]
    return [_told(task) for task, is_wanted in zip(failed, wanted, strict=True) if is_wanted]


def _let_go(entry: types.TracebackType | None) -> None:
    """Empty the frames of the loop that called what failed: a traceback keeps them, and they hold the task.

    Which frames are kept beside those in the traceback differs between releases of Python.
    """
    while entry is not None:
        frame: types.FrameType | None = entry.tb_frame
        while frame is not None:
            if is_own(frame) and not frame.f_code.co_flags & _SUSPENDABLE:
                try:
                    frame.clear()
                except RuntimeError:  # it is executing, and so are those that called it
                    break
            frame = frame.f_back
        entry = entry.tb_next


def is_unretrieved(task: Any) -> bool:
    """Tell whether a task failed and was not asked since."""
    return bool(task._log_traceback)  # asyncio's own mark, for what it would say when the task is freed


def _error(task: Any) -> BaseException:
    error: BaseException = task._exception  # as `exception()` has it, which would take away the mark
    return error


def _told(task: Any) -> tuple[str, BaseException]:
    task._log_traceback = False
    return task.get_name(), _error(task)
