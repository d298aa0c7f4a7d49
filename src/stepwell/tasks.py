"""The tasks and futures of workflow code, and how what they execute is closed without letting it act.

Both belong to one run: whatever other code does with them is refused before it has any effect.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

from stepwell.greenlets import GreenletCoroutine

T = TypeVar("T")

#: How often code is closed that waits on its way out before it is taken for an endless loop.
MAX_CLOSES: Final = 10


def _owned(method: Any) -> Any:
    """Return the method of a task or future for the code of its own run, or for the engine, only."""
    use = f"{method.__name__}()" if method.__name__ != "__await__" else "await"

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        loop = self._loop
        if not loop.is_open:
            loop.check_reached(self, use)
        return method(self, *args, **kwargs)

    return checked


_Future: Final[Any] = asyncio.Future
_Task: Final[Any] = asyncio.Task
#: Whether a task has ended, for the engine: a task's own method is for the code of its run.
is_done: Final[Callable[[asyncio.Task[Any]], bool]] = _Task.done


class WorkflowFuture(asyncio.Future[T]):
    """What `create_future` of a run's loop returns."""

    __slots__ = ()

    set_result = _owned(_Future.set_result)
    set_exception = _owned(_Future.set_exception)
    cancel = _owned(_Future.cancel)
    done = _owned(_Future.done)
    cancelled = _owned(_Future.cancelled)
    result = _owned(_Future.result)
    exception = _owned(_Future.exception)
    add_done_callback = _owned(_Future.add_done_callback)
    remove_done_callback = _owned(_Future.remove_done_callback)
    __await__ = _owned(_Future.__await__)


class WorkflowTask(asyncio.Task[T]):
    """A task whose hash is the same in every replay, so that sets of tasks iterate in the same order."""

    __slots__ = ("_stable_hash",)

    cancel = _owned(_Task.cancel)
    done = _owned(_Task.done)
    cancelled = _owned(_Task.cancelled)
    result = _owned(_Task.result)
    exception = _owned(_Task.exception)
    add_done_callback = _owned(_Task.add_done_callback)
    remove_done_callback = _owned(_Task.remove_done_callback)
    __await__ = _owned(_Task.__await__)

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
