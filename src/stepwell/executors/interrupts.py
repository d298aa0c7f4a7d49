"""Exceptions that are about the process, and surface in whichever step happens to compute in its main thread.

Python calls signal handlers in the main thread, between two instructions of whatever executes there: Ctrl-C raises
`KeyboardInterrupt`, a handler for SIGTERM calls `sys.exit`. Where that is an async step on the caller's event loop, the
step has neither failed nor ended. It was cut off, as by the death of the process, and the process is to end.
"""

from __future__ import annotations

import functools
import signal
import threading
from types import CodeType, FunctionType, MethodType
from typing import Any, cast


def ends_process(error: BaseException) -> BaseException | None:
    """Return what is to end this process, where an exception that came out of a step says that it shall; else None.

    To be asked on the thread on which the step was executed. In any thread but the main one an exception is the step's
    own, `SystemExit` as well: no signal handler is called there, and `sys.exit` does not end the process.

    asyncio lets only `SystemExit` and `KeyboardInterrupt` out of an event loop. What else a handler raised ends the
    process with exit code 1, as it would have where it had reached the end of the program.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return None
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return error
    if not _raised_by_handler(error):
        return None
    end = SystemExit(1)
    end.__cause__ = error
    return end


def _raised_by_handler(error: BaseException) -> bool:
    """Tell whether a signal handler that is still installed is among the functions through which an exception came."""
    codes = _handler_codes()
    return bool(codes) and _came_through(error, codes)


def _came_through(error: BaseException, codes: set[CodeType]) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return any(_came_through(member, codes) for member in group.exceptions)
    return False


def _handler_codes() -> set[CodeType]:
    """Return the code of the installed signal handlers that are written in Python.

    `default_int_handler` is not, and raises `KeyboardInterrupt`.
    """
    codes: set[CodeType] = set()
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while isinstance(handler, functools.partial):
            handler = handler.func
        if not isinstance(handler, (FunctionType, MethodType)):  # an object that can be called, a number, or None
            handler = getattr(cast("Any", type(handler)), "__call__", None)  # noqa: B004 - its code is looked at
        code = getattr(handler, "__code__", None)
        if isinstance(code, CodeType):
            codes.add(code)
    return codes
