"""The tasks and futures of workflow code.

Both belong to one run: whatever other code does with them is refused before it has any effect.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")


#: What `gather` and `TaskGroup` ask each task, some of it twice: half the time of one that takes any arguments, and so
#: 3 % of a replay of a thousand tasks.
_WITHOUT_ARGUMENTS: Final = frozenset({"done", "cancelled", "result", "exception"})


def _owned(method: Any) -> Any:
    """Return the method of a task or future for the code of its own run, or for the engine, only."""
    use = f"{method.__name__}()" if method.__name__ != "__await__" else "await"

    if method.__name__ in _WITHOUT_ARGUMENTS:

        @functools.wraps(method)
        def quickly_checked(self: Any) -> Any:
            loop = self._loop
            if not loop.is_open:
                loop.check_reached(self, use)
            return method(self)

        return quickly_checked

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


class _Probe:
    """Sees what a task gives to its loop; it is as much of a loop as a task needs to be made."""

    step: Any = None

    def call_soon(self, callback: Any, *_args: Any, **_options: Any) -> Any:
        """Keep the callback."""
        self.step = callback

    def get_debug(self) -> bool:
        """Return False."""
        return False


def _class_of_steps() -> type[Any]:
    async def nothing() -> None: ...

    probe: Any = _Probe()
    coroutine = nothing()
    task: Any = asyncio.Task(coroutine, loop=probe)
    task._log_destroy_pending = False
    coroutine.close()
    found: type[Any] = probe.step.__class__
    return found


#: What asyncio's tasks give to `call_soon` for their first step, as ``__self__`` says for which task.
TASK_STEP: Final = _class_of_steps()


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
