"""Plain code that waits: a coroutine on a greenlet of its own can be suspended in the middle of a function call.

That is how a `def` workflow sleeps without holding a thread, and how a `def` step is "just called" in `async def` code.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Protocol, TypeVar, cast

from greenlet import getcurrent, greenlet

T = TypeVar("T")


class NeedsGreenletsError(BaseException):
    """A blocking call was made in a run without greenlets. The worker starts the run's code anew, with them."""


class GreenletCoroutine(Coroutine[Any, Any, T]):
    """A coroutine that executes on a greenlet of its own, so that plain functions inside it can `block_on` others."""

    __slots__ = ("_coroutine", "_greenlet")

    def __init__(self, coroutine: Coroutine[Any, Any, T], context: contextvars.Context) -> None:
        self._coroutine = coroutine
        self._greenlet = greenlet(self._drive)
        # A new greenlet would start with an empty context; it shares its task's instead.
        self._greenlet.gr_context = context

    def _drive(self, value: Any) -> Any:
        return _drive(self._coroutine, self._coroutine.send(value))

    def send(self, value: Any) -> Any:
        """Resume the coroutine on its greenlet until it waits again."""
        # What it waits for goes to whoever resumes it: the loop, or the task that starts it eagerly.
        self._greenlet.parent = getcurrent()
        return self._greenlet.switch(value)

    def throw(self, *error: Any) -> Any:
        """Raise inside the coroutine, or inside the plain function in which it is blocked."""
        if not self._greenlet and not self._greenlet.dead:  # not started yet
            return self._coroutine.throw(*error)
        self._greenlet.parent = getcurrent()
        return self._greenlet.throw(*error)

    def executes_on(self, current: greenlet) -> bool:
        """Tell whether `current` is the greenlet of this coroutine."""
        return self._greenlet is current

    def close(self) -> None:
        """Close the coroutine; where a plain function is blocked inside it, leave that with GreenletExit."""
        if self._greenlet:
            self._greenlet.throw()
        else:
            self._coroutine.close()

    @property
    def is_closed(self) -> bool:
        """Tell whether nothing of the greenlet is left to be executed."""
        return not self._greenlet

    @property
    def inner(self) -> Coroutine[Any, Any, T]:
        """The coroutine that executes on the greenlet."""
        return self._coroutine

    # What `inspect.getcoroutinestate` looks at; anyio asks whether a task has started.

    @property
    def cr_running(self) -> bool:
        """Tell whether the coroutine executes, or is blocked inside a plain function."""
        return bool(cast("Any", self._coroutine).cr_running)

    @property
    def cr_suspended(self) -> bool:
        """Tell whether the coroutine has begun and waits."""
        return bool(cast("Any", self._coroutine).cr_suspended)

    @property
    def cr_frame(self) -> Any:
        """The coroutine's frame, None once it has ended."""
        return cast("Any", self._coroutine).cr_frame

    def __await__(self) -> Generator[Any, Any, T]:
        """Be awaitable like any coroutine."""
        return self._coroutine.__await__()


def _drive(coroutine: Coroutine[Any, Any, Any], yielded: Any) -> Any:
    """Carry on a coroutine from inside a greenlet, handing what it waits for to the greenlet's parent."""
    itself = getcurrent()
    while True:
        try:
            value = cast("greenlet", itself.parent).switch(yielded)
        except BaseException as error:  # noqa: BLE001 - whatever is thrown in belongs to the coroutine
            yielded = coroutine.throw(error)
        else:
            yielded = coroutine.send(value)


#: Where an exception that a plain function waits for is raised inside its greenlet; innermost in its traceback.
RAISING: Final = _drive.__code__


class BlockableCall:
    """A callback on a greenlet of its own, so that it may wait in the middle, as a call that takes its time does."""

    __slots__ = ("_context", "_greenlet")

    def __init__(self, callback: Callable[..., Any], context: contextvars.Context) -> None:
        self._greenlet = greenlet(callback)
        self._greenlet.gr_context = self._context = context

    def start(self, args: tuple[Any, ...]) -> bool:
        """Call the callback; return whether it waits."""
        return self._wait(self._greenlet.switch(*args))

    def resume(self, _future: object = None) -> None:
        """Go on with the callback: what it waited for has come about."""
        self._greenlet.parent = getcurrent()
        self._wait(self._greenlet.switch(None))

    def _wait(self, awaited: Any) -> bool:
        """Do what a task does with what its coroutine yields."""
        if not self._greenlet:
            return False
        awaited._asyncio_future_blocking = False
        awaited.add_done_callback(self.resume, context=self._context)
        return True

    @property
    def is_blocked(self) -> bool:
        """Tell whether the callback still waits."""
        return bool(self._greenlet)

    def close(self) -> None:
        """Leave the callback with GreenletExit where it waits."""
        if self._greenlet:
            self._greenlet.parent = getcurrent()
            self._greenlet.throw()


class TaskLoop(Protocol):
    """A loop that knows its tasks."""

    def unfinished_tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that have not ended."""
        ...


def block_on(coroutine: Coroutine[Any, Any, T], loop: TaskLoop) -> T:
    """Wait for a durable operation from plain code inside a run, letting the other tasks of its loop go on.

    Raises `NeedsGreenletsError` where the current code does not execute on a greenlet.
    """
    itself = getcurrent()
    if itself.parent is None:
        coroutine.close()
        raise NeedsGreenletsError
    inner = asyncio.current_task(cast("asyncio.AbstractEventLoop", loop))
    if inner is None or _executes_on(inner, itself):
        return _block_on(coroutine)
    # A task of asyncio's own class, which has no greenlet. It was started eagerly, by the task that has this one, or it
    # executes on that of a callback. While the greenlet waits, asyncio must not take it for the current one.
    outer = next((task for task in loop.unfinished_tasks() if _executes_on(task, itself)), None)
    _make_current(loop, outer)
    try:
        return _block_on(coroutine)
    finally:
        _make_current(loop, inner)


def _block_on(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return cast("T", _drive(coroutine, coroutine.send(None)))
    except StopIteration as end:
        return cast("T", end.value)


def _executes_on(task: asyncio.Task[Any], itself: greenlet) -> bool:
    coroutine: Any = task.get_coro()
    return coroutine.__class__ is GreenletCoroutine and coroutine.executes_on(itself)


def _make_current(loop: Any, task: asyncio.Task[Any] | None) -> None:
    """Make a task the one that asyncio takes for the current one of a loop."""
    functions: Any = asyncio.tasks
    current = asyncio.current_task(loop)
    if current is not None:
        functions._leave_task(loop, current)
    if task is not None:
        functions._enter_task(loop, task)


def forget_current_task(loop: TaskLoop) -> None:
    """Have asyncio keep nothing of a loop whose code was closed while it waited."""
    _make_current(loop, None)
