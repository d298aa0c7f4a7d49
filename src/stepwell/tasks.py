"""The tasks of workflow code, and how what they execute is closed without letting it act."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

from stepwell.greenlets import GreenletCoroutine

T = TypeVar("T")

#: How often code is closed that waits on its way out before it is taken for an endless loop.
MAX_CLOSES: Final = 10


class WorkflowTask(asyncio.Task[T]):
    """A task whose hash is the same in every replay, so that sets of tasks iterate in the same order."""

    __slots__ = ("_stable_hash",)

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T],
        *,
        loop: asyncio.AbstractEventLoop,
        name: str,
        context: contextvars.Context,
        stable_hash: int,
    ) -> None:
        self._stable_hash = stable_hash
        super().__init__(coroutine, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        """Return a number drawn from the run's id and the task's place in the run."""
        return self._stable_hash


def silence(task: Any) -> None:
    """Keep asyncio from complaining that a task was dropped: it was, on purpose."""
    task._log_destroy_pending = False  # asyncio's own switch for this purpose


def close(coroutine: Any) -> None:
    """Close a task's coroutine and what it awaits.

    Code that waits on its way out (`TaskGroup` does) makes `close` fail: what awaited it is closed then, but not it.
    """
    left = [coroutine]
    for _ in range(MAX_CLOSES):
        awaited = [inner for each in left for inner in _awaited(each)]
        for each in awaited:
            with suppress(BaseException):  # whatever the code does on its way out, it must not act
                each.close()
        left = [each for each in awaited if not _is_closed(each)]
        if not left:
            return
    for each in left:
        _keep_for_ever(each)


def _awaited(outermost: Any) -> Iterator[Any]:
    """Yield a task's coroutine, the one that it awaits, and so on."""
    coroutine = outermost
    if isinstance(outermost, GreenletCoroutine):
        yield outermost
        coroutine = cast("Any", outermost).inner
    while hasattr(coroutine, "cr_frame"):
        yield coroutine
        coroutine = coroutine.cr_await


def _is_closed(coroutine: Any) -> bool:
    if isinstance(coroutine, GreenletCoroutine):
        return coroutine.is_closed
    return coroutine.cr_frame is None


def _keep_for_ever(coroutine: object) -> None:
    """Keep code that swallowed its end from ever being collected.

    The collector would try to close it again, at any time and in any thread, outside of this loop: there, an endless
    ``try … except BaseException`` never waits, so it would never give the thread back. A plain reference would not last
    to the end of the process.
    """
    import ctypes  # noqa: PLC0415 - rarely needed, and takes time to load

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))
