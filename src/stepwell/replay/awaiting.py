"""What a suspended coroutine, generator or async generator awaits, as far as that can be asked without harm.

In CPython 3.11 and 3.12 ``cr_await`` and its like look at the instruction after the one under way, and take a value
from the frame's stack where that is a RESUME. While the code executes, the word there may be the counter of a call
instead, which at times has the number of a RESUME, and the stack is not kept up: what comes is no object, and the
process dies. A coroutine that is blocked in a plain call, on a greenlet that waits, is such code.
"""

from __future__ import annotations

import gc
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, cast

SUSPENDED: Final[tuple[Any, ...]] = (CoroutineType, GeneratorType, AsyncGeneratorType)
#: What stands between a coroutine and the generator, or the coroutine, that it awaits, and does not say what that is.
_BETWEEN: Final = ("async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper")


def awaited_by(suspended: Any) -> Any:
    """Return what a coroutine or generator awaits; None where that is nothing, cannot be told, or it executes."""
    match suspended:
        case CoroutineType():
            return None if suspended.cr_running else suspended.cr_await
        case GeneratorType():
            return None if suspended.gi_running else cast("Any", suspended).gi_yieldfrom
        case AsyncGeneratorType():
            return None if _executes(suspended) else suspended.ag_await
        case _ if type(suspended).__name__ in _BETWEEN:
            return next((each for each in gc.get_referents(suspended) if isinstance(each, SUSPENDED)), None)
        case _:  # a coroutine of Cython's, say
            return getattr(suspended, "cr_await", None)


def _executes(generator: Any) -> bool:
    """Tell whether the code of an async generator executes: its ``ag_running`` says that something awaits it."""
    suspended = getattr(generator, "ag_suspended", None)
    if suspended is not None:
        return not suspended  # what has not begun awaits nothing either
    frame = generator.ag_frame  # Python 3.11
    return frame is not None and frame.f_back is not None
