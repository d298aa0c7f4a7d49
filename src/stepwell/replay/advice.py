"""What to write instead: notes on errors of Python that come from a mistake about steps.

Calling a ``def`` step waits for its result, in ``async def`` code as well. So ``await ship(order)`` awaits the result,
and ``gather(ship(a), ship(b))`` gets two results; Python and asyncio then complain about an ``int``, and know no step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, cast

from stepwell.definitions.definition import is_durable

#: How Python 3.11 to 3.14 and asyncio say that something is no awaitable.
_NOT_AWAITABLE: Final = re.compile(
    r"can't be used in 'await' expression|object can't be awaited|awaitable is required"
    r"|a coroutine was expected|has no attribute 'add_done_callback'"
)


def advise(error: BaseException, blocking: str | None) -> None:
    """Add a note to an error of workflow code, and to those in its group, that awaiting a result may have led to.

    `blocking` is the ``def`` step or workflow that the code called last, None where it called none.
    """
    if blocking is None:
        return
    if isinstance(error, BaseExceptionGroup):
        for inner in _members(error):
            advise(inner, blocking)
    elif isinstance(error, (TypeError, AttributeError)) and _NOT_AWAITABLE.search(str(error)):
        name = blocking.rpartition(".")[2]
        error.add_note(
            f"{blocking!r} is a `def`: calling it in workflow code waits for it and returns its result, so there is "
            f"nothing to await. Call it without `await`; or, to have it go on beside other things, write `await "
            f"asyncio.to_thread({name}, …)`, as in `asyncio.gather(asyncio.to_thread({name}, 1), …)`, or "
            f"`await stepwell.map({name}, items)`"
        )


def _members(group: Any) -> Iterable[BaseException]:
    return cast("Iterable[BaseException]", group.exceptions)


def not_for_a_thread(function: object) -> str:
    """Say what to write instead of ``asyncio.to_thread(function)`` in workflow code."""
    if is_durable(function):
        name = function.name.rpartition(".")[2]
        return f"{function!r} is an `async def`, which needs no thread: write `await {name}(…)`, not asyncio.to_thread"
    if not callable(function):
        return (
            f"asyncio.to_thread() in workflow code was given {type(function).__name__} and no function: write "
            "`asyncio.to_thread(step, argument)`, without calling the step"
        )
    name = getattr(function, "__qualname__", repr(function))
    return (
        f"asyncio.to_thread({name}) in workflow code: only a `def` step can be called in a thread; decorate the "
        "function with @step"
    )
