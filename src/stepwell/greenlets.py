"""Plain code that waits: a coroutine on a greenlet of its own can be suspended in the middle of a function call.

That is how a `def` workflow sleeps without holding a thread, and how a `def` step is "just called" in `async def` code.
"""

from __future__ import annotations

import contextvars
from collections.abc import Coroutine, Generator
from typing import Any, Final, TypeVar, cast

from greenlet import getcurrent, greenlet

T = TypeVar("T")


class NeedsGreenletsError(BaseException):
    """A blocking call was made in a run without greenlets. The worker starts the run's code anew, with them."""


class GreenletCoroutine(Coroutine[Any, Any, T]):
    """A coroutine that executes on a greenlet of its own, so that plain functions inside it can `block_on` others."""

    __slots__ = ("_coroutine", "_greenlet")

    def __init__(self, coroutine: Coroutine[Any, Any, T], context: contextvars.Context, hub: greenlet) -> None:
        self._coroutine = coroutine
        # The hub is the greenlet that drains the loop; by default it would be whichever task made this one.
        self._greenlet = greenlet(self._drive, hub)
        # A new greenlet would start with an empty context; it shares its task's instead.
        self._greenlet.gr_context = context

    def _drive(self, value: Any) -> Any:
        return _drive(self._coroutine, self._coroutine.send(value))

    def send(self, value: Any) -> Any:
        """Resume the coroutine on its greenlet until it waits again."""
        return self._greenlet.switch(value)

    def throw(self, *error: Any) -> Any:
        """Raise inside the coroutine, or inside the plain function in which it is blocked."""
        if not self._greenlet and not self._greenlet.dead:  # not started yet
            return self._coroutine.throw(*error)
        return self._greenlet.throw(*error)

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
    switch = cast("greenlet", getcurrent().parent).switch
    while True:
        try:
            value = switch(yielded)
        except BaseException as error:  # noqa: BLE001 - whatever is thrown in belongs to the coroutine
            yielded = coroutine.throw(error)
        else:
            yielded = coroutine.send(value)


def block_on(coroutine: Coroutine[Any, Any, T]) -> T:
    """Wait for a durable operation from plain code inside a run, letting the run's other tasks go on.

    Raises `NeedsGreenletsError` where the current task does not execute on a greenlet.
    """
    if getcurrent().parent is None:
        coroutine.close()
        raise NeedsGreenletsError
    try:
        return cast("T", _drive(coroutine, coroutine.send(None)))
    except StopIteration as end:
        return cast("T", end.value)


#: Where an exception that a plain function waits for is raised inside its greenlet; innermost in its traceback.
RAISING: Final = _drive.__code__
